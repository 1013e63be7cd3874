//! The handlers of a worker, by kind.

use crate::error::{Error, ErrorKind, Result};
use crate::protocol::Kind;
use crate::worker::handler_error::HandlerError;
use crate::worker::request::Request;
use crate::worker::responder::{Done, Responder};

/// A request's handler. It gets the session, the request and the means to reply, and returns
/// what replying gave it.
pub(super) type Handler<S> =
    Box<dyn FnMut(&mut S, &Request<'_>, Responder<'_>) -> std::result::Result<Done, HandlerError>>;

/// Handlers of the type `H`.
pub(super) struct Handlers<H> {
    by_kind: Vec<(Kind, H)>,
    fallback: Option<H>,
}

impl<H> Handlers<H> {
    pub(super) fn new() -> Self {
        Self { by_kind: Vec::new(), fallback: None }
    }

    pub(super) fn add(&mut self, kind: Kind, handler: H) {
        self.by_kind.push((kind, handler));
    }

    pub(super) fn set_fallback(&mut self, handler: H) {
        self.fallback = Some(handler);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_kind.is_empty() && self.fallback.is_none()
    }

    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> + Clone {
        self.by_kind.iter().map(|(kind, _)| *kind)
    }

    /// Returns the handler for requests of this kind.
    pub(super) fn find(&mut self, kind: Kind) -> Option<&mut H> {
        let Self { by_kind, fallback } = self;
        let own = by_kind.iter_mut().find(|(other, _)| *other == kind);
        match own {
            Some((_, handler)) => Some(handler),
            None => fallback.as_mut().filter(|_| kind.is_request()),
        }
    }

    /// Does the same for handlers that several threads share.
    pub(super) fn find_shared(&self, kind: Kind) -> Option<&H> {
        let own = self.by_kind.iter().find(|(other, _)| *other == kind);
        match own {
            Some((_, handler)) => Some(handler),
            None => self.fallback.as_ref().filter(|_| kind.is_request()),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        check_kinds(self.kinds())
    }
}

/// The error of a request for whose kind there is no handler.
pub(super) fn unknown_kind(kind: Kind) -> HandlerError {
    HandlerError::new("slipring::UnknownKind", format!("this worker has no handler for {kind}"))
}

/// Returns [`ErrorKind::InvalidConfig`] for two handlers of one kind and for a kind that no
/// request has.
pub(super) fn check_kinds(kinds: impl Iterator<Item = Kind> + Clone) -> Result<()> {
    let invalid = |message| Err(Error::new(ErrorKind::InvalidConfig, message));
    for (index, kind) in kinds.clone().enumerate() {
        if kinds.clone().take(index).any(|other| other == kind) {
            return invalid(format!("two handlers for {kind}; if these are two names, rename one"));
        }
        if !kind.is_request() || kind == Kind::READY {
            return invalid(format!("a handler for {kind}, which is not a kind of request"));
        }
    }
    Ok(())
}
