//! Streams whose chunks are taken, or sent, in batches.

use std::time::Duration;

use crate::common::*;
use slipring::worker::Worker;
use slipring::{Channel, Config, ErrorKind, Kind, RoleConfig, Stream, testing};

conformance! {
    everywhere: [
        chunks_in_batches_come_exactly_once_and_in_order_whatever_their_length,
        batches_and_single_chunks_are_taken_in_turns,
        a_batch_holds_no_more_than_its_share_and_calls_go_on_beside_it,
        a_batch_that_is_dropped_unread_or_forgotten_counts_as_consumed,
        a_worker_goes_on_while_a_batch_is_held,
        a_batch_is_followed_by_the_error_that_ends_its_stream,
        chunks_of_a_batch_stay_what_they_were_when_the_channel_is_closed,
        chunks_that_another_thread_has_read_come_in_batches_too,
        chunks_of_any_length_that_are_sent_together_come_once_and_in_order,
        chunks_that_are_sent_together_stay_within_the_window_of_their_reader,
        sending_together_ends_when_the_stream_is_cancelled_or_dropped,
        a_parent_that_sleeps_is_woken_for_chunks_that_are_sent_together,
    ],
    one_at_a_time: [],
    processes: [a_batch_has_what_was_sent_before_a_death,],
}

/// Takes a batch, compares its chunks from number `first` on, and returns the next number; `None`
/// at the end.
fn batch(stream: &mut Stream, first: u64, len: usize) -> Option<u64> {
    let chunks = stream.next_chunks().unwrap_or_else(|e| panic!("chunk {first}: {e}"))?;
    assert!(!chunks.is_empty() && chunks.len() == chunks.iter().count());
    let mut next = first;
    for chunk in &chunks {
        assert!(chunk.to_vec() == pattern(next, len), "chunk {next} of {len} bytes is another");
        next += 1;
    }
    Some(next)
}

fn assert_whole(mut stream: Stream, from: u64, count: u64, len: usize) {
    let mut next = from;
    while let Some(after) = batch(&mut stream, next, len) {
        next = after;
    }
    assert_eq!(next, count, "{len} bytes each");
    assert!(stream.next_chunks().unwrap().is_none(), "an ended stream stays ended");
}

fn count(channel: &Channel, count: u64, len: usize) -> Stream {
    channel.stream(COUNT, &encode(&[count, len as u64]), LONG).unwrap()
}

fn chunks_in_batches_come_exactly_once_and_in_order_whatever_their_length(backend: Backend) {
    for config in [Config::small(), Config::default()] {
        let channel = backend.spawn(config);
        let lens =
            [(0, 48), (1, 0), (5000, 0), (5000, 48), (2000, 4096), (500, 5000), (20, 70_000)];
        for (chunks, len) in lens {
            assert_whole(count(&channel, chunks, len), 0, chunks, len);
            assert_eq!((channel.in_flight(), channel.stats().leases_held), (0, 0));
        }
    }
}

fn batches_and_single_chunks_are_taken_in_turns(backend: Backend) {
    let channel = backend.spawn(Config::small());
    for len in [8, 1000, 4097] {
        let mut stream = count(&channel, 3000, len);
        let mut next = 0;
        while next < 2500 {
            for _ in 0..3 {
                assert!(stream.next_chunk().unwrap().unwrap().to_vec() == pattern(next, len));
                next += 1;
            }
            next = batch(&mut stream, next, len).unwrap();
        }
        assert_whole(stream, next, 3000, len);
    }
}

