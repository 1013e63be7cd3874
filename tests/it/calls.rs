//! Calls: every length, every kind of failure, late replies.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::common::*;
use slipring::{Channel, Config, ErrorKind, Kind, Payload, Pending};

conformance! {
    everywhere: [
        every_length_is_echoed_whatever_the_rings_size,
        frames_of_random_lengths_survive_a_long_run_through_the_smallest_ring,
        a_message_longer_than_a_frame_travels_both_ways_in_small_rings,
        a_message_over_the_cap_is_refused_with_both_numbers_and_not_sent,
        a_reply_over_the_cap_is_an_error_of_that_call_alone,
        a_kind_without_a_handler_is_answered_with_its_name,
        a_kind_of_the_protocols_own_cannot_be_sent,
        a_failing_handler_fails_its_own_call_with_type_and_message,
        a_failure_of_any_length_fits_a_frame,
        a_panicking_handler_fails_its_own_call_with_message_and_place,
        a_stream_for_a_call_and_a_result_for_a_stream_are_protocol_errors,
        a_payload_that_lies_about_its_length_is_refused_and_nothing_is_sent,
        dropped_requests_make_room_though_no_thread_reads,
        request_ids_are_never_used_twice_and_replies_name_theirs,
        positions_go_on_over_the_wraps_of_u32_and_u64,
        no_late_reply_ever_reaches_another_call,
        the_cancel_of_another_channels_request_is_no_cancel_of_this_one,
        a_deadline_travels_with_its_request,
        a_payload_that_cannot_be_encoded_is_not_sent_and_leaves_nothing_behind,
        a_request_is_over_when_its_reply_was_handed_out_however_long_it_is,
    ],
    limited: [
        a_worker_does_not_begin_what_timed_out_in_the_queue,
    ],
    one_at_a_time: [
        // Its handlers need the proof of a reply, which only serial handlers have.
        a_handler_that_replies_and_fails_has_replied_and_a_reused_proof_not,
        // Its handler needs a writer, which only serial handlers have.
        a_cancelled_writer_stops_at_once_and_leaves_no_last_error,
    ],
    processes: [],
}

fn assert_echoes(channel: &Channel, len: usize) {
    let bytes = pattern(len as u64, len);
    let reply = channel.call(ECHO, &bytes, LONG).unwrap_or_else(|e| panic!("{len} bytes: {e}"));
    assert_eq!(reply.len(), len);
    assert!(reply.to_vec() == bytes, "{len} bytes came back changed");
}

/// Every short length, and lengths around multiples of a slot and the longest frame, often enough
/// to pass the end of the ring many times.
fn interesting_lengths(max_frame: usize) -> Vec<usize> {
    let mut lengths: Vec<usize> = (0..=300).collect();
    let mut at = 512;
    while at < max_frame {
        lengths.extend([at - 33, at - 32, at - 31, at - 1, at, at + 1]);
        at *= 2;
    }
    lengths.extend((max_frame - 100..=max_frame).rev().step_by(7));
    lengths.extend([max_frame - 1, max_frame]);
    lengths
}

fn every_length_is_echoed_whatever_the_rings_size(backend: Backend) {
    let configs = [tiny(4 << 10).build().unwrap(), tiny(8 << 10).build().unwrap(), Config::small()];
    for config in configs {
        let (max, ring) = (config.max_request_frame(), config.request_ring().capacity());
        let channel = backend.spawn(config);
        let mut sent = 0;
        for round in 0..3 {
            for len in interesting_lengths(max) {
                assert_echoes(&channel, len);
                sent += len;
            }
            assert!(sent > ring * (round + 1), "the ring's end is passed in every round");
        }
        assert_eq!((channel.in_flight(), channel.stats().leases_held), (0, 0));
        assert_eq!(channel.stats().unknown_frames + channel.stats().late_frames, 0);
    }
}

fn frames_of_random_lengths_survive_a_long_run_through_the_smallest_ring(backend: Backend) {
    let channel = backend.spawn(tiny(4 << 10).build().unwrap());
    let mut seed = 1_u64;
    for _ in 0..10_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        assert_echoes(&channel, (seed >> 33) as usize % (channel.config().max_request_frame() + 1));
    }
}

