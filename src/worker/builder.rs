//! The description of a worker: its session, how requests are served, and what is done at its end.

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::link::WorkerLink;
use crate::protocol::{Kind, RoleConfig};
#[cfg(feature = "tracing")]
use crate::trace_context::TraceContext;
use crate::worker::attach::{self, Attached, Refusal};
use crate::worker::batches::Batches;
use crate::worker::cancel::AbortFlag;
use crate::worker::handler_error::HandlerError;
use crate::worker::handlers::Handlers;
use crate::worker::inbox::Inbox;
use crate::worker::request::Request;
use crate::worker::request_reader::{ReadingHandler, RequestReader};
use crate::worker::responder::{Done, Responder};
use crate::worker::serve::{self, DEFAULT_TAKEN, Definition, two_ways};
use crate::worker::steps::{self, StepEngine};
use crate::worker::stop_token::StopToken;
use crate::worker::tasks::Tasks;
use crate::worker::threads::Threads;

/// A worker: a session that is built once, and a handler for each kind of request.
///
/// **By default it serves one request at a time**, in the order in which the requests were sent.
/// The [module](crate::worker) tells of other ways, and of what becomes of errors, panics and
/// cancels.
///
/// A program is a worker if a [`Spawner`](crate::Spawner) has started it. One program can be
/// both, parent and worker:
///
/// ```no_run
/// use slipring::{Kind, worker};
///
/// fn main() -> slipring::Result<()> {
///     if worker::is_worker() {
///         return worker::Worker::new(|role| Ok(role.role.len()))
///             .on(Kind::app(0), |session, request, responder| {
///                 Ok(responder.send(&format!("{session} {}", request.len()))?)
///             })
///             .serve();
///     }
///     // … the parent's code …
///     Ok(())
/// }
/// ```
pub struct Worker<S>(Definition<S>);

