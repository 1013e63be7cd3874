//! A peer that writes what it likes into every byte that it can write.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::ring::doorbell::Bell;
use crate::ring::testing::{RigOptions, RingRig, alarm, pattern, receive, rig, rig_with, send};
use crate::ring::{Frame, Header, Lease};
use crate::shm::layout::as_u64;
use crate::sync::Ordering::Relaxed;
use crate::sys::clock::Deadline;

const CAPACITY: usize = 4096;
const MAX_FRAME: usize = 1000;
const ORIGINS: [u64; 3] = [0, (1 << 32) - 64, u64::MAX - 63];

/// What a peer could put anywhere: nothing, everything, one bit, and what was there,
/// changed by one.
fn forgeries(honest: u64) -> Vec<u64> {
    let mut all = vec![0, u64::MAX, 1, 2, 3, u64::from(u32::MAX), 1 << 63, !honest];
    all.extend((0..64).map(|bit| honest ^ (1 << bit)));
    all.extend((0..64).map(|bit| 1 << bit));
    let steps = [1, 2, 32, 63, 64, 65, 4032, 4096, 4160, 1 << 32];
    all.extend(steps.map(|step: u64| honest.wrapping_add(step)));
    all.extend(steps.map(|step: u64| honest.wrapping_sub(step)));
    all.extend(
        (0..32).map(|seed| u64::from_le_bytes(pattern(seed ^ honest, 8).try_into().unwrap())),
    );
    all
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_millis(1))
}

fn assert_poisoned(ring: &mut RingRig) {
    let kind = |error: Error| error.kind();
    for _ in 0..2 {
        assert_eq!(ring.consumer.poll().map(|_| ()).map_err(kind), Err(ErrorKind::PeerCorrupt));
        let waited = ring.consumer.poll_until(&alarm(), soon(), || Ok(()));
        assert_eq!(waited.map(|_| ()).map_err(kind), Err(ErrorKind::PeerCorrupt));
        assert!(ring.consumer.has_next(), "a reader that looks before it polls must come to poll");
    }
}

#[test]
fn any_commit_word_but_the_expected_one_is_corrupt_for_good() {
    for origin in ORIGINS {
        for word in forgeries(origin | 1) {
            let mut ring = rig(CAPACITY, MAX_FRAME, origin);
            send(&mut ring.producer, 7, b"honest").unwrap();
            ring.forge.slots.line(origin).store(0, word, Relaxed);
            let last_lap = origin.wrapping_sub(as_u64(CAPACITY)) | 1;
            if word == 0 || word == last_lap {
                assert_eq!(receive(&mut ring.consumer).unwrap(), None, "a frame held back");
                continue;
            }
            let polled = receive(&mut ring.consumer);
            if word == origin | 1 {
                assert_eq!(polled.unwrap(), Some((7, b"honest".to_vec())));
                continue;
            }
            // An offset at which the longest frame fits is never padded.
            if word == origin | 2 && origin != 0 {
                assert_eq!(polled.unwrap_err().kind(), ErrorKind::PeerCorrupt);
            }
            assert_poisoned(&mut ring);
            // Not even the truth helps, nor silence.
            for late in [origin | 1, 0] {
                ring.forge.slots.line(origin).store(0, late, Relaxed);
                assert_poisoned(&mut ring);
            }
        }
    }
}

#[test]
fn a_length_that_cannot_be_is_corrupt_and_one_that_can_is_a_bounded_view() {
    for (origin, room) in [(0, CAPACITY), (u64::MAX - 63, 64), (4096 - 256, 256)] {
        for word in forgeries(8) {
            let mut ring = rig(CAPACITY, MAX_FRAME, origin);
            send(&mut ring.producer, 7, b"8 bytes.").unwrap();
            ring.forge.slots.line(origin).store(1, word, Relaxed);
            let len = usize::try_from(word & u64::from(u32::MAX)).unwrap();
            if len <= MAX_FRAME && 32 + len <= room {
                assert_eq!(receive(&mut ring.consumer).unwrap().unwrap().1.len(), len);
            } else {
                assert_poisoned(&mut ring);
                ring.forge.slots.line(origin).store(1, 8, Relaxed);
                assert_poisoned(&mut ring);
            }
        }
    }
}

