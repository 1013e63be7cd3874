//! A worker whose handlers are functions of Python.
//!
//! The thread that serves is attached, and takes one request at a time out of the inbox. It looks
//! for the next one as `wait.rs` says, and detaches to sleep.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyIterator};
use slipring::worker::{HandlerError, Inbox, Incoming, OwnedResponder, Worker};
use slipring::{ErrorKind, Kind, RoleConfig};

use crate::answers;
use crate::convert;
use crate::error::{exception, is_a, misuse};
use crate::lock::lock;
use crate::outgoing::Lent;
use crate::request::Request;
use crate::role::Role;
use crate::wait::{look_time, on_interrupt, released};

/// A handler, and what its requests are called.
struct Handler {
    name: Py<PyAny>,
    function: Py<PyAny>,
}

type Handlers = HashMap<Kind, Handler>;

/// The exception that has ended the worker.
pub(crate) type Raised = Arc<Mutex<Option<PyErr>>>;

#[pyfunction]
pub(crate) fn is_worker() -> bool {
    slipring::worker::is_worker()
}

/// Serves requests until the host says to end. `setup` is called with the role once the worker has
/// attached. `handlers` has a function for each kind.
#[pyfunction]
pub(crate) fn serve(
    py: Python<'_>,
    setup: Option<Py<PyAny>>,
    handlers: &Bound<'_, PyDict>,
) -> PyResult<()> {
    let mut by_kind = Handlers::new();
    for (name, function) in handlers {
        let kind = name.extract::<convert::Kind>()?.0;
        let handler = Handler { name: name.clone().unbind(), function: function.unbind() };
        if let Some(other) = by_kind.insert(kind, handler) {
            let message = format!("the kinds {} and {name} have the same code", other.name);
            return Err(pyo3::exceptions::PyValueError::new_err(message));
        }
    }
    let raised = Raised::default();
    let (in_setup, in_handler) = (Arc::clone(&raised), Arc::clone(&raised));
    let served = py.detach(move || {
        Worker::new(move |role| run_setup(setup.as_ref(), role, &in_setup))
            .max_taken(1)
            .on_interrupt(on_interrupt)
            .inbox(move |(), inbox| {
                Python::attach(|py| take_requests(py, inbox, &by_kind)).map_err(|end| {
                    let error = HandlerError::new("slipring.WorkerEnds", end.to_string());
                    keep(&in_handler, end);
                    error
                })
            })
            .serve()
    });
    ended_with(py, &raised, served)
}

/// Returns how a worker has ended: with an exception of its own code, or as the library says.
pub(crate) fn ended_with(
    py: Python<'_>,
    raised: &Raised,
    served: slipring::Result<()>,
) -> PyResult<()> {
    let raised = lock(raised).take();
    match (raised, served) {
        (Some(raised), _) => Err(raised),
        (None, served) => served.map_err(|error| exception(py, &error)),
    }
}

pub(crate) fn keep(raised: &Raised, exception: PyErr) {
    *lock(raised) = Some(exception);
}

pub(crate) fn run_setup(
    setup: Option<&Py<PyAny>>,
    role: &RoleConfig,
    raised: &Raised,
) -> Result<(), HandlerError> {
    let Some(setup) = setup else { return Ok(()) };
    Python::attach(|py| {
        setup.call1(py, (Role::new(role),)).map(drop).map_err(|failure| {
            let error = described(py, &failure);
            keep(raised, failure);
            error
        })
    })
}

/// Takes requests and serves them, until the worker is to end or a handler ends it.
fn take_requests(py: Python<'_>, inbox: &Inbox, handlers: &Handlers) -> PyResult<()> {
    let take = || -> slipring::Result<Incoming> {
        inbox.lease_payloads(true)?;
        match inbox.recv_timeout(look_time())? {
            Some(incoming) => Ok(incoming),
            None => released(py, || inbox.recv()),
        }
    };
    loop {
        match take() {
            Ok(incoming) => serve_one(py, incoming, handlers)?,
            Err(error) if error.kind() == ErrorKind::Closed => return Ok(()),
            Err(error) => return Err(exception(py, &error)),
        }
    }
}

