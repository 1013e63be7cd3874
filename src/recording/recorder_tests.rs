use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::protocol::Kind;
use crate::recording::reader::{ReadEnd, RecordingReader};
use crate::recording::record::{Event, Record};
use crate::recording::testing::{Memory, begin};

/// A timeout that passes only if something hangs.
const LONG: Duration = Duration::from_secs(60);

struct Rig {
    recorder: Recorder,
    memory: Memory,
    is_known: Arc<AtomicBool>,
}

fn rig(limit: usize) -> Rig {
    let (memory, info) = begin(1 << 20, (Payloads::Whole, Payloads::Whole));
    let is_known = Arc::new(AtomicBool::new(false));
    let known = Arc::clone(&is_known);
    let ask_end: AskEnd = Box::new(move |gives_up| {
        (known.load(Ordering::Relaxed) || gives_up).then(|| Ending {
            how: EndKind::Died,
            exit: (2, 11),
            message: "killed".to_owned(),
        })
    });
    let recorder = Recorder::start(memory.clone(), "p".into(), &info, limit, ask_end).unwrap();
    Rig { recorder, memory, is_known }
}

fn header(request: u64) -> Header {
    Header { kind: Kind::EMBED.code(), request, ..Header::default() }
}

fn records(memory: &Memory) -> Vec<Record> {
    let mut reader = RecordingReader::of_bytes(memory.bytes()).unwrap();
    let records = reader.by_ref().map(Result::unwrap).collect();
    assert_eq!(reader.end(), ReadEnd::Whole);
    records
}

fn flush(recorder: &Recorder) {
    recorder.flush(Instant::now() + LONG);
}

#[test]
fn frames_are_in_the_file_in_order_after_a_flush() {
    let Rig { recorder, memory, .. } = rig(1 << 20);
    for request in 1..100 {
        recorder.sent(header(request), &request.to_le_bytes());
        recorder.received(header(request), PeerBytes::of(b""));
        recorder.cancelled(request);
    }
    flush(&recorder);
    let records = records(&memory);
    assert_eq!(records.len(), 3 * 99);
    assert!(records.is_sorted_by_key(|record| (record.at, record.index)));
    for (request, three) in (1..100).zip(records.chunks(3)) {
        let [sent, received, cancelled] = three else { panic!() };
        assert!(
            matches!(&sent.event, Event::Request(f) if f.request.get() == request && f.len == 8)
        );
        assert!(matches!(&received.event, Event::Reply(f) if f.request.get() == request));
        assert_eq!(cancelled.event, Event::Cancel(request.into()));
    }
    let stats = recorder.stats();
    assert_eq!((stats.records, stats.lost_frames), (3 * 99, 0));
}

#[test]
fn a_slow_disk_costs_frames_and_no_time() {
    let Rig { recorder, memory, .. } = rig(64 << 10);
    let payload = [7; 1000];
    memory.while_held(|| {
        // The thread that sends does not wait: otherwise this would never end.
        for request in 1..1001 {
            recorder.sent(header(request), &payload);
        }
        let until = Instant::now() + Duration::from_millis(20);
        recorder.flush(until);
        assert!(Instant::now() >= until, "the file is not written yet");
    });
    flush(&recorder);
    recorder.sent(header(1001), b"");
    flush(&recorder);
    let records = records(&memory);
    let lost = recorder.stats().lost_frames;
    assert!((700..1000).contains(&lost), "{lost}");
    assert_eq!(recorder.stats().lost_bytes, 1000 * lost);
    let told = records.iter().map(|record| match record.event {
        Event::Gap { frames, .. } => frames,
        _ => 0,
    });
    assert_eq!(told.sum::<u64>(), lost, "the file says how many");
    let kept = records.iter().filter(|record| matches!(record.event, Event::Request(_)));
    assert_eq!(as_usize(lost) + kept.count(), 1001, "each frame is there or counted");
}

#[test]
fn a_full_disk_costs_frames_which_are_counted() {
    let Rig { recorder, memory, .. } = rig(1 << 20);
    memory.set_limit(memory.bytes().len());
    (1..11).for_each(|request| recorder.sent(header(request), b"payload"));
    flush(&recorder);
    assert_eq!(recorder.stats().lost_frames, 10);
    assert_eq!(records(&memory), []);
    memory.set_limit(usize::MAX);
    recorder.sent(header(11), b"payload");
    flush(&recorder);
    let records = records(&memory);
    assert_eq!(records[0].event, Event::Gap { frames: 10, bytes: 70 });
    assert_eq!(records.len(), 2);
}

#[test]
fn the_end_is_written_once_it_is_known_and_frames_may_follow_it() {
    let Rig { recorder, memory, is_known } = rig(1 << 20);
    recorder.sent(header(1), b"");
    recorder.ended();
    recorder.flush(Instant::now() + Duration::from_millis(20));
    assert_eq!(records(&memory).len(), 1, "nobody knows how it has ended");
    is_known.store(true, Ordering::Relaxed);
    flush(&recorder);
    recorder.received(header(1), PeerBytes::of(b"late"));
    recorder.ended();
    flush(&recorder);
    let records = records(&memory);
    let Event::End(end) = &records[1].event else { panic!("{records:?}") };
    assert_eq!((end.kind, end.message.as_str()), (EndKind::Died, "killed"));
    assert_eq!(end.cause, Some(crate::ExitCause::Signaled(11)));
    assert!(matches!(records[2].event, Event::Reply(_)) && records.len() == 3);
}

#[test]
fn a_frame_that_comes_before_the_end_is_not_taken_for_it_by_a_flush() {
    let Rig { recorder, is_known, .. } = rig(1 << 20);
    recorder.ended();
    std::thread::scope(|scope| {
        let flushed = scope.spawn(|| {
            flush(&recorder);
            recorder.stats().records
        });
        // Whatever comes first of this and the flush: it waits for the end.
        std::thread::sleep(Duration::from_millis(50));
        recorder.cancelled(1);
        while recorder.stats().records == 0 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(50));
        is_known.store(true, Ordering::Relaxed);
        assert_eq!(flushed.join().unwrap(), 2);
    });
}

#[test]
fn what_was_queued_is_written_after_the_recorder_is_dropped() {
    let Rig { recorder, memory, is_known } = rig(1 << 20);
    let shared = Arc::clone(&recorder.shared);
    recorder.sent(header(1), b"");
    drop(recorder);
    is_known.store(true, Ordering::Relaxed);
    let until = Instant::now() + LONG;
    while !shared.queue.lock().is_over {
        assert!(Instant::now() < until, "the thread does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(records(&memory).len(), 2);
}

#[test]
fn a_payload_that_would_take_most_of_the_file_is_left_out_alone() {
    let Rig { recorder, memory, .. } = rig(2 << 20);
    let long = vec![1; recorder.longest + 1];
    recorder.sent(header(1), &long);
    recorder.sent(header(2), &long[1..]);
    flush(&recorder);
    let records = records(&memory);
    let frames = records.iter().map(|record| match &record.event {
        Event::Request(frame) => (as_usize(u64::from(frame.len)), frame.payload.clone()),
        other => panic!("{other:?}"),
    });
    use crate::recording::record::FramePayload::{LeftOut, Whole};
    let wanted = [(long.len(), LeftOut), (long.len() - 1, Whole(long[1..].to_vec()))];
    assert!(frames.eq(wanted));
}
