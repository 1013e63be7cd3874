//! What a frame from the worker means for the owner of its request.
//!
//! Everything here was written by another process: nothing is believed before it is checked.

use std::cell::Cell;
use std::sync::Arc;

#[cfg(feature = "async")]
use crate::channel::foreign::Foreign;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::assembler::Assembler;
use crate::protocol::buffer_pool::{BufferPool, BufferSlice, PooledBuffer};
use crate::protocol::failure;
use crate::protocol::kind::{EXPIRED, Kind, REFUSED, flags};
use crate::ring::position::span;
use crate::ring::{Frame, Header, LeasedSlot};
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::as_usize;

/// The longest reply that is copied out of the ring at once, in bytes: a frame of two cache
/// lines. A copy of it costs less than keeping account of a lease.
const COPIED_REPLY: usize = 96;
/// From this length on, an allocator may well give a copy fresh memory each time.
const POOLED_REPLY: usize = 64 << 10;

/// The payload of a reply or a chunk: in the ring, or copied out of it.
#[derive(Debug)]
pub(crate) enum Body {
    Lease(LeasedSlot),
    Owned(Vec<u8>),
    Short(ShortPayload),
    /// A part of a buffer that is used again.
    Slice(BufferSlice),
    /// A message that came in pieces.
    Message(PooledBuffer),
    /// Bytes that did not come by a ring. Not without the feature: it costs calls an instruction.
    #[cfg(feature = "async")]
    Foreign(Foreign),
}

impl Body {
    #[cfg(feature = "async")]
    pub(super) fn of_owner(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self::Foreign(Foreign::new(owner))
    }

    /// Copies bytes that did not come by a ring.
    #[cfg(feature = "async")]
    pub(super) fn copy_of(bytes: &[u8]) -> Self {
        match bytes.len() {
            ..=COPIED_REPLY => Self::Short(ShortPayload::copy_of(PeerBytes::of(bytes))),
            _ => Self::Owned(bytes.to_vec()),
        }
    }

    /// Copies a payload, a long one into a buffer that is used again.
    pub(super) fn copy(payload: PeerBytes<'_>, buffers: &Arc<BufferPool>) -> Self {
        if payload.len() < POOLED_REPLY {
            return Self::Owned(payload.to_vec());
        }
        let mut bytes = buffers.fitting_buffer(payload.len());
        payload.append_to(&mut bytes);
        Self::Message(PooledBuffer::new(bytes, buffers))
    }

    /// Keeps a frame's payload: a copy if it is short, and else a lease of its slot.
    #[inline(always)]
    pub(super) fn keep(frame: Frame<'_>) -> Self {
        let payload = frame.payload();
        if payload.len() > COPIED_REPLY {
            return Self::Lease(frame.into_slot());
        }
        Self::Short(ShortPayload::copy_of(payload))
    }

    #[inline]
    pub(crate) fn bytes(&self) -> PeerBytes<'_> {
        match self {
            Self::Lease(lease) => lease.payload(),
            Self::Owned(bytes) => PeerBytes::of(bytes),
            Self::Short(short) => PeerBytes::of(&short.0),
            Self::Slice(slice) => PeerBytes::of(slice.bytes()),
            Self::Message(message) => PeerBytes::of(message.bytes()),
            #[cfg(feature = "async")]
            Self::Foreign(foreign) => PeerBytes::of(foreign.bytes()),
        }
    }

    /// Has the bytes stay at one address without holding the ring: a copy of them, if there is no
    /// other way.
    pub(super) fn pin(self) -> Self {
        match self {
            Self::Lease(mut lease) => match lease.pin() {
                true => Self::Lease(lease),
                false => Self::Owned(lease.payload().to_vec()),
            },
            outside => outside,
        }
    }

    /// Copies the bytes unless they lie outside of the ring, in memory that has about their length.
    pub(super) fn detach(self) -> Self {
        match self {
            // Its memory is for the next message when it is dropped.
            Self::Message(message) if !message.is_oversized() => Self::Message(message),
            other => Self::Owned(other.into_vec()),
        }
    }

    pub(crate) fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Message(message) => message.into_vec(),
            other => other.bytes().to_vec(),
        }
    }
}

/// A short payload outside the ring, in a buffer that is used again: by the thread on which it is
/// dropped. So it costs neither an allocation, nor a lock, nor a count of owners.
#[derive(Debug)]
pub(crate) struct ShortPayload(Vec<u8>);

