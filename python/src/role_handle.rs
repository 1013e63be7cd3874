//! What sends requests to the workers of one role of a pool.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyList;
use slipring::{Payload, StreamTimeouts, TraceContext};

use crate::chunks::{Chunks, Owner, Sent, TaskStream};
use crate::convert::{self, Kind, Timeout, Trace};
use crate::error::exception;
use crate::outgoing::{Lent, Outgoing};
use crate::polling::wait_for;
use crate::pool_pending::PoolPending;
use crate::pool_report::{RoleHealth, RoleMetrics};
use crate::pool_settings::PoolRole;
use crate::pool_stream::PoolStream;
use crate::reply::Reply;
use crate::report::Health;
use crate::wait::{aside, is_main_thread};

/// Sends requests to the workers of one role of a pool. Threads share it.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct RoleHandle {
    role: slipring::pool::RoleHandle,
}

/// How many bytes are copied at most with the interpreter lock held, which takes some microseconds.
const COPIED_ATTACHED: usize = 64 << 10;

/// What a request has besides its payload and its timeout.
#[derive(Clone)]
struct Options {
    kind: slipring::Kind,
    priority: slipring::pool::Priority,
    key: Option<u64>,
    is_idempotent: Option<bool>,
    trace: Option<TraceContext>,
}

/// Sets the options of a request of threads or of tasks.
macro_rules! request {
    ($role:expr, $options:expr) => {{
        let options: &Options = &$options;
        let mut request = $role.request(options.kind).priority(options.priority);
        if let Some(key) = options.key {
            request = request.key(key);
        }
        if let Some(is_idempotent) = options.is_idempotent {
            request = request.idempotent(is_idempotent);
        }
        if let Some(trace) = &options.trace {
            request = request.trace(trace);
        }
        request
    }};
}

impl Options {
    fn new(
        kind: Kind,
        priority: Priority,
        key: Option<Key>,
        is_idempotent: Option<bool>,
        Trace(trace): Trace,
    ) -> Self {
        let key = key.map(|key| key.0);
        Self { kind: kind.0, priority: priority.0, key, is_idempotent, trace }
    }
}

/// A priority, by its name.
struct Priority(slipring::pool::Priority);

impl Priority {
    const NORMAL: Self = Self(slipring::pool::Priority::Normal);
}

impl FromPyObject<'_, '_> for Priority {
    type Error = PyErr;

    fn extract(name: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        Ok(Self(match name.extract()? {
            "high" => slipring::pool::Priority::High,
            "normal" => slipring::pool::Priority::Normal,
            "low" => slipring::pool::Priority::Low,
            other => {
                let message = format!("a priority is 'high', 'normal' or 'low', not {other:?}");
                return Err(PyValueError::new_err(message));
            }
        }))
    }
}

/// The hash of an object, which stands for it.
struct Key(u64);

impl FromPyObject<'_, '_> for Key {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let hash = i64::try_from(object.hash()?).unwrap_or(0);
        Ok(Self(u64::from_ne_bytes(hash.to_ne_bytes())))
    }
}

