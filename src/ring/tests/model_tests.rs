//! Any sequence of operations does to a ring what it does to a queue.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::VecDeque;

use proptest::prelude::*;

use crate::config::{FRAME_HEADER, SLOT_ALIGN};
use crate::ring::testing::{RingRig, claim_batch, pattern, rig};
use crate::ring::{Header, Lease};
use crate::shm::layout::as_u64;

const CAPACITY: usize = 4096;

#[derive(Debug, Clone)]
enum Step {
    Commit(usize),
    CommitLazily(usize),
    Abort(usize),
    Truncate(usize, usize),
    /// So many frames of one length, published together.
    Batch(usize, usize),
    /// The same, but they come one by one.
    Group(usize, usize),
    Flush,
    Release,
    /// Takes up to so many.
    Drain(usize),
    Keep,
    /// Drops one of the leases that are out.
    Drop(proptest::sample::Index),
    Publish,
}

fn step(max_frame: usize) -> impl Strategy<Value = Step> {
    let len = prop_oneof![4 => 0..200_usize, 1 => 0..=max_frame + 1, 1 => Just(max_frame)];
    prop_oneof![
        6 => len.clone().prop_map(Step::Commit),
        3 => len.clone().prop_map(Step::CommitLazily),
        1 => len.clone().prop_map(Step::Abort),
        2 => (len.clone(), len).prop_map(|(a, b)| Step::Truncate(a.max(b), a.min(b))),
        2 => (0..300_usize, 0..9_usize).prop_map(|(len, count)| Step::Batch(len, count)),
        2 => (0..300_usize, 0..9_usize).prop_map(|(len, count)| Step::Group(len, count)),
        1 => Just(Step::Flush),
        6 => Just(Step::Release),
        2 => (0..9_usize).prop_map(Step::Drain),
        3 => Just(Step::Keep),
        3 => any::<proptest::sample::Index>().prop_map(Step::Drop),
        1 => Just(Step::Publish),
    ]
}

fn span(len: usize) -> usize {
    (FRAME_HEADER + len).next_multiple_of(SLOT_ALIGN)
}

/// A frame that is in the ring: what was written, how much of it was kept, where it lies.
#[derive(Debug, Clone, Copy)]
struct Sent {
    request: u64,
    written: usize,
    kept: usize,
    start: u128,
}

impl Sent {
    fn payload(&self) -> Vec<u8> {
        let mut all = pattern(self.request, self.written);
        all.truncate(self.kept);
        all
    }

    fn end(&self) -> u128 {
        self.start + wide(span(self.kept))
    }
}

/// What the ring should be. Positions here do not wrap.
struct Model {
    tail: u128,
    next: u128,
    queue: VecDeque<Sent>,
    leases: Vec<(Sent, Lease)>,
}

impl Model {
    /// Where a frame of `len` bytes starts, if all slots that are not held are free.
    fn place(&self, len: usize) -> Option<u128> {
        let rest = wide(CAPACITY) - self.tail % wide(CAPACITY);
        let padding = if wide(span(len)) > rest { rest } else { 0 };
        let start = self.tail + padding;
        let held = self.leases.iter().map(|(sent, _)| sent.start).min();
        let after = start + wide(span(len) + SLOT_ALIGN);
        (after <= held.unwrap_or(self.next) + wide(CAPACITY)).then_some(start)
    }
}

fn wide(value: usize) -> u128 {
    u128::from(as_u64(value))
}

