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
use crate::shm::layout::{as_u64, as_usize};
use crate::shm::slots::OwnSlots;

/// A frame that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublishedFrame {
    /// Where its slot starts.
    pub(crate) position: u64,
    pub(crate) header: Header,
    /// The first bytes of its payload.
    pub(crate) payload: Vec<u8>,
}

/// Bytes of a word.
const WORD: usize = 8;
/// Words of a line, and of a frame's header.
const WORDS: usize = SLOT_ALIGN / WORD;
const HEADER_WORDS: usize = 4;

/// Returns the frames between `origin` and `tail` that still lie in the ring, oldest first, with as many
/// bytes of the payload as `wanted` says.
pub(super) fn published(
    slots: &OwnSlots,
    (origin, tail, capacity): (u64, u64, u64),
    wanted: impl Fn(&Header) -> usize,
) -> Vec<PublishedFrame> {
    // No page is touched that was not made: all between the two have been written.
    let mut position = tail.wrapping_sub(tail.wrapping_sub(origin).min(capacity));
    let start = position;
    let mut found = Vec::new();
    while within(position, start, tail) {
        let line = slots.line(position);
        let word = line.load(0);
        if word == Commit::padding(position) {
            position = position.wrapping_add(to_end(position, capacity));
            continue;
        }
        let header = Header::from_words([line.load(1), line.load(2), line.load(3)]);
        let len = as_usize(u64::from(header.len));
        let left = tail.wrapping_sub(position).min(to_end(position, capacity));
        if word == Commit::frame(position) && as_u64(len) < left && span(len) <= left {
            let wanted = wanted(&header).min(len);
            let payload = payload(slots, position, wanted);
            found.push(PublishedFrame { position, header, payload });
            position = position.wrapping_add(span(len));
        } else {
            position = position.wrapping_add(as_u64(SLOT_ALIGN));
        }
    }
    found
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
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::ring::Producer;
    use crate::ring::testing::{pattern, receive, rig, rig_without_pages, send};

    fn found(producer: &Producer, most: usize) -> Vec<(u64, Vec<u8>)> {
        let frames = producer.history(|_| most);
        frames.into_iter().map(|frame| (frame.header.request, frame.payload)).collect()
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
                let frames = ring.producer.history(|header| as_usize(header.len.into()));
                let (tail, head) = ring.producer.positions();
                assert_eq!(tail.wrapping_sub(head.unwrap()), used);
                let kept = &sent[sent.len() - frames.len()..];
                let same = |(frame, sent): (&PublishedFrame, &(u64, Vec<u8>))| {
                    (frame.header.request, &frame.payload) == (sent.0, &sent.1)
                };
                assert!(frames.iter().zip(kept).all(same), "{request}");
                let is_held = |frame: &&PublishedFrame| tail.wrapping_sub(frame.position) <= used;
                let held: u64 =
                    frames.iter().filter(is_held).map(|it| span(it.payload.len())).sum();
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
