//! The chunks of a request to a pool.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream as _;
use pyo3::prelude::*;
use slipring::RequestId;
use slipring::pool::AsyncPoolStream;

use crate::completions::Completions;
use crate::error::{exception, is_own, misuse};
use crate::kept::KeptReplies;
use crate::polling::poll_for;
use crate::reply::Reply;
use crate::wait::wait;

/// The chunks of a request to a pool, in order: an iterator. If it is forgotten, the stream is
/// cancelled.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct PoolStream {
    role: slipring::pool::RoleHandle,
    replies: Arc<KeptReplies>,
    shared: Mutex<Shared>,
}

struct Shared {
    state: State,
    /// Once the request is sent.
    id: Option<RequestId>,
    /// A call of `cancel` or `close` that came while another thread had the stream.
    is_cancelled: bool,
}

enum State {
    Opens(Opening),
    Open(Box<Open>),
    /// A thread waits, and has it meanwhile.
    InUse,
    Over,
}

/// The request until it is sent.
type Opening = Pin<Box<dyn Future<Output = Found<AsyncPoolStream>> + Send>>;

type Found<T> = slipring::Result<T>;

struct Open {
    stream: AsyncPoolStream,
    /// What came when a wait was given up.
    ahead: Option<Found<Option<slipring::Reply>>>,
}

/// What a stream has: its next chunk, or that it was opened, or that it is at its end.
enum Step {
    Opened(RequestId),
    Chunk(slipring::Reply),
    End,
}

impl State {
    /// Goes on until the request is sent, or to the next chunk.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Found<Step>> {
        match self {
            Self::Opens(opening) => match opening.as_mut().poll(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(stream)) => {
                    let id = stream.id();
                    *self = Self::Open(Box::new(Open { stream, ahead: None }));
                    Poll::Ready(Ok(Step::Opened(id)))
                }
            },
            Self::Open(open) => {
                let found = match open.ahead.take() {
                    Some(found) => Poll::Ready(found),
                    None => Pin::new(&mut open.stream).poll_next(context).map(Option::transpose),
                };
                found.map_ok(|chunk| chunk.map_or(Step::End, Step::Chunk))
            }
            Self::InUse | Self::Over => Poll::Ready(Ok(Step::End)),
        }
    }

    /// Ends a wait, so that the time until the next one does not count as the worker's.
    fn end_wait(&mut self) {
        let Self::Open(open) = self else { return };
        if open.ahead.is_some() {
            return;
        }
        // A wait that is dropped ends.
        let found = pin!(open.stream.next_chunk()).poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(found) = found {
            open.ahead = Some(found);
        }
    }
}

impl PoolStream {
    pub(crate) fn new(
        role: &slipring::pool::RoleHandle,
        replies: &Arc<KeptReplies>,
        opening: Opening,
    ) -> Self {
        let (role, replies) = (role.clone(), Arc::clone(replies));
        let shared = Shared { state: State::Opens(opening), id: None, is_cancelled: false };
        Self { role, replies, shared: Mutex::new(shared) }
    }

    /// Waits until the request is sent.
    pub(crate) fn open(&self, py: Python<'_>) -> PyResult<()> {
        self.step(py, |py, state| wait_for(py, state).map(Some)).map(drop)
    }

    /// Calls `look` with the stream, and keeps what is left of it.
    fn step(
        &self,
        py: Python<'_>,
        look: impl FnOnce(Python<'_>, &mut State) -> PyResult<Option<Step>>,
    ) -> PyResult<Option<Step>> {
        let before = std::mem::replace(&mut self.lock().state, State::InUse);
        let mut state = match before {
            State::InUse => return Err(misuse(py, "another thread or task waits for this stream")),
            State::Over => {
                self.lock().state = State::Over;
                return Ok(Some(Step::End));
            }
            state => state,
        };
        let found = look(py, &mut state);
        let is_over = match &found {
            Ok(step) => matches!(step, Some(Step::End)),
            Err(error) => is_own(py, error),
        };
        let mut shared = self.lock();
        if let Ok(Some(Step::Opened(id))) = &found {
            shared.id = Some(*id);
        }
        let is_cancelled = shared.is_cancelled;
        let left =
            if is_over || (is_cancelled && shared.id.is_none()) { State::Over } else { state };
        drop(std::mem::replace(&mut shared.state, left));
        let late = if is_cancelled { shared.id } else { None };
        drop(shared);
        if let Some(id) = late {
            // It is not known of a stream that is over.
            drop(self.role.cancel(id));
        }
        found
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reply(&self, chunk: slipring::Reply) -> Reply {
        Reply::new(&self.replies, chunk.detach())
    }
}

/// Waits for the next step. An exception of a signal handler leaves the stream usable.
fn wait_for(py: Python<'_>, state: &mut State) -> PyResult<Step> {
    let found = wait(py, |longest| poll_for(longest, |context| state.poll(context)).transpose());
    if found.as_ref().is_err_and(|error| !is_own(py, error)) {
        state.end_wait();
    }
    found
}

#[pymethods]
impl PoolStream {
    #[getter]
    fn request(&self) -> Option<u64> {
        self.lock().id.map(RequestId::get)
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Reply>> {
        loop {
            match self.step(py, |py, state| wait_for(py, state).map(Some))? {
                Some(Step::Opened(_)) => {}
                Some(Step::Chunk(chunk)) => return Ok(Some(self.reply(chunk))),
                Some(Step::End) | None => return Ok(None),
            }
        }
    }

    /// Returns whether the stream is at its end, and the next chunk if it is there. If there is
    /// none yet, adds the token once it is to be asked again.
    fn poll_with(
        &self,
        py: Python<'_>,
        completions: &Completions,
        token: u64,
    ) -> PyResult<(bool, Option<Reply>)> {
        let waker = completions.waker(token);
        loop {
            let step =
                self.step(py, |py, state| match state.poll(&mut Context::from_waker(&waker)) {
                    Poll::Pending => Ok(None),
                    Poll::Ready(Ok(step)) => Ok(Some(step)),
                    Poll::Ready(Err(error)) => Err(exception(py, &error)),
                })?;
            match step {
                Some(Step::Opened(_)) => {}
                Some(Step::Chunk(chunk)) => return Ok((false, Some(self.reply(chunk)))),
                Some(Step::End) => return Ok((true, None)),
                None => return Ok((false, None)),
            }
        }
    }

    /// Says that no task waits any more: the time until the next wait is the reader's.
    fn end_wait(&self, py: Python<'_>) -> PyResult<()> {
        let ended = self.step(py, |_, state| {
            state.end_wait();
            Ok(None)
        });
        ended.map(drop)
    }

    pub(crate) fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        let mut shared = self.lock();
        shared.is_cancelled = true;
        let id = shared.id;
        let opening = match shared.state {
            State::Opens(_) => Some(std::mem::replace(&mut shared.state, State::Over)),
            _ => None,
        };
        drop(shared);
        drop(opening);
        id.map_or(Ok(()), |id| self.role.cancel(id)).map_err(|error| exception(py, &error))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let mut shared = self.lock();
        if matches!(shared.state, State::InUse) {
            drop(shared);
            // The wait of another thread ends with this.
            return self.cancel(py);
        }
        let state = std::mem::replace(&mut shared.state, State::Over);
        drop(shared);
        drop(state);
        Ok(())
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _type: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        match self.lock().id {
            Some(id) => format!("<PoolStream of request {id}>"),
            None => "<PoolStream of a request that is not sent>".to_owned(),
        }
    }
}
