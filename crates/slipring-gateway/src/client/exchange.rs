//! One request on a connection, and its answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Response, StatusCode};
use slipring::backend::{BackendRequest, Progress, TraceContext};
use slipring::{RequestStage, Result};
use tokio::sync::OwnedSemaphorePermit;

use super::beats::head_of;
use super::connection::Shared;
use super::outcome::{lost, was_begun};
use crate::trace::add_trace;
use crate::wire::error::{begun, error_of, status_in, unexpected};
use crate::wire::frame::Frame;
use crate::wire::message::{Pieces, short_payload};
use crate::wire::reader::MessageReader;
use crate::wire::timeout;

/// How much longer than its payload a message may be.
pub(super) const HEAD: usize = 64 << 10;

/// How much is taken without a wait before other tasks have their turn. To yield may cost as much as
/// many short chunks, if another thread is woken and goes on with the task.
const LONGEST_RUN: u16 = 2048;

/// What a message or a part counts of that. A short chunk counts one.
const MESSAGE: u16 = 8;

/// A request that was sent, or whose pieces are being sent. Dropping it cancels the request.
pub(super) struct Exchange {
    shared: Arc<Shared>,
    sending: Option<Sending>,
    receiving: Receiving,
    reader: MessageReader,
    progress: Option<Progress>,
    /// The headers of the answer have come: a worker has begun the request.
    has_headers: bool,
    /// How many bytes of the answer have come.
    received: u64,
    /// How much was taken since other tasks had their turn.
    run: u16,
    _place: Option<OwnedSemaphorePermit>,
}

struct Sending {
    stream: SendStream<Frame>,
    pieces: Pieces,
}

/// What an exchange knows of the request to a worker that it sends.
pub(super) struct Asked {
    progress: Progress,
    trace: Option<TraceContext>,
}

impl From<&BackendRequest> for Asked {
    fn from(request: &BackendRequest) -> Self {
        Self { progress: request.progress(), trace: request.trace_context().cloned() }
    }
}

enum Receiving {
    Headers(ResponseFuture),
    Body(RecvStream),
    Over,
}

