//! Models of the ring and its doorbell. The checker runs each model in every order in which the
//! steps of its two or three threads can happen, with every value that their loads may see, up to
//! [`PREEMPTIONS`].
//!
//! One model asks one question. In a model no sleeper wakes without a reason and no time passes.
//! So a lost wake-up is a deadlock, which the checker reports. The checker tracks payloads by the
//! line: a slot that is filled while it is read, or read before it is filled, is a race. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p slipring --release --lib ring::models`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::doorbell::Alarm;
use super::testing::{RigOptions, RingRig, claim_batch, rig, rig_with};
use super::{Consumer, Header, Lease, Producer};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::layout::as_u64;
use crate::sync::Ordering;
use crate::sys::clock::Deadline;
use crate::sys::wake_fd::WakeFd;

mod anew;
mod hostile;
mod leases;
mod open_slots;
mod reactors;
mod waking;

/// How often one run may switch to another thread although the running one could go on.
const PREEMPTIONS: usize = 3;

/// The smallest ring has four slots; its longest frame takes two.
const CAPACITY: usize = 256;
const LONGEST: usize = 96;
/// A position with three slots before positions wrap to zero.
const ORIGIN: u64 = u64::MAX - 191;

fn model(question: impl Fn() + Sync + Send + 'static) {
    model_up_to(PREEMPTIONS, question);
}

/// Runs a model with at most so many preemptions.
pub(crate) fn model_up_to(preemptions: usize, question: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    // A run in which one thread is never preempted can take this many steps.
    builder.max_branches = 20_000;
    builder.check(move || {
        // Makes the models of the kernel and of the order of fences. If a thread of the model made
        // them, the checker would order that thread's first step before those of all others.
        crate::sync::fence(Ordering::SeqCst);
        Alarm::default().raise();
        crate::sync::pass(Duration::ZERO);
        question();
    });
}

fn never() -> Result<()> {
    Ok(())
}

fn fill(payload: &mut [u8], request: u64) {
    payload.fill(request.to_le_bytes()[0]);
}

fn header(request: u64) -> Header {
    Header { request, aux: !request, ..Header::default() }
}

/// Waits for room and publishes a frame.
fn send(producer: &mut Producer, request: u64, len: usize) {
    let claim = producer.claim_until(len, &Alarm::default(), Deadline::NEVER, never);
    let mut claim = claim.unwrap().unwrap();
    fill(claim.payload(), request);
    claim.commit(header(request));
}

/// Publishes a frame without looking for a sleeper.
fn send_lazily(producer: &mut Producer, request: u64, len: usize) {
    let mut claim = producer.try_claim(len).unwrap().unwrap();
    fill(claim.payload(), request);
    claim.commit_lazily(header(request));
}

/// Adds a frame to the group that the next flush publishes.
fn send_in_group(producer: &mut Producer, request: u64, len: usize) {
    let claim = producer.claim_until(len, &Alarm::default(), Deadline::NEVER, never);
    let mut claim = claim.unwrap().unwrap();
    fill(claim.payload(), request);
    claim.commit_in_group(header(request));
}

fn check(header: Header, payload: Vec<u8>, request: u64, len: usize) {
    assert_eq!((header.request, header.aux), (request, !request));
    assert_eq!(payload, vec![request.to_le_bytes()[0]; len]);
}

/// Waits for a frame, checks it and releases it.
fn receive(consumer: &mut Consumer, request: u64, len: usize) {
    let frame = consumer.poll_until(&Alarm::default(), Deadline::NEVER, never);
    let frame = frame.unwrap().expect("a frame that was published");
    check(frame.header(), frame.payload().to_vec(), request, len);
}

/// Polls until a frame is there, checks it and releases it.
fn poll(consumer: &mut Consumer, request: u64, len: usize) {
    loop {
        if let Some(frame) = consumer.poll().unwrap() {
            check(frame.header(), frame.payload().to_vec(), request, len);
            return;
        }
        thread::yield_now();
    }
}

fn lease(consumer: &mut Consumer, request: u64, len: usize) -> Lease {
    let lease = consumer.poll().unwrap().unwrap().into_lease();
    check(lease.header(), lease.payload().to_vec(), request, len);
    lease
}

#[test]
fn a_frame_that_is_seen_is_complete_and_the_next_is_not_there_yet() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, LONGEST, 0);
        let sender = thread::spawn(move || {
            for request in 1..=2 {
                assert!(producer.try_claim(0).unwrap().is_some());
                send_lazily(&mut producer, request, 20);
            }
        });
        poll(&mut consumer, 1, 20);
        poll(&mut consumer, 2, 20);
        sender.join().unwrap();
        assert!(consumer.poll().unwrap().is_none());
    });
}

#[test]
fn a_batch_is_seen_whole_or_not_at_all() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, LONGEST, ORIGIN);
        let sender = thread::spawn(move || {
            let mut batch = claim_batch(&mut producer, 20, 3).unwrap().unwrap();
            assert_eq!(batch.len(), 3);
            for (index, request) in (1..=3).enumerate() {
                fill(batch.payload(index), request);
            }
            batch.commit(|index| header(as_u64(index) + 1));
        });
        poll(&mut consumer, 1, 20);
        for request in 2..=3 {
            let frame = consumer.poll().unwrap().expect("a frame that was published");
            check(frame.header(), frame.payload().to_vec(), request, 20);
        }
        assert!(consumer.poll().unwrap().is_none());
        sender.join().unwrap();
    });
}

