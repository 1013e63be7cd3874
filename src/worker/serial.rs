//! Serves requests one at a time, in the order in which they were sent.

use crate::error::Result;
use crate::protocol::Kind;
use crate::protocol::kind::flags;
use crate::ring::{Consumer, Header};
use crate::shm::bytes::PeerBytes;
use crate::sys::clock::{COARSE_NS, Deadline, coarse_now_ns, now_ns};
use crate::sys::fork;
use crate::worker::cancel::Signals;
use crate::worker::handler_error::HandlerError;
use crate::worker::handlers::{Handler, Handlers, unknown_kind};
use crate::worker::last_error::LastError;
use crate::worker::panics::catch;
use crate::worker::reply_sink::{ReplySink, ReplyState};
use crate::worker::request::Request;
use crate::worker::request_pieces::RequestPieces;
use crate::worker::request_reader::{ReadingHandler, RequestReader};
use crate::worker::request_ring::{Body, RequestRing, ServeRequest};
use crate::worker::responder::{Done, Responder};
use crate::worker::status::StatusWriter;

/// What requests are served with.
pub(super) struct SerialServer<'a, S> {
    pub(super) sink: &'a mut ReplySink,
    pub(super) signals: &'a Signals,
    pub(super) status: &'a StatusWriter,
    pub(super) last_error: &'a LastError,
    pub(super) session: S,
    pub(super) handlers: Handlers<Handler<S>>,
    /// The handlers of long requests that are read piece by piece. Those of one frame have others,
    /// so that no short request is looked up here.
    pub(super) readers: Handlers<ReadingHandler<S>>,
}

type HandlerResult = std::result::Result<Done, HandlerError>;

impl<S> SerialServer<'_, S> {
    /// Serves requests until the worker is to end.
    pub(super) fn run(&mut self, ring: &mut RequestRing) -> Result<()> {
        ring.read_in_pieces(self.readers.kinds());
        while !self.signals.is_stopping() {
            let signals = self.signals;
            let wait = |consumer: &mut Consumer, check: &dyn Fn() -> Result<()>| {
                Ok(consumer.spin_briefly()
                    || consumer.wait_until(signals.alarm(), Deadline::IDLE, check)?)
            };
            match ring.receive(signals, wait, self) {
                // The stop has ended a wait.
                Err(_) if self.signals.is_stopping() => {}
                served => served?,
            }
        }
        Ok(())
    }

    /// Serves one request to its last frame.
    #[inline(always)]
    fn serve(&mut self, header: Header, body: &Body<'_>) -> Result<()> {
        let payload = body.payload();
        let Self { sink, signals, status, session, handlers, last_error, .. } = self;
        let (signals, status) = (*signals, *status);
        let (kind, id) = (Kind::from_code(header.kind), header.request);
        let deadline = Deadline::from_word(header.aux);
        status.received(payload.len());
        let state = &mut sink.begin(id);
        let now = now_for(deadline);
        let is_abandoned = header.flags & flags::ABANDONED != 0;
        if is_abandoned || signals.is_request_cancelled(id) {
            return sink.cancel(state);
        }
        if deadline.is_before(now) {
            return sink.expire(state);
        }
        if kind == Kind::READY {
            return sink.acknowledge(state);
        }
        let Some(handler) = handlers.find(kind) else {
            let error = unknown_kind(kind);
            last_error.set(error.summary());
            return sink.refuse(state, &error.into_failure());
        };
        let flags = header.flags;
        let request = Request { kind, id, flags, deadline, payload, signals, status };
        status.begin(id, now);
        state.begin();
        crate::failpoint::failpoint!("before handler");
        let handled = catch(|| handler(session, &request, Responder::new(sink, state)));
        crate::failpoint::failpoint!("after handler");
        let ended = self.end(&request, state, handled);
        // Only now: a handler may go on after its answer.
        status.handler_returned(id);
        ended
    }

    /// Sends the request's last frame, unless the handler did.
    // Has two callers, and would cost a short request a call.
    #[inline(always)]
    fn end(
        &mut self,
        request: &Request<'_>,
        state: &mut ReplyState,
        handled: HandlerResult,
    ) -> Result<()> {
        let Err(error) = handled else {
            return match state.is_finished() {
                true => Ok(()),
                // It returned what an earlier request's reply had given it.
                false => self.sink.fail(
                    state,
                    &HandlerError::no_reply("the handler returned without a reply").into_failure(),
                ),
            };
        };
        let is_cancel = error.is_cancel_of(request.id, || request.is_cancelled());
        if !is_cancel && !fork::is_forked_child() {
            self.last_error.set(error.summary());
        }
        if state.is_finished() {
            Ok(())
        } else if is_cancel {
            self.sink.cancel(state)
        } else {
            self.sink.fail(state, &error.into_failure())
        }
    }
}

impl<S> ServeRequest for SerialServer<'_, S> {
    fn request(&mut self, header: Header, body: Body<'_>) -> Result<()> {
        self.serve(header, &body)
    }

    #[cfg(feature = "tracing")]
    fn span(&self, header: Header) -> tracing::Span {
        self.signals.traces().span(&Kind::from_code(header.kind), header.request)
    }

    fn pieces(&mut self, header: Header, pieces: &mut RequestPieces<'_>) -> Result<()> {
        let Self { sink, signals, status, session, readers, .. } = self;
        let (signals, status) = (*signals, *status);
        let (kind, id) = (Kind::from_code(header.kind), header.request);
        let deadline = Deadline::from_word(header.aux);
        let state = &mut sink.begin(id);
        let now = now_ns();
        // The ring looks for pieces of these kinds alone.
        let Some(handler) = readers.find_shared(kind) else { return Ok(()) };
        if signals.is_request_cancelled(id) {
            return sink.cancel(state);
        }
        if deadline.is_before(now) {
            return sink.expire(state);
        }
        let (flags, payload) = (header.flags, PeerBytes::empty());
        let request = Request { kind, id, flags, deadline, payload, signals, status };
        status.begin(id, now);
        state.begin();
        let reader = RequestReader::of_pieces(&request, pieces);
        let handled = catch(|| handler.call(session, reader, Responder::new(sink, state)));
        let ended = self.end(&request, state, handled);
        status.handler_returned(id);
        ended
    }
}

/// The time, as exactly as is needed to tell whether the deadline has passed: a look at a
/// cheap clock is enough for nearly all deadlines.
#[inline]
fn now_for(deadline: Deadline) -> u64 {
    let now = coarse_now_ns();
    if deadline.is_before(now + COARSE_NS) { now_ns() } else { now }
}
