//! What was published and still lies in a ring: for a report about a worker that has died.
//!
//! A producer keeps no list of what it has sent, as that would cost each frame something. But a slot keeps
//! its frame until another one is put over it, also when the consumer has released it. The commit word of a
//! frame has the frame's position, so that it is told from what an earlier lap has left.
//!
//! ```text
//!   tail - capacity                              head              tail
//!   | rest of a frame | frame | ... | frame | pad | frame | frame |
//!     ^ some of it is       ^ released             ^ not released
//!       overwritten
//! ```
//!
//! The rest of a frame that is overwritten can look like a frame, as the bytes of a payload can be anything.
//! So what is said of released frames is a hint.

use crate::config::SLOT_ALIGN;
use crate::ring::commit::Commit;
use crate::ring::header::Header;
use crate::ring::position::{span, to_end, within};
use crate::shm::layout::{as_u32, as_u64, as_usize};
use crate::shm::slots::OwnSlots;

/// A frame that was published, and lies in the ring while this is there.
#[derive(Debug)]
pub(crate) struct PublishedFrame<'a> {
    slots: &'a OwnSlots,
    /// Where its slot starts.
    pub(crate) position: u64,
    pub(crate) header: Header,
}

impl PublishedFrame<'_> {
    /// Returns the same frame without the last bytes of its payload.
    pub(crate) fn without_tail(&self, len: usize) -> PublishedFrame<'_> {
        let len = self.header.len.saturating_sub(as_u32(len));
        PublishedFrame { header: Header { len, ..self.header }, ..*self }
    }

    /// Copies the first bytes of the payload, `most` at most.
    pub(crate) fn payload(&self, most: usize) -> Vec<u8> {
        payload(self.slots, self.position, as_usize(u64::from(self.header.len)).min(most))
    }
}

/// A look at what was published, in steps: between two of them the ring may go on.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Where the next step begins, and where the tail was when the look began.
    span: Option<(u64, u64)>,
}

/// Bytes of a word.
const WORD: usize = 8;
/// Words of a line, and of a frame's header.
const WORDS: usize = SLOT_ALIGN / WORD;
const HEADER_WORDS: usize = 4;

