//! What sends requests to the workers of one role of a pool.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyList;
use slipring::pool::Priority;
use slipring::{Kind, Payload, StreamTimeouts};

use crate::convert;
use crate::error::exception;
use crate::kept::KeptReplies;
use crate::outgoing::Outgoing;
use crate::polling::poll_for;
use crate::pool_pending::PoolPending;
use crate::pool_report::{RoleHealth, RoleMetrics};
use crate::pool_settings::PoolRole;
use crate::pool_stream::PoolStream;
use crate::reply::Reply;
use crate::report::Health;
use crate::wait::{aside, is_main_thread, wait};

/// Sends requests to the workers of one role of a pool. Threads share it.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct RoleHandle {
    role: slipring::pool::RoleHandle,
    replies: Arc<KeptReplies>,
}

/// How many bytes are copied at most with the interpreter lock held, which takes some microseconds.
const COPIED_ATTACHED: usize = 64 << 10;

/// What a request has besides its payload and its timeout.
#[derive(Clone, Copy)]
struct Options {
    kind: Kind,
    priority: Priority,
    key: Option<u64>,
    is_idempotent: Option<bool>,
}

#[derive(FromPyObject)]
enum Cancellable<'py> {
    Pending(Bound<'py, PoolPending>),
    Stream(Bound<'py, PoolStream>),
}

impl Options {
    fn of(
        kind: &Bound<'_, PyAny>,
        priority: &str,
        key: Option<&Bound<'_, PyAny>>,
        is_idempotent: Option<bool>,
    ) -> PyResult<Self> {
        let priority = match priority {
            "high" => Priority::High,
            "normal" => Priority::Normal,
            "low" => Priority::Low,
            other => {
                let message = format!("a priority is 'high', 'normal' or 'low', not {other:?}");
                return Err(PyValueError::new_err(message));
            }
        };
        let key = key.map(|key| key.hash()).transpose()?;
        let key =
            key.map(|hash| u64::from_ne_bytes(i64::try_from(hash).unwrap_or(0).to_ne_bytes()));
        Ok(Self { kind: convert::kind(kind)?, priority, key, is_idempotent })
    }

    fn request(self, role: &slipring::pool::RoleHandle) -> slipring::pool::PoolRequest<'_> {
        let mut request = role.request(self.kind).priority(self.priority);
        if let Some(key) = self.key {
            request = request.key(key);
        }
        if let Some(is_idempotent) = self.is_idempotent {
            request = request.idempotent(is_idempotent);
        }
        request
    }

    fn async_request(
        self,
        role: &slipring::pool::AsyncRoleHandle,
    ) -> slipring::pool::AsyncPoolRequest<'_> {
        let mut request = role.request(self.kind).priority(self.priority);
        if let Some(key) = self.key {
            request = request.key(key);
        }
        if let Some(is_idempotent) = self.is_idempotent {
            request = request.idempotent(is_idempotent);
        }
        request
    }
}

impl RoleHandle {
    pub(crate) fn new(role: slipring::pool::RoleHandle) -> Self {
        // The replies of a pool lie outside of the rings.
        Self { role, replies: Arc::new(KeptReplies::new(0)) }
    }

    fn send(
        &self,
        payload: Option<&Bound<'_, PyAny>>,
        py: Python<'_>,
        timeout: Duration,
        options: Options,
    ) -> PyResult<PoolPending> {
        let none = py.None();
        let payload = Outgoing::of(payload.unwrap_or(none.bind(py)))?;
        let sent = if payload.encoded_len() <= COPIED_ATTACHED {
            options.request(&self.role).submit(&payload, timeout)
        } else {
            let (payload, role) = (payload.detached(), self.role.clone());
            py.detach(move || options.request(&role).submit(&payload, timeout))
        };
        let pending = sent.map_err(|error| exception(py, &error))?;
        Ok(PoolPending::new(&self.role, &self.replies, pending))
    }
}