#[test]
fn a_length_that_changes_after_the_poll_changes_nothing() {
    let mut ring = rig(CAPACITY, MAX_FRAME, 0);
    send(&mut ring.producer, 7, b"8 bytes.").unwrap();
    send(&mut ring.producer, 8, b"next").unwrap();
    let frame = ring.consumer.poll().unwrap().unwrap();
    ring.forge.slots.line(0).store(1, u64::MAX, Relaxed);
    ring.forge.slots.line(0).store(2, u64::MAX, Relaxed);
    assert_eq!(frame.payload().to_vec(), b"8 bytes.");
    assert_eq!(frame.header(), Header { len: 8, request: 7, ..Header::default() });
    drop(frame);
    assert_eq!(receive(&mut ring.consumer).unwrap(), Some((8, b"next".to_vec())));
}

#[test]
fn padding_is_believed_only_where_an_honest_producer_pads() {
    // Room for the longest frame; the ring's start; and before it, with no frame behind.
    for origin in [64, 4096, 2048, 4096 - 1088, 4096 - 64, 4096 - 1024] {
        let mut ring = rig(CAPACITY, MAX_FRAME, origin);
        ring.forge.slots.line(origin).store(0, origin | 2, Relaxed);
        assert_poisoned(&mut ring);
    }
    // With a frame behind it is what it should be.
    for origin in [4096 - 64, 4096 - 1024] {
        let mut ring = rig(CAPACITY, MAX_FRAME, origin);
        ring.forge.slots.line(4096).store(0, 4096 | 1, Relaxed);
        ring.forge.slots.line(origin).store(0, origin | 2, Relaxed);
        assert_eq!(receive(&mut ring.consumer).unwrap(), Some((0, Vec::new())));
    }
    // Of an empty ring, all that is left of the lap may be padding, but not over a frame that is held.
    for is_held in [false, true] {
        let mut ring = rig(CAPACITY, MAX_FRAME, 1024 - 64);
        assert!(send(&mut ring.producer, 1, b"").unwrap());
        let lease = ring.consumer.poll().unwrap().map(Frame::into_lease);
        let lease = lease.filter(|_| is_held);
        assert!(!ring.consumer.find().unwrap());
        ring.forge.slots.line(4096).store(0, 4096 | 1, Relaxed);
        ring.forge.slots.line(1024).store(0, 1024 | 2, Relaxed);
        match lease {
            None => assert_eq!(receive(&mut ring.consumer).unwrap(), Some((0, Vec::new()))),
            Some(_) => assert_poisoned(&mut ring),
        }
    }
    // Twice in a row never.
    let mut ring = rig(CAPACITY, MAX_FRAME, 4032);
    ring.forge.slots.line(4096).store(0, 4096 | 2, Relaxed);
    ring.forge.slots.line(4032).store(0, 4032 | 2, Relaxed);
    assert_poisoned(&mut ring);
}

#[test]
fn a_producer_that_overruns_slots_that_are_held_is_corrupt_for_good() {
    for is_leased in [false, true] {
        for origin in ORIGINS {
            let mut ring = rig(CAPACITY, MAX_FRAME, origin);
            let mut leases: Vec<Lease> = Vec::new();
            let mut position = origin;
            let mut taken = 0;
            // An endless supply of empty frames, whatever has been released.
            let error = loop {
                ring.forge.slots.line(position).store(1, 0, Relaxed);
                ring.forge.slots.line(position).store(0, position | 1, Relaxed);
                match ring.consumer.poll() {
                    Ok(frame) if is_leased => leases.push(frame.unwrap().into_lease()),
                    Ok(frame) => std::mem::forget(frame.unwrap()),
                    Err(error) => break error,
                }
                position = position.wrapping_add(64);
                taken += 1;
                assert!(taken < 1000, "more frames than the ring can hold");
            };
            assert_eq!(error.kind(), ErrorKind::PeerCorrupt);
            assert_eq!(taken, CAPACITY / 64 - 1);
            assert_poisoned(&mut ring);
            drop(leases);
            assert_poisoned(&mut ring);
        }
    }
}

