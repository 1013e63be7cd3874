//! A ring from both ends, in one process.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use super::position::span;
use super::testing::{
    RigOptions, RingRig, alarm, claim_batch, pattern, receive, rig, rig_with, send,
};
use super::{Consumer, Header, Producer};
use crate::error::ErrorKind;
use crate::shm::layout::{as_u64, as_usize};
use crate::sync::Ordering;
use crate::sys::clock::Deadline;

mod anew_tests;
mod first_lap_tests;
mod hostile_tests;
mod lease_tests;
mod model_tests;
mod pinned_tests;
mod process_tests;

const CAPACITY: usize = 4096;
const MAX_FRAME: usize = CAPACITY / 2 - 32;

/// Starts from which a ring of 4 KiB soon passes a wrap, or none.
const ORIGINS: [u64; 5] = [0, (1 << 32) - 2048, (1 << 32) - 64, u64::MAX - 2047, u64::MAX - 63];

fn rings() -> impl Iterator<Item = RingRig> {
    ORIGINS.into_iter().map(|origin| rig(CAPACITY, MAX_FRAME, origin))
}

fn fill(producer: &mut Producer, len: usize) -> u64 {
    let mut count = 0;
    while send(producer, count, &pattern(count, len)).unwrap() {
        count += 1;
    }
    count
}

fn drain(consumer: &mut Consumer) -> u64 {
    let mut count = 0;
    while receive(consumer).unwrap().is_some() {
        count += 1;
    }
    count
}

#[test]
fn frames_of_every_length_pass_through_a_small_ring() {
    for mut ring in rings() {
        for len in (0..=MAX_FRAME).chain((0..=MAX_FRAME).rev().step_by(7)) {
            let sent = pattern(as_u64(len), len);
            assert!(send(&mut ring.producer, as_u64(len), &sent).unwrap());
            assert_eq!(receive(&mut ring.consumer).unwrap(), Some((as_u64(len), sent)));
            assert_eq!(receive(&mut ring.consumer).unwrap(), None);
        }
    }
}

#[test]
fn a_batch_is_as_long_as_the_room_in_a_row_and_dropped_publishes_nothing() {
    for RingRig { mut producer, mut consumer, .. } in rings() {
        let claimed = |batch: Option<super::Batch<'_>>| batch.map(|batch| batch.len());
        assert_eq!(claimed(claim_batch(&mut producer, 100, 0).unwrap()), Some(0));
        assert!(claim_batch(&mut producer, MAX_FRAME + 1, 2).unwrap_err().is_too_large());
        let mut dropped = claim_batch(&mut producer, 100, 2).unwrap().unwrap();
        dropped.payload(1).fill(9);
        drop(dropped);
        assert_eq!(receive(&mut consumer).unwrap(), None);

        let mut sent = 0;
        while let Some(mut batch) = claim_batch(&mut producer, 100, 5).unwrap() {
            for index in 0..batch.len() {
                let payload = pattern(sent + as_u64(index), 100);
                batch.payload(index).copy_from_slice(&payload);
            }
            let (from, count) = (sent, batch.len());
            batch.commit(|index| Header { request: from + as_u64(index), ..Header::default() });
            sent += as_u64(count);
        }
        // Slots of 192 bytes, one line for the next header, and what lies before the ring's end.
        assert!((19..=21).contains(&sent), "{sent}");
        let mut seen = 0;
        while consumer
            .drain(7, |header, payload| {
                assert_eq!((header.request, header.len), (seen, 100));
                assert_eq!(payload.to_vec(), pattern(seen, 100));
                seen += 1;
            })
            .unwrap()
            > 0
        {}
        assert_eq!(seen, sent);
    }
}

#[test]
fn a_batch_that_is_cut_off_while_it_is_published_shows_nothing() {
    for RingRig { mut producer, mut consumer, .. } in rings() {
        for round in 0..100 {
            let batch = claim_batch(&mut producer, 20, 3).unwrap().unwrap();
            // The header of the first is made last: all others are committed by then.
            let cut_off = catch_unwind(AssertUnwindSafe(|| {
                batch.commit(|index| match index {
                    0 => resume_unwind(Box::new("cut off")),
                    _ => Header::default(),
                })
            }));
            assert!(cut_off.is_err());
            assert_eq!(receive(&mut consumer).unwrap(), None);
            assert!(send(&mut producer, round, b"after it").unwrap());
            assert_eq!(receive(&mut consumer).unwrap(), Some((round, b"after it".to_vec())));
            assert_eq!(receive(&mut consumer).unwrap(), None);
        }
    }
}