impl Exchange {
    /// Sends a request: its first piece at once, others when there is room for them. Of the answer
    /// no message is longer than `longest_message`.
    ///
    /// # Errors
    ///
    /// If it was not sent, which is certain then.
    pub(super) async fn begin(
        shared: &Arc<Shared>,
        method: &str,
        limit: Duration,
        mut pieces: Pieces,
        asked: Option<Asked>,
        place: Option<OwnedSemaphorePermit>,
        longest_message: usize,
    ) -> Result<Self> {
        let mut sender = shared.sender().await?;
        let mut request = head_of(shared.uri(method));
        let headers = request.headers_mut();
        if let Some(limit) = timeout::encode(limit) {
            headers.insert("grpc-timeout", limit);
        }
        if let Some(trace) = asked.as_ref().and_then(|asked| asked.trace.as_ref()) {
            add_trace(headers, trace);
        }
        let progress = asked.map(|asked| asked.progress);
        let sent = sender.send_request(request, false);
        let (response, mut stream) = sent.map_err(|error| lost(shared, Some(false), &error))?;
        if let Some(progress) = &progress {
            progress.set(None);
        }
        if let Some(first) = pieces.next() {
            // An error comes with the answer, too.
            let _ = stream.send_data(first, pieces.is_over());
        }
        let sending = (!pieces.is_over()).then_some(Sending { stream, pieces });
        Ok(Self {
            reader: MessageReader::new(longest_message),
            shared: Arc::clone(shared),
            sending,
            receiving: Receiving::Headers(response),
            progress,
            has_headers: false,
            received: 0,
            run: 0,
            _place: place,
        })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Returns whether a worker has begun the request, as far as that is known.
    pub(super) fn was_begun(&self) -> Option<bool> {
        self.has_headers.then_some(true)
    }

    /// Returns how many bytes of the request were sent, and of the answer have come, beyond some number.
    pub(super) fn moved(&self) -> u64 {
        let left = self.sending.as_ref().map_or(0, |sending| sending.pieces.len());
        (u64::MAX / 2).saturating_sub(u64::try_from(left).unwrap_or(u64::MAX)) + self.received
    }

    /// Cancels the request, if it is not over.
    pub(super) fn give_up(&mut self) {
        self.sending = None;
        self.receiving = Receiving::Over;
        self.reader.clear();
    }

    /// Waits for the next message of the answer; `None` at its end.
    pub(super) async fn message(&mut self) -> Result<Option<Bytes>> {
        std::future::poll_fn(|context| self.poll_message(context)).await
    }

    /// Returns the next message if it lies in what has come, and other tasks need not have their turn.
    pub(super) fn take_arrived(&mut self) -> Option<Bytes> {
        if self.run >= LONGEST_RUN {
            return None;
        }
        self.run += MESSAGE;
        self.reader.next_in_part()
    }

    /// Uses the payload of that message where it lies, if it is a short chunk.
    pub(super) fn use_short_chunk<T>(&mut self, take: impl FnOnce(&[u8]) -> T) -> Option<T> {
        if self.run >= LONGEST_RUN {
            return None;
        }
        let taken = self.reader.use_next(short_payload, take)?;
        self.run += 1;
        Some(taken)
    }

    pub(super) fn poll_message(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>>> {
        let Poll::Ready(result) = self.poll_next(context) else {
            self.run = 0;
            return Poll::Pending;
        };
        if !matches!(result, Ok(Some(_))) {
            // Nothing comes any more, and nothing is to be sent.
            self.give_up();
        }
        Poll::Ready(result)
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        loop {
            // A gateway may be faster than this thread.
            self.run += MESSAGE;
            if self.run > LONGEST_RUN {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let next = self.reader.next();
            let next = next.map_err(|error| unexpected(error.to_string(), self.was_begun()))?;
            if let Some(message) = next {
                return Poll::Ready(Ok(Some(message)));
            }
            if self.sending.as_mut().is_some_and(|sending| sending.poll(context).is_ready()) {
                self.sending = None;
            }
            match &mut self.receiving {
                Receiving::Headers(response) => {
                    let response = ready!(Pin::new(response).poll(context));
                    let response = response.map_err(|error| self.lost(&error))?;
                    self.begun(response)?;
                }
                Receiving::Body(body) => match ready!(body.poll_data(context)) {
                    Some(Ok(data)) => {
                        // What was taken out may come again: the reader holds what it needs.
                        let _ = body.flow_control().release_capacity(data.len());
                        let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
                        self.received = self.received.saturating_add(len);
                        self.reader.push(data);
                    }
                    Some(Err(error)) => return Poll::Ready(Err(self.lost(&error))),
                    None => {
                        let trailers = ready!(body.poll_trailers(context));
                        let trailers = trailers.map_err(|error| self.lost(&error))?;
                        return Poll::Ready(self.end(&trailers.unwrap_or_default()));
                    }
                },
                Receiving::Over => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// The headers of the answer have come.
    fn begun(&mut self, response: Response<RecvStream>) -> Result<()> {
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(unexpected(format!("HTTP status {}", head.status), None));
        }
        if let Some(status) = status_in(&head.headers) {
            self.receiving = Receiving::Over;
            return match status.code() {
                tonic::Code::Ok => Ok(()),
                _ => Err(error_of(&status, &self.shared.peer)),
            };
        }
        self.has_headers = true;
        if let Some(progress) = &self.progress {
            progress.set(Some(RequestStage::Begun));
        }
        self.receiving = Receiving::Body(body);
        Ok(())
    }

    fn end(&self, trailers: &HeaderMap) -> Result<Option<Bytes>> {
        match status_in(trailers) {
            Some(status) if status.code() == tonic::Code::Ok => Ok(None),
            Some(status) => Err(begun(error_of(&status, &self.shared.peer))),
            None => {
                let message = "the answer ended without a status".to_owned();
                Err(unexpected(message, self.was_begun()))
            }
        }
    }

    fn lost(&self, error: &h2::Error) -> slipring::Error {
        lost(&self.shared, was_begun(error, self.has_headers), error)
    }
}

impl Sending {
    /// Sends pieces as long as there is room. Ready when all are sent, or none can be.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.pieces.is_over() {
            if self.stream.capacity() == 0 {
                self.stream.reserve_capacity(1);
                match ready!(self.stream.poll_capacity(context)) {
                    Some(Ok(0)) => continue,
                    Some(Ok(_)) => {}
                    // The answer says why.
                    Some(Err(_)) | None => return Poll::Ready(()),
                }
            }
            let Some(piece) = self.pieces.next() else { break };
            if self.stream.send_data(piece, self.pieces.is_over()).is_err() {
                return Poll::Ready(());
            }
        }
        Poll::Ready(())
    }
}