impl History {
    /// Shows `see` frames between `origin` and `tail` that still lie in the ring, oldest first, and looks
    /// at `most` slots or so. Returns false when there is nothing more.
    pub(super) fn step(
        &mut self,
        slots: &OwnSlots,
        (origin, tail, capacity): (u64, u64, u64),
        most: usize,
        mut see: impl FnMut(&PublishedFrame<'_>),
    ) -> bool {
        // No page is touched that was not made: all between the two have been written.
        let oldest = tail.wrapping_sub(tail.wrapping_sub(origin).min(capacity));
        let (next, end) = self.span.unwrap_or((oldest, tail));
        if next == end || !within(end, oldest, tail.wrapping_add(1)) {
            // All was seen, or others were put over the rest.
            return false;
        }
        let mut position = if within(next, oldest, end) { next } else { oldest };
        for _ in 0..most {
            if !within(position, oldest, end) {
                break;
            }
            let line = slots.line(position);
            let word = line.load(0);
            if word == Commit::padding(position) {
                position = position.wrapping_add(to_end(position, capacity));
                continue;
            }
            let header = Header::from_words([line.load(1), line.load(2), line.load(3)]);
            let len = as_usize(u64::from(header.len));
            let left = end.wrapping_sub(position).min(to_end(position, capacity));
            if word == Commit::frame(position) && as_u64(len) < left && span(len) <= left {
                see(&PublishedFrame { slots, position, header });
                position = position.wrapping_add(span(len));
            } else {
                position = position.wrapping_add(as_u64(SLOT_ALIGN));
            }
        }
        self.span = Some((position, end));
        within(position, oldest, end)
    }
}

/// Copies the first `len` bytes of the payload of the frame at `position`.
fn payload(slots: &OwnSlots, position: u64, len: usize) -> Vec<u8> {
    let words = HEADER_WORDS..HEADER_WORDS + len.div_ceil(WORD);
    let mut bytes = Vec::with_capacity(len + WORD);
    for word in words {
        let line = position.wrapping_add(as_u64(word / WORDS * SLOT_ALIGN));
        bytes.extend(slots.line(line).load(word % WORDS).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;
    use crate::ring::Producer;
    use crate::ring::testing::{pattern, receive, rig, rig_without_pages, send};

    /// The frames that are found, in steps of two looks: position, request, and up to `most` bytes.
    fn all(producer: &Producer, most: usize) -> Vec<(u64, u64, Vec<u8>)> {
        let (mut history, mut found) = (History::default(), Vec::new());
        let mut see = |frame: &PublishedFrame<'_>| {
            found.push((frame.position, frame.header.request, frame.payload(most)));
        };
        while producer.look_back(&mut history, 2, &mut see) {}
        assert!(!producer.look_back(&mut history, 2, &mut see), "it ends once");
        found
    }

    fn found(producer: &Producer, most: usize) -> Vec<(u64, Vec<u8>)> {
        let all = all(producer, most).into_iter();
        all.map(|(_, request, payload)| (request, payload)).collect()
    }

    #[test]
    fn frames_are_found_until_others_are_put_over_them() {
        // Around the end of all positions, too.
        for origin in [0, u64::MAX - 8191] {
            let mut ring = rig(4096, 1000, origin);
            let mut sent = Vec::new();
            let mut found_released = 0;
            for request in 1..400_u64 {
                let len = as_usize(request * 37 % 1001);
                let payload = pattern(request, len);
                while !send(&mut ring.producer, request, &payload).unwrap() {
                    receive(&mut ring.consumer).unwrap().unwrap();
                }
                sent.push((request, payload));
                while request % 16 == 0 && receive(&mut ring.consumer).unwrap().is_some() {}
                let used = ring.producer.used();
                let frames = all(&ring.producer, usize::MAX);
                let (tail, head) = ring.producer.positions();
                assert_eq!(tail.wrapping_sub(head.unwrap()), used);
                let kept = &sent[sent.len() - frames.len()..];
                let same = |((_, request, payload), sent): (&(u64, u64, Vec<u8>), &_)| {
                    (*request, payload.clone()) == *sent
                };
                assert!(frames.iter().zip(kept).all(same), "{request}");
                let is_held = |it: &&(u64, u64, Vec<u8>)| tail.wrapping_sub(it.0) <= used;
                let held: u64 = frames.iter().filter(is_held).map(|it| span(it.2.len())).sum();
                // But for padding, all of the ring that is used is frames.
                assert!(held <= used && held + 1064 > used, "{held} of {used}");
                found_released += frames.iter().filter(|frame| !is_held(frame)).count();
            }
            assert!(found_released > 150, "{found_released}");
        }
    }

    #[test]
    fn no_more_of_a_payload_is_copied_than_is_wanted() {
        let mut ring = rig(4096, 1000, 0);
        send(&mut ring.producer, 1, &pattern(1, 500)).unwrap();
        send(&mut ring.producer, 2, b"").unwrap();
        for most in [0, 1, 31, 32, 33, 499, 500, 4000] {
            let first = pattern(1, 500).into_iter().take(most).collect();
            assert_eq!(found(&ring.producer, most), [(1, first), (2, Vec::new())]);
        }
    }

    #[test]
    fn a_step_is_short_and_the_ring_may_go_on_between_two() {
        for origin in [0, u64::MAX - 8191] {
            let mut ring = rig(4096, 1000, origin);
            let (mut history, mut seen) = (History::default(), Vec::new());
            let mut step = |producer: &Producer, most| {
                seen.clear();
                let see = |frame: &PublishedFrame<'_>| seen.push(frame.header.request);
                let has_more = producer.look_back(&mut history, most, see);
                (seen.clone(), has_more)
            };
            for request in 1..=40 {
                send(&mut ring.producer, request, b"").unwrap();
            }
            assert_eq!(step(&ring.producer, 3), (vec![1, 2, 3], true));
            // What comes now is not part of the look, and is put over some that is.
            for request in 41..=80 {
                while !send(&mut ring.producer, request, b"").unwrap() {
                    receive(&mut ring.consumer).unwrap().unwrap();
                }
            }
            assert_eq!(step(&ring.producer, 2), (vec![17, 18], true));
            assert_eq!(step(&ring.producer, 100), ((19..=40).collect(), false));
            // Over all of it.
            let mut history = History::default();
            assert!(ring.producer.look_back(&mut history, 1, |_| {}));
            for request in 81..=200 {
                while !send(&mut ring.producer, request, b"").unwrap() {
                    receive(&mut ring.consumer).unwrap().unwrap();
                }
            }
            assert!(!ring.producer.look_back(&mut history, 9, |_| panic!("a frame")));
        }
    }

    #[test]
    fn a_payload_that_looks_like_frames_is_none() {
        let mut ring = rig(4096, 1000, 0);
        let mut payload = vec![0; 500];
        for line in 1..8 {
            // As the slot at this position would begin, were it a frame.
            let at = line * SLOT_ALIGN - 32;
            payload[at..at + 8]
                .copy_from_slice(&Commit::frame(as_u64(line * SLOT_ALIGN)).to_le_bytes());
        }
        send(&mut ring.producer, 1, &payload).unwrap();
        assert_eq!(found(&ring.producer, 0), [(1, Vec::new())]);
    }

    #[test]
    fn a_look_at_a_new_ring_makes_no_pages() {
        use std::os::unix::fs::MetadataExt;
        let (mut ring, file) = rig_without_pages(1 << 20, 1000);
        send(&mut ring.producer, 1, b"x").unwrap();
        let before = file.metadata().unwrap().blocks();
        assert_eq!(found(&ring.producer, 10), [(1, b"x".to_vec())]);
        assert_eq!(file.metadata().unwrap().blocks(), before);
    }
}
