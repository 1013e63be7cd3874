//! A worker that writes anything into every byte that it can write. The parent stays right, in time
//! and bounded, its errors are typed, and its other channels do not notice.
//!
//! These tests have a binary of their own and run one at a time, as they measure the memory of
//! their process.

mod common;
mod hostile;
#[path = "hostile/parent.rs"]
mod parent;
worker_entry!();

use std::collections::BTreeMap;
use std::time::Duration;

use common::*;
use hostile::script::{Place, forgery};
use hostile::{DATA, HEALTH, MARKS, Op, STATUS};
use parent::*;
use slipring::{Config, Error, ErrorKind, Health, StreamTimeouts};

/// Not a test of its own: the hostile worker.
#[test]
fn hostile_entry() {
    if slipring::worker::is_worker() {
        hostile::worker::run();
    }
}

#[test]
fn a_commit_word_that_cannot_be_poisons_the_channel() {
    run_all([
        // The frame looks uncommitted.
        ("commit: last lap", Comes::Ends(ErrorKind::Timeout)),
        ("commit: stale", Comes::Corrupt),
        ("commit: torn", Comes::Corrupt),
        ("commit: both", Comes::Corrupt),
        ("commit: ahead", Comes::Corrupt),
        ("commit: padding", Comes::Corrupt),
        ("commit: high bit", Comes::Corrupt),
        ("commit: one", Comes::Corrupt),
        ("commit: all ones", Comes::Corrupt),
        ("commit again", Comes::Corrupt),
    ]);
}

#[test]
fn a_reply_that_is_not_rung_for_is_found_without_a_timeout() {
    let _alone = one_at_a_time();
    let call = "commit and do not ring";
    within_long(call, || {
        let channel = hostile_spawner().pollable().spawn().unwrap();
        let reply = channel.call(CASE, call, Duration::MAX).unwrap();
        assert_eq!(reply.to_vec(), b"x");
        #[cfg(feature = "async")]
        {
            let channel = slipring::tasks::AsyncChannel::new(channel).unwrap();
            let reply = pollster::block_on(channel.call(CASE, call, Duration::MAX)).unwrap();
            assert_eq!(reply.to_vec(), b"x");
        }
    });
}

#[test]
fn an_impossible_length_poisons_and_one_that_changes_is_read_once() {
    run_all([
        ("length of a slot and one", Comes::Corrupt),
        ("length: 4096", Comes::Corrupt),
        ("length: 8192", Comes::Corrupt),
        ("length: 65536", Comes::Corrupt),
        ("length: 2147483647", Comes::Corrupt),
        ("length: 4294967295", Comes::Corrupt),
        ("length: 1000", Comes::Anything),
        ("length that changes", Comes::Anything),
        ("payload that changes", Comes::Harmless),
        ("every header word changes", Comes::Anything),
    ]);
}

#[test]
fn a_head_that_cannot_be_poisons_the_channel() {
    run_all([
        ("head: back", Comes::Anything),
        ("head: far back", Comes::Corrupt),
        ("head: beyond the ring", Comes::Corrupt),
        ("head: odd", Comes::Corrupt),
        ("head: all ones", Comes::Corrupt),
        ("head: half the circle", Comes::Corrupt),
    ]);
}

#[test]
fn unknown_kinds_and_flags_poison_the_channel() {
    let kinds = [0, 1, 2, 3, 4, 10, 12, 31, 32, 33, 0xff, 0x100, 0x7fff, 0x8000, 0xffff];
    let mut cases: Vec<(String, Comes)> =
        kinds.into_iter().map(|kind| (format!("kind: {kind}"), Comes::Corrupt)).collect();
    for bit in 0..16 {
        let comes = match 1 << bit {
            hostile::MORE => Comes::Fails(ErrorKind::Timeout),
            _ => Comes::Corrupt,
        };
        cases.push((format!("flags: {}", 1 << bit), comes));
        cases.push((format!("flags of an end: {}", 1 << bit), Comes::Corrupt));
        cases.push((format!("flags of an error: {}", 1 << bit), Comes::Corrupt));
        cases.push((format!("flags of a void frame: {}", 1 << bit), Comes::Corrupt));
    }
    run_all(
        cases
            .iter_mut()
            .map(|(name, comes)| (name.as_str(), std::mem::replace(comes, Comes::Anything))),
    );
}

