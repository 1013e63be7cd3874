//! A worker that serves requests on several threads.
//!
//! The threads take turns in [`Inbox::recv`]: the one that takes a request serves it, so that no
//! request goes from one thread to another.

use std::fmt;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, Builder, ScopedJoinHandle};

use crate::error::{Error, ErrorKind, Result};
use crate::protocol::Kind;
use crate::worker::handler_error::HandlerError;
use crate::worker::handlers::{Handlers, unknown_kind};
use crate::worker::inbox::Inbox;
use crate::worker::owned::{Incoming, OwnedResponder};
use crate::worker::panics::catch;
use crate::worker::request::Request;

type HandlerResult<T = ()> = std::result::Result<T, HandlerError>;

/// A handler that all threads share. It gets the worker's session and the thread's own.
type Handler<S, T> =
    Box<dyn Fn(&S, &mut T, &Request<'_>, OwnedResponder) -> HandlerResult + Send + Sync>;

type BuildOwn<S, T> = Box<dyn Fn(&S) -> HandlerResult<T> + Send + Sync>;

/// How a worker serves requests on several threads: how many there are, and what each does with a
/// request. [`Worker::threads`](super::Worker::threads) takes it.
///
/// Each thread serves one request at a time, from the call of its handler to the handler's return.
/// Requests are begun in the order in which they were sent, and are answered in any order. There
/// are two forms:
///
/// | made by | handlers get |
/// |---|---|
/// | [`Threads::new`] | `&S`, the worker's session, which all threads share |
/// | [`Threads::with_sessions`] | `&mut T`, a session of the thread's own |
///
/// A handler answers by the [`OwnedResponder`], or returns an error, which ends the request. A
/// panic ends the request with an error of the type `panic`, and nothing else. A handler can
/// return first, and have the responder answer later, from another thread.
///
/// ```
/// # fn main() -> slipring::Result<()> {
/// use std::sync::Barrier;
/// use std::time::Duration;
/// use slipring::worker::{Threads, Worker};
/// use slipring::{Config, Kind, RoleConfig, testing};
///
/// const MEET: Kind = Kind::named("meet");
/// let make = || {
///     // A handler returns once two of them run.
///     Worker::new(|_role| Ok(Barrier::new(2))).threads(Threads::new(2).on(
///         MEET,
///         |barrier: &Barrier, request, responder| {
///             barrier.wait();
///             Ok(responder.send(&request.to_vec())?)
///         },
///     ))
/// };
/// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
/// let timeout = Duration::from_secs(10);
/// let one = channel.submit(MEET, "one", timeout)?;
/// let two = channel.submit(MEET, "two", timeout)?;
/// assert_eq!(one.wait()?.to_vec(), b"one");
/// assert_eq!(two.wait()?.to_vec(), b"two");
/// # Ok(())
/// # }
/// ```
#[must_use = "a description does nothing until a worker has it"]
pub struct Threads<S, T = SharedSession> {
    count: usize,
    build: BuildOwn<S, T>,
    handlers: Handlers<Handler<S, T>>,
}

/// The mark of [`Threads`] that share the worker's session.
#[derive(Debug)]
pub struct SharedSession(());

/// The mark of [`Threads`] each of which has a session of its own.
#[derive(Debug)]
pub struct OwnSession<T>(T);

impl<S> Threads<S> {
    /// Describes `count` threads that share the worker's session. The thread that calls
    /// [`Worker::serve`](super::Worker::serve) is one of them.
    pub fn new(count: usize) -> Self {
        Self { count, build: Box::new(|_| Ok(SharedSession(()))), handlers: Handlers::new() }
    }

    /// Serves requests of this kind with `handler`. [`Worker::serve`](super::Worker::serve)
    /// refuses a second handler for a kind.
    ///
    /// The type of the session has to be named in the handler's parameters if the handler uses it:
    /// `|model: &Model, request, responder| …`.
    pub fn on(
        mut self,
        kind: Kind,
        handler: impl Fn(&S, &Request<'_>, OwnedResponder) -> std::result::Result<(), HandlerError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.handlers.add(
            kind,
            Box::new(move |shared, _, request, responder| handler(shared, request, responder)),
        );
        self
    }

    /// Serves requests of every kind that has no handler of its own with `handler`, which finds
    /// the kind in [`Request::kind`]. Without this, such requests fail with an error of the type
    /// `slipring::UnknownKind`. The last call of this method counts.
    pub fn fallback(
        mut self,
        handler: impl Fn(&S, &Request<'_>, OwnedResponder) -> std::result::Result<(), HandlerError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.handlers.set_fallback(Box::new(move |shared, _, request, responder| {
            handler(shared, request, responder)
        }));
        self
    }
}

