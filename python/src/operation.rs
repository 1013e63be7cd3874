//! What a task of asyncio waits for: a future of the library, which the task's event loop polls.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use pyo3::prelude::*;
use pyo3::{IntoPyObject, IntoPyObjectExt};

use crate::completions::{Completions, Token};
use crate::error::{exception, misuse};
use crate::lock::lock;

/// Makes a Python object of what a future has found. Code of Python's runs in it.
type Outcome = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A future of the library, which an event loop or a thread polls.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Operation {
    state: Mutex<State>,
    token: Arc<Token>,
}

enum State {
    Running(Work),
    Ready(Outcome),
    /// It is polled or its outcome was taken, or nothing of it is wanted any more.
    Gone,
}

impl Operation {
    /// Makes an operation of a future, which is polled for the first time here. `make` makes what
    /// the task gets.
    pub(crate) fn start<T, R>(
        completions: &Completions,
        work: impl Future<Output = slipring::Result<T>> + Send + 'static,
        make: impl FnOnce(T) -> R + Send + 'static,
    ) -> Self
    where
        T: Send + 'static,
        R: for<'py> IntoPyObject<'py>,
    {
        let work = async move {
            let found = work.await;
            let outcome: Outcome = Box::new(move |py| match found {
                Ok(found) => make(found).into_py_any(py),
                Err(error) => Err(exception(py, &error)),
            });
            outcome
        };
        let state = Mutex::new(State::Running(Box::pin(work)));
        let operation = Self { state, token: Token::new(completions) };
        operation.poll();
        operation
    }

    fn replace(&self, state: State) -> State {
        std::mem::replace(&mut *lock(&self.state), state)
    }
}

/// What the task gets of an operation that has no result.
pub(crate) fn nothing((): ()) -> Option<bool> {
    None
}

#[pymethods]
impl Operation {
    /// What the loop is told when this is to be polled again.
    #[getter]
    fn token(&self) -> u64 {
        self.token.number()
    }

    #[getter]
    pub(crate) fn is_done(&self) -> bool {
        !matches!(*lock(&self.state), State::Running(_))
    }

    /// Polls the future, if it runs. Returns whether its outcome is there. No lock is held while it
    /// is polled.
    fn poll(&self) -> bool {
        let (state, is_done) = match self.replace(State::Gone) {
            State::Running(mut work) => {
                self.token.begin_look();
                let waker = Waker::from(Arc::clone(&self.token));
                match work.as_mut().poll(&mut Context::from_waker(&waker)) {
                    Poll::Ready(outcome) => (State::Ready(outcome), true),
                    Poll::Pending => (State::Running(work), false),
                }
            }
            State::Ready(outcome) => (State::Ready(outcome), true),
            State::Gone => return true,
        };
        self.replace(state);
        is_done
    }

    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.replace(State::Gone) {
            State::Ready(outcome) => outcome(py),
            State::Running(work) => {
                self.replace(State::Running(work));
                Err(misuse(py, "the operation has not ended"))
            }
            State::Gone => Err(misuse(py, "the operation's result was taken")),
        }
    }

    /// Gives the operation up. A request is cancelled.
    fn drop(&self) {
        self.replace(State::Gone);
    }
}