#[pymethods]
impl RoleHandle {
    #[pyo3(signature = (kind, payload = None, *, timeout = None, priority = "normal", key = None,
        idempotent = None))]
    #[expect(clippy::too_many_arguments, reason = "Python passes them by name")]
    fn call(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        payload: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
        priority: &str,
        key: Option<&Bound<'_, PyAny>>,
        idempotent: Option<bool>,
    ) -> PyResult<Reply> {
        let (options, timeout) =
            (Options::of(kind, priority, key, idempotent)?, convert::timeout(timeout)?);
        let none = py.None();
        let payload = Outgoing::of(payload.unwrap_or(none.bind(py)))?.detached();
        let reply = if is_main_thread(py)? {
            // It looks for signals while it waits, so that it waits as a task does. If a signal
            // handler raises an exception, the request is cancelled with this.
            let role = self.role.to_async();
            let mut call =
                Box::pin(async move { options.async_request(&role).call(&payload, timeout).await });
            wait(py, |longest| {
                poll_for(longest, |context| call.as_mut().poll(context)).transpose()
            })?
        } else {
            let role = self.role.clone();
            py.detach(move || options.request(&role).call(&payload, timeout))
                .map_err(|error| exception(py, &error))?
        };
        Ok(Reply::new(&self.replies, reply.detach()))
    }

    #[pyo3(signature = (kind, payload = None, *, timeout = None, priority = "normal", key = None,
        idempotent = None))]
    #[expect(clippy::too_many_arguments, reason = "Python passes them by name")]
    fn submit(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        payload: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
        priority: &str,
        key: Option<&Bound<'_, PyAny>>,
        idempotent: Option<bool>,
    ) -> PyResult<PoolPending> {
        let options = Options::of(kind, priority, key, idempotent)?;
        self.send(payload, py, convert::timeout(timeout)?, options)
    }

    #[pyo3(signature = (kind, payload = None, *, chunk_timeout = 300.0, first_chunk_timeout = None,
        queue_timeout = None, timeout = None, priority = "normal", key = None, idempotent = None))]
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
        priority: &str,
        key: Option<&Bound<'_, PyAny>>,
        idempotent: Option<bool>,
    ) -> PyResult<PoolStream> {
        let stream = self.begin_stream(
            py,
            kind,
            payload,
            chunk_timeout,
            first_chunk_timeout,
            queue_timeout,
            timeout,
            priority,
            key,
            idempotent,
        )?;
        stream.open(py)?;
        Ok(stream)
    }

    /// As `stream`, without a wait until the request is sent.
    #[pyo3(signature = (kind, payload = None, *, chunk_timeout = 300.0, first_chunk_timeout = None,
        queue_timeout = None, timeout = None, priority = "normal", key = None, idempotent = None))]
    #[expect(clippy::too_many_arguments, reason = "Python passes them by name")]
    fn begin_stream(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        payload: Option<&Bound<'_, PyAny>>,
        chunk_timeout: Option<f64>,
        first_chunk_timeout: Option<f64>,
        queue_timeout: Option<f64>,
        timeout: Option<f64>,
        priority: &str,
        key: Option<&Bound<'_, PyAny>>,
        idempotent: Option<bool>,
    ) -> PyResult<PoolStream> {
        let options = Options::of(kind, priority, key, idempotent)?;
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
        let payload = Outgoing::of(payload.unwrap_or(none.bind(py)))?;
        let mut bytes = vec![0; payload.encoded_len()];
        payload.encode(&mut bytes).map_err(|error| exception(py, &error))?;
        let role = self.role.to_async();
        let opening = Box::pin(async move {
            options.async_request(&role).stream(bytes.as_slice(), timeouts).await
        });
        Ok(PoolStream::new(&self.role, &self.replies, opening))
    }

    #[pyo3(signature = (*, timeout = 5.0))]
    fn ping<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyList>> {
        let timeout = convert::timeout(timeout)?;
        let role = self.role.clone();
        let list = PyList::empty(py);
        for report in aside(py, move || role.ping(timeout))? {
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
