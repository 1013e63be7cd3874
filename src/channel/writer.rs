//! A request whose payload is written bit by bit.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::channel::engine::Engine;
use crate::channel::reply::Pending;
use crate::channel::send::Pieces;
use crate::channel::timed::Loan;
use crate::error::{Error, Result};
use crate::protocol::Kind;
use crate::sys::clock::Deadline;

/// A request that is being written. Dropping it takes the request back.
#[derive(Debug)]
#[must_use = "a message that is not finished is taken back"]
pub struct MessageWriter<'a> {
    engine: &'a Arc<Engine>,
    pieces: Pieces,
    /// What does not fill a frame yet.
    buffer: Vec<u8>,
    timeout: Duration,
    deadline: Deadline,
    is_finished: bool,
    _turn: Loan<'a, ()>,
}

impl<'a> MessageWriter<'a> {
    pub(super) fn begin(engine: &'a Arc<Engine>, kind: Kind, timeout: Duration) -> Result<Self> {
        let deadline = Deadline::after(timeout);
        let told = |error| engine.life.with_status(error, deadline);
        let turn = engine.turn_to_write(deadline).map_err(told)?;
        let pieces = Pieces::new(engine.open(kind, 0, deadline).map_err(told)?);
        let buffer = Vec::with_capacity(engine.config.max_request());
        Ok(Self { engine, pieces, buffer, timeout, deadline, is_finished: false, _turn: turn })
    }

    /// The request's id.
    #[must_use]
    pub fn request(&self) -> u64 {
        self.pieces.request()
    }

    /// Adds to the payload. Blocks while the request ring is full.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) if the message gets longer than
    /// `max_message`: then nothing of `bytes` is added. `Timeout`, `Closed`, `PeerDied`,
    /// `PeerCorrupt`.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        let (cap, frame) = (self.engine.config.max_message(), self.engine.config.max_request());
        let len = (self.pieces.sent + self.buffer.len()).saturating_add(bytes.len());
        if len > cap {
            return Err(Error::too_large(len, cap, "raise max_message"));
        }
        while self.buffer.len() + bytes.len() > frame {
            let room = frame - self.buffer.len();
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.buffer.extend_from_slice(now);
            self.send(false)?;
            self.buffer.clear();
            bytes = later;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn send(&mut self, is_last: bool) -> Result<()> {
        let Self { engine, pieces, buffer, deadline, .. } = self;
        let sent = pieces.send(engine, buffer, is_last, *deadline);
        sent.map_err(|error| engine.life.with_status(error, *deadline))
    }

    /// Sends the rest and returns the pending reply. Blocks while the ring is full.
    ///
    /// # Errors
    ///
    /// As [`MessageWriter::push`].
    pub fn finish(mut self) -> Result<Pending> {
        self.send(true)?;
        self.is_finished = true;
        let (request, has_rung) = (self.pieces.request(), self.pieces.has_rung);
        let engine = Arc::clone(self.engine);
        Ok(Pending::new(engine, request, self.timeout, self.deadline, has_rung))
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

impl Drop for MessageWriter<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            self.pieces.abandon(self.engine);
        }
    }
}
