//! Frames that are kept: in any order, on other threads, for ever.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use crate::error::ErrorKind;
use crate::ring::position::span;
use crate::ring::testing::{RingRig, alarm, pattern, receive, rig, send};
use crate::ring::{Consumer, Header, Lease, LeasedRun};
use crate::shm::layout::as_u64;
use crate::sync::Ordering::Relaxed;
use crate::sys::clock::Deadline;

const CAPACITY: usize = 4096;

fn lease(consumer: &mut Consumer) -> Lease {
    consumer.poll().unwrap().unwrap().into_lease()
}

/// Free bytes, as the producer sees them: how many empty frames it can publish.
fn free_slots(ring: &mut RingRig) -> usize {
    let mut free = 0;
    while send(&mut ring.producer, 0, b"").unwrap() {
        free += 1;
    }
    free
}

#[test]
fn a_lease_outlives_later_polls_and_shows_what_was_sent() {
    let mut ring = rig(CAPACITY, 1000, 0);
    send(&mut ring.producer, 1, &pattern(1, 500)).unwrap();
    send(&mut ring.producer, 2, &pattern(2, 500)).unwrap();
    let first = lease(&mut ring.consumer);
    assert_eq!(receive(&mut ring.consumer).unwrap(), Some((2, pattern(2, 500))));
    assert_eq!(receive(&mut ring.consumer).unwrap(), None);
    assert_eq!(first.header().request, 1);
    assert_eq!(first.payload().to_vec(), pattern(1, 500));
    assert_eq!(ring.consumer.leased(), 1);
    drop(first);
    assert_eq!(ring.consumer.leased(), 0);
}

#[test]
fn leases_come_back_in_any_order_and_space_in_the_rings() {
    // Every order of four leases, with a frame that is not leased between them.
    for order in permutations(4) {
        let mut ring = rig(CAPACITY, 1000, u64::MAX - 255);
        for request in 0..8 {
            send(&mut ring.producer, request, b"").unwrap();
        }
        let mut leases: Vec<_> = (0..4)
            .map(|_| {
                let lease = Some(lease(&mut ring.consumer));
                assert!(receive(&mut ring.consumer).unwrap().is_some());
                lease
            })
            .collect();
        let mut is_out = [true; 4];
        assert_eq!(free_slots(&mut ring), 64 - 1 - 8);
        for index in order {
            drop(leases[index].take());
            is_out[index] = false;
            let oldest = is_out.iter().position(|out| *out);
            let (requests, bytes) = ring.consumer.holders();
            let expected: Vec<_> = (0..4).filter(|i| is_out[*i]).map(|i| 2 * as_u64(i)).collect();
            assert_eq!(requests, expected);
            assert_eq!(bytes, oldest.map_or(0, |i| 64 * as_u64(8 - 2 * i)));
            let head = ring.forge.head.load(crate::sync::Ordering::Relaxed);
            let released = head.wrapping_sub(u64::MAX - 255);
            assert_eq!(released, oldest.map_or(8, |i| 2 * as_u64(i)) * 64);
        }
        assert_eq!(free_slots(&mut ring), 8, "all are free again");
        while receive(&mut ring.consumer).unwrap().is_some() {}
        assert_eq!(ring.consumer.holders(), (Vec::new(), 0));
    }
}

#[test]
fn a_forgotten_lease_holds_the_ring_and_is_named() {
    let mut ring = rig(CAPACITY, 1000, 0);
    send(&mut ring.producer, 41, b"held").unwrap();
    std::mem::forget(lease(&mut ring.consumer));
    let mut sent = 0;
    while send(&mut ring.producer, sent, b"").unwrap() {
        assert_eq!(receive(&mut ring.consumer).unwrap(), Some((sent, Vec::new())));
        sent += 1;
    }
    assert_eq!(sent, 64 - 2);
    assert_eq!(ring.consumer.holders(), (vec![41], 4096 - 64));
    assert_eq!(ring.consumer.leased(), 1);
}

#[test]
fn a_lease_outlives_its_consumer() {
    let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, 1000, 0);
    send(&mut producer, 1, b"late").unwrap();
    let lease = lease(&mut consumer);
    drop(consumer);
    assert_eq!(lease.payload().to_vec(), b"late");
    while send(&mut producer, 2, b"").unwrap() {}
    drop(lease);
    assert!(send(&mut producer, 3, b"").unwrap());
}

