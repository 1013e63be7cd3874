//! Recordings of named channels, and what others see of such channels.

use std::os::unix::fs::FileExt;

use slipring::inspect::{Options, Verdict};
use slipring::named::{Present, PresentState};
use slipring::recording::{EndKind, Event, Payloads, Record, Recording, RecordingReader};
use slipring::{Config, ErrorKind, ExitCause};

use crate::common::named::{reap, start};
use crate::common::*;

#[test]
fn a_named_channel_is_recorded_up_to_the_death_of_its_worker() {
    let (mut host, child) = start(&Config::small(), "worker_entry");
    let wrong = Recording::in_dir(temp_dir("record-named")).max_bytes(1);
    assert_eq!(host.record(wrong).unwrap_err().kind(), ErrorKind::InvalidConfig);
    host.record(Recording::in_dir(temp_dir("record-named")).replies(Payloads::Hashed)).unwrap();
    let channel = host.accept(LONG).unwrap();
    channel.call(ECHO, b"recorded", LONG).unwrap();
    let path = channel.recording_path().unwrap().to_owned();
    send_signal(child.id(), libc::SIGKILL);
    reap(child);
    assert!(channel.call(ECHO, b"lost", LONG).unwrap_err().is_peer_dead());
    let reader = RecordingReader::open(&path).unwrap();
    let info = reader.info().clone();
    assert_eq!(info.field("role"), Some(host.name()));
    assert_eq!(info.field("worker_pid"), Some(channel.pid().to_string().as_str()));
    assert_eq!(info.config().unwrap().request_ring(), Config::small().request_ring());
    // The recording's own thread writes the end, a moment after the caller knows of it.
    let read =
        || RecordingReader::open(&path).unwrap().map(Result::unwrap).collect::<Vec<Record>>();
    let is_end = |record: &Record| matches!(record.event, Event::End(_));
    eventually("the end is written", || read().iter().any(is_end));
    let records = read();
    let sent = |record: &Record| matches!(&record.event, Event::Request(frame) if frame.len == 8);
    let got = |record: &Record| matches!(&record.event, Event::Reply(frame) if frame.len == 8);
    assert!(records.iter().any(sent) && records.iter().any(got), "{records:?}");
    let ends = records.iter().filter_map(|record| match &record.event {
        Event::End(end) => Some((end.kind, end.cause)),
        _ => None,
    });
    assert!(ends.eq([(EndKind::Died, Some(ExitCause::Unknown))]), "{records:?}");
}

#[test]
fn a_recording_that_cannot_be_made_leaves_the_named_host_as_it_was() {
    let (mut host, child) = start(&Config::small(), "worker_entry");
    host.record(Recording::in_dir("/proc/none")).unwrap();
    assert_eq!(host.accept(LONG).unwrap_err().kind(), ErrorKind::Os);
    host.record(Recording::in_dir(temp_dir("record-named-again"))).unwrap();
    let channel = host.accept(LONG).unwrap();
    reap(child);
    assert_eq!(channel.call(ECHO, b"served", LONG).unwrap().to_vec(), b"served");
}

fn present(name: &str) -> Option<Present> {
    slipring::named::present().unwrap().into_iter().find(|it| it.name == name)
}

#[test]
fn others_see_a_named_channel_from_its_making_to_its_end() {
    let name = crate::common::named::fresh_name();
    let waiting = slipring::named::create(&name, &Config::small()).unwrap();
    let found = present(&name).unwrap();
    assert_eq!((found.state, found.worker_pid), (PresentState::Waiting, None));
    assert_eq!(found.host_pid, std::process::id());
    drop(waiting);
    assert_eq!(present(&name), None);

    let (mut host, child) = start(&Config::small(), "worker_entry");
    let channel = host.accept(LONG).unwrap();
    channel.call(ECHO, b"seen", LONG).unwrap();
    let found = present(host.name()).unwrap();
    assert_eq!((found.state, found.worker_pid), (PresentState::Attached, Some(child.id())));
    let memory = found.inspect(&Options::default()).unwrap();
    let wrong = memory.checks.iter().filter(|check| check.verdict == Verdict::Wrong);
    assert_eq!(wrong.count(), 0, "{memory:?}");
    assert_eq!((memory.id, memory.rings.len()), (found.id, 4));
    assert_eq!(memory.worker.unwrap().served, 1);
    reap(child);
    channel.close(LONG).unwrap();
    assert_eq!(present(host.name()).unwrap().state, PresentState::Detached);
    drop(channel);
    assert_eq!(present(host.name()), None);
    assert_eq!(found.inspect(&Options::default()), None);
}

#[test]
fn garbage_in_the_segments_of_a_name_is_no_channel_and_no_panic() {
    let name = crate::common::named::fresh_name();
    let path = |side: &str| format!("/dev/shm/slipring.{name}.{side}");
    let host = slipring::named::create(&name, &Config::small()).unwrap();
    let found = present(&name).unwrap();
    for (offset, byte) in [(0, 1), (8, 9), (40, 0xFF), (48, 0xFF), (2168, 9)] {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path("down")).unwrap();
        let mut before = [0];
        file.read_exact_at(&mut before, offset).unwrap();
        file.write_all_at(&[byte], offset).unwrap();
        let memory = found.inspect(&Options::default()).unwrap();
        let is_wrong = memory.checks.iter().any(|check| check.verdict == Verdict::Wrong);
        let state = present(&name).unwrap().state;
        assert_ne!(is_wrong, state == PresentState::Unknown, "{offset}: {memory:?}");
        file.write_all_at(&before, offset).unwrap();
    }
    let file = std::fs::OpenOptions::new().write(true).open(path("up")).unwrap();
    file.set_len(100).unwrap();
    let memory = found.inspect(&Options::default()).unwrap();
    assert!(memory.checks.iter().any(|check| check.verdict == Verdict::Wrong), "{memory:?}");
    assert_eq!(present(&name).unwrap().state, PresentState::Waiting);
    drop(host);
}