#[test]
fn a_head_that_cannot_be_is_corrupt_for_good_and_nothing_is_overwritten() {
    for origin in ORIGINS {
        for head in forgeries(origin) {
            let mut ring = rig(CAPACITY, MAX_FRAME, origin);
            let mut sent = 0;
            while send(&mut ring.producer, sent, &pattern(sent, 200)).unwrap() {
                sent += 1;
            }
            let tail = origin.wrapping_add(ring.producer.in_flight());
            ring.forge.head.store(head, Relaxed);
            let can_be = head % 64 == 0 && head.wrapping_sub(origin) <= tail.wrapping_sub(origin);
            if can_be {
                assert!(ring.producer.try_claim(200).is_ok());
                continue;
            }
            for round in 0..3 {
                let error = match round {
                    0 => ring.producer.claim_until(200, &alarm(), soon(), || Ok(())).unwrap_err(),
                    _ => ring.producer.try_claim(0).unwrap_err(),
                };
                assert_eq!(error.kind(), ErrorKind::PeerCorrupt, "head {head:#x}");
                ring.forge.head.store(tail, Relaxed); // the truth comes too late
            }
            for request in 0..sent {
                let expected = Some((request, pattern(request, 200)));
                assert_eq!(receive(&mut ring.consumer).unwrap(), expected);
            }
            assert_eq!(receive(&mut ring.consumer).unwrap(), None);
        }
    }
}

#[test]
fn a_head_that_goes_bad_while_the_producer_waits_ends_the_wait() {
    for head in [63, u64::MAX - 63, u64::MAX, 1 << 20] {
        let RingRig { mut producer, forge, .. } = rig(CAPACITY, MAX_FRAME, 0);
        while send(&mut producer, 0, &[0; 200]).unwrap() {}
        let wait = std::thread::spawn(move || {
            let waited = producer.claim_until(200, &alarm(), Deadline::NEVER, || Ok(()));
            let kind = waited.unwrap_err().kind();
            (kind, producer.try_claim(0).unwrap_err().kind())
        });
        std::thread::sleep(Duration::from_millis(1));
        forge.head.store(head, Relaxed);
        Bell::new(forge.consumer_bell, None).ring();
        assert_eq!(wait.join().unwrap(), (ErrorKind::PeerCorrupt, ErrorKind::PeerCorrupt));
    }
}

#[test]
fn a_head_that_goes_back_while_it_may_is_corrupt_once_it_is_seen() {
    let mut ring = rig(CAPACITY, MAX_FRAME, 0);
    while send(&mut ring.producer, 0, &[0; 200]).unwrap() {}
    ring.forge.head.store(1024, Relaxed);
    while send(&mut ring.producer, 0, &[0; 200]).unwrap() {}
    ring.forge.head.store(512, Relaxed);
    assert_eq!(ring.producer.try_claim(200).unwrap_err().kind(), ErrorKind::PeerCorrupt);
}

#[test]
fn sleep_words_of_any_value_cost_a_needless_ring_and_nothing_else() {
    for origin in ORIGINS {
        for word in forgeries(origin) {
            let mut ring = rig(CAPACITY, MAX_FRAME, origin);
            for request in 0..100 {
                ring.forge.sleep_at.store(word, Relaxed);
                ring.forge.space_at.store(word, Relaxed);
                assert!(send(&mut ring.producer, request, &pattern(request, 300)).unwrap());
                let expected = Some((request, pattern(request, 300)));
                assert_eq!(receive(&mut ring.consumer).unwrap(), expected);
                assert_eq!(receive(&mut ring.consumer).unwrap(), None);
            }
            assert!(ring.producer.wakes() <= 1, "one position is rung for once");
        }
    }
}