#[test]
fn frames_before_one_that_cannot_be_are_drained_before_the_error() {
    let mut ring = rig(CAPACITY, MAX_FRAME, 0);
    assert!(send(&mut ring.producer, 1, b"one").unwrap());
    assert!(send(&mut ring.producer, 2, b"two").unwrap());
    ring.forge.slots.line(64).store(0, 7, Ordering::Relaxed);
    let mut seen = Vec::new();
    assert_eq!(ring.consumer.drain(9, |header, _| seen.push(header.request)).unwrap(), 1);
    assert_eq!(seen, [1]);
    let error = ring.consumer.drain(9, |_, _| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerCorrupt);
}

#[test]
fn the_longest_frame_fits_at_every_offset_of_an_empty_ring() {
    for slot in 0..as_u64(CAPACITY) / 64 {
        for start in [0, u64::MAX - 4095] {
            let mut ring = rig(CAPACITY, MAX_FRAME, start.wrapping_add(slot * 64));
            let sent = pattern(slot, MAX_FRAME);
            assert!(send(&mut ring.producer, slot, &sent).unwrap(), "at slot {slot}");
            assert_eq!(receive(&mut ring.consumer).unwrap(), Some((slot, sent)));
        }
    }
}

#[test]
fn a_header_arrives_as_it_was_sent_with_the_length_of_the_payload() {
    let mut ring = rig(CAPACITY, MAX_FRAME, 0);
    let header = Header { len: 99, kind: 0xffff, flags: 0x8001, request: u64::MAX, aux: 1 << 63 };
    ring.producer.try_claim(5).unwrap().unwrap().commit(header);
    let frame = ring.consumer.poll().unwrap().unwrap();
    assert_eq!(frame.header(), Header { len: 5, ..header });
}

#[test]
fn a_claim_that_is_dropped_publishes_nothing_and_costs_nothing() {
    for mut ring in rings() {
        for len in [0, 100, MAX_FRAME] {
            for _ in 0..3 * CAPACITY / 64 {
                let mut claim = ring.producer.try_claim(len).unwrap().unwrap();
                claim.payload().fill(0xff);
                drop(claim);
            }
            assert_eq!(receive(&mut ring.consumer).unwrap(), None);
            assert_eq!(ring.producer.in_flight(), 0);
        }
        assert!(send(&mut ring.producer, 7, b"after").unwrap());
        assert_eq!(receive(&mut ring.consumer).unwrap(), Some((7, b"after".to_vec())));
    }
}

#[test]
fn a_truncated_frame_has_the_shorter_length_wherever_it_lies() {
    for mut ring in rings() {
        for round in 0..200 {
            let sent = pattern(round, MAX_FRAME);
            let kept = as_usize(round * 37) % (MAX_FRAME + 1);
            let mut claim = ring.producer.try_claim(MAX_FRAME).unwrap().unwrap();
            claim.payload().copy_from_slice(&sent);
            claim.truncate(MAX_FRAME + 1);
            assert_eq!(claim.payload().len(), MAX_FRAME);
            claim.truncate(kept);
            assert_eq!(claim.payload().len(), kept);
            claim.commit(Header { request: round, ..Header::default() });
            let (request, got) = receive(&mut ring.consumer).unwrap().unwrap();
            assert_eq!((request, &got[..]), (round, &sent[..kept]));
            ring.consumer.publish_released(); // the longest frame may need all of the ring
        }
    }
}

#[test]
fn a_full_ring_refuses_until_slots_are_released() {
    for mut ring in rings() {
        let count = fill(&mut ring.producer, 0);
        assert_eq!(count, as_u64(CAPACITY) / 64 - 1, "one header more than the frames is free");
        assert!(ring.producer.try_claim(0).unwrap().is_none());
        drop(ring.consumer.poll().unwrap().unwrap());
        assert!(ring.producer.try_claim(0).unwrap().is_none(), "not yet told of it");
        ring.consumer.publish_released();
        assert!(send(&mut ring.producer, 0, b"").unwrap());
        assert!(ring.producer.try_claim(0).unwrap().is_none());
        assert_eq!(drain(&mut ring.consumer), count);
        assert_eq!(ring.producer.high_water(), as_u64(CAPACITY) - 64);
    }
}

