//! One request, in the worker.

use std::sync::{Arc, Mutex, Weak};

use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyList, PyString};
use slipring::PeerBytes;
use slipring::worker::{CancelToken, OwnedRequest};

use crate::buffer;
use crate::error::exception;
use crate::incoming;
use crate::lock::lock;

/// One request.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Request {
    request: Arc<KeptRequest>,
    token: CancelToken,
    len: usize,
    #[pyo3(get)]
    kind: Py<PyAny>,
    #[pyo3(get)]
    is_stream: bool,
}

/// A request that a Python object holds. Shared, so that no code of Python's runs under the lock.
pub(crate) struct KeptRequest(Mutex<Arc<OwnedRequest>>);

impl KeptRequest {
    fn get(&self) -> Arc<OwnedRequest> {
        Arc::clone(&lock(&self.0))
    }

    /// Copies the payload out of the ring.
    pub(crate) fn leave_ring(&self) {
        let mut request = lock(&self.0);
        if let Some(own) = Arc::get_mut(&mut request) {
            own.copy_payload();
        }
    }
}

impl Request {
    pub(crate) fn new(request: OwnedRequest, kind: Py<PyAny>) -> Self {
        let seen = request.get();
        let (token, len, is_stream) = (seen.cancel_token(), seen.len(), seen.is_stream());
        let request = Arc::new(KeptRequest(Mutex::new(Arc::new(request))));
        Self { request, token, len, kind, is_stream }
    }

    /// Returns what is there for as long as Python keeps the request.
    pub(crate) fn kept(&self) -> Weak<KeptRequest> {
        Arc::downgrade(&self.request)
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(PeerBytes<'_>) -> PyResult<T>) -> PyResult<T> {
        read(self.request.get().get().payload())
    }

    pub(crate) fn is_a_stream(&self) -> bool {
        self.is_stream
    }

    /// Returns the error of a request that is cancelled.
    pub(crate) fn cancelled(&self) -> Option<slipring::Error> {
        self.token.check().err()
    }
}

#[pymethods]
impl Request {
    #[getter]
    fn id(&self) -> u64 {
        self.token.request().get()
    }

    fn __len__(&self) -> usize {
        self.len
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.read(|payload| buffer::bytes(py, payload))
    }

    fn bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.__bytes__(py)
    }

    fn bytearray<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyByteArray>> {
        self.read(|payload| buffer::bytearray(py, payload))
    }

    fn text<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        self.read(|payload| incoming::text(py, payload))
    }

    fn texts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.read(|payload| incoming::texts(py, payload))
    }

    fn array<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.read(|payload| incoming::array(py, payload))
    }

    #[getter(cancelled)]
    fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    fn check_cancelled(&self, py: Python<'_>) -> PyResult<()> {
        self.token.check().map_err(|error| exception(py, &error))
    }

    #[getter]
    fn time_left(&self) -> f64 {
        let left = self.request.get().get().time_left();
        if left == std::time::Duration::MAX { f64::INFINITY } else { left.as_secs_f64() }
    }

    /// The trace that the request is part of, as a `traceparent`.
    #[getter]
    fn traceparent(&self) -> Option<String> {
        let trace = self.request.get().get().trace_context();
        trace.map(|trace| trace.to_string())
    }

    fn set_progress(&self, progress: u64) {
        self.request.get().get().set_progress(progress);
    }

    fn __repr__(&self) -> String {
        format!("<Request {}: {} bytes>", self.id(), self.len)
    }
}