#[test]
fn a_bell_that_rings_without_end_is_corrupt_for_good_on_either_side() {
    let options = RigOptions { rung: u32::MAX - 10, ..RigOptions::new(CAPACITY, MAX_FRAME) };
    let mut ring = rig_with(options);
    while send(&mut ring.producer, 0, &[0; 200]).unwrap() {}
    while receive(&mut ring.consumer).unwrap().is_some() {}
    // The room that was made is seen and taken; then the ring is full again.
    while send(&mut ring.producer, 0, &[0; 200]).unwrap() {}
    let RingRig { mut producer, mut consumer, forge } = ring;
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let room = scope.spawn(|| {
            let wait = producer.claim_until(200, &alarm(), Deadline::NEVER, || Ok(()));
            let first = wait.unwrap_err().kind();
            let again = producer.claim_until(200, &alarm(), Deadline::NEVER, || Ok(()));
            (first, again.unwrap_err().kind())
        });
        let frame = scope.spawn(|| {
            let mut frames = 0;
            loop {
                match consumer.poll_until(&alarm(), Deadline::NEVER, || Ok(())) {
                    Ok(frame) => std::mem::forget(frame.unwrap()), // so that no room comes of it
                    Err(error) => break (frames, error.kind()),
                }
                frames += 1;
            }
        });
        scope.spawn(|| {
            let bells =
                [forge.producer_bell, forge.consumer_bell].map(|word| Bell::new(word, None));
            while !is_over.load(Relaxed) {
                for bell in &bells {
                    bell.ring();
                }
            }
        });
        assert_eq!(room.join().unwrap(), (ErrorKind::PeerCorrupt, ErrorKind::PeerCorrupt));
        let (frames, kind) = frame.join().unwrap();
        assert_eq!(kind, ErrorKind::PeerCorrupt);
        assert_eq!(frames, 15, "every frame that is there comes first");
        is_over.store(true, Relaxed);
    });
}

#[test]
fn a_peer_that_rings_for_each_announcement_is_never_taken_for_corrupt() {
    let RingRig { mut producer, mut consumer, forge } = rig(CAPACITY, MAX_FRAME, 0);
    let alarm = alarm();
    for request in 0..5000_u64 {
        // Asleep for a frame that comes: one ring for each.
        assert!(
            consumer
                .poll_until(&alarm, Deadline::after(Duration::ZERO), || Ok(()))
                .unwrap()
                .is_none()
        );
        consumer.announce();
        let before = producer.wakes();
        assert!(send(&mut producer, request, b"").unwrap());
        assert_eq!(producer.wakes(), before + 1);
        let frame = consumer.poll_until(&alarm, Deadline::NEVER, || Ok(()));
        assert_eq!(frame.unwrap().unwrap().header().request, request);
        // The bell is read by waits that find nothing only.
        let none = consumer.poll_until(&alarm, Deadline::after(Duration::from_nanos(1)), || Ok(()));
        assert!(none.unwrap().is_none());
    }
    assert_eq!(forge.producer_bell.load(Relaxed), 5000);
}

#[test]
fn a_bell_that_is_turned_to_and_fro_is_corrupt() {
    let RingRig { producer, mut consumer, forge, .. } = rig(CAPACITY, MAX_FRAME, 0);
    let mut looks = 0_u32;
    let turning = || {
        looks += 1;
        assert!(looks < 3000, "a lie is believed");
        // Never what it was when this end looked at it last, two steps ago: it would sleep.
        forge.producer_bell.store(looks % 4, Relaxed);
        Ok(())
    };
    let waited = consumer.poll_until(&alarm(), Deadline::NEVER, turning);
    assert_eq!(waited.map(|_| "a frame").unwrap_err().kind(), ErrorKind::PeerCorrupt);
    drop(producer);
}

#[test]
fn garbage_over_the_whole_ring_never_panics() {
    for origin in ORIGINS {
        for seed in 0..200 {
            let mut ring = rig(CAPACITY, MAX_FRAME, origin);
            let bytes = pattern(seed, CAPACITY + 8);
            for index in 0..CAPACITY / 8 {
                let word = u64::from_le_bytes(bytes[index * 8..][..8].try_into().unwrap());
                let position = as_u64((index * 8) & !63);
                // Every third word is sane enough to get past the first check.
                let word = match (index % 8, seed % 3) {
                    (0, 1 | 2) => origin.wrapping_add(position.wrapping_sub(origin) & 4095) | 1,
                    (1, 2) => word % 1100,
                    _ => word,
                };
                ring.forge.slots.line(position).store(index % 8, word, Relaxed);
            }
            let mut frames = 0;
            while let Ok(Some(frame)) = ring.consumer.poll() {
                assert!(frame.payload().to_vec().len() <= MAX_FRAME);
                frames += 1;
            }
            assert!(frames < CAPACITY / 64);
        }
    }
}
