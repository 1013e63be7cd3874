//! The message in pieces that comes in: collected in a buffer, or checked for its reader.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::protocol::Kind;
use crate::protocol::assembler::{Assembler, Message};
use crate::protocol::buffer_pool::BufferPool;
use crate::protocol::kind::flags;
use crate::ring::Header;
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::{RegionHeader, as_usize};
use crate::worker::cancel::{Signals, cancelled};

/// Collects a message in pieces, of which one is on its way at a time. Requests of one frame
/// can come between its pieces.
#[derive(Debug)]
pub(super) struct Collector {
    assembler: Assembler,
    pub(super) pool: Arc<BufferPool>,
    max_message: usize,
    /// The most requests that an honest parent has in flight.
    max_in_flight: usize,
    /// The request in pieces that was abandoned last, or whose reader has not read it to its end.
    /// What still comes of it is dropped.
    abandoned: Option<u64>,
    /// The kinds of requests whose pieces are read, and not collected.
    read_kinds: Vec<Kind>,
}

impl Collector {
    pub(super) fn new(header: &RegionHeader) -> Self {
        Self {
            assembler: Assembler::default(),
            pool: BufferPool::new(),
            max_message: as_usize(header.max_message),
            max_in_flight: as_usize(u64::from(header.own.request_count)),
            abandoned: None,
            read_kinds: Vec::new(),
        }
    }

    /// Has long requests of these kinds read piece by piece.
    pub(super) fn read_in_pieces(&mut self, kinds: impl Iterator<Item = Kind>) {
        self.read_kinds = kinds.collect();
    }

    /// Returns [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) if the request whose message
    /// is being collected is cancelled.
    pub(super) fn check(&self, signals: &Signals) -> Result<()> {
        match self.assembler.request() {
            Some(request) if signals.is_request_cancelled(request) => Err(cancelled(request)),
            _ => Ok(()),
        }
    }

    /// Abandons the message that is being collected if its request is cancelled. The sender may
    /// have had no room for the frame that abandons the message, and would wait without end
    /// for the last frame of the request.
    #[inline]
    pub(super) fn abandon_if_cancelled(&mut self, signals: &Signals) -> Option<Header> {
        match self.assembler.request() {
            Some(request) if signals.is_request_cancelled(request) => self.abandon(),
            _ => None,
        }
    }

    /// Abandons the message that is being collected if this piece begins another one.
    pub(super) fn cut_off_by(&mut self, header: Header) -> Option<Header> {
        if Assembler::is_continued(header) { None } else { self.abandon() }
    }

    /// Refuses a first piece of the message that is on its way, or that was abandoned last: what
    /// comes of it would be dropped, and its request wait without end.
    pub(super) fn check_first(&self, header: Header) -> Result<()> {
        let request = Some(header.request);
        let is_again = request == self.assembler.request() || request == self.abandoned;
        if !Assembler::is_continued(header) && is_again {
            return Err(Error::corrupt(format!("request {} was sent twice", header.request)));
        }
        Ok(())
    }

    #[cold]
    pub(super) fn abandon(&mut self) -> Option<Header> {
        let Message { mut header, bytes, .. } = self.assembler.take()?;
        self.pool.give(bytes);
        self.abandoned = Some(header.request);
        header.flags |= flags::ABANDONED;
        Some(header)
    }

    /// Adds a piece; returns the message when it is whole.
    pub(super) fn add(
        &mut self,
        header: Header,
        payload: PeerBytes<'_>,
    ) -> Result<Option<Message>> {
        if self.is_rest(header) {
            return Ok(None);
        }
        self.assembler.add(header, payload, self.max_message, || self.pool.buffer(0))
    }

    /// Whether a frame belongs to a message of which nothing is wanted any more.
    pub(super) fn is_rest(&self, header: Header) -> bool {
        Assembler::is_continued(header) && Some(header.request) == self.abandoned
    }

    /// Whether a frame begins a message that is read piece by piece.
    pub(super) fn begins_reading(&self, header: Header) -> bool {
        let first = flags::MORE | flags::CONTINUED | flags::ABANDONED;
        header.flags & first == flags::MORE
            && self.read_kinds.contains(&Kind::from_code(header.kind))
    }

    /// Checks a piece of the message that is read.
    pub(super) fn pass(&mut self, header: Header) -> Result<()> {
        let len = as_usize(u64::from(header.len));
        self.assembler.pass(header, len, self.max_message).map(|_| ())
    }

    /// Notes that a message is not read any more. What still comes of it is dropped.
    pub(super) fn end_reading(&mut self) {
        self.abandoned = self.assembler.take().map(|rest| rest.header.request).or(self.abandoned);
    }

    /// Returns how many requests an honest parent can send while another one is in flight.
    pub(super) fn max_others(&self) -> usize {
        self.max_in_flight.saturating_sub(1)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn collector() -> Collector {
        Collector {
            assembler: Assembler::default(),
            pool: BufferPool::new(),
            max_message: 5,
            max_in_flight: 2,
            abandoned: None,
            read_kinds: vec![Kind::EMBED],
        }
    }

    fn piece(flags: u16, request: u64) -> Header {
        Header { flags, request, ..Header::default() }
    }

    #[test]
    fn pieces_of_a_message_that_was_abandoned_are_dropped() {
        let mut collector = collector();
        let add = |collector: &mut Collector, flags, request, bytes| {
            collector.add(piece(flags, request), PeerBytes::of(bytes))
        };
        add(&mut collector, flags::MORE, 1, b"ab").unwrap();
        assert_eq!(collector.cut_off_by(piece(flags::MORE | flags::CONTINUED, 1)), None);
        let abandoned = piece(flags::MORE | flags::ABANDONED, 1);
        assert_eq!(collector.cut_off_by(piece(flags::MORE, 2)), Some(abandoned));
        add(&mut collector, flags::MORE, 2, b"cd").unwrap();
        for flags in [flags::MORE | flags::CONTINUED, flags::CONTINUED] {
            assert!(add(&mut collector, flags, 1, b"late").unwrap().is_none());
        }
        let whole = add(&mut collector, flags::CONTINUED, 2, b"e").unwrap().unwrap();
        assert_eq!(whole.bytes, b"cde");
        let no_start = add(&mut collector, flags::CONTINUED, 2, b"f").unwrap_err();
        assert_eq!(no_start.kind(), ErrorKind::PeerCorrupt);
    }
}