#[test]
fn the_high_water_of_a_consumer_that_keeps_up_is_low() {
    let mut ring = rig(CAPACITY, MAX_FRAME, 0);
    for round in 0..1000 {
        assert!(send(&mut ring.producer, round, &[0; 32]).unwrap());
        assert_eq!(drain(&mut ring.consumer), 1);
    }
    assert!(ring.producer.high_water() <= 64, "{}", ring.producer.high_water());
}

#[test]
fn the_consumer_is_told_of_the_high_water_and_believes_what_can_be() {
    let mut ring = rig(CAPACITY, MAX_FRAME, 0);
    let gauge = ring.consumer.gauge();
    assert_eq!(gauge.high_water(), 0);
    fill(&mut ring.producer, 0);
    drain(&mut ring.consumer);
    // The mark stays when the ring is empty.
    let full = as_u64(CAPACITY) - 64;
    assert_eq!((gauge.used(), gauge.high_water()), (0, full));
    assert_eq!(ring.producer.high_water(), full);
    let believed = [CAPACITY, 64, CAPACITY + 1, usize::MAX].map(|said| {
        ring.forge.high_water.store(as_u64(said), Ordering::Relaxed);
        gauge.high_water()
    });
    assert_eq!(believed, [as_u64(CAPACITY), 64, 0, 0]);
}

#[test]
fn a_payload_over_the_cap_is_refused_before_anything_is_touched() {
    let mut ring = rig(CAPACITY, 1000, 64);
    fill(&mut ring.producer, 900);
    for len in [1001, CAPACITY, usize::MAX] {
        let error = ring.producer.try_claim(len).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        let waited = ring.producer.claim_until(len, &alarm(), Deadline::NEVER, || Ok(()));
        assert_eq!(waited.unwrap_err().kind(), ErrorKind::TooLarge);
    }
    assert_eq!(drain(&mut ring.consumer), 4);
    assert!(send(&mut ring.producer, 0, &[1; 1000]).unwrap());
}

#[test]
fn a_wait_for_a_frame_or_for_room_ends_at_its_deadline() {
    let mut ring = rig(CAPACITY, MAX_FRAME, 0);
    let soon = || Deadline::after(Duration::from_millis(2));
    assert!(ring.consumer.poll_until(&alarm(), soon(), || Ok(())).unwrap().is_none());
    fill(&mut ring.producer, 200);
    assert!(ring.producer.claim_until(200, &alarm(), soon(), || Ok(())).unwrap().is_none());
    assert!(ring.consumer.poll_until(&alarm(), soon(), || Ok(())).unwrap().is_some());
}

#[test]
fn what_is_there_is_found_even_after_the_deadline() {
    let mut ring = rig(CAPACITY, MAX_FRAME, 0);
    let past = Deadline::after(Duration::ZERO);
    assert!(ring.producer.claim_until(9, &alarm(), past, || Ok(())).unwrap().is_some());
    send(&mut ring.producer, 1, b"x").unwrap();
    assert!(ring.consumer.poll_until(&alarm(), past, || Ok(())).unwrap().is_some());
}

#[test]
fn the_stop_condition_ends_a_wait_when_the_alarm_is_raised() {
    let mut ring = rig(CAPACITY, MAX_FRAME, 0);
    let alarm = alarm();
    let is_closed = std::sync::atomic::AtomicBool::new(false);
    let stop = || match is_closed.load(Ordering::Acquire) {
        true => Err(crate::Error::new(ErrorKind::Closed, "closed")),
        false => Ok(()),
    };
    fill(&mut ring.producer, 200);
    for side in 0..2 {
        is_closed.store(false, Ordering::Release);
        if side == 1 {
            drain(&mut ring.consumer);
        }
        let RingRig { producer, consumer, .. } = &mut ring;
        std::thread::scope(|scope| {
            let wait = scope.spawn(|| match side {
                0 => producer.claim_until(200, &alarm, Deadline::NEVER, stop).err(),
                _ => consumer.poll_until(&alarm, Deadline::NEVER, stop).err(),
            });
            std::thread::sleep(Duration::from_millis(5));
            alarm.raise();
            std::thread::sleep(Duration::from_millis(5));
            assert!(!wait.is_finished(), "an alarm without a reason costs a look");
            is_closed.store(true, Ordering::Release);
            alarm.raise();
            assert_eq!(wait.join().unwrap().unwrap().kind(), ErrorKind::Closed);
        });
    }
}

