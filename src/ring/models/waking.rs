//! A side that sleeps is woken by a frame, a flush or an alarm.

use super::*;
use crate::ring::doorbell::{Bell, Step};
use crate::sync::AtomicU32;

#[test]
fn a_consumer_that_goes_to_sleep_is_woken_for_every_frame() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, LONGEST, ORIGIN);
        let sender = thread::spawn(move || {
            send(&mut producer, 1, 0);
            send(&mut producer, 2, 0);
            producer
        });
        receive(&mut consumer, 1, 0);
        receive(&mut consumer, 2, 0);
        drop(sender.join().unwrap());
    });
}

#[test]
fn frames_committed_lazily_wake_with_the_flush() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, LONGEST, 0);
        let sender = thread::spawn(move || {
            send_lazily(&mut producer, 1, 0);
            send_lazily(&mut producer, 2, 0);
            producer.flush();
            producer
        });
        receive(&mut consumer, 1, 0);
        receive(&mut consumer, 2, 0);
        drop(sender.join().unwrap());
    });
}

#[test]
fn a_producer_that_is_dropped_leaves_no_consumer_asleep() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, LONGEST, 0);
        let sender = thread::spawn(move || send_lazily(&mut producer, 1, 0));
        receive(&mut consumer, 1, 0);
        sender.join().unwrap();
    });
}

#[test]
fn a_producer_that_waits_for_room_has_woken_the_consumer_first() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, LONGEST, 0);
        let sender = thread::spawn(move || {
            for request in 1..=3 {
                send_lazily(&mut producer, request, 0);
            }
            send(&mut producer, 4, 0);
            producer
        });
        for request in 1..=4 {
            receive(&mut consumer, request, 0);
        }
        drop(sender.join().unwrap());
    });
}

#[test]
fn a_group_is_published_before_a_wait_and_by_the_drop() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, LONGEST, 0);
        // The fourth has no room until the first is released, and stays in a group of its own.
        let sender = thread::spawn(move || {
            (1..=4).for_each(|request| send_in_group(&mut producer, request, 0));
        });
        for request in 1..=4 {
            receive(&mut consumer, request, 0);
        }
        sender.join().unwrap();
    });
}

#[test]
fn an_alarm_ends_a_wait_for_a_frame() {
    model(|| {
        let RingRig { producer, mut consumer, .. } = rig(CAPACITY, LONGEST, 0);
        let (alarm, is_over) = (Arc::new(Alarm::default()), Arc::new(AtomicU32::new(0)));
        let raiser = thread::spawn({
            let (alarm, is_over) = (Arc::clone(&alarm), Arc::clone(&is_over));
            move || {
                // Relaxed: raising the alarm must make it visible.
                is_over.store(1, Ordering::Relaxed);
                alarm.raise();
            }
        });
        let frame = consumer.poll_until(&alarm, Deadline::NEVER, || stop(&is_over));
        assert_eq!(frame.unwrap_err().kind(), ErrorKind::Closed);
        raiser.join().unwrap();
        drop(producer);
    });
}

fn stop(is_over: &AtomicU32) -> Result<()> {
    match is_over.load(Ordering::Relaxed) {
        0 => Ok(()),
        _ => Err(Error::new(ErrorKind::Closed, "over")),
    }
}

#[test]
fn a_frame_and_an_alarm_end_a_wait_whichever_comes_first() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, LONGEST, 0);
        let (alarm, is_over) = (Arc::new(Alarm::default()), Arc::new(AtomicU32::new(0)));
        let sender = thread::spawn(move || {
            send(&mut producer, 1, 0);
            producer
        });
        let raiser = thread::spawn({
            let (alarm, is_over) = (Arc::clone(&alarm), Arc::clone(&is_over));
            move || {
                is_over.store(1, Ordering::Relaxed);
                alarm.raise();
            }
        });
        let mut frames = 0;
        let error = loop {
            match consumer.poll_until(&alarm, Deadline::NEVER, || stop(&is_over)) {
                Ok(frame) => drop(frame.unwrap()),
                Err(error) => break error,
            }
            frames += 1;
        };
        assert_eq!(error.kind(), ErrorKind::Closed);
        drop(sender.join().unwrap());
        raiser.join().unwrap();
        while let Some(frame) = consumer.poll().unwrap() {
            drop(frame);
            frames += 1;
        }
        assert_eq!(frames, 1);
    });
}

