//! Answers that are filled in place, and answers that are written in parts, of a worker that serves
//! many requests.

use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::common::*;
use slipring::worker::{Incoming, OwnedResponder, TryClaim, TrySend, Worker};
use slipring::{
    Channel, Config, ErrorKind, Kind, Pending, RoleConfig, Stream, StreamTimeouts, testing,
};

const WORK: Kind = Kind::named("work");

/// A channel to a worker thread that hands all requests over to the test.
fn handing_over(config: &Config) -> (Channel, mpsc::Receiver<Incoming>) {
    let (give, given) = mpsc::channel();
    let make = move || {
        Worker::new(|_| Ok(())).inbox(move |(), inbox| {
            loop {
                give.send(inbox.recv()?)?;
            }
        })
    };
    (testing::spawn_thread(config, RoleConfig::default(), make).unwrap(), given)
}

/// A stream, and what answers it.
fn open(channel: &Channel, given: &mpsc::Receiver<Incoming>) -> (Stream, OwnedResponder) {
    let stream = channel.stream(WORK, "", StreamTimeouts::default()).unwrap();
    (stream, given.recv().unwrap().responder)
}

/// A call, and what answers it.
fn submit(channel: &Channel, given: &mpsc::Receiver<Incoming>) -> (Pending, OwnedResponder) {
    let pending = channel.submit(WORK, "", LONG).unwrap();
    (pending, given.recv().unwrap().responder)
}

fn next(stream: &mut Stream) -> Vec<u8> {
    stream.next_chunk().unwrap().expect("one more chunk").to_vec()
}

/// Fills the reply ring with answers that are not read. Returns their requests, and a responder
/// for which there is no room.
fn fill(channel: &Channel, given: &mpsc::Receiver<Incoming>) -> (Vec<Pending>, OwnedResponder) {
    let mut sent = Vec::new();
    loop {
        let (pending, responder) = submit(channel, given);
        sent.push(pending);
        if let TrySend::Full(responder) = responder.try_send(&[7; 1000]).unwrap() {
            return (sent, responder);
        }
    }
}

#[test]
fn chunks_are_filled_in_place_by_other_threads_and_come_in_order() {
    let (channel, given) = handing_over(&Config::small());
    let (mut stream, mut responder) = open(&channel, &given);
    // Much more than the stream's window.
    for n in 0..200_u8 {
        let mut chunk = responder.claim_chunk(1000).unwrap();
        thread::spawn(move || {
            chunk.payload().fill(n);
            chunk.send().unwrap();
        })
        .join()
        .unwrap();
        assert_eq!(next(&mut stream), [n; 1000]);
    }
    responder.end().unwrap();
    assert!(stream.next_chunk().unwrap().is_none());
}

#[test]
fn a_claimed_chunk_that_is_dropped_costs_nothing_and_the_stream_goes_on() {
    let (channel, given) = handing_over(&Config::small());
    let (mut stream, mut responder) = open(&channel, &given);
    let (reading, mut behind) = open(&channel, &given);
    let reader = thread::spawn(move || reading.map(Result::unwrap).fold(0, |count, _| count + 1));
    let window = channel.config().stream_window();
    // No reader gives credit for what was not sent.
    for _ in 0..window / 500 + 10 {
        drop(responder.claim_chunk(1000).unwrap());
        // The reader of another stream takes what takes the place of the chunk out of the ring.
        behind.send_chunk("").unwrap();
    }
    behind.end().unwrap();
    responder.send_chunk("sent").unwrap();
    drop(responder.claim_chunk(10).unwrap());
    responder.end().unwrap();
    assert_eq!(next(&mut stream), b"sent");
    assert!(stream.next_chunk().unwrap().is_none());
    assert_eq!(reader.join().unwrap(), window / 500 + 10);
    assert_eq!(channel.stats().unknown_frames, 0);
}

#[test]
fn what_is_truncated_has_the_shorter_length_and_costs_no_more() {
    let (channel, given) = handing_over(&Config::small());
    let (mut stream, mut responder) = open(&channel, &given);
    let window = channel.config().stream_window();
    let mut sent = 0;
    // So many chunks would not fit the window at the length for which they are claimed.
    while (sent + 2) * 64 <= window
        && let Some(mut chunk) = responder.try_claim_chunk(1000).unwrap()
    {
        chunk.payload()[..8].copy_from_slice(&(sent as u64).to_le_bytes());
        chunk.truncate(2000);
        assert_eq!(chunk.payload().len(), 1000);
        chunk.truncate(8);
        chunk.send().unwrap();
        sent += 1;
        if sent % 2 == 0 {
            // Reads what lies between.
            let (pending, responder) = submit(&channel, &given);
            responder.send("").unwrap();
            pending.wait().unwrap();
        }
    }
    assert!(sent * 1000 > window, "{sent} chunks");
    for n in 0..sent {
        assert_eq!(numbers(&next(&mut stream)), [n as u64]);
    }
    responder.end().unwrap();
    assert!(stream.next_chunk().unwrap().is_none());
    let (pending, responder) = submit(&channel, &given);
    let mut slot = responder.claim(1000).unwrap();
    slot.payload().fill(5);
    slot.truncate(70);
    slot.send().unwrap();
    assert_eq!(pending.wait().unwrap().to_vec(), [5; 70]);
    assert_eq!(channel.stats().unknown_frames, 0);
}

