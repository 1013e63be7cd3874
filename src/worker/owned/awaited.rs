//! Answers of tasks: they wait without blocking a thread.

use std::iter::Peekable;

use super::OwnedResponder;
use crate::error::Result;
use crate::payload::Payload;
use crate::protocol::Kind;
use crate::ring::position::span;
use crate::worker::open_reply::OpenReply;
use crate::worker::owned_slot::{OwnedChunk, OwnedSlot};
use crate::worker::shared_sink::chunks;
use crate::worker::shared_sink::task_waits::{self, Cancelled};

/// The same for tasks: these wait without blocking a thread.
impl OwnedResponder {
    /// Does the same as [`OwnedResponder::send`], and waits without blocking a thread.
    ///
    /// Dropped before it is ready, the request ends with an error.
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::send`].
    pub async fn send_async<P: Payload + ?Sized>(mut self, payload: &P) -> Result<()> {
        self.reply.begin_answer()?;
        let OpenReply { sink, state } = &mut self.reply;
        let sent = task_waits::send_message(sink, state, Kind::RESULT, payload).await;
        self.reply.fail_with(sent)
    }

    /// Does the same as [`OwnedResponder::claim`], and waits without blocking a thread. Between
    /// this and [`OwnedSlot::send`] there should be no `await`.
    ///
    /// Dropped before it is ready, the request ends with an error.
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::claim`].
    pub async fn claim_async(mut self, len: usize) -> Result<OwnedSlot> {
        self.reply.begin_answer()?;
        let slot = task_waits::open(&self.reply.sink, self.reply.state.request(), len).await;
        let slot = self.reply.fail_with(slot)?;
        Ok(OwnedSlot::new(slot, self.reply))
    }

    /// Does the same as [`OwnedResponder::send_chunk`], and waits without blocking a thread. A
    /// stream whose reader does not read holds up no other.
    ///
    /// Cancel-safe if the chunk fits one frame: dropped before it is ready, nothing was sent, and
    /// the stream can be continued. A longer chunk, of which a part may have been sent, then ends
    /// its request with an error.
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::send_chunk`].
    pub async fn send_chunk_async<P: Payload + ?Sized>(&mut self, payload: &P) -> Result<()> {
        self.begin_chunk()?;
        task_waits::send_message(&self.reply.sink, &mut self.reply.state, Kind::CHUNK, payload)
            .await
    }

    /// Does the same as [`OwnedResponder::send_all`], and waits without blocking a thread.
    ///
    /// Cancel-safe if each chunk fits one frame. A chunk leaves the iterator once it is sent: if this
    /// is dropped before it is ready, the iterator stands at the first chunk that was not sent, and
    /// the stream can be continued with it. A longer chunk, of which a part may have been sent, then
    /// ends its request with an error. After an error the iterator stands there, too; if that chunk is
    /// longer than a frame a part of it may have been sent, so that the request must be ended.
    ///
    /// ```
    /// # use slipring::{Result, worker::OwnedResponder};
    /// # async fn send(mut responder: OwnedResponder, text: &str) -> Result<()> {
    /// responder.send_all_async(&mut text.lines().peekable()).await?;
    /// responder.end()
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::send_all`].
    pub async fn send_all_async<P: Payload, I: Iterator<Item = P>>(
        &mut self,
        chunks: &mut Peekable<I>,
    ) -> Result<()> {
        self.begin_chunk()?;
        chunks::send_all_async(&self.reply.sink, &mut self.reply.state, chunks).await
    }

    /// Does the same as [`OwnedResponder::claim_chunk`], and waits without blocking a thread.
    /// Between this and [`OwnedChunk::send`] there should be no `await`.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::claim_chunk`].
    pub async fn claim_chunk_async(&mut self, len: usize) -> Result<OwnedChunk> {
        let OpenReply { sink, state } = self.begin_claim(len)?;
        task_waits::credit(sink, state, span(len)).await?;
        let slot = task_waits::open(sink, state.request(), len).await?;
        Ok(self.chunk(slot))
    }

    /// Returns a future that is ready when the work for the request should stop: when it is
    /// cancelled, or dropped by its caller, the channel is aborted, or the worker is told to end.
    /// It borrows nothing and can be awaited beside the work, or by another task. Once the request
    /// is answered, only an abort or the end of the worker makes it ready.
    ///
    /// Cancel-safe.
    pub fn cancelled(&self) -> Cancelled {
        task_waits::cancelled(&self.reply.sink, self.reply.state.request())
    }
}
