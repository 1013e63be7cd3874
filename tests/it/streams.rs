//! Streams deliver every chunk once and in order, and can end early.

use std::time::Duration;

use crate::common::*;
use slipring::{Channel, Config, ErrorKind, Stream, StreamTimeouts, WorkerState};

conformance! {
    everywhere: [
        every_chunk_comes_exactly_once_and_in_order_whatever_its_length,
        chunks_longer_than_a_frame_come_whole,
        a_long_stream_of_chained_chunks_never_runs_out_of_credit,
        a_window_smaller_than_a_chunk_still_lets_every_chunk_through,
        an_iterator_over_a_stream_ends_after_the_last_chunk_or_the_first_error,
        a_stream_that_is_dropped_early_frees_the_worker_and_its_space_at_once,
        chunks_before_an_error_are_delivered_and_then_the_error,
        a_stream_that_goes_silent_stalls_and_the_channel_stays_usable,
        a_pause_of_the_reader_is_no_stall,
        a_cancelled_stream_delivers_what_was_on_its_way_and_then_says_so,
        two_streams_are_read_in_turns_without_mixing,
        chunks_that_are_kept_stay_what_they_were,
        a_reader_that_keeps_every_chunk_is_told_what_holds_the_ring,
        a_reader_that_keeps_every_short_chunk_holds_no_slot,
        a_reader_that_pauses_keeps_no_slot_but_those_of_chunks_it_was_given,
        the_abort_flag_reaches_every_handler_until_it_is_cleared,
        the_abort_flag_ends_a_wait_for_credit,
        an_error_in_the_middle_of_a_chained_chunk_is_the_handlers_error,
        chunks_that_another_thread_has_read_come_before_those_in_the_ring,
    ],
    limited: [
        a_stream_can_be_cancelled_before_it_begins,
    ],
    one_at_a_time: [
        // A call waits behind the stream.
        a_reader_that_does_not_read_costs_one_window_and_its_worker_waits,
    ],
    processes: [],
}

fn assert_chunks(stream: &mut Stream, range: std::ops::Range<u64>, len: usize) {
    for i in range {
        let chunk = stream.next_chunk().unwrap_or_else(|e| panic!("chunk {i}: {e}"));
        let chunk = chunk.unwrap_or_else(|| panic!("chunk {i} is missing"));
        assert_eq!(chunk.request(), stream.id());
        assert!(chunk.to_vec() == pattern(i, len), "chunk {i} of {len} bytes is another");
    }
}

fn assert_whole_stream(channel: &Channel, count: u64, len: usize) {
    let mut stream = channel.stream(COUNT, &encode(&[count, len as u64]), LONG).unwrap();
    assert_chunks(&mut stream, 0..count, len);
    assert!(stream.next_chunk().unwrap().is_none());
    assert!(stream.next_chunk().unwrap().is_none(), "an ended stream stays ended");
    assert_eq!(channel.in_flight(), 0);
}

fn every_chunk_comes_exactly_once_and_in_order_whatever_its_length(backend: Backend) {
    for config in [Config::small(), Config::default()] {
        let channel = backend.spawn(config);
        for (count, len) in [(0, 48), (1, 0), (5000, 0), (5000, 1), (5000, 48), (2000, 4096)] {
            assert_whole_stream(&channel, count, len);
        }
        assert_whole_stream(&channel, 20, channel.config().max_reply_frame());
    }
}

fn chunks_longer_than_a_frame_come_whole(backend: Backend) {
    for config in [tiny(4 << 10).build().unwrap(), Config::small(), Config::default()] {
        let channel = backend.spawn(config);
        let max = channel.config().max_reply_frame();
        let window = channel.config().stream_window();
        assert_whole_stream(&channel, 10, max + 1);
        assert_whole_stream(&channel, 3, window - 1000);
        assert_whole_stream(&channel, 3, window + 1);
        assert_whole_stream(&channel, 3, window * 3 + 5);
        assert_whole_stream(&channel, 60, 100_000.min(max * 5));
    }
}

fn a_long_stream_of_chained_chunks_never_runs_out_of_credit(backend: Backend) {
    // Each frame of a chain costs more of the ring than its payload's length.
    let channel =
        backend.spawn(tiny(4 << 10).stream_window(2048).max_reply_frame(100).build().unwrap());
    assert_whole_stream(&channel, 2000, 101);
    assert_whole_stream(&channel, 500, 1000);
}

