//! A request whose payload is written bit by bit, without blocking.

use std::sync::Arc;
use std::time::Duration;

use crate::channel::{Ask, Core, PartialMessage, Pending};
use crate::error::Result;
use crate::id::RequestId;
use crate::protocol::Kind;
use crate::sys::clock::TimeLimit;
use crate::tasks::send::{long_message_turn, send_piece};
use crate::tasks::wait::{AsyncPending, with_status};

/// A request that is being written, from [`AsyncChannel::write`](crate::tasks::AsyncChannel::write).
/// Dropping it takes the request back.
#[derive(Debug)]
#[must_use = "a message that is not finished is taken back"]
pub struct AsyncMessageWriter<'a> {
    core: &'a Arc<Core>,
    message: PartialMessage<'a>,
    limit: TimeLimit,
    spin: Duration,
}

impl<'a> AsyncMessageWriter<'a> {
    pub(super) async fn begin(
        core: &'a Arc<Core>,
        kind: Kind,
        timeout: Duration,
        spin: Duration,
    ) -> Result<Self> {
        let limit = TimeLimit::begin(timeout);
        let deadline = limit.deadline();
        let begun = match long_message_turn(core, deadline).await {
            Ok(turn) => PartialMessage::new(core, Ask::call(kind, deadline), turn),
            Err(error) => Err(error),
        };
        match begun {
            Ok(message) => Ok(Self { core, message, limit, spin }),
            Err(error) => Err(core.counted(with_status(core, error, deadline).await)),
        }
    }

    /// Returns the request's id.
    #[must_use]
    pub fn id(&self) -> RequestId {
        RequestId::new(self.message.request())
    }

    /// Adds to the payload. Waits while the request ring is full, until the timeout of the
    /// request.
    ///
    /// Not cancel-safe: dropped before it is ready, an unknown part of `bytes` was added. Then
    /// drop the writer, which takes the request back.
    ///
    /// # Errors
    ///
    /// As [`MessageWriter::push`](crate::MessageWriter::push).
    pub async fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.message.check(bytes.len()).map_err(|error| self.core.counted(error))?;
        while self.message.fill(&mut bytes) {
            self.send(false).await?;
        }
        Ok(())
    }

    async fn send(&mut self, is_last: bool) -> Result<()> {
        let Self { core, message, limit, .. } = self;
        let deadline = limit.deadline();
        match send_piece(core, message, is_last, deadline).await {
            Err(error) => Err(core.counted(with_status(core, error, deadline).await)),
            sent => sent,
        }
    }

    /// Sends the rest and returns the pending reply. Waits as [`AsyncMessageWriter::push`] does.
    ///
    /// Cancel-safe: dropped before it is ready, the request is taken back.
    ///
    /// # Errors
    ///
    /// As [`AsyncMessageWriter::push`].
    pub async fn finish(mut self) -> Result<AsyncPending> {
        self.send(true).await?;
        let (core, sent) = (Arc::clone(self.core), self.message.sent());
        let pending = Pending::new(core, sent, self.limit);
        Ok(AsyncPending::new(pending, self.spin))
    }
}
