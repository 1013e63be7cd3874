//! A request whose payload is written bit by bit.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::channel::core::{Core, Sent};
use crate::channel::outgoing::{Ask, long_message_turn, open, take_back, try_send, wait_for_room};
use crate::channel::pending_reply::Pending;
use crate::channel::timed_mutex::TimedGuard;
use crate::error::Result;
use crate::id::RequestId;
use crate::protocol::Kind;
use crate::protocol::chunker::PieceBuffer;
use crate::sys::clock::TimeLimit;
use crate::sys::copy::copy_from_slice;

/// A message of which pieces are in the ring. Dropping it before its last piece was sent takes
/// the request back.
#[derive(Debug)]
pub(crate) struct PartialMessage<'a> {
    core: &'a Arc<Core>,
    buffer: PieceBuffer,
    has_rung: bool,
    is_sent: bool,
    _turn: TimedGuard<'a, ()>,
}

impl<'a> PartialMessage<'a> {
    pub(crate) fn new(core: &'a Arc<Core>, ask: Ask, turn: TimedGuard<'a, ()>) -> Result<Self> {
        let header = open(core, ask)?;
        let config = &core.config;
        let buffer = PieceBuffer::new(header, config.max_request(), config.max_message());
        Ok(Self { core, buffer, has_rung: false, is_sent: false, _turn: turn })
    }

    pub(crate) fn request(&self) -> u64 {
        self.buffer.chunker().request()
    }

    /// As [`PieceBuffer::check`].
    pub(crate) fn check(&self, more: usize) -> Result<()> {
        self.buffer.check(more)
    }

    /// As [`PieceBuffer::fill`].
    pub(crate) fn fill(&mut self, bytes: &mut &[u8]) -> bool {
        self.buffer.fill(bytes)
    }

    /// Length of the next piece, in bytes.
    pub(crate) fn piece_len(&self) -> usize {
        self.buffer.piece(false).bytes.len()
    }

    /// Sends the next piece if there is room. Returns whether it was sent.
    pub(crate) fn try_send(&mut self, is_last: bool) -> Result<bool> {
        let piece = self.buffer.piece(is_last);
        let fill = |slot: &mut [u8]| {
            copy_from_slice(slot, piece.bytes);
            Ok(())
        };
        let Some(has_rung) = try_send(self.core, piece.header, piece.bytes.len(), fill)? else {
            return Ok(false);
        };
        self.buffer.piece_sent();
        self.has_rung = has_rung;
        self.is_sent = is_last;
        Ok(true)
    }

    pub(crate) fn sent(&self) -> Sent {
        Sent { request: self.request(), has_rung: self.has_rung }
    }
}

impl Drop for PartialMessage<'_> {
    fn drop(&mut self) {
        if !self.is_sent {
            take_back(self.core, self.buffer.chunker());
        }
    }
}

/// A request that is being written, from [`Channel::write`](crate::Channel::write). Dropping it
/// takes the request back.
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
#[must_use = "a message that is not finished is taken back"]
pub struct MessageWriter<'a> {
    message: PartialMessage<'a>,
    limit: TimeLimit,
}

impl<'a> MessageWriter<'a> {
    pub(super) fn begin(core: &'a Arc<Core>, kind: Kind, timeout: Duration) -> Result<Self> {
        let limit = TimeLimit::begin(timeout);
        let deadline = limit.deadline();
        let begun = long_message_turn(core, deadline)
            .and_then(|turn| PartialMessage::new(core, Ask::call(kind, deadline), turn));
        let told = |error| core.counted(core.state.with_status(error, deadline));
        Ok(Self { message: begun.map_err(told)?, limit })
    }

    /// Returns the request's id.
    #[must_use]
    pub fn id(&self) -> RequestId {
        RequestId::new(self.message.request())
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
        self.message.check(bytes.len()).map_err(|error| self.message.core.counted(error))?;
        while self.message.fill(&mut bytes) {
            self.send(false)?;
        }
        Ok(())
    }

    fn send(&mut self, is_last: bool) -> Result<()> {
        let Self { message, limit } = self;
        let (core, deadline) = (message.core, limit.deadline());
        let sent = loop {
            match message.try_send(is_last) {
                Ok(true) => break Ok(()),
                Ok(false) => {
                    if let Err(error) = wait_for_room(core, message.piece_len(), deadline) {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        sent.map_err(|error| core.counted(core.state.with_status(error, deadline)))
    }

    /// Sends the rest and returns the pending reply. Blocks as [`MessageWriter::push`] does.
    ///
    /// # Errors
    ///
    /// As [`MessageWriter::push`], except for `TooLarge`. The request is taken back.
    pub fn finish(mut self) -> Result<Pending> {
        self.send(true)?;
        let core = Arc::clone(self.message.core);
        Ok(Pending::new(core, self.message.sent(), self.limit))
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