fn a_message_longer_than_a_frame_travels_both_ways_in_small_rings(backend: Backend) {
    for config in [tiny(4 << 10).build().unwrap(), Config::small()] {
        let channel = backend.spawn(config);
        let max = channel.config().max_request_frame();
        let longest = channel.config().max_message();
        let ring = channel.config().request_ring().capacity();
        for len in [max + 1, 2 * max - 1, 2 * max, 2 * max + 1, ring, ring * 3 + 17, longest] {
            let bytes = pattern(len as u64, len);
            let sum: u64 = bytes.iter().map(|b| u64::from(*b)).sum();
            let reply = channel.call(SUM, &bytes, LONG).unwrap();
            assert_eq!(numbers(&reply.to_vec()), [sum], "{len} bytes down");
            drop(reply);
            let reply = channel.call(BIG, &encode(&[len as u64]), LONG).unwrap();
            assert!(reply.to_vec() == pattern(7, len), "{len} bytes up");
            drop(reply);
            assert_echoes(&channel, len);
            assert_echoes(&channel, 5);
        }
    }
}

fn a_message_over_the_cap_is_refused_with_both_numbers_and_not_sent(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let cap = channel.config().max_message();
    channel.wait_ready(LONG).unwrap();
    eventually("it is counted", || channel.ping(LONG).unwrap().requests_served == 1);
    let before = channel.ping(LONG).unwrap();
    for len in [cap + 1, cap * 2] {
        let error = channel.call(SUM, &vec![0; len], LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert_eq!(error.length_and_limit(), Some((len, cap)));
        assert!(error.to_string().contains("max_message"), "{error}");
        let error = channel.stream(COUNT, &vec![0; len], LONG).unwrap_err();
        assert_eq!(error.length_and_limit(), Some((len, cap)));
    }
    let after = channel.ping(LONG).unwrap();
    assert_eq!(after.requests_served, before.requests_served);
    assert_eq!(after.bytes_received, before.bytes_received);
    assert_eq!(channel.in_flight(), 0);
    assert_usable(&channel);
}

fn a_reply_over_the_cap_is_an_error_of_that_call_alone(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let cap = channel.config().max_message();
    let error = channel.call(BIG, &encode(&[cap as u64 + 1]), LONG).unwrap_err();
    let failure = error.handler_failure().expect("the worker reports it");
    assert!(failure.message.contains(&cap.to_string()), "{failure}");
    assert!(failure.message.contains(&(cap + 1).to_string()), "{failure}");
    assert_usable(&channel);
}

fn a_kind_without_a_handler_is_answered_with_its_name(backend: Backend) {
    let channel = backend.spawn(Config::small());
    for kind in [Kind::app(77), Kind::EMBED, Kind::named("no such kind")] {
        let error = channel.call(kind, b"x", LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HandlerFailed);
        assert!(error.to_string().contains(&kind.to_string()), "{error}");
        let mut stream = channel.stream(kind, b"x", LONG).unwrap();
        assert_eq!(stream.next_chunk().unwrap_err().kind(), ErrorKind::HandlerFailed);
        assert!(stream.next_chunk().unwrap().is_none());
        assert_usable(&channel);
    }
}

fn a_kind_of_the_protocols_own_cannot_be_sent(backend: Backend) {
    let channel = backend.spawn(Config::small());
    for kind in [Kind::PING, Kind::SHUTDOWN, Kind::RESULT, Kind::CANCEL, Kind::CHUNK, Kind::END] {
        assert!(!kind.is_request());
        let refused = [
            channel.call(kind, b"", LONG).unwrap_err(),
            channel.stream(kind, b"", LONG).unwrap_err(),
            channel.write(kind, LONG).unwrap_err(),
        ];
        for error in refused {
            assert_eq!((error.kind(), error.was_begun()), (ErrorKind::InvalidInput, Some(false)));
        }
    }
    assert_eq!(channel.in_flight(), 0);
    assert_usable(&channel);
}

fn a_failing_handler_fails_its_own_call_with_type_and_message(backend: Backend) {
    let channel = backend.spawn(Config::small());
    for message in ["no such token", "", "süß"] {
        let error = channel.call(FAIL, message, LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HandlerFailed);
        assert!(!error.is_fatal());
        let failure = error.handler_failure().unwrap();
        assert!(failure.type_name.ends_with("io::error::Error"), "{}", failure.type_name);
        assert_eq!(failure.message, message);
        assert_usable(&channel);
    }
    let error = channel.call(FAIL_DEEP, b"", LONG).unwrap_err();
    let failure = error.handler_failure().unwrap();
    assert_eq!(failure.message, "cannot load");
    assert_eq!(failure.sources, ["the file is short", "invalid digit found in string"]);
    assert!(
        error
            .to_string()
            .ends_with("cannot load: the file is short: invalid digit found in string")
    );
    assert_usable(&channel);
}

fn a_failure_of_any_length_fits_a_frame(backend: Backend) {
    let channel = backend.spawn(tiny(4 << 10).build().unwrap());
    for len in [1000, 2000, 100_000] {
        let error = channel.call(FAIL, &"x".repeat(len), LONG).unwrap_err();
        let message = &error.handler_failure().unwrap().message;
        assert!(message.len() >= 500 && message.bytes().all(|b| b == b'x'), "{len}");
        assert_usable(&channel);
    }
}

fn a_panicking_handler_fails_its_own_call_with_message_and_place(backend: Backend) {
    let channel = backend.spawn(Config::default());
    for message in ["index out of range", ""] {
        let error = channel.call(PANIC, message, LONG).unwrap_err();
        let failure = error.handler_failure().unwrap();
        assert_eq!((failure.type_name.as_str(), failure.message.as_str()), ("panic", message));
        assert!(failure.backtrace.contains("worker.rs"), "{}", failure.backtrace);
        assert_usable(&channel);
    }
}

fn a_stream_for_a_call_and_a_result_for_a_stream_are_protocol_errors(backend: Backend) {
    let channel = backend.spawn(Config::small());
    for _ in 0..3 {
        let pending = channel.submit(STREAM_ANYHOW, b"", LONG).unwrap();
        let request = pending.id();
        let error = pending.wait().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.to_string().contains(&request.to_string()), "{error}");
        assert!(error.to_string().contains("stream"), "{error}");
        assert_usable(&channel);

        let mut stream = channel.stream(ECHO, b"hello", LONG).unwrap();
        let error = stream.next_chunk().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.to_string().contains("result"), "{error}");
        assert!(stream.next_chunk().unwrap().is_none());
        drop(stream);
        assert_usable(&channel);
    }
    assert_eq!(channel.in_flight(), 0);
}