fn a_window_smaller_than_a_chunk_still_lets_every_chunk_through(backend: Backend) {
    let channel = backend.spawn(tiny(8 << 10).stream_window(1).build().unwrap());
    for len in [0, 1, 48, 3000, 10_000] {
        assert_whole_stream(&channel, 100, len);
    }
}

fn an_iterator_over_a_stream_ends_after_the_last_chunk_or_the_first_error(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let stream = channel.stream(COUNT, &encode(&[10, 100]), LONG).unwrap();
    let lens: Vec<usize> = stream.map(|chunk| chunk.unwrap().len()).collect();
    assert_eq!(lens, [100; 10]);
    let stream = channel.stream(COUNT_AND_FAIL, &encode(&[3, 5]), LONG).unwrap();
    let is_ok: Vec<bool> = stream.map(|chunk| chunk.is_ok()).collect();
    assert_eq!(is_ok, [true, true, true, false]);
}

fn a_stream_that_is_dropped_early_frees_the_worker_and_its_space_at_once(backend: Backend) {
    let channel = backend.spawn(Config::small());
    for taken in [0, 1, 2, 17, 100] {
        // This is endless for the purpose of the test.
        let mut stream = channel.stream(COUNT, &encode(&[1 << 40, 1000]), LONG).unwrap();
        assert_chunks(&mut stream, 0..taken, 1000);
        drop(stream);
        assert_eq!(channel.in_flight(), 0);
        assert_usable(&channel);
        assert_whole_stream(&channel, 100, 1000);
    }
    assert_eq!(channel.stats().unknown_frames, 0);
    assert!(channel.is_alive());
}

fn chunks_before_an_error_are_delivered_and_then_the_error(backend: Backend) {
    let channel = backend.spawn(Config::small());
    for (count, len) in [(0, 0), (1, 10), (100, 1000), (7, 40_000)] {
        let request = encode(&[count, len as u64]);
        let mut stream = channel.stream(COUNT_AND_FAIL, &request, LONG).unwrap();
        assert_chunks(&mut stream, 0..count, len);
        let error = stream.next_chunk().unwrap_err();
        let failure = error.handler_failure().unwrap();
        assert_eq!(failure.type_name, "test::Tired");
        assert_eq!(failure.message, "after all chunks");
        assert!(stream.next_chunk().unwrap().is_none());
        assert_usable(&channel);
    }
}

fn a_stream_that_goes_silent_stalls_and_the_channel_stays_usable(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let timeouts = StreamTimeouts::from(LONG).chunk(Duration::from_millis(60)).first_chunk(LONG);
    let mut stream = channel.stream(CHUNK_AND_STAY, b"", timeouts).unwrap();
    assert_chunks(&mut stream, 0..1, 8);
    let error = stream.next_chunk().unwrap_err();
    assert!(error.is_stalled(), "{error}");
    assert!(error.to_string().contains(&stream.id().to_string()), "{error}");
    assert!(stream.next_chunk().unwrap().is_none(), "a stalled stream is over");
    drop(stream);
    assert_usable(&channel);
    assert_eq!(channel.in_flight(), 0);
}

fn a_pause_of_the_reader_is_no_stall(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let timeout = Duration::from_millis(500);
    let mut stream = channel.stream(COUNT, &encode(&[1000, 1000]), timeout).unwrap();
    assert_chunks(&mut stream, 0..1, 1000);
    std::thread::sleep(timeout * 2);
    assert_chunks(&mut stream, 1..1000, 1000);
    assert!(stream.next_chunk().unwrap().is_none());
}

fn a_cancelled_stream_delivers_what_was_on_its_way_and_then_says_so(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let mut stream = channel.stream(COUNT, &encode(&[1 << 40, 1000]), LONG).unwrap();
    assert_chunks(&mut stream, 0..3, 1000);
    stream.cancel();
    stream.cancel();
    let mut next = 3;
    let error = loop {
        match stream.next_chunk() {
            Ok(Some(chunk)) => assert!(chunk.to_vec() == pattern(next, 1000)),
            Ok(None) => panic!("an endless stream ended"),
            Err(error) => break error,
        }
        next += 1;
        assert!(next < 1000, "the worker was not told");
    };
    assert!(error.is_cancelled(), "{error}");
    stream.cancel();
    assert_usable(&channel);

    // After its end a cancel does nothing.
    let mut stream = channel.stream(COUNT, &encode(&[1, 1]), LONG).unwrap();
    assert_chunks(&mut stream, 0..1, 1);
    assert!(stream.next_chunk().unwrap().is_none());
    stream.cancel();
    drop(stream);
    assert_usable(&channel);
}

