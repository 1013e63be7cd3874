//! The part of a remote role that each request keeps: its tasks run until the last one is over.

use std::sync::Arc;

use slipring::Kind;

use super::discovery::Checked;
use super::shared::Shared;
use super::wire::Connect;
use crate::trace::Joined;

/// A remote role with its tasks, which end when it is dropped.
pub(super) struct Role<C: Connect> {
    pub(super) shared: Arc<Shared<C>>,
    /// The kinds of requests that may be served twice.
    pub(super) idempotent: Vec<Kind>,
    pub(super) joined: Joined,
}

impl<C: Connect> Role<C> {
    /// Begins to look for gateways and to connect to them.
    pub(super) fn start(
        shared: Shared<C>,
        idempotent: Vec<Kind>,
        joined: Joined,
        discovery: Checked,
    ) -> Arc<Self> {
        let shared = Arc::new(shared);
        let told = Arc::clone(&shared);
        let follow = discovery.follow(move |update| told.note_addresses(update));
        shared.keep_discovery(shared.spawn(follow));
        Arc::new(Self { shared, idempotent, joined })
    }
}

impl<C: Connect> Drop for Role<C> {
    fn drop(&mut self) {
        self.shared.end();
    }
}
