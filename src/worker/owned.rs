//! Requests and responders that can be kept and moved: what an [`Inbox`](super::Inbox) hands out.

mod awaited;

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::id::RequestId;
use crate::payload::Payload;
use crate::protocol::Kind;
use crate::ring::open_slot::OpenSlot;
use crate::ring::position::span;
use crate::sys::fork;
use crate::worker::cancel::CancelToken;
use crate::worker::handler_error::HandlerError;
use crate::worker::open_reply::OpenReply;
use crate::worker::owned_request::OwnedRequest;
use crate::worker::owned_slot::{LastChunk, OwnedChunk, OwnedSlot};
use crate::worker::owned_writer::OwnedReplyWriter;
use crate::worker::reply_sink::ReplyState;
use crate::worker::shared_sink::chunks;
use crate::worker::shared_sink::{Ending, Sent, SharedSink};
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
/// | bytes that are written in parts | [`write`](Self::write) |
/// | a stream of chunks | [`send_chunk`](Self::send_chunk), [`try_send_chunk`](Self::try_send_chunk), [`send_all`](Self::send_all) or [`claim_chunk`](Self::claim_chunk), then [`end`](Self::end) |
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
    last_chunk: LastChunk,
}

/// What [`OwnedResponder::try_send`] has done.
#[derive(Debug)]
#[must_use = "if the responder in `Full` is dropped, its request ends with an error"]
pub enum TrySend {
    /// The answer was sent.
    Sent,
    /// The parent has not made room for it, or others wait for room. Nothing was sent.
    Full(OwnedResponder),
}

/// What [`OwnedResponder::try_claim`] has done.
#[derive(Debug)]
#[must_use = "if the slot or the responder is dropped, the request ends with an error"]
pub enum TryClaim {
    /// Shared memory was reserved for the answer.
    Claimed(OwnedSlot),
    /// The parent has not made room for it, or others wait for room.
    Full(OwnedResponder),
}

impl OwnedResponder {
    pub(super) fn new(sink: &Arc<SharedSink>, state: ReplyState, is_stream: bool) -> Self {
        Self { reply: OpenReply::new(sink, state), is_stream, last_chunk: LastChunk::default() }
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

    /// Returns the length of the longest answer or chunk that fits one frame, in bytes:
    /// [`Config::max_reply_frame`](crate::Config::max_reply_frame).
    #[must_use]
    pub fn max_frame(&self) -> usize {
        self.reply.sink.max_frame
    }

    /// Returns the length of the longest answer or chunk in bytes:
    /// [`Config::max_message`](crate::Config::max_message).
    #[must_use]
    pub fn max_message(&self) -> usize {
        self.reply.sink.max_message
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

    /// Answers with `payload`, which must fit one frame, if that needs no wait. Otherwise nothing
    /// is sent, and [`TrySend::Full`] gives the responder back. Never blocks.
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::send`].
    pub fn try_send<P: Payload + ?Sized>(mut self, payload: &P) -> Result<TrySend> {
        self.reply.begin_answer()?;
        let OpenReply { sink, state } = &mut self.reply;
        let sent = sink.try_message(state, Kind::RESULT, payload);
        let sent = self.reply.fail_with(sent)?;
        Ok(if sent == Sent::Yes { TrySend::Sent } else { TrySend::Full(self) })
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

    /// Reserves `len` bytes as [`OwnedResponder::claim`] does, if that needs no wait. Otherwise
    /// [`TryClaim::Full`] gives the responder back. Never blocks.
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::claim`].
    pub fn try_claim(mut self, len: usize) -> Result<TryClaim> {
        self.reply.begin_answer()?;
        let slot = self.reply.sink.try_open(len);
        Ok(match self.reply.fail_with(slot)? {
            Some(slot) => TryClaim::Claimed(OwnedSlot::new(slot, self.reply)),
            None => TryClaim::Full(self),
        })
    }

    /// Answers with a payload that is written in parts and whose length need not be known. It
    /// goes out in frames as it is written, between which other answers can go out. The caller
    /// gets it whole, or not at all. Never blocks.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::io::Write;
    /// use std::time::Duration;
    /// use slipring::worker::{Threads, Worker};
    /// use slipring::{Config, Kind, RoleConfig, testing};
    ///
    /// const SQUARES: Kind = Kind::named("squares");
    /// let make = || {
    ///     Worker::new(|_| Ok(())).threads(Threads::new(2).on(SQUARES, |_, request, responder| {
    ///         let count: u64 = request.text()?.parse()?;
    ///         let mut writer = responder.write();
    ///         for number in 1..=count {
    ///             writeln!(writer, "{}", number * number)?;
    ///         }
    ///         Ok(writer.finish()?)
    ///     }))
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let reply = channel.call(SQUARES, "3", Duration::from_secs(10))?;
    /// assert_eq!(reply.to_vec(), b"1\n4\n9\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn write(mut self) -> OwnedReplyWriter {
        self.begin();
        OwnedReplyWriter::new(self.reply)
    }

    /// Sends one chunk of a stream. Blocks while the reader is a whole window behind, or the
    /// parent has not made room.
    ///
    /// # Errors
    ///
    /// As [`ReplyStream::send`](super::ReplyStream::send). The stream can be continued after an
    /// error of the payload.
    pub fn send_chunk<P: Payload + ?Sized>(&mut self, payload: &P) -> Result<()> {
        self.begin_chunk()?;
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
        self.begin_chunk()?;
        let sent = self.reply.sink.try_message(&mut self.reply.state, Kind::CHUNK, payload)?;
        Ok(sent == Sent::Yes)
    }

