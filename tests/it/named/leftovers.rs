//! Left-over segments, and segments that are none.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};

use slipring::Config;
use slipring::named::{self, Stale};

use crate::common::named::{fresh_name, segment, start};
use crate::common::*;

fn stale(name: &str) -> Option<Stale> {
    named::stale().unwrap().into_iter().find(|stale| stale.name() == name)
}

fn is_there(name: &str, side: &str) -> bool {
    fs::exists(segment(name, side)).unwrap()
}

/// Changes the segments as if an earlier process with this process id had made them.
fn forge_start_time(name: &str) {
    for side in ["down", "up"] {
        let file = OpenOptions::new().read(true).write(true).open(segment(name, side)).unwrap();
        let mut start = [0; 8];
        file.read_exact_at(&mut start, 2064).unwrap();
        let earlier = u64::from_le_bytes(start) - 1;
        file.write_all_at(&earlier.to_le_bytes(), 2064).unwrap();
    }
}

#[test]
fn a_process_that_got_the_makers_id_later_does_not_keep_its_segments() {
    let name = fresh_name();
    let host = named::create(&name, &Config::small()).unwrap();
    assert!(stale(&name).is_none());
    forge_start_time(&name);
    let found = stale(&name).unwrap();
    assert_eq!(found.pid(), Some(std::process::id()));
    let len = |side| fs::metadata(segment(&name, side)).unwrap().len();
    assert_eq!(found.bytes(), len("down") + len("up"));
    found.remove().unwrap();
    assert!(stale(&name).is_none());

    // The host must not remove the names of its successor.
    let successor = named::create(&name, &Config::small()).unwrap();
    drop(host);
    assert!(is_there(&name, "down") && is_there(&name, "up"));
    // Nor must a list that was made before.
    found.remove().unwrap();
    assert!(is_there(&name, "down") && is_there(&name, "up"));
    drop(successor);
    assert!(!is_there(&name, "down") && !is_there(&name, "up"));
}

#[test]
fn channels_whose_maker_lives_are_never_listed() {
    let (mut host, mut child) = start(&Config::small(), "worker_entry");
    let channel = host.accept(LONG).unwrap();
    assert!(stale(channel.role()).is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("it is noticed", || !channel.is_alive());
    assert!(stale(channel.role()).is_none());
}

#[test]
fn what_this_library_has_not_made_is_not_listed() {
    let name = fresh_name();
    let down = segment(&name, "down");
    for bytes in [pattern(3, 10), pattern(4, 10_000), vec![]] {
        fs::write(&down, &bytes).unwrap();
        fs::set_permissions(&down, Permissions::from_mode(0o600)).unwrap();
        // An empty segment may be in the making.
        assert!(stale(&name).is_none(), "{} bytes", bytes.len());
        let taken = named::create(&name, &Config::small());
        assert!(taken.unwrap_err().to_string().contains("has not made"));
        assert!(!is_there(&name, "up"), "the segment that was made first is gone again");
    }
    fs::remove_file(&down).unwrap();
}
