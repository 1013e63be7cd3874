//! A consumer that is driven by a reactor.

use super::*;

/// A ring whose consumer is driven by a reactor.
fn rig_of_reactor() -> (RingRig, Arc<WakeFd>) {
    let [producer_fd, consumer_fd] = WakeFd::pair().map(Arc::new);
    let wake_fds = [Some(producer_fd), Some(Arc::clone(&consumer_fd))];
    (rig_with(RigOptions { wake_fds, ..RigOptions::new(CAPACITY, LONGEST) }), consumer_fd)
}

#[test]
fn a_reactor_hears_of_every_frame_and_never_for_nothing() {
    model(|| {
        let (RingRig { mut producer, mut consumer, .. }, wake_fd) = rig_of_reactor();
        let sender = thread::spawn(move || {
            send(&mut producer, 1, 0);
            send(&mut producer, 2, 0);
            producer
        });
        for request in 1..=2 {
            let rearmed = consumer.rearm(&wake_fd, false, true).unwrap();
            assert!(!rearmed.is_readable || wake_fd.is_readable(), "a frame, but not readable");
            wake_fd.wait_until_readable();
            assert!(consumer.has_next(), "readable, but nothing");
            let frame = consumer.poll().unwrap().unwrap();
            check(frame.header(), frame.payload().to_vec(), request, 0);
        }
        drop(sender.join().unwrap());
        assert!(!consumer.rearm(&wake_fd, false, true).unwrap().is_readable);
        assert!(!wake_fd.is_readable(), "rearmed, but readable");
    });
}

#[test]
fn a_frame_that_is_taken_without_a_look_at_the_descriptor_leaves_it_true() {
    model(|| {
        let (RingRig { mut producer, mut consumer, .. }, wake_fd) = rig_of_reactor();
        assert!(!consumer.rearm(&wake_fd, false, true).unwrap().is_readable);
        let sender = thread::spawn(move || {
            send(&mut producer, 1, 0);
            producer
        });
        // The frame may be seen before the producer has notified. Then the consumer makes the
        // descriptor readable itself.
        while !consumer.has_next() {
            thread::yield_now();
        }
        let rearmed = consumer.rearm(&wake_fd, false, true).unwrap();
        assert!(rearmed.is_readable && wake_fd.is_readable(), "a frame, but not readable");
        poll(&mut consumer, 1, 0);
        assert!(!consumer.rearm(&wake_fd, false, true).unwrap().is_readable);
        drop(sender.join().unwrap());
        assert!(!wake_fd.is_readable(), "readable, but nothing");
    });
}

#[test]
fn a_reactor_and_a_blocking_wait_can_take_turns() {
    model(|| {
        let (RingRig { mut producer, mut consumer, .. }, wake_fd) = rig_of_reactor();
        assert!(!consumer.rearm(&wake_fd, false, true).unwrap().is_readable);
        let sender = thread::spawn(move || {
            send(&mut producer, 1, 0);
            send(&mut producer, 2, 0);
            producer
        });
        receive(&mut consumer, 1, 0);
        consumer.rearm(&wake_fd, false, true).unwrap();
        wake_fd.wait_until_readable();
        let frame = consumer.poll().unwrap().expect("readable, but nothing");
        check(frame.header(), frame.payload().to_vec(), 2, 0);
        drop(frame);
        drop(sender.join().unwrap());
    });
}
