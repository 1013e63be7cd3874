//! A worker whose requests are taken and answered later: by a loop that batches, or by tasks of
//! asyncio.

use std::collections::HashMap;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use slipring::worker::{HandlerError, Worker};

use crate::convert::Kind;
use crate::error::is_a;
use crate::inbox::Inbox;
use crate::incoming_request::Names;
use crate::wait::on_interrupt;
use crate::worker::{Raised, described, ended_with, keep, run_setup};

/// Serves requests until the host says to end. `setup` is called with the role once the worker has
/// attached, and then `body` with the inbox.
#[pyfunction]
pub(crate) fn serve_inbox(
    py: Python<'_>,
    setup: Option<Py<PyAny>>,
    body: Py<PyAny>,
    kinds: Option<Vec<Bound<'_, PyAny>>>,
    max_taken: Option<usize>,
    abort_flag: &AbortFlag,
) -> PyResult<()> {
    let names = kinds.map(names).transpose()?;
    let raised = Raised::default();
    let (in_setup, in_body) = (Arc::clone(&raised), Arc::clone(&raised));
    let abort_flag = abort_flag.0.clone();
    let served = py.detach(move || {
        let mut worker = Worker::new(move |role| run_setup(setup.as_ref(), role, &in_setup))
            .abort_flag(&abort_flag)
            .on_interrupt(on_interrupt);
        if let Some(most) = max_taken {
            worker = worker.max_taken(most);
        }
        let run = move |inbox: &Arc<slipring::worker::Inbox>| {
            let inbox = Inbox::new(inbox, names);
            Python::attach(|py| run_body(py, &body, inbox, &in_body))
        };
        worker.inbox(move |(), inbox| run(inbox)).serve()
    });
    ended_with(py, &raised, served)
}

/// Runs the program's own loop. To raise `Closed` is to return, at the end of the worker.
fn run_body(
    py: Python<'_>,
    body: &Py<PyAny>,
    inbox: Inbox,
    raised: &Raised,
) -> Result<(), HandlerError> {
    match body.call1(py, (inbox,)) {
        Ok(_) => Ok(()),
        Err(failure) if is_a(py, &failure, "Closed") => Ok(()),
        Err(failure) => {
            let error = described(py, &failure);
            keep(raised, failure);
            Err(error)
        }
    }
}

/// Returns the kinds by their codes.
fn names(kinds: Vec<Bound<'_, PyAny>>) -> PyResult<Arc<Names>> {
    let mut names = HashMap::new();
    for name in kinds {
        if let Some(other) = names.insert(name.extract::<Kind>()?.0, name.clone().unbind()) {
            let message = format!("the kinds {other} and {name} have the same code");
            return Err(PyValueError::new_err(message));
        }
    }
    Ok(Arc::new(names))
}

/// Tells whether the host has set the abort flag, without a request at hand.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct AbortFlag(slipring::worker::AbortFlag);

#[pymethods]
impl AbortFlag {
    #[new]
    fn new() -> Self {
        Self(slipring::worker::AbortFlag::new())
    }

    fn is_set(&self) -> bool {
        self.0.is_set()
    }
}
