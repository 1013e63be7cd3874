//! Once it is warm, the parent's side of the hot paths does not allocate. These tests have a binary
//! of their own because they replace the allocator.
#![allow(unsafe_code, reason = "a global allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use slipring::payload::{ElementType, MatrixReader, MatrixShape, MatrixWriter, TextBatch, Texts};
use slipring::ring::Header;
use slipring::worker::{Worker, attach_raw, is_worker};
use slipring::{Channel, Config, Kind, Spawner};

const LONG: Duration = Duration::from_secs(60);
const ECHO: Kind = Kind::named("echo");
const CHUNKS: Kind = Kind::named("chunks");
const ROUNDS: u64 = 1000;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts the calls of each thread.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count() {
    // A thread that is ending has no counter any more, and is not measured.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: everything is the system allocator's own; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: what the caller vouches for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: what the caller vouches for.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: what the caller vouches for.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Allocations of this thread while `work` runs.
fn allocations(mut work: impl FnMut()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// Not a test of its own: what a worker process runs.
#[test]
fn worker_entry() {
    if !is_worker() {
        return;
    }
    if std::env::var_os("ALLOCATIONS_RAW").is_some() {
        let (mut link, _) = attach_raw().unwrap();
        let mut buffer = [0; 64];
        loop {
            // The loop ends when the parent closes the link.
            let Ok(frame) = link.recv(LONG) else { return };
            frame.payload().copy_to(&mut buffer).unwrap();
            drop(frame);
            let mut claim = link.claim(64, LONG).unwrap();
            claim.payload().copy_from_slice(&buffer);
            claim.commit(Header::default());
        }
    }
    let worker = Worker::new(|_| Ok(()))
        .on(ECHO, |(), request, responder| {
            let mut slot = responder.claim(request.len())?;
            request.payload().copy_to(slot.payload())?;
            Ok(slot.send())
        })
        .on(Kind::EMBED, |(), request, responder| {
            let texts = Texts::decode(request)?;
            let shape = MatrixShape::new(texts.len(), 384, ElementType::F32)?;
            let mut slot = responder.claim(shape.encoded_len())?;
            let mut matrix = MatrixWriter::new(slot.payload(), shape)?;
            for row in 0..texts.len() {
                matrix.row_f32_mut(row)?.fill(2.5);
            }
            Ok(slot.send())
        })
        .on(CHUNKS, |(), request, responder| {
            let mut chunks = responder.stream();
            for _ in 0..ROUNDS {
                chunks.send_with(request.len(), |slot| slot.fill(7))?;
            }
            Ok(chunks.end()?)
        });
    worker.serve().unwrap();
}

fn spawner() -> Spawner {
    let args = ["worker_entry", "--exact", "--nocapture", "--test-threads=1"];
    Spawner::current_exe().unwrap().role("allocations").args(args)
}

fn channel() -> Channel {
    let channel = spawner().config(Config::default()).spawn().unwrap();
    channel.wait_ready(LONG).unwrap();
    channel
}

fn call(channel: &Channel, message: &[u8]) {
    let mut answer = [0; 64];
    let reply = channel.call(ECHO, message, LONG).unwrap();
    reply.payload().copy_to(&mut answer).unwrap();
    assert_eq!(answer, message);
}

#[test]
fn a_round_trip_over_the_raw_rings_does_not_allocate() {
    let mut link = spawner().env("ALLOCATIONS_RAW", "1").spawn_raw().unwrap();
    let mut round_trip = || {
        let mut claim = link.claim(64, LONG).unwrap();
        claim.payload().fill(9);
        claim.commit(Header::default());
        let frame = link.recv(LONG).unwrap();
        let mut answer = [0; 64];
        frame.payload().copy_to(&mut answer).unwrap();
        assert_eq!(answer, [9; 64]);
    };
    round_trip();
    let found = allocations(|| (0..ROUNDS).for_each(|_| round_trip()));
    assert_eq!(found, 0, "in {ROUNDS} round trips");
    link.close(LONG).unwrap();
}

#[test]
fn a_call_with_a_small_reply_does_not_allocate() {
    let channel = channel();
    let message = [5; 64];
    // By then every slot of the pending table has been used once.
    for _ in 0..2 * channel.config().max_in_flight() {
        call(&channel, &message);
    }
    let found = allocations(|| (0..ROUNDS).for_each(|_| call(&channel, &message)));
    assert_eq!(found, 0, "in {ROUNDS} calls");
    channel.close(LONG).unwrap();
}

#[test]
fn an_embedding_call_into_warm_buffers_does_not_allocate() {
    let channel = channel();
    let texts: Vec<String> = (0..64).map(|n| format!("text number {n}")).collect();
    let mut matrix = vec![0.0; 64 * 384];
    let mut embed = || {
        let batch = TextBatch::new(&texts).unwrap();
        let reply = channel.call(Kind::EMBED, &batch, LONG).unwrap();
        MatrixReader::new(&reply).unwrap().copy_to_f32(&mut matrix).unwrap();
        assert_eq!(matrix[64 * 384 - 1], 2.5);
    };
    // By then every slot of the pending table has been used once.
    (0..1100).for_each(|_| embed());
    assert_eq!(allocations(|| (0..100).for_each(|_| embed())), 0, "in 100 calls");
    channel.close(LONG).unwrap();
}

#[test]
fn a_stream_of_chunks_does_not_allocate() {
    let channel = channel();
    let request = vec![0; 4096];
    let mut answer = vec![0; 4096];
    let mut read = || {
        let mut chunks = 0;
        for chunk in channel.stream(CHUNKS, &request, LONG).unwrap() {
            chunk.unwrap().payload().copy_to(&mut answer).unwrap();
            chunks += 1;
        }
        assert_eq!((chunks, answer[4095]), (ROUNDS, 7));
    };
    // By then every slot of the pending table has been used once.
    for _ in 0..channel.config().max_in_flight() {
        call(&channel, &[1; 64]);
    }
    read();
    let found = allocations(read);
    assert_eq!(found, 0, "in {ROUNDS} chunks");
    channel.close(LONG).unwrap();
}

#[test]
fn what_allocates_is_counted() {
    assert_eq!(allocations(|| drop(vec![1, 2, 3])), 1);
    let channel = channel();
    call(&channel, &[5; 64]);
    let found = allocations(|| drop(channel.call(ECHO, &[5; 64][..], LONG).unwrap().to_vec()));
    assert!(found >= 1, "a copy of the reply");
    channel.close(LONG).unwrap();
}