fn a_stream_can_be_cancelled_before_it_begins(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let busy = backend.occupy(&channel);
    let mut stream = channel.stream(COUNT, &encode(&[10, 10]), LONG).unwrap();
    stream.cancel();
    busy.release();
    assert!(stream.next_chunk().unwrap_err().is_cancelled());
    assert_usable(&channel);
}

fn a_reader_that_does_not_read_costs_one_window_and_its_worker_waits(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let window = channel.config().stream_window() as u64;
    let mut stream = channel.stream(COUNT, &encode(&[10_000, 1000]), LONG).unwrap();
    eventually("the worker waits for credit", || {
        channel.health().state == WorkerState::AwaitingCredit
    });
    let sent = channel.ping(LONG).unwrap().bytes_sent;
    assert!(sent > 0 && sent <= window, "{sent} bytes sent");
    std::thread::sleep(Duration::from_millis(50));
    let health = channel.ping(LONG).unwrap();
    assert_eq!((health.bytes_sent, health.state), (sent, WorkerState::AwaitingCredit));
    assert_eq!(health.current_request, Some(stream.id()));

    // Another call waits behind the stream, and its error says so.
    let error = channel.call(ECHO, b"x", Duration::from_millis(50)).unwrap_err();
    assert!(error.is_timeout());
    let hint = format!("stream of request {}", stream.id());
    assert!(error.to_string().contains(&hint), "{error}");

    assert_chunks(&mut stream, 0..10_000, 1000);
    assert!(stream.next_chunk().unwrap().is_none());
    assert_usable(&channel);
}

fn two_streams_are_read_in_turns_without_mixing(backend: Backend) {
    let channel = backend.spawn(Config::default());
    let mut one = channel.stream(COUNT, &encode(&[500, 48]), LONG).unwrap();
    let mut two = channel.stream(COUNT, &encode(&[500, 96]), LONG).unwrap();
    for i in 0..500 {
        assert_chunks(&mut one, i..i + 1, 48);
        assert_chunks(&mut two, i..i + 1, 96);
    }
    assert!(one.next_chunk().unwrap().is_none());
    assert!(two.next_chunk().unwrap().is_none());

    // The later stream is read first. The chunks of the earlier one wait in memory.
    let mut one = channel.stream(COUNT, &encode(&[500, 48]), LONG).unwrap();
    let mut two = channel.stream(COUNT, &encode(&[500, 96]), LONG).unwrap();
    assert_chunks(&mut two, 0..500, 96);
    assert!(two.next_chunk().unwrap().is_none());
    assert_chunks(&mut one, 0..500, 48);
    assert!(one.next_chunk().unwrap().is_none());
}

fn chunks_that_are_kept_stay_what_they_were(backend: Backend) {
    let channel = backend.spawn(Config::small());
    // Short chunks are copied out of the ring, long ones hold it.
    for (len, held) in [(100, 0), (5000, 3)] {
        let mut stream = channel.stream(COUNT, &encode(&[300, len]), LONG).unwrap();
        let kept: Vec<_> = (0..3).map(|_| stream.next_chunk().unwrap().unwrap()).collect();
        assert_eq!(channel.stats().leases_held, held);
        // As many chunks as fit before the kept ones are in the way.
        assert_chunks(&mut stream, 3..6, len as usize);
        for (i, chunk) in kept.iter().enumerate() {
            assert!(chunk.to_vec() == pattern(i as u64, len as usize), "{i} was overwritten");
        }
        drop(kept);
        assert_chunks(&mut stream, 6..300, len as usize);
        assert!(stream.next_chunk().unwrap().is_none());
        assert_eq!(channel.stats().leases_held, 0);
    }
}

fn a_reader_that_keeps_every_chunk_is_told_what_holds_the_ring(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let timeout = Duration::from_millis(300);
    let mut stream = channel.stream(COUNT, &encode(&[10_000, 5000]), timeout).unwrap();
    let mut kept = Vec::new();
    let error = loop {
        match stream.next_chunk() {
            Ok(chunk) => kept.push(chunk.unwrap()),
            Err(error) => break error,
        }
    };
    assert!(error.is_stalled(), "{error}");
    assert!(error.to_string().contains("leases"), "{error}");
    assert!(kept.len() >= 6, "a window's worth");
    drop(kept);
    drop(stream);
    assert_usable(&channel);
}