#[test]
fn leases_that_other_threads_drop_free_the_ring_for_a_producer_that_waits() {
    const FRAMES: u64 = 20_000;
    let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, 500, u64::MAX - (1 << 18) + 1);
    let sender = std::thread::spawn(move || {
        for request in 0..FRAMES {
            let len = usize::try_from(request % 500).unwrap();
            let claim = producer.claim_until(len, &alarm(), Deadline::NEVER, || Ok(()));
            let mut claim = claim.unwrap().unwrap();
            claim.payload().copy_from_slice(&pattern(request, len));
            claim.commit(Header { request, ..Header::default() });
        }
    });
    let (to_droppers, droppers): (Vec<_>, Vec<_>) = (0..3)
        .map(|_| {
            let (to, from) = std::sync::mpsc::channel::<Lease>();
            let dropper = std::thread::spawn(move || {
                let mut kept = Vec::new();
                loop {
                    // Out of order, but keeping nothing back while there is nothing to do:
                    // all threads would wait for each other.
                    let next = from.try_recv().ok().or_else(|| {
                        kept.clear();
                        from.recv().ok()
                    });
                    let Some(lease) = next else { break };
                    let request = lease.header().request;
                    let len = lease.payload().len();
                    assert_eq!(lease.payload().to_vec(), pattern(request, len));
                    if request % 3 == 0 {
                        kept.push(lease);
                    }
                }
            });
            (to, dropper)
        })
        .unzip();
    for request in 0..FRAMES {
        let frame = consumer.poll_until(&alarm(), Deadline::NEVER, || Ok(()));
        let frame = frame.unwrap().unwrap();
        assert_eq!(frame.header().request, request);
        if request % 4 == 0 {
            continue;
        }
        let to = usize::try_from(request % 7 % 3).unwrap();
        to_droppers[to].send(frame.into_lease()).unwrap();
        if request % 64 == 0 {
            std::thread::yield_now();
        }
    }
    sender.join().unwrap();
    drop(to_droppers);
    for dropper in droppers {
        dropper.join().unwrap();
    }
    assert_eq!(consumer.leased(), 0);
    assert_eq!(consumer.holders(), (Vec::new(), 0));
}

fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in permutations(n - 1) {
        for at in 0..n {
            let mut longer = shorter.clone();
            longer.insert(at, n - 1);
            all.push(longer);
        }
    }
    all
}

/// Takes a run of at most so many bytes of slots, and returns its payloads.
fn run(consumer: &mut Consumer, most: u64) -> Option<(LeasedRun, Vec<Vec<u8>>)> {
    let mut lens = Vec::new();
    let run = consumer.take_run(&mut lens, |_, taken| taken < most).unwrap()?;
    let mut offset = 0;
    let payloads = lens.into_iter().map(|len| {
        let payload = run.payload(offset, len).to_vec();
        offset += span(len as usize);
        payload
    });
    let payloads = payloads.collect();
    Some((run, payloads))
}

#[test]
fn a_run_has_what_lies_in_a_row_and_gives_it_back_at_once() {
    for origin in [0, 4096 - 640, u64::MAX - 63] {
        let mut ring = rig(CAPACITY, 1000, origin);
        let mut next = 0;
        for most in [0, 1, 300, 2000, 4096].into_iter().cycle().take(200) {
            let mut sent = next;
            while send(&mut ring.producer, sent, &pattern(sent, sent as usize * 37 % 400)).unwrap()
            {
                sent += 1;
            }
            let Some((kept, payloads)) = run(&mut ring.consumer, most) else {
                assert_eq!(most, 0);
                let (number, payload) = receive(&mut ring.consumer).unwrap().unwrap();
                assert_eq!((number, payload), (next, pattern(next, next as usize * 37 % 400)));
                next += 1;
                drop_rest(&mut ring.consumer, &mut next, sent);
                continue;
            };
            assert_eq!(ring.consumer.leased(), 1);
            for payload in payloads {
                assert_eq!(payload, pattern(next, next as usize * 37 % 400));
                next += 1;
            }
            drop_rest(&mut ring.consumer, &mut next, sent);
            for _ in 0..free_slots(&mut ring) {
                assert!(receive(&mut ring.consumer).unwrap().is_some());
            }
            assert_eq!(free_slots(&mut ring), 0, "the run holds back what is behind it");
            drop(kept);
            assert_eq!(ring.consumer.leased(), 0);
            let free = free_slots(&mut ring);
            assert!(free > 0);
            (0..free).for_each(|_| assert!(receive(&mut ring.consumer).unwrap().is_some()));
            ring.consumer.publish_released();
        }
    }
}

/// Takes the frames that are left, up to number `sent`.
fn drop_rest(consumer: &mut Consumer, next: &mut u64, sent: u64) {
    while *next < sent {
        let (number, payload) = receive(consumer).unwrap().unwrap();
        assert_eq!((number, payload), (*next, pattern(*next, *next as usize * 37 % 400)));
        *next += 1;
    }
}

#[test]
fn a_run_ends_before_a_frame_that_cannot_be_which_the_next_look_finds() {
    let mut ring = rig(CAPACITY, 1000, 0);
    for number in 0..4 {
        send(&mut ring.producer, number, b"8 bytes.").unwrap();
    }
    ring.forge.slots.line(128).store(1, 5000, Relaxed);
    let (kept, payloads) = run(&mut ring.consumer, 4096).unwrap();
    assert_eq!(payloads, [b"8 bytes."; 2]);
    let mut lens = Vec::new();
    let error = ring.consumer.take_run(&mut lens, |_, _| true).unwrap_err();
    assert_eq!((error.kind(), lens.len()), (ErrorKind::PeerCorrupt, 0));
    drop(kept);
    assert!(ring.consumer.poll().is_err(), "for good");
}
