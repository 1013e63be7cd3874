//! A worker's life once it is attached: the health thread, the session, the requests, the end.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, HandlerFailure, Result};
use crate::link::WorkerLink;
use crate::protocol::RoleConfig;
use crate::protocol::health::Phase;
use crate::shm::words::OwnU32;
#[cfg(feature = "tracing")]
use crate::trace_context::Join;
use crate::worker::cancel::{AbortFlag, Signals};
use crate::worker::handler_error::HandlerError;
use crate::worker::handlers::{Handler, Handlers};
use crate::worker::health::HealthThread;
use crate::worker::inbox::{Inbox, check_limit};
use crate::worker::last_error::LastError;
use crate::worker::panics::catch;
use crate::worker::reply_sink::{ReplySink, ReplyState};
use crate::worker::request_reader::ReadingHandler;
use crate::worker::request_ring::RequestRing;
use crate::worker::serial::SerialServer;
use crate::worker::shared_sink::looks::{
    look_after_others, wait_until_nothing_is_owed, wake_all_tasks,
};
use crate::worker::shared_sink::{Ending, SharedSink};
use crate::worker::status::StatusWriter;
use crate::worker::stop_token::{InterruptHook, StopToken};
use crate::worker::unanswered::answered_by;

type OnClose<S> = Box<dyn FnOnce(S)>;
type Build<S> = Box<dyn FnOnce(&RoleConfig) -> std::result::Result<S, HandlerError>>;

/// The program's own way to serve.
type ServeInbox<S> = Box<dyn FnOnce(&mut S, &Arc<Inbox>) -> std::result::Result<(), HandlerError>>;

/// How many requests are taken and not answered at a time, unless the program says otherwise.
pub(super) const DEFAULT_TAKEN: usize = 1024;

/// What the program has said of its worker.
pub(super) struct Definition<S> {
    pub(super) build: Build<S>,
    pub(super) handlers: Handlers<Handler<S>>,
    /// The handlers of the same kinds, for requests that are longer than a frame.
    pub(super) readers: Handlers<ReadingHandler<S>>,
    /// Serves many requests at the same time, in the place of the handlers.
    pub(super) body: Option<ServeInbox<S>>,
    /// The error of a way to serve that was described wrongly.
    pub(super) invalid: Option<Error>,
    /// The most requests that are taken and not answered at a time.
    pub(super) limit: usize,
    /// The least `limit`: one request a thread.
    pub(super) min_limit: usize,
    pub(super) on_close: Option<OnClose<S>>,
    pub(super) abort_flags: Vec<AbortFlag>,
    pub(super) on_interrupt: Option<InterruptHook>,
    /// Joins spans to the traces of their requests.
    #[cfg(feature = "tracing")]
    pub(super) join: Option<Box<Join>>,
}

impl<S> Definition<S> {
    /// Checks what a worker refuses before it attaches.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(invalid) = &self.invalid {
            return Err(invalid.clone());
        }
        self.handlers.check()?;
        if self.body.is_some() && !self.readers.is_empty() {
            let message = "requests are read piece by piece only by a worker that serves one request at a time";
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        if self.body.is_some() && !self.handlers.is_empty() {
            let message = "handlers for a worker that takes its requests out of an inbox";
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        check_limit(self.limit)
    }
}

impl<S: 'static> Definition<S> {
    /// Puts the session into an `Arc`. Another way to serve is refused.
    pub(super) fn share(self) -> Definition<Arc<S>> {
        let Self {
            build,
            handlers,
            readers: _,
            body,
            invalid,
            limit,
            min_limit,
            on_close,
            abort_flags,
            on_interrupt,
            #[cfg(feature = "tracing")]
            join,
        } = self;
        let is_second = body.is_some() || !handlers.is_empty();
        Definition {
            build: Box::new(|role| build(role).map(Arc::new)),
            invalid: invalid.or_else(|| is_second.then(two_ways)),
            handlers: Handlers::new(),
            readers: Handlers::new(),
            body: None,
            limit,
            min_limit,
            on_close: on_close.map(|close| -> OnClose<Arc<S>> {
                Box::new(|session| {
                    if let Ok(session) = Arc::try_unwrap(session) {
                        close(session);
                    }
                })
            }),
            abort_flags,
            on_interrupt,
            #[cfg(feature = "tracing")]
            join,
        }
    }
}

/// The error for a worker that is to serve in two ways.
pub(super) fn two_ways() -> Error {
    Error::invalid_config("a worker with two ways to serve; choose one")
}

