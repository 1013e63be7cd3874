//! Models of a pipe's direction: no wake-up is lost, no byte is made up, and what is read was
//! written. A lost wake-up is a deadlock, as no wait ends by itself here. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p slipring --release --lib pipe::models`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::mem::MaybeUninit;
use std::time::Duration;

use loom::thread;

use super::*;
use crate::shm::byte_ring::initialized;
use crate::shm::bytes::PeerBytes;
use crate::shm::model;
use crate::sync::fence;
use crate::sys::wake_socket::WakeSocket;

/// How often one run may switch to another thread although the running one could go on.
const PREEMPTIONS: usize = 3;

/// Four chunks of the longest kind.
const CAPACITY: usize = 256;

const AT: Direction = Direction {
    tail: 0,
    writer_cpu: 8,
    head: 64,
    polled: 72,
    reader_cpu: 76,
    bytes_bell: 128,
    reader_closed: 136,
    room_bell: 192,
    ring: 256,
    capacity: CAPACITY,
};

fn check(question: impl Fn() + Sync + Send + 'static) {
    check_up_to(PREEMPTIONS, question);
}

fn check_up_to(preemptions: usize, question: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = 20_000;
    builder.check(move || {
        // Makes the model of the order of fences before the threads.
        fence(Ordering::SeqCst);
        question();
    });
}

struct Ends {
    memory: OwnRegion,
    reading: Arc<Sockets>,
    reader: PipeReader,
    writer: PipeWriter,
}

fn ends() -> Ends {
    let (memory, _) = model::region(AT.ring + CAPACITY);
    prepare(&memory, &AT).unwrap();
    let ([bytes, other_bytes], [room, other_room]) = (WakeSocket::pair(), WakeSocket::pair());
    let reading = Arc::new(Sockets::new(bytes, room));
    let writing = Arc::new(Sockets::new(other_bytes, other_room));
    let reader = reader(&memory, &AT, &reading).unwrap();
    let writer = writer(&memory, &AT, &writing).unwrap();
    Ends { memory, reading, reader, writer }
}

/// Sends a message of so many bytes, all of which are `byte`.
fn send(writer: &mut PipeWriter, byte: u8, len: usize) {
    writer.begin(len as u64, 1).unwrap();
    let bytes = vec![byte; len];
    let mut rest = PeerBytes::of(&bytes);
    loop {
        let sent = writer.write(rest).unwrap();
        rest = rest.split_at(sent).1;
        if !writer.is_sending() {
            return;
        }
        let _ = writer.wait(Duration::MAX);
    }
}

fn take(reader: &mut PipeReader, byte: u8, len: usize) {
    while reader.start().unwrap().is_none() {
        let _ = reader.watch().wait(Duration::MAX);
    }
    let mut bytes = vec![MaybeUninit::new(0); len];
    let mut filled = 0;
    loop {
        match reader.read(&mut bytes[filled..]).unwrap() {
            Progress::Whole(count) => break assert_eq!(filled + count, len),
            Progress::Part(count) => filled += count,
            Progress::Abandoned => panic!("abandoned"),
        }
        let _ = reader.watch().wait(Duration::MAX);
    }
    assert_eq!(initialized(&bytes), vec![byte; len]);
}

#[test]
fn a_reader_that_sleeps_is_woken_for_every_message() {
    check(|| {
        let Ends { mut reader, mut writer, .. } = ends();
        let sender = thread::spawn(move || {
            send(&mut writer, 1, 8);
            send(&mut writer, 2, 8);
            writer
        });
        take(&mut reader, 1, 8);
        take(&mut reader, 2, 8);
        drop(sender.join().unwrap());
    });
}

#[test]
fn a_writer_that_waits_for_room_is_woken() {
    check(|| {
        let Ends { mut reader, mut writer, .. } = ends();
        (1..=4).for_each(|byte| send(&mut writer, byte, 8));
        let sender = thread::spawn(move || {
            send(&mut writer, 5, 8);
            send(&mut writer, 6, 8);
            writer
        });
        (1..=6).for_each(|byte| take(&mut reader, byte, 8));
        drop(sender.join().unwrap());
    });
}

