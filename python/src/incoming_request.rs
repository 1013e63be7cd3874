//! A request that was taken out of an inbox, and how it is answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use slipring::Kind;
use slipring::worker::{CancelToken, HandlerError, OwnedResponder};

use crate::answers::{self, Detached};
use crate::completions::Completions;
use crate::error::{exception, is_a, misuse};
use crate::lock::lock;
use crate::operation::{Operation, nothing};
use crate::outgoing::{Lent, Outgoing};
use crate::request::Request;
use crate::worker::described;

/// What the kinds of a worker are called.
pub(crate) type Names = HashMap<Kind, Py<PyAny>>;

/// A request that was taken, and the means to answer it. If it is forgotten, the request ends with
/// an error.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Incoming {
    #[pyo3(get)]
    request: Py<Request>,
    is_stream: bool,
    token: CancelToken,
    #[pyo3(get)]
    max_message: usize,
    answer: Arc<Mutex<Answer>>,
}

enum Answer {
    Open(Box<OwnedResponder>),
    /// A thread or a task sends, and has it meanwhile.
    InUse,
    Ended,
}

impl Incoming {
    /// Returns `None` for a request of a kind that is not one of these, which is told so. Without
    /// names, all kinds are called by their codes.
    pub(crate) fn of(
        py: Python<'_>,
        taken: slipring::worker::Incoming,
        names: Option<&Names>,
    ) -> PyResult<Option<Self>> {
        let slipring::worker::Incoming { request, responder } = taken;
        let name = match names {
            None => request.kind().code().into_pyobject(py)?.into_any().unbind(),
            Some(names) => match names.get(&request.kind()) {
                Some(name) => name.clone_ref(py),
                None => {
                    answers::refuse(responder, request.kind());
                    return Ok(None);
                }
            },
        };
        let (is_stream, max_message) = (responder.is_stream(), responder.max_message());
        let token = responder.cancel_token();
        let request = Py::new(py, Request::new(request, name))?;
        let answer = Arc::new(Mutex::new(Answer::Open(Box::new(responder))));
        Ok(Some(Self { request, is_stream, token, max_message, answer }))
    }

    /// Takes the responder, which is to be given back by `set`.
    fn borrow(&self, py: Python<'_>) -> PyResult<Box<OwnedResponder>> {
        let mut answer = lock(&self.answer);
        let (after, message) = match std::mem::replace(&mut *answer, Answer::InUse) {
            Answer::Open(responder) => return Ok(responder),
            Answer::InUse => (Answer::InUse, "another thread or task answers the request"),
            Answer::Ended => (Answer::Ended, "the request was answered"),
        };
        *answer = after;
        drop(answer);
        Err(misuse(py, message))
    }

    /// Takes the responder for the last answer. From now on the request is answered.
    fn take(&self, py: Python<'_>) -> PyResult<OwnedResponder> {
        let responder = self.borrow(py)?;
        self.set(Answer::Ended);
        Ok(*responder)
    }

    fn set(&self, after: Answer) {
        *lock(&self.answer) = after;
    }

    fn check_stream(&self, py: Python<'_>) -> PyResult<()> {
        match self.is_stream {
            true => Ok(()),
            false => Err(misuse(
                py,
                "the caller wants one reply: to get chunks, it has to call `stream`",
            )),
        }
    }
}

#[pymethods]
impl Incoming {
    fn begin(&self, py: Python<'_>) -> PyResult<()> {
        let mut responder = self.borrow(py)?;
        responder.begin();
        self.set(Answer::Open(responder));
        Ok(())
    }

    #[pyo3(signature = (payload = Outgoing::Empty))]
    fn send(&self, py: Python<'_>, payload: Lent<'_>) -> PyResult<()> {
        if self.is_stream {
            self.send_chunk(py, payload)?;
            return self.end(py);
        }
        let sent = answers::send(py, self.take(py)?, payload);
        sent.map_err(|error| exception(py, &error))
    }

