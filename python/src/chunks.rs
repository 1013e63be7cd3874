//! The chunks of a stream of a channel or a pool, which are awaited one by one.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use pyo3::prelude::*;
use slipring::{RequestId, Result, pool, tasks};

use crate::completions::Completions;
use crate::error::{exception, misuse};
use crate::lock::lock;
use crate::operation::Operation;
use crate::reply::Reply;

/// The chunks of a stream, for one thread or task at a time. If it is forgotten, the stream is
/// cancelled.
pub(crate) struct Chunks {
    owner: Owner,
    shared: Arc<Shared>,
}

/// What the stream is one of.
pub(crate) enum Owner {
    Channel(tasks::AsyncChannel),
    Role(pool::RoleHandle),
}

/// A stream that was sent.
pub(crate) enum Sent {
    Channel(Box<tasks::AsyncStream>),
    Pool(Box<pool::AsyncPoolStream>),
}

/// The request until it is sent.
pub(crate) type Sending = Pin<Box<dyn Future<Output = Result<Sent>> + Send>>;

struct Shared {
    state: Mutex<State>,
    /// Known once the request is sent.
    id: OnceLock<RequestId>,
    is_cancelled: AtomicBool,
}

enum State {
    Sending(Sending),
    Open(Sent),
    /// A thread or a task waits, and has it meanwhile.
    InUse,
    Over,
}

impl Sent {
    fn id(&self) -> RequestId {
        match self {
            Self::Channel(stream) => stream.id(),
            Self::Pool(stream) => stream.id(),
        }
    }

    fn cancel(&self) {
        match self {
            Self::Channel(stream) => stream.cancel(),
            Self::Pool(stream) => stream.cancel(),
        }
    }

    /// If this is dropped before it is ready, no chunk is lost, and the time until the next call does
    /// not count as the worker's.
    async fn next_chunk(&mut self) -> Result<Option<slipring::Reply>> {
        match self {
            Self::Channel(stream) => stream.next_chunk().await,
            Self::Pool(stream) => stream.next_chunk().await,
        }
    }
}

impl Chunks {
    /// Makes chunks of a stream that is still to be sent, by the first wait.
    pub(crate) fn sending(owner: Owner, sending: Sending) -> Self {
        Self::new(owner, State::Sending(sending), OnceLock::new())
    }

    /// Makes chunks of a stream that was sent.
    pub(crate) fn sent(owner: Owner, stream: Sent) -> Self {
        let id = OnceLock::from(stream.id());
        Self::new(owner, State::Open(stream), id)
    }

    fn new(owner: Owner, state: State, id: OnceLock<RequestId>) -> Self {
        let (state, is_cancelled) = (Mutex::new(state), AtomicBool::new(false));
        let shared = Arc::new(Shared { state, id, is_cancelled });
        Self { owner, shared }
    }

    /// Returns the number of the request; `None` until it is sent.
    pub(crate) fn request(&self) -> Option<u64> {
        self.shared.id.get().map(|id| id.get())
    }

    /// Begins a turn. There is one at a time.
    pub(crate) fn turn(&self, py: Python<'_>) -> PyResult<Turn> {
        match std::mem::replace(&mut *lock(&self.shared.state), State::InUse) {
            State::InUse => Err(misuse(py, "another task or thread waits for this stream")),
            state => Ok(Turn { shared: Arc::clone(&self.shared), state }),
        }
    }

    /// Asks the worker to end the stream. One that is not sent is over.
    pub(crate) fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.give_up(false).map_err(|error| exception(py, &error))
    }

    /// Cancels the stream, of which no more chunks are wanted.
    pub(crate) fn close(&self) {
        // In a forked child there is nothing to cancel.
        let _ = self.give_up(true);
    }

    fn give_up(&self, is_over: bool) -> Result<()> {
        self.shared.is_cancelled.store(true, Ordering::Relaxed);
        let cancelled = match (self.shared.id.get(), &self.owner) {
            (None, _) => Ok(()),
            (Some(id), Owner::Channel(channel)) => {
                channel.blocking().cancel(*id);
                Ok(())
            }
            (Some(id), Owner::Role(role)) => role.cancel(*id),
        };
        let mut state = lock(&self.shared.state);
        let is_unsent = matches!(*state, State::Sending(_));
        if !matches!(*state, State::InUse) && (is_over || is_unsent) {
            let given_up = std::mem::replace(&mut *state, State::Over);
            // Objects of Python's may go with it.
            drop(state);
            drop(given_up);
        }
        cancelled
    }
}

/// A turn at a stream, which is given back when this is dropped.
pub(crate) struct Turn {
    shared: Arc<Shared>,
    state: State,
}

impl Turn {
    /// Sends the request, if that is still to be done.
    pub(crate) async fn send(&mut self) -> Result<()> {
        let State::Sending(sending) = &mut self.state else { return Ok(()) };
        let sent = sending.as_mut().await;
        self.state = State::Over;
        let stream = sent?;
        let _ = self.shared.id.set(stream.id());
        if self.shared.is_cancelled.load(Ordering::Relaxed) {
            stream.cancel();
        }
        self.state = State::Open(stream);
        Ok(())
    }

    /// Returns the next chunk, `None` at the end. If this is dropped before it is ready, the stream
    /// goes on.
    pub(crate) async fn next(&mut self) -> Result<Option<slipring::Reply>> {
        if matches!(self.state, State::Sending(_)) {
            self.send().await?;
        }
        let State::Open(stream) = &mut self.state else { return Ok(None) };
        let found = stream.next_chunk().await;
        if !matches!(found, Ok(Some(_))) {
            self.state = State::Over;
        }
        found
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *lock(&self.shared.state) = std::mem::replace(&mut self.state, State::Over);
    }
}

/// The chunks of a stream, which tasks await.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct TaskStream(pub(crate) Chunks);

#[pymethods]
impl TaskStream {
    #[getter]
    fn request(&self) -> Option<u64> {
        self.0.request()
    }

    /// The operation ends with the next chunk, or `None` at the end. If it is dropped before that,
    /// the stream goes on.
    fn next(&self, py: Python<'_>, completions: &Completions) -> PyResult<Operation> {
        let mut turn = self.0.turn(py)?;
        let work = async move { turn.next().await };
        let make = |chunk: Option<_>| chunk.map(Reply::new);
        Ok(Operation::start(completions, work, make))
    }

    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.0.cancel(py)
    }

    fn close(&self) {
        self.0.close();
    }
}