#[test]
fn a_message_that_is_longer_than_the_ring_arrives() {
    check_up_to(2, || {
        let Ends { mut reader, mut writer, .. } = ends();
        let sender = thread::spawn(move || {
            send(&mut writer, 1, 5 * 48);
            writer
        });
        take(&mut reader, 1, 5 * 48);
        drop(sender.join().unwrap());
    });
}

#[test]
fn the_descriptor_is_readable_exactly_if_a_message_is_there() {
    check(|| {
        let Ends { mut reader, mut writer, reading, memory } = ends();
        send(&mut writer, 1, 8);
        // A reactor polls from now on.
        memory.u32_at(AT.polled).unwrap().store(1, Ordering::Relaxed);
        let sender = thread::spawn(move || {
            send(&mut writer, 2, 8);
            send(&mut writer, 3, 8);
            writer
        });
        let socket = reading.of(Line::Bytes);
        for byte in 1..=3 {
            // The last one may be found by a look, before the writer has rung for it.
            if byte < 3 || !reader.watch().has_bytes() {
                assert!(socket.wait(Duration::MAX).is_readable);
                assert!(reader.watch().has_bytes(), "readable, but nothing is there");
            }
            take(&mut reader, byte, 8);
            reader.watch().settle();
        }
        drop(sender.join().unwrap());
        assert!(!socket.wait(Duration::ZERO).is_readable, "readable, but nothing is there");
    });
}

#[test]
fn the_next_message_wakes_if_the_last_writer_was_killed_before_its_byte() {
    check(|| {
        let Ends { mut reader, mut writer, reading, memory } = ends();
        memory.u32_at(AT.polled).unwrap().store(1, Ordering::Relaxed);
        send(&mut writer, 1, 8);
        take(&mut reader, 1, 8);
        reader.watch().settle();
        // Another holder of the writing end, which is killed.
        writer.bytes.ring_without_byte();
        let sender = thread::spawn(move || {
            send(&mut writer, 2, 8);
            writer
        });
        let socket = reading.of(Line::Bytes);
        assert!(socket.wait(Duration::MAX).is_readable);
        assert!(reader.watch().has_bytes(), "readable, but nothing is there");
        take(&mut reader, 2, 8);
        reader.watch().settle();
        drop(sender.join().unwrap());
        assert!(!socket.wait(Duration::ZERO).is_readable, "readable, but nothing is there");
    });
}

#[test]
fn the_next_message_wakes_a_reader_that_arms_after_a_killed_writer() {
    check(|| {
        let Ends { mut reader, mut writer, reading, memory } = ends();
        memory.u32_at(AT.polled).unwrap().store(1, Ordering::Relaxed);
        send(&mut writer, 1, 8);
        take(&mut reader, 1, 8);
        reader.watch().settle();
        // Another holder of the writing end publishes, and is killed before its byte.
        memory.u64_at(AT.bytes_bell).unwrap().store(QUIET, Ordering::Relaxed);
        send(&mut writer, 2, 8);
        writer.bytes.ring_without_byte();
        let sender = thread::spawn(move || {
            send(&mut writer, 3, 8);
            writer
        });
        // A look has found the message.
        take(&mut reader, 2, 8);
        reader.watch().settle();
        let socket = reading.of(Line::Bytes);
        assert!(socket.wait(Duration::MAX).is_readable);
        assert!(reader.watch().has_bytes(), "readable, but nothing is there");
        take(&mut reader, 3, 8);
        reader.watch().settle();
        drop(sender.join().unwrap());
        // A byte that came after the reader's patience was over.
        let _ = reader.watch().look();
        assert!(!socket.wait(Duration::ZERO).is_readable, "readable, but nothing is there");
    });
}

#[test]
fn two_holders_of_an_end_wait_at_the_same_time() {
    check(|| {
        let Ends { mut reader, mut writer, reading, memory } = ends();
        let other = super::reader(&memory, &AT, &reading).unwrap();
        let waiter = thread::spawn(move || {
            // It only looks: another holder takes the message.
            let _ = other.watch().wait(Duration::MAX);
        });
        let sender = thread::spawn(move || {
            send(&mut writer, 1, 8);
            writer
        });
        waiter.join().unwrap();
        take(&mut reader, 1, 8);
        drop(sender.join().unwrap());
    });
}
