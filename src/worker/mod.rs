//! The worker's side: attach, build a session, serve requests until told to end.
//!
//! Level 6. On a byte's trip this is where a request becomes a call of the host's
//! own code, and where the mirror path back begins.

mod attach;
mod failure;
mod health;
mod raw;
mod reply;
mod request;
mod serve;
mod stop;

use std::fmt;
#[cfg(any(feature = "testing", feature = "named"))]
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
#[cfg(any(feature = "testing", feature = "named"))]
use crate::link::WorkerLink;
use crate::protocol::Kind;
use crate::protocol::RoleConfig;

pub use attach::is_worker;
pub use failure::HandlerError;
pub use raw::attach_raw;
pub use reply::{Chunks, Done, Reply, ReplyWriter, Slot};
pub use request::Request;
#[cfg(any(feature = "testing", feature = "named"))]
pub(crate) use stop::Stop;

/// A request's handler: gets the session, the request and the means to reply, and
/// returns what replying gave it.
type Handler<S> =
    Box<dyn FnMut(&mut S, &Request<'_>, Reply<'_>) -> std::result::Result<Done, HandlerError>>;

type Build<S> = Box<dyn FnOnce(&RoleConfig) -> std::result::Result<S, HandlerError>>;

/// A worker: a session that is built once, and a handler for each kind of request.
///
/// ```no_run
/// use slipring::{Kind, worker};
///
/// fn main() -> slipring::Result<()> {
///     if worker::is_worker() {
///         return worker::Worker::new(|config| Ok(config.role.len()))
///             .on(Kind::app(0), |session, request, reply| {
///                 Ok(reply.send(&format!("{session} {}", request.len()))?)
///             })
///             .serve();
///     }
///     // … the parent's code …
///     Ok(())
/// }
/// ```
///
/// An error or a panic in a handler becomes the error reply of that request, and the
/// worker lives on; after a panic the session is whatever the handler left of it.
pub struct Worker<S> {
    build: Build<S>,
    handlers: Vec<(Kind, Handler<S>)>,
    on_close: Option<Box<dyn FnOnce(S)>>,
}

impl<S> Worker<S> {
    /// A worker whose session is made by `build`, on the thread that calls
    /// [`Worker::serve`], after the worker has attached: loading a model may take as
    /// long as it likes. Requests wait in the ring meanwhile, pings are answered.
    /// If it fails the channel fails with what it returned.
    #[must_use]
    pub fn new(
        build: impl FnOnce(&RoleConfig) -> std::result::Result<S, HandlerError> + 'static,
    ) -> Self {
        Self { build: Box::new(build), handlers: Vec::new(), on_close: None }
    }

    /// Serves requests of this kind. A second handler for a kind, or for a name with the
    /// same code, is refused by [`Worker::serve`].
    #[must_use]
    pub fn on(
        mut self,
        kind: Kind,
        handler: impl FnMut(&mut S, &Request<'_>, Reply<'_>) -> std::result::Result<Done, HandlerError>
        + 'static,
    ) -> Self {
        self.handlers.push((kind, Box::new(handler)));
        self
    }

    /// Gets the session when the worker ends in an orderly way; otherwise it is dropped.
    #[must_use]
    pub fn on_close(mut self, close: impl FnOnce(S) + 'static) -> Self {
        self.on_close = Some(Box::new(close));
        self
    }

    /// Attaches to the parent that started this process and serves it until it says to
    /// end or is gone. Blocks the calling thread for as long; the process should end
    /// when this returns.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Handshake`] if this process was not started by a slipring spawner,
    /// [`ErrorKind::Mismatch`] if the two do not agree on the layout,
    /// [`ErrorKind::Session`] if the session could not be built,
    /// [`ErrorKind::InvalidConfig`] for two handlers of one kind,
    /// [`ErrorKind::PeerCorrupt`] if the parent writes what cannot be. The parent is told.
    pub fn serve(self) -> Result<()> {
        self.check()?;
        let (mut link, role, stop, parent) = attach::attach()?.into_parts();
        let owner = link.owner.take();
        let refusal = attach::Refusal::of(parent.socket());
        let served = serve::run(link, &role, &stop, owner, self, || {
            attach::Attached::confirm(parent, &stop)?;
            refusal.disarm();
            Ok(())
        });
        served.inspect_err(|error| refusal.send(error))
    }

    /// As [`Worker::serve`], over a link to a parent that did not start this process.
    #[cfg(any(feature = "testing", feature = "named"))]
    pub(crate) fn serve_link(
        self,
        link: WorkerLink,
        role: &RoleConfig,
        stop: &Arc<Stop>,
    ) -> Result<()> {
        self.check()?;
        serve::run(link, role, stop, None, self, || Ok(()))
    }

    pub(crate) fn check(&self) -> Result<()> {
        for (index, (kind, _)) in self.handlers.iter().enumerate() {
            if self.handlers.iter().take(index).any(|(other, _)| other == kind) {
                return Err(Error::new(
                    ErrorKind::InvalidConfig,
                    format!("two handlers for {kind}; if these are two names, rename one"),
                ));
            }
        }
        match self.handlers.iter().find(|(kind, _)| !kind.is_request() || *kind == Kind::READY) {
            Some((kind, _)) => Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("a handler for {kind}, which is not a kind of request"),
            )),
            None => Ok(()),
        }
    }
}

impl<S> fmt::Debug for Worker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<Kind> = self.handlers.iter().map(|(kind, _)| *kind).collect();
        f.debug_struct("Worker").field("kinds", &kinds).finish_non_exhaustive()
    }
}
