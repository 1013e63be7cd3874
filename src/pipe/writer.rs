//! The end of a direction that sends messages.

use std::sync::Arc;
use std::time::Duration;

use super::bell::Bell;
use super::layout::{ALIGN, CHUNK_HEADER, ChunkHeader, longest_chunk, used};
use super::sockets::{Line, Sockets};
use super::spin::Spin;
use super::watch::Wake;
use crate::error::{Error, ErrorKind, Result};
use crate::shm::byte_ring::ByteRing;
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::{as_u64, as_usize};
use crate::shm::words::{OwnU32, OwnU64};
use crate::sync::{BACKSTOP, Ordering};
use crate::sys::clock::now_ns;

/// How long a look at the other end is good for, in nanoseconds.
const LOOK_AGAIN: u64 = 50_000;

/// Sends messages through a pipe.
///
/// A message is sent in parts, so that it can be longer than the ring: [`Self::begin`] says how long it
/// is, and [`Self::write`] copies as much as there is room for. Neither blocks; [`Self::wait`] waits for
/// room.
///
/// Several processes may send through the same end, one message after the other. Only one of them may
/// do so at a time. A message whose writer has ended before the last byte is given up by its reader
/// when the next one comes.
#[derive(Debug)]
pub struct PipeWriter {
    pub(super) ring: ByteRing,
    pub(super) tail: OwnU64,
    pub(super) head: OwnU64,
    pub(super) bytes: Bell,
    pub(super) room: Bell,
    pub(super) reader_closed: OwnU32,
    pub(super) sockets: Arc<Sockets>,
    pub(super) spin: Spin,
    /// The head as last seen: it can only have grown since.
    pub(super) seen_head: u64,
    /// `reader_closed` at the last look at the other end, and when that was.
    pub(super) seen_closed: u32,
    pub(super) looked_at: u64,
    pub(super) message: Option<Sending>,
}

/// A message that is being sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sending {
    left: u64,
    kind: u16,
    is_first: bool,
    /// Bytes that the next chunk is to have.
    next: usize,
}

impl PipeWriter {
    /// Begins a message of `len` bytes. A message that was begun before is given up. Never blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`] if no process holds the other end any more. That is looked for if a holder
    /// has closed it, or some microseconds after the last look.
    #[inline]
    pub fn begin(&mut self, len: u64, kind: u16) -> Result<()> {
        self.check_peer()?;
        self.message = Some(Sending { left: len, kind, is_first: true, next: 0 });
        Ok(())
    }

    /// Copies the next bytes of the message: as many as there is room for. Returns how many. Bytes
    /// beyond the length of the message are left out. Never blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`] if no process holds the other end any more, as far as that is seen;
    /// [`ErrorKind::PeerCorrupt`] if the memory holds what no reader makes.
    #[inline]
    pub fn write(&mut self, bytes: PeerBytes<'_>) -> Result<usize> {
        let mut rest = bytes;
        while let Some(mut sending) = self.message {
            let most = as_usize(sending.left).min(longest_chunk(self.ring.capacity()));
            let len = rest.len().min(most);
            if len == 0 && !(sending.left == 0 && sending.is_first) {
                break;
            }
            sending.next = len;
            self.message = Some(sending);
            let span = ChunkHeader::span(len);
            let Some(tail) = self.room(span)? else { break };
            let header = ChunkHeader {
                len: u32::try_from(len).unwrap_or(0),
                kind: sending.kind,
                is_first: sending.is_first,
                left: sending.left,
            };
            let (now, later) = rest.split_at(len);
            self.ring.write(tail, PeerBytes::of(&header.to_bytes()));
            self.ring.write(tail.wrapping_add(as_u64(CHUNK_HEADER)), now);
            rest = later;
            sending.left -= as_u64(len);
            sending.is_first = false;
            self.message = (sending.left > 0).then_some(sending);
            self.publish(tail.wrapping_add(span))?;
        }
        Ok(bytes.len() - rest.len())
    }

