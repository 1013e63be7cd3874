//! Leases that are dropped by other threads than the consumer's.

use super::*;

#[test]
fn leases_dropped_by_two_threads_free_slots_in_order_for_a_producer() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, LONGEST, ORIGIN);
        for request in 1..=3 {
            send(&mut producer, request, 20);
        }
        let leases = [lease(&mut consumer, 1, 20), lease(&mut consumer, 2, 20)];
        let droppers = leases.map(|lease| {
            thread::spawn(move || {
                // A producer that fills the slot before the lease is dropped races with this read.
                let payload = lease.payload().to_vec();
                let request = lease.header().request;
                check(lease.header(), payload, request, 20);
            })
        });
        send(&mut producer, 4, 20);
        send(&mut producer, 5, 20);
        for dropper in droppers {
            dropper.join().unwrap();
        }
        for request in 3..=5 {
            poll(&mut consumer, request, 20);
        }
        assert_eq!((consumer.leased(), consumer.holders().1), (0, 0));
    });
}

#[test]
fn a_lease_comes_back_while_the_consumer_releases_frames_behind_it() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, LONGEST, 0);
        for request in 1..=3 {
            send(&mut producer, request, 20);
        }
        let first = lease(&mut consumer, 1, 20);
        let dropper = thread::spawn(move || {
            check(first.header(), first.payload().to_vec(), 1, 20);
        });
        let receiver = thread::spawn(move || {
            for request in 2..=5 {
                receive(&mut consumer, request, 20);
            }
            consumer
        });
        send(&mut producer, 4, 20);
        send(&mut producer, 5, 20);
        dropper.join().unwrap();
        let consumer = receiver.join().unwrap();
        assert_eq!((consumer.leased(), consumer.holders().1), (0, 0));
    });
}

#[test]
fn slots_released_before_a_lease_are_free_while_it_is_out() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(4 * CAPACITY, LONGEST, 0);
        for request in 1..=15 {
            send(&mut producer, request, 0);
        }
        // One slot is less than an eighth of the ring, so that its release is not published yet.
        receive(&mut consumer, 1, 0);
        let second = lease(&mut consumer, 2, 0);
        let sender = thread::spawn(move || send(&mut producer, 16, 0));
        consumer.publish_released();
        sender.join().unwrap();
        assert_eq!(consumer.holders(), (vec![2], 64));
        drop(second);
    });
}
