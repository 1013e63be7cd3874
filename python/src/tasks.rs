//! The channel of a host whose tasks run on event loops of asyncio. `slipring/_async.py` makes of it
//! what such a host uses.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pyo3::prelude::*;
use slipring::tasks::{AsyncChannel, AsyncPending, AsyncStream};
use slipring::{Payload as _, RequestId, StreamTimeouts};

use crate::channel::Channel;
use crate::convert;
use crate::error::{exception, misuse};
use crate::kept::KeptReplies;
use crate::operation::{Operation, Outcome, Wakeups, lock};
use crate::outgoing::Outgoing;
use crate::reply::Reply;
use crate::report::{ExitCause, Health};
use crate::spawner::Spawner;
use crate::wait::{LOOK, aside};

/// A channel whose replies are awaited by tasks of any event loop, and waited for by threads.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct TaskChannel {
    channel: AsyncChannel,
    replies: Arc<KeptReplies>,
    is_prefaulted: AtomicBool,
}

impl TaskChannel {
    fn new(channel: AsyncChannel) -> Self {
        let capacity = channel.blocking().config().reply_ring().capacity();
        Self {
            channel: channel.with_spin(LOOK),
            replies: Arc::new(KeptReplies::new(capacity)),
            is_prefaulted: AtomicBool::new(false),
        }
    }

    /// Starts an operation of the channel.
    fn start<T: Send + 'static, F: Future<Output = slipring::Result<T>> + Send + 'static>(
        &self,
        wakeups: &Wakeups,
        run: impl FnOnce(AsyncChannel) -> F,
        found: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> Operation {
        let work = run(self.channel.clone());
        Operation::start(wakeups, async move { outcome(work.await, found) })
    }

    /// Sends a request at once, if there is room for it. If not, the future that `send` makes of the
    /// payload waits for room.
    fn send<T>(
        &self,
        payload: Option<&Bound<'_, PyAny>>,
        py: Python<'_>,
        try_send: impl FnOnce(&Outgoing<crate::buffer::LentBuffer<'_>>) -> Option<slipring::Result<T>>,
    ) -> PyResult<Sent<T>> {
        let none = py.None();
        let payload = Outgoing::of(payload.unwrap_or(none.bind(py)))?;
        let config = self.channel.blocking().config();
        // A longer one goes in pieces, which would be sent twice.
        if payload.encoded_len() <= config.max_request_frame()
            && let Some(sent) = try_send(&payload)
        {
            return sent.map(Sent::Now).map_err(|error| exception(py, &error));
        }
        Ok(Sent::Later(payload.detached()))
    }
}

/// A request, or its payload if there was no room for it.
enum Sent<T> {
    Now(T),
    Later(Outgoing<crate::buffer::FrozenBuffer>),
}

/// Polls a future once, and drops it then.
fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(found) => Some(found),
        Poll::Pending => None,
    }
}

/// What a future has found, as a Python object, or its error as an exception.
fn outcome<T: Send + 'static>(
    found: slipring::Result<T>,
    make: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> Outcome {
    Box::new(move |py| match found {
        Ok(found) => make(py, found),
        Err(error) => Err(exception(py, &error)),
    })
}

