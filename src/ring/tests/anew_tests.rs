//! A ring that is empty begins anew.

use crate::ring::testing::{
    RigOptions, RingRig, claim_batch, pattern, receive, rig, rig_with, send,
};
use crate::ring::{Frame, Header};
use crate::shm::layout::as_u64;

const CAPACITY: usize = 4096;
const MAX_FRAME: usize = CAPACITY / 2 - 32;
const FAR: u64 = 1024;
const STEP: u64 = 256;

fn small_rig(origin: u64) -> RingRig {
    let options = RigOptions::new(CAPACITY, MAX_FRAME);
    rig_with(RigOptions { origin, anew: Some([FAR, STEP]), ..options })
}

/// Where the next slot lies in the ring.
fn index(ring: &RingRig) -> u64 {
    ring.producer.tail() % as_u64(CAPACITY)
}

/// Sends frames to a consumer that has released all before, and sleeps.
fn pass(ring: &mut RingRig, frames: u64, len: usize) -> u64 {
    let mut furthest = 0;
    for request in 0..frames {
        ring.consumer.publish_released();
        ring.consumer.announce();
        assert!(send(&mut ring.producer, request, &pattern(request, len)).unwrap());
        furthest = furthest.max(index(ring));
        let received = receive(&mut ring.consumer).unwrap();
        assert_eq!(received, Some((request, pattern(request, len))));
    }
    furthest
}

#[test]
fn a_consumer_that_sleeps_gets_frames_from_the_same_lines() {
    for origin in [0, u64::MAX - 4095, (1 << 32) - 64] {
        let mut ring = small_rig(origin);
        // The first lap goes to the end.
        pass(&mut ring, 70, 32);
        for len in [0, 32, 100, 400] {
            let laps = ring.producer.tail() / as_u64(CAPACITY);
            // A look, and the frame that is put before it.
            let most = FAR + STEP + as_u64(len) + 128;
            pass(&mut ring, 10, len);
            assert!(pass(&mut ring, 200, len) <= most, "{origin} {len}");
            assert!(ring.producer.tail() / as_u64(CAPACITY) - laps >= 10);
        }
        // Too long for the lines before the place where it could begin anew.
        pass(&mut ring, 50, MAX_FRAME);
    }
}

#[test]
fn a_large_ring_does_so_by_itself() {
    let capacity = 2 << 20;
    let mut ring = rig(capacity, 256 << 10, 0);
    for (round, len) in (0..60).map(|round| (round, 100 << 10)) {
        ring.consumer.announce();
        assert!(send(&mut ring.producer, round, &pattern(round, len)).unwrap());
        assert_eq!(receive(&mut ring.consumer).unwrap(), Some((round, pattern(round, len))));
        assert_eq!(receive(&mut ring.consumer).unwrap(), None);
        let index = ring.producer.tail() % as_u64(capacity);
        assert!(round < 21 || index < 700 << 10, "{round}: {index}");
    }
}

#[test]
fn a_consumer_that_is_busy_or_holds_frames_keeps_the_room_that_it_has() {
    let mut ring = small_rig(0);
    pass(&mut ring, 70, 32);
    pass(&mut ring, 16, 32);
    ring.consumer.publish_released();
    let before = ring.producer.tail();
    // It has not said that it sleeps for this one.
    let mut count = 0;
    while send(&mut ring.producer, count, &[0; 32]).unwrap() {
        count += 1;
    }
    assert_eq!(ring.producer.tail() - before, as_u64(CAPACITY) - 64, "{count} frames");
    while receive(&mut ring.consumer).unwrap().is_some() {}

    pass(&mut ring, 16, 32);
    let before = ring.producer.tail();
    assert!(send(&mut ring.producer, 1, &[1; 32]).unwrap());
    let lease = ring.consumer.poll().unwrap().map(Frame::into_lease).unwrap();
    for request in 2..30 {
        ring.consumer.announce();
        assert!(send(&mut ring.producer, request, &[0; 32]).unwrap());
        assert!(receive(&mut ring.consumer).unwrap().is_some());
    }
    assert_eq!(ring.producer.tail() - before, 29 * 64);
    assert_eq!(lease.payload().to_vec(), [1; 32]);
}