fn a_handler_that_replies_and_fails_has_replied_and_a_reused_proof_not(backend: Backend) {
    let channel = backend.spawn(Config::small());
    assert_eq!(channel.call(KEEP_PROOF, b"", LONG).unwrap().to_vec(), b"kept");
    assert_usable(&channel);
    let error = channel.call(USE_PROOF, b"", LONG).unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::HandlerFailed,
        "the worker knows that it sent nothing: {error}"
    );
    assert_usable(&channel);
}

/// A payload whose length is not the one that it declares.
struct Liar(usize);

impl slipring::payload::Payload for Liar {
    fn encoded_len(&self) -> usize {
        self.0
    }

    fn encode(&self, out: &mut [u8]) -> slipring::Result<()> {
        out.fill(1);
        Ok(())
    }

    fn as_parts(&self) -> Option<[&[u8]; 3]> {
        Some([&[1; 5000], &[], &[]])
    }
}

fn a_payload_that_lies_about_its_length_is_refused_and_nothing_is_sent(backend: Backend) {
    let channel = backend.spawn(tiny(4 << 10).max_message(8192).build().unwrap());
    for len in [4000, 8000] {
        let error = channel.call(SUM, &Liar(len), LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPayload, "{error}");
        assert!(error.to_string().contains("5000 bytes"), "{error}");
    }
    assert_eq!(numbers(&channel.call(SUM, &Liar(5000), LONG).unwrap().to_vec()), [5000]);
    assert_eq!(channel.in_flight(), 0);
}