impl<S, T> Threads<S, OwnSession<T>> {
    /// Describes `count` threads each of which has a session of its own. `build` makes it of the
    /// worker's session, on the thread that uses it and drops it. Requests wait until all threads
    /// have theirs. If one cannot be built, the channel fails with
    /// [`ErrorKind::Session`](crate::ErrorKind::Session) and the error.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::cell::Cell;
    /// use std::rc::Rc;
    /// use std::time::Duration;
    /// use slipring::worker::{Threads, Worker};
    /// use slipring::{Config, Kind, RoleConfig, testing};
    ///
    /// const COUNT: Kind = Kind::named("count");
    /// let make = || {
    ///     // The session of a thread need not be `Send`.
    ///     let threads = Threads::with_sessions(4, |first: &u32| Ok(Rc::new(Cell::new(*first))));
    ///     let threads = threads.on(COUNT, |count: &mut Rc<Cell<u32>>, _, responder| {
    ///         count.set(count.get() + 1);
    ///         Ok(responder.send(&count.get().to_string())?)
    ///     });
    ///     Worker::new(|_role| Ok(100)).threads(threads)
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// assert_eq!(channel.call(COUNT, "", Duration::from_secs(10))?.to_vec(), b"101");
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_sessions(
        count: usize,
        build: impl Fn(&S) -> std::result::Result<T, HandlerError> + Send + Sync + 'static,
    ) -> Self {
        let build = Box::new(move |shared: &S| build(shared).map(OwnSession));
        Self { count, build, handlers: Handlers::new() }
    }

    /// Serves requests of this kind with `handler`. [`Worker::serve`](super::Worker::serve)
    /// refuses a second handler for a kind.
    ///
    /// The type of the session has to be named in the handler's parameters if the handler uses it:
    /// `|model: &mut Model, request, responder| …`.
    pub fn on(
        mut self,
        kind: Kind,
        handler: impl Fn(&mut T, &Request<'_>, OwnedResponder) -> std::result::Result<(), HandlerError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.handlers.add(
            kind,
            Box::new(move |_, OwnSession(own), request, responder| {
                handler(own, request, responder)
            }),
        );
        self
    }

    /// Serves requests of every kind that has no handler of its own with `handler`, which finds
    /// the kind in [`Request::kind`]. Without this, such requests fail with an error of the type
    /// `slipring::UnknownKind`. The last call of this method counts.
    pub fn fallback(
        mut self,
        handler: impl Fn(&mut T, &Request<'_>, OwnedResponder) -> std::result::Result<(), HandlerError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.handlers.set_fallback(Box::new(move |_, OwnSession(own), request, responder| {
            handler(own, request, responder)
        }));
        self
    }
}

impl<S, T> Threads<S, T> {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Checks what a worker refuses before it attaches.
    pub(super) fn check(&self) -> Result<()> {
        if self.count == 0 {
            return Err(Error::new(ErrorKind::InvalidConfig, "a worker without threads"));
        }
        self.handlers.check()
    }

    fn serve(&self, own: &mut T, shared: &S, inbox: &Inbox) -> HandlerResult {
        loop {
            let Incoming { request, responder } = match inbox.recv() {
                Ok(incoming) => incoming,
                Err(error) if error.kind() == ErrorKind::Closed => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            match self.handlers.find_shared(request.kind()) {
                Some(handler) => {
                    responder.run(|responder| {
                        let request = request.get();
                        #[cfg(feature = "tracing")]
                        let _span = request.span().entered();
                        handler(shared, own, &request, responder)
                    });
                }
                None => responder.refuse(unknown_kind(request.kind())),
            }
        }
    }
}

impl<S: Sync, T> Threads<S, T> {
    /// Serves requests until the worker is told to end, or a thread fails.
    pub(super) fn run(&self, shared: &S, inbox: &Inbox) -> HandlerResult {
        let hold = inbox.hold()?;
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            let mut failed = None;
            let mut threads: Vec<ScopedJoinHandle<'_, HandlerResult>> = Vec::new();
            for number in 1..self.count {
                let tell = tell.clone();
                // The kernel keeps 15 bytes of a name.
                let builder = Builder::new().name(format!("slipring-work{number}"));
                let run = move || catch(|| self.run_thread(shared, inbox, tell));
                match builder.spawn_scoped(scope, run) {
                    Ok(thread) => threads.push(thread),
                    Err(error) => {
                        failed =
                            Some(Error::os("cannot start a thread of the worker", error).into());
                        break;
                    }
                }
            }
            // Ends this thread's session before the others are waited for.
            let served = catch(|| {
                let built = catch(|| (self.build)(shared));
                for _ in &threads {
                    if let Ok(Err(error)) = told.recv() {
                        failed.get_or_insert(error);
                    }
                }
                let own = failed.map_or(built, Err);
                // Before the others may take requests.
                let mut own = own.inspect_err(|_| inbox.close())?;
                drop(hold);
                self.serve(&mut own, shared, inbox)
            });
            if served.is_err() {
                inbox.close();
            }
            let join = |thread: ScopedJoinHandle<'_, _>| thread.join().unwrap_or(Ok(()));
            threads.into_iter().map(join).fold(served, std::result::Result::and)
        })
    }

    /// Runs a thread beside the first.
    fn run_thread(&self, shared: &S, inbox: &Inbox, tell: Sender<HandlerResult>) -> HandlerResult {
        let (built, told) = match catch(|| (self.build)(shared)) {
            Ok(own) => (Some(own), Ok(())),
            Err(error) => (None, Err(error)),
        };
        // The first thread waits for this.
        let _ = tell.send(told);
        drop(tell);
        let Some(mut own) = built else { return Ok(()) };
        let served = self.serve(&mut own, shared, inbox);
        if served.is_err() {
            inbox.close();
        }
        served
    }
}

impl<S, T> fmt::Debug for Threads<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<Kind> = self.handlers.kinds().collect();
        f.debug_struct("Threads")
            .field("count", &self.count)
            .field("kinds", &kinds)
            .finish_non_exhaustive()
    }
}