#[test]
fn replies_to_no_request_are_dropped_and_those_that_do_not_fit_are_typed() {
    let over = &mut Overtime::default();
    run_all([
        ("request: 1000000", Comes::Fails(ErrorKind::Timeout)),
        ("request: 9223372036854775808", Comes::Fails(ErrorKind::Timeout)),
        ("request: 18446744073709551615", Comes::Fails(ErrorKind::Timeout)),
        ("request that is finished", Comes::Harmless),
        ("reply twice", Comes::Harmless),
        ("aux: 18446744073709551615", Comes::Harmless),
        ("request 0: result", Comes::Corrupt),
        ("request 0: cancel", Comes::Corrupt),
        ("request 0: garbage", Comes::Corrupt),
        ("request 0: error", Comes::Anything),
        ("another kind of answer: 7", Comes::Fails(ErrorKind::Protocol)),
        ("another kind of answer: 8", Comes::Fails(ErrorKind::Protocol)),
        ("another kind of answer: 9", Comes::Fails(ErrorKind::Cancelled)),
        // A void frame is no answer.
        ("another kind of answer: 11", Comes::Fails(ErrorKind::Timeout)),
        ("void frames around an answer", Comes::Harmless),
        ("expired", Comes::Fails(ErrorKind::Timeout)),
        ("silence", Comes::Anything),
        ("silence of everything", Comes::Anything),
        ("exit: 0", Comes::Anything),
        ("owner died", Comes::Ends(ErrorKind::PeerDied)),
        ("owner flaps", Comes::Harmless),
    ]);
    let _alone = one_at_a_time();
    let channel = hostile();
    channel.call(HOSTILE_ECHO, b"first", SHORT).unwrap();
    over.in_time("strangers", || channel.call(CASE, "request that is finished", SHORT)).unwrap();
    channel.call(CASE, "reply twice", SHORT).unwrap();
    channel.call(HOSTILE_ECHO, b"last", SHORT).unwrap();
    assert_eq!(channel.stats().unknown_frames, 6, "all are counted");
}

#[test]
fn an_error_with_lengths_that_cannot_be_is_an_error_of_its_own_call() {
    run_all([
        ("error: empty", Comes::Fails(ErrorKind::Protocol)),
        ("error: long type", Comes::Fails(ErrorKind::Protocol)),
        ("error: long message", Comes::Fails(ErrorKind::Protocol)),
        ("error: many sources", Comes::Fails(ErrorKind::Protocol)),
        ("error: endless sources", Comes::Fails(ErrorKind::HandlerFailed)),
        ("error: no text", Comes::Fails(ErrorKind::HandlerFailed)),
        ("error: longest", Comes::Fails(ErrorKind::Protocol)),
        ("a piece and an error", Comes::Fails(ErrorKind::HandlerFailed)),
    ]);
}

#[test]
fn what_has_no_end_ends_at_the_deadline_in_bounded_memory() {
    run_all([
        ("pieces without end", Comes::Corrupt),
        ("first pieces without end", Comes::Ends(ErrorKind::Timeout)),
        ("empty pieces without end", Comes::Ends(ErrorKind::Timeout)),
        ("chunks without end", Comes::Anything),
        ("strangers without end", Comes::Ends(ErrorKind::Timeout)),
        ("void frames without end", Comes::Ends(ErrorKind::Timeout)),
        ("strangers without end and without room", Comes::Anything),
        ("frames without end while the head stands still", Comes::Anything),
    ]);
}

/// What becomes of a message that is read piece by piece, and then of its channel.
fn read_parts(case: &str, is_stream: bool) -> (Result<Vec<u8>, ErrorKind>, bool) {
    let channel = hostile();
    let name = format!("parts: {case}");
    let read = |mut reader: slipring::MessageReader<'_>| {
        let mut bytes = vec![9];
        let read = reader.append_to(&mut bytes);
        assert!(read.is_ok() || bytes == [9], "{case}: a part was left");
        let again = reader.append_to(&mut Vec::new());
        assert_eq!(
            again.map_err(|error| error.kind()).err(),
            read.as_ref().err().map(|e| e.kind())
        );
        read.map(|_| bytes[1..].to_vec())
    };
    let result = match is_stream {
        true => {
            let mut stream = channel.stream(CASE, &name, LONG).unwrap();
            let reader = stream.next_reader();
            reader.and_then(|reader| reader.map_or(Ok(Vec::new()), read))
        }
        false => channel.submit(CASE, &name, LONG).unwrap().wait_reader().and_then(read),
    };
    let is_usable = channel.call(HOSTILE_ECHO, b"x", LONG).is_ok();
    end(&channel, case);
    (result.map_err(|error| error.kind()), is_usable)
}

