//! Shared memory that is reserved for an answer, and filled in place by any thread.

use crate::error::Result;
use crate::protocol::Kind;
use crate::ring::open_slot::OpenSlot;
use crate::worker::open_reply::OpenReply;

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
