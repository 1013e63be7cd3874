//! Requests that tasks make as a part of a trace.

use std::sync::Arc;
use std::time::Duration;

use crate::channel::{Core, Reply, StreamTimeouts};
use crate::error::Result;
use crate::payload::Payload;
use crate::protocol::Kind;
use crate::sys::clock::TimeLimit;
use crate::tasks::requests;
use crate::tasks::wait::{AsyncPending, AsyncStream};
use crate::tasks::writer::AsyncMessageWriter;
use crate::trace_context::TraceContext;

/// A channel whose requests are part of a trace, made by
/// [`AsyncChannel::traced`](crate::tasks::AsyncChannel::traced). Cheap to make and to copy.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct AsyncTracedChannel<'a> {
    core: &'a Arc<Core>,
    spin: Duration,
    trace: &'a TraceContext,
}

impl<'a> AsyncTracedChannel<'a> {
    pub(super) fn new(core: &'a Arc<Core>, spin: Duration, trace: &'a TraceContext) -> Self {
        Self { core, spin, trace }
    }

    /// Sends a request and awaits its reply: as `AsyncChannel::call`.
    ///
    /// Cancel-safe: dropped at any await, the request is cancelled.
    ///
    /// # Errors
    ///
    /// As [`Channel::call`](crate::Channel::call).
    pub async fn call<P: Payload + ?Sized>(
        self,
        kind: Kind,
        payload: &P,
        timeout: Duration,
    ) -> Result<Reply> {
        self.submit(kind, payload, timeout).await?.await
    }

    /// Sends a request whose reply is awaited later: as `AsyncChannel::submit`.
    ///
    /// Cancel-safe, as `AsyncChannel::submit`.
    ///
    /// # Errors
    ///
    /// As [`Channel::submit`](crate::Channel::submit).
    pub async fn submit<P: Payload + ?Sized>(
        self,
        kind: Kind,
        payload: &P,
        timeout: Duration,
    ) -> Result<AsyncPending> {
        let Self { core, spin, trace } = self;
        let limit = TimeLimit::begin(timeout);
        requests::submit(core, (kind, Some(trace)), payload, limit, spin, |_| {}).await
    }

    /// Sends a request and returns the stream of its chunks: as `AsyncChannel::stream`.
    ///
    /// Cancel-safe, as `AsyncChannel::submit`.
    ///
    /// # Errors
    ///
    /// As [`Channel::stream`](crate::Channel::stream).
    pub async fn stream<P: Payload + ?Sized>(
        self,
        kind: Kind,
        payload: &P,
        timeouts: impl Into<StreamTimeouts>,
    ) -> Result<AsyncStream> {
        let Self { core, spin, trace } = self;
        let deadlines = timeouts.into().start();
        requests::stream(core, (kind, Some(trace)), payload, deadlines, spin, |_| {}).await
    }

    /// Starts a request whose payload is written in parts: as `AsyncChannel::write`.
    ///
    /// Cancel-safe: dropped before it is ready, nothing was sent.
    ///
    /// # Errors
    ///
    /// As [`Channel::write`](crate::Channel::write).
    pub async fn write(self, kind: Kind, timeout: Duration) -> Result<AsyncMessageWriter<'a>> {
        let Self { core, spin, trace } = self;
        Ok(AsyncMessageWriter::begin(core, kind, timeout, spin).await?.traced(trace))
    }
}