fn a_reader_that_keeps_every_short_chunk_holds_no_slot(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let mut stream = channel.stream(COUNT, &encode(&[10_000, 1000]), LONG).unwrap();
    let mut kept = Vec::new();
    while let Some(chunk) = stream.next_chunk().unwrap() {
        kept.push(chunk);
        assert_eq!(channel.stats().leases_held, 0);
    }
    assert_eq!(kept.len(), 10_000);
    for (i, chunk) in kept.iter().enumerate() {
        assert!(chunk.to_vec() == pattern(i as u64, 1000), "{i} was overwritten");
    }
}

fn a_reader_that_pauses_keeps_no_slot_but_those_of_chunks_it_was_given(backend: Backend) {
    let channel = backend.spawn(tiny(16 << 10).build().unwrap());
    let mut stream = channel.stream(COUNT, &encode(&[6, 700]), LONG).unwrap();
    assert_eq!(stream.next_chunk().unwrap().unwrap().to_vec(), pattern(0, 700));
    // More than the ring holds, while no thread reads the stream.
    for i in 0..100 {
        let bytes = pattern(i, 900);
        assert!(channel.call(ECHO, &bytes, LONG).unwrap().to_vec() == bytes);
    }
    assert_eq!(channel.stats().leases_held, 0);
    assert_chunks(&mut stream, 1..6, 700);
    assert!(stream.next_chunk().unwrap().is_none());
}

fn the_abort_flag_reaches_every_handler_until_it_is_cleared(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let pending = channel.submit(UNTIL_ABORTED, b"", LONG).unwrap();
    let mut stream = channel.stream(COUNT, &encode(&[1 << 40, 10]), LONG).unwrap();
    until_served(&channel, &pending);
    channel.abort();
    channel.abort();
    assert!(numbers(&pending.wait().unwrap().to_vec())[0] < u64::MAX);
    let error = stream.find_map(Result::err).expect("an endless stream is cut off");
    assert!(error.is_cancelled(), "{error}");
    drop(stream);
    assert_usable(&channel);
    let error = channel.call(UNTIL_CANCELLED, b"", LONG).unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    channel.clear_abort();
    let pending = channel.submit(UNTIL_ABORTED, b"", Duration::from_millis(50)).unwrap();
    assert!(pending.wait().unwrap_err().is_timeout(), "nothing aborts it any more");
    assert_whole_stream(&channel, 10, 10);
}

fn the_abort_flag_ends_a_wait_for_credit(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let mut stream = channel.stream(COUNT, &encode(&[1 << 40, 1000]), LONG).unwrap();
    eventually("the worker waits", || channel.health().state == WorkerState::AwaitingCredit);
    channel.abort();
    eventually("the worker stopped serving it", || channel.health().current_request.is_none());
    channel.clear_abort();
    let error = stream.find_map(Result::err).expect("an endless stream is cut off");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_usable(&channel);
}

fn an_error_in_the_middle_of_a_chained_chunk_is_the_handlers_error(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let len = channel.config().max_message() as u64;
    let mut stream = channel.stream(CHUNK_THEN_OTHER_ERROR, &encode(&[len]), LONG).unwrap();
    eventually("the worker sends", || channel.health().current_request.is_some());
    stream.cancel();
    let error = stream.find_map(Result::err).expect("it fails");
    assert_eq!(error.kind(), ErrorKind::HandlerFailed, "{error}");
    assert_eq!(error.handler_failure().unwrap().type_name, "test::Other");
    assert_usable(&channel);
}

fn chunks_that_another_thread_has_read_come_before_those_in_the_ring(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let timeout = Duration::from_millis(5);
    for len in [8, 500] {
        let mut stream = channel.stream(COUNT, &encode(&[400, len]), LONG).unwrap();
        for from in (0..400).step_by(20) {
            // This call waits behind the stream, and reads its chunks meanwhile.
            let waits = channel.submit(ECHO, b"x", timeout);
            let _ = waits.and_then(slipring::Pending::wait);
            assert_chunks(&mut stream, from..from + 20, len as usize);
        }
        assert!(stream.next_chunk().unwrap().is_none());
    }
    assert_usable(&channel);
}