fn dropped_requests_make_room_though_no_thread_reads(backend: Backend) {
    let channel = backend.spawn(tiny(4 << 10).max_in_flight(2).build().unwrap());
    channel.wait_ready(LONG).unwrap();
    for round in 0..50_u64 {
        let bytes = encode(&[round]);
        for dropped in 0..2 {
            let submitted = match dropped + round % 3 {
                0 => channel.call(ECHO, &bytes, Duration::ZERO).map(drop),
                1 => channel.submit(ECHO, &bytes, LONG).map(drop),
                _ => channel.stream(COUNT, &encode(&[3, 10]), LONG).map(drop),
            };
            let kind = submitted.err().map(|error| error.kind());
            let known = [None, Some(ErrorKind::Timeout), Some(ErrorKind::TooManyInFlight)];
            assert!(known.contains(&kind), "{kind:?}");
        }
        // The worker does not know yet that they were dropped.
        eventually("there is room", || {
            channel.call(ECHO, &bytes, LONG).is_ok_and(|reply| reply.to_vec() == bytes)
        });
    }
}

fn request_ids_are_never_used_twice_and_replies_name_theirs(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let mut seen = HashSet::new();
    for i in 0..1000_u64 {
        let pending = channel.submit(ECHO, &encode(&[i]), LONG).unwrap();
        let request = pending.id();
        assert!(request.get() != 0 && seen.insert(request));
        let reply = pending.wait().unwrap();
        assert_eq!((reply.request(), numbers(&reply.to_vec())), (request, vec![i]));
    }
}

fn positions_go_on_over_the_wraps_of_u32_and_u64(backend: Backend) {
    let origins = [
        u64::MAX - 1000,
        u64::MAX - (5 << 20),
        u64::from(u32::MAX) - 1000,
        u64::from(u32::MAX) * 2,
        1 << 63,
    ];
    for origin in origins {
        let channel = backend.spawn(tiny(4 << 10).origin(origin).build().unwrap());
        for i in 0..3000_usize {
            assert_echoes(&channel, i * 7 % channel.config().max_request_frame());
        }
        assert_echoes(&channel, 100_000);
        let chunks: Vec<Vec<u8>> = channel
            .stream(COUNT, &encode(&[500, 333]), LONG)
            .unwrap()
            .map(|chunk| chunk.unwrap().into_vec())
            .collect();
        assert_eq!(chunks.len(), 500);
        assert!(chunks.iter().enumerate().all(|(i, chunk)| *chunk == pattern(i as u64, 333)));
        channel.ping(LONG).unwrap();
        assert_eq!(channel.stats().unknown_frames, 0);
    }
}

fn no_late_reply_ever_reaches_another_call(backend: Backend) {
    let channel = backend.spawn(Config::default());
    channel.wait_ready(LONG).unwrap();
    let mut timeouts = 0;
    let calls = repetitions("SLIPRING_TEST_LATE", 10_000);
    for i in 0..calls {
        let nap = [150 + i % 200, i];
        match channel.call(NAP, &encode(&nap), Duration::from_micros(100 + i % 150)) {
            Ok(reply) => assert_eq!(numbers(&reply.to_vec()), nap),
            Err(error) => {
                assert!(error.is_timeout(), "{error}");
                timeouts += 1;
            }
        }
        let reply = channel.call(ECHO, &encode(&[i, !i]), LONG).unwrap();
        assert_eq!(numbers(&reply.to_vec()), [i, !i]);
    }
    let naps = numbers(&channel.call(NAPS, b"", LONG).unwrap().to_vec());
    eventually("each cancelled request has one late frame", || {
        channel.call(ECHO, b"", LONG).unwrap();
        channel.stats().late_frames == channel.stats().cancels
    });
    let stats = channel.stats();
    println!("{timeouts} timeouts, {} of {} naps replied; {stats:?}", naps[1], naps[0]);
    // On a busy machine many replies are there by the time that the caller runs again.
    assert!(timeouts > calls / 10, "{timeouts} timeouts of {calls} calls");
    assert_eq!(stats.unknown_frames, 0);
    assert_eq!(channel.in_flight(), 0);
}

fn the_cancel_of_another_channels_request_is_no_cancel_of_this_one(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let error = channel.call(CANCEL_ANOTHER, b"", LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HandlerFailed, "{error}");
    assert!(error.handler_failure().unwrap().message.contains("was cancelled"), "{error}");
}