#[derive(FromPyObject)]
enum Cancellable<'py> {
    Pending(Bound<'py, PoolPending>),
    Stream(Bound<'py, PoolStream>),
}

impl RoleHandle {
    pub(crate) fn new(role: slipring::pool::RoleHandle) -> Self {
        Self { role }
    }

    /// Makes a stream, which the first wait for a chunk sends.
    fn chunks(
        &self,
        py: Python<'_>,
        payload: &Lent<'_>,
        timeouts: StreamTimeouts,
        options: Options,
    ) -> PyResult<Chunks> {
        let mut bytes = vec![0; payload.encoded_len()];
        payload.encode(&mut bytes).map_err(|error| exception(py, &error))?;
        let role = self.role.to_async();
        let sending = async move {
            let stream = request!(role, options).stream(bytes.as_slice(), timeouts).await?;
            Ok(Sent::Pool(Box::new(stream)))
        };
        Ok(Chunks::sending(Owner::Role(self.role.clone()), Box::pin(sending)))
    }
}

#[pymethods]
impl RoleHandle {
    #[pyo3(signature = (kind, payload = Outgoing::Empty, *, timeout = Timeout::NONE,
        priority = Priority::NORMAL, key = None, idempotent = None,
        traceparent = Trace::default()))]
    #[expect(clippy::too_many_arguments, reason = "Python passes them by name")]
    fn call(
        &self,
        py: Python<'_>,
        kind: Kind,
        payload: Lent<'_>,
        timeout: Timeout,
        priority: Priority,
        key: Option<Key>,
        idempotent: Option<bool>,
        traceparent: Trace,
    ) -> PyResult<Reply> {
        let options = Options::new(kind, priority, key, idempotent, traceparent);
        let payload = payload.detached();
        let reply = if is_main_thread(py)? {
            // It looks for signals while it waits, so that it waits as a task does. If a signal
            // handler raises an exception, the request is cancelled with this.
            let role = self.role.to_async();
            let call = async move { request!(role, options).call(&payload, timeout.0).await };
            wait_for(py, call)?
        } else {
            let role = self.role.clone();
            py.detach(move || request!(role, options).call(&payload, timeout.0))
                .map_err(|error| exception(py, &error))?
        };
        Ok(Reply::new(reply.detach()))
    }

    #[pyo3(signature = (kind, payload = Outgoing::Empty, *, timeout = Timeout::NONE,
        priority = Priority::NORMAL, key = None, idempotent = None,
        traceparent = Trace::default()))]
    #[expect(clippy::too_many_arguments, reason = "Python passes them by name")]
    fn submit(
        &self,
        py: Python<'_>,
        kind: Kind,
        payload: Lent<'_>,
        timeout: Timeout,
        priority: Priority,
        key: Option<Key>,
        idempotent: Option<bool>,
        traceparent: Trace,
    ) -> PyResult<PoolPending> {
        let options = Options::new(kind, priority, key, idempotent, traceparent);
        let sent = if payload.encoded_len() <= COPIED_ATTACHED {
            request!(self.role, options).submit(&payload, timeout.0)
        } else {
            let (payload, role) = (payload.detached(), self.role.clone());
            py.detach(move || request!(role, options).submit(&payload, timeout.0))
        };
        let pending = sent.map_err(|error| exception(py, &error))?;
        Ok(PoolPending::new(&self.role, pending))
    }

    #[pyo3(signature = (kind, payload = Outgoing::Empty, *, chunk_timeout = Timeout::seconds(300),
        first_chunk_timeout = None, queue_timeout = None, timeout = Timeout::NONE,
        priority = Priority::NORMAL, key = None, idempotent = None,
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
        priority: Priority,
        key: Option<Key>,
        idempotent: Option<bool>,
        traceparent: Trace,
    ) -> PyResult<PoolStream> {
        let options = Options::new(kind, priority, key, idempotent, traceparent);
        let timeouts =
            convert::stream_timeouts(chunk_timeout, first_chunk_timeout, queue_timeout, timeout);
        PoolStream::open(py, self.chunks(py, &payload, timeouts, options)?)
    }

    /// As `stream`, for tasks: the first wait for a chunk sends the request.
    #[pyo3(signature = (kind, payload = Outgoing::Empty, *, chunk_timeout = Timeout::seconds(300),
        first_chunk_timeout = None, queue_timeout = None, timeout = Timeout::NONE,
        priority = Priority::NORMAL, key = None, idempotent = None,
        traceparent = Trace::default()))]
    #[expect(clippy::too_many_arguments, reason = "Python passes them by name")]
    fn start_stream(
        &self,
        py: Python<'_>,
        kind: Kind,
        payload: Lent<'_>,
        chunk_timeout: Timeout,
        first_chunk_timeout: Option<Timeout>,
        queue_timeout: Option<Timeout>,
        timeout: Timeout,
        priority: Priority,
        key: Option<Key>,
        idempotent: Option<bool>,
        traceparent: Trace,
    ) -> PyResult<TaskStream> {
        let options = Options::new(kind, priority, key, idempotent, traceparent);
        let timeouts =
            convert::stream_timeouts(chunk_timeout, first_chunk_timeout, queue_timeout, timeout);
        self.chunks(py, &payload, timeouts, options).map(TaskStream)
    }

    #[pyo3(signature = (*, timeout = Timeout::seconds(5)))]
    fn ping<'py>(&self, py: Python<'py>, timeout: Timeout) -> PyResult<Bound<'py, PyList>> {
        let role = self.role.clone();
        let list = PyList::empty(py);
        for report in aside(py, move || role.ping(timeout.0))? {
            match report {
                Ok(health) => list.append(Bound::new(py, Health::new(health))?)?,
                Err(error) => list.append(exception(py, &error).into_value(py))?,
            }
        }
        Ok(list)
    }

    /// Cancels a request that was submitted, or a stream.
    #[staticmethod]
    fn cancel(py: Python<'_>, request: Cancellable<'_>) -> PyResult<()> {
        match request {
            Cancellable::Pending(pending) => pending.get().cancel(py),
            Cancellable::Stream(stream) => stream.get().cancel(py),
        }
    }

    fn abort(&self) {
        self.role.abort();
    }

    fn clear_abort(&self) {
        self.role.clear_abort();
    }

    fn reload(&self, py: Python<'_>, role: &PoolRole) -> PyResult<()> {
        let (handle, role) = (self.role.clone(), role.role());
        py.detach(move || handle.reload(role)).map_err(|error| exception(py, &error))
    }

    fn reset(&self) {
        self.role.reset();
    }

    fn health(&self, py: Python<'_>) -> PyResult<RoleHealth> {
        RoleHealth::new(py, py.detach(|| self.role.health()))
    }

    fn metrics(&self, py: Python<'_>) -> PyResult<RoleMetrics> {
        RoleMetrics::new(py, py.detach(|| self.role.metrics()))
    }

    #[getter]
    fn name(&self) -> &str {
        self.role.name()
    }

    fn __repr__(&self) -> String {
        format!("<RoleHandle of {}>", self.role.name())
    }
}
