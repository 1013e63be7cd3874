//! A plain ring in each direction: in-band commit, a 16-byte header, no sleeping.
//!
//! ```text
//!   page     0  head of the consumer (offset 0 for one direction, 256 for the other)
//!          128  tail of the producer, which only the shared index has (and 384)
//!   then        the slots of one direction, then those of the other
//!   slot     0  commit: position | 1 for a frame, | 2 for padding up to the end
//!            8  length
//!           16  payload of up to 48 bytes; longer ones start at 64
//! ```

use std::hint::spin_loop;
use std::io;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use super::memory::Memory;
use super::{bytes, spin};
use crate::end::{End, put_stamp};

const PAGE: usize = 4096;
const LINE: u64 = 64;
const SHORT: usize = 48;

/// How a ring publishes and copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A full fence after each frame, as a doorbell would need it.
    Fenced,
    /// No fence, as for a doorbell that is checked once in many frames.
    Plain,
    /// As `Plain`, with a consumer that lets the producer get ahead once it has caught up.
    Lagging,
    /// As `Plain`, but no commit word is cleared: any word but the awaited one means "empty". Such
    /// a ring does not notice garbage, and mistakes one foreign word in 2^64 for a frame.
    Uncleared,
    /// As `Plain`, with copies past the caches.
    AroundCaches,
    /// As `Plain`, with the C library's copy.
    Library,
    /// As `Plain`, with the copy of the processor's own: `rep movsb`.
    Repeated,
    /// As `Plain`, but frames are published by a shared tail, not in their slots.
    Index,
}

/// One end of a pair of rings.
#[derive(Debug)]
pub struct Ring {
    memory: Memory,
    style: Style,
    capacity: u64,
    /// The ring out: its slots, its consumer's head, the next position, the head as last seen.
    out: usize,
    out_head: usize,
    tail: u64,
    seen: u64,
    /// The ring in.
    incoming: usize,
    in_head: usize,
    next: u64,
    released: u64,
    /// The tail as last seen, with a shared index.
    known: u64,
    /// The position at which the consumer last found no frame.
    empty_at: u64,
}

/// The distance from the head to the shared tail of the same ring, in bytes.
const TAIL: usize = 128;
/// Stands in place of a length if the rest of the ring is empty.
const PADDING: u64 = u64::MAX;

#[inline]
fn payload_at(len: usize) -> usize {
    if len <= SHORT { 16 } else { 64 }
}

#[inline]
fn span(len: usize) -> u64 {
    ((payload_at(len) + len) as u64).next_multiple_of(LINE)
}

impl Ring {
    /// Returns the bytes of memory for rings of `capacity` bytes, a power of two.
    #[must_use]
    pub fn memory_len(capacity: usize) -> usize {
        PAGE + 2 * capacity
    }

    /// Makes one of the two ends. The memory must be [`Ring::memory_len`] bytes long.
    #[must_use]
    pub fn new(memory: Memory, is_parent: bool, style: Style) -> Self {
        let capacity = (memory.len() - PAGE) / 2;
        assert!(capacity.is_power_of_two(), "{capacity} bytes");
        let (down, up) = ((PAGE, 0), (PAGE + capacity, 256));
        let ((out, out_head), (incoming, in_head)) =
            if is_parent { (down, up) } else { (up, down) };
        Self {
            memory,
            style,
            capacity: capacity as u64,
            out,
            out_head,
            tail: 0,
            seen: 0,
            incoming,
            in_head,
            next: 0,
            released: 0,
            known: 0,
            empty_at: 0,
        }
    }

    #[inline]
    fn index(&self, position: u64) -> usize {
        (position & (self.capacity - 1)) as usize
    }

    #[inline]
    fn to_end(&self, position: u64) -> u64 {
        self.capacity - (position & (self.capacity - 1))
    }

    #[inline]
    fn recv_by_index<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> io::Result<R> {
        if self.known == self.next {
            self.publish_head();
            let (tail, next) = (self.memory.word(self.in_head + TAIL), self.next);
            self.known = spin(|| Some(tail.load(Ordering::Acquire)).filter(|tail| *tail != next))?;
        }
        let length = |slot: usize| self.memory.word(slot + 8).load(Ordering::Relaxed);
        let mut len = length(self.incoming + self.index(self.next));
        if len == PADDING {
            self.next += self.to_end(self.next);
            len = length(self.incoming + self.index(self.next));
        }
        let (slot, len) = (self.incoming + self.index(self.next), len as usize);
        let result = read(self.memory.bytes(slot + payload_at(len), len));
        self.next += span(len);
        if self.next - self.released >= self.capacity / 8 {
            self.publish_head();
        }
        Ok(result)
    }

