//! Requests and responders that can be kept and moved: what an [`Inbox`](super::Inbox) hands out.

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::id::RequestId;
use crate::payload::Payload;
use crate::protocol::Kind;
use crate::sys::fork;
use crate::worker::cancel::CancelToken;
use crate::worker::handler_error::HandlerError;
use crate::worker::open_reply::OpenReply;
use crate::worker::owned_request::OwnedRequest;
use crate::worker::owned_slot::OwnedSlot;
use crate::worker::reply_sink::ReplyState;
#[cfg(feature = "async")]
use crate::worker::shared_sink::task_waits::{self, Cancelled};
use crate::worker::shared_sink::{Ending, Sent, SharedSink};
#[cfg(feature = "async")]
use crate::worker::unanswered::Handling;
use crate::worker::unanswered::answered_by;

/// A request that was taken out of the [`Inbox`](super::Inbox), and the means to answer it.
///
/// The two can be kept apart, on different threads, for as long as is needed.
#[derive(Debug)]
#[must_use = "a request whose responder is dropped ends with an error"]
pub struct Incoming {
    /// What is asked.
    pub request: OwnedRequest,
    /// The means to answer.
    pub responder: OwnedResponder,
}

impl Incoming {
    /// Whether the request is still to be begun. One that has expired at `now` is ended here; the
    /// drop ends one that is cancelled.
    pub(super) fn is_wanted(&mut self, now: u64) -> bool {
        if self.responder.is_cancelled() {
            return false;
        }
        let has_expired = self.request.deadline.is_before(now);
        if has_expired {
            self.responder.reply.end_with(Ending::Expired);
        }
        !has_expired
    }
}

/// The means to answer one request: now or later, from any thread, in any order with the answers
/// of others.
///
/// | the answer is | methods |
/// |---|---|
/// | a value | [`send`](Self::send) |
/// | bytes that are computed in place | [`claim`](Self::claim) |
/// | a stream of chunks | [`send_chunk`](Self::send_chunk) or [`try_send_chunk`](Self::try_send_chunk), then [`end`](Self::end) |
/// | an error | [`fail`](Self::fail) |
///
/// If a responder is dropped before the request is answered, the request ends with an error of
/// the type `slipring::NoReply`, or as cancelled if it is cancelled. The drop does not block. If
/// code that the library has called, such as a handler, drops the responder and then returns an
/// error or panics, the request ends with that error.
///
/// Methods that wait end with [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) if the request
/// is cancelled meanwhile, or the worker is told to end.
#[must_use = "a request whose responder is dropped ends with an error"]
pub struct OwnedResponder {
    reply: OpenReply,
    is_stream: bool,
}

impl OwnedResponder {
    pub(super) fn new(sink: &Arc<SharedSink>, state: ReplyState, is_stream: bool) -> Self {
        Self { reply: OpenReply::new(sink, state), is_stream }
    }

    /// Returns the request's id, which is the same in the parent.
    #[must_use]
    pub fn request(&self) -> RequestId {
        RequestId::new(self.reply.state.request())
    }

    /// Returns whether the parent reads a stream of chunks, and not one reply.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Notes that work on the request begins. To be called before the first side effect: should
    /// the worker die, the parent knows that the request cannot be sent again without being
    /// served twice. Answers imply it. Costs some nanoseconds, and nothing from the second call
    /// on.
    pub fn begin(&mut self) {
        self.reply.begin();
    }

