//! One connection, as its requests see it.

use std::sync::Arc;

use super::Shared;
use super::budget::{Held, Memory};
use super::unread::Answers;

/// The gateway, and what a connection uses of it.
pub(super) struct Caller {
    pub(super) shared: Arc<Shared>,
    pub(super) answers: Arc<Answers>,
    memory: Arc<Memory>,
}

impl Caller {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let memory = Memory::new(&shared.memory, shared.buffers, shared.longest_request());
        Self { shared: Arc::clone(shared), answers: Arc::default(), memory }
    }

    /// Begins to count bytes in memory.
    pub(super) fn held(&self) -> Held {
        Held::nothing(&self.memory)
    }
}