#[test]
fn groups_batches_and_open_slots_begin_anew_too() {
    let mut ring = small_rig(0);
    pass(&mut ring, 70, 32);
    let (mut laps, mut batches) = (Vec::new(), 0);
    for round in 0..60_u64 {
        ring.consumer.publish_released();
        ring.consumer.announce();
        let known_free = as_u64(CAPACITY) - ring.producer.in_flight();
        let rest = known_free.min(as_u64(CAPACITY) - index(&ring));
        let producer = &mut ring.producer;
        let header = |request| Header { request, ..Header::default() };
        match round % 3 {
            // Nor is a batch cut off by what is known of the head, or the end of the ring.
            1 if rest >= 3 * 192 + 64 => {
                batches += 1;
                let batch = claim_batch(producer, 100, 3).unwrap().unwrap();
                assert_eq!(batch.len(), 3, "it is not cut off by a look");
                batch.commit(|request| header(as_u64(request)));
            }
            0 | 1 => {
                for request in 0..3 {
                    let claim = producer.try_claim(100).unwrap().unwrap();
                    claim.commit_in_group(header(request));
                }
                producer.flush();
            }
            _ => {
                let open = [(); 3].map(|()| producer.try_open(100).unwrap().unwrap());
                for (request, slot) in [0, 1, 2].into_iter().zip(open).rev() {
                    producer.publish(slot, header(request));
                }
            }
        }
        for request in 0..3 {
            assert_eq!(ring.consumer.poll().unwrap().unwrap().header().request, request);
        }
        assert!(ring.consumer.poll().unwrap().is_none());
        laps.push(ring.producer.tail() / as_u64(CAPACITY));
    }
    laps.dedup();
    assert!(laps.len() > 12 && batches > 8, "{laps:?}, {batches}");
}

#[test]
fn padding_is_no_frame_and_is_given_back_at_once() {
    let mut ring = small_rig(0);
    pass(&mut ring, 70, 32);
    let mut padded = 0;
    for request in 0..100 {
        ring.consumer.publish_released();
        ring.consumer.announce();
        let before = ring.producer.tail();
        assert!(send(&mut ring.producer, request, &[0; 32]).unwrap());
        let is_padded = ring.producer.tail() - before > 64;
        padded += u64::from(is_padded);
        assert!(ring.consumer.find().unwrap());
        let used = ring.producer.used();
        assert!(used <= 64, "{used} bytes of one frame");
        assert_eq!(receive(&mut ring.consumer).unwrap(), Some((request, vec![0; 32])));
        assert_eq!(receive(&mut ring.consumer).unwrap(), None);
    }
    assert!(padded >= 4, "{padded}");
}

#[test]
fn a_consumer_of_bursts_keeps_the_room_for_them() {
    let mut ring = small_rig(0);
    pass(&mut ring, 70, 32);
    for burst in [FAR / 64, FAR / 64 + 1] {
        // Looks fall on the first frame of a burst, each time or now and then.
        while !index(&ring).is_multiple_of(STEP) {
            pass(&mut ring, 1, 32);
        }
        let mut begun_anew = 0;
        for _ in 0..50 {
            ring.consumer.publish_released();
            ring.consumer.announce();
            for request in 0..burst {
                let before = ring.producer.tail();
                assert!(send(&mut ring.producer, request, &[0; 32]).unwrap());
                begun_anew += u64::from(before + 64 != ring.producer.tail());
            }
            while receive(&mut ring.consumer).unwrap().is_some() {}
        }
        assert_eq!(begun_anew > 10, burst == FAR / 64, "{burst}: {begun_anew}");
    }
}
