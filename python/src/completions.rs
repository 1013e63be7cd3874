//! How threads of the library tell an event loop, or a thread, which futures can go on.
//!
//! A thread that has news for a future must not wait for the interpreter lock. So it only adds the
//! future's token and makes a descriptor readable, or wakes a thread. The loop polls the futures of
//! all tokens then.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::Wake;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::convert::Timeout;
use crate::lock::lock;

/// How many callbacks are called before the loop looks after other descriptors.
const MOST_IN_A_TURN: usize = 1000;

/// The tokens of futures that are to be polled again. An event loop watches the descriptor, or one
/// thread waits.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Completions(Arc<Shared>);

struct Shared {
    tokens: Mutex<VecDeque<u64>>,
    changed: Condvar,
    /// The reader is readable while there are tokens; `None` if a thread waits for them.
    bell: Option<(UnixStream, UnixStream)>,
    /// The next token that is given out. None is 0, which the executor adds itself.
    next: AtomicU64,
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
        let (tokens, changed, next) = (Mutex::default(), Condvar::new(), AtomicU64::new(1));
        Ok(Self(Arc::new(Shared { tokens, changed, bell, next })))
    }

    fn fileno(&self) -> i32 {
        self.0.bell.as_ref().map_or(-1, |(reader, _)| reader.as_raw_fd())
    }

    fn add(&self, token: u64) {
        self.0.add(token);
    }

    /// Calls the callback of each token that was added. A token stays until its callback has
    /// returned, so that an exception of a signal handler loses none.
    fn run(&self, callbacks: &Bound<'_, PyDict>) -> PyResult<()> {
        for _ in 0..MOST_IN_A_TURN {
            let Some(token) = self.0.first() else { return Ok(()) };
            if let Some(callback) = callbacks.get_item(token)? {
                callback.call0()?;
            }
            lock(&self.0.tokens).pop_front();
        }
        Ok(())
    }

    /// Waits until there are tokens, for so many seconds at most, and takes them. Not for the main
    /// thread, whose signal handlers would wait.
    #[pyo3(signature = (timeout = Timeout::NONE))]
    fn wait(&self, py: Python<'_>, timeout: Timeout) -> Vec<u64> {
        let shared = Arc::clone(&self.0);
        py.detach(move || {
            let is_empty = |tokens: &mut VecDeque<u64>| tokens.is_empty();
            let tokens = lock(&shared.tokens);
            let waited = shared.changed.wait_timeout_while(tokens, timeout.0, is_empty);
            let (mut tokens, _) = waited.unwrap_or_else(PoisonError::into_inner);
            tokens.drain(..).collect()
        })
    }
}

impl Shared {
    fn add(&self, token: u64) {
        let mut tokens = lock(&self.tokens);
        let was_empty = tokens.is_empty();
        tokens.push_back(token);
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

    fn first(&self) -> Option<u64> {
        let tokens = lock(&self.tokens);
        if tokens.is_empty()
            && let Some((reader, _)) = &self.bell
        {
            // Under the lock, so that the byte of a token that is added later comes after this.
            while matches!((&mut &*reader).read(&mut [0; 64]), Ok(64)) {}
        }
        tokens.front().copied()
    }
}

/// Adds the token of one future when that is woken.
pub(crate) struct Token {
    number: u64,
    /// It was added, and the future was not polled since.
    is_added: AtomicBool,
    shared: Arc<Shared>,
}

impl Token {
    pub(crate) fn new(completions: &Completions) -> Arc<Self> {
        let shared = Arc::clone(&completions.0);
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { number, is_added: AtomicBool::new(false), shared })
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// To be called before the future is polled.
    pub(crate) fn begin_look(&self) {
        // Acquire and Release pair with those of `wake_by_ref`: what was there before a wake that is
        // left out is seen by the look that follows.
        self.is_added.swap(false, Ordering::AcqRel);
    }
}

impl Wake for Token {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Pairs with `begin_look`.
        if !self.is_added.swap(true, Ordering::AcqRel) {
            self.shared.add(self.number);
        }
    }
}
