//! The answer to a request, as it comes from its worker.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame as HttpFrame;
use slipring::backend::{BoxChunks, BoxFuture};
use slipring::{Error, Reply, Result};
use tonic::Status;

use super::InFlight;
use super::body::trailers;
use crate::wire::error::status_of;
use crate::wire::frame::{Batch, Frame};
use crate::wire::message::{Pieces, add_short};

/// The answer to a request. It is polled when there is room for more, so that a worker goes no
/// faster than its reader. Dropping it cancels the request.
pub(super) struct Answer {
    source: Source,
    pieces: Option<Pieces>,
    in_pieces: bool,
    in_flight: InFlight,
    /// How many frames were taken without a wait.
    since_pause: u8,
}

/// How many frames are taken without a wait before other tasks have their turn.
const LONGEST_RUN: u8 = 32;

enum Source {
    Called(BoxFuture<'static, Result<Reply>>),
    Streamed(BoxChunks),
    /// Nothing comes any more but the status.
    Ended(Option<Error>),
    Over,
}

impl Answer {
    /// The reply comes later.
    pub(super) fn called(
        reply: BoxFuture<'static, Result<Reply>>,
        in_pieces: bool,
        in_flight: InFlight,
    ) -> Self {
        Self { source: Source::Called(reply), pieces: None, in_pieces, in_flight, since_pause: 0 }
    }

    /// The reply is there.
    pub(super) fn replied(reply: Reply, in_pieces: bool, in_flight: InFlight) -> Self {
        let pieces = Some(Pieces::of_reply(Bytes::from(reply), in_pieces));
        Self { source: Source::Ended(None), pieces, in_pieces, in_flight, since_pause: 0 }
    }

    /// Chunks come, of which the first may be there.
    pub(super) fn streamed(
        first: Option<Reply>,
        chunks: BoxChunks,
        in_pieces: bool,
        in_flight: InFlight,
    ) -> Self {
        let pieces = first.map(|chunk| Pieces::of_reply(Bytes::from(chunk), in_pieces));
        Self { source: Source::Streamed(chunks), pieces, in_pieces, in_flight, since_pause: 0 }
    }

    /// The stream has ended without a chunk.
    pub(super) fn ended(in_flight: InFlight) -> Self {
        Self {
            source: Source::Ended(None),
            pieces: None,
            in_pieces: false,
            in_flight,
            since_pause: 0,
        }
    }

    pub(super) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<HttpFrame<Frame>>> {
        // A worker may be faster than what is sent: other tasks of the thread have their turn.
        if self.since_pause == LONGEST_RUN {
            self.since_pause = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = self.poll_next(context);
        self.since_pause = if polled.is_pending() { 0 } else { self.since_pause + 1 };
        polled
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<HttpFrame<Frame>>> {
        let mut batch = Batch::default();
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
                    Poll::Pending => return batch.take().map_or(Poll::Pending, data),
                    Poll::Ready(Some(Ok(chunk))) => Some(chunk),
                    Poll::Ready(end) => {
                        self.source = Source::Ended(end.and_then(Result::err));
                        None
                    }
                },
                Source::Ended(error) => {
                    let status = match error {
                        Some(error) => self.in_flight.0.status_of(error),
                        None => Status::ok(""),
                    };
                    self.source = Source::Over;
                    return Poll::Ready(Some(HttpFrame::trailers(trailers(&status))));
                }
                Source::Over => return Poll::Ready(None),
            };
            // It is taken out of the ring at once: its reader may be slow, and the ring is that of
            // other requests, too.
            let reply = reply.map(Bytes::from);
            match reply {
                Some(chunk) if add_short(&mut batch, &chunk) => {}
                Some(long) => self.pieces = Some(Pieces::of_reply(long, self.in_pieces)),
                None => {}
            }
            let goes_on = matches!(self.source, Source::Streamed(_)) && !batch.is_full();
            if let Some(frame) = batch.take_unless(goes_on && self.pieces.is_none()) {
                return data(frame);
            }
        }
    }
}

impl super::Shared {
    /// Returns the status that tells a remote of an error of this machine.
    pub(super) fn status_of(&self, error: &Error) -> Status {
        status_of(error, &self.host)
    }
}