thread_local! {
    /// The buffer of the short payload that was dropped last.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl ShortPayload {
    #[inline]
    fn copy_of(payload: PeerBytes<'_>) -> Self {
        // A thread that is about to end has none.
        let mut bytes = SPARE.try_with(Cell::take).unwrap_or_default();
        bytes.clear();
        payload.append_to(&mut bytes);
        Self(bytes)
    }
}

impl Drop for ShortPayload {
    #[inline]
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        let _ = SPARE.try_with(|spare| spare.set(bytes));
    }
}

/// A part of a message, for an owner that takes long messages piece by piece.
#[derive(Debug)]
pub(crate) struct Part {
    pub(super) body: Body,
    /// The bytes of slots that it costs in credit.
    pub(super) cost: usize,
    pub(super) place: Place,
}

/// Where a part stands in its message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(super) is_first: bool,
    pub(super) is_last: bool,
    /// The length of the whole message, as the worker has announced it: zero if it did not.
    pub(super) announced: u64,
}

impl Place {
    /// Of a message that came whole.
    pub(crate) const WHOLE: Self = Self { is_first: true, is_last: true, announced: 0 };
}

/// What a frame, or a message in pieces, means for the owner of its request.
#[derive(Debug)]
pub(crate) enum Item {
    Result(Body),
    /// A chunk, and the bytes of slots that it costs in credit.
    Chunk(Body, usize),
    /// A part of a result or of a chunk.
    Part(Box<Part>),
    End,
    Cancelled,
    /// The worker found that the request's deadline had passed.
    Expired,
    Failed(Error),
}

impl Item {
    /// Whether it goes on with a message of which the owner has taken parts.
    pub(super) fn is_continued(&self) -> bool {
        matches!(self, Self::Part(part) if !part.place.is_first)
    }
}

/// The header of a frame that may answer a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReplyHeader {
    pub(super) header: Header,
    pub(super) kind: Kind,
}

impl ReplyHeader {
    /// Checks a frame's header.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PeerCorrupt`] if it is none that answers a request, and what the worker
    /// says of the whole channel.
    #[inline]
    pub(super) fn of(frame: &Frame<'_>) -> Result<Self> {
        let header = frame.header();
        let kind = Kind::from_code(header.kind);
        let allowed = match kind {
            Kind::RESULT | Kind::CHUNK => flags::REPLY,
            Kind::ERROR | Kind::END | Kind::CANCEL | Kind::VOID => 0,
            _ => return Err(Error::corrupt(format!("a reply that is a {kind} frame"))),
        };
        if header.flags & !allowed != 0 {
            let flags = header.flags;
            return Err(Error::corrupt(format!("a {kind} frame with flags {flags:#x}")));
        }
        if header.request == 0 {
            return Err(channel_failure(frame, kind));
        }
        Ok(Self { header, kind })
    }

    /// Bytes of the ring that the frame takes.
    pub(super) fn cost(&self) -> usize {
        as_usize(span(as_usize(u64::from(self.header.len))))
    }

    pub(super) fn is_chunk(&self) -> bool {
        self.kind == Kind::CHUNK
    }

    /// Whether nothing more comes for the request.
    pub(super) fn is_last(&self) -> bool {
        self.header.flags & flags::MORE == 0 && !self.is_chunk()
    }

    /// Whether a chunk is whole with this.
    pub(super) fn ends_chunk(&self) -> bool {
        self.is_chunk() && self.header.flags & flags::MORE == 0
    }

    /// Whether this is the last frame that the owner of a call, or of a stream, hopes for.
    pub(super) fn is_answer(&self, is_stream: bool) -> bool {
        self.kind == if is_stream { Kind::END } else { Kind::RESULT }
    }

    /// Whether this is a part of a message that is longer than a frame.
    pub(super) fn is_piece(&self) -> bool {
        Assembler::is_piece(self.header)
    }

    /// What the frame, or the message that it completes, means. `is_stream` says what the
    /// request asked for.
    pub(super) fn item(&self, body: Body, cost: usize, is_stream: bool) -> Item {
        match self.kind {
            Kind::RESULT if !is_stream => Item::Result(body),
            Kind::CHUNK if is_stream => Item::Chunk(body, cost),
            Kind::END if is_stream => Item::End,
            Kind::CANCEL if self.header.aux == EXPIRED => Item::Expired,
            Kind::CANCEL => Item::Cancelled,
            Kind::ERROR => match failure::decode(&body.bytes().to_vec()) {
                Ok(failure) => {
                    Item::Failed(Error::handler_failed(failure, self.header.aux != REFUSED))
                }
                Err(error) => Item::Failed(error),
            },
            other => {
                let wanted = if is_stream { "a stream" } else { "one result" };
                let request = self.header.request;
                let message =
                    format!("request {request} wants {wanted}, the worker sent a {other}");
                Item::Failed(Error::new(ErrorKind::Protocol, message))
            }
        }
    }

