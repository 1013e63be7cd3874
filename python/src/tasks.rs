//! The channel of a host whose tasks run on event loops of asyncio. `slipring/_async.py` makes of it
//! what such a host uses.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pyo3::{IntoPyObject, prelude::*};
use slipring::Payload as _;
use slipring::tasks::AsyncChannel;

use crate::buffer::FrozenBuffer;
use crate::channel::{CONTEXT, Channel};
use crate::chunks::{Chunks, Owner, Sent, TaskStream};
use crate::completions::Completions;
use crate::convert::{self, Kind, Timeout, Trace};
use crate::error::exception;
use crate::lock::lock;
use crate::look::Look;
use crate::operation::{Operation, nothing};
use crate::outgoing::{Lent, Outgoing};
use crate::reply::Reply;
use crate::report::{ExitCause, Health};
use crate::spawner::Spawner;
use crate::wait::{LOOK, aside};

/// A channel whose replies are awaited by tasks of any event loop, and waited for by threads.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct TaskChannel {
    channel: AsyncChannel,
    look: Look,
    is_prefaulted: AtomicBool,
}

impl TaskChannel {
    fn new(channel: AsyncChannel) -> Self {
        let channel = channel.with_spin(LOOK);
        Self { channel, look: Look::default(), is_prefaulted: AtomicBool::new(false) }
    }

    /// Starts an operation of the channel.
    fn start<T: Send + 'static, F, R>(
        &self,
        completions: &Completions,
        run: impl FnOnce(AsyncChannel) -> F,
        make: impl FnOnce(T) -> R + Send + 'static,
    ) -> Operation
    where
        F: Future<Output = slipring::Result<T>> + Send + 'static,
        R: for<'py> IntoPyObject<'py>,
    {
        Operation::start(completions, run(self.channel.clone()), make)
    }

    /// Sends a request at once, if there is room for it. If not, returns the payload, for a future
    /// that waits for room.
    fn try_send<T>(
        &self,
        py: Python<'_>,
        payload: Lent<'_>,
        try_send: impl AsyncFnOnce(&Lent<'_>) -> slipring::Result<T>,
    ) -> PyResult<Tried<T>> {
        // A longer one goes in pieces, which would be sent twice: also one that a context makes longer.
        let longest = self.channel.blocking().config().max_request_frame();
        if payload.encoded_len() <= longest.saturating_sub(CONTEXT) {
            let sent = pin!(try_send(&payload)).poll(&mut Context::from_waker(Waker::noop()));
            if let Poll::Ready(sent) = sent {
                return sent.map(Tried::Sent).map_err(|error| exception(py, &error));
            }
        }
        Ok(Tried::Full(payload.detached()))
    }
}

/// A request, or its payload if there was no room for it.
enum Tried<T> {
    Sent(T),
    Full(Outgoing<FrozenBuffer>),
}

#[pymethods]
impl TaskChannel {
    /// Sends a request. The operation ends with its reply.
    fn call(
        &self,
        py: Python<'_>,
        completions: &Completions,
        kind: Kind,
        payload: Lent<'_>,
        timeout: Timeout,
        traceparent: Trace,
    ) -> PyResult<Operation> {
        let look = self.look.next();
        let channel = self.channel.clone().with_spin(look);
        let make = Reply::new;
        let trace = traceparent.0;
        let sent = self.try_send(py, payload, async |payload| match &trace {
            None => channel.submit(kind.0, payload, timeout.0).await,
            Some(trace) => channel.traced(trace).submit(kind.0, payload, timeout.0).await,
        });
        Ok(match sent? {
            Tried::Sent(pending) => {
                let operation = Operation::start(completions, pending, make);
                self.look.note(look, operation.is_done());
                operation
            }
            Tried::Full(payload) => {
                let run = |channel: AsyncChannel| async move {
                    let sent = match &trace {
                        None => channel.submit(kind.0, &payload, timeout.0).await,
                        Some(trace) => {
                            channel.traced(trace).submit(kind.0, &payload, timeout.0).await
                        }
                    };
                    let pending = sent?;
                    drop(payload);
                    pending.await
                };
                self.start(completions, run, make)
            }
        })
    }