#[test]
fn a_stream_has_one_claimed_chunk_at_a_time_and_its_end_comes_after_it() {
    let (channel, given) = handing_over(&Config::small());
    let (mut stream, mut responder) = open(&channel, &given);
    let first = responder.claim_chunk(3).unwrap();
    for error in [
        responder.claim_chunk(3).unwrap_err(),
        responder.try_claim_chunk(3).unwrap_err(),
        responder.send_chunk("abc").unwrap_err(),
        responder.try_send_chunk("abc").unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    drop(first);
    let error = responder.claim_chunk(channel.config().max_reply_frame() + 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    responder.send_chunk("one").unwrap();
    let mut last = responder.claim_chunk(4).unwrap();
    responder.end().unwrap();
    let (pending, other) = submit(&channel, &given);
    other.send("behind").unwrap();
    last.payload().copy_from_slice(b"last");
    last.send().unwrap();
    assert_eq!(pending.wait().unwrap().to_vec(), b"behind");
    assert_eq!(next(&mut stream), b"one");
    assert_eq!(next(&mut stream), b"last");
    assert!(stream.next_chunk().unwrap().is_none());
}

#[test]
fn a_chunk_is_claimed_without_a_wait_if_there_is_credit_and_room() {
    let (channel, given) = handing_over(&Config::small());
    let (mut stream, mut responder) = open(&channel, &given);
    let (mut other, mut without_room) = open(&channel, &given);
    let mut sent = 0;
    while let Some(mut chunk) = responder.try_claim_chunk(1000).unwrap() {
        chunk.payload().fill(sent);
        chunk.send().unwrap();
        sent += 1;
    }
    assert!(usize::from(sent) * 1088 <= channel.config().stream_window(), "{sent} chunks");
    let (pending, full) = fill(&channel, &given);
    assert!(without_room.try_claim_chunk(1000).unwrap().is_none());
    for n in 0..sent {
        assert_eq!(next(&mut stream), [n; 1000]);
    }
    full.send("").unwrap();
    pending.into_iter().for_each(|pending| drop(pending.wait().unwrap()));
    for (stream, responder) in [(&mut stream, &mut responder), (&mut other, &mut without_room)] {
        let mut chunk = responder.try_claim_chunk(4).unwrap().expect("there is room again");
        chunk.payload().copy_from_slice(b"more");
        chunk.send().unwrap();
        assert_eq!(next(stream), b"more");
    }
    drop((stream, other));
    eventually("it is cancelled", || responder.is_cancelled());
    let error = responder.try_claim_chunk(4).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[test]
fn an_answer_is_claimed_without_a_wait_if_there_is_room() {
    let (channel, given) = handing_over(&Config::small());
    let (mut pending, full) = fill(&channel, &given);
    let TryClaim::Full(full) = full.try_claim(1000).unwrap() else { panic!("there is no room") };
    let last = pending.pop().unwrap();
    for pending in pending {
        assert_eq!(pending.wait().unwrap().to_vec(), [7; 1000]);
    }
    let TryClaim::Claimed(mut slot) = full.try_claim(4).unwrap() else { panic!("there is room") };
    slot.payload().copy_from_slice(b"here");
    slot.send().unwrap();
    assert_eq!(last.wait().unwrap().to_vec(), b"here");
    let (pending, responder) = submit(&channel, &given);
    let too_long = channel.config().max_reply_frame() + 1;
    assert_eq!(responder.try_claim(too_long).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::HandlerFailed);
}

#[test]
fn an_answer_that_is_written_in_parts_comes_whole_and_lets_others_pass() {
    let (channel, given) = handing_over(&Config::small());
    let bytes = pattern(3, 16 * channel.config().max_reply_frame());
    let (whole, responder) = submit(&channel, &given);
    let mut writer = responder.write();
    let writing = thread::spawn({
        let bytes = bytes.clone();
        move || {
            for part in bytes.chunks(777) {
                writer.write_all(part).unwrap();
            }
            writer.finish().unwrap();
        }
    });
    // Others are answered before and while it is read.
    for n in 0..20_u8 {
        let (other, responder) = submit(&channel, &given);
        let answering = thread::spawn(move || responder.send(&[n]).unwrap());
        assert_eq!(other.wait().unwrap().to_vec(), [n]);
        answering.join().unwrap();
    }
    assert_eq!(whole.wait().unwrap().to_vec(), bytes);
    writing.join().unwrap();
    let (empty, responder) = submit(&channel, &given);
    responder.write().finish().unwrap();
    assert!(empty.wait().unwrap().is_empty());
}

#[test]
fn of_an_answer_that_is_not_finished_its_caller_gets_nothing() {
    let (channel, given) = handing_over(&Config::small());
    // Several frames of each have gone out.
    let written = |responder: OwnedResponder| {
        let mut writer = responder.write();
        writer.push(&vec![1; 3 * channel.config().max_reply_frame()]).unwrap();
        writer
    };
    let (dropped, responder) = submit(&channel, &given);
    let waiting = thread::spawn(move || dropped.wait().unwrap_err());
    drop(written(responder));
    let error = waiting.join().unwrap();
    assert_eq!(error.handler_failure().unwrap().type_name, "slipring::NoReply");
    let (failed, responder) = submit(&channel, &given);
    let waiting = thread::spawn(move || failed.wait().unwrap_err());
    written(responder).fail("the model is gone");
    let error = waiting.join().unwrap();
    assert_eq!(error.handler_failure().unwrap().message, "the model is gone");
    let (after, responder) = submit(&channel, &given);
    responder.send("after").unwrap();
    assert_eq!(after.wait().unwrap().to_vec(), b"after");
}

#[test]
fn a_writer_sees_a_cancel_and_refuses_what_is_too_long() {
    let config = Config::small().to_builder().max_message(100_000).build().unwrap();
    let (channel, given) = handing_over(&config);
    let (cancelled, responder) = submit(&channel, &given);
    let mut writer = responder.write();
    writer.push(b"begun").unwrap();
    cancelled.cancel();
    let error = writer.push(&[0; 50_000]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    writer.fail(error);
    assert_eq!(cancelled.wait().unwrap_err().kind(), ErrorKind::Cancelled);
    let (pending, responder) = submit(&channel, &given);
    let mut writer = responder.write();
    writer.push(b"all").unwrap();
    let error = writer.push(&[0; 100_000]).unwrap_err();
    assert_eq!(error.length_and_limit(), Some((100_003, 100_000)));
    writer.finish().unwrap();
    assert_eq!(pending.wait().unwrap().to_vec(), b"all");
}

#[test]
fn the_end_of_the_worker_ends_a_writer_that_waits_for_room() {
    let (channel, given) = handing_over(&Config::small());
    let (_pending, responder) = submit(&channel, &given);
    let mut writer = responder.write();
    let len = 16 * channel.config().max_reply_frame();
    let writing = thread::spawn(move || writer.push(&vec![0; len]).unwrap_err());
    thread::sleep(Duration::from_millis(20));
    channel.abort();
    assert_eq!(writing.join().unwrap().kind(), ErrorKind::Cancelled);
}

#[cfg(feature = "tokio")]
#[test]
fn tasks_fill_chunks_in_place_and_write_answers_in_parts() {
    use crate::executors::{all, current_thread};

    let (channel, given) = handing_over(&Config::small());
    let requests: Vec<_> = (0..40)
        .map(|n| match n % 2 {
            0 => (Some(submit(&channel, &given)), None),
            _ => (None, Some(open(&channel, &given))),
        })
        .collect();
    let (mut tasks, mut calls, mut streams) = (Vec::new(), Vec::new(), Vec::new());
    for (n, (call, stream)) in requests.into_iter().enumerate() {
        let bytes = pattern(n as u64, 20_000);
        let mut responders = (None, None);
        if let Some((pending, responder)) = call {
            calls.push((pending, bytes.clone()));
            responders.0 = Some(responder);
        }
        if let Some((stream, responder)) = stream {
            streams.push((stream, bytes.clone()));
            responders.1 = Some(responder);
        }
        tasks.push(async move {
            if let Some(responder) = responders.0 {
                let mut writer = responder.write();
                for part in bytes.chunks(3000) {
                    writer.push_async(part).await.unwrap();
                }
                writer.finish_async().await.unwrap();
            }
            if let Some(mut responder) = responders.1 {
                for part in bytes.chunks(500) {
                    let mut chunk = responder.claim_chunk_async(600).await.unwrap();
                    chunk.payload()[..part.len()].copy_from_slice(part);
                    chunk.truncate(part.len());
                    chunk.send().unwrap();
                }
                responder.end().unwrap();
            }
        });
    }
    let answering = thread::spawn(move || drop(current_thread().block_on(all(tasks))));
    for (stream, bytes) in streams {
        let all: Vec<u8> = stream.flat_map(|chunk| chunk.unwrap().to_vec()).collect();
        assert_eq!(all, bytes);
    }
    for (pending, bytes) in calls {
        assert_eq!(pending.wait().unwrap().to_vec(), bytes);
    }
    answering.join().unwrap();
}

/// Encodes as its length, unless it is told to fail.
struct Picky(usize);

impl slipring::payload::Payload for Picky {
    fn encoded_len(&self) -> usize {
        self.0
    }

    fn encode(&self, out: &mut [u8]) -> slipring::Result<()> {
        if self.0 == 13 {
            return slipring::PeerBytes::of(&[0xff]).text().map(drop);
        }
        out.fill(self.0 as u8);
        Ok(())
    }
}

#[test]
fn an_error_or_a_panic_between_chunks_leaves_those_before_sent() {
    let (channel, given) = handing_over(&Config::small());
    let (mut stream, mut responder) = open(&channel, &given);
    // The reader sleeps meanwhile, and must be woken for what was sent.
    let reading = thread::spawn(move || {
        let chunks: Vec<_> = (0..5).map(|_| next(&mut stream)).collect();
        (stream, chunks)
    });
    thread::sleep(Duration::from_millis(30));
    let error = responder.send_all([1, 2, 13, 3].map(Picky)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPayload);
    let error = responder.send_all([Picky(3), Picky(usize::MAX)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    thread::sleep(Duration::from_millis(30));
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        responder.send_all([4, 5, 0].into_iter().map(|n| match n {
            0 => panic!("no more of them"),
            n => Picky(n),
        }))
    }));
    assert!(panics.is_err());
    let (mut stream, chunks) = reading.join().unwrap();
    let expected: Vec<_> = [1, 2, 3, 4, 5].map(|n| vec![n; n.into()]).into();
    assert_eq!(chunks, expected);
    responder.send_all(["the stream goes on"]).unwrap();
    assert_eq!(next(&mut stream), b"the stream goes on");
    let chunk = responder.claim_chunk(8).unwrap();
    let refused = responder.send_all(["behind it"]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "a chunk is claimed");
    drop(chunk);
    responder.end().unwrap();
    assert!(stream.next_chunk().unwrap().is_none());
}

#[test]
fn chunks_that_are_sent_together_wait_for_room_that_others_take() {
    let (channel, given) = handing_over(&Config::small());
    let (mut stream, mut responder) = open(&channel, &given);
    let (sent, waiting) = fill(&channel, &given);
    let sending = thread::spawn(move || {
        responder.send_all((0..500).map(|n| pattern(n, n as usize % 200))).unwrap();
        responder.end().unwrap();
    });
    thread::sleep(Duration::from_millis(50));
    assert!(!sending.is_finished(), "there is no room");
    for n in 0..500 {
        assert_eq!(next(&mut stream), pattern(n, n as usize % 200), "chunk {n}");
    }
    assert!(stream.next_chunk().unwrap().is_none());
    sending.join().unwrap();
    for pending in sent.into_iter().rev().skip(1) {
        assert_eq!(pending.wait().unwrap().to_vec(), [7; 1000]);
    }
    drop(waiting);
}

#[cfg(feature = "tokio")]
#[test]
fn a_dropped_send_of_chunks_leaves_its_iterator_at_the_first_unsent() {
    use crate::executors::poll_times;
    for polls in 0..5 {
        for lens in [[100, 10, 1000], [0, 0, 0], [64, 4000, 64]] {
            let (channel, given) = handing_over(&Config::small());
            let (mut stream, mut responder) = open(&channel, &given);
            let chunk = move |n: u64| pattern(n, lens[n as usize % 3]);
            let mut chunks = (0..5000).map(chunk).peekable();
            let reading = thread::spawn(move || {
                for n in 0..5000 {
                    assert!(next(&mut stream) == chunk(n), "chunk {n}");
                    if n % 1000 == 500 {
                        thread::sleep(Duration::from_millis(5));
                    }
                }
                assert!(stream.next_chunk().unwrap().is_none());
            });
            while chunks.peek().is_some() {
                // Dropped while it waits for credit or room.
                let sending = responder.send_all_async(&mut chunks);
                if let Some(sent) = poll_times(polls, Duration::from_micros(50), sending) {
                    sent.unwrap();
                }
                if polls == 0 {
                    let first = chunks.next();
                    responder.send_chunk(&first.unwrap()).unwrap();
                }
            }
            responder.end().unwrap();
            reading.join().unwrap();
        }
    }
}
