//! The host's handle on one worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::prelude::*;
use slipring::{Payload, StreamTimeouts};

use crate::convert;
use crate::error::exception;
use crate::kept::KeptReplies;
use crate::outgoing::Outgoing;
use crate::pending::Pending;
use crate::reply::Reply;
use crate::report::{ExitCause, Health};
use crate::shared::SharedChannel;
use crate::stream::Stream;
use crate::wait::{aside, run_signal_handlers};

/// The host's handle on one worker. Threads share it.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Channel {
    channel: SharedChannel,
    replies: Arc<KeptReplies>,
    /// Requests that wait for room in the ring, of threads that are not attached.
    waiting: Arc<AtomicUsize>,
}

impl Channel {
    pub(crate) fn new(channel: slipring::Channel) -> Self {
        let replies = Arc::new(KeptReplies::new(channel.config().reply_ring().capacity()));
        Self::shared(SharedChannel::Threads(Arc::new(channel)), &replies)
    }

    /// Returns an object for a channel that others have, too.
    pub(crate) fn shared(channel: SharedChannel, replies: &Arc<KeptReplies>) -> Self {
        channel.on_interrupt(run_signal_handlers);
        Self { channel, replies: Arc::clone(replies), waiting: Arc::default() }
    }

    /// Sends a payload with `send`, which blocks while the ring is full. While there is room it
    /// does not block, and the interpreter lock stays held.
    fn send<T: Send + 'static>(
        &self,
        py: Python<'_>,
        payload: &Bound<'_, PyAny>,
        send: impl FnOnce(&slipring::Channel, &dyn Payload) -> slipring::Result<T> + Send + 'static,
    ) -> PyResult<T> {
        let payload = Outgoing::of(payload)?;
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
        if len > config.max_request_frame() || self.waiting.load(Ordering::Relaxed) > 0 {
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
    #[pyo3(signature = (kind, payload = None, *, timeout = None))]
    fn call(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        payload: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<Reply> {
        self.submit(py, kind, payload, timeout)?.wait(py)
    }

    #[pyo3(signature = (kind, payload = None, *, timeout = None))]
    fn submit(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        payload: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<Pending> {
        let (kind, timeout) = (convert::kind(kind)?, convert::timeout(timeout)?);
        let none = py.None();
        let payload = payload.unwrap_or(none.bind(py));
        let pending =
            self.send(py, payload, move |channel, payload| channel.submit(kind, payload, timeout))?;
        Ok(Pending::new(&self.channel, &self.replies, pending))
    }

    #[pyo3(signature = (kind, payload = None, *, chunk_timeout = 300.0, first_chunk_timeout = None,
        queue_timeout = None, timeout = None))]
    #[expect(clippy::too_many_arguments, reason = "Python passes them by name")]
    fn stream(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        payload: Option<&Bound<'_, PyAny>>,
        chunk_timeout: Option<f64>,
        first_chunk_timeout: Option<f64>,
        queue_timeout: Option<f64>,
        timeout: Option<f64>,
    ) -> PyResult<Stream> {
        let kind = convert::kind(kind)?;
        let mut timeouts = StreamTimeouts::new()
            .chunk(convert::timeout(chunk_timeout)?)
            .total(convert::timeout(timeout)?);
        if first_chunk_timeout.is_some() {
            timeouts = timeouts.first_chunk(convert::timeout(first_chunk_timeout)?);
        }
        if queue_timeout.is_some() {
            timeouts = timeouts.queue(convert::timeout(queue_timeout)?);
        }
        let none = py.None();
        let payload = payload.unwrap_or(none.bind(py));
        let stream = self
            .send(py, payload, move |channel, payload| channel.stream(kind, payload, timeouts))?;
        Ok(Stream::new(&self.channel, &self.replies, stream))
    }

    #[pyo3(signature = (*, timeout = None))]
    fn wait_ready(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let timeout = convert::timeout(timeout)?;
        self.aside(py, move |channel| channel.wait_ready(timeout))
    }

    #[pyo3(signature = (*, timeout = 5.0))]
    fn ping(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Health> {
        let timeout = convert::timeout(timeout)?;
        self.aside(py, move |channel| channel.ping(timeout)).map(Health::new)
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

    #[pyo3(signature = (*, timeout = 5.0))]
    fn close(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<ExitCause> {
        let timeout = convert::timeout(timeout)?;
        self.aside(py, move |channel| channel.close(timeout)).map(ExitCause::new)
    }

    #[pyo3(signature = (*, timeout = None))]
    fn wait_exit(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<ExitCause> {
        let timeout = convert::timeout(timeout)?;
        self.aside(py, move |channel| channel.wait_exit(timeout)).map(ExitCause::new)
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

    fn __exit__(
        &self,
        py: Python<'_>,
        _type: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.close(py, Some(5.0)).map(drop)
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