#[test]
fn a_message_that_lies_or_breaks_off_is_none_to_its_reader() {
    let _alone = one_at_a_time();
    let whole = || Ok(b"abcd".to_vec());
    for (case, expected) in [
        ("as announced", whole()),
        ("without a length", whole()),
        ("another length in the second", whole()),
        ("fewer than announced", Err(ErrorKind::Protocol)),
        ("more than announced", Err(ErrorKind::Protocol)),
        ("less than the first", Err(ErrorKind::Protocol)),
        ("an absurd length", Err(ErrorKind::Protocol)),
        ("another first piece", Err(ErrorKind::Protocol)),
        ("a whole result", Err(ErrorKind::Protocol)),
        ("a cancel", Err(ErrorKind::Cancelled)),
        ("a chunk", Err(ErrorKind::Protocol)),
    ] {
        assert_eq!(read_parts(case, false), (expected, true), "{case}");
    }
    for case in ["an end", "a short chunk", "another first piece of a chunk"] {
        assert_eq!(read_parts(case, true), (Err(ErrorKind::Protocol), true), "{case}");
    }
    assert_eq!(read_parts("a result for a chunk", true), (Err(ErrorKind::Protocol), true));
    // What no honest worker can write ends the channel.
    assert_eq!(read_parts("another kind", false), (Err(ErrorKind::PeerCorrupt), false));
    assert_eq!(read_parts("no start", true), (Err(ErrorKind::PeerCorrupt), false));
    // This one is late: the stream is dropped.
    assert_eq!(read_parts("one after the end", true), (whole(), true));
}

#[test]
fn empty_pieces_without_end_do_not_hold_their_reader() {
    let _alone = one_at_a_time();
    let channel = hostile();
    within_long("of a result", || {
        let pending = channel.submit(CASE, "empty parts without end: of a result", SHORT).unwrap();
        let read = pending.wait_reader().unwrap().append_to(&mut Vec::new());
        assert_eq!(read.unwrap_err().kind(), ErrorKind::Protocol);
    });
    end(&channel, "of a result");
    let channel = hostile();
    within_long("of a chunk", || {
        let mut stream =
            channel.stream(CASE, "empty parts without end: of a chunk", SHORT).unwrap();
        let read = stream.next_reader().unwrap().unwrap().append_to(&mut Vec::new());
        assert_eq!(read.unwrap_err().kind(), ErrorKind::Protocol);
    });
    end(&channel, "of a chunk");
}

#[test]
fn a_stream_reads_on_by_a_bounded_number_of_frames() {
    let _alone = one_at_a_time();
    let channel = hostile();
    let mut stream = channel.stream(CASE, "a chunk and fifty strangers", LONG).unwrap();
    // All frames are in the ring by then. With fewer frames the test shows less.
    std::thread::sleep(SHORT);
    assert_eq!(stream.next_chunk().unwrap().unwrap().to_vec(), [7; 8]);
    let read = channel.stats().unknown_frames;
    assert!(
        read < 50,
        "{read} frames of unknown requests were read before the chunk was handed out"
    );
    drop(stream);
    channel.ping(LONG).unwrap();
    end(&channel, "fifty strangers");
}

#[test]
fn the_health_rings_are_as_safe() {
    run_all(
        [
            "pong: short",
            "pong: long text",
            "pong: garbage",
            "pong: many requests",
            "pong: fewer than announced",
            "pong: stages that are none",
            "pong: other kind",
            "pong: unknown kind",
            "pong: acknowledgement",
            "pong: silence",
            "pong: strangers without end",
            "pong: without room",
            "pong: commit",
        ]
        .map(|case| (case, Comes::Anything)),
    );
}