#[test]
fn a_frame_that_is_forgotten_is_released_with_the_next() {
    let mut ring = rig(CAPACITY, MAX_FRAME, 0);
    for round in 0..500 {
        assert!(send(&mut ring.producer, round, &[3; 100]).unwrap());
        let frame = ring.consumer.poll().unwrap().unwrap();
        if round % 2 == 0 {
            std::mem::forget(frame);
        }
    }
}

#[test]
fn frames_committed_lazily_are_seen_without_a_flush_which_rings_the_bell() {
    let mut ring = rig(CAPACITY, MAX_FRAME, 0);
    ring.consumer.announce();
    for round in 0..8 {
        ring.producer.try_claim(0).unwrap().unwrap().commit_lazily(Header::default());
        assert_eq!(ring.producer.wakes(), 0, "put off at frame {round}");
    }
    assert_eq!(drain(&mut ring.consumer), 8);
    ring.producer.flush();
    assert_eq!(ring.producer.wakes(), 1);
    ring.producer.flush();
    assert_eq!(ring.producer.wakes(), 1);
}

#[test]
fn a_bell_is_put_off_for_two_kibibytes_at_most() {
    let mut ring = rig(8 * CAPACITY, MAX_FRAME, 0);
    ring.consumer.announce();
    let mut lazy = 0;
    while ring.producer.wakes() == 0 {
        ring.producer.try_claim(32).unwrap().unwrap().commit_lazily(Header::default());
        lazy += 64;
    }
    assert_eq!(lazy, 2048);
}

#[test]
fn a_group_is_seen_when_two_kibibytes_have_come() {
    let mut ring = rig(8 * CAPACITY, MAX_FRAME, 0);
    ring.consumer.announce();
    for frames in 1..=32 {
        ring.producer.try_claim(32).unwrap().unwrap().commit_in_group(Header::default());
        assert_eq!(ring.producer.wakes(), u64::from(frames == 32), "{frames}");
        assert_eq!(ring.consumer.has_next(), frames == 32, "{frames}");
    }
    assert_eq!(drain(&mut ring.consumer), 32);
}

#[test]
fn a_group_goes_on_behind_the_end_of_the_ring() {
    let mut ring = rig(CAPACITY, MAX_FRAME, 0);
    let mut sent = 0;
    for _ in 0..40 {
        for _ in 0..3 {
            let claim = ring.producer.try_claim(150).unwrap().unwrap();
            claim.commit_in_group(Header { request: sent, ..Header::default() });
            sent += 1;
        }
        ring.producer.flush();
        for request in sent - 3..sent {
            assert_eq!(ring.consumer.poll().unwrap().unwrap().header().request, request);
        }
    }
}

#[test]
fn only_a_frame_that_is_slept_for_rings_and_only_once() {
    let mut ring = rig(CAPACITY, MAX_FRAME, u64::MAX - 1023);
    for round in 0..60 {
        if round % 3 == 0 {
            ring.consumer.announce();
        }
        let before = ring.producer.wakes();
        send(&mut ring.producer, round, b"").unwrap();
        assert_eq!(ring.producer.wakes() - before, u64::from(round % 3 == 0), "frame {round}");
        assert_eq!(drain(&mut ring.consumer), 1);
    }
}

#[test]
fn frames_behind_an_open_slot_do_not_ring_for_a_reader_that_waits_for_it() {
    let RingRig { mut producer, consumer, .. } = rig(CAPACITY, MAX_FRAME, 0);
    let first = producer.try_open(0).unwrap().unwrap();
    let behind = [(); 3].map(|()| producer.try_open(0).unwrap().unwrap());
    consumer.announce();
    for slot in behind {
        assert!(!producer.publish(slot, Header::default()), "the reader waits for the first");
    }
    assert!(producer.publish(first, Header::default()));
}