    /// What a part of a message means: as [`ReplyHeader::item`], so that only the owner of a call
    /// gets parts of a result, and that of a stream parts of a chunk.
    pub(super) fn part(&self, body: Body, cost: usize, is_stream: bool, is_first: bool) -> Item {
        if self.is_chunk() != is_stream {
            return self.item(body, cost, is_stream);
        }
        let is_last = self.header.flags & flags::MORE == 0;
        let place = Place { is_first, is_last, announced: self.header.aux };
        Item::Part(Box::new(Part { body, cost, place }))
    }

    /// Does what [`ReplyHeader::item`] does, for a frame whose owner reads it: its payload may stay
    /// in the ring.
    #[inline]
    pub(super) fn own_item(&self, frame: Frame<'_>, is_stream: bool) -> Item {
        match self.kind {
            Kind::RESULT if !is_stream => Item::Result(Body::keep(frame)),
            Kind::CHUNK if is_stream => Item::Chunk(Body::keep(frame), self.cost()),
            _ => self.item(Body::Owned(frame.payload().to_vec()), self.cost(), is_stream),
        }
    }
}

/// An error frame for request 0 speaks of the whole channel.
#[cold]
fn channel_failure(frame: &Frame<'_>, kind: Kind) -> Error {
    if kind != Kind::ERROR {
        return Error::corrupt(format!("a {kind} frame for request 0"));
    }
    match failure::decode(&frame.payload().to_vec()) {
        Ok(failure) => Error::session_failure(failure),
        Err(error) => Error::corrupt(format!("{error:#}")),
    }
}

/// The error of a stream that sent more than its window. The window is all that can pile up
/// in this process while the stream is not read.
#[cold]
pub(super) fn exceeded_credit(request: u64) -> Error {
    Error::corrupt(format!("the stream of request {request} ran ahead of its credit"))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::protocol::buffer_pool::BufferPool;

    #[test]
    fn a_detached_message_leaves_its_memory_to_the_next_unless_it_is_short() {
        let pool = BufferPool::new();
        let mut bytes = pool.buffer(5000);
        bytes.resize(5000, 7);
        let place = bytes.as_ptr();
        let detached = Body::Message(PooledBuffer::new(bytes, &pool)).detach();
        assert_eq!((detached.bytes().as_ptr(), detached.bytes().to_vec()), (place, vec![7; 5000]));
        drop(detached);
        let mut again = pool.buffer(0);
        assert!(again.capacity() >= 5000, "it was given back");
        again.resize(100, 8);
        let short = Body::Message(PooledBuffer::new(again, &pool)).detach();
        assert_eq!(short.bytes().to_vec(), [8; 100]);
        assert!(pool.buffer(0).capacity() >= 5000, "a short one does not hold it");
    }

    #[cfg(feature = "bytes")]
    #[test]
    fn shared_bytes_leave_the_memory_of_a_message_to_the_next_one() {
        use bytes::Bytes;

        use crate::channel::reply::Reply;

        let pool = BufferPool::new();
        let message = |len: usize| {
            let mut bytes = pool.fitting_buffer(len);
            bytes.resize(len, 7);
            let place = bytes.as_ptr();
            (Reply::new(1, Body::Message(PooledBuffer::new(bytes, &pool))), place)
        };
        let (first, place) = message(5000);
        let shared = Bytes::from(first);
        assert_eq!((shared.as_ptr(), &shared[..]), (place, &[7; 5000][..]));
        let (second, elsewhere) = message(5000);
        assert_ne!(elsewhere, place);
        drop(shared);
        drop(second);
        assert_eq!(message(5000).1, place);
    }

    #[cfg(all(feature = "async", feature = "bytes"))]
    #[test]
    fn shared_bytes_of_an_owner_are_those_of_the_owner() {
        let owner = bytes::Bytes::from_static(&[7; 100]);
        let reply = crate::Reply::from_owner(crate::RequestId::from(1), owner.clone());
        assert_eq!(bytes::Bytes::from(reply).as_ptr(), owner.as_ptr());
    }
}