    /// Returns whether the message that was begun is not sent to its last byte.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        self.message.is_some()
    }

    /// Gives the message up. Its reader notices when the next one comes.
    pub fn forget(&mut self) {
        self.message = None;
    }

    /// Looks for room for `longest` at most, as [`PipeWatch::spin`](super::PipeWatch::spin) does for bytes.
    /// Returns whether there is some.
    #[must_use]
    pub fn spin(&self, longest: Duration) -> bool {
        self.spin.until(longest, || self.has_room())
    }

    /// Waits for room for the next bytes of the message. Blocks for at most `longest`, and for a second
    /// at most.
    #[must_use]
    pub fn wait(&self, longest: Duration) -> Wake {
        let end = self.tail.load(Ordering::Relaxed).wrapping_add(self.next_span());
        // The head must get where the bytes fit behind it: past the place before that.
        let place = end.wrapping_sub(self.ring.capacity()).wrapping_sub(ALIGN);
        if self.room.arm(place, || self.has_room()) {
            return Wake::Ready;
        }
        let polled = self.spin.around_sleep(|| self.room.socket().wait(longest.min(BACKSTOP)));
        if polled.is_closed {
            return Wake::Closed;
        }
        if self.has_room() {
            return Wake::Ready;
        }
        if polled.is_readable && self.room.is_armed() {
            // As in `PipeWatch::after`.
            self.room.socket().take_byte();
        }
        Wake::Look
    }

    /// The position of a chunk that takes `span` bytes; `None` while there is no room.
    #[inline]
    fn room(&mut self, span: u64) -> Result<Option<u64>> {
        let capacity = self.ring.capacity();
        let tail = self.tail.load(Ordering::Relaxed);
        // Another process may have sent since the last look.
        let known = tail.wrapping_sub(self.seen_head);
        if known <= capacity && capacity - known >= span && tail.is_multiple_of(ALIGN) {
            return Ok(Some(tail));
        }
        // Pairs with the store in `PipeReader::release`.
        let head = self.head.load(Ordering::Acquire);
        let used = used(tail, head, capacity)?;
        self.seen_head = head;
        Ok((capacity - used >= span).then_some(tail))
    }

    fn has_room(&self) -> bool {
        let head = self.head.load(Ordering::Acquire);
        let used = self.tail.load(Ordering::Relaxed).wrapping_sub(head);
        // What is wrong is found by `room`.
        self.ring.capacity().checked_sub(used).is_none_or(|free| free >= self.next_span())
    }

    fn next_span(&self) -> u64 {
        ChunkHeader::span(self.message.map_or(0, |sending| sending.next))
    }

    #[inline]
    fn publish(&self, tail: u64) -> Result<()> {
        // Header and bytes are written before. Pairs with `PipeReader::chunk`.
        self.tail.store(tail, Ordering::Release);
        self.spin.report_cpu();
        if self.bytes.ring(tail) { Ok(()) } else { Err(closed()) }
    }

    /// Looks whether the other end is held by a process, if the last look is old.
    #[inline]
    fn check_peer(&mut self) -> Result<()> {
        // Pairs with the bump in the drop of `Sockets`.
        let closed = self.reader_closed.load(Ordering::Acquire);
        let now = now_ns();
        if closed == self.seen_closed && now.wrapping_sub(self.looked_at) < LOOK_AGAIN {
            return Ok(());
        }
        self.look_at_peer(closed, now)
    }

    #[cold]
    fn look_at_peer(&mut self, seen: u32, now: u64) -> Result<()> {
        // That of the bytes is closed before the count grows.
        if self.sockets.of(Line::Bytes).is_closed() {
            return Err(closed());
        }
        self.seen_closed = seen;
        self.looked_at = now;
        Ok(())
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the other end of the pipe is closed")
}