    /// Returns whether work on the request has begun.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.reply.state.is_begun()
    }

    /// The longest payload of one frame.
    pub(super) fn max_frame(&self) -> usize {
        self.reply.sink.max_frame
    }

    /// Returns whether the work for the request should end: see
    /// [`Request::is_cancelled`](super::Request::is_cancelled).
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.reply.is_cancelled()
    }

    /// Returns a token that tells the same, and that outlives the responder.
    #[must_use]
    pub fn cancel_token(&self) -> CancelToken {
        CancelToken::new(&self.reply.sink.signals, self.reply.state.request())
    }

    /// Publishes how far the work is: see
    /// [`Request::set_progress`](super::Request::set_progress).
    pub fn set_progress(&self, progress: u64) {
        self.reply.sink.status.set_progress(self.reply.state.request(), progress);
    }

    /// Answers with `payload`. One that is longer than a frame goes in pieces, between which
    /// other answers can go out. Blocks while the parent has not made room for it.
    ///
    /// # Errors
    ///
    /// As [`Responder::send`](super::Responder::send). After an error the request has ended with
    /// an error, too.
    pub fn send<P: Payload + ?Sized>(mut self, payload: &P) -> Result<()> {
        self.reply.begin_answer()?;
        let sent = self.reply.sink.send_message(&mut self.reply.state, Kind::RESULT, payload);
        self.reply.fail_with(sent)
    }

    /// Answers with `payload`, which must fit one frame, if that needs no wait: then returns
    /// `None`. Otherwise nothing is sent, and the responder is given back. Never blocks.
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::send`].
    pub fn try_send<P: Payload + ?Sized>(mut self, payload: &P) -> Result<Option<Self>> {
        self.reply.begin_answer()?;
        let sent = self.reply.sink.try_message(&mut self.reply.state, Kind::RESULT, payload);
        let sent = self.reply.fail_with(sent)?;
        Ok((sent != Sent::Yes).then_some(self))
    }

    /// Reserves `len` bytes of shared memory for the answer, which are filled in place, by any
    /// thread, and sent with [`OwnedSlot::send`]. Blocks while the parent has not made room.
    ///
    /// Until the slot is sent or dropped, nothing that other requests send later is read by the
    /// parent: fill it soon.
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::send`], but `len` must fit one frame.
    pub fn claim(mut self, len: usize) -> Result<OwnedSlot> {
        self.reply.begin_answer()?;
        let slot = self.reply.sink.open(&self.reply.state, len);
        let slot = self.reply.fail_with(slot)?;
        Ok(OwnedSlot::new(slot, self.reply))
    }

    /// Sends one chunk of a stream. Blocks while the reader is a whole window behind, or the
    /// parent has not made room.
    ///
    /// # Errors
    ///
    /// As [`ReplyStream::send`](super::ReplyStream::send). The stream can be continued after an
    /// error of the payload.
    pub fn send_chunk<P: Payload + ?Sized>(&mut self, payload: &P) -> Result<()> {
        self.reply.begin_chunk()?;
        self.reply.sink.send_message(&mut self.reply.state, Kind::CHUNK, payload)
    }

    /// Sends one chunk, which must fit one frame, if that needs no wait. Returns whether it was
    /// sent: if not, the reader is a whole window behind, or the parent has not made room. The
    /// caller can then wait, add the payload to the next chunk, or end the stream. Never blocks.
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::send_chunk`].
    pub fn try_send_chunk<P: Payload + ?Sized>(&mut self, payload: &P) -> Result<bool> {
        self.reply.begin_chunk()?;
        let sent = self.reply.sink.try_message(&mut self.reply.state, Kind::CHUNK, payload)?;
        Ok(sent == Sent::Yes)
    }

    /// Ends a stream. Never blocks: if the parent has made no room, the end is sent later.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a forked child of the worker.
    pub fn end(mut self) -> Result<()> {
        fork::check()?;
        self.reply.begin_answer()?;
        self.reply.end_with(Ending::End);
        Ok(())
    }

    /// Does the same as [`OwnedResponder::send`], and waits without blocking a thread.
    ///
    /// Dropped before it is ready, the request ends with an error.
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::send`].
    #[cfg(feature = "async")]
    pub async fn send_async<P: Payload + ?Sized>(mut self, payload: &P) -> Result<()> {
        self.reply.begin_answer()?;
        let OpenReply { sink, state } = &mut self.reply;
        let sent = task_waits::send_message(sink, state, Kind::RESULT, payload).await;
        self.reply.fail_with(sent)
    }

    /// Does the same as [`OwnedResponder::claim`], and waits without blocking a thread. Between
    /// this and [`OwnedSlot::send`] there should be no `await`.
    ///
    /// Dropped before it is ready, the request ends with an error.
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::claim`].
    #[cfg(feature = "async")]
    pub async fn claim_async(mut self, len: usize) -> Result<OwnedSlot> {
        self.reply.begin_answer()?;
        let slot = task_waits::open(&self.reply.sink, self.reply.state.request(), len).await;
        let slot = self.reply.fail_with(slot)?;
        Ok(OwnedSlot::new(slot, self.reply))
    }

    /// Does the same as [`OwnedResponder::send_chunk`], and waits without blocking a thread. A
    /// stream whose reader does not read holds up no other.
    ///
    /// Cancel-safe if the chunk fits one frame: dropped before it is ready, nothing was sent, and
    /// the stream can be continued. A longer chunk, of which a part may have been sent, then ends
    /// its request with an error.
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::send_chunk`].
    #[cfg(feature = "async")]
    pub async fn send_chunk_async<P: Payload + ?Sized>(&mut self, payload: &P) -> Result<()> {
        self.reply.begin_chunk()?;
        task_waits::send_message(&self.reply.sink, &mut self.reply.state, Kind::CHUNK, payload)
            .await
    }

    /// Returns a future that is ready when the work for the request should stop: when it is
    /// cancelled, or dropped by its caller, the channel is aborted, or the worker is told to end.
    /// It borrows nothing and can be awaited beside the work, or by another task. Once the request
    /// is answered, only an abort or the end of the worker makes it ready.
    ///
    /// Cancel-safe.
    #[cfg(feature = "async")]
    pub fn cancelled(&self) -> Cancelled {
        task_waits::cancelled(&self.reply.sink, self.reply.state.request())
    }

    /// Ends the request with an error, also after some chunks of a stream. An error that says
    /// that the request is cancelled ends it as cancelled. Never blocks: if the parent has made
    /// no room, the error is sent later.
    pub fn fail(mut self, error: impl Into<HandlerError>) {
        self.reply.fail(error.into());
    }

    /// Ends the request, which no handler has seen, with an error.
    pub(super) fn refuse(mut self, error: HandlerError) {
        self.sink.note(self.state.request(), &error);
        self.end_with(Ending::Refused(error.into_failure()));
    }

    /// Begins the request, and runs its handler. An error or a panic of the handler ends the
    /// request, unless the handler has answered it or has moved the responder elsewhere.
    pub(super) fn run(
        mut self,
        handle: impl FnOnce(Self) -> std::result::Result<(), HandlerError>,
    ) {
        self.begin();
        crate::failpoint::failpoint!("before handler");
        let (sink, request) = (Arc::clone(&self.reply.sink), self.reply.state.request());
        // The request is told of the error, if it has no answer yet.
        let _ = answered_by(
            || handle(self),
            |error| {
                sink.note(request, error);
            },
        );
        crate::failpoint::failpoint!("after handler");
    }

    /// Begins the request, for a handler that runs in parts.
    #[cfg(feature = "async")]
    pub(super) fn begin_handling(&mut self) -> Handling {
        self.begin();
        Handling::new(&self.reply.sink, self.reply.state.request())
    }
}

impl fmt::Debug for OwnedResponder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedResponder")
            .field("request", &self.reply.state.request())
            .field("is_stream", &self.is_stream)
            .field("is_begun", &self.reply.state.is_begun())
            .finish_non_exhaustive()
    }
}
