//! What a hostile peer writes is noticed. These models have one thread each. They are models so
//! that the mutants of the checks are tested.

use super::*;

#[test]
fn what_cannot_be_a_frame_is_corrupt() {
    model(|| {
        let corrupt = |origin: u64, writes: &[(u64, usize, u64)]| {
            let RingRig { producer, mut consumer, forge } = rig(CAPACITY, LONGEST - 32, origin);
            for (position, index, word) in writes {
                forge.slots.line(*position).store(*index, *word, Ordering::Relaxed);
            }
            for _ in 0..2 {
                let error = consumer.poll().map(|_| "a frame").expect_err("a lie is believed");
                assert_eq!(error.kind(), ErrorKind::PeerCorrupt);
                // The ring stays corrupt, even if the word is right again.
                forge.slots.line(origin).store(0, 0, Ordering::Relaxed);
            }
            drop(producer);
        };
        corrupt(0, &[(0, 1, as_u64(LONGEST) - 31), (0, 0, 1)]);
        corrupt(192, &[(192, 1, 33), (192, 0, 192 | 1)]);
        corrupt(192, &[(192, 0, 192 | 2)]);
        // Padding where the longest frame has room, behind one that is held.
        let RingRig { mut producer, mut consumer, forge } = rig(CAPACITY, 32, 128);
        send(&mut producer, 1, 0);
        let held = lease(&mut consumer, 1, 0);
        for (position, word) in [(256, 256 | 1), (192, 192 | 2)] {
            forge.slots.line(position).store(0, word, Ordering::Relaxed);
        }
        let error = consumer.poll().map(|_| "a frame").expect_err("a lie is believed");
        assert_eq!(error.kind(), ErrorKind::PeerCorrupt);
        drop((held, producer));
    });
}

#[test]
fn frames_over_slots_that_are_held_are_corrupt() {
    model(|| {
        let RingRig { producer, mut consumer, forge } = rig(CAPACITY, LONGEST, 0);
        let mut leases = Vec::new();
        let polled = loop {
            let position = 64 * as_u64(leases.len());
            assert!(position < as_u64(CAPACITY), "a lie is believed");
            forge.slots.line(position).store(0, position | 1, Ordering::Relaxed);
            match consumer.poll() {
                Ok(frame) => leases.push(frame.unwrap().into_lease()),
                Err(error) => break error,
            }
        };
        assert_eq!((polled.kind(), leases.len()), (ErrorKind::PeerCorrupt, 3));
        drop((leases, producer));
    });
}

#[test]
fn heads_that_cannot_be_are_corrupt() {
    model(|| {
        for head in [256, 32, u64::MAX - 63] {
            let RingRig { mut producer, consumer, forge } = rig(CAPACITY, LONGEST, 0);
            for request in 1..=3 {
                send(&mut producer, request, 0);
            }
            forge.head.store(head, Ordering::Relaxed);
            for _ in 0..2 {
                let error = producer.try_claim(0).map(|_| "room").expect_err("a lie is believed");
                assert_eq!(error.kind(), ErrorKind::PeerCorrupt);
                forge.head.store(0, Ordering::Relaxed);
            }
            drop(consumer);
        }
    });
}

#[test]
fn a_bell_that_rings_for_nothing_is_corrupt_in_the_end() {
    model(|| {
        let RingRig { producer, mut consumer, forge } = rig(CAPACITY, LONGEST, 0);
        let mut rung = 0;
        let ringing = || {
            rung += 1;
            assert!(rung < 3000, "a lie is believed");
            forge.producer_bell.store(rung, Ordering::Relaxed);
            Ok(())
        };
        let waited = consumer.poll_until(&Alarm::default(), Deadline::NEVER, ringing);
        assert_eq!(waited.map(|_| "a frame").unwrap_err().kind(), ErrorKind::PeerCorrupt);
        drop(producer);
    });
}
