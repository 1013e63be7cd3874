//! Recordings of named channels.

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
    let records: Vec<Record> = reader.map(Result::unwrap).collect();
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