    /// Pauses for a microsecond after a run of frames.
    #[cold]
    fn lag(&mut self) {
        let run = self.next - self.empty_at;
        self.empty_at = self.next;
        if run >= 1024 {
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(1) {
                spin_loop();
            }
        }
    }

    fn publish_head(&mut self) {
        if self.released == self.next {
            return;
        }
        self.released = self.next;
        self.memory.word(self.in_head).store(self.next, Ordering::Release);
    }
}

impl End for Ring {
    #[inline]
    fn send_copy(&mut self, source: &[u8], stamp: u64) -> io::Result<()> {
        let style = self.style;
        self.send(source.len(), |slot| {
            match style {
                Style::AroundCaches => {
                    if let (Some((first, rest)), Some((from_first, from_rest))) =
                        (slot.split_first_chunk_mut::<64>(), source.split_first_chunk::<64>())
                    {
                        // The line with the stamp goes through the caches.
                        *first = *from_first;
                        bytes::copy_around_caches(rest, from_rest);
                    } else {
                        bytes::copy(slot, source);
                    }
                }
                Style::Library => slot.copy_from_slice(source),
                Style::Repeated => bytes::copy_repeated(slot, source),
                _ => bytes::copy(slot, source),
            }
            put_stamp(slot, stamp);
        })
    }

    #[inline]
    fn send(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<()> {
        let span = span(len);
        let rest = self.to_end(self.tail);
        let padding = if span > rest { rest } else { 0 };
        let start = self.tail + padding;
        let end = start + span;
        // The commit word of the next slot is cleared, so its line must be free too.
        if end + LINE - self.seen > self.capacity {
            let head = self.memory.word(self.out_head);
            let capacity = self.capacity;
            self.seen = spin(|| {
                let head = head.load(Ordering::Acquire);
                (end + LINE - head <= capacity).then_some(head)
            })?;
        }
        let slot = self.out + self.index(start);
        fill(self.memory.bytes(slot + payload_at(len), len));
        if self.style == Style::Index {
            if padding != 0 {
                let slot = self.out + self.index(self.tail);
                self.memory.word(slot + 8).store(PADDING, Ordering::Relaxed);
            }
            self.memory.word(slot + 8).store(len as u64, Ordering::Relaxed);
            self.memory.word(self.out_head + TAIL).store(end, Ordering::Release);
            self.tail = end;
            return Ok(());
        }
        if self.style != Style::Uncleared {
            self.memory.word(self.out + self.index(end)).store(0, Ordering::Relaxed);
        }
        self.memory.word(slot + 8).store(len as u64, Ordering::Relaxed);
        self.memory.word(slot).store(start | 1, Ordering::Release);
        if padding != 0 {
            let slot = self.out + self.index(self.tail);
            self.memory.word(slot).store(self.tail | 2, Ordering::Release);
        }
        self.tail = end;
        if self.style == Style::Fenced {
            fence(Ordering::SeqCst);
        }
        Ok(())
    }

    #[inline]
    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> io::Result<R> {
        if self.style == Style::Index {
            return self.recv_by_index(read);
        }
        loop {
            let slot = self.incoming + self.index(self.next);
            let commit = self.memory.word(slot);
            let (next, is_uncleared) = (self.next, self.style == Style::Uncleared);
            let is_there = |word: u64| match is_uncleared {
                true => word == next | 1 || word == next | 2,
                false => word != 0,
            };
            let mut word = commit.load(Ordering::Acquire);
            if !is_there(word) {
                self.publish_head();
                if self.style == Style::Lagging {
                    self.lag();
                }
                word =
                    spin(|| Some(commit.load(Ordering::Acquire)).filter(|word| is_there(*word)))?;
            }
            if word == self.next | 2 {
                self.next += self.to_end(self.next);
                continue;
            }
            assert_eq!(word, self.next | 1, "a commit word");
            let len = self.memory.word(slot + 8).load(Ordering::Relaxed) as usize;
            let result = read(self.memory.bytes(slot + payload_at(len), len));
            self.next += span(len);
            if self.next - self.released >= self.capacity / 8 {
                self.publish_head();
            }
            return Ok(result);
        }
    }
}
