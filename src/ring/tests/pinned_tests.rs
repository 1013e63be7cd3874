//! Leases that are pinned: their payloads leave the ring when they hold too much of it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use crate::ring::position::span;
use crate::ring::testing::{RingRig, pattern, receive, rig, send};
use crate::ring::{Consumer, LeasedSlot};
use crate::sync::Ordering::Relaxed;

const CAPACITY: usize = 1 << 16;
const MAX_FRAME: usize = CAPACITY / 8;

fn lease(consumer: &mut Consumer) -> (u64, LeasedSlot) {
    let frame = consumer.poll().unwrap().unwrap();
    (frame.header().request, frame.into_slot())
}

fn pinned(consumer: &mut Consumer) -> LeasedSlot {
    let (_, mut slot) = lease(consumer);
    assert!(slot.pin());
    slot
}

/// Sends and receives so many frames, each of which must find room.
fn pass(ring: &mut RingRig, count: u64, len: usize) {
    for number in 0..count {
        assert!(send(&mut ring.producer, number, &pattern(number, len)).unwrap(), "{number}");
        assert_eq!(receive(&mut ring.consumer).unwrap(), Some((number, pattern(number, len))));
    }
}

#[test]
fn a_pinned_lease_never_stops_the_producer_and_keeps_its_bytes() {
    for origin in [0, u64::MAX - 4095] {
        let mut ring = rig(CAPACITY, MAX_FRAME, origin);
        send(&mut ring.producer, 1, &pattern(1, 8000)).unwrap();
        let kept = pinned(&mut ring.consumer);
        let address = kept.payload().as_ptr();
        assert_eq!(ring.consumer.leased(), 1);
        pass(&mut ring, 1000, 900);
        assert_eq!((ring.consumer.leased(), ring.consumer.holders().1), (0, 0));
        assert_eq!(kept.payload().to_vec(), pattern(1, 8000));
        assert_eq!(kept.payload().as_ptr(), address);
    }
}

#[test]
fn a_pinned_lease_behind_another_one_gives_way_when_that_is_gone() {
    let mut ring = rig(CAPACITY, MAX_FRAME, 0);
    for request in 0..2 {
        send(&mut ring.producer, request, &pattern(request, 8000)).unwrap();
    }
    let (_, other) = lease(&mut ring.consumer);
    let kept = pinned(&mut ring.consumer);
    while send(&mut ring.producer, 9, &pattern(9, 900)).unwrap() {
        receive(&mut ring.consumer).unwrap();
    }
    assert_eq!(ring.consumer.leased(), 2);
    drop(other);
    assert_eq!(ring.consumer.leased(), 0);
    pass(&mut ring, 200, 900);
    assert_eq!(kept.payload().to_vec(), pattern(1, 8000));
}

#[test]
fn a_lease_that_is_pinned_late_gives_way_at_once() {
    let mut ring = rig(CAPACITY, MAX_FRAME, 0);
    send(&mut ring.producer, 1, &pattern(1, 8000)).unwrap();
    let (_, mut slot) = lease(&mut ring.consumer);
    while send(&mut ring.producer, 9, &pattern(9, 900)).unwrap() {
        receive(&mut ring.consumer).unwrap();
    }
    assert!(slot.pin());
    pass(&mut ring, 200, 900);
    assert_eq!(slot.payload().to_vec(), pattern(1, 8000));
}

#[test]
fn dropping_a_lease_that_has_left_does_not_turn_the_head_back() {
    let mut ring = rig(CAPACITY, MAX_FRAME, 0);
    for request in 0..2 {
        send(&mut ring.producer, request, &pattern(request, 8000)).unwrap();
    }
    let kept = pinned(&mut ring.consumer);
    let (_, other) = lease(&mut ring.consumer);
    pass(&mut ring, 30, 900);
    assert_eq!(ring.consumer.leased(), 1, "the pinned one has left");
    drop(other);
    // The consumer gets its cursor back with the first frame, whose release is not published yet.
    pass(&mut ring, 2, 900);
    ring.consumer.publish_released();
    let head = ring.forge.head.load(Relaxed);
    drop(kept);
    assert_eq!(ring.forge.head.load(Relaxed), head);
    pass(&mut ring, 200, 900);
}

