//! A stream of a role that can be cancelled, whatever attempt it is at.

use std::sync::{Arc, Weak};

use super::cancels::Cancel;
#[cfg(feature = "async")]
use super::overflow::CancelElsewhere;
use super::role::RoleShared;
use super::scheduler::Ticket;
use super::seat::Seat;
use super::worker::Worker;
use crate::id::RequestId;
use crate::sync::plain::Mutex;
use crate::sys::fork;

/// A stream over all its attempts, for those that cancel it.
///
/// A cancel holds for all attempts that follow: it sets the mark first, and then ends the attempt
/// that it finds. An attempt shows itself first, and then looks at the mark.
#[derive(Debug)]
pub(super) struct StreamCancel {
    role: Weak<RoleShared>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_cancelled: bool,
    attempt: Attempt,
}

/// Where the attempt is that a cancel has to end.
#[derive(Debug, Default, Clone)]
enum Attempt {
    #[default]
    Nowhere,
    /// It waits for a worker.
    Waits(Ticket, Arc<Seat<Worker>>),
    /// A worker has it.
    Sent(Arc<Worker>, RequestId),
    /// Workers that are not the role's own have it.
    #[cfg(feature = "async")]
    Elsewhere(Arc<CancelElsewhere>),
}

impl StreamCancel {
    pub(super) fn new(role: &RoleShared) -> Arc<Self> {
        Arc::new(Self { role: role.this(), state: Mutex::default() })
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.state.lock().is_cancelled
    }

    /// The attempt waits for a worker. Returns false if the stream was cancelled before.
    pub(super) fn note_wait(&self, ticket: Ticket, seat: &Arc<Seat<Worker>>) -> bool {
        self.note(Attempt::Waits(ticket, Arc::clone(seat)))
    }

    /// A worker has the attempt. Returns false if the stream was cancelled before.
    pub(super) fn note_sent(&self, worker: &Arc<Worker>, request: RequestId) -> bool {
        self.note(Attempt::Sent(Arc::clone(worker), request))
    }

    /// Workers that are not the role's own are to have the attempt. Returns false if the stream was
    /// cancelled before.
    #[cfg(feature = "async")]
    pub(super) fn note_elsewhere(&self, cancel: &Arc<CancelElsewhere>) -> bool {
        self.note(Attempt::Elsewhere(Arc::clone(cancel)))
    }

    /// The attempt is over.
    pub(super) fn note_over(&self) {
        self.note(Attempt::Nowhere);
    }

    fn note(&self, attempt: Attempt) -> bool {
        let mut state = self.state.lock();
        let before = std::mem::replace(&mut state.attempt, attempt);
        let is_cancelled = state.is_cancelled;
        drop(state);
        // The last owner of a worker ends it.
        drop(before);
        !is_cancelled
    }
}

impl Cancel for StreamCancel {
    fn cancel(self: Arc<Self>) {
        if fork::is_forked_child() {
            return;
        }
        let mut state = self.state.lock();
        state.is_cancelled = true;
        let attempt = state.attempt.clone();
        drop(state);
        match attempt {
            Attempt::Nowhere => {}
            Attempt::Waits(ticket, seat) => {
                if let Some(role) = self.role.upgrade() {
                    role.cancel_wait(ticket, &seat);
                }
            }
            Attempt::Sent(worker, request) => {
                if let Some(channel) = worker.channel() {
                    channel.core().cancel(request);
                }
            }
            #[cfg(feature = "async")]
            Attempt::Elsewhere(cancel) => cancel.cancel(),
        }
    }
}