/// Whatever the marks say, nothing but reports, messages and errors of timeouts depends on them.
#[test]
fn marks_of_every_kind_are_only_what_the_worker_says_of_itself() {
    let _alone = one_at_a_time();
    let mut over = Overtime::default();
    for case in [
        "marks: zeros",
        "marks: all ones",
        "marks: taken",
        "marks: begun",
        "marks: begun at the end of time",
        "marks: begun at the start of time",
        "marks: answered",
        "marks: done",
        "marks: unknown stages",
        "marks: no stage",
        "marks: no request",
        "marks: one request in all",
        "marks: another lap",
        "marks: credit that cannot be",
        "marks: credit that is there",
        "marks: half a frame of credit",
        "marks that change",
    ] {
        let channel = hostile();
        let most = channel.config().max_in_flight();
        channel.call(CASE, case, LONG).unwrap();
        for health in [channel.health(), channel.ping(LONG).unwrap()] {
            assert!(health.taken + health.begun <= most, "{case}: {health:?}");
            assert!(health.requests.len() <= Health::MOST_REQUESTS, "{case}: {health:?}");
        }
        // Each kind of wait ends in time, with an error that says what the worker says.
        let timeouts = StreamTimeouts::from(SHORT).queue(SHORT).total(SHORT * 2);
        let waits: [&(dyn Fn() -> Result<(), Error> + Sync); 2] =
            [&|| channel.call(HOLD, b"", SHORT).map(drop), &|| {
                channel.stream(HOLD, b"", timeouts)?.next_chunk().map(drop)
            }];
        for wait in waits {
            let error = over.in_time(case, wait).unwrap_err();
            assert!(
                is_one_of(&error, &[ErrorKind::Timeout, ErrorKind::Stalled]),
                "{case}: {error}"
            );
            assert!(error.to_string().len() < 400, "{case}: {error}");
            assert_ne!(error.was_begun(), Some(false), "{case}: {error}");
        }
        let errors = exercise(&channel, case, &mut over);
        assert!(errors.is_empty(), "{case}: {errors:?}");
        let error = channel.call(CASE, "exit: 0", LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PeerDied, "{case}: {error}");
        eventually("it is known what it says", || error.stage().is_some());
        assert!(error.death().unwrap().begun_requests().len() <= most, "{case}: {error}");
        assert!(error.to_string().len() < 400, "{case}: {error}");
        end(&channel, case);
    }
    assert_others_are_untouched();
}

#[test]
fn a_bell_that_is_rung_without_end_costs_a_bounded_time() {
    run_all([("bell: data", Comes::Corrupt), ("bell: health", Comes::Corrupt)]);
}

/// The words that a worker writes in its region outside of the rings: their offsets and lengths.
fn control_words() -> Vec<(usize, usize)> {
    let mut words = vec![(STATUS, 4), (hostile::OWNER, 4)];
    words.extend((1..4).map(|i| (STATUS + 8 * i, 8)));
    // The marks of two requests.
    words.extend((0..8).map(|i| (MARKS + 8 * i, 8)));
    for side in [DATA, HEALTH] {
        words.extend([(side, 8), (side + 8, 8), (side + hostile::HEAD, 8)]);
        words.extend([(side + hostile::SPACE_AT, 8), (side + hostile::BELL, 4)]);
        words.extend([(side + hostile::CHECKED, 8), (side + hostile::COPIES, 4)]);
        words.push((side + hostile::HIGH_WATER, 8));
    }
    words
}

fn operations(seed: usize) -> Vec<Op> {
    let mut all = vec![Op::Set(0), Op::Set(0xff)];
    all.extend((0..8).map(Op::Flip));
    all.push(Op::Set(pattern(seed as u64, 1)[0]));
    all
}

/// Outcomes of lies about single bytes.
#[derive(Debug, Default)]
struct Outcomes {
    harmless: u32,
    /// The channel ended with errors of these kinds.
    over: BTreeMap<String, u32>,
    /// The channel had errors and continued.
    errors: BTreeMap<String, u32>,
}