#[test]
fn what_was_committed_before_the_end_is_found_before_it() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, LONGEST, 0);
        let (alarm, is_over) = (Arc::new(Alarm::default()), Arc::new(AtomicU32::new(0)));
        let sender = thread::spawn({
            let (alarm, is_over) = (Arc::clone(&alarm), Arc::clone(&is_over));
            move || {
                send(&mut producer, 1, 0);
                // The bell is not rung for this frame.
                send_lazily(&mut producer, 2, 0);
                is_over.store(1, Ordering::Release);
                alarm.raise();
                producer
            }
        });
        let has_ended = || match is_over.load(Ordering::Acquire) {
            0 => Ok(()),
            _ => Err(Error::new(ErrorKind::Closed, "over")),
        };
        for request in 1..=2 {
            let frame = consumer.poll_until(&alarm, Deadline::NEVER, has_ended);
            let Ok(Some(frame)) = frame else {
                panic!("the end came before a frame that was published before it")
            };
            assert_eq!(frame.header().request, request);
        }
        let end = consumer.poll_until(&alarm, Deadline::NEVER, has_ended).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::Closed);
        drop(sender.join().unwrap());
    });
}

#[test]
fn room_that_was_made_before_the_end_is_found_before_it() {
    model(|| {
        let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, LONGEST, 0);
        for request in 1..=3 {
            send(&mut producer, request, 0);
        }
        let (alarm, is_over) = (Arc::new(Alarm::default()), Arc::new(AtomicU32::new(0)));
        let reader = thread::spawn({
            let (alarm, is_over) = (Arc::clone(&alarm), Arc::clone(&is_over));
            move || {
                drop(consumer.poll().unwrap());
                consumer.publish_released();
                is_over.store(1, Ordering::Release);
                alarm.raise();
                consumer
            }
        });
        let claim = producer.claim_until(0, &alarm, Deadline::NEVER, || {
            match is_over.load(Ordering::Acquire) {
                0 => Ok(()),
                _ => Err(Error::new(ErrorKind::Closed, "over")),
            }
        });
        drop(claim.unwrap().expect("a slot that was free before the end"));
        drop(reader.join().unwrap());
    });
}

#[test]
fn an_alarm_ends_a_wait_for_room() {
    model(|| {
        let RingRig { mut producer, consumer, .. } = rig(CAPACITY, LONGEST, 0);
        for request in 1..=3 {
            send(&mut producer, request, 0);
        }
        let (alarm, is_over) = (Arc::new(Alarm::default()), Arc::new(AtomicU32::new(0)));
        let raiser = thread::spawn({
            let (alarm, is_over) = (Arc::clone(&alarm), Arc::clone(&is_over));
            move || {
                is_over.store(1, Ordering::Relaxed);
                alarm.raise();
            }
        });
        let claim = producer.claim_until(0, &alarm, Deadline::NEVER, || stop(&is_over));
        assert_eq!(claim.unwrap_err().kind(), ErrorKind::Closed);
        raiser.join().unwrap();
        drop(consumer);
    });
}

#[test]
fn a_bell_wakes_all_that_sleep_on_it() {
    model(|| {
        // The sleepers of both threads sleep on the consumer's bell.
        let RingRig { producer, consumer, forge } = rig(CAPACITY, LONGEST, 0);
        let producer = Arc::new(producer);
        let news = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let waiters = [0, 1].map(|which: usize| {
            let (producer, news) = (Arc::clone(&producer), Arc::clone(&news));
            thread::spawn(move || {
                let found =
                    producer.sleeper.wait_until(&Alarm::default(), Deadline::NEVER, |step| {
                        let is_news = news[which].load(Ordering::Acquire) != 0;
                        Ok((step == Step::Look && is_news).then_some(()))
                    });
                assert!(found.unwrap().is_some());
            })
        });
        let bell = Bell::new(forge.consumer_bell, None);
        for word in news.iter() {
            word.store(1, Ordering::Release);
            bell.ring();
        }
        for waiter in waiters {
            waiter.join().unwrap();
        }
        drop(consumer);
    });
}

#[test]
fn a_bell_that_is_rung_without_a_fence_brings_the_news_with_it() {
    model(|| {
        let RingRig { producer, consumer, forge } = rig(CAPACITY, LONGEST, 0);
        let news = Arc::new(AtomicU32::new(0));
        let ringer = thread::spawn({
            let news = Arc::clone(&news);
            move || {
                // Relaxed: ringing the bell must make it visible.
                news.store(1, Ordering::Relaxed);
                Bell::new(forge.consumer_bell, None).ring();
            }
        });
        let sleeper = &producer.sleeper;
        let found = sleeper.wait_until(&Alarm::default(), Deadline::NEVER, |step| {
            let is_news = news.load(Ordering::Relaxed) != 0;
            Ok((step == Step::Look && is_news).then_some(()))
        });
        assert!(found.unwrap().is_some());
        ringer.join().unwrap();
        drop((producer, consumer));
    });
}
