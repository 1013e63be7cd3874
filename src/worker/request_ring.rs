//! The requests that come in: the consumer of the request ring, and the message in pieces that
//! is being collected.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::protocol::Kind;
use crate::protocol::assembler::{Assembler, Message};
use crate::protocol::buffer_pool::BufferPool;
use crate::protocol::kind::flags;
use crate::ring::{Consumer, Frame, Header};
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::as_usize;
use crate::worker::cancel::{Signals, cancelled};

/// The worker's end of the request ring.
#[derive(Debug)]
pub(super) struct RequestRing {
    consumer: Consumer,
    collector: Collector,
    /// The pages of the ring are in the page table.
    is_prefaulted: bool,
}

/// Collects a message in pieces, of which one is on its way at a time. Requests of one frame
/// can come between its pieces.
#[derive(Debug)]
struct Collector {
    assembler: Assembler,
    pool: Arc<BufferPool>,
    max_message: usize,
    /// The request in pieces that was abandoned last. What still comes of it is dropped.
    abandoned: Option<u64>,
}

impl RequestRing {
    pub(super) fn new(consumer: Consumer, max_message: usize) -> Self {
        let collector = Collector {
            assembler: Assembler::default(),
            pool: BufferPool::new(),
            max_message,
            abandoned: None,
        };
        Self { consumer, collector, is_prefaulted: false }
    }

    /// Waits for the next frame, and calls `serve` with each request that it makes whole: the
    /// header of the first frame, and the payload. A request that will never be whole comes
    /// without a payload and with the flag ABANDONED: the worker owes it a last frame. Returns
    /// without a call if `wait` returns false, or if the message that is being collected was
    /// cancelled as it waited.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) if the worker is to end;
    /// [`ErrorKind::PeerCorrupt`](crate::ErrorKind::PeerCorrupt) for what cannot be; what `serve`
    /// fails with.
    pub(super) fn receive(
        &mut self,
        signals: &Signals,
        wait: impl FnOnce(&mut Consumer, &dyn Fn() -> Result<()>) -> Result<bool>,
        mut serve: impl FnMut(Header, Body<'_>) -> Result<()>,
    ) -> Result<()> {
        let Self { consumer, collector, is_prefaulted } = self;
        if !consumer.has_next() {
            // While there is nothing better to do, and not when the next request has come.
            consumer.publish_released();
        }
        if let Some(abandoned) = collector.abandon_if_cancelled(signals) {
            return serve(abandoned, Body::None);
        }
        let check = || {
            signals.check_stop()?;
            // A cancel rings the worker's bell, so that a wait looks again.
            collector.check(signals)
        };
        let is_there = match wait(consumer, &check) {
            Err(error) if error.is_cancelled() => return Ok(()),
            result => result?,
        };
        if !is_there {
            return Ok(());
        }
        let Some(mut frame) = consumer.poll()? else { return Ok(()) };
        frame.fetch_second_line();
        signals.check_stop()?;
        let header = frame.header();
        check_flags(header)?;
        if header.kind == Kind::READY.code() && !std::mem::replace(is_prefaulted, true) {
            // The parent waits for the answer to this alone, and does the same on its side.
            frame.prefault();
        }
        if !Assembler::is_piece(header) {
            collector.pool.age();
            // Slots that are long free must not stay hidden while a handler runs.
            frame.publish_released();
            return serve(header, Body::Frame(frame));
        }
        if let Some(cut_off) = collector.cut_off_by(header) {
            serve(cut_off, Body::None)?;
        }
        let message = collector.add(header, frame.payload())?;
        drop(frame);
        let Some(Message { header, mut bytes, .. }) = message else { return Ok(()) };
        consumer.publish_released();
        let served = serve(header, Body::Message(&mut bytes));
        collector.pool.give(bytes);
        served
    }
}

impl RequestRing {
    /// Tells the parent of all slots that are free, if no frame is there.
    pub(super) fn publish(&mut self) {
        if !self.consumer.has_next() {
            self.consumer.publish_released();
        }
    }

    /// Returns the header of the next frame, and the length of its payload, without taking it.
    pub(super) fn peek(&mut self) -> Result<Option<(Header, usize)>> {
        let header = self.consumer.peek()?;
        Ok(header.map(|header| (header, as_usize(u64::from(header.len)))))
    }
}

/// The payload of a request.
#[derive(Debug)]
pub(super) enum Body<'a> {
    /// It lies in the ring.
    Frame(Frame<'a>),
    /// It came in pieces. What is taken out is not given back to the pool.
    Message(&'a mut Vec<u8>),
    /// The request will never be whole.
    None,
}

impl Body<'_> {
    #[inline]
    pub(super) fn payload(&self) -> PeerBytes<'_> {
        match self {
            Self::Frame(frame) => frame.payload(),
            Self::Message(bytes) => PeerBytes::of(bytes),
            Self::None => PeerBytes::empty(),
        }
    }
}

#[inline]
fn check_flags(header: Header) -> Result<()> {
    if header.flags & !flags::REQUEST == 0 { Ok(()) } else { Err(unknown_flags(header)) }
}

#[cold]
fn unknown_flags(header: Header) -> Error {
    Error::corrupt(format!("a request with flags {:#x}", header.flags))
}

impl Collector {
    /// Returns [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) if the request whose message
    /// is being collected is cancelled.
    fn check(&self, signals: &Signals) -> Result<()> {
        match self.assembler.request() {
            Some(request) if signals.is_request_cancelled(request) => Err(cancelled(request)),
            _ => Ok(()),
        }
    }

    /// Abandons the message that is being collected if its request is cancelled. The sender may
    /// have had no room for the frame that abandons the message, and would wait without end
    /// for the last frame of the request.
    #[inline]
    fn abandon_if_cancelled(&mut self, signals: &Signals) -> Option<Header> {
        match self.assembler.request() {
            Some(request) if signals.is_request_cancelled(request) => self.abandon(),
            _ => None,
        }
    }

    /// Abandons the message that is being collected if this piece begins another one.
    fn cut_off_by(&mut self, header: Header) -> Option<Header> {
        if Assembler::is_continued(header) { None } else { self.abandon() }
    }

    #[cold]
    fn abandon(&mut self) -> Option<Header> {
        let Message { mut header, bytes, .. } = self.assembler.take()?;
        self.pool.give(bytes);
        self.abandoned = Some(header.request);
        header.flags |= flags::ABANDONED;
        Some(header)
    }

    /// Adds a piece; returns the message when it is whole.
    fn add(&mut self, header: Header, payload: PeerBytes<'_>) -> Result<Option<Message>> {
        if Assembler::is_continued(header) && Some(header.request) == self.abandoned {
            return Ok(None);
        }
        self.assembler.add(header, payload, self.max_message, || self.pool.buffer(0))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn collector() -> Collector {
        let (assembler, pool) = (Assembler::default(), BufferPool::new());
        Collector { assembler, pool, max_message: 5, abandoned: None }
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

    #[test]
    fn flags_that_no_request_has_are_refused() {
        check_flags(piece(flags::REQUEST, 1)).unwrap();
        assert_eq!(check_flags(piece(16, 1)).unwrap_err().kind(), ErrorKind::PeerCorrupt);
    }
}
