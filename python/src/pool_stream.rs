//! The chunks of a request to a pool, for threads.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::chunks::Chunks;
use crate::polling::wait_for;
use crate::reply::Reply;

/// The chunks of a request to a pool, in order: an iterator. If it is forgotten, the stream is
/// cancelled.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct PoolStream(Chunks);

impl PoolStream {
    /// Waits until the request is sent.
    pub(crate) fn open(py: Python<'_>, chunks: Chunks) -> PyResult<Self> {
        let mut turn = chunks.turn(py)?;
        wait_for(py, turn.send())?;
        drop(turn);
        Ok(Self(chunks))
    }
}

#[pymethods]
impl PoolStream {
    #[getter]
    fn request(&self) -> Option<u64> {
        self.0.request()
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Reply>> {
        let chunk = wait_for(py, self.0.turn(py)?.next())?;
        Ok(chunk.map(Reply::new))
    }

    pub(crate) fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.0.cancel(py)
    }

    fn close(&self) {
        self.0.close();
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) {
        self.close();
    }

    fn __repr__(&self) -> String {
        match self.request() {
            Some(id) => format!("<PoolStream of request {id}>"),
            None => "<PoolStream of a request that is not sent>".to_owned(),
        }
    }
}