    /// Sends chunks that are at hand, each as [`OwnedResponder::send_chunk`] does, and stops at the
    /// first error. For less than a call of that costs for each: a parent that sleeps may be woken
    /// only when some KiB were sent, or all, or when this waits for credit or room. So an iterator
    /// that takes its time should not be given to this, but its chunks to
    /// [`OwnedResponder::send_chunk`]. Answers of other requests can go out between two chunks.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use slipring::worker::{Threads, Worker};
    /// use slipring::{Config, Kind, RoleConfig, StreamTimeouts, testing};
    ///
    /// const LINES: Kind = Kind::named("lines");
    /// let make = || {
    ///     Worker::new(|_| Ok(())).threads(Threads::new(2).on(LINES, |_, request, mut responder| {
    ///         let text = request.text()?;
    ///         responder.send_all(text.lines())?;
    ///         Ok(responder.end()?)
    ///     }))
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let mut lines = channel.stream(LINES, "one\ntwo\nthree", StreamTimeouts::default())?;
    /// let mut count = 0;
    /// while let Some(chunks) = lines.next_chunks()? {
    ///     count += chunks.len();
    /// }
    /// assert_eq!(count, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::send_chunk`]. The chunks before are sent.
    pub fn send_all<P: Payload>(&mut self, chunks: impl IntoIterator<Item = P>) -> Result<()> {
        self.begin_chunk()?;
        chunks::send_all(&self.reply.sink, &mut self.reply.state, chunks.into_iter())
    }

    /// Reserves `len` bytes of shared memory for one chunk, which are filled in place, by any
    /// thread, and sent with [`OwnedChunk::send`]. Blocks as [`OwnedResponder::send_chunk`] does.
    ///
    /// Until the chunk is sent or dropped, the parent reads nothing that is sent later, by this
    /// request or others, and this stream can send no other chunk. Fill it soon. The stream may be
    /// ended meanwhile: its end comes after the chunk.
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::send_chunk`], but `len` must fit one frame.
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) if an earlier chunk of this stream is
    /// neither sent nor dropped. The stream can be continued after both errors.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::time::Duration;
    /// use slipring::worker::{Threads, Worker};
    /// use slipring::{Config, Kind, RoleConfig, StreamTimeouts, testing};
    ///
    /// const COUNT: Kind = Kind::named("count");
    /// let make = || {
    ///     Worker::new(|_| Ok(())).threads(Threads::new(2).on(COUNT, |_, _, mut responder| {
    ///         for number in 1..=3 {
    ///             // As much as it may need.
    ///             let mut chunk = responder.claim_chunk(100)?;
    ///             chunk.payload()[..number].fill(b'x');
    ///             chunk.truncate(number);
    ///             chunk.send()?;
    ///         }
    ///         Ok(responder.end()?)
    ///     }))
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let mut chunks = Vec::new();
    /// for chunk in channel.stream(COUNT, "", StreamTimeouts::default())? {
    ///     chunks.push(chunk?.to_vec());
    /// }
    /// assert_eq!(chunks, [&b"x"[..], b"xx", b"xxx"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn claim_chunk(&mut self, len: usize) -> Result<OwnedChunk> {
        let OpenReply { sink, state } = self.begin_claim(len)?;
        sink.await_credit(state, span(len))?;
        let slot = sink.open(state, len)?;
        Ok(self.chunk(slot))
    }

    /// Reserves `len` bytes for a chunk as [`OwnedResponder::claim_chunk`] does, if that needs no
    /// wait. Returns `None` if the reader is a whole window behind, or the parent has not made
    /// room. Never blocks.
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::claim_chunk`].
    pub fn try_claim_chunk(&mut self, len: usize) -> Result<Option<OwnedChunk>> {
        let OpenReply { sink, state } = self.begin_claim(len)?;
        if !sink.has_credit(state, span(len)) {
            return Ok(None);
        }
        let slot = sink.try_open(len)?;
        Ok(slot.map(|slot| self.chunk(slot)))
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

    fn begin_chunk(&mut self) -> Result<()> {
        self.reply.begin_chunk()?;
        self.last_chunk.count(&mut self.reply.state)
    }

    fn begin_claim(&mut self, len: usize) -> Result<&mut OpenReply> {
        self.begin_chunk()?;
        self.reply.sink.check_frame_len(len)?;
        Ok(&mut self.reply)
    }

    fn chunk(&mut self, slot: OpenSlot) -> OwnedChunk {
        let OpenReply { sink, state } = &self.reply;
        self.last_chunk.claim(slot, sink, state.request())
    }

    /// Ends the request with an error, also after some chunks of a stream. An error that says
    /// that the request is cancelled ends it as cancelled. Never blocks: if the parent has made
    /// no room, the error is sent later.
    pub fn fail(mut self, error: impl Into<HandlerError>) {
        self.reply.fail(error.into());
    }

    /// Ends the request, which no handler has seen, with an error.
    pub(super) fn refuse(mut self, error: HandlerError) {
        self.reply.refuse(error);
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
