//! The answer to a request, as it comes from its worker.

use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame as HttpFrame;
use slipring::backend::{BoxBatchChunks, BoxFuture};
use slipring::pool::Outcome;
use slipring::{Error, PeerBytes, Reply, Result};
use tonic::Status;

use super::body::trailers;
use super::caller::Caller;
use super::record::Record;
use super::unread::LOOKS;
use super::{InFlight, Shared};
use crate::wire::error::{not_taken, status_of};
use crate::wire::frame::{Batch, Frame};
use crate::wire::message::{Pieces, add_short};

/// The answer to a request. It is polled when there is room for more, so that a worker goes no
/// faster than its reader. Dropping it cancels the request.
pub(super) struct Answer {
    source: Source,
    pieces: Option<Pieces>,
    /// Short chunks that are sent together.
    batch: Batch,
    in_pieces: bool,
    caller: Arc<Caller>,
    record: Arc<Record>,
    /// None once the request was given up.
    in_flight: Option<InFlight>,
    /// How many frames were taken without a wait.
    since_pause: u8,
    /// The task that waits for the next frame.
    reader: Option<Waker>,
    /// How many looks have found that there is room for no further frame.
    unread: u8,
    /// The last frame was taken, and none has come since.
    waits_for_worker: bool,
}

/// Up to this length a reply is left to its reader for as long as the connection is there.
const SHORT: usize = 64 << 10;

/// A reply or a chunk of more than this counts as memory of its connection.
const COUNTED: usize = 512;

/// How many frames are taken without a wait before other tasks have their turn.
const LONGEST_RUN: u8 = 32;

enum Source {
    Called(BoxFuture<'static, Result<Reply>>),
    Streamed(BoxBatchChunks),
    /// Nothing comes any more but the status.
    Ended(Option<Error>),
    Over,
}

impl Answer {
    /// The reply comes later.
    pub(super) fn called(
        reply: BoxFuture<'static, Result<Reply>>,
        in_pieces: bool,
        caller: &Arc<Caller>,
        in_flight: InFlight,
    ) -> Self {
        Self::new(Source::Called(reply), in_pieces, caller, in_flight)
    }

    /// The reply is there.
    pub(super) fn replied(
        reply: Reply,
        in_pieces: bool,
        caller: &Arc<Caller>,
        in_flight: InFlight,
    ) -> Self {
        let mut answer = Self::new(Source::Ended(None), in_pieces, caller, in_flight);
        answer.send(Bytes::from(reply));
        answer
    }

    /// Chunks come, of which the first may be there.
    pub(super) fn streamed(
        first: Option<Reply>,
        chunks: BoxBatchChunks,
        in_pieces: bool,
        caller: &Arc<Caller>,
        in_flight: InFlight,
    ) -> Self {
        let mut answer = Self::new(Source::Streamed(chunks), in_pieces, caller, in_flight);
        // A short one is sent with those that came with it.
        if let Some(first) = first
            && !add_short(&mut answer.batch, first.payload())
        {
            answer.send(Bytes::from(first));
        }
        answer
    }

    /// The stream has ended without a chunk.
    pub(super) fn ended(caller: &Arc<Caller>, in_flight: InFlight) -> Self {
        Self::new(Source::Ended(None), false, caller, in_flight)
    }

    fn new(source: Source, in_pieces: bool, caller: &Arc<Caller>, in_flight: InFlight) -> Self {
        Self {
            source,
            pieces: None,
            batch: Batch::default(),
            in_pieces,
            caller: Arc::clone(caller),
            record: Arc::clone(&in_flight.record),
            in_flight: Some(in_flight),
            since_pause: 0,
            reader: None,
            unread: 0,
            waits_for_worker: false,
        }
    }

    /// Sends a reply or a chunk next, if there is room for it. Otherwise the request is over.
    fn send(&mut self, reply: Bytes) {
        let reply = if reply.len() > COUNTED {
            let mut held = self.caller.held();
            if let Err(error) = held.add_answer(&self.caller.shared.host, reply.len()) {
                self.source = Source::Ended(Some(error));
                return;
            }
            held.keep(reply)
        } else {
            reply
        };
        self.record.note_sent(reply.len());
        self.pieces = Some(Pieces::of_reply(reply, self.in_pieces));
    }

