//! Takes a request from its connection.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::Body as _;
use prost::Message;
use slipring::{Error, ErrorKind, Result};
use tokio::time::{Instant, timeout};

use super::budget::Held;
use super::caller::Caller;
use super::upload::Upload;
use crate::proto;
use crate::wire::error::{refused, too_large};
use crate::wire::reader::{MessageReader, Unreadable};
use crate::wire::{Limits, timeout as grpc_timeout};

/// How much longer than its payload a message of a request may be.
pub(super) const HEAD: usize = 64 << 10;

/// So much of a request, or its end, must come within the timeout of a piece.
const PROGRESS: usize = 16 << 10;

/// A payload that is at most so long is copied out of the bytes that came with it: a short one that
/// waits would keep all those in memory.
const COPIED: usize = 16 << 10;

/// When a request must be answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    began: Instant,
    timeout: Duration,
}

impl Deadline {
    /// The deadline that the headers of a request give, or else the default.
    pub(super) fn of(headers: &HeaderMap, default: Duration) -> Result<Self> {
        let began = Instant::now();
        let Some(value) = headers.get("grpc-timeout") else {
            return Ok(Self { began, timeout: default });
        };
        let timeout = grpc_timeout::decode(value)
            .ok_or_else(|| invalid("the header grpc-timeout is malformed"))?;
        Ok(Self { began, timeout })
    }

    /// The deadline and the time until it, from the beginning; `None` if there is none.
    pub(super) fn at(&self) -> Option<(Instant, Duration)> {
        Some((self.began.checked_add(self.timeout)?, self.timeout))
    }

    /// How much time is left. For ever stays for ever.
    pub(super) fn left(&self) -> Duration {
        if self.timeout == Duration::MAX {
            return self.timeout;
        }
        self.timeout.saturating_sub(self.began.elapsed())
    }
}

/// The messages of a request, as they come.
struct Messages<'a> {
    body: Upload,
    reader: MessageReader,
    caller: &'a Caller,
    deadline: Deadline,
    held: Held,
    /// How many bytes came since when.
    progress: (usize, Instant),
}

impl<'a> Messages<'a> {
    fn new(body: Upload, max_message: usize, caller: &'a Caller, deadline: Deadline) -> Self {
        let reader = MessageReader::new(max_message);
        let progress = (0, Instant::now());
        Self { body, reader, caller, deadline, held: caller.held(), progress }
    }

    /// Waits for the next message; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(message) = self.reader.next().map_err(unread)? {
                return Ok(Some(message));
            }
            let frame =
                std::future::poll_fn(|context| Pin::new(&mut self.body).poll_frame(context));
            let (_, since) = self.progress;
            let longest = self.caller.shared.limits.piece_timeout;
            let left = longest.saturating_sub(since.elapsed());
            let frame = timeout(left.min(self.deadline.left()), frame).await;
            let frame = frame.map_err(|_| {
                refused(ErrorKind::Timeout, "the request did not come whole, or too slowly")
            })?;
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.held.add_to_request(&self.caller.shared.host, data.len())?;
                        self.progress.0 = self.progress.0.saturating_add(data.len());
                        if self.progress.0 >= PROGRESS {
                            self.progress = (0, Instant::now());
                        }
                        self.reader.push(data);
                    }
                }
                Some(Err(error)) => {
                    let message = format!("the request broke off: {error}");
                    return Err(refused(ErrorKind::Cancelled, message));
                }
                None if self.reader.is_at_end() => return Ok(None),
                None => return Err(invalid("the last message is not whole")),
            }
        }
    }
}

/// Reads a request that is one message.
pub(super) async fn one<M: Message + Default>(
    request: Request<Upload>,
    caller: &Caller,
    deadline: Deadline,
) -> Result<M> {
    let mut messages = Messages::new(request.into_body(), HEAD, caller, deadline);
    decode(messages.next().await?.ok_or_else(nothing)?)
}

/// Reads a request to a worker, and puts the pieces of its payload together. The payload counts as
/// memory of its connection.
pub(super) async fn whole(
    request: Request<Upload>,
    caller: &Caller,
    deadline: Deadline,
) -> Result<(proto::Request, Bytes)> {
    let limits = &caller.shared.limits;
    let longest = limits.max_message.saturating_add(HEAD);
    let mut messages = Messages::new(request.into_body(), longest, caller, deadline);
    let mut first: proto::Request = decode(messages.next().await?.ok_or_else(nothing)?)?;
    let mut payload = std::mem::take(&mut first.payload);
    let mut more = std::mem::take(&mut first.more);
    if first.encoded_len() > HEAD {
        let message = format!("what stands beside the payload is over {HEAD} bytes");
        return Err(refused(ErrorKind::TooLarge, message));
    }
    if !more {
        if !messages.reader.is_at_end() {
            return Err(invalid("the request has more than one message"));
        }
        check(payload.len(), limits)?;
        if payload.len() <= COPIED {
            payload = Bytes::copy_from_slice(&payload);
        }
        return Ok((first, messages.held.keep(payload)));
    }
    let mut all = caller.shared.spare.buffer();
    all.push(&payload);
    drop(payload);
    while more {
        let piece = messages.next().await?;
        let piece = piece.ok_or_else(|| invalid("the request ends before its last piece"))?;
        let piece: proto::Request = decode(piece)?;
        if piece.more && piece.payload.is_empty() {
            return Err(invalid("a piece has no payload"));
        }
        check(all.len().saturating_add(piece.payload.len()), limits)?;
        all.push(&piece.payload);
        more = piece.more;
    }
    Ok((first, messages.held.keep(all.freeze())))
}

fn check(len: usize, limits: &Limits) -> Result<()> {
    if len <= limits.max_message {
        return Ok(());
    }
    Err(too_large(len, limits.max_message, false))
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M> {
    let decoded = M::decode(message);
    decoded.map_err(|error| invalid(format!("the message is not what the service takes: {error}")))
}

fn nothing() -> Error {
    invalid("the request has no message")
}

fn invalid(message: impl Into<String>) -> Error {
    refused(ErrorKind::InvalidInput, message)
}

fn unread(error: Unreadable) -> Error {
    let (kind, hint) = match error {
        Unreadable::Compressed => (ErrorKind::Unsupported, ""),
        Unreadable::TooLong { .. } => {
            (ErrorKind::TooLarge, "; raise Limits::max_message, or a gateway's --max-message")
        }
    };
    refused(kind, format!("{error}{hint}"))
}
