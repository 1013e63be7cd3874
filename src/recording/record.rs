//! The records of a recording.

use std::time::Duration;

use super::format::Head;
use crate::error::{ExitCause, HandlerFailure, Result};
use crate::id::RequestId;
use crate::protocol::kind::EXPIRED;
use crate::protocol::{Kind, failure};

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// How many records come before it.
    pub index: u64,
    /// How many records are missing right before it, because the file is damaged there.
    pub missing: u64,
    /// When it happened, from the begin of the recording on.
    pub at: Duration,
    /// What happened.
    pub event: Event,
}

/// What a record tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The host sent a frame of a request.
    Request(Frame),
    /// The host took a frame of the worker's out of the ring.
    Reply(Frame),
    /// The host asked the worker to cancel a request, or has dropped it before its end.
    Cancel(RequestId),
    /// The channel is over. Frames that come after this one were in the ring before.
    End(ChannelEnd),
    /// Frames were left out here, as there was no room for them in memory or in the file.
    Gap {
        /// How many.
        frames: u64,
        /// The bytes of their payloads.
        bytes: u64,
    },
}

/// A frame. A message that is longer than a frame comes in several ones.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame {
    /// The number of the request that it belongs to.
    pub request: RequestId,
    /// What it asks for, or what it answers: a `result`, a `stream chunk`, a `stream end`, an `error` or
    /// a `cancel`.
    pub kind: Kind,
    /// The request asks for a stream.
    pub is_stream: bool,
    /// More frames of the same message follow.
    pub has_more: bool,
    /// An earlier frame began the message.
    pub is_continued: bool,
    /// The host has given the message up in the middle.
    pub is_abandoned: bool,
    /// Of a request: how long it had until its deadline.
    pub time_left: Option<Duration>,
    /// The length of its payload in bytes.
    pub len: u32,
    /// What is kept of its payload.
    pub payload: FramePayload,
    pub(super) aux: u64,
}

/// What a recording keeps of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FramePayload {
    /// All bytes.
    Whole(Vec<u8>),
    /// Its hash: see [`RecordingReader::is_hash_of`](super::RecordingReader::is_hash_of).
    Hash([u8; 16]),
    /// Nothing: the recording keeps none, or it is too long.
    LeftOut,
}

/// What a frame of the worker's means for its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerKind {
    /// The reply of a call, or a part of it.
    Result,
    /// A chunk of a stream, or a part of it.
    Chunk,
    /// The end of a stream.
    End,
    /// The handler has failed.
    Failed,
    /// The request was cancelled.
    Cancelled,
    /// Its deadline had passed before the worker began it.
    Expired,
    /// Nothing: a slot that was given up.
    Nothing,
}

impl Frame {
    /// Returns what a frame of the worker's means; `None` for one that answers nothing.
    #[must_use]
    pub fn answer_kind(&self) -> Option<AnswerKind> {
        Some(match self.kind {
            Kind::RESULT => AnswerKind::Result,
            Kind::CHUNK => AnswerKind::Chunk,
            Kind::END => AnswerKind::End,
            Kind::ERROR => AnswerKind::Failed,
            Kind::CANCEL if self.aux == EXPIRED => AnswerKind::Expired,
            Kind::CANCEL => AnswerKind::Cancelled,
            Kind::VOID => AnswerKind::Nothing,
            _ => return None,
        })
    }

    /// Returns the failure that an `error` frame tells of, if its payload is whole.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol) if the payload is none of a failure.
    pub fn failure(&self) -> Result<Option<HandlerFailure>> {
        match &self.payload {
            FramePayload::Whole(bytes) if self.kind == Kind::ERROR => {
                failure::decode(bytes).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// Why a channel is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndKind {
    /// The host has closed or dropped it.
    Closed,
    /// The worker has died.
    Died,
    /// The worker wrote what cannot be, or had no session.
    Failed,
}

/// How a channel has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelEnd {
    /// Why it is over.
    pub kind: EndKind,
    /// How the worker ended; `None` if that was not known in time.
    pub cause: Option<ExitCause>,
    /// The same in words.
    pub message: String,
}

impl ChannelEnd {
    pub(super) fn read(head: &Head, text: &[u8]) -> Self {
        let [number, exit] = [head.aux & 0xffff_ffff, head.aux >> 32];
        let number = u32::try_from(number).unwrap_or(0).cast_signed();
        Self {
            kind: match head.kind {
                1 => EndKind::Closed,
                2 => EndKind::Died,
                _ => EndKind::Failed,
            },
            cause: match exit {
                1 => Some(ExitCause::Exited(number)),
                2 => Some(ExitCause::Signaled(number)),
                3 => Some(ExitCause::Unknown),
                _ => None,
            },
            message: String::from_utf8_lossy(text).into_owned(),
        }
    }
}