#[test]
fn after_a_lease_has_left_others_are_copied_until_that_has_paid_off() {
    let mut ring = rig(CAPACITY, MAX_FRAME, 0);
    send(&mut ring.producer, 1, &pattern(1, 8000)).unwrap();
    let kept = pinned(&mut ring.consumer);
    pass(&mut ring, 100, 900);
    drop(kept);
    let mut copied = 0;
    loop {
        send(&mut ring.producer, 1, &pattern(1, 8000)).unwrap();
        if lease(&mut ring.consumer).1.pin() {
            break;
        }
        copied += 1;
    }
    assert!((8..=32).contains(&copied), "{copied}");
}

#[test]
fn a_ring_whose_longest_frame_is_half_of_it_is_not_stopped_either() {
    for len in [CAPACITY / 2 - 32, CAPACITY / 2 - 900, CAPACITY / 4, 3000] {
        let mut ring = rig(CAPACITY, CAPACITY / 2 - 32, 0);
        let mut kept = Vec::new();
        for number in 0..50 {
            assert!(send(&mut ring.producer, number, &pattern(number, len)).unwrap());
            let (_, mut slot) = lease(&mut ring.consumer);
            if slot.pin() {
                kept.push((number, slot));
            }
        }
        for (number, slot) in kept {
            assert_eq!(slot.payload().to_vec(), pattern(number, len));
        }
    }
}

/// A generator of numbers, each of which is below `end`.
fn random(state: &mut u64, end: usize) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*state >> 33).unwrap() % end
}

/// Frames of random lengths, some of which are pinned for a random time, are compared byte by byte for
/// many laps: those that pass, those that are kept, and those that come to lie where others have left.
#[test]
fn all_bytes_are_right_for_many_laps_with_leases_kept_at_random() {
    let (mut pinned, mut left) = (0, 0);
    for seed in 0..12 {
        let mut state = seed;
        // From leases that live for a moment to such that live for laps.
        let most_kept = [3, 10, 40, 200][seed as usize % 4];
        let max_frame = [MAX_FRAME, CAPACITY / 4, CAPACITY / 2 - 32][seed as usize % 3];
        let mut ring = rig(CAPACITY, max_frame, 0_u64.wrapping_sub(64 + (seed << 16)));
        let (mut kept, mut passed) = (Vec::new(), 0);
        for number in 0_u64.. {
            let longest = if random(&mut state, 4) == 0 { max_frame } else { 2000 };
            let len = 100 + random(&mut state, longest - 99);
            assert!(send(&mut ring.producer, number, &pattern(number, len)).unwrap(), "{number}");
            passed += span(len);
            if passed > 60 * CAPACITY as u64 {
                break;
            }
            let (request, mut slot) = lease(&mut ring.consumer);
            assert_eq!(request, number);
            if random(&mut state, 3) > 0 && slot.pin() {
                pinned += 1;
                let address = slot.payload().as_ptr();
                kept.push((number, len, address, slot));
            } else {
                assert_eq!(slot.payload().to_vec(), pattern(number, len));
            }
            while kept.len() > most_kept || (!kept.is_empty() && random(&mut state, 4) == 0) {
                let index = random(&mut state, kept.len());
                let (number, len, address, slot) = kept.swap_remove(index);
                assert_eq!(slot.payload().to_vec(), pattern(number, len), "seed {seed}");
                assert_eq!(slot.payload().as_ptr(), address);
            }
            left += usize::from(ring.consumer.leased() < kept.len());
        }
        for (number, len, _, slot) in &kept {
            assert_eq!(slot.payload().to_vec(), pattern(*number, *len), "seed {seed}");
        }
        drop(kept);
        assert_eq!(ring.consumer.leased(), 0);
    }
    assert!(pinned > 1000 && left > 500, "{pinned} were pinned, {left} times some had left");
}
