//! A worker's life once it is attached: the health thread, the session, the requests, the end.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::link::WorkerLink;
use crate::protocol::RoleConfig;
use crate::protocol::health::Phase;
use crate::shm::layout::as_usize;
use crate::shm::words::OwnU32;
use crate::worker::cancel::{AbortFlag, Signals};
use crate::worker::handler_error::HandlerError;
use crate::worker::handlers::Handlers;
use crate::worker::health::{HealthThread, LastError};
use crate::worker::inbox::Inbox;
use crate::worker::panics::catch;
use crate::worker::reply_sink::ReplySink;
use crate::worker::serial::SerialServer;
use crate::worker::status::StatusWriter;
use crate::worker::stop_token::{InterruptHook, StopToken};

type Build<S> = Box<dyn FnOnce(&RoleConfig) -> std::result::Result<S, HandlerError>>;

/// What the host has said of its worker.
pub(super) struct Definition<S> {
    pub(super) build: Build<S>,
    pub(super) handlers: Handlers<S>,
    pub(super) on_close: Option<Box<dyn FnOnce(S)>>,
    pub(super) abort_flags: Vec<AbortFlag>,
    pub(super) on_interrupt: Option<InterruptHook>,
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
    let words = Arc::new(words);
    let status = StatusWriter::new(Arc::clone(&words));
    let signals = Signals::new(words, Arc::clone(stop));
    let last_error = Arc::<LastError>::default();
    let (report, told) = (status.clone(), Arc::clone(&last_error));
    let health = HealthThread::start(health, owner, report, told, Arc::clone(stop))?;
    confirm()?;

    let Definition { build, handlers, on_close, abort_flags, on_interrupt } = definition;
    abort_flags.iter().for_each(|flag| flag.connect(&signals));
    if let Some(hook) = on_interrupt {
        stop.on_interrupt(hook);
    }
    let mut inbox = Inbox::new(data.consumer, as_usize(header.max_message));
    let mut sink =
        ReplySink::new(data.producer, data.sleeper, signals.clone(), status.clone(), &header);
    let served = build_session(build, role, &mut sink).and_then(|session| {
        status.set_phase(Phase::Serving);
        let sink = &mut sink;
        let (signals, status, last_error) = (&signals, &status, &*last_error);
        let mut server = SerialServer { sink, signals, status, last_error, session, handlers };
        let served = server.run(&mut inbox);
        close_session(on_close, server.session);
        served
    });
    status.set_phase(Phase::Stopping);
    sink.flush();
    health.finish();
    served
}

/// Builds the session, or tells the parent why there will never be one.
fn build_session<S>(build: Build<S>, role: &RoleConfig, sink: &mut ReplySink) -> Result<S> {
    let built = catch(|| build(role));
    // A descriptor that the session has not taken has no use any more.
    role.close_fds();
    built.map_err(|error| {
        let failure = error.into_failure();
        // An error of request 0 speaks of the whole channel. If it cannot be sent, the parent
        // still sees this process end.
        let mut state = sink.begin(0);
        let _ = sink.fail(&mut state, &failure);
        Error::session_failure(failure)
    })
}

fn close_session<S>(close: Option<Box<dyn FnOnce(S)>>, session: S) {
    let Some(close) = close else { return };
    // The panic hook writes a panic to the log. The worker ends anyway.
    let _ = catch(|| {
        close(session);
        Ok(())
    });
}