/// Serves one request. Returns the exception of a handler that ends the worker: `SystemExit`,
/// `KeyboardInterrupt`.
fn serve_one(py: Python<'_>, incoming: Incoming, handlers: &Handlers) -> PyResult<()> {
    let Incoming { request, mut responder } = incoming;
    let Some(handler) = handlers.get(&request.kind()) else {
        answers::refuse(responder, request.kind());
        return Ok(());
    };
    responder.begin();
    let request = Bound::new(py, Request::new(request, handler.name.clone_ref(py)))?;
    let mut responder = Some(responder);
    let answered = answer(&request, &handler.function, &mut responder);
    let failed = answered.and_then(|sent| sent.map_err(|error| exception(py, &error)));
    let ends = match failed {
        Ok(()) => Ok(()),
        Err(failure) => fail(&request, responder, failure),
    };
    // A handler can keep its request, which must not hold the ring then.
    let kept = request.get().kept();
    drop(request);
    if let Some(kept) = kept.upgrade() {
        kept.leave_ring();
    }
    ends
}

/// Ends the request with an exception.
fn fail(
    request: &Bound<'_, Request>,
    responder: Option<OwnedResponder>,
    failure: PyErr,
) -> PyResult<()> {
    let py = request.py();
    let ends = !failure.is_instance_of::<pyo3::exceptions::PyException>(py);
    // An answer that failed on its way has ended the request with its error.
    if let Some(responder) = responder {
        match request.get().cancelled() {
            Some(cancelled) if is_a(py, &failure, "Cancelled") => responder.fail(cancelled),
            _ => responder.fail(described(py, &failure)),
        }
    }
    if ends { Err(failure) } else { Ok(()) }
}

/// Calls the handler and sends what it returns: chunks of an iterator, or one value. The outer
/// result is what code of Python's has raised, and the inner one the library's.
fn answer(
    request: &Bound<'_, Request>,
    function: &Py<PyAny>,
    responder: &mut Option<OwnedResponder>,
) -> PyResult<slipring::Result<()>> {
    let py = request.py();
    let result = function.bind(py).call1((request,))?;
    if let Ok(chunks) = result.cast::<PyIterator>() {
        if !request.get().is_a_stream() {
            let message = "the handler returns chunks, and the caller wants one reply: \
                it has to call `stream`";
            return Err(misuse(py, message));
        }
        for chunk in chunks {
            let chunk = chunk?.extract()?;
            if let Err(error) = send_chunk(py, responder, chunk) {
                return Ok(Err(error));
            }
        }
        return Ok(end(responder));
    }
    let payload = result.extract()?;
    if request.get().is_a_stream() {
        return Ok(send_chunk(py, responder, payload).and_then(|()| end(responder)));
    }
    Ok(responder.take().map_or(Ok(()), |responder| answers::send(py, responder, payload)))
}

fn send_chunk(
    py: Python<'_>,
    responder: &mut Option<OwnedResponder>,
    chunk: Lent<'_>,
) -> slipring::Result<()> {
    responder.as_mut().map_or(Ok(()), |responder| answers::send_chunk(py, responder, chunk))
}

fn end(responder: &mut Option<OwnedResponder>) -> slipring::Result<()> {
    responder.take().map_or(Ok(()), OwnedResponder::end)
}

/// Returns an exception as the host is told of it.
pub(crate) fn described(py: Python<'_>, failure: &PyErr) -> HandlerError {
    static DESCRIBE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let described = DESCRIBE.import(py, "slipring._errors", "describe").and_then(|describe| {
        // With the traceback, which the exception itself may not have yet.
        describe.call1((failure.clone_ref(py).into_value(py),))?.extract::<(
            String,
            String,
            String,
            Vec<String>,
        )>()
    });
    match described {
        Ok((class, message, traceback, sources)) => sources
            .into_iter()
            .fold(HandlerError::new(class, message), HandlerError::with_source)
            .with_backtrace(traceback),
        // The exception's own code has failed.
        Err(_) => HandlerError::new("Exception", "an exception that cannot be described"),
    }
}
