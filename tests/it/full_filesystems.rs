//! File systems without room, for logs and for named segments. Each test runs in a process with
//! mounts of its own, which no other process sees.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use crate::common::*;
use crate::limits::settled_footprint;
use slipring::ErrorKind;

/// Runs the test once more as root of a user namespace with mounts of its own. Returns true in that
/// process, and false in the process that waited for it.
pub(crate) fn with_own_mounts(name: &str) -> bool {
    if is_rerun(name) {
        return true;
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]);
        command
    };
    if !unshare().arg("true").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: {name}, this user cannot have mounts of its own");
        return false;
    }
    let inner = rerun_command(name);
    let envs = inner.get_envs().map(|(name, value)| (name, value.unwrap()));
    let output =
        unshare().arg(inner.get_program()).args(inner.get_args()).envs(envs).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {}\n{text}\n{errors}", output.status);
    print!("{text}");
    false
}

/// Mounts a file system with these limits over a directory.
pub(crate) fn mount(directory: &Path, options: &str) {
    let target = CString::new(directory.as_os_str().as_bytes()).unwrap();
    let options = CString::new(options).unwrap();
    let kind = c"tmpfs".as_ptr();
    // SAFETY: NUL-terminated strings that are only read; it concerns this namespace alone.
    #[allow(unsafe_code, reason = "mount")]
    let mounted = unsafe { libc::mount(kind, target.as_ptr(), kind, 0, options.as_ptr().cast()) };
    assert_eq!(mounted, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_log_that_finds_no_room_costs_what_is_written_and_nothing_else() {
    if !with_own_mounts(name_of(a_log_that_finds_no_room_costs_what_is_written_and_nothing_else)) {
        return;
    }
    let dir = temp_dir("full-log");
    mount(&dir, "size=64k");
    let channel = in_4_kib().log_dir(&dir).spawn().unwrap();
    channel.call(PRINT, "the first line", LONG).unwrap();
    let mut refused = 0;
    for _ in 0..20 {
        // `println!` panics when it cannot write, which is an error of its call.
        if let Err(error) = channel.call(PRINT, "x".repeat(30_000).as_str(), LONG) {
            assert_eq!(error.kind(), ErrorKind::HandlerFailed, "{error}");
            assert!(error.to_string().contains("No space left on device"), "{error}");
            refused += 1;
        }
    }
    assert!(refused >= 18, "{refused}");
    let written = std::fs::read(channel.log_path().unwrap()).unwrap();
    assert_eq!(written.len(), 64 << 10, "all that there is room for");
    assert_usable(&channel);
    let error = channel.call(RAISE, &[libc::SIGKILL as u8], LONG).unwrap_err();
    let tail = error.death().unwrap().log_tail().unwrap();
    assert!(tail.ends_with("xxxx"), "{tail}");
    eventually("its cause is known", || channel.exit_cause().is_some());
}

#[test]
fn a_log_that_cannot_be_made_is_an_error_and_nothing_is_left_behind() {
    if !with_own_mounts(name_of(a_log_that_cannot_be_made_is_an_error_and_nothing_is_left_behind)) {
        return;
    }
    in_4_kib().spawn().unwrap().close(LONG).unwrap();
    let dir = temp_dir("no-inode");
    // One file: the directory itself.
    mount(&dir, "nr_inodes=1");
    let baseline = settled_footprint();
    let error = in_4_kib().log_dir(&dir).spawn().map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Os, "{error}");
    assert!(error.to_string().contains(dir.to_str().unwrap()), "{error}");
    baseline.assert_restored("a log without room");
    assert_usable(&in_4_kib().spawn().unwrap());
}

#[cfg(feature = "named")]
#[test]
fn named_segments_that_find_no_room_are_an_error_and_leave_nothing() {
    if !with_own_mounts(name_of(named_segments_that_find_no_room_are_an_error_and_leave_nothing)) {
        return;
    }
    let shm = Path::new("/dev/shm");
    let left = || std::fs::read_dir(shm).unwrap().count();
    let mut refused = 0;
    for room in ["64k", "4m", "8m"] {
        mount(shm, &format!("size={room}"));
        let baseline = footprint();
        let error = slipring::named::create("full", &slipring::Config::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Os, "{room}: {error}");
        assert!(error.to_string().contains("/dev/shm"), "{error}");
        baseline.assert_restored("segments without room");
        assert_eq!(left(), 0, "{room}: {error}");
        refused += 1;
    }
    assert_eq!(refused, 3);
    // With room it works up to the last byte, as all of it was reserved.
    mount(shm, "size=16m");
    let host = slipring::named::create("full", &slipring::Config::default()).unwrap();
    let filler = vec![0; 64 << 20];
    let _ = std::fs::write(shm.join("filler"), filler);
    let child = named::attach("full", "worker_entry");
    let mut host = host;
    let channel = host.accept(LONG).unwrap();
    named::reap(child);
    let bytes = pattern(1, 900 << 10);
    for _ in 0..16 {
        let reply = channel.call(BIG, &encode(&[bytes.len() as u64]), LONG).unwrap();
        assert_eq!(reply.len(), bytes.len());
        assert!(channel.call(SUM, &bytes, LONG).is_ok());
    }
    channel.close(LONG).unwrap();
}
