//! Where reports are written, how many are kept, and which processes write them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use slipring::CrashReports;

use super::{files, in_new_dir, only_one, written};
use crate::common::*;
use crate::full_filesystems::{mount, with_own_mounts};
use crate::pools::patient;

#[test]
fn no_more_reports_are_kept_than_are_wanted() {
    let reports = in_new_dir("keep").keep(2);
    let other = reports.directory().join("slipring-crash-notes.txt");
    fs::write(&other, "mine").unwrap();
    let spawner = small().crash_reports(reports.clone());
    let mut last = Vec::new();
    for _ in 0..5 {
        let error = spawner.spawn().unwrap().call(EXIT, &[1], LONG).unwrap_err();
        assert!(reports.wait(LONG));
        last.push(error.crash_report().unwrap().to_owned());
    }
    let mut expected = [&last[3..], &[other]].concat();
    expected.sort();
    assert_eq!(files(reports.directory()), expected);
    assert_eq!(reports.written(), 5);
}

/// Lets a worker die, and returns what its error says in place of a path.
fn lost(reports: &CrashReports) -> String {
    let channel = patient().crash_reports(reports.clone()).spawn().unwrap();
    let error = channel.call(EXIT, &[1], LONG).unwrap_err();
    assert_eq!(cause_of(&error), slipring::ExitCause::Exited(1));
    assert!(reports.wait(LONG));
    assert_eq!((reports.written(), error.crash_report()), (0, None));
    let why = reports.last_failure().unwrap();
    let text = error.to_string();
    assert!(text.contains(&format!("; no crash report: {why}")), "{text}");
    why
}

#[test]
fn a_directory_that_cannot_be_written_is_said_and_hurts_nothing() {
    let dir = temp_dir("unwritable");
    let file = dir.join("file");
    fs::write(&file, "").unwrap();
    let below_a_file = CrashReports::in_dir(file.join("reports"));
    assert!(lost(&below_a_file).contains("Not a directory"));
    lost(&below_a_file);
    assert_eq!(below_a_file.lost(), 2);
    let missing = CrashReports::in_dir("/proc/no/such/directory");
    assert!(lost(&missing).contains("No such file or directory"));
    // A loop of links is followed to no end.
    let link = dir.join("loop");
    symlink(&link, &link).unwrap();
    lost(&CrashReports::in_dir(&link));
}

#[test]
fn a_disk_without_room_leaves_no_half_of_a_report() {
    if !with_own_mounts(name_of(a_disk_without_room_leaves_no_half_of_a_report)) {
        return;
    }
    let dir = temp_dir("full");
    mount(&dir, "size=4k");
    let why = lost(&CrashReports::in_dir(&dir));
    assert!(why.contains("No space left on device"), "{why}");
    assert_eq!(files(&dir), Vec::<PathBuf>::new());
}

#[test]
fn a_limit_on_files_ends_neither_the_host_nor_leaves_half_a_report() {
    if !in_a_process_of_its_own(name_of(
        a_limit_on_files_ends_neither_the_host_nor_leaves_half_a_report,
    )) {
        return;
    }
    let limit = libc::rlimit { rlim_cur: 1000, rlim_max: libc::RLIM_INFINITY };
    let reports = in_new_dir("limit");
    let channel = patient().crash_reports(reports.clone()).spawn().unwrap();
    // After the start: memfds have the same limit.
    // SAFETY: a live limit that is only read.
    #[allow(unsafe_code, reason = "setrlimit")]
    let set = unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) };
    assert_eq!(set, 0);
    channel.call(EXIT, &[1], LONG).unwrap_err();
    assert!(reports.wait(LONG));
    let why = reports.last_failure().unwrap();
    assert!(why.contains("File too large"), "{why}");
    assert_eq!(files(reports.directory()), Vec::<PathBuf>::new());
}

#[test]
fn the_environment_names_a_directory_for_hosts_that_name_none() {
    let name = name_of(the_environment_names_a_directory_for_hosts_that_name_none);
    if !is_rerun(name) {
        let dir = temp_dir("environment");
        let output = rerun_command(name).env("SLIPRING_CRASH_REPORTS", &dir).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(files(&dir).len(), 1);
        assert!(CrashReports::from_env().is_none());
        return;
    }
    let reports = CrashReports::from_env().unwrap();
    let error = spawner().spawn().unwrap().call(EXIT, &[1], LONG).unwrap_err();
    only_one(&reports);
    assert!(error.crash_report().unwrap().starts_with(reports.directory()));
    // One of the host's own counts before it.
    let own = in_new_dir("environment-own");
    small().crash_reports(own.clone()).spawn().unwrap().call(EXIT, &[1], LONG).unwrap_err();
    assert_eq!((written(&own).len(), written(&reports).len()), (1, 1));
}

#[test]
fn a_host_that_exits_at_once_leaves_its_report() {
    let name = name_of(a_host_that_exits_at_once_leaves_its_report);
    if is_rerun(name) {
        let dir = std::env::var_os("CRASH_TEST_DIR").unwrap();
        let delay = std::env::var("CRASH_TEST_DELAY").unwrap().parse().unwrap();
        let channel = small().crash_reports(CrashReports::in_dir(dir)).spawn().unwrap();
        channel.call(EXIT, &[1], LONG).unwrap_err();
        std::thread::sleep(Duration::from_micros(delay));
        std::process::exit(0);
    }
    let dir = temp_dir("exits");
    for round in 0..10 {
        let mut command = rerun_command(name);
        let delay = (round * 200).to_string();
        let command = command.env("CRASH_TEST_DIR", &dir).env("CRASH_TEST_DELAY", delay);
        assert!(command.output().unwrap().status.success());
        let files = files(&dir);
        assert_eq!(files.len(), round + 1, "{files:?}");
    }
    for file in files(&dir) {
        serde_json::from_slice::<Value>(&fs::read(&file).unwrap()).unwrap();
    }
}

#[test]
fn a_forked_child_writes_no_report() {
    if !in_a_process_of_its_own(name_of(a_forked_child_writes_no_report)) {
        return;
    }
    let reports = in_new_dir("forked");
    let spawner = small().crash_reports(reports.clone());
    let mut channel = Some(ready(&spawner));
    let pid = channel.as_ref().unwrap().pid();
    in_fork(|| {
        send_signal(pid, libc::SIGKILL);
        while is_running(pid) {
            std::thread::yield_now();
        }
        let channel = channel.take().unwrap();
        let is_refused = is_forked(channel.call(ECHO, b"x", LONG)) && is_forked(spawner.spawn());
        drop(channel);
        // It returns at once, whatever the parent has to write.
        reports.wait(LONG);
        is_refused && reports.written() == 0
    });
    eventually("it is dead", || !channel.as_ref().unwrap().is_alive());
    assert_eq!(only_one(&reports)["worker"]["pid"], pid);
}
