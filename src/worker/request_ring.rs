//! The requests that come in: the consumer of the request ring, and what is made of its frames.

use crate::error::Result;
use crate::protocol::Kind;
use crate::protocol::assembler::{Assembler, Message};
#[cfg(feature = "tracing")]
use crate::protocol::kind::flags;
use crate::ring::{Consumer, Frame, Header, LeasedSlot};
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::{RegionHeader, as_usize};
use crate::worker::cancel::Signals;
use crate::worker::collector::Collector;
use crate::worker::request_pieces::RequestPieces;
use crate::worker::traced::{has_other_flags, take_context};

/// The worker's end of the request ring.
#[derive(Debug)]
pub(super) struct RequestRing {
    consumer: Consumer,
    collector: Collector,
    /// The pages of the ring are in the page table.
    is_prefaulted: bool,
}

/// What requests are given to.
pub(super) trait ServeRequest {
    /// Serves a request whose payload is there.
    fn request(&mut self, header: Header, body: Body<'_>) -> Result<()>;

    /// Serves a request whose pieces are still to be read.
    fn pieces(&mut self, header: Header, pieces: &mut RequestPieces<'_>) -> Result<()>;

    /// Makes the span of a request that is part of a trace, and is served next.
    #[cfg(feature = "tracing")]
    fn span(&self, _: Header) -> tracing::Span {
        tracing::Span::none()
    }
}

impl<F: FnMut(Header, Body<'_>) -> Result<()>> ServeRequest for F {
    fn request(&mut self, header: Header, body: Body<'_>) -> Result<()> {
        self(header, body)
    }

    /// Is not called: nothing has asked for pieces.
    fn pieces(&mut self, header: Header, _: &mut RequestPieces<'_>) -> Result<()> {
        self(header, Body::None)
    }
}

impl RequestRing {
    pub(super) fn new(consumer: Consumer, header: &RegionHeader) -> Self {
        Self { consumer, collector: Collector::new(header), is_prefaulted: false }
    }

    /// Has long requests of these kinds read piece by piece: see [`ServeRequest::pieces`].
    pub(super) fn read_in_pieces(&mut self, kinds: impl Iterator<Item = Kind>) {
        self.collector.read_in_pieces(kinds);
    }

    /// Waits for the next frame, and gives `serve` each request that it makes whole: the
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
    #[inline(always)]
    pub(super) fn receive(
        &mut self,
        signals: &Signals,
        wait: impl FnOnce(&mut Consumer, &dyn Fn() -> Result<()>) -> Result<bool>,
        serve: &mut impl ServeRequest,
    ) -> Result<()> {
        let Self { consumer, collector, is_prefaulted } = self;
        if !consumer.has_next() {
            // While there is nothing better to do, and not when the next request has come.
            consumer.publish_released();
        }
        if let Some(abandoned) = collector.abandon_if_cancelled(signals) {
            return serve.request(abandoned, Body::None);
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
        if has_other_flags(header) {
            let frame = take_context(signals, frame)?;
            return match take_traced(collector, frame, serve)? {
                None => Ok(()),
                Some(piece) => serve_long(self, signals, piece, serve),
            };
        }
        if header.kind == Kind::READY.code() && !std::mem::replace(is_prefaulted, true) {
            // The parent waits for the answer to this alone, and does the same on its side.
            frame.prefault();
        }
        if !Assembler::is_piece(header) {
            collector.pool.age();
            // Slots that are long free must not stay hidden while a handler runs.
            frame.publish_released();
            return serve.request(header, Body::Frame(frame));
        }
        match take_piece(collector, header, frame, serve)? {
            None => Ok(()),
            Some(piece) => serve_long(self, signals, piece, serve),
        }
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

/// What a piece of a long request has made of it.
enum Long {
    /// It is whole.
    Collected(Message),
    /// It is to be read from its first piece on.
    Begun(Header, LeasedSlot),
}

/// Takes one piece. Kept out of the path of short requests, as what follows is.
#[cold]
#[inline(never)]
fn take_piece(
    collector: &mut Collector,
    header: Header,
    frame: Frame<'_>,
    serve: &mut impl ServeRequest,
) -> Result<Option<Long>> {
    collector.check_first(header)?;
    if let Some(cut_off) = collector.cut_off_by(header) {
        serve.request(cut_off, Body::None)?;
    }
    if collector.begins_reading(header) {
        collector.pass(header)?;
        return Ok(Some(Long::Begun(header, frame.into_slot())));
    }
    let message = collector.add(header, frame.payload())?;
    Ok(message.map(Long::Collected))
}

/// Serves a frame whose context was taken off it, or adds it to its message.
#[cold]
#[inline(never)]
fn take_traced(
    collector: &mut Collector,
    mut frame: Frame<'_>,
    serve: &mut impl ServeRequest,
) -> Result<Option<Long>> {
    let header = frame.header();
    if Assembler::is_piece(header) {
        return take_piece(collector, header, frame, serve);
    }
    collector.pool.age();
    frame.publish_released();
    serve_in_span(serve, header, |serve| serve.request(header, Body::Frame(frame)))?;
    Ok(None)
}

/// Serves a request in its span, if it is part of a trace.
fn serve_in_span<S: ServeRequest>(
    serve: &mut S,
    header: Header,
    run: impl FnOnce(&mut S) -> Result<()>,
) -> Result<()> {
    #[cfg(feature = "tracing")]
    let _span = (header.flags & flags::TRACED != 0).then(|| serve.span(header).entered());
    #[cfg(not(feature = "tracing"))]
    let _ = header;
    run(serve)
}

#[cold]
#[inline(never)]
fn serve_long(
    ring: &mut RequestRing,
    signals: &Signals,
    long: Long,
    serve: &mut impl ServeRequest,
) -> Result<()> {
    let RequestRing { consumer, collector, .. } = ring;
    let (header, first) = match long {
        Long::Begun(header, first) => (header, first),
        Long::Collected(Message { header, mut bytes, .. }) => {
            consumer.publish_released();
            let served = serve_in_span(serve, header, |serve| {
                serve.request(header, Body::Message(&mut bytes))
            });
            collector.pool.give(bytes);
            return served;
        }
    };
    let mut pieces = RequestPieces::new(consumer, collector, signals, header, first);
    serve_in_span(serve, header, |serve| serve.pieces(header, &mut pieces))?;
    // Those of one frame that came between the pieces.
    for (header, mut bytes) in pieces.end()? {
        signals.check_stop()?;
        serve_in_span(serve, header, |serve| serve.request(header, Body::Message(&mut bytes)))?;
    }
    Ok(())
}
