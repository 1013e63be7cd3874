//! Slots that several threads fill.

use loom::sync::Mutex;

use super::*;
use crate::ring::open_slot::OpenSlot;

fn open(producer: &Mutex<Producer>, len: usize) -> OpenSlot {
    producer.lock().unwrap().try_open(len).unwrap().unwrap()
}

fn publish(producer: &Mutex<Producer>, mut slot: OpenSlot, request: u64) {
    fill(slot.payload(), request);
    producer.lock().unwrap().publish(slot, header(request));
}

#[test]
fn slots_that_two_threads_fill_are_read_whole_and_in_ring_order() {
    model(|| {
        let RingRig { producer, mut consumer, .. } = rig(CAPACITY, LONGEST, 0);
        let producer = Arc::new(Mutex::new(producer));
        let (first, second) = (open(&producer, 40), open(&producer, 1));
        let other = {
            let producer = Arc::clone(&producer);
            thread::spawn(move || publish(&producer, second, 2))
        };
        let reader = thread::spawn(move || {
            // No wake-up is lost, in whatever order they are published.
            receive(&mut consumer, 1, 40);
            receive(&mut consumer, 2, 1);
        });
        publish(&producer, first, 1);
        other.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn a_slot_behind_a_padding_is_published_before_the_padding() {
    model(|| {
        // The slot of two lines does not fit before the end.
        let RingRig { producer, mut consumer, .. } = rig(CAPACITY, LONGEST, 192);
        let producer = Arc::new(Mutex::new(producer));
        let padded = open(&producer, 40);
        let other = {
            let producer = Arc::clone(&producer);
            thread::spawn(move || publish(&producer, padded, 1))
        };
        receive(&mut consumer, 1, 40);
        other.join().unwrap();
    });
}

#[test]
fn room_behind_an_open_slot_is_used_again_only_once_it_is_read() {
    model(|| {
        let RingRig { producer, mut consumer, .. } = rig(CAPACITY, LONGEST, 0);
        let producer = Arc::new(Mutex::new(producer));
        let slots = [open(&producer, 40), open(&producer, 1)];
        let reader = thread::spawn(move || {
            receive(&mut consumer, 1, 40);
            consumer.publish_released();
            receive(&mut consumer, 2, 1);
            receive(&mut consumer, 3, 40);
        });
        let [first, second] = slots;
        publish(&producer, first, 1);
        publish(&producer, second, 2);
        loop {
            let slot = producer.lock().unwrap().try_open(40).unwrap();
            if let Some(slot) = slot {
                publish(&producer, slot, 3);
                break;
            }
            thread::yield_now();
        }
        reader.join().unwrap();
    });
}

#[test]
fn a_peer_that_releases_an_open_slot_is_corrupt() {
    model(|| {
        let RingRig { mut producer, consumer, forge } = rig(CAPACITY, LONGEST, 0);
        let mut first = producer.try_open(40).unwrap().unwrap();
        let second = producer.try_open(1).unwrap().unwrap();
        producer.publish(second, header(2));
        forge.head.store(192, Ordering::Relaxed);
        let opened = producer.try_open(40);
        let opened = opened.map(|_| "room").map_err(|error| error.kind());
        assert_eq!(opened, Err(ErrorKind::PeerCorrupt));
        fill(first.payload(), 1);
        drop(consumer);
    });
}

#[test]
fn a_slot_that_is_truncated_is_read_before_the_frame_that_fills_its_rest() {
    model(|| {
        let RingRig { producer, mut consumer, .. } = rig(CAPACITY, LONGEST, 0);
        let producer = Arc::new(Mutex::new(producer));
        let (mut first, second) = (open(&producer, 40), open(&producer, 1));
        let other = {
            let producer = Arc::clone(&producer);
            thread::spawn(move || {
                first.truncate(1, header(9));
                publish(&producer, first, 1);
            })
        };
        publish(&producer, second, 2);
        receive(&mut consumer, 1, 1);
        let rest = consumer.poll().unwrap().expect("a frame that was published");
        assert_eq!((rest.header().request, rest.payload().len()), (9, 32));
        drop(rest);
        receive(&mut consumer, 2, 1);
        other.join().unwrap();
    });
}