fn a_batch_holds_no_more_than_its_share_and_calls_go_on_beside_it(backend: Backend) {
    let ring = 64 << 10;
    let channel = backend.spawn(tiny(ring).build().unwrap());
    // All of it fits the window, so that calls wait for no stream.
    let mut stream = count(&channel, 60, 100);
    eventually("all chunks are in the ring", || channel.health().bytes_sent >= 6000);
    let chunks = stream.next_chunks().unwrap().unwrap();
    let held: usize = chunks.iter().map(|chunk| chunk.len() + 32).sum();
    assert!(held <= ring / 16, "{held} bytes");
    assert_eq!(channel.stats().leases_held, 1);
    for i in 0..30 {
        let bytes = pattern(i, 900);
        assert!(channel.call(ECHO, &bytes, LONG).unwrap().to_vec() == bytes);
    }
    let bytes: Vec<_> = chunks.iter().map(|chunk| chunk.to_vec()).collect();
    let next = bytes.len() as u64;
    assert!(bytes == (0..next).map(|i| pattern(i, 100)).collect::<Vec<_>>());
    drop(chunks);
    assert_whole(stream, next, 60, 100);
    assert_eq!(channel.stats().leases_held, 0);
}

fn a_batch_that_is_dropped_unread_or_forgotten_counts_as_consumed(backend: Backend) {
    let channel = backend.spawn(Config::small());
    // Many windows long, so that it ends only if what is not read is credited.
    let mut stream = count(&channel, 20_000, 100);
    let mut taken = 0;
    for turn in 0.. {
        let Some(chunks) = stream.next_chunks().unwrap() else { break };
        taken += chunks.len();
        match turn % 2 {
            0 => drop(chunks),
            _ => std::mem::forget(chunks),
        }
        if turn % 4 == 3 && stream.next_chunk().unwrap().is_some() {
            taken += 1;
        }
    }
    assert_eq!((taken, channel.stats().leases_held), (20_000, 0));
    std::mem::forget(count(&channel, 10, 100).next_chunks().unwrap());
    assert_usable(&channel);
    assert_eq!(channel.stats().leases_held, 0, "the stream gives back what its batch did not");
}

fn a_worker_goes_on_while_a_batch_is_held(backend: Backend) {
    // Two chunks are longer than the window.
    let channel = backend.spawn(tiny(64 << 10).stream_window(1500).build().unwrap());
    let mut stream = count(&channel, 10, 1000);
    let chunks = stream.next_chunks().unwrap().unwrap();
    assert_eq!(chunks.len(), 1);
    eventually("the next chunk is sent", || channel.health().bytes_sent >= 2000);
    drop(chunks);
    assert_whole(stream, 1, 10, 1000);
}

fn a_batch_is_followed_by_the_error_that_ends_its_stream(backend: Backend) {
    let channel = backend.spawn(Config::small());
    for (count, len) in [(0, 0), (1, 10), (100, 1000), (7, 40_000)] {
        let request = encode(&[count, len as u64]);
        let mut stream = channel.stream(COUNT_AND_FAIL, &request, LONG).unwrap();
        let mut next = 0;
        while next < count {
            next = batch(&mut stream, next, len).unwrap();
        }
        let error = stream.next_chunks().unwrap_err();
        assert_eq!(error.handler_failure().unwrap().message, "after all chunks");
        assert!(stream.next_chunks().unwrap().is_none());
        assert_usable(&channel);
    }
    let mut cancelled = count(&channel, 1 << 40, 100);
    assert!(batch(&mut cancelled, 0, 100).is_some());
    cancelled.cancel();
    let error = loop {
        match cancelled.next_chunks() {
            Ok(chunks) => drop(chunks.unwrap()),
            Err(error) => break error,
        }
    };
    assert!(error.is_cancelled());
    assert_usable(&channel);
}

fn chunks_of_a_batch_stay_what_they_were_when_the_channel_is_closed(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let mut stream = count(&channel, 1 << 40, 100);
    let chunks = stream.next_chunks().unwrap().unwrap();
    channel.close(LONG).unwrap();
    for (number, chunk) in chunks.iter().enumerate() {
        assert!(chunk.to_vec() == pattern(number as u64, 100), "{number}");
    }
    drop(chunks);
    assert_eq!(stream.next_chunks().unwrap_err().kind(), ErrorKind::Closed);
    assert!(stream.next_chunks().unwrap().is_none());
}

fn chunks_that_another_thread_has_read_come_in_batches_too(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let timeout = Duration::from_millis(5);
    let mut stream = count(&channel, 2000, 500);
    let mut next = 0;
    while next < 1900 {
        // This call waits behind the stream, and reads its chunks meanwhile.
        let waits = channel.submit(ECHO, b"x", timeout);
        let _ = waits.and_then(slipring::Pending::wait);
        next = batch(&mut stream, next, 500).unwrap();
    }
    assert_whole(stream, next, 2000, 500);
    assert_usable(&channel);
}