#[test]
fn an_open_slot_that_is_truncated_leaves_a_frame_in_the_place_of_its_rest() {
    let filler = Header { kind: 11, ..Header::default() };
    for mut ring in rings() {
        for round in 0..200 {
            let sent = pattern(round, MAX_FRAME);
            let kept = as_usize(round * 37) % (MAX_FRAME + 1);
            let mut slot = ring.producer.try_open(MAX_FRAME).unwrap().unwrap();
            slot.payload().copy_from_slice(&sent);
            slot.truncate(MAX_FRAME + 1, filler);
            assert_eq!(slot.payload().len(), MAX_FRAME);
            slot.truncate(kept, filler);
            assert_eq!((slot.payload().len(), slot.len()), (kept, kept));
            let behind = ring.producer.try_open(0).unwrap();
            ring.producer.publish(slot, Header { request: round, ..Header::default() });
            let (request, got) = receive(&mut ring.consumer).unwrap().unwrap();
            assert_eq!((request, &got[..]), (round, &sent[..kept]));
            if span(kept) < span(MAX_FRAME) {
                let frame = ring.consumer.poll().unwrap().unwrap();
                let covered = span(frame.payload().len()) + span(kept);
                assert_eq!((frame.header().kind, covered), (11, span(MAX_FRAME)));
            }
            assert_eq!(receive(&mut ring.consumer).unwrap(), None, "the next slot is open");
            if let Some(behind) = behind {
                ring.producer.publish(behind, Header { request: 1 << 32, ..Header::default() });
                let behind = receive(&mut ring.consumer).unwrap();
                assert_eq!(behind, Some((1 << 32, Vec::new())));
            }
            ring.consumer.publish_released(); // the longest frame may need all of the ring
        }
    }
}

#[test]
fn a_producer_is_rung_for_room_when_its_head_is_passed_and_only_once() {
    for mut ring in rings() {
        let rung = |ring: &RingRig| ring.forge.consumer_bell.load(Ordering::Relaxed);
        fill(&mut ring.producer, 0);
        ring.producer.announce_space(3 * 64 - 32);
        let mut at = Vec::new();
        for released in 1..=6 {
            drop(ring.consumer.poll().unwrap());
            ring.consumer.publish_released();
            if as_usize(u64::from(rung(&ring))) != at.len() {
                at.push(released);
            }
        }
        // At an origin whose ring's end is near, padding comes on top.
        assert_eq!(at.len(), 1, "{at:?}");
        assert!(at == [3] || at == [6] || at[0] > 3, "{at:?}");
    }
}

#[test]
fn two_threads_that_sleep_at_random_lose_nothing() {
    let near_the_end = u64::MAX - (1 << 20) + 1;
    let anew = Some([512, 256]);
    for (origin, rung, anew) in
        [(0, 0, None), (near_the_end, u32::MAX - 50, None), (near_the_end, 0, anew)]
    {
        let RingRig { mut producer, mut consumer, forge } =
            rig_with(RigOptions { origin, anew, rung, ..RigOptions::new(CAPACITY, MAX_FRAME) });
        const FRAMES: u64 = 100_000;
        let sender = std::thread::spawn(move || {
            let alarm = alarm();
            let mut dice = 1_u64;
            for request in 0..FRAMES {
                let len = random_len(request);
                let claim = producer.claim_until(len, &alarm, Deadline::NEVER, || Ok(()));
                let mut claim = claim.unwrap().unwrap();
                claim.payload().copy_from_slice(&pattern(request, len));
                let header = Header { request, ..Header::default() };
                if request % 5 == 0 {
                    claim.commit_lazily(header);
                } else {
                    claim.commit(header);
                }
                nap(&mut dice);
            }
        });
        let alarm = alarm();
        let mut dice = 2;
        for request in 0..FRAMES {
            let frame = consumer.poll_until(&alarm, Deadline::NEVER, || Ok(()));
            let frame = frame.unwrap().unwrap();
            assert_eq!(frame.header().request, request);
            assert_eq!(frame.payload().to_vec(), pattern(request, random_len(request)));
            drop(frame);
            nap(&mut dice);
        }
        sender.join().unwrap();
        let rings = forge.producer_bell.load(Ordering::Relaxed).wrapping_sub(rung);
        assert!(rings > 50, "the test slept {rings} times only");
    }
}

fn random_len(request: u64) -> usize {
    let spread = request.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    match spread % 16 {
        0 => as_usize(spread >> 4) % (MAX_FRAME + 1),
        1..4 => as_usize(spread >> 4) % 500,
        _ => as_usize(spread >> 4) % 64,
    }
}

/// Rarely sleeps, so that either side finds the other asleep, awake, and going to sleep.
fn nap(dice: &mut u64) {
    *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    match *dice >> 54 {
        0 => std::thread::sleep(Duration::from_micros(*dice >> 20 & 127)),
        1..30 => std::thread::yield_now(),
        _ => {}
    }
}
