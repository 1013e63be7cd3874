//! Long replies and streams that several threads of a worker send at the same time, against a
//! reference.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::common::*;
use slipring::worker::{HandlerError, Inbox, Worker};
use slipring::{Channel, Kind, Pending, RoleConfig, Stream, StreamTimeouts, testing};

const WORK: Kind = Kind::named("work");

/// What a request asks for: the lengths of its chunks, or of its reply.
#[derive(Debug, Clone)]
enum Asked {
    Call(usize),
    /// A reply that is written in parts of at most this length.
    Written(usize, usize),
    Stream(Vec<usize>),
    /// Chunks that are filled in place, and claimed with so many bytes too many. Some are dropped.
    InPlace(Vec<usize>, usize),
}

fn asked() -> impl Strategy<Value = Asked> {
    // Up to some times the ring, so that messages go in several pieces.
    let len = || prop_oneof![0..200_usize, 0..20_000_usize];
    prop_oneof![
        len().prop_map(Asked::Call),
        (len(), 1..3000_usize).prop_map(|(len, part)| Asked::Written(len, part)),
        prop::collection::vec(len(), 0..8).prop_map(Asked::Stream),
        (prop::collection::vec(0..1000_usize, 0..20), 0..300_usize)
            .prop_map(|(lens, more)| Asked::InPlace(lens, more)),
    ]
}

/// The bytes of the message `index` of a request.
fn message(request: usize, index: usize, len: usize) -> Vec<u8> {
    pattern((request << 8 | index) as u64, len)
}

/// Takes requests, each of which holds its own number and what it asks for, and answers them.
fn serve(inbox: &Inbox, asked: &[Asked]) -> Result<(), HandlerError> {
    loop {
        let incoming = inbox.recv()?;
        let request = numbers(&incoming.request.get().to_vec())[0] as usize;
        let mut responder = incoming.responder;
        match &asked[request] {
            Asked::Call(len) => responder.send(&message(request, 0, *len))?,
            Asked::Written(len, part) => {
                let mut writer = responder.write();
                for part in message(request, 0, *len).chunks(*part) {
                    writer.push(part)?;
                }
                writer.finish()?;
            }
            Asked::InPlace(lens, more) => {
                for (index, len) in lens.iter().enumerate() {
                    if index % 3 == 0 {
                        drop(responder.claim_chunk(*len)?);
                    }
                    let mut chunk = responder.claim_chunk(len + more)?;
                    chunk.truncate(*len);
                    chunk.payload().copy_from_slice(&message(request, index, *len));
                    chunk.send()?;
                }
                responder.end()?;
            }
            Asked::Stream(lens) => {
                for (index, len) in lens.iter().enumerate() {
                    responder.send_chunk(&message(request, index, *len))?;
                }
                responder.end()?;
            }
        }
    }
}

/// A channel to a worker whose threads answer these requests.
fn channel(asked: &[Asked], threads: usize) -> Channel {
    let asked = Arc::new(asked.to_vec());
    let make = move || {
        Worker::new(|_| Ok(())).inbox(move |(), inbox| {
            thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| serve(inbox, &asked));
                }
            });
            Ok(())
        })
    };
    let config = tiny(4 << 10).stream_window(2 << 10).build().unwrap();
    testing::spawn_thread(&config, RoleConfig::default(), make).unwrap()
}

enum Sent {
    Call(Pending, usize),
    Stream(Box<Stream>, Vec<usize>),
}

fn send(channel: &Channel, request: usize, asked: &Asked) -> Sent {
    let number = (request as u64).to_le_bytes();
    match asked {
        Asked::Call(len) | Asked::Written(len, _) => {
            Sent::Call(channel.submit(WORK, &number, LONG).unwrap(), *len)
        }
        Asked::Stream(lens) | Asked::InPlace(lens, _) => {
            let timeouts = StreamTimeouts::from(LONG);
            Sent::Stream(Box::new(channel.stream(WORK, &number, timeouts).unwrap()), lens.clone())
        }
    }
}

/// Reads what a request gets, and compares it with the reference.
fn compare(request: usize, sent: Sent, how: usize) -> TestCaseResult {
    match sent {
        Sent::Call(pending, len) if how.is_multiple_of(2) => {
            prop_assert_eq!(pending.wait().unwrap().to_vec(), message(request, 0, len));
        }
        Sent::Call(pending, len) => {
            let mut bytes = Vec::new();
            pending.wait_reader().unwrap().append_to(&mut bytes).unwrap();
            prop_assert_eq!(bytes, message(request, 0, len));
        }
        Sent::Stream(stream, lens) => {
            let mut stream = *stream;
            // Each chunk whole, in a batch, piece by piece, or dropped half way.
            let mut lens = lens.iter().enumerate();
            while let Some((index, len)) = lens.next() {
                let expected = message(request, index, *len);
                match (how + index) % 5 {
                    0 => prop_assert_eq!(stream.next_chunk().unwrap().unwrap().to_vec(), expected),
                    1 => {
                        let mut part = vec![0; len / 2];
                        stream.next_reader().unwrap().unwrap().read_exact(&mut part).unwrap();
                        prop_assert_eq!(&part, &expected[..part.len()]);
                    }
                    2 => {
                        let chunks = stream.next_chunks().unwrap().unwrap();
                        let mut chunks = chunks.iter();
                        prop_assert_eq!(chunks.next().unwrap().to_vec(), expected);
                        for chunk in chunks {
                            let (index, len) = lens.next().unwrap();
                            prop_assert_eq!(chunk.to_vec(), message(request, index, *len));
                        }
                    }
                    _ => {
                        let mut bytes = vec![0; *len];
                        stream.next_reader().unwrap().unwrap().copy_to(&mut bytes).unwrap();
                        prop_assert_eq!(bytes, expected);
                    }
                }
            }
            prop_assert!(stream.next_reader().unwrap().is_none());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn messages_that_threads_interleave_come_whole_and_in_order(
        asked in prop::collection::vec(asked(), 1..10),
        (threads, readers, how) in (1..6_usize, 1..4_usize, 0..5_usize),
    ) {
        let channel = channel(&asked, threads);
        let next = AtomicUsize::new(0);
        let results: Vec<TestCaseResult> = thread::scope(|scope| {
            let readers: Vec<_> = (0..readers)
                .map(|_| {
                    scope.spawn(|| -> TestCaseResult {
                        loop {
                            // Two at a time, so that each reads for others.
                            let first = next.fetch_add(2, Ordering::Relaxed);
                            let pair: Vec<_> = (first..asked.len().min(first + 2))
                                .map(|n| (n, send(&channel, n, &asked[n])))
                                .collect();
                            if pair.is_empty() {
                                return Ok(());
                            }
                            for (request, sent) in pair {
                                compare(request, sent, how)?;
                            }
                        }
                    })
                })
                .collect();
            readers.into_iter().map(|reader| reader.join().unwrap()).collect()
        });
        results.into_iter().collect::<TestCaseResult>()?;
        prop_assert_eq!(channel.stats().unknown_frames, 0);
        channel.close(LONG).unwrap();
    }
}
