//! What is asked of a gateway beside requests to workers.

use std::time::Duration;

use prost::Message;
use slipring::Result;
use tokio::time::timeout;

use super::connection::Connection;
use super::exchange::Exchange;
use crate::proto;
use crate::wire::error::{malformed, not_whole, timed_out};
use crate::wire::message::Pieces;

/// The longest message about a gateway. Its parts can be some hundred times as long in memory.
const LONGEST_MESSAGE: usize = 1 << 20;

/// What a gateway says of itself: from [`Connection::watch`].
pub struct Watching(Exchange);

impl Watching {
    /// Waits for what the gateway says next; `None` when it ends. It says something at least once
    /// a second.
    ///
    /// Cancel-safe: nothing is lost.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Disconnected`](slipring::ErrorKind::Disconnected).
    pub async fn next(&mut self) -> Result<Option<proto::GatewayStatus>> {
        let message = self.0.message().await?;
        message.map(|message| decode(message, self.0.was_begun())).transpose()
    }
}

impl std::fmt::Debug for Watching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watching").field(&self.0.shared().peer).finish()
    }
}

impl Connection {
    /// Asks the gateway to say what it serves, and how full it is, from now on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Disconnected`](slipring::ErrorKind::Disconnected).
    pub async fn watch(&self) -> Result<Watching> {
        Ok(Watching(self.ask("Watch", Duration::MAX, &proto::WatchRequest {}).await?))
    }

    /// Asks each worker of a role for a report: those that answer within `longest`.
    ///
    /// # Errors
    ///
    /// If the gateway does not answer, or has no such role.
    pub async fn ping(&self, role: &str, longest: Duration) -> Result<proto::PingReply> {
        self.asked("Ping", longest, &proto::PingRequest { role: role.to_owned() }).await
    }

    /// Sets the abort flag of each worker of a role.
    ///
    /// # Errors
    ///
    /// As [`Connection::ping`].
    pub async fn abort(&self, role: &str, longest: Duration) -> Result<()> {
        let request = proto::AbortRequest { role: role.to_owned() };
        let proto::AbortReply {} = self.asked("Abort", longest, &request).await?;
        Ok(())
    }

    /// Resets the abort flag of each worker of a role.
    ///
    /// # Errors
    ///
    /// As [`Connection::ping`].
    pub async fn clear_abort(&self, role: &str, longest: Duration) -> Result<()> {
        let request = proto::ClearAbortRequest { role: role.to_owned() };
        let proto::ClearAbortReply {} = self.asked("ClearAbort", longest, &request).await?;
        Ok(())
    }

    async fn ask(
        &self,
        method: &str,
        longest: Duration,
        request: &impl Message,
    ) -> Result<Exchange> {
        let pieces = Pieces::of_message(request);
        Exchange::begin(self.shared(), method, longest, pieces, None, None, LONGEST_MESSAGE).await
    }

    async fn asked<R: Message + Default>(
        &self,
        method: &str,
        longest: Duration,
        request: &impl Message,
    ) -> Result<R> {
        let asked = timeout(longest, async {
            let mut exchange = self.ask(method, longest, request).await?;
            let first = exchange.message().await?.ok_or_else(|| not_whole(self.peer()))?;
            decode(first, exchange.was_begun())
        });
        asked.await.unwrap_or_else(|_| Err(timed_out(self.peer(), longest, None)))
    }
}

fn decode<M: Message + Default>(message: bytes::Bytes, was_begun: Option<bool>) -> Result<M> {
    M::decode(message).map_err(|error| malformed(&error, was_begun))
}