fn a_batch_has_what_was_sent_before_a_death(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let mut stream = count(&channel, 1 << 40, 100);
    let mut next = batch(&mut stream, 0, 100).unwrap();
    send_signal(channel.pid(), libc::SIGKILL);
    let error = loop {
        match stream.next_chunks() {
            Ok(chunks) => {
                for chunk in &chunks.unwrap() {
                    assert!(chunk.to_vec() == pattern(next, 100), "{next}");
                    next += 1;
                }
            }
            Err(error) => break error,
        }
    };
    assert!(error.is_peer_dead(), "{error}");
}

const SEND: Kind = Kind::named("send");

/// A worker that sends a number of chunks at once, and then does what the second number says.
fn serve_batches() -> Channel {
    let make = || {
        Worker::new(|_| Ok(())).on(SEND, |(), request, responder| {
            let [count, what] = numbers(&request.to_vec())[..] else { panic!("two numbers") };
            let mut stream = responder.stream();
            let chunks = (0..count).map(|i| pattern(i, 100)).inspect(|chunk| {
                assert!(what != PANIC_AT_THE_LAST || *chunk != pattern(count - 1, 100));
            });
            stream.send_all(chunks)?;
            if what == WAIT {
                while !request.is_cancelled() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            if what == SEND_A_LONG_ONE {
                stream.send_all([&[7; 100_000][..]])?;
            }
            Ok(stream.end()?)
        })
    };
    testing::spawn_thread(&Config::small(), RoleConfig::default(), make).unwrap()
}

const END: u64 = 0;
const WAIT: u64 = 1;
const PANIC_AT_THE_LAST: u64 = 2;
const SEND_A_LONG_ONE: u64 = 3;

fn send(channel: &Channel, count: u64, what: u64) -> Stream {
    channel.stream(SEND, &encode(&[count, what]), LONG).unwrap()
}

#[test]
fn chunks_that_are_sent_together_come_exactly_once_and_in_order() {
    let channel = serve_batches();
    for count in [0, 1, 31, 5000] {
        assert_whole(send(&channel, count, END), 0, count, 100);
        let chunks: Vec<_> = send(&channel, count, END).map(|c| c.unwrap().to_vec()).collect();
        assert!(chunks == (0..count).map(|i| pattern(i, 100)).collect::<Vec<_>>(), "{count}");
    }
    let mut stream = send(&channel, 1, SEND_A_LONG_ONE);
    assert_eq!(batch(&mut stream, 0, 100), Some(1));
    let chunks = stream.next_chunks().unwrap().unwrap();
    assert!(chunks.iter().map(|chunk| chunk.to_vec()).eq([vec![7; 100_000]]));
}

#[test]
fn a_reader_that_sleeps_is_woken_for_what_was_sent_together() {
    let channel = serve_batches();
    for _ in 0..20 {
        // The reader sleeps long before the worker wakes, and the handler goes on after the chunks.
        let mut stream = send(&channel, 3, WAIT);
        let began = std::time::Instant::now();
        let mut next = 0;
        while next < 3 {
            next = batch(&mut stream, next, 100).unwrap();
        }
        assert!(began.elapsed() < LONG / 2);
        stream.cancel();
    }
}

#[test]
fn an_iterator_that_panics_ends_its_stream_after_the_chunks_before() {
    let channel = serve_batches();
    let mut stream = send(&channel, 10, PANIC_AT_THE_LAST);
    let mut next = 0;
    while next < 9 {
        next = batch(&mut stream, next, 100).unwrap();
    }
    assert_eq!(next, 9);
    assert!(stream.next_chunks().unwrap_err().handler_failure().is_some());
}

#[test]
fn sending_many_chunks_stops_as_soon_as_the_stream_is_cancelled() {
    let channel = serve_batches();
    let mut stream = send(&channel, 1 << 40, END);
    assert!(batch(&mut stream, 0, 100).is_some());
    drop(stream);
    assert_whole(send(&channel, 100, END), 0, 100, 100);
}

fn count_all(channel: &Channel, count: u64, lens: &[u64]) -> Stream {
    channel.stream(COUNT_ALL, &encode(&[&[count], lens].concat()), LONG).unwrap()
}

fn chunks_of_any_length_that_are_sent_together_come_once_and_in_order(backend: Backend) {
    for config in [tiny(4 << 10).build().unwrap(), Config::small(), Config::default()] {
        let channel = backend.spawn(config);
        let frame = channel.config().max_reply_frame() as u64;
        let long = (3 * frame).min(channel.config().max_message() as u64);
        let cases: [(u64, &[u64]); 5] = [
            (0, &[]),
            (10_000, &[64]),
            (3000, &[0, 1, 31, 32, 33, 96, 1000]),
            (300, &[64, 64, 64, 64, frame, 64, 5000]),
            (30, &[10, long, 20, long, frame + 1]),
        ];
        for (count, lens) in cases {
            let mut stream = count_all(&channel, count, lens);
            for number in 0..count / 2 {
                let chunk = stream.next_chunk().unwrap().unwrap().to_vec();
                let len = lens[number as usize % lens.len()];
                assert!(chunk == pattern(number, len as usize), "chunk {number} of {lens:?}");
            }
            let mut number = count / 2;
            while let Some(chunks) = stream.next_chunks().unwrap() {
                for chunk in &chunks {
                    let len = lens[number as usize % lens.len()];
                    let is_same = chunk.to_vec() == pattern(number, len as usize);
                    assert!(is_same, "chunk {number} of {lens:?}, in a batch");
                    number += 1;
                }
            }
            assert_eq!(number, count);
            assert_usable(&channel);
        }
    }
}

fn chunks_that_are_sent_together_stay_within_the_window_of_their_reader(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let window = channel.config().stream_window() as u64;
    let mut stream = count_all(&channel, 20_000, &[100]);
    let mut number = 0;
    for turn in 0..20 {
        // A chunk of 100 bytes takes 192 in the ring. What is buffered was consumed already.
        eventually("the window is full", || {
            let sent = channel.health().bytes_sent / 100 * 192;
            assert!(sent <= number * 192 + 2 * window, "{sent} after {number}");
            sent + 192 > window / 2
        });
        for _ in 0..if turn < 19 { 300 } else { 20_000 - 19 * 300 } {
            let chunk = stream.next_chunk().unwrap().unwrap();
            assert!(chunk.to_vec() == pattern(number, 100), "chunk {number}");
            number += 1;
        }
    }
    assert!(stream.next_chunk().unwrap().is_none());
}

fn sending_together_ends_when_the_stream_is_cancelled_or_dropped(backend: Backend) {
    let channel = backend.spawn(Config::small());
    for lens in [&[64][..], &[0, 5000, 100_000]] {
        let mut stream = count_all(&channel, 1 << 40, lens);
        assert!(stream.next_chunks().unwrap().is_some());
        stream.cancel();
        let error = loop {
            match stream.next_chunks() {
                Ok(chunks) => drop(chunks.unwrap()),
                Err(error) => break error,
            }
        };
        assert!(error.is_cancelled(), "{error}");
        // Waits for credit until it is dropped.
        let stream = count_all(&channel, 1 << 40, lens);
        eventually("the worker is busy", || channel.health().begun == 1);
        drop(stream);
        assert_usable(&channel);
        eventually("it has ended", || channel.health().begun == 0);
    }
}

fn a_parent_that_sleeps_is_woken_for_chunks_that_are_sent_together(backend: Backend) {
    let channel = backend.spawn(Config::default());
    for round in 0..200 {
        // Shorter than what is looked for only now and then.
        let mut stream = count_all(&channel, 1 + round % 3, &[8]);
        for number in 0..1 + round % 3 {
            assert_eq!(stream.next_chunk().unwrap().unwrap().to_vec(), pattern(number, 8));
        }
        assert!(stream.next_chunk().unwrap().is_none());
    }
}
