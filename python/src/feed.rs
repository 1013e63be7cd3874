//! Requests that a thread takes for an event loop.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Wake;
use std::thread;

use pyo3::prelude::*;
use slipring::ErrorKind;
use slipring::worker::Inbox;

use crate::completions::{Completions, Token};
use crate::error::exception;
use crate::incoming_request::{Incoming, Names};
use crate::lock::lock;

/// Requests that a thread has taken for an event loop.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Feed {
    shared: Arc<Shared>,
    names: Option<Arc<Names>>,
}

struct Shared {
    taken: Mutex<VecDeque<slipring::worker::Incoming>>,
    /// Why no more are taken.
    end: Mutex<Option<slipring::Error>>,
    token: Arc<Token>,
}

impl Feed {
    /// Starts the thread, which ends with the inbox.
    pub(crate) fn start(
        inbox: &Arc<Inbox>,
        completions: &Completions,
        names: Option<Arc<Names>>,
    ) -> PyResult<Self> {
        let (taken, end, token) = (Mutex::default(), Mutex::new(None), Token::new(completions));
        let shared = Arc::new(Shared { taken, end, token });
        let (inbox, fed) = (Arc::clone(inbox), Arc::clone(&shared));
        let run = move || {
            loop {
                match inbox.recv() {
                    Ok(incoming) => lock(&fed.taken).push_back(incoming),
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => {
                        *lock(&fed.end) = Some(error);
                        fed.token.wake_by_ref();
                        return;
                    }
                }
                fed.token.wake_by_ref();
            }
        };
        thread::Builder::new().name("slipring-inbox".to_owned()).spawn(run)?;
        Ok(Self { shared, names })
    }
}

#[pymethods]
impl Feed {
    /// What the loop is told when requests have come.
    #[getter]
    fn token(&self) -> u64 {
        self.shared.token.number()
    }

    /// Returns the requests that have come. Raises `Closed` once no more can come.
    fn take(&self, py: Python<'_>) -> PyResult<Vec<Incoming>> {
        self.shared.token.begin_look();
        let end = lock(&self.shared.end).take();
        let taken = std::mem::take(&mut *lock(&self.shared.taken));
        if let Some(error) = end {
            return Err(exception(py, &error));
        }
        let mut incoming = Vec::new();
        for taken in taken {
            incoming.extend(Incoming::of(py, taken, self.names.as_deref())?);
        }
        Ok(incoming)
    }
}