impl<S> Worker<S> {
    /// Makes a worker whose session `build` makes, on the thread that calls [`Worker::serve`],
    /// after the worker has attached. `build` may take as long as it needs: requests wait
    /// meanwhile, and questions for the worker's health are answered. If it fails or panics, the
    /// channel fails with [`ErrorKind::Session`](crate::ErrorKind::Session) and its error.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::time::Duration;
    /// use slipring::worker::Worker;
    /// use slipring::{Config, ErrorKind, Kind, RoleConfig, testing};
    ///
    /// let make = || {
    ///     Worker::new(|role| match role.extra("greeting") {
    ///         Some(greeting) => Ok(greeting.to_owned()),
    ///         None => Err("no greeting is configured".into()),
    ///     })
    ///     .on(Kind::app(0), |greeting, _, responder| Ok(responder.send(greeting.as_str())?))
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let error = channel.call(Kind::app(0), "", Duration::from_secs(10)).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Session);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new(
        build: impl FnOnce(&RoleConfig) -> std::result::Result<S, HandlerError> + 'static,
    ) -> Self {
        Self(Definition {
            build: Box::new(build),
            handlers: Handlers::new(),
            readers: Handlers::new(),
            body: None,
            invalid: None,
            limit: DEFAULT_TAKEN,
            min_limit: 0,
            on_close: None,
            abort_flags: Vec::new(),
            on_interrupt: None,
            #[cfg(feature = "tracing")]
            join: None,
        })
    }

    /// Serves requests of this kind with `handler`. [`Worker::serve`] refuses a second handler
    /// for a kind, and one for a name with the same code.
    ///
    /// The handler is called for one request at a time, and no other handler of this worker runs
    /// meanwhile. It answers by the [`Responder`], or returns an error.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::time::Duration;
    /// use slipring::worker::Worker;
    /// use slipring::{Config, Kind, RoleConfig, testing};
    ///
    /// const PUSH: Kind = Kind::named("push");
    /// const POP: Kind = Kind::named("pop");
    /// let make = || {
    ///     Worker::new(|_role| Ok(Vec::new()))
    ///         .on(PUSH, |stack, request, responder| {
    ///             stack.push(request.to_vec());
    ///             Ok(responder.send("")?)
    ///         })
    ///         .on(POP, |stack, _, responder| {
    ///             let top = stack.pop().ok_or("the stack is empty")?;
    ///             Ok(responder.send(&top)?)
    ///         })
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let timeout = Duration::from_secs(10);
    /// channel.call(PUSH, "a", timeout)?;
    /// assert_eq!(channel.call(POP, "", timeout)?.to_vec(), b"a");
    /// assert!(channel.call(POP, "", timeout).unwrap_err().is_handler_error());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn on(
        mut self,
        kind: Kind,
        handler: impl FnMut(
            &mut S,
            &Request<'_>,
            Responder<'_>,
        ) -> std::result::Result<Done, HandlerError>
        + 'static,
    ) -> Self {
        self.0.handlers.add(kind, Box::new(handler));
        self
    }

    /// Serves requests of this kind with `handler`, as [`Worker::on`] does, but calls it when the
    /// first piece of a long request is there: the handler reads the request while it comes, out
    /// of shared memory. [`RequestReader`] tells more, and has an example.
    ///
    /// Choose it for requests of many frames whose handler can work on a part: it saves a copy of the
    /// whole request and the memory for it. Choose [`Worker::on`] for short requests, for handlers that
    /// need all bytes at once, and if the host writes long requests slowly: other requests wait
    /// while this handler waits for a piece, but not while a request for [`Worker::on`] comes in.
    ///
    /// The request is begun when its first piece has come. So if the worker dies or the timeout passes
    /// while the host still sends, [`Error::was_begun`](crate::Error::was_begun) is `Some(true)`.
    ///
    /// Only a worker that serves one request at a time has such handlers: [`Worker::serve`] refuses
    /// them beside another way to serve. The pieces lie between the requests that come after them, so
    /// that a handler which reads slowly would hold up all that the other ways serve at the same time.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::time::Duration;
    /// use slipring::payload::{Matrix, MatrixRows};
    /// use slipring::worker::Worker;
    /// use slipring::{Config, Kind, RoleConfig, testing};
    ///
    /// const LARGEST: Kind = Kind::named("largest");
    /// let make = || {
    ///     Worker::new(|_role| Ok(vec![0.0; 1000])).on_reader(LARGEST, |row, reader, responder| {
    ///         let mut matrix = MatrixRows::new(reader)?;
    ///         let mut largest = f32::MIN;
    ///         while matrix.rows_left() > 0 {
    ///             matrix.copy_rows(row)?;
    ///             largest = row.iter().copied().fold(largest, f32::max);
    ///         }
    ///         Ok(responder.send(&largest.to_string())?)
    ///     })
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let mut values = vec![1.0; 2_000_000];
    /// values[1_999_999] = 7.5;
    /// let matrix = Matrix::f32(2000, 1000, &values)?;
    /// let reply = channel.call(LARGEST, &matrix, Duration::from_secs(10))?;
    /// assert_eq!(reply.to_vec(), b"7.5");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn on_reader(
        mut self,
        kind: Kind,
        handler: impl FnMut(
            &mut S,
            &mut RequestReader<'_>,
            Responder<'_>,
        ) -> std::result::Result<Done, HandlerError>
        + 'static,
    ) -> Self
    where
        S: 'static,
    {
        let handler = ReadingHandler::new(handler);
        let of_one_frame = handler.again();
        self.0.readers.add(kind, handler);
        self.on(kind, move |session, request, responder| {
            of_one_frame.call(session, RequestReader::of_whole(request), responder)
        })
    }

    /// Serves requests of every kind that has no handler of its own with `handler`, which finds
    /// the kind in [`Request::kind`]. Without this, such requests fail with an error of the type
    /// `slipring::UnknownKind`, and were not begun. The last call of this method counts.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::time::Duration;
    /// use slipring::worker::Worker;
    /// use slipring::{Config, Kind, RoleConfig, testing};
    ///
    /// let make = || {
    ///     Worker::new(|_role| Ok(()))
    ///         .on(Kind::app(0), |_, _, responder| Ok(responder.send("its own")?))
    ///         .fallback(|_, request, responder| Ok(responder.send(&request.kind().to_string())?))
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let timeout = Duration::from_secs(10);
    /// assert_eq!(channel.call(Kind::app(0), "", timeout)?.to_vec(), b"its own");
    /// assert_eq!(channel.call(Kind::app(7), "", timeout)?.to_vec(), b"application kind 7");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn fallback(
        mut self,
        handler: impl FnMut(
            &mut S,
            &Request<'_>,
            Responder<'_>,
        ) -> std::result::Result<Done, HandlerError>
        + 'static,
    ) -> Self {
        self.0.handlers.set_fallback(Box::new(handler));
        self
    }

    /// Has `body` serve the requests, instead of handlers: it takes them out of the [`Inbox`], any
    /// number at a time, and answers them in any order, from any thread. It runs on the thread
    /// that calls [`Worker::serve`], which returns when `body` does. [`Worker::serve`] refuses
    /// handlers of [`Worker::on`] beside it.
    ///
    /// When the worker is told to end, methods of the inbox return
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed), with which `body` should return. Any other
    /// error of `body`, or a panic, ends the channel with
    /// [`ErrorKind::Session`](crate::ErrorKind::Session).
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::time::Duration;
    /// use slipring::worker::{Incoming, Worker};
    /// use slipring::{Config, Kind, RoleConfig, testing};
    ///
    /// let make = || {
    ///     Worker::new(|_role| Ok(())).inbox(|_, inbox| {
    ///         // Two at a time, and the second first.
    ///         loop {
    ///             let (first, second) = (inbox.recv()?, inbox.recv()?);
    ///             for Incoming { request, responder } in [second, first] {
    ///                 responder.send(&request.get().to_vec())?;
    ///             }
    ///         }
    ///     })
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let timeout = Duration::from_secs(10);
    /// let one = channel.submit(Kind::app(0), "one", timeout)?;
    /// let two = channel.submit(Kind::app(0), "two", timeout)?;
    /// assert_eq!(two.wait()?.to_vec(), b"two");
    /// assert_eq!(one.wait()?.to_vec(), b"one");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn inbox(
        self,
        body: impl FnOnce(&mut S, &Arc<Inbox>) -> std::result::Result<(), HandlerError> + 'static,
    ) -> Self {
        self.serve_by(Ok(()), body)
    }

    /// Sets the way to serve, or why [`Worker::serve`] refuses it.
    fn serve_by(
        mut self,
        check: Result<()>,
        body: impl FnOnce(&mut S, &Arc<Inbox>) -> std::result::Result<(), HandlerError> + 'static,
    ) -> Self {
        let check = match self.0.body.replace(Box::new(body)) {
            None => check,
            Some(_) => Err(two_ways()),
        };
        self.0.invalid = self.0.invalid.take().or(check.err());
        self
    }

    /// Serves requests on several threads at the same time, as `threads` describes. Their handlers
    /// are those of [`Threads`]: [`Worker::serve`] refuses handlers of [`Worker::on`] beside them.
    /// All threads end when the worker is told to end, and [`Worker::serve`] returns when the last
    /// handler has.
    ///
    /// [`Threads`] has an example.
    #[must_use]
    pub fn threads<T>(mut self, threads: Threads<S, T>) -> Self
    where
        S: Sync + 'static,
        T: 'static,
    {
        self.0.min_limit = threads.count();
        self.serve_by(threads.check(), move |shared, inbox| threads.run(shared, inbox))
    }

    /// Serves by *continuous batching*: [`StepEngine::add_request`] opens requests while there is
    /// capacity, and [`StepEngine::step`] advances all that are open, again and again. The worker
    /// sleeps only while none is open. When it is told to end, no further step begins, and what is
    /// open ends as cancelled.
    ///
    /// Requests that are cancelled, or whose deadline has passed, before they are opened do not
    /// reach the engine. [`StepEngine`] has an example.
    #[must_use]
    pub fn steps(self) -> Self
    where
        S: StepEngine + 'static,
    {
        self.inbox(|engine, inbox| steps::run(engine, inbox))
    }

    /// Serves by *dynamic batching*: requests of one kind that wait at the same time are served by
    /// one call of a handler. See [`Batches`], which has an example. One batch is served at a time,
    /// on the thread that calls [`Worker::serve`].
    ///
    /// All requests that have come are taken, up to [`Worker::max_taken`].
    #[must_use]
    pub fn batches(self, batches: Batches<S>) -> Self
    where
        S: 'static,
    {
        self.serve_by(batches.check(), move |session, inbox| batches.run(session, inbox))
    }

    /// Serves requests with async handlers, as `tasks` describes, in the place of the handlers of
    /// [`Worker::on`]. The session is shared by all of them: the worker that this returns has it in
    /// an [`Arc`].
    ///
    /// A function that was given to [`Worker::on_close`] before gets the session itself if no
    /// handler has it any more when the worker ends. Otherwise the last handler drops it. A
    /// function that is given to [`Worker::on_close`] after this gets the [`Arc`] in any case.
    ///
    /// [`Tasks`] has an example.
    #[must_use]
    pub fn tasks(self, tasks: Tasks<S>) -> Worker<Arc<S>>
    where
        S: Send + Sync + 'static,
    {
        let shared = Worker(self.0.share());
        shared.serve_by(tasks.check(), move |session, inbox| tasks.run(session, inbox))
    }

    /// Sets how many requests may be taken and not answered at the same time: at least one, and
    /// 1024 by default. Further requests wait in shared memory, in the order in which they were
    /// sent. With [`Worker::threads`], each thread can take one request, whatever this says. A
    /// worker that serves one request at a time does not use it.
    #[must_use]
    pub fn max_taken(mut self, requests: usize) -> Self {
        self.0.limit = requests;
        self
    }

    /// Connects `flag` to the channel's abort flag when the worker attaches, before its session is
    /// built.
    #[must_use]
    pub fn abort_flag(mut self, flag: &AbortFlag) -> Self {
        self.0.abort_flags.push(flag.clone());
        self
    }

    /// Gives the session to `close` when the worker ends, also if it ends by an error. Without
    /// this, the session is dropped.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::sync::mpsc;
    /// use std::time::Duration;
    /// use slipring::worker::Worker;
    /// use slipring::{Config, RoleConfig, testing};
    ///
    /// let (told, hears) = mpsc::channel();
    /// let make = move || {
    ///     Worker::new(|_role| Ok(vec!["unsaved"]))
    ///         .on_close(move |session| told.send(session).unwrap_or_default())
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// channel.close(Duration::from_secs(10))?;
    /// assert_eq!(hears.recv().unwrap(), ["unsaved"]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn on_close(mut self, close: impl FnOnce(S) + 'static) -> Self {
        self.0.on_close = Some(Box::new(close));
        self
    }

    /// Calls `hook` when a signal has interrupted a wait of the worker: for the next request, for
    /// room in shared memory, or for the reader of a stream. An interpreter looks there whether
    /// its own signal handlers have to run. Without a hook, such a wait goes on.
    ///
    /// If the hook returns an error, the wait ends with
    /// [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted), whose
    /// [`source`](std::error::Error::source) is that error: a method of the [`Responder`] returns
    /// it to the handler, and [`Worker::serve`] returns it if no handler runs. The channel is
    /// not hurt by it; but the parent sees the worker end when [`Worker::serve`] returns. The last
    /// call of this method counts.
    ///
    /// The hook runs on the thread whose wait was interrupted, which is the one that called
    /// [`Worker::serve`] unless there are others, and not in the signal handler. A thread that
    /// waits for room behind other threads runs it once a second, whether a signal has come or not.
    /// Signal handlers that were installed with `SA_RESTART` interrupt no wait, and a signal
    /// that arrives while this thread does not sleep interrupts none either. Waits of channels
    /// by name are not interrupted.
    #[must_use]
    pub fn on_interrupt(
        mut self,
        hook: impl Fn() -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.0.on_interrupt = Some(Box::new(hook));
        self
    }

    /// Sets what joins the span of each request that is part of a trace, `serve` of target `slipring`, to
    /// the trace of its caller: it gets the span and what the caller says, as
    /// [`Request::trace_context`] does. What it returns is not used: the function has the form of those
    /// of a gateway, so that one serves both. Handlers run in that span, except of
    /// [`Worker::inbox`], [`Worker::batches`] and [`Worker::steps`], for which
    /// [`Request::span`] makes it. The last call of this method counts.
    ///
    /// The spans have the ids as fields, `trace_id` and `parent_id`, also without this.
    #[cfg(feature = "tracing")]
    #[must_use]
    pub fn join_traces(
        mut self,
        join: impl Fn(&tracing::Span, Option<&TraceContext>) -> Option<TraceContext>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.0.join = Some(Box::new(join));
        self
    }

    /// Attaches to the parent that started this process, and serves requests until the parent
    /// says to end or is gone. Blocks the calling thread for as long. The process should end when
    /// this returns.
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig): two handlers of one kind,
    ///   or a handler for a kind that is not one of requests;
    ///   handlers of [`Worker::on`] or [`Worker::on_reader`] beside another way to serve; two of [`Worker::inbox`],
    ///   [`Worker::threads`], [`Worker::steps`], [`Worker::batches`] and [`Worker::tasks`], or one of them
    ///   twice; no
    ///   thread, a batch of no requests, or a [`Worker::max_taken`] of zero.
    /// * [`ErrorKind::Handshake`](crate::ErrorKind::Handshake): no slipring spawner has started
    ///   this process.
    /// * [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch): the two do not agree on the layout.
    /// * [`ErrorKind::Os`](crate::ErrorKind::Os): memory, descriptors or threads ran out.
    /// * [`ErrorKind::Session`](crate::ErrorKind::Session): the session could not be built.
    /// * [`ErrorKind::PeerCorrupt`](crate::ErrorKind::PeerCorrupt): the parent wrote what cannot
    ///   be.
    /// * [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted): the hook of
    ///   [`Worker::on_interrupt`] ended the wait for the next request.
    ///
    /// The parent is told of `Mismatch`, `Os` and `Session`. It sees the worker end in any case.
    pub fn serve(self) -> Result<()> {
        self.check()?;
        let (mut link, role, stop, parent) = attach::attach()?.into_parts();
        let owner = link.owner.take();
        let refusal = Refusal::of(parent.socket());
        let served = serve::run(link, &role, &stop, owner, self.0, || {
            Attached::confirm(parent, &stop)?;
            refusal.disarm();
            Ok(())
        });
        served.inspect_err(|error| refusal.send(error))
    }

    /// Does the same as [`Worker::serve`], over a link to a parent that did not start this
    /// process.
    #[allow(dead_code, reason = "for the features `testing` and `named`")]
    pub(crate) fn serve_link(
        self,
        link: WorkerLink,
        role: &RoleConfig,
        stop: &Arc<StopToken>,
    ) -> Result<()> {
        self.check()?;
        serve::run(link, role, stop, None, self.0, || Ok(()))
    }

    /// Checks what [`Worker::serve`] refuses before it attaches.
    pub(crate) fn check(&self) -> Result<()> {
        self.0.check()
    }
}

impl<S> fmt::Debug for Worker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<Kind> = self.0.handlers.kinds().collect();
        f.debug_struct("Worker").field("kinds", &kinds).finish_non_exhaustive()
    }
}
