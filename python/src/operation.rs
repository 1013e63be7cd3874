//! What a task of asyncio waits for: a future of the library, which the task's event loop polls.
//!
//! The library wakes a future on whatever thread has news for it. That thread must not wait for the
//! interpreter lock, so it only notes the future's key and makes the loop's descriptor readable.
//! The loop then polls all futures that were woken, in one of its turns.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use pyo3::prelude::*;

use crate::error::misuse;

/// Makes a Python object of what a future has found. Code of Python's runs in it.
pub(crate) type Outcome = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// The futures of one event loop that were woken, and the descriptor that tells the loop.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Wakeups(Arc<Woken>);

pub(crate) struct Woken {
    keys: Mutex<VecDeque<u64>>,
    /// Keys that were given out.
    next: AtomicU64,
    /// The loop polls this end.
    readable: UnixStream,
    /// A byte is written to this end when `keys` is not empty any more.
    ring: UnixStream,
}

impl Woken {
    fn new_key(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn push(&self, key: u64) {
        let mut keys = lock(&self.keys);
        let was_empty = keys.is_empty();
        keys.push_back(key);
        drop(keys);
        if was_empty {
            // If the descriptor cannot take another byte it is readable already.
            let _ = (&self.ring).write(&[1]);
        }
    }
}

#[pymethods]
impl Wakeups {
    #[new]
    fn new() -> PyResult<Self> {
        let (readable, ring) = UnixStream::pair()?;
        readable.set_nonblocking(true)?;
        ring.set_nonblocking(true)?;
        let (keys, next) = (Mutex::default(), AtomicU64::new(0));
        Ok(Self(Arc::new(Woken { keys, next, readable, ring })))
    }

    fn fileno(&self) -> i32 {
        self.0.readable.as_raw_fd()
    }

    /// Returns the first key that was noted. It stays until `pop`, so that an exception of a signal
    /// handler between the two loses none.
    fn first(&self) -> Option<u64> {
        lock(&self.0.keys).front().copied()
    }

    /// Forgets the first key, which the caller has seen, or has seen that there is none. The
    /// descriptor is readable until none is left.
    #[pyo3(signature = (seen))]
    fn pop(&self, seen: Option<u64>) {
        let mut keys = lock(&self.0.keys);
        if seen.is_some() {
            keys.pop_front();
        }
        if keys.is_empty() {
            // Under the lock, so that a byte for a key that is noted later comes after this.
            while matches!((&self.0.readable).read(&mut [0; 64]), Ok(64)) {}
        }
    }
}

/// Tells an event loop that something is there for it, under a key of its own.
pub(crate) struct KeyWaker {
    key: u64,
    /// The loop was told and has not looked since.
    is_noted: AtomicBool,
    woken: Arc<Woken>,
}

impl KeyWaker {
    pub(crate) fn new(wakeups: &Wakeups) -> Arc<Self> {
        let woken = Arc::clone(&wakeups.0);
        Arc::new(Self { key: woken.new_key(), is_noted: AtomicBool::new(false), woken })
    }

    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    /// Tells the loop.
    pub(crate) fn note(self: &Arc<Self>) {
        self.wake_by_ref();
    }

    /// To be called before the loop looks.
    pub(crate) fn begin_look(&self) {
        // Acquire and Release pair with those of `wake_by_ref`: what was there before a wake that is
        // left out is seen by the look that follows.
        self.is_noted.swap(false, Ordering::AcqRel);
    }
}

impl Wake for KeyWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_noted.swap(true, Ordering::AcqRel) {
            self.woken.push(self.key);
        }
    }
}

/// A future of the library, which an event loop polls.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Operation {
    state: Mutex<State>,
    waker: Arc<KeyWaker>,
}

enum State {
    Running(Work),
    Ready(Outcome),
    /// It is polled or its outcome was taken, or nothing of it is wanted any more.
    Gone,
}

impl Operation {
    /// Makes an operation of a future, which is polled for the first time here.
    pub(crate) fn start(
        wakeups: &Wakeups,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> Self {
        let operation = Self {
            state: Mutex::new(State::Running(Box::pin(work))),
            waker: KeyWaker::new(wakeups),
        };
        operation.look();
        operation
    }

    fn replace(&self, state: State) -> State {
        std::mem::replace(&mut *lock(&self.state), state)
    }

    /// Polls the future, if it runs. Returns whether its outcome is there. No lock is held while it
    /// is polled.
    fn look(&self) -> bool {
        let (state, is_done) = match self.replace(State::Gone) {
            State::Running(mut work) => {
                self.waker.begin_look();
                let waker = Waker::from(Arc::clone(&self.waker));
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
}

#[pymethods]
impl Operation {
    /// The key under which the loop is told of it.
    #[getter]
    fn key(&self) -> u64 {
        self.waker.key()
    }

    #[getter]
    fn is_done(&self) -> bool {
        !matches!(*lock(&self.state), State::Running(_))
    }

    fn poll(&self) -> bool {
        self.look()
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

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
