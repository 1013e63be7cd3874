//! A request whose payload is written in parts.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::channel::core::Core;
use crate::channel::outgoing::{Outgoing, RequestSpec, failed, long_message_turn};
use crate::channel::pending_reply::Pending;
use crate::channel::timed_mutex::TimedGuard;
use crate::channel::turn::check_open;
use crate::channel::wait::wait_for_room;
use crate::error::{Error, Result};
use crate::id::RequestId;
use crate::payload::Encoded;
use crate::protocol::{Kind, splitter};
use crate::sys::clock::TimeLimit;
use crate::trace_context::TraceContext;

/// A request that is being written, from [`Channel::write`](crate::Channel::write). Dropping it
/// cancels the request.
///
/// ```
#[doc = include_str!("example.md")]
/// let mut writer = channel.write(ECHO, timeout)?;
/// writer.push(b"in ")?;
/// writer.push(b"parts")?;
/// let reply = writer.finish()?.wait()?;
/// assert_eq!(reply.to_vec(), b"in parts");
/// # channel.close(timeout)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a message that is not finished is cancelled"]
pub struct MessageWriter<'a> {
    pub(crate) core: &'a Arc<Core>,
    outgoing: Outgoing<'a>,
    /// What does not fill a frame yet.
    bytes: Vec<u8>,
    /// The trace that the request is part of, until the worker is told of it.
    trace: Option<TraceContext>,
    pub(crate) limit: TimeLimit,
}

impl<'a> MessageWriter<'a> {
    pub(super) fn begin(core: &'a Arc<Core>, kind: Kind, timeout: Duration) -> Result<Self> {
        let limit = TimeLimit::begin(timeout);
        let begun = long_message_turn(core, limit.deadline())
            .and_then(|turn| Self::new(core, kind, turn, limit));
        begun.map_err(|error| failed(core, error, limit.deadline()))
    }

    pub(crate) fn new(
        core: &'a Arc<Core>,
        kind: Kind,
        turn: TimedGuard<'a, ()>,
        limit: TimeLimit,
    ) -> Result<Self> {
        let outgoing = Outgoing::open(core, RequestSpec::call(kind, limit.deadline()), Some(turn))?;
        let bytes = Vec::with_capacity(core.config.max_request_frame());
        Ok(Self { core, outgoing, bytes, trace: None, limit })
    }

    /// Says which trace the request is part of. Nothing may be sent yet.
    pub(crate) fn traced(mut self, trace: &TraceContext) -> Self {
        self.trace = self.core.takes_traces().then(|| trace.clone());
        self
    }

    /// Returns the request's id.
    #[must_use]
    pub fn id(&self) -> RequestId {
        RequestId::new(self.outgoing.request())
    }

    /// Adds to the payload. Blocks while the request ring is full, until the timeout of the
    /// request.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`] if the message gets longer than
    /// [`max_message`](crate::Config::max_message): then nothing of `bytes` is added.
    /// [`ErrorKind::Timeout`] if the ring stays full; [`ErrorKind::Interrupted`] if a hook ends the
    /// wait for room, see [`Channel::on_interrupt`](crate::Channel::on_interrupt);
    /// [`ErrorKind::Closed`], [`ErrorKind::PeerDied`], [`ErrorKind::PeerCorrupt`],
    /// [`ErrorKind::Forked`] if the channel is over; [`ErrorKind::Session`] if that is because the
    /// session could not be built.
    ///
    /// After an error other than [`ErrorKind::TooLarge`] it is not known how much of `bytes` was
    /// added: drop the writer then.
    ///
    /// [`ErrorKind::TooLarge`]: crate::ErrorKind::TooLarge
    /// [`ErrorKind::Timeout`]: crate::ErrorKind::Timeout
    /// [`ErrorKind::Interrupted`]: crate::ErrorKind::Interrupted
    /// [`ErrorKind::Closed`]: crate::ErrorKind::Closed
    /// [`ErrorKind::PeerDied`]: crate::ErrorKind::PeerDied
    /// [`ErrorKind::PeerCorrupt`]: crate::ErrorKind::PeerCorrupt
    /// [`ErrorKind::Forked`]: crate::ErrorKind::Forked
    /// [`ErrorKind::Session`]: crate::ErrorKind::Session
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while self.fill(&mut bytes)? {
            self.send(true)?;
        }
        Ok(())
    }

    /// Moves bytes to the next piece. Returns true if the piece is full and more bytes are to
    /// follow it: then it must be sent first.
    pub(crate) fn fill(&mut self, bytes: &mut &[u8]) -> Result<bool> {
        let len = self.outgoing.sent_len() + self.bytes.len();
        let checked = self.core.check_len(len.saturating_add(bytes.len()));
        checked.map_err(|error| self.core.counted(error))?;
        Ok(splitter::fill(&mut self.bytes, self.core.config.max_request_frame(), bytes))
    }

    fn send(&mut self, has_more: bool) -> Result<()> {
        let (core, deadline) = (self.core, self.limit.deadline());
        let mut send = || {
            while let Some(len) = self.advance(has_more)? {
                wait_for_room(core, len, deadline).map_err(|error| self.ended_by(error))?;
            }
            Ok(())
        };
        send().map_err(|error| failed(core, error, deadline))
    }

    /// Sends the next piece if there is room. Returns for how many bytes there is none.
    pub(crate) fn advance(&mut self, has_more: bool) -> Result<Option<usize>> {
        // It may have been begun before a fork, or before the end.
        check_open(self.core).map_err(|error| self.ended_by(error))?;
        if let Some(trace) = &self.trace {
            if let Some(room) = self.outgoing.advance_context(trace)? {
                return Ok(Some(room));
            }
            self.trace = None;
        }
        let piece = Encoded::Whole(&self.bytes);
        let no_room = self.outgoing.advance(&piece, self.bytes.len(), has_more)?;
        if no_room.is_none() {
            self.bytes.clear();
        }
        Ok(no_room)
    }

    /// Adds to an error whether the worker has begun the request.
    pub(crate) fn ended_by(&self, error: Error) -> Error {
        self.outgoing.ended_by(error)
    }

    /// Sends the rest and returns the pending reply. Blocks as [`MessageWriter::push`] does.
    ///
    /// # Errors
    ///
    /// As [`MessageWriter::push`], except for `TooLarge`. The request is cancelled.
    pub fn finish(mut self) -> Result<Pending> {
        self.send(false)?;
        Ok(self.sent())
    }

    /// Returns the pending reply of a message that is sent.
    pub(crate) fn sent(self) -> Pending {
        let request = self.outgoing.request();
        Pending::new(Arc::clone(self.core), request, self.limit)
    }
}

impl io::Write for MessageWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes)?;
        Ok(bytes.len())
    }

    /// Does nothing: a frame goes out when it is full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