fn lie(places: &[Place]) -> Outcomes {
    let mut over = Overtime::default();
    let mut outcomes = Outcomes::default();
    for (seed, place) in places.iter().enumerate() {
        // A request that is never answered keeps its slot, and there are few slots.
        let mut channel = hostile();
        for op in operations(seed) {
            let what = format!("{place:?} {op:?}");
            let mut errors = Vec::new();
            errors.extend(channel.call(FORGE, &forgery(*place, op), LONG).err());
            let tells_the_truth = matches!(place, Place::Control(_));
            errors.extend(exercise_with(&channel, &what, &mut over, tells_the_truth));
            // A worker that lies about its own position cannot continue.
            let is_restored = errors.is_empty() && channel.call(RESTORE, b"", LONG).is_ok();
            match errors.iter().find(|error| error.is_fatal()) {
                Some(fatal) if fatal.kind() == ErrorKind::PeerCorrupt => {
                    assert_poisoned_for_good(&channel, &what, &mut over);
                    *outcomes.over.entry(format!("{:?}", fatal.kind())).or_default() += 1;
                }
                Some(fatal) => {
                    assert!(!channel.is_alive(), "{what}: {fatal}");
                    *outcomes.over.entry(format!("{:?}", fatal.kind())).or_default() += 1;
                }
                None if errors.is_empty() => outcomes.harmless += 1,
                None => {
                    let first = format!("{:?}", errors[0].kind());
                    *outcomes.errors.entry(first).or_default() += 1;
                }
            }
            if !channel.is_alive() || !is_restored {
                drop(channel);
                channel = hostile();
                assert_others_are_untouched();
            }
        }
    }
    assert_others_are_untouched();
    println!("{outcomes:?}, at most {:?} over a timeout", over.0);
    outcomes
}

#[test]
fn a_lie_about_any_byte_of_a_control_word_is_found_or_harmless() {
    let places: Vec<Place> = control_words()
        .into_iter()
        .flat_map(|(at, len)| (at..at + len).map(Place::Control))
        .collect();
    let outcomes = lie(&places);
    assert!(outcomes.harmless > 0 && outcomes.over["PeerCorrupt"] > 0, "{outcomes:?}");
}

#[test]
fn a_lie_about_any_byte_of_the_header_is_harmless_once_attached() {
    let words = control_words();
    let is_word = |at: usize| words.iter().any(|(from, len)| (*from..from + len).contains(&at));
    let places: Vec<usize> = (0..4096).filter(|at| !is_word(*at)).collect();
    let channel = hostile();
    for (i, place) in places.iter().enumerate() {
        let op = [Op::Set(0xff), Op::Set(0), Op::Flip((i % 8) as u8)][i % 3];
        channel.call(FORGE, &forgery(Place::Control(*place), op), LONG).unwrap();
        let bytes = pattern(i as u64, 900);
        assert!(channel.call(HOSTILE_ECHO, &bytes, LONG).unwrap().to_vec() == bytes);
    }
    channel.ping(LONG).unwrap();
}

#[test]
fn a_lie_about_any_byte_of_a_frames_header_harms_only_the_worker() {
    for make in [Place::DataFrame, Place::HealthFrame] {
        let outcomes = lie(&(0..32).map(make).collect::<Vec<_>>());
        assert!(outcomes.over["PeerCorrupt"] > 20, "{outcomes:?}");
    }
}

#[test]
fn the_worker_can_neither_resize_memory_nor_make_it_writable() {
    let _alone = one_at_a_time();
    let channel = hostile();
    let worked = channel.call(CASE, "memory", LONG).unwrap().to_vec();
    // The worker may write its own region.
    assert_eq!(
        String::from_utf8(worked).unwrap(),
        "up writable map, up write, up reopened writable map, up reopened write, up mprotect"
    );
    assert_eq!(channel.call(HOSTILE_ECHO, b"unharmed", LONG).unwrap().to_vec(), b"unharmed");
    assert_others_are_untouched();
}

#[test]
fn holes_in_the_workers_region_are_never_a_fault_in_the_parent() {
    let _alone = one_at_a_time();
    let mut over = Overtime::default();
    for _ in 0..10 {
        let channel = hostile();
        let kept = channel.call(HOSTILE_ECHO, &[7; 900], LONG).unwrap();
        channel.call(CASE, "holes", LONG).unwrap();
        exercise(&channel, "holes", &mut over);
        assert_eq!(kept.to_vec().len(), 900);
        end(&channel, "holes");
    }
    assert_others_are_untouched();
}