    #[pyo3(signature = (payload = Outgoing::Empty))]
    fn send_chunk(&self, py: Python<'_>, payload: Lent<'_>) -> PyResult<()> {
        self.check_stream(py)?;
        let mut responder = self.borrow(py)?;
        let sent = answers::send_chunk(py, &mut responder, payload);
        self.set(Answer::Open(responder));
        sent.map_err(|error| exception(py, &error))
    }

    fn end(&self, py: Python<'_>) -> PyResult<()> {
        self.check_stream(py)?;
        self.take(py)?.end().map_err(|error| exception(py, &error))
    }

    fn fail(&self, py: Python<'_>, error: Bound<'_, PyAny>) -> PyResult<()> {
        let failure = PyErr::from_value(error);
        let told = match self.token.check() {
            Err(cancelled) if is_a(py, &failure, "Cancelled") => cancelled.into(),
            _ => described(py, &failure),
        };
        self.take(py)?.fail(told);
        Ok(())
    }

    /// Ends the request with an error that is told in words.
    fn fail_with(
        &self,
        py: Python<'_>,
        type_name: String,
        message: String,
        traceback: String,
    ) -> PyResult<()> {
        self.take(py)?.fail(HandlerError::new(type_name, message).with_backtrace(traceback));
        Ok(())
    }

    #[getter]
    fn is_open(&self) -> bool {
        !matches!(*lock(&self.answer), Answer::Ended)
    }

    /// Does what `send` does. Returns what is to be waited for, if there is something. If that is
    /// given up, the request ends with an error.
    fn start_send(
        &self,
        py: Python<'_>,
        completions: &Completions,
        payload: Lent<'_>,
    ) -> PyResult<Option<Operation>> {
        let tried = answers::try_send(self.take(py)?, payload);
        let left = tried.map_err(|error| exception(py, &error))?;
        Ok(left.map(|(responder, payload)| {
            let work = async move { responder.send_async(&payload).await };
            Operation::start(completions, work, nothing)
        }))
    }

    /// Does what `send_chunk` does. Returns what is to be waited for, if there is something. If that
    /// is given up, the stream can go on, unless the chunk is longer than a frame.
    fn start_send_chunk(
        &self,
        py: Python<'_>,
        completions: &Completions,
        payload: Lent<'_>,
    ) -> PyResult<Option<Operation>> {
        self.check_stream(py)?;
        let mut responder = self.borrow(py)?;
        let tried = answers::try_send_chunk(&mut responder, payload);
        let turn = Turn { answer: Arc::clone(&self.answer), responder: Some(responder) };
        let left = tried.map_err(|error| exception(py, &error))?;
        Ok(left.map(|payload| Operation::start(completions, turn.send_chunk(payload), nothing)))
    }

    /// Returns an operation that ends when the request is cancelled.
    fn start_watch(&self, py: Python<'_>, completions: &Completions) -> PyResult<Operation> {
        let responder = self.borrow(py)?;
        let cancelled = responder.cancelled();
        self.set(Answer::Open(responder));
        let work = async move {
            cancelled.await;
            Ok(())
        };
        Ok(Operation::start(completions, work, nothing))
    }

    fn __repr__(&self) -> String {
        let state = if self.is_open() { "open" } else { "answered" };
        format!("<Incoming request {}: {state}>", self.token.request())
    }
}

/// A task's turn to send a chunk. The responder is given back when this is dropped.
struct Turn {
    answer: Arc<Mutex<Answer>>,
    responder: Option<Box<OwnedResponder>>,
}

impl Turn {
    async fn send_chunk(mut self, payload: Detached) -> slipring::Result<()> {
        match &mut self.responder {
            Some(responder) => responder.send_chunk_async(&payload).await,
            None => Ok(()),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *lock(&self.answer) = self.responder.take().map_or(Answer::Ended, Answer::Open);
    }
}