    /// Whether much is kept, or a worker is kept busy, as long as the answer is not read.
    pub(super) fn is_costly(&self) -> bool {
        let is_long = self.pieces.as_ref().is_some_and(|pieces| pieces.len() > SHORT);
        is_long || matches!(self.source, Source::Called(_) | Source::Streamed(_))
    }

    /// Cancels the request. Its reader gets the error as soon as it has read what was sent.
    pub(super) fn give_up(&mut self, error: Error) {
        let is_sent = self.pieces.as_ref().is_none_or(Pieces::is_over);
        match self.source {
            // The whole answer is on its way.
            Source::Ended(_) if is_sent => {}
            Source::Over => {}
            _ => {
                self.record.end(Outcome::Failed(error.kind()));
                self.source = Source::Ended(Some(error));
            }
        }
        (self.pieces, self.in_flight) = (None, None);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Looks whether a part was taken since the last look, or is still to come. Gives the answer up
    /// after some looks at which none was: nothing was taken for so long.
    pub(super) fn look(&mut self, longest: Duration) {
        if self.waits_for_worker || self.in_flight.is_none() {
            return;
        }
        self.unread += 1;
        if self.unread > LOOKS {
            self.give_up(not_taken(longest));
        }
    }

    pub(super) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<HttpFrame<Frame>>> {
        self.unread = 0;
        // A worker may be faster than what is sent: other tasks of the thread have their turn.
        if self.since_pause == LONGEST_RUN {
            self.since_pause = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = self.poll_next(context);
        self.waits_for_worker = polled.is_pending();
        self.since_pause = if polled.is_pending() { 0 } else { self.since_pause + 1 };
        if polled.is_pending() {
            match &mut self.reader {
                Some(reader) => reader.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
        }
        polled
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<HttpFrame<Frame>>> {
        let data = |frame| Poll::Ready(Some(HttpFrame::data(frame)));
        loop {
            if let Some(frame) = self.pieces.as_mut().and_then(Pieces::next) {
                return data(frame);
            }
            self.pieces = None;
            let reply = match &mut self.source {
                Source::Called(reply) => {
                    let reply = ready!(reply.as_mut().poll(context));
                    self.source = Source::Ended(reply.as_ref().err().cloned());
                    reply.ok()
                }
                Source::Streamed(chunks) => match chunks.as_mut().poll_next(context) {
                    Poll::Pending => return self.take_batch().map_or(Poll::Pending, data),
                    Poll::Ready(Some(Ok(chunk))) => {
                        let batch = &mut self.batch;
                        if add_short(batch, chunk.payload()) {
                            let mut add =
                                |chunk: PeerBytes<'_>| !batch.is_full() && add_short(batch, chunk);
                            chunks.as_mut().take_ready(&mut add);
                            None
                        } else {
                            Some(chunk)
                        }
                    }
                    Poll::Ready(end) => {
                        self.source = Source::Ended(end.and_then(Result::err));
                        None
                    }
                },
                Source::Ended(error) => {
                    let failed = error.as_ref().map(|error| Outcome::Failed(error.kind()));
                    self.record.end(failed.unwrap_or(Outcome::Answered));
                    let status = match error {
                        Some(error) => self.caller.shared.status_of(error),
                        None => Status::ok(""),
                    };
                    self.source = Source::Over;
                    return Poll::Ready(Some(HttpFrame::trailers(trailers(&status))));
                }
                Source::Over => return Poll::Ready(None),
            };
            // It is taken out of the ring at once: its reader may be slow, and the ring is that of
            // other requests, too.
            if let Some(reply) = reply {
                self.send(Bytes::from(reply));
            }
            let goes_on = matches!(self.source, Source::Streamed(_)) && !self.batch.is_full();
            if (!goes_on || self.pieces.is_some())
                && let Some(frame) = self.take_batch()
            {
                return data(frame);
            }
        }
    }

    /// Returns the short chunks that are there; `None` if there are none.
    fn take_batch(&mut self) -> Option<Frame> {
        let (frame, payloads) = self.batch.take()?;
        self.record.note_sent(payloads);
        Some(frame)
    }
}

impl Shared {
    /// Returns the status that tells a remote of an error of this machine.
    pub(super) fn status_of(&self, error: &Error) -> Status {
        status_of(error, &self.host)
    }
}