#[test]
fn a_stream_that_ignores_its_credit_costs_bounded_memory() {
    let _alone = one_at_a_time();
    let cases =
        ["chunks without end", "chunks in pieces without end", "chunks for the credit of results"];
    for (case, is_stream) in cases.iter().flat_map(|case| [(*case, true), (*case, false)]) {
        let config = Config::builder().max_in_flight(16).max_message(1 << 20).build().unwrap();
        let channel = hostile_spawner().config(config).spawn().unwrap();
        channel.call(HOSTILE_ECHO, b"x", LONG).unwrap();
        let before = resident_kib();
        // No thread waits for these. The call below reads the ring for them.
        let (stream, pending) = match is_stream {
            true => (Some(channel.stream(CASE, case, LONG).unwrap()), None),
            false => (None, Some(channel.submit(CASE, case, LONG).unwrap())),
        };
        let mut over = Overtime::default();
        let mut call = || {
            let called = over.in_time("flood", || channel.call(HOLD, b"", SHORT).map(drop));
            let error = called.unwrap_err();
            let kinds = [ErrorKind::Timeout, ErrorKind::PeerCorrupt];
            assert!(is_one_of(&error, &kinds), "{case}: {error}");
            error
        };
        // On a slow machine it can take several calls until the parent has read so far.
        let is_found = (0..100).any(|_| call().kind() == ErrorKind::PeerCorrupt);
        let grown = resident_kib().saturating_sub(before);
        assert!(grown < 24 << 10, "{case}: {grown} KiB for a window of 2 MiB");
        assert!(is_found, "{case}");
        drop((stream, pending));
        end(&channel, "flood");
    }
    assert_others_are_untouched();
}

