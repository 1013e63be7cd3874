//! A ring that is empty begins anew.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::ring::Frame;

/// A small ring whose producer looks for each slot.
fn anew_rig() -> RingRig {
    rig_with(RigOptions { anew: Some([128, 64]), ..RigOptions::new(CAPACITY, LONGEST) })
}

#[test]
fn a_ring_that_is_empty_begins_anew_before_a_sleeper() {
    // Whether the third frame was put at the ring's first byte, in any run, and whether it was not.
    static SEEN: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];
    model_up_to(2, || {
        let RingRig { mut producer, mut consumer, .. } = anew_rig();
        let sender = thread::spawn(move || {
            (1..=3).for_each(|request| send(&mut producer, request, 0));
            SEEN[usize::from(producer.tail() == 320)].store(true, Ordering::Relaxed);
            producer
        });
        (1..=3).for_each(|request| receive(&mut consumer, request, 0));
        drop(sender.join().unwrap());
    });
    assert!(SEEN.iter().all(|seen| seen.load(Ordering::Relaxed)));
}

#[test]
fn a_ring_with_a_frame_that_is_held_goes_on() {
    model_up_to(2, || {
        let RingRig { mut producer, mut consumer, .. } = anew_rig();
        send(&mut producer, 1, 0);
        send(&mut producer, 2, 0);
        receive(&mut consumer, 1, 0);
        let held = consumer.poll().unwrap().map(Frame::into_lease).unwrap();
        let sender = thread::spawn(move || {
            send(&mut producer, 3, 0);
            assert_eq!(producer.tail(), 192);
            producer
        });
        receive(&mut consumer, 3, 0);
        check(held.header(), held.payload().to_vec(), 2, 0);
        drop(sender.join().unwrap());
    });
}

#[test]
fn a_frame_without_room_before_the_place_goes_on() {
    model_up_to(2, || {
        let RingRig { mut producer, mut consumer, .. } = anew_rig();
        for request in 1..=2 {
            send(&mut producer, request, 0);
            receive(&mut consumer, request, 0);
        }
        let sender = thread::spawn(move || {
            send(&mut producer, 3, LONGEST);
            producer
        });
        receive(&mut consumer, 3, LONGEST);
        drop(sender.join().unwrap());
        // Its next commit word is none of the padding's.
        assert!(consumer.poll().unwrap().is_none());
    });
}
