//! The requests of a role that are cancelled by their numbers, whatever attempt they are at.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use crate::sync::plain::Mutex;
use crate::sys::fork;

/// A request that can be cancelled.
pub(super) trait Cancel: fmt::Debug + Send + Sync {
    /// Ends it, unless it has ended. Never blocks.
    fn cancel(self: Arc<Self>);
}

/// The requests that can be cancelled, by number. Each takes itself out when it is gone.
#[derive(Debug, Default)]
pub(super) struct Cancels(Mutex<BTreeMap<u64, Weak<dyn Cancel>>>);

impl Cancels {
    pub(super) fn insert(&self, number: u64, request: Weak<dyn Cancel>) {
        self.0.lock().insert(number, request);
    }

    pub(super) fn remove(&self, number: u64) {
        self.0.lock().remove(&number);
    }

    /// Cancels a request, if it is there.
    pub(super) fn cancel(&self, number: u64) {
        // There the lock may be held for ever.
        if fork::is_forked_child() {
            return;
        }
        let found = self.0.lock().get(&number).and_then(Weak::upgrade);
        if let Some(request) = found {
            request.cancel();
        }
    }
}
