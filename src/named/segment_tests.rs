//! Segments and their events, on their own.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use super::*;
use crate::named::segment_file::path;

const LEN: u64 = 8192;

/// A segment whose name is gone when the test is over.
struct Made {
    id: String,
    segment: Segment,
}

fn made(test: &str) -> Made {
    let id = format!("slipring-test-{}-{test}", std::process::id());
    let (segment, _) = Segment::create(&id, LEN).unwrap();
    Made { id, segment }
}

impl Drop for Made {
    fn drop(&mut self) {
        std::fs::remove_file(path(&self.id)).unwrap();
    }
}

impl Made {
    fn event(&self) -> &NamedEvent {
        &self.segment.events.get().unwrap()[0]
    }
}

fn opened(id: &str) -> Segment {
    match Segment::open(id).unwrap() {
        Some(segment) => segment,
        None => panic!("{id} is not there"),
    }
}

#[test]
fn a_name_can_be_taken_once_and_is_left_to_its_guard() {
    let made = made("name");
    let taken = Segment::create(&made.id, LEN).unwrap_err();
    assert_eq!(io::Error::from(taken).kind(), io::ErrorKind::AlreadyExists);
    drop(opened(&made.id));
    assert!(path(&made.id).exists());
    assert!(Segment::open("slipring-test-none").unwrap().is_none());
}

#[test]
fn a_size_that_no_channel_has_is_refused_before_the_kernel_is_asked() {
    let error = Segment::create("slipring-test-large", u64::MAX >> 2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

#[test]
fn all_pages_are_reserved() {
    use std::os::unix::fs::MetadataExt;
    let made = made("pages");
    made.segment.reserve().unwrap();
    let found = std::fs::metadata(path(&made.id)).unwrap();
    assert_eq!((found.len(), found.blocks() * 512), (LEN, LEN));
}

#[test]
fn a_set_ends_a_wait_through_another_map_or_the_next_one() {
    let made = made("set");
    let other = opened(&made.id);
    other.adopt_events().unwrap();
    let theirs = other.event(control::DATA + control::BELL).unwrap();
    assert!(other.event(control::DATA).is_none());
    for is_early in [true, false] {
        let start = Instant::now();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                if is_early {
                    thread::sleep(Duration::from_millis(20));
                }
                made.event().wait(&|| true, Deadline::after(Duration::from_secs(30)));
            });
            if !is_early {
                thread::sleep(Duration::from_millis(5));
            }
            theirs.set();
            waiter.join().unwrap();
        });
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn waits_without_a_set_last_their_slice_wherever_in_a_second_they_begin() {
    let made = made("slices");
    let start = Instant::now();
    let mut waits = 0_u32;
    while start.elapsed() < Duration::from_millis(1500) {
        made.event().wait(&|| true, Deadline::after(Duration::from_secs(30)));
        waits += 1;
    }
    // Fifteen full slices, and the few that an end of a second cuts off.
    assert!(waits < 40, "{waits} waits in {:?}", start.elapsed());
}

/// A counter that is bumped and rung for by one side, and waited for by many threads.
#[test]
fn no_ring_is_lost_whichever_thread_takes_it() {
    let made = made("rings");
    let other = opened(&made.id);
    other.adopt_events().unwrap();
    let theirs = other.event(control::DATA + control::BELL).unwrap();
    let (bell, is_done) = (AtomicU32::new(0), AtomicBool::new(false));
    let mut late = 0;
    let seen: Vec<AtomicU32> = (0..4).map(|_| AtomicU32::new(0)).collect();
    thread::scope(|scope| {
        for seen in &seen {
            let (made, bell, is_done) = (&made, &bell, &is_done);
            scope.spawn(move || {
                while !is_done.load(Ordering::Acquire) {
                    let value = bell.load(Ordering::Acquire);
                    seen.store(value, Ordering::Release);
                    let is_still = || bell.load(Ordering::Acquire) == value;
                    made.event().wait(&is_still, Deadline::NEVER);
                }
            });
        }
        for round in 1..=2000 {
            if round % 3 == 0 {
                thread::sleep(Duration::from_micros(u64::from(round % 7) * 50));
            }
            let start = Instant::now();
            bell.store(round, Ordering::Release);
            theirs.set();
            while seen.iter().any(|seen| seen.load(Ordering::Acquire) != round) {
                thread::yield_now();
            }
            late += u32::from(start.elapsed() >= Duration::from_millis(100));
        }
        is_done.store(true, Ordering::Release);
        bell.fetch_add(1, Ordering::Release);
        theirs.set();
    });
    // A lost ring is waited out for half a second; a busy machine can delay a few others.
    assert!(late < 100, "{late} rounds took 100 ms or more");
}

#[test]
fn a_mutex_of_a_dead_peer_delays_a_ring_until_the_rescue() {
    let made = made("rescue");
    let event = made.event();
    // No thread will ever unlock it.
    std::mem::forget(event.mutex.lock().unwrap());
    let start = Instant::now();
    event.set();
    assert!(start.elapsed() >= PATIENCE && start.elapsed() < Duration::from_secs(10));

    // A waiter that comes now hangs in the lock at most for its slice.
    event.wait(&|| true, Deadline::after(Duration::from_millis(5)));

    event.rescue();
    assert!(event.is_free(Duration::ZERO));
    let start = Instant::now();
    event.wait(&|| true, Deadline::after(Duration::from_secs(30)));
    assert!(start.elapsed() < Duration::from_secs(10), "it is set");
}

#[test]
fn a_waiter_that_wakes_to_a_mutex_of_a_dead_peer_goes_on() {
    let made = made("stuck");
    let event = made.event();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            event.wait(&|| true, Deadline::after(Duration::from_millis(50)));
        });
        thread::sleep(Duration::from_millis(10));
        std::mem::forget(event.mutex.lock().unwrap());
        thread::sleep(Duration::from_millis(200));
        event.rescue();
        waiter.join().unwrap();
    });
    assert!(event.is_free(Duration::ZERO));
}
