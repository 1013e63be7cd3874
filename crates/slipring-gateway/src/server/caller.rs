//! One connection, as its requests see it.

use std::sync::Arc;

use super::Shared;
use super::budget::{Held, Memory};
use super::connections::{AtWorkers, Seat, Workers};
use super::timers::Timers;
use super::unread::Answers;

/// The gateway, and what a connection uses of it.
pub(super) struct Caller {
    pub(super) shared: Arc<Shared>,
    pub(super) answers: Arc<Answers>,
    /// For looks whether a worker has begun a request.
    pub(super) timers: Timers,
    workers: Workers,
    memory: Arc<Memory>,
}

impl Caller {
    pub(super) fn new(shared: &Arc<Shared>, seat: &Seat) -> Self {
        let memory = Memory::new(&shared.memory, shared.buffers, shared.longest_request());
        let (shared, workers) = (Arc::clone(shared), seat.workers());
        Self { shared, answers: Arc::default(), timers: Timers::default(), workers, memory }
    }

    /// Notes that workers have a request.
    pub(super) fn at_workers(&self) -> AtWorkers {
        self.workers.have_request()
    }

    /// Begins to count bytes in memory.
    pub(super) fn held(&self) -> Held {
        Held::nothing(&self.memory)
    }
}
