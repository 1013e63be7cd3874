//! The part of a remote role that each request keeps: its tasks run until the last one is over.

use std::future::pending;
use std::sync::{Arc, Weak};

use slipring::Kind;

use super::discovery::Checked;
use super::shared::{Shared, Stage};
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
        let shut_down = ShutDown(Arc::downgrade(&shared));
        shared.keep_discovery(shared.spawn(async move {
            let _shut_down = shut_down;
            follow.await;
            pending().await
        }));
        Arc::new(Self { shared, idempotent, joined })
    }
}

impl<C: Connect> Drop for Role<C> {
    fn drop(&mut self) {
        self.shared.end(Stage::Closed);
    }
}

/// Ends the role with the task that has this, unless the role has ended the task. Its requests wait by
/// timers of the runtime, which panic once that was shut down.
struct ShutDown<C: Connect>(Weak<Shared<C>>);

impl<C: Connect> Drop for ShutDown<C> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.end(Stage::ShutDown);
        }
    }
}
