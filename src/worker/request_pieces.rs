//! The pieces of a request that its handler reads while they come.
//!
//! Other frames can lie between the pieces. A request of one frame is put aside as a copy, and
//! served when the handler has returned: a lease of it would keep the parent from sending the
//! pieces behind it. The first piece of another message stays in the ring: the parent sends one
//! message in pieces at a time, so that it has given this one up.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::payload::Source;
use crate::protocol::assembler::Assembler;
use crate::protocol::kind::flags;
use crate::protocol::partly_read::MessagePiece;
use crate::protocol::piece_reader::PieceSource;
use crate::ring::{Consumer, Header, LeasedSlot};
use crate::shm::bytes::PeerBytes;
use crate::sys::clock::Deadline;
use crate::sys::fork;
use crate::worker::cancel::{Signals, cancelled};
use crate::worker::collector::Collector;
use crate::worker::traced::{has_other_flags, take_context};

/// A request of one frame, and its payload.
type OneFrame = (Header, Vec<u8>);

/// A piece of a request, from a [`RequestReader`](super::RequestReader). Its bytes lie in memory
/// that the parent can write, so that they are read by copying.
///
/// Most pieces of a request that is longer than a frame keep their place in shared memory until
/// they are dropped. The parent can use neither that place nor any behind it: a handler that keeps
/// one piece and reads on waits for its deadline, if the rest of the request does not fit into what
/// is left of the ring.
pub struct RequestPiece<'a>(PieceBytes<'a>);

enum PieceBytes<'a> {
    /// Of a request of one frame.
    Frame(PeerBytes<'a>),
    Lease(LeasedSlot),
    Copy(Vec<u8>),
}

impl<'a> RequestPiece<'a> {
    pub(super) fn of_frame(payload: PeerBytes<'a>) -> Self {
        Self(PieceBytes::Frame(payload))
    }

    pub(super) fn copied(bytes: Vec<u8>) -> Self {
        Self(PieceBytes::Copy(bytes))
    }

    /// Returns the length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.payload().len()
    }

    /// Returns whether the piece has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payload().is_empty()
    }

    /// Returns the bytes, to be copied from.
    #[must_use]
    pub fn payload(&self) -> PeerBytes<'_> {
        match &self.0 {
            PieceBytes::Frame(payload) => *payload,
            PieceBytes::Lease(slot) => slot.payload(),
            PieceBytes::Copy(bytes) => PeerBytes::of(bytes),
        }
    }

    /// Returns a copy of the bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.payload().to_vec()
    }
}

impl MessagePiece for RequestPiece<'_> {
    fn payload(&self) -> PeerBytes<'_> {
        Self::payload(self)
    }
}

impl Source for RequestPiece<'_> {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        self.payload().read_at(offset, out)
    }
}

impl fmt::Debug for RequestPiece<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestPiece({} bytes)", self.len())
    }
}

/// The pieces of one request, in the request ring.
#[derive(Debug)]
pub(super) struct RequestPieces<'a> {
    consumer: &'a mut Consumer,
    collector: &'a mut Collector,
    signals: &'a Signals,
    request: u64,
    deadline: Deadline,
    /// The first piece, until it is read.
    first: Option<LeasedSlot>,
    /// Requests of one frame that came between the pieces, in order.
    aside: Vec<OneFrame>,
    /// What the parent wrote that cannot be.
    corrupt: Option<Error>,
}

impl<'a> RequestPieces<'a> {
    /// The collector has seen the first piece, whose header this is.
    pub(super) fn new(
        consumer: &'a mut Consumer,
        collector: &'a mut Collector,
        signals: &'a Signals,
        header: Header,
        first: LeasedSlot,
    ) -> Self {
        Self {
            consumer,
            collector,
            signals,
            request: header.request,
            deadline: Deadline::from_word(header.aux),
            // One that has a context has nothing else. Others without bytes are refused when they are read.
            first: (header.flags & flags::TRACED == 0 || !first.payload().is_empty())
                .then_some(first),
            aside: Vec::new(),
            corrupt: None,
        }
    }

    /// Ends the message, of which pieces may still come. Returns the requests that were put aside.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PeerCorrupt`] if the parent wrote what cannot be.
    pub(super) fn end(self) -> Result<Vec<OneFrame>> {
        self.collector.end_reading();
        self.corrupt.map_or(Ok(self.aside), Err)
    }

    /// Waits for the next piece. Says whether it is the last one.
    fn next(&mut self) -> Result<(LeasedSlot, bool)> {
        let Self { consumer, collector, signals, request, .. } = self;
        let (request, deadline) = (*request, self.deadline);
        loop {
            // Also if pieces are there.
            signals.check(request)?;
            let is_there = consumer.spin_briefly()
                || consumer.wait_until(signals.alarm(), deadline, || signals.check(request))?;
            if !is_there {
                return Err(too_late(request));
            }
            let mut is_cut_off = false;
            let is_wanted = |header| {
                is_cut_off = Assembler::is_piece(header) && !Assembler::is_continued(header);
                !is_cut_off
            };
            let Some(frame) = consumer.take_if(is_wanted)? else {
                if is_cut_off {
                    return Err(cancelled(request));
                }
                continue;
            };
            let frame = match has_other_flags(frame.header()) {
                true => take_context(signals, frame)?,
                false => frame,
            };
            let header = frame.header();
            if !Assembler::is_piece(header) {
                if self.aside.len() >= collector.max_others() {
                    return Err(Error::corrupt("more requests than can be in flight"));
                }
                self.aside.push((header, frame.payload().to_vec()));
            } else if !collector.is_rest(header) {
                collector.pass(header)?;
                if header.flags & flags::ABANDONED != 0 {
                    return Err(cancelled(request));
                }
                return Ok((frame.into_slot(), header.flags & flags::MORE == 0));
            }
        }
    }
}

impl<'p> PieceSource<RequestPiece<'p>> for RequestPieces<'_> {
    fn wait_for_piece(&mut self) -> Result<(RequestPiece<'p>, bool)> {
        fork::check()?;
        let next = match self.first.take() {
            Some(first) => Ok((first, false)),
            None => self.next(),
        };
        match next {
            Ok((slot, is_last)) => Ok((RequestPiece(PieceBytes::Lease(slot)), is_last)),
            Err(error) if error.kind() == ErrorKind::PeerCorrupt => Err(self.end_with(error)),
            Err(error) => Err(error),
        }
    }

    fn copied(&self, bytes: Vec<u8>) -> RequestPiece<'p> {
        RequestPiece::copied(bytes)
    }

    /// The collector has looked at the length.
    fn longest(&self) -> usize {
        usize::MAX
    }

    fn end_with(&mut self, error: Error) -> Error {
        let error = match error.kind() {
            ErrorKind::PeerCorrupt => error,
            _ => Error::corrupt(format!("request {}: {error}", self.request)),
        };
        self.corrupt.insert(error).clone()
    }
}

#[cold]
fn too_late(request: u64) -> Error {
    let message = format!("the rest of request {request} did not come before its deadline");
    Error::new(ErrorKind::Timeout, message)
}