fn check(origin: u64, max_frame: usize, steps: &[Step]) -> Result<(), TestCaseError> {
    let RingRig { mut producer, mut consumer, .. } = rig(CAPACITY, max_frame, origin);
    let origin = u128::from(origin);
    let mut model =
        Model { tail: origin, next: origin, queue: VecDeque::new(), leases: Vec::new() };
    // Apart, so that the frames of a batch have numbers of their own.
    for (request, step) in (0..).step_by(16).zip(steps) {
        match *step {
            Step::Commit(len)
            | Step::CommitLazily(len)
            | Step::Abort(len)
            | Step::Truncate(len, _) => {
                let claimed = producer.try_claim(len);
                if len > max_frame {
                    prop_assert!(claimed.is_err());
                    continue;
                }
                let Some(mut claim) = claimed.unwrap() else {
                    // The producer may not have been told yet of all that is free.
                    consumer.publish_released();
                    let is_free = producer.try_claim(len).unwrap().is_some();
                    prop_assert_eq!(is_free, model.place(len).is_some());
                    continue;
                };
                let Some(start) = model.place(len) else {
                    return Err(TestCaseError::fail("a claim over slots that are held"));
                };
                claim.payload().copy_from_slice(&pattern(request, len));
                let header = Header { request, aux: !request, kind: 7, ..Header::default() };
                let mut kept = len;
                match *step {
                    Step::Abort(_) => {
                        drop(claim);
                        continue;
                    }
                    Step::CommitLazily(_) => claim.commit_lazily(header),
                    Step::Truncate(_, shorter) => {
                        claim.truncate(shorter);
                        kept = shorter;
                        claim.commit(header);
                    }
                    _ => _ = claim.commit(header),
                }
                let sent = Sent { request, written: len, kept, start };
                model.tail = sent.end();
                model.queue.push_back(sent);
            }
            Step::Batch(len, count) => {
                if len > max_frame {
                    prop_assert!(claim_batch(&mut producer, len, count).is_err());
                    continue;
                }
                let Some(mut batch) = claim_batch(&mut producer, len, count).unwrap() else {
                    // As for one: see above.
                    prop_assert!(count > 0 && producer.try_claim(len).unwrap().is_none());
                    continue;
                };
                let claimed = batch.len();
                prop_assert!((count.min(1)..=count).contains(&claimed));
                for index in 0..claimed {
                    batch.payload(index).copy_from_slice(&pattern(request + as_u64(index), len));
                }
                prop_assert!(batch.payload(claimed).is_empty());
                batch.commit_lazily(|index| {
                    let request = request + as_u64(index);
                    Header { request, aux: !request, kind: 7, ..Header::default() }
                });
                for index in 0..claimed {
                    let Some(start) = model.place(len) else {
                        return Err(TestCaseError::fail("a batch over slots that are held"));
                    };
                    let request = request + as_u64(index);
                    let sent = Sent { request, written: len, kept: len, start };
                    model.tail = sent.end();
                    model.queue.push_back(sent);
                }
            }
            Step::Group(len, count) => {
                for request in (request..).take(count) {
                    let Ok(Some(mut claim)) = producer.try_claim(len) else { break };
                    let Some(start) = model.place(len) else {
                        return Err(TestCaseError::fail("a claim over slots that are held"));
                    };
                    claim.payload().copy_from_slice(&pattern(request, len));
                    let header = Header { request, aux: !request, kind: 7, ..Header::default() };
                    claim.commit_in_group(header);
                    let sent = Sent { request, written: len, kept: len, start };
                    model.tail = sent.end();
                    model.queue.push_back(sent);
                }
                producer.flush();
            }
            Step::Drain(most) => {
                let mut seen = Vec::new();
                let count = consumer
                    .drain(most, |header, payload| seen.push((header.request, payload.to_vec())))
                    .unwrap();
                prop_assert_eq!(count, most.min(model.queue.len()));
                prop_assert_eq!(count, seen.len());
                for found in seen {
                    let sent = model.queue.pop_front().unwrap();
                    prop_assert_eq!(found, (sent.request, sent.payload()));
                    model.next = sent.end();
                }
            }
            Step::Flush => producer.flush(),
            Step::Publish => consumer.publish_released(),
            Step::Release | Step::Keep => {
                prop_assert_eq!(consumer.has_next(), !model.queue.is_empty());
                let polled = consumer.poll().unwrap();
                let Some(sent) = model.queue.pop_front() else {
                    prop_assert!(polled.is_none());
                    continue;
                };
                let frame = polled.unwrap();
                let Header { request, aux, kind, .. } = frame.header();
                prop_assert_eq!((request, aux, kind), (sent.request, !sent.request, 7));
                prop_assert_eq!(frame.payload().to_vec(), sent.payload());
                model.next = sent.end();
                if matches!(step, Step::Keep) {
                    model.leases.push((sent, frame.into_lease()));
                }
            }
            Step::Drop(index) => {
                if !model.leases.is_empty() {
                    model.leases.swap_remove(index.index(model.leases.len()));
                }
            }
        }
        prop_assert_eq!(consumer.leased(), model.leases.len());
        let mut out: Vec<u64> = model.leases.iter().map(|(sent, _)| sent.request).collect();
        out.sort_unstable();
        prop_assert_eq!(consumer.holders().0, out);
        // What is held is as it was sent, whatever has been written since.
        for (sent, lease) in &model.leases {
            prop_assert_eq!(lease.payload().to_vec(), sent.payload());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_ring_is_a_queue(
        slot in prop_oneof![
            0..64_u64,
            (1_u64 << 26) - 64..1_u64 << 26, // next to 2^32
            (1_u64 << 58) - 64..1_u64 << 58, // next to 2^64
            0..1_u64 << 58,
        ],
        max_frame in prop_oneof![Just(2016_usize), 1..2016_usize],
        steps in proptest::collection::vec(step(2016), 1..300),
    ) {
        check(slot * 64, max_frame, &steps)?;
    }
}
