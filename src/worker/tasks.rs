//! A worker whose handlers are futures, which run as tasks of an executor.
//!
//! The thread that serves takes requests, spawns a task for each, and wakes the tasks that wait
//! for the parent (`wakers.rs`).

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::error::{ErrorKind, Result};
use crate::protocol::Kind;
use crate::worker::handler_error::HandlerError;
use crate::worker::handlers::{Handlers, unknown_kind};
use crate::worker::inbox::Inbox;
use crate::worker::owned::{Incoming, OwnedResponder};
use crate::worker::owned_request::OwnedRequest;
use crate::worker::unanswered::Handling;

type HandlerResult = std::result::Result<(), HandlerError>;

/// What a handler has returned.
type HandlerFuture = Pin<Box<dyn Future<Output = HandlerResult> + Send>>;

type Handler<S> = Box<dyn Fn(Arc<S>, OwnedRequest, OwnedResponder) -> HandlerFuture + Send + Sync>;

/// A task that serves one request: what [`Tasks::new`] gives to the executor.
pub type BoxTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How long a worker that is to end waits for its tasks, unless the host says otherwise.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How a worker serves requests with async handlers: on which executor, and what each does.
/// [`Worker::tasks`](super::Worker::tasks) takes it.
///
/// Each request is a task of its own. Requests are handed to the executor in the order in which
/// they were sent, at most [`Worker::max_taken`](super::Worker::max_taken) of them at a time, and
/// are answered in any order. A request counts as begun when its task is polled for the first
/// time.
///
/// A handler gets the session, which all handlers share, the request, and an [`OwnedResponder`],
/// whose methods that end in `_async` do not block a thread. Its other methods may block it, and
/// with it all tasks of that thread.
///
/// * An error that a handler returns ends its request. So does a panic, with an error of the type
///   `panic`, and nothing else.
/// * A handler can return first, and have its responder answer later.
/// * If the executor drops a task, its request ends with an error of the type `slipring::NoReply`.
/// * [`OwnedResponder::cancelled`] tells a handler that its work is not wanted any more. It is not
///   ended by force.
///
/// # The end
///
/// When the worker is told to end, no more requests are taken, all waits of responders end, and
/// every [`OwnedResponder::cancelled`] is ready. [`Worker::serve`](super::Worker::serve) returns
/// when all tasks are done or dropped, or after [`Tasks::stop_timeout`]. Tasks that are left then
/// are not ended by the worker; but the process should end.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use std::time::Duration;
/// use slipring::worker::{OwnedRequest, OwnedResponder, Tasks, Worker};
/// use slipring::{Config, Kind, RoleConfig, testing};
///
/// const WORDS: Kind = Kind::named("words");
///
/// struct Model {
///     suffix: &'static str,
/// }
///
/// async fn words(
///     model: Arc<Model>,
///     request: OwnedRequest,
///     mut responder: OwnedResponder,
/// ) -> Result<(), slipring::worker::HandlerError> {
///     for word in request.get().text()?.split_whitespace() {
///         // Here a model would be awaited.
///         responder.send_chunk_async(&format!("{word}{}", model.suffix)).await?;
///     }
///     Ok(responder.end()?)
/// }
///
/// # #[cfg(feature = "tokio")] {
/// let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
/// let handle = runtime.handle().clone();
/// let make = move || {
///     Worker::new(|_| Ok(Model { suffix: "!" })).tasks(Tasks::on_tokio(handle).on(WORDS, words))
/// };
/// // A thread in the place of a process, so that this example runs.
/// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
/// let mut said = Vec::new();
/// for word in channel.stream(WORDS, "one two", Duration::from_secs(10))? {
///     said.push(word?.to_vec());
/// }
/// assert_eq!(said, [&b"one!"[..], b"two!"]);
/// # }
/// # Ok(())
/// # }
/// ```
#[must_use = "a description does nothing until a worker has it"]
pub struct Tasks<S> {
    spawn: Box<dyn Fn(BoxTask)>,
    handlers: Handlers<Handler<S>>,
    stop_timeout: Duration,
}

impl<S> Tasks<S> {
    /// Describes tasks of any executor. `spawn` is called for each request, on the thread that
    /// calls [`Worker::serve`](super::Worker::serve), and hands the task to the executor. It must
    /// not block. If it panics, the channel fails with
    /// [`ErrorKind::Session`](crate::ErrorKind::Session).
    ///
    /// The executor must run on other threads, as that thread waits for requests. It must poll its
    /// tasks when they are woken.
    pub fn new(spawn: impl Fn(BoxTask) + 'static) -> Self {
        let (spawn, handlers) = (Box::new(spawn), Handlers::new());
        Self { spawn, handlers, stop_timeout: STOP_TIMEOUT }
    }

    /// Describes tasks of a tokio runtime, which other threads must run: a multi-thread runtime has
    /// threads of its own; one of the current thread has to be in its `block_on`, on another thread
    /// than that which calls [`Worker::serve`](super::Worker::serve).
    #[cfg(feature = "tokio")]
    pub fn on_tokio(handle: tokio::runtime::Handle) -> Self {
        Self::new(move |task| drop(handle.spawn(task)))
    }

