//! A request whose payload is written in parts, without blocking.

use std::sync::Arc;
use std::time::Duration;

use crate::channel::{Core, MessageWriter};
use crate::error::Result;
use crate::id::RequestId;
use crate::protocol::Kind;
use crate::sys::clock::TimeLimit;
use crate::tasks::send::{long_message_turn, wait_for_room};
use crate::tasks::wait::{AsyncPending, with_exit_status};
use crate::trace_context::TraceContext;

/// A request that is being written; [`AsyncChannel::write`](crate::tasks::AsyncChannel::write)
/// makes it. Dropping it cancels the request.
#[derive(Debug)]
#[must_use = "a message that is not finished is cancelled"]
pub struct AsyncMessageWriter<'a> {
    writer: MessageWriter<'a>,
    spin: Duration,
}

impl<'a> AsyncMessageWriter<'a> {
    pub(crate) async fn begin(
        core: &'a Arc<Core>,
        kind: Kind,
        timeout: Duration,
        spin: Duration,
    ) -> Result<Self> {
        let limit = TimeLimit::begin(timeout);
        let deadline = limit.deadline();
        let begin = async {
            let turn = long_message_turn(core, deadline).await?;
            MessageWriter::new(core, kind, turn, limit)
        };
        let begun = with_exit_status(core, deadline, begin).await;
        Ok(Self { writer: begun.map_err(|error| core.counted(error))?, spin })
    }

    /// As [`MessageWriter::traced`].
    pub(crate) fn traced(mut self, trace: &TraceContext) -> Self {
        self.writer = self.writer.traced(trace);
        self
    }

    /// Returns the request's id.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.writer.id()
    }

    /// Adds to the payload. Waits while the request ring is full, until the timeout of the
    /// request.
    ///
    /// Not cancel-safe: dropped before it is ready, an unknown part of `bytes` was added. Then
    /// drop the writer, which cancels the request.
    ///
    /// # Errors
    ///
    /// As [`MessageWriter::push`](crate::MessageWriter::push).
    pub async fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while self.writer.fill(&mut bytes)? {
            self.send(true).await?;
        }
        Ok(())
    }

    async fn send(&mut self, has_more: bool) -> Result<()> {
        let (core, deadline) = (self.writer.core, self.writer.limit.deadline());
        let send = async {
            while let Some(len) = self.writer.advance(has_more)? {
                let waited = wait_for_room(core, len, deadline).await;
                waited.map_err(|error| self.writer.ended_by(error))?;
            }
            Ok(())
        };
        with_exit_status(core, deadline, send).await.map_err(|error| core.counted(error))
    }

    /// Sends the rest and returns the pending reply. Waits as [`AsyncMessageWriter::push`] does.
    ///
    /// Cancel-safe: dropped before it is ready, the request is cancelled.
    ///
    /// # Errors
    ///
    /// As [`AsyncMessageWriter::push`].
    pub async fn finish(mut self) -> Result<AsyncPending> {
        self.send(false).await?;
        Ok(AsyncPending::new(self.writer.sent(), self.spin))
    }
}