#[test]
fn a_stream_that_ignores_its_credit_is_found_while_a_batch_is_held() {
    let _alone = one_at_a_time();
    let mut over = Overtime::default();
    let config = Config::builder().max_in_flight(16).build().unwrap();
    let channel = hostile_spawner().config(config).spawn().unwrap();
    let before = resident_kib();
    let mut stream = channel.stream(CASE, "chunks without end", LONG).unwrap();
    let chunks = stream.next_chunks().unwrap().unwrap();
    // The calls read what lies behind the batch.
    let is_found = (0..100).any(|_| {
        let called = over.in_time("flood", || channel.call(HOLD, b"", SHORT).map(drop));
        called.unwrap_err().kind() == ErrorKind::PeerCorrupt
    });
    assert!(is_found);
    assert!(chunks.iter().all(|chunk| chunk.to_vec() == [7; 64]));
    drop(chunks);
    // What came before the worker had no credit is still there.
    let mut slots = 0;
    let error = loop {
        let next = || Ok::<_, Error>(stream.next_chunks()?.map(|chunks| chunks.len()));
        match over.in_time("batch", next) {
            Ok(len) => slots += 128 * len.unwrap(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::PeerCorrupt, "{error}");
    assert!((1..=channel.config().stream_window()).contains(&slots), "{slots} bytes");
    assert!(resident_kib().saturating_sub(before) < 24 << 10);
    assert!(stream.next_chunks().unwrap().is_none());
    assert_eq!(channel.stats().leases_held, 0);
    drop(stream);
    end(&channel, "flood");
    assert_others_are_untouched();
}

#[test]
fn a_chunk_that_had_no_credit_is_not_handed_out_in_a_batch_either() {
    let _alone = one_at_a_time();
    let config = Config::builder().max_in_flight(16).stream_window(16 << 10).build().unwrap();
    for takes_batches in [true, false] {
        let is_found = (0..50).any(|_| {
            let channel = hostile_spawner().config(config.clone()).spawn().unwrap();
            let mut stream = channel.stream(CASE, "a short chunk and a long one", LONG).unwrap();
            // Then both are there, and a reader that does not wait gives no credit in between.
            std::thread::sleep(Duration::from_millis(20));
            let mut next = || match takes_batches {
                true => Ok(stream.next_chunks()?.map(|chunks| {
                    assert_eq!(chunks.len(), 1);
                    chunks.iter().map(|chunk| chunk.len()).sum::<usize>()
                })),
                false => Ok(stream.next_chunk()?.map(|chunk| chunk.len())),
            };
            assert_eq!(next().unwrap(), Some(8));
            match next() {
                Ok(len) => {
                    assert_eq!(len, Some(20 << 10));
                    false
                }
                Err(error) => {
                    let error: Error = error;
                    assert_eq!(error.kind(), ErrorKind::PeerCorrupt, "{error}");
                    assert!(next().unwrap().is_none());
                    assert_eq!(channel.stats().leases_held, 0);
                    true
                }
            }
        });
        assert!(is_found, "{takes_batches}");
    }
    assert_others_are_untouched();
}

#[test]
fn a_wake_descriptor_that_the_worker_misuses_harms_only_its_channel() {
    let _alone = one_at_a_time();
    let mut over = Overtime::default();
    for case in [
        "hint: shut down",
        "hint: blocking and full",
        "hint: lit without end",
        "hint: drained without end",
    ] {
        let channel = hostile_spawner().pollable().spawn().unwrap();
        channel.read_ready().unwrap();
        channel.call(CASE, case, LONG).unwrap();
        for _ in 0..200 {
            if let Err(error) = over.in_time(case, || channel.read_ready()) {
                assert!(is_one_of(&error, &ANY), "{case}: {error}");
            }
        }
        exercise(&channel, case, &mut over);
        end(&channel, case);
    }
    let channel = hostile_spawner().pollable().spawn().unwrap();
    channel.read_ready().unwrap();
    let _pending = channel.submit(CASE, "strangers without end", LONG).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    for _ in 0..50 {
        over.in_time("read_ready", || channel.read_ready()).unwrap();
    }
    end(&channel, "flood");
    assert_others_are_untouched();
}

fn refused_handshake(case: &str) -> Error {
    let spawner = with_case(&format!("handshake: {case}")).handshake_timeout(HANDSHAKE);
    let mut over = Overtime::default();
    over.in_time(case, || spawner.spawn().map(drop)).expect_err(case)
}

#[test]
fn a_header_that_is_not_the_given_one_is_refused_with_both_values() {
    for (case, parts) in [
        ("magic", &["magic 0x", "expected 0x474e495250494c53"][..]),
        ("version", &["version 9", "speaks 2", "hostile"]),
        ("side", &["side 1", "expected side 2"]),
        ("channel", &["another channel"]),
        ("features", &["features 0x4", "knows 0x0"]),
        ("length", &["region of", "says 4096"]),
        ("capacity", &["this region", "expected at"]),
        ("offset", &["this region", "expected at"]),
        ("origin", &["at position 1"]),
        ("frames", &["frames of 4294967295 bytes"]),
        ("reserved", &["reserved"]),
        ("nothing", &["magic 0x0000000000000000"]),
    ] {
        let error = refused_handshake(case);
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{case}: {error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{case}: {part} is missing in: {error}");
        }
    }
    assert_others_are_untouched();
}

#[test]
fn a_lie_about_any_byte_of_the_header_is_refused_or_means_nothing() {
    for at in 0..384 {
        let spawner = with_case(&format!("handshake: byte {at}")).handshake_timeout(LONG);
        let spawned = spawner.spawn().map(drop);
        // The parent uses its own limits. Process id and name are only shown.
        let means_nothing = (216..236).contains(&at) || (240..304).contains(&at);
        match spawned {
            Ok(()) => assert!(means_nothing, "byte {at} was not looked at"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Mismatch, "byte {at}: {error}");
                assert!(!means_nothing, "byte {at}: {error}");
            }
        }
    }
}

#[test]
fn an_answer_that_cannot_be_is_a_failed_handshake_in_time() {
    for (case, kinds, part) in [
        ("garbage", &[ErrorKind::Handshake][..], "0x5a5a5a5a"),
        ("empty", &[ErrorKind::Handshake], "hostile"),
        ("short", &[ErrorKind::Handshake], "hostile"),
        ("other version", &[ErrorKind::Mismatch], "version 3, this side speaks 2"),
        ("too long", &[ErrorKind::Handshake], "4294967295"),
        ("64 KiB and one", &[ErrorKind::Handshake], "65537"),
        ("half", &[ErrorKind::Handshake], "exited with code 3"),
        ("refused", &[ErrorKind::Mismatch], "I do not like it"),
        ("refused without end", &[ErrorKind::Handshake], "hostile"),
        ("silence", &[ErrorKind::Handshake], "before the deadline"),
        ("by drops", &[ErrorKind::Handshake], "before the deadline"),
        ("descriptors", &[ErrorKind::Handshake], "descriptors"),
        ("end", &[ErrorKind::Handshake], "exited with code 0"),
    ] {
        let error = refused_handshake(case);
        assert!(is_one_of(&error, kinds), "{case}: {error:?}");
        assert!(error.to_string().contains(part), "{case}: {part} is missing in: {error}");
    }
    // A second answer is not read.
    let channel = with_case("handshake: twice").spawn().unwrap();
    end(&channel, "twice");
    let channel = with_case("handshake: build").spawn().unwrap();
    end(&channel, "build");
    assert_others_are_untouched();
}