    /// Serves requests of this kind with `handler`. [`Worker::serve`](super::Worker::serve)
    /// refuses a second handler for a kind.
    ///
    /// The handler is called when its task is polled for the first time, by the executor. If it
    /// is a closure that uses the session, the type has to be named:
    /// `|model: Arc<Model>, request, responder| async move { … }`.
    pub fn on<F>(
        mut self,
        kind: Kind,
        handler: impl Fn(Arc<S>, OwnedRequest, OwnedResponder) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = std::result::Result<(), HandlerError>> + Send + 'static,
    {
        self.handlers.add(kind, boxed(handler));
        self
    }

    /// Serves requests of every kind that has no handler of its own with `handler`, which finds
    /// the kind in [`OwnedRequest::kind`]. Without this, such requests fail with an error of the
    /// type `slipring::UnknownKind`. The last call of this method counts.
    pub fn fallback<F>(
        mut self,
        handler: impl Fn(Arc<S>, OwnedRequest, OwnedResponder) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = std::result::Result<(), HandlerError>> + Send + 'static,
    {
        self.handlers.set_fallback(boxed(handler));
        self
    }

    /// Sets how long a worker that is told to end waits for its tasks; 5 s by default. The parent
    /// ends a process that takes longer than the timeout of its close in any case.
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout;
        self
    }

    /// Checks what a worker refuses before it attaches.
    pub(super) fn check(&self) -> Result<()> {
        self.handlers.check()
    }
}

impl<S: Send + Sync + 'static> Tasks<S> {
    /// Serves requests until the worker is told to end.
    pub(super) fn run(self, session: &Arc<S>, inbox: &Inbox) -> HandlerResult {
        let Self { spawn, handlers, stop_timeout } = self;
        let handlers = Arc::new(handlers);
        let (running, none_left) = mpsc::channel::<Infallible>();
        let error = loop {
            match inbox.recv() {
                Ok(incoming) => {
                    let new = NewTask {
                        handlers: Arc::clone(&handlers),
                        session: Arc::clone(session),
                        incoming,
                    };
                    spawn(Box::pin(Task { stage: Stage::New(new), _running: running.clone() }));
                }
                Err(error) => break error,
            }
        };
        drop(running);
        if error.kind() == ErrorKind::Closed {
            // Ends when the last task is dropped: nothing is sent.
            let _ = none_left.recv_timeout(stop_timeout);
        }
        Err(error.into())
    }
}

impl<S> fmt::Debug for Tasks<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<Kind> = self.handlers.kinds().collect();
        f.debug_struct("Tasks")
            .field("kinds", &kinds)
            .field("stop_timeout", &self.stop_timeout)
            .finish_non_exhaustive()
    }
}

fn boxed<S, F: Future<Output = HandlerResult> + Send + 'static>(
    handler: impl Fn(Arc<S>, OwnedRequest, OwnedResponder) -> F + Send + Sync + 'static,
) -> Handler<S> {
    Box::new(move |session, request, responder| Box::pin(handler(session, request, responder)))
}

/// Serves one request.
struct Task<S> {
    stage: Stage<S>,
    /// Dropped last: tells the worker that the task is gone.
    _running: Sender<Infallible>,
}

enum Stage<S> {
    New(NewTask<S>),
    /// In the order in which they are dropped: the future may have the responder.
    Runs(HandlerFuture, Handling),
    Over,
}

struct NewTask<S> {
    handlers: Arc<Handlers<Handler<S>>>,
    session: Arc<S>,
    incoming: Incoming,
}

impl<S: Send + Sync + 'static> NewTask<S> {
    /// Begins the request. Its handler is called when the future that this returns is polled.
    /// Refuses a request that has none.
    fn begin(self) -> Option<(HandlerFuture, Handling)> {
        let Self { handlers, session, incoming: Incoming { request, mut responder } } = self;
        let kind = request.kind();
        if handlers.find_shared(kind).is_none() {
            responder.refuse(unknown_kind(kind));
            return None;
        }
        let handling = responder.begin_handling();
        #[cfg(feature = "tracing")]
        let span = request.get().span();
        let future = async move {
            let handler = handlers.find_shared(kind).ok_or_else(|| unknown_kind(kind))?;
            handler(session, request, responder).await
        };
        #[cfg(feature = "tracing")]
        if !span.is_none() {
            return Some((Box::pin(tracing::Instrument::instrument(future, span)), handling));
        }
        Some((Box::pin(future), handling))
    }
}

impl<S: Send + Sync + 'static> Future for Task<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let stage = &mut self.get_mut().stage;
        let (future, mut handling) = match std::mem::replace(stage, Stage::Over) {
            Stage::New(new) => match new.begin() {
                Some(begun) => begun,
                None => return Poll::Ready(()),
            },
            Stage::Runs(future, handling) => (future, handling),
            Stage::Over => return Poll::Ready(()),
        };
        let mut pending = None;
        let polled = handling.run(|| {
            // What the future still has at its end is dropped before its request ends.
            let mut future = future;
            let Poll::Ready(handled) = future.as_mut().poll(context) else {
                pending = Some(future);
                return Ok(Poll::Pending);
            };
            drop(future);
            handled.map(Poll::Ready)
        });
        if let Some(future) = pending {
            *stage = Stage::Runs(future, handling);
        }
        polled
    }
}
