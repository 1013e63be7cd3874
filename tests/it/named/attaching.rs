//! A worker refuses segments that are not as they must be, and names both values.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::{Duration, Instant};

use slipring::named::{self, NamedHost};
use slipring::{Config, ErrorKind};

use crate::common::named::{attach, fresh_name, segment, start};
use crate::common::*;

const AT_ONCE: Duration = Duration::from_millis(50);

fn host() -> (NamedHost, String) {
    let host = named::create(&fresh_name(), &Config::small()).unwrap();
    let name = host.name().to_owned();
    (host, name)
}

fn file(name: &str, side: &str) -> File {
    OpenOptions::new().read(true).write(true).open(segment(name, side)).unwrap()
}

/// Returns why a worker refuses the channel `name`.
fn refusal(name: &str) -> String {
    let error = worker().serve_named(name, AT_ONCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    error.to_string()
}

fn assert_refused(name: &str, parts: &[&str]) {
    let why = refusal(name);
    for part in parts {
        assert!(why.contains(part), "{part:?} is not in {why:?}");
    }
}

/// Writes these bytes, checks that a worker refuses the channel, and restores the bytes.
fn assert_refused_with(name: &str, at: u64, bytes: &[u8], parts: &[&str]) {
    let file = file(name, "down");
    let mut before = vec![0; bytes.len()];
    file.read_exact_at(&mut before, at).unwrap();
    file.write_all_at(bytes, at).unwrap();
    assert_refused(name, parts);
    file.write_all_at(&before, at).unwrap();
}

#[test]
fn a_channel_that_does_not_come_is_waited_for_and_then_named() {
    let start = Instant::now();
    let error = worker().serve_named(&fresh_name(), Duration::from_millis(100)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Handshake);
    assert!(error.to_string().contains("no process has made it"), "{error}");
    assert!(start.elapsed() >= Duration::from_millis(100));
}

#[test]
fn a_worker_may_come_before_its_channel() {
    let name = fresh_name();
    let mut child = attach(&name, "worker_entry");
    std::thread::sleep(Duration::from_millis(100));
    let mut host = named::create(&name, &Config::default()).unwrap();
    let channel = host.accept(LONG).unwrap();
    assert_usable(&channel);
    channel.close(LONG).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_second_worker_is_refused_and_the_first_does_not_notice() {
    let (mut host, mut child) = start(&Config::small(), "worker_entry");
    let channel = host.accept(LONG).unwrap();
    assert_refused(host.name(), &[&child.id().to_string(), "attached", "none"]);
    assert_usable(&channel);
    channel.close(LONG).unwrap();
    child.wait().unwrap();
    assert_refused(host.name(), &["attached", "expected none"]);
}

#[test]
fn files_that_others_can_open_are_refused() {
    let (_host, name) = host();
    for side in ["down", "up"] {
        let set = |mode| fs::set_permissions(segment(&name, side), Permissions::from_mode(mode));
        set(0o640).unwrap();
        assert_refused(&name, &["mode 0640", "0700", side]);
        set(0o602).unwrap();
        assert_refused(&name, &["mode 0602"]);
        set(0o600).unwrap();
    }
}

#[test]
fn files_of_another_user_are_refused() {
    let (_host, name) = host();
    // Only root can give a file away.
    if std::os::unix::fs::chown(segment(&name, "down"), Some(12_345), None).is_ok() {
        assert_refused(&name, &["user 12345", "expected 0"]);
    }
}

#[test]
fn what_is_no_plain_file_is_refused() {
    let name = fresh_name();
    std::os::unix::fs::symlink("/dev/zero", segment(&name, "down")).unwrap();
    assert_refused(&name, &["symbolic link", "plain file"]);
    fs::remove_file(segment(&name, "down")).unwrap();
    fs::create_dir(segment(&name, "down")).unwrap();
    assert_refused(&name, &["directory", "plain file"]);
    fs::remove_dir(segment(&name, "down")).unwrap();
}

#[test]
fn other_sizes_are_refused() {
    let (_host, name) = host();
    for side in ["down", "up"] {
        let file = file(&name, side);
        let len = file.metadata().unwrap().len();
        // Only a longer file is tried, as this process has mapped its pages.
        file.set_len(len + 4096).unwrap();
        assert_refused(&name, &[&len.to_string(), &(len + 4096).to_string()]);
        file.set_len(len).unwrap();
    }
    let name = fresh_name();
    fs::write(segment(&name, "down"), "short").unwrap();
    fs::set_permissions(segment(&name, "down"), Permissions::from_mode(0o600)).unwrap();
    assert_refused(&name, &["5 bytes", "4096"]);
    fs::remove_file(segment(&name, "down")).unwrap();
}

#[test]
fn other_versions_and_garbage_are_refused_and_do_no_harm() {
    let (mut host, name) = host();
    assert_refused_with(&name, 0, b"GARBAGE!", &["magic", "0x474e495250494c53"]);
    assert_refused_with(&name, 8, &[9, 0, 0, 0], &["layout version 9", "speaks 2"]);
    assert_refused_with(&name, 12, &[2, 0, 0, 0], &["side 2", "side 1"]);
    assert_refused_with(&name, 32, &[1], &["features 0x1", "knows 0x0"]);
    let long = u64::MAX.to_le_bytes();
    assert_refused_with(&name, 40, &long, &[&u64::MAX.to_string()]);
    assert_refused_with(&name, 48, &long, &["data ring"]);
    assert_refused_with(&name, 2048, b"GARBAGE!", &["magic", "0x454d414e50494c53"]);
    assert_refused_with(&name, 2056, &[7, 0, 0, 0], &["named version 7", "speaks 1"]);
    assert_refused_with(&name, 2072, &[1; 8], &["pid namespace", "72340172838076673"]);
    assert_refused_with(&name, 2096, b"musl", &["musl", "glibc"]);
    assert_refused_with(&name, 2160, &[1], &["reserved"]);
    assert_refused_with(&name, 2168, &[3], &["state 3", "expected 0 to 2"]);
    let down = file(&name, "down");
    let mut before = vec![0; 4096];
    down.read_exact_at(&mut before, 0).unwrap();
    for seed in 0..20 {
        down.write_all_at(&pattern(seed, 4096), 0).unwrap();
        refusal(&name);
    }
    down.write_all_at(&before, 0).unwrap();
    // The channel works once the bytes are restored.
    let mut child = attach(&name, "worker_entry");
    let channel = host.accept(LONG).unwrap();
    assert_usable(&channel);
    channel.close(LONG).unwrap();
    child.wait().unwrap();
}

#[test]
fn segments_of_two_channels_are_not_taken_together() {
    let (_one, name) = host();
    let (_two, other) = host();
    fs::rename(segment(&name, "up"), segment(&name, "up.kept")).unwrap();
    fs::rename(segment(&other, "up"), segment(&name, "up")).unwrap();
    let error = worker().serve_named(&name, AT_ONCE).unwrap_err();
    assert!(error.to_string().contains("different channels"), "{error}");
    fs::remove_file(segment(&name, "up")).unwrap();
    fs::rename(segment(&name, "up.kept"), segment(&name, "up")).unwrap();
}

#[test]
fn a_worker_that_ends_while_it_attaches_is_told_of() {
    let (mut host, name) = host();
    let mut gone = std::process::Command::new("/bin/true").spawn().unwrap();
    gone.wait().unwrap();
    let up = file(&name, "up");
    up.write_all_at(&5_u64.to_le_bytes(), 2184).unwrap();
    up.write_all_at(&gone.id().to_le_bytes(), 2176).unwrap();
    let error = host.accept(LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Handshake);
    assert!(error.to_string().contains(&gone.id().to_string()), "{error}");
}