fn object<T>(py: Python<'_>, value: T) -> PyResult<Py<PyAny>>
where
    T: Into<PyClassInitializer<T>> + pyo3::PyClass,
{
    Ok(Py::new(py, value)?.into_any())
}

#[pymethods]
impl TaskChannel {
    /// Sends a request. The operation ends with its reply.
    #[pyo3(signature = (wakeups, kind, payload, timeout))]
    fn call(
        &self,
        py: Python<'_>,
        wakeups: &Wakeups,
        kind: &Bound<'_, PyAny>,
        payload: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<Operation> {
        let (kind, timeout) = (convert::kind(kind)?, convert::timeout(timeout)?);
        let replies = Arc::clone(&self.replies);
        let found = move |py: Python<'_>, reply| object(py, Reply::new(&replies, reply));
        let sent = self
            .send(payload, py, |payload| poll_once(self.channel.submit(kind, payload, timeout)))?;
        Ok(match sent {
            Sent::Now(pending) => self.start(wakeups, |_| pending, found),
            Sent::Later(payload) => self.start(
                wakeups,
                |channel| async move {
                    let pending: AsyncPending = channel.submit(kind, &payload, timeout).await?;
                    drop(payload);
                    pending.await
                },
                found,
            ),
        })
    }

    #[pyo3(signature = (kind, payload, chunk_timeout, first_chunk_timeout, queue_timeout, timeout))]
    #[expect(clippy::too_many_arguments, reason = "Python passes them")]
    fn stream(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        payload: Option<&Bound<'_, PyAny>>,
        chunk_timeout: Option<f64>,
        first_chunk_timeout: Option<f64>,
        queue_timeout: Option<f64>,
        timeout: Option<f64>,
    ) -> PyResult<TaskStream> {
        let kind = convert::kind(kind)?;
        let mut timeouts = StreamTimeouts::new()
            .chunk(convert::timeout(chunk_timeout)?)
            .total(convert::timeout(timeout)?);
        if first_chunk_timeout.is_some() {
            timeouts = timeouts.first_chunk(convert::timeout(first_chunk_timeout)?);
        }
        if queue_timeout.is_some() {
            timeouts = timeouts.queue(convert::timeout(queue_timeout)?);
        }
        let sent = self
            .send(payload, py, |payload| poll_once(self.channel.stream(kind, payload, timeouts)))?;
        let progress = match sent {
            Sent::Now(stream) => Progress::Open(Box::new(stream)),
            Sent::Later(payload) => {
                let channel = self.channel.clone();
                Progress::Sending(Box::pin(async move {
                    channel.stream(kind, &payload, timeouts).await.map(Box::new)
                }))
            }
        };
        Ok(TaskStream::new(&self.channel, &self.replies, progress))
    }

    fn wait_ready(&self, wakeups: &Wakeups, timeout: Option<f64>) -> PyResult<Operation> {
        let timeout = convert::timeout(timeout)?;
        let is_first = !self.is_prefaulted.swap(true, Ordering::Relaxed);
        let run = |channel: AsyncChannel| async move {
            if is_first {
                Prefault::start(&channel).await;
            }
            channel.wait_ready(timeout).await
        };
        Ok(self.start(wakeups, run, |py, ()| Ok(py.None())))
    }

    fn ping(&self, wakeups: &Wakeups, timeout: Option<f64>) -> PyResult<Operation> {
        let timeout = convert::timeout(timeout)?;
        let run = |channel: AsyncChannel| async move { channel.ping(timeout).await };
        Ok(self.start(wakeups, run, |py, health| object(py, Health::new(health))))
    }

    fn close(&self, wakeups: &Wakeups, timeout: Option<f64>) -> PyResult<Operation> {
        let timeout = convert::timeout(timeout)?;
        let run = |channel: AsyncChannel| async move { channel.close(timeout).await };
        Ok(self.start(wakeups, run, |py, cause| object(py, ExitCause::new(cause))))
    }

    /// The operation ends when the worker does.
    fn wait_exit(&self, wakeups: &Wakeups) -> Operation {
        let run = |channel: AsyncChannel| async move { channel.closed().await };
        self.start(wakeups, run, |py, cause| object(py, ExitCause::new(cause)))
    }

    /// Returns the same channel for threads.
    fn blocking(&self) -> Channel {
        Channel::shared(self.channel.clone().into(), &self.replies)
    }
}

/// Touches the memory of the rings on a thread of its own. That takes milliseconds the first time a
/// channel does so, in which an event loop and the interpreter lock would be held.
#[derive(Default)]
struct Prefault(Mutex<(bool, Option<Waker>)>);

impl Prefault {
    async fn start(channel: &AsyncChannel) {
        let (prefault, channel) = (Arc::new(Self::default()), channel.clone());
        let theirs = Arc::clone(&prefault);
        let run = move || {
            // Touches it before it waits, which it does for no longer than this.
            let _ = channel.blocking().wait_ready(Duration::from_millis(1));
            let mut state = lock(&theirs.0);
            state.0 = true;
            let waker = state.1.take();
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        };
        let thread = std::thread::Builder::new().name("slipring-prefault".to_owned()).spawn(run);
        if thread.is_err() {
            return;
        }
        poll_fn(|context| {
            let mut state = lock(&prefault.0);
            state.1 = Some(context.waker().clone());
            if state.0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Starts a worker. The operation ends with its channel.
#[pyfunction]
pub(crate) fn spawn_for_tasks(py: Python<'_>, wakeups: &Wakeups, spawner: &Spawner) -> Operation {
    let spawner = spawner.get(py);
    Operation::start(wakeups, async move {
        let spawned = AsyncChannel::spawn(spawner).await;
        outcome(spawned, |py, channel| object(py, TaskChannel::new(channel)))
    })
}

/// Starts a worker and waits until it has attached.
#[pyfunction]
pub(crate) fn spawn_for_tasks_blocking(py: Python<'_>, spawner: &Spawner) -> PyResult<TaskChannel> {
    let spawner = spawner.get(py).pollable();
    let spawned = aside(py, move || spawner.spawn().and_then(AsyncChannel::new))?;
    spawned.map(TaskChannel::new).map_err(|error| exception(py, &error))
}

/// The chunks of a stream, which a task awaits one by one.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct TaskStream {
    channel: AsyncChannel,
    replies: Arc<KeptReplies>,
    shared: Arc<SharedStream>,
}

struct SharedStream {
    progress: Mutex<Progress>,
    /// Known once the request is sent.
    id: OnceLock<RequestId>,
    is_cancelled: AtomicBool,
}

enum Progress {
    Sending(Pin<Box<dyn Future<Output = slipring::Result<Box<AsyncStream>>> + Send>>),
    Open(Box<AsyncStream>),
    /// A task waits, and has it meanwhile.
    InUse,
    Over,
}

impl TaskStream {
    fn new(channel: &AsyncChannel, replies: &Arc<KeptReplies>, progress: Progress) -> Self {
        let id = OnceLock::new();
        if let Progress::Open(stream) = &progress {
            let _ = id.set(stream.id());
        }
        let (progress, is_cancelled) = (Mutex::new(progress), AtomicBool::new(false));
        let shared = Arc::new(SharedStream { progress, id, is_cancelled });
        Self { channel: channel.clone(), replies: Arc::clone(replies), shared }
    }

    fn give_up(&self, is_over: bool) {
        self.shared.is_cancelled.store(true, Ordering::Relaxed);
        if let Some(id) = self.shared.id.get() {
            self.channel.blocking().cancel(*id);
        }
        let mut progress = lock(&self.shared.progress);
        let is_unsent = matches!(*progress, Progress::Sending(_));
        if !matches!(*progress, Progress::InUse) && (is_over || is_unsent) {
            let given_up = std::mem::replace(&mut *progress, Progress::Over);
            // Objects of Python's may go with it.
            drop(progress);
            drop(given_up);
        }
    }
}

#[pymethods]
impl TaskStream {
    /// The number of the request; `None` while it waits for room.
    #[getter]
    fn request(&self) -> Option<u64> {
        self.shared.id.get().map(|id| id.get())
    }

    /// The operation ends with the next chunk, or `None` at the end. If it is dropped before that,
    /// the stream goes on.
    fn next(&self, py: Python<'_>, wakeups: &Wakeups) -> PyResult<Operation> {
        let progress = std::mem::replace(&mut *lock(&self.shared.progress), Progress::InUse);
        if matches!(progress, Progress::InUse) {
            return Err(misuse(py, "another task waits for this stream"));
        }
        let mut turn = StreamTurn { shared: Arc::clone(&self.shared), progress };
        let replies = Arc::clone(&self.replies);
        Ok(Operation::start(wakeups, async move {
            let found = turn.next().await;
            drop(turn);
            outcome(found, move |py, chunk| match chunk {
                Some(chunk) => object(py, Reply::new(&replies, chunk)),
                None => Ok(py.None()),
            })
        }))
    }

    fn cancel(&self) {
        self.give_up(false);
    }

    fn close(&self) {
        self.give_up(true);
    }
}

/// A task's turn at a stream, which is given back when this is dropped.
struct StreamTurn {
    shared: Arc<SharedStream>,
    progress: Progress,
}

impl StreamTurn {
    async fn next(&mut self) -> slipring::Result<Option<slipring::Reply>> {
        if let Progress::Sending(sending) = &mut self.progress {
            let sent = sending.as_mut().await;
            self.progress = Progress::Over;
            let stream = sent?;
            let _ = self.shared.id.set(stream.id());
            if self.shared.is_cancelled.load(Ordering::Relaxed) {
                stream.cancel();
            }
            self.progress = Progress::Open(stream);
        }
        let Progress::Open(stream) = &mut self.progress else { return Ok(None) };
        let found = stream.next_chunk().await;
        if !matches!(found, Ok(Some(_))) {
            self.progress = Progress::Over;
        }
        found
    }
}

impl Drop for StreamTurn {
    fn drop(&mut self) {
        let progress = std::mem::replace(&mut self.progress, Progress::Over);
        *lock(&self.shared.progress) = progress;
    }
}