#[test]
fn a_group_is_seen_whole_or_not_at_all() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, LONGEST, ORIGIN);
        let sender = thread::spawn(move || {
            (1..=3).for_each(|request| send_in_group(&mut producer, request, 20));
            producer.flush();
        });
        poll(&mut consumer, 1, 20);
        for request in 2..=3 {
            let frame = consumer.poll().unwrap().expect("a frame that was published");
            check(frame.header(), frame.payload().to_vec(), request, 20);
        }
        assert!(consumer.poll().unwrap().is_none());
        sender.join().unwrap();
    });
}

#[test]
fn a_slot_that_is_used_again_shows_nothing_of_the_last_round() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, LONGEST, ORIGIN);
        // Two rounds leave a commit word in every slot. That of the last round counts as nothing.
        // The second slot of the longest frame has none, and has to be cleared.
        for (request, len) in [(1, 0), (2, 0), (3, 0), (4, 0), (5, LONGEST), (6, 0), (7, 0)] {
            send(&mut producer, request, len);
            poll(&mut consumer, request, len);
        }
        let sender = thread::spawn(move || {
            send(&mut producer, 8, 32);
            send(&mut producer, 9, 32);
        });
        poll(&mut consumer, 8, 32);
        poll(&mut consumer, 9, 32);
        sender.join().unwrap();
        assert!(consumer.poll().unwrap().is_none());
    });
}

#[test]
fn a_frame_behind_padding_is_complete_when_the_padding_is_seen() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, LONGEST, u64::MAX - 63);
        let sender = thread::spawn(move || {
            send_lazily(&mut producer, 1, LONGEST);
        });
        poll(&mut consumer, 1, LONGEST);
        sender.join().unwrap();
        assert!(consumer.poll().unwrap().is_none());
    });
}

#[test]
fn padding_is_released_for_a_producer_that_waits() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, LONGEST, u64::MAX - 63);
        let sender = thread::spawn(move || {
            send(&mut producer, 1, LONGEST);
            send(&mut producer, 2, 0);
        });
        receive(&mut consumer, 1, LONGEST);
        receive(&mut consumer, 2, 0);
        sender.join().unwrap();
    });
}

#[test]
fn a_full_ring_holds_the_producer_until_slots_are_released() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, LONGEST, ORIGIN);
        for request in 1..=3 {
            send(&mut producer, request, 20);
        }
        let sender = thread::spawn(move || {
            send(&mut producer, 4, 20);
            send(&mut producer, 5, 20);
        });
        for request in 1..=5 {
            receive(&mut consumer, request, 20);
        }
        sender.join().unwrap();
    });
}

#[test]
fn slots_that_are_released_together_are_not_filled_while_they_are_read() {
    model(|| {
        // An eighth of this ring is two slots: one store of the head for both.
        let RingRig { mut producer, mut consumer, .. } = rig(4 * CAPACITY, LONGEST, ORIGIN);
        for request in 1..=15 {
            send(&mut producer, request, 20);
        }
        let sender = thread::spawn(move || {
            // A lazy commit has no fence between the load of the head and the second slot.
            for request in 16..=17 {
                while !producer.has_room_for(20).unwrap() {
                    thread::yield_now();
                }
                send_lazily(&mut producer, request, 20);
            }
            producer
        });
        poll(&mut consumer, 1, 20);
        poll(&mut consumer, 2, 20);
        drop(sender.join().unwrap());
    });
}

#[test]
fn a_long_frame_waits_for_all_the_room_that_it_and_its_padding_need() {
    model(|| {
        // The third frame needs seven slots of padding, eight slots and the next header, which is
        // all of the ring. Without the padding it would fit at once, over the first frame's slot.
        let RingRig { mut producer, mut consumer, .. } = rig(4 * CAPACITY, 480, 448);
        send(&mut producer, 1, 20);
        send(&mut producer, 2, 20);
        let sender = thread::spawn(move || send(&mut producer, 3, 480));
        receive(&mut consumer, 1, 20);
        receive(&mut consumer, 2, 20);
        receive(&mut consumer, 3, 480);
        sender.join().unwrap();
    });
}

#[test]
fn slots_below_an_eighth_of_the_ring_are_given_back_before_a_sleep() {
    model(|| {
        // An eighth of this ring is two slots, and one slot is released. The second frame needs
        // seven slots of padding, eight slots and the next header, which is all of the ring.
        let RingRig { mut producer, mut consumer, .. } = rig(4 * CAPACITY, 480, 512);
        send(&mut producer, 1, 0);
        receive(&mut consumer, 1, 0);
        let sender = thread::spawn(move || send(&mut producer, 2, 480));
        receive(&mut consumer, 2, 480);
        sender.join().unwrap();
    });
}

#[test]
fn the_smallest_ring_of_a_model_is_one_that_can_be() {
    assert!(as_u64(LONGEST) + 32 <= as_u64(CAPACITY) / 2);
}