    #[pyo3(signature = (kind, payload = Outgoing::Empty, *, chunk_timeout = Timeout::seconds(300),
        first_chunk_timeout = None, queue_timeout = None, timeout = Timeout::NONE,
        traceparent = Trace::default()))]
    #[expect(clippy::too_many_arguments, reason = "Python passes them by name")]
    fn stream(
        &self,
        py: Python<'_>,
        kind: Kind,
        payload: Lent<'_>,
        chunk_timeout: Timeout,
        first_chunk_timeout: Option<Timeout>,
        queue_timeout: Option<Timeout>,
        timeout: Timeout,
        traceparent: Trace,
    ) -> PyResult<TaskStream> {
        let timeouts =
            convert::stream_timeouts(chunk_timeout, first_chunk_timeout, queue_timeout, timeout);
        let (channel, owner) = (&self.channel, Owner::Channel(self.channel.clone()));
        let trace = traceparent.0;
        let sent = self.try_send(py, payload, async |payload| match &trace {
            None => channel.stream(kind.0, payload, timeouts).await,
            Some(trace) => channel.traced(trace).stream(kind.0, payload, timeouts).await,
        });
        Ok(TaskStream(match sent? {
            Tried::Sent(stream) => Chunks::sent(owner, Sent::Channel(Box::new(stream))),
            Tried::Full(payload) => {
                let channel = self.channel.clone();
                let sending = async move {
                    let sent = match &trace {
                        None => channel.stream(kind.0, &payload, timeouts).await,
                        Some(trace) => {
                            channel.traced(trace).stream(kind.0, &payload, timeouts).await
                        }
                    };
                    let stream = sent?;
                    Ok(Sent::Channel(Box::new(stream)))
                };
                Chunks::sending(owner, Box::pin(sending))
            }
        }))
    }

    fn wait_ready(&self, completions: &Completions, timeout: Timeout) -> Operation {
        let is_first = !self.is_prefaulted.swap(true, Ordering::Relaxed);
        let run = |channel: AsyncChannel| async move {
            if is_first {
                Prefault::start(&channel).await;
            }
            channel.wait_ready(timeout.0).await
        };
        self.start(completions, run, nothing)
    }

    fn ping(&self, completions: &Completions, timeout: Timeout) -> Operation {
        let run = |channel: AsyncChannel| async move { channel.ping(timeout.0).await };
        self.start(completions, run, Health::new)
    }

    fn close(&self, completions: &Completions, timeout: Timeout) -> Operation {
        let run = |channel: AsyncChannel| async move { channel.close(timeout.0).await };
        self.start(completions, run, ExitCause::new)
    }

    /// The operation ends when the worker does.
    fn wait_exit(&self, completions: &Completions) -> Operation {
        let run = |channel: AsyncChannel| async move { channel.closed().await };
        self.start(completions, run, ExitCause::new)
    }

    /// Returns the same channel for threads.
    fn blocking(&self) -> Channel {
        Channel::shared(self.channel.clone().into())
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
pub(crate) fn spawn_for_tasks(
    py: Python<'_>,
    completions: &Completions,
    spawner: &Spawner,
) -> Operation {
    Operation::start(completions, AsyncChannel::spawn(spawner.get(py)), TaskChannel::new)
}

/// Starts a worker and waits until it has attached.
#[pyfunction]
pub(crate) fn spawn_for_tasks_blocking(py: Python<'_>, spawner: &Spawner) -> PyResult<TaskChannel> {
    let spawner = spawner.get(py).pollable();
    let spawned = aside(py, move || spawner.spawn().and_then(AsyncChannel::new))?;
    spawned.map(TaskChannel::new).map_err(|error| exception(py, &error))
}
