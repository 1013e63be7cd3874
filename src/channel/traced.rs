//! Requests of a channel that are part of a trace.

use std::sync::Arc;
use std::time::Duration;

use super::handle::Channel;
use super::message_writer::MessageWriter;
use super::outgoing::{RequestSpec, send_traced};
use super::pending_reply::{Awaited, Pending};
use super::reply::Reply;
use super::stream::Stream;
use super::stream_timeouts::{StreamDeadlines, StreamTimeouts};
use crate::error::Result;
use crate::id::RequestId;
use crate::payload::Payload;
use crate::protocol::Kind;
use crate::sys::clock::TimeLimit;
use crate::trace::span;
use crate::trace_context::TraceContext;

/// A channel whose requests are part of a trace: [`Channel::traced`] makes it, and has an example.
/// Cheap to make and to copy.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct TracedChannel<'a> {
    channel: &'a Channel,
    trace: &'a TraceContext,
}

impl Channel {
    /// Returns the same channel for requests that are part of a trace. The worker is told of the
    /// trace, by [`Request::trace_context`](crate::worker::Request::trace_context), without its
    /// `tracestate`. A worker with a version of this library that does not take traces gets the
    /// requests without them, and so does one whose frames have under 32 bytes.
    ///
    /// A context takes 32 bytes of the ring, which do not count as payload: neither against
    /// [`Config::max_message`](crate::Config::max_message) nor in counters and recordings. A
    /// payload that fits a frame by less than that is sent in pieces, as a longer one is.
    ///
    /// ```
    #[doc = include_str!("example.md")]
    /// let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    /// let trace = slipring::TraceContext::parse(text).expect("it is well formed");
    /// let reply = channel.traced(&trace).call(ECHO, "hello", timeout)?;
    /// assert_eq!(reply.text()?, "hello");
    /// # channel.close(timeout).map(drop) }
    /// ```
    pub fn traced<'a>(&'a self, trace: &'a TraceContext) -> TracedChannel<'a> {
        TracedChannel { channel: self, trace }
    }
}

impl<'a> TracedChannel<'a> {
    /// Sends a request and waits for its reply: as [`Channel::call`].
    ///
    /// # Errors
    ///
    /// As [`Channel::call`].
    pub fn call<P: Payload + ?Sized>(
        self,
        kind: Kind,
        payload: &P,
        timeout: Duration,
    ) -> Result<Reply> {
        self.call_numbered(kind, payload, timeout).1
    }

    /// As [`Channel::call_numbered`].
    pub(crate) fn call_numbered<P: Payload + ?Sized>(
        self,
        kind: Kind,
        payload: &P,
        timeout: Duration,
    ) -> (Option<RequestId>, Result<Reply>) {
        span!("call", %kind, bytes = payload.encoded_len());
        let (core, limit) = (self.channel.core(), TimeLimit::begin(timeout));
        let spec = RequestSpec::call(kind, limit.deadline());
        match send_traced(core, spec, self.trace, payload, limit.deadline()) {
            Ok(request) => {
                let reply = Awaited::new(&**core, request, limit).wait();
                (Some(RequestId::new(request)), reply)
            }
            Err(error) => (None, Err(error)),
        }
    }

    /// Sends a request whose reply is awaited later: as [`Channel::submit`].
    ///
    /// # Errors
    ///
    /// As [`Channel::submit`].
    pub fn submit<P: Payload + ?Sized>(
        self,
        kind: Kind,
        payload: &P,
        timeout: Duration,
    ) -> Result<Pending> {
        span!("submit", %kind, bytes = payload.encoded_len());
        let (core, limit) = (self.channel.core(), TimeLimit::begin(timeout));
        let spec = RequestSpec::call(kind, limit.deadline());
        let request = send_traced(core, spec, self.trace, payload, limit.deadline())?;
        Ok(Pending::new(Arc::clone(core), request, limit))
    }

    /// Sends a request and returns the stream of its chunks: as [`Channel::stream`].
    ///
    /// # Errors
    ///
    /// As [`Channel::stream`].
    pub fn stream<P: Payload + ?Sized>(
        self,
        kind: Kind,
        payload: &P,
        timeouts: impl Into<StreamTimeouts>,
    ) -> Result<Stream> {
        span!("stream", %kind, bytes = payload.encoded_len());
        self.stream_by(kind, payload, timeouts.into().start())
    }

    /// As [`Channel::stream_by`].
    pub(crate) fn stream_by<P: Payload + ?Sized>(
        self,
        kind: Kind,
        payload: &P,
        deadlines: StreamDeadlines,
    ) -> Result<Stream> {
        let (core, spec) = (self.channel.core(), RequestSpec::stream(kind, deadlines.end_by));
        let request = send_traced(core, spec, self.trace, payload, deadlines.send_by())
            .map_err(|error| deadlines.sending_failed(error))?;
        Ok(Stream::new(Arc::clone(core), request, deadlines))
    }

    /// Starts a request whose payload is written in parts: as [`Channel::write`].
    ///
    /// # Errors
    ///
    /// As [`Channel::write`].
    pub fn write(self, kind: Kind, timeout: Duration) -> Result<MessageWriter<'a>> {
        Ok(self.channel.write(kind, timeout)?.traced(self.trace))
    }
}