fn a_cancelled_writer_stops_at_once_and_leaves_no_last_error(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let pending = channel.submit(WRITE_WHEN_CANCELLED, b"", LONG).unwrap();
    let request = pending.id();
    eventually("it runs", || channel.health().current_request == Some(request));
    pending.cancel();
    let error = pending.wait().unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    assert_usable(&channel);
    assert_eq!(channel.ping(LONG).unwrap().last_error, None);
    channel.call(FAIL, "truly", LONG).unwrap_err();
    assert!(channel.ping(LONG).unwrap().last_error.unwrap().contains("truly"));
}

fn a_worker_does_not_begin_what_timed_out_in_the_queue(backend: Backend) {
    let channel = backend.spawn(Config::default());
    channel.wait_ready(LONG).unwrap();
    let busy = backend.occupy(&channel);
    let queued: Vec<_> = (0..10)
        .map(|i| channel.submit(NAP, &encode(&[0, i]), Duration::from_millis(20)).unwrap())
        .collect();
    for pending in queued {
        let error = pending.wait().unwrap_err();
        assert!(error.is_timeout());
        let is_told = |busy: &Pending| error.to_string().contains(&busy.id().to_string());
        assert!(busy.requests.iter().any(is_told), "what is busy: {error}");
    }
    busy.release();
    assert_eq!(numbers(&channel.call(NAPS, b"", LONG).unwrap().to_vec()), [0, 0]);
}

fn a_deadline_travels_with_its_request(backend: Backend) {
    let channel = backend.spawn(Config::small());
    channel.wait_ready(LONG).unwrap();
    let left = numbers(&channel.call(TIME_LEFT, b"", LONG).unwrap().to_vec())[0];
    // By a coarse clock, and never too early.
    assert!(left <= 60_020 && left > 1_000, "{left}");
    let left = numbers(&channel.call(TIME_LEFT, b"", Duration::MAX).unwrap().to_vec())[0];
    assert_eq!(left, u64::MAX);
    let error = channel.call(ECHO, b"x", Duration::ZERO).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_usable(&channel);
    assert_eq!(channel.in_flight(), 0);
}

/// A payload of the host's that goes wrong while it is encoded.
struct Broken {
    len: usize,
    panics: bool,
}

impl Payload for Broken {
    fn encoded_len(&self) -> usize {
        self.len
    }

    fn encode(&self, _: &mut [u8]) -> slipring::Result<()> {
        assert!(!self.panics, "cannot encode");
        // The library's own way to refuse a payload.
        [0_u8; 3].encode(&mut [0; 4])
    }
}

fn a_payload_that_cannot_be_encoded_is_not_sent_and_leaves_nothing_behind(backend: Backend) {
    let channel = backend.spawn(Config::small());
    channel.wait_ready(LONG).unwrap();
    eventually("it is counted", || channel.ping(LONG).unwrap().requests_served == 1);
    for len in [10, channel.config().max_request_frame() + 1] {
        let error = channel.call(ECHO, &Broken { len, panics: false }, LONG).unwrap_err();
        assert_eq!((error.kind(), error.was_begun()), (ErrorKind::InvalidPayload, Some(false)));
        assert_eq!(channel.in_flight(), 0);
        let broken = Broken { len, panics: true };
        let panicked = catch_unwind(AssertUnwindSafe(|| channel.call(ECHO, &broken, LONG)));
        assert!(panicked.is_err());
        assert_eq!(channel.in_flight(), 0, "a panic while {len} bytes were encoded");
    }
    assert_eq!(channel.ping(LONG).unwrap().requests_served, 1);
    assert_usable(&channel);
}

fn a_request_is_over_when_its_reply_was_handed_out_however_long_it_is(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let most = channel.config().max_message() as u64;
    for len in [0, 96, 97, 20 << 10, 300 << 10, most] {
        let reply = channel.call(BIG, &encode(&[len]), LONG).unwrap();
        assert_eq!((channel.in_flight(), reply.len() as u64), (0, len));
    }
    channel.close(LONG).unwrap();
}
