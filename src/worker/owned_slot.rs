//! Shared memory that is reserved for an answer, and filled in place by any thread.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::protocol::Kind;
use crate::ring::open_slot::OpenSlot;
use crate::ring::position::span;
use crate::sync::{AtomicU64, Ordering};
use crate::worker::open_reply::OpenReply;
use crate::worker::reply_sink::ReplyState;
use crate::worker::shared_sink::SharedSink;

/// Shared memory that is reserved for an answer;
/// [`OwnedResponder::claim`](super::OwnedResponder::claim) makes it.
#[derive(Debug)]
#[must_use = "a request whose slot is dropped ends with an error"]
pub struct OwnedSlot {
    /// `Some` until it is sent or given back.
    slot: Option<OpenSlot>,
    reply: OpenReply,
}

impl OwnedSlot {
    pub(super) fn new(slot: OpenSlot, reply: OpenReply) -> Self {
        Self { slot: Some(slot), reply }
    }

    /// Returns the bytes to fill. They hold what earlier replies left there, so that every one
    /// of them must be written. They start 32 bytes into a cache line.
    pub fn payload(&mut self) -> &mut [u8] {
        self.slot.as_mut().map_or(&mut [], OpenSlot::payload)
    }

    /// Shortens the payload to its first `len` bytes. Does nothing if it is not longer than that.
    pub fn truncate(&mut self, len: usize) {
        if let Some(slot) = &mut self.slot {
            slot.truncate(len, self.reply.state.header(Kind::VOID));
        }
    }

    /// Answers with the bytes. Never blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a forked child of the worker.
    pub fn send(mut self) -> Result<()> {
        let Some(slot) = self.slot.take() else { return Ok(()) };
        let OpenReply { sink, state } = &mut self.reply;
        let header = state.header(Kind::RESULT);
        sink.publish(state, slot, header)
    }
}

impl Drop for OwnedSlot {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            let OpenReply { sink, state } = &mut self.reply;
            sink.give_back(state, slot);
        }
    }
}

/// Shared memory that is reserved for one chunk of a stream;
/// [`OwnedResponder::claim_chunk`](super::OwnedResponder::claim_chunk) makes it.
///
/// It borrows nothing, and can be filled and sent by another thread. A chunk that is dropped is not
/// sent, and the stream goes on.
#[derive(Debug)]
#[must_use = "a chunk that is dropped is not sent"]
pub struct OwnedChunk {
    /// `Some` until it is sent or given back.
    slot: Option<OpenSlot>,
    sink: Arc<SharedSink>,
    state: ReplyState,
    outcome: Arc<AtomicU64>,
}

impl OwnedChunk {
    /// Returns the bytes to fill. They hold what earlier replies left there, so that every one
    /// of them must be written. They start 32 bytes into a cache line.
    pub fn payload(&mut self) -> &mut [u8] {
        self.slot.as_mut().map_or(&mut [], OpenSlot::payload)
    }

    /// Shortens the payload to its first `len` bytes. Does nothing if it is not longer than that.
    pub fn truncate(&mut self, len: usize) {
        if let Some(slot) = &mut self.slot {
            slot.truncate(len, self.state.header(Kind::VOID));
        }
    }

    /// Sends the chunk. Never blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a forked child of the worker.
    pub fn send(mut self) -> Result<()> {
        let Some(slot) = self.slot.take() else { return Ok(()) };
        let (bytes, header) = (span(slot.len()), self.state.header(Kind::CHUNK));
        self.sink.publish(&mut self.state, slot, header)?;
        self.outcome.store(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for OwnedChunk {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.sink.give_back(&mut self.state, slot);
            self.outcome.store(0, Ordering::Relaxed);
        }
    }
}

/// What became of the chunk that a responder has claimed last. One at a time is claimed: a wait for
/// the credit that another one holds might never end.
///
/// The word orders nothing. Frames are in the order in which their slots were claimed, whenever
/// these are published.
#[derive(Debug, Default)]
pub(super) struct LastChunk(Option<Arc<AtomicU64>>);

/// The chunk is neither sent nor dropped. Otherwise the word is how many bytes of slots were sent
/// and are not counted yet.
const CLAIMED: u64 = u64::MAX;

impl LastChunk {
    /// Counts what was sent.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if the chunk is neither sent nor dropped.
    pub(super) fn count(&self, state: &mut ReplyState) -> Result<()> {
        let Some(outcome) = &self.0 else { return Ok(()) };
        match outcome.load(Ordering::Relaxed) {
            CLAIMED => Err(is_claimed()),
            bytes => {
                outcome.store(0, Ordering::Relaxed);
                state.add_streamed(bytes);
                Ok(())
            }
        }
    }

    /// Makes a chunk of a slot. The last one must have been counted.
    pub(super) fn claim(
        &mut self,
        slot: OpenSlot,
        sink: &Arc<SharedSink>,
        request: u64,
    ) -> OwnedChunk {
        let outcome = self.0.get_or_insert_with(|| Arc::new(AtomicU64::new(0)));
        outcome.store(CLAIMED, Ordering::Relaxed);
        OwnedChunk {
            slot: Some(slot),
            sink: Arc::clone(sink),
            state: ReplyState::new(request),
            outcome: Arc::clone(outcome),
        }
    }
}

#[cold]
fn is_claimed() -> Error {
    let message = "a chunk of this stream is claimed, and neither sent nor dropped";
    Error::new(ErrorKind::InvalidInput, message)
}
