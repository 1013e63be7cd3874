//! The host's handle on one worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use slipring::Payload;

use crate::convert::{self, Kind, Timeout, Trace};
use crate::error::exception;
use crate::outgoing::{Lent, Outgoing};
use crate::pending::Pending;
use crate::reply::Reply;
use crate::report::{ExitCause, Health};
use crate::shared::SharedChannel;
use crate::stream::Stream;
use crate::wait::{aside, on_interrupt};

/// The most bytes that the context of a trace takes of a frame.
pub(crate) const CONTEXT: usize = 32;

/// The host's handle on one worker. Threads share it.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Channel {
    channel: SharedChannel,
    /// Requests that wait for room in the ring, of threads that are not attached.
    waiting: Arc<AtomicUsize>,
}

impl Channel {
    pub(crate) fn new(channel: slipring::Channel) -> Self {
        Self::shared(SharedChannel::Threads(Arc::new(channel)))
    }

    /// Returns an object for a channel that others have, too.
    pub(crate) fn shared(channel: SharedChannel) -> Self {
        channel.on_interrupt(on_interrupt);
        Self { channel, waiting: Arc::default() }
    }

    /// Sends a payload with `send`, which blocks while the ring is full. While there is room it
    /// does not block, and the interpreter lock stays held.
    fn send<T: Send + 'static>(
        &self,
        py: Python<'_>,
        payload: Lent<'_>,
        send: impl FnOnce(&slipring::Channel, &dyn Payload) -> slipring::Result<T> + Send + 'static,
    ) -> PyResult<T> {
        let sent = if self.has_room(payload.encoded_len()) {
            send(&self.channel, &payload)
        } else {
            let (payload, channel) = (payload.detached(), self.channel.clone());
            let waiting = Waiting::begin(&self.waiting);
            aside(py, move || {
                let _waiting = waiting;
                send(&channel, &payload)
            })?
        };
        sent.map_err(|error| exception(py, &error))
    }

    /// Returns whether a request of `len` bytes is sent without a wait. Requests that are sent
    /// attached do not run beside each other, and if others wait for room, this one waits, too.
    fn has_room(&self, len: usize) -> bool {
        let config = self.channel.config();
        // One that does not fit a frame with the context of a trace may wait for others.
        if len > config.max_request_frame().saturating_sub(CONTEXT)
            || self.waiting.load(Ordering::Relaxed) > 0
        {
            return false;
        }
        // The longest frame never takes more than half of the ring, also with padding behind it.
        let used = self.channel.stats().request_ring_used;
        used <= u64::try_from(config.request_ring().capacity() / 4).unwrap_or(0)
            && len <= config.request_ring().capacity() / 4
    }
}

/// Counts a request that waits for room.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[pymethods]
impl Channel {
    #[pyo3(signature = (kind, payload = Outgoing::Empty, *, timeout = Timeout::NONE,
        traceparent = Trace::default()))]
    fn call(
        &self,
        py: Python<'_>,
        kind: Kind,
        payload: Lent<'_>,
        timeout: Timeout,
        traceparent: Trace,
    ) -> PyResult<Reply> {
        self.submit(py, kind, payload, timeout, traceparent)?.wait(py)
    }

    #[pyo3(signature = (kind, payload = Outgoing::Empty, *, timeout = Timeout::NONE,
        traceparent = Trace::default()))]
    fn submit(
        &self,
        py: Python<'_>,
        kind: Kind,
        payload: Lent<'_>,
        timeout: Timeout,
        traceparent: Trace,
    ) -> PyResult<Pending> {
        let pending = self.send(py, payload, move |channel, payload| match traceparent.0 {
            None => channel.submit(kind.0, payload, timeout.0),
            Some(trace) => channel.traced(&trace).submit(kind.0, payload, timeout.0),
        })?;
        Ok(Pending::new(&self.channel, pending))
    }

    #[pyo3(signature = (kind, payload = Outgoing::Empty, *, chunk_timeout = Timeout::seconds(300),
        first_chunk_timeout = None, queue_timeout = None, timeout = Timeout::NONE,
        traceparent = Trace::default()))]
    #[expect(clippy::too_many_arguments, reason = "Python passes them by name")]
    fn stream(
        &self,
        py: Python<'_>,
        kind: Kind,
        payload: Lent<'_>,
        chunk_timeout: Timeout,
        first_chunk_timeout: Option<Timeout>,
        queue_timeout: Option<Timeout>,
        timeout: Timeout,
        traceparent: Trace,
    ) -> PyResult<Stream> {
        let timeouts =
            convert::stream_timeouts(chunk_timeout, first_chunk_timeout, queue_timeout, timeout);
        let stream = self.send(py, payload, move |channel, payload| match traceparent.0 {
            None => channel.stream(kind.0, payload, timeouts),
            Some(trace) => channel.traced(&trace).stream(kind.0, payload, timeouts),
        })?;
        Ok(Stream::new(&self.channel, stream))
    }

    #[pyo3(signature = (*, timeout = Timeout::NONE))]
    fn wait_ready(&self, py: Python<'_>, timeout: Timeout) -> PyResult<()> {
        self.aside(py, move |channel| channel.wait_ready(timeout.0))
    }

    #[pyo3(signature = (*, timeout = Timeout::seconds(5)))]
    fn ping(&self, py: Python<'_>, timeout: Timeout) -> PyResult<Health> {
        self.aside(py, move |channel| channel.ping(timeout.0)).map(Health::new)
    }

    fn health(&self) -> Health {
        Health::new(self.channel.health())
    }

    fn cancel(&self, request: u64) {
        self.channel.cancel(request.into());
    }

    fn abort(&self) {
        self.channel.abort();
    }

    fn clear_abort(&self) {
        self.channel.clear_abort();
    }

    #[pyo3(signature = (*, timeout = Timeout::seconds(5)))]
    fn close(&self, py: Python<'_>, timeout: Timeout) -> PyResult<ExitCause> {
        self.aside(py, move |channel| channel.close(timeout.0)).map(ExitCause::new)
    }

    #[pyo3(signature = (*, timeout = Timeout::NONE))]
    fn wait_exit(&self, py: Python<'_>, timeout: Timeout) -> PyResult<ExitCause> {
        self.aside(py, move |channel| channel.wait_exit(timeout.0)).map(ExitCause::new)
    }

    #[getter]
    fn role(&self) -> &str {
        self.channel.role()
    }

    #[getter]
    fn pid(&self) -> u32 {
        self.channel.pid()
    }

    #[getter]
    fn is_alive(&self) -> bool {
        self.channel.is_alive()
    }

    #[getter]
    fn in_flight(&self) -> usize {
        self.channel.in_flight()
    }

    #[getter]
    fn exit_cause(&self) -> Option<ExitCause> {
        self.channel.exit_cause().map(ExitCause::new)
    }

    #[getter]
    fn log_path(&self) -> Option<String> {
        self.channel.log_path().map(|path| path.display().to_string())
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.close(py, Timeout::seconds(5)).map(drop)
    }

    fn __repr__(&self) -> String {
        let state = if self.channel.is_alive() { "open" } else { "over" };
        format!("<Channel to {} (pid {}): {state}>", self.channel.role(), self.channel.pid())
    }
}

impl Channel {
    fn aside<T: Send + 'static>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&slipring::Channel) -> slipring::Result<T> + Send + 'static,
    ) -> PyResult<T> {
        let channel = self.channel.clone();
        aside(py, move || work(&channel))?.map_err(|error| exception(py, &error))
    }
}
