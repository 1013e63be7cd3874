//! How futures of the library that have something new are told to an event loop or a thread.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use pyo3::prelude::*;

use crate::convert;

/// The tokens of futures that are to be polled again. Threads of the library add them without the
/// interpreter lock. An event loop watches the descriptor, or one thread waits.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Completions(Arc<Shared>);

struct Shared {
    tokens: Mutex<Vec<u64>>,
    changed: Condvar,
    /// Readable while there are tokens; `None` if a thread waits for them.
    bell: Option<(UnixStream, UnixStream)>,
}

impl Completions {
    /// Returns what adds this token when it is woken.
    pub(crate) fn waker(&self, token: u64) -> Waker {
        Waker::from(Arc::new(Token { shared: Arc::clone(&self.0), token }))
    }
}

#[pymethods]
impl Completions {
    #[new]
    #[pyo3(signature = (*, has_descriptor = false))]
    fn new(has_descriptor: bool) -> PyResult<Self> {
        let bell = has_descriptor.then(UnixStream::pair).transpose()?;
        if let Some((reader, writer)) = &bell {
            reader.set_nonblocking(true)?;
            writer.set_nonblocking(true)?;
        }
        let (tokens, changed) = (Mutex::default(), Condvar::new());
        Ok(Self(Arc::new(Shared { tokens, changed, bell })))
    }

    fn fileno(&self) -> i32 {
        self.0.bell.as_ref().map_or(-1, |(reader, _)| reader.as_raw_fd())
    }

    fn add(&self, token: u64) {
        self.0.add(token);
    }

    /// Takes all tokens, without a wait.
    fn take(&self) -> Vec<u64> {
        if let Some((reader, _)) = &self.0.bell {
            let mut bytes = [0; 64];
            // Before the tokens are taken: one that comes between rings again.
            while matches!((&mut &*reader).read(&mut bytes), Ok(1..)) {}
        }
        std::mem::take(&mut self.0.lock())
    }

    /// Waits until there are tokens, for so many seconds at most, and takes them. Not for the main
    /// thread, whose signal handlers would wait.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Vec<u64>> {
        let timeout = convert::timeout(timeout)?;
        let shared = Arc::clone(&self.0);
        Ok(py.detach(move || {
            let guard = shared.lock();
            let is_empty = |tokens: &mut Vec<u64>| tokens.is_empty();
            let waited = shared.changed.wait_timeout_while(guard, timeout, is_empty);
            let (mut tokens, _) = waited.unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tokens)
        }))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, token: u64) {
        let mut tokens = self.lock();
        let was_empty = tokens.is_empty();
        tokens.push(token);
        drop(tokens);
        if !was_empty {
            return;
        }
        match &self.bell {
            // A bell that is full has rung.
            Some((_, writer)) => drop((&mut &*writer).write(&[1])),
            None => self.changed.notify_one(),
        }
    }
}

struct Token {
    shared: Arc<Shared>,
    token: u64,
}

impl Wake for Token {
    fn wake(self: Arc<Self>) {
        self.shared.add(self.token);
    }
}
