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

pub(super) struct Handlers<S> {
    by_kind: Vec<(Kind, Handler<S>)>,
    fallback: Option<Handler<S>>,
}

impl<S> Handlers<S> {
    pub(super) fn new() -> Self {
        Self { by_kind: Vec::new(), fallback: None }
    }

    pub(super) fn add(&mut self, kind: Kind, handler: Handler<S>) {
        self.by_kind.push((kind, handler));
    }

    pub(super) fn set_fallback(&mut self, handler: Handler<S>) {
        self.fallback = Some(handler);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_kind.is_empty() && self.fallback.is_none()
    }

    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.by_kind.iter().map(|(kind, _)| *kind)
    }

    /// Returns the handler for requests of this kind.
    pub(super) fn find(&mut self, kind: Kind) -> Option<&mut Handler<S>> {
        let Self { by_kind, fallback } = self;
        let own = by_kind.iter_mut().find(|(other, _)| *other == kind);
        match own {
            Some((_, handler)) => Some(handler),
            None => fallback.as_mut().filter(|_| kind.is_request()),
        }
    }

    /// Returns [`ErrorKind::InvalidConfig`] for two handlers of one kind and for a kind that no
    /// request has.
    pub(super) fn check(&self) -> Result<()> {
        let invalid = |message| Err(Error::new(ErrorKind::InvalidConfig, message));
        for (index, kind) in self.kinds().enumerate() {
            if self.kinds().take(index).any(|other| other == kind) {
                return invalid(format!(
                    "two handlers for {kind}; if these are two names, rename one"
                ));
            }
            if !kind.is_request() || kind == Kind::READY {
                return invalid(format!("a handler for {kind}, which is not a kind of request"));
            }
        }
        Ok(())
    }
}