/// Serves an attached channel to its end. `confirm` tells the parent that the worker is
/// attached, once its health thread owns the owner word.
pub(super) fn run<S>(
    link: WorkerLink,
    role: &RoleConfig,
    stop: &Arc<StopToken>,
    owner: Option<OwnU32>,
    definition: Definition<S>,
    confirm: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let WorkerLink { data, health, words, header, .. } = link;
    words.tell_what_is_understood();
    let words = Arc::new(words);
    let status = StatusWriter::new(Arc::clone(&words));
    let signals = Signals::new(Arc::clone(&words), Arc::clone(stop));
    let last_error = Arc::<LastError>::default();
    let (report, told) = (status.clone(), Arc::clone(&last_error));
    let health = HealthThread::start(health, owner, report, told, Arc::clone(stop))?;
    confirm()?;

    #[cfg(feature = "tracing")]
    if let Some(join) = definition.join {
        words.traces.join_by(join);
    }
    let Definition { build, handlers, readers, body, on_close, abort_flags, on_interrupt, .. } =
        definition;
    let limit = definition.limit.max(definition.min_limit);
    abort_flags.iter().for_each(|flag| flag.connect(&signals));
    if let Some(hook) = on_interrupt {
        stop.on_interrupt(hook);
    }
    let ring = RequestRing::new(data.consumer, &header);
    let (producer, sleeper) = (data.producer, data.sleeper);
    let (own_signals, own_status) = (signals.clone(), status.clone());
    let built = build_session(build, role);
    let served = match body {
        None => {
            let mut sink = ReplySink::new(producer, sleeper, own_signals, own_status, &header);
            let handlers = (handlers, readers);
            let served = serial(built, handlers, ring, &mut sink, &last_error, on_close);
            sink.flush();
            served
        }
        Some(body) => {
            let sink = SharedSink::new(
                (producer, sleeper),
                own_signals,
                own_status,
                Arc::clone(&last_error),
                &header,
            );
            at_once(built, body, limit, ring, sink, on_close)
        }
    };
    status.set_phase(Phase::Stopping);
    health.finish();
    served
}

/// Serves one request at a time.
fn serial<S>(
    built: std::result::Result<S, HandlerFailure>,
    (handlers, readers): (Handlers<Handler<S>>, Handlers<ReadingHandler<S>>),
    mut ring: RequestRing,
    sink: &mut ReplySink,
    last_error: &LastError,
    on_close: Option<OnClose<S>>,
) -> Result<()> {
    let session = built.map_err(|failure| {
        // An error of request 0 speaks of the whole channel. If it cannot be sent, the parent
        // still sees this process end.
        let mut state = sink.begin(0);
        let _ = sink.fail(&mut state, &failure);
        Error::session_failure(failure)
    })?;
    let (signals, status) = (sink.signals(), sink.status());
    status.set_phase(Phase::Serving);
    let (signals, status) = (&signals, &status);
    let mut server = SerialServer { sink, signals, status, last_error, session, handlers, readers };
    let served = server.run(&mut ring);
    close_session(on_close, server.session);
    served
}

/// Serves many requests at the same time.
fn at_once<S>(
    built: std::result::Result<S, HandlerFailure>,
    body: ServeInbox<S>,
    limit: usize,
    ring: RequestRing,
    sink: SharedSink,
    on_close: Option<OnClose<S>>,
) -> Result<()> {
    let sink = Arc::new(sink);
    let fail = |failure: HandlerFailure| {
        // As in `serial`.
        sink.end_later(ReplyState::new(0), Ending::Failed(failure.clone()));
        let _ = wait_until_nothing_is_owed(&sink);
        Error::session_failure(failure)
    };
    let mut session = built.map_err(fail)?;
    sink.status.set_phase(Phase::Serving);
    let inbox = Arc::new(Inbox::new(ring, Arc::clone(&sink), limit));
    let served = catch(|| body(&mut session, &inbox));
    // Tasks and threads that still answer see that this is the end.
    let stop = || {
        sink.signals.stop();
        wake_all_tasks(&sink);
    };
    let served = match served {
        Err(error) if !sink.signals.is_stopping() => {
            // The requests that the session holds end with the error, each by itself. That of the
            // whole channel comes after them.
            let close = || {
                close_session(on_close, session);
                Err(error)
            };
            let failed = answered_by(close, |_| {}).map_err(|error| fail(error.into_failure()));
            stop();
            failed
        }
        // Most often an error is the one by which the inbox tells of the stop.
        _ => {
            stop();
            close_session(on_close, session);
            Ok(())
        }
    };
    // What was owed goes out if there is room.
    let _ = look_after_others(&sink);
    served
}

fn build_session<S>(build: Build<S>, role: &RoleConfig) -> std::result::Result<S, HandlerFailure> {
    let built = catch(|| build(role));
    // A descriptor that the session has not taken has no use any more.
    role.close_fds();
    built.map_err(HandlerError::into_failure)
}

fn close_session<S>(close: Option<OnClose<S>>, session: S) {
    let Some(close) = close else { return };
    // The panic hook writes a panic to the log. The worker ends anyway.
    let _ = catch(|| {
        close(session);
        Ok(())
    });
}
