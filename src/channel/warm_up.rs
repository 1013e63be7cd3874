//! The request that a worker serves before it counts as ready.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::protocol::Kind;

/// A request that the host has named for this, and whether it was served.
#[derive(Debug)]
pub(crate) struct WarmUp {
    kind: Kind,
    payload: Vec<u8>,
    /// A hint only: two waits at the same time may both send it.
    is_served: AtomicBool,
}

impl WarmUp {
    pub(super) fn new((kind, payload): (Kind, Vec<u8>)) -> Self {
        Self { kind, payload, is_served: AtomicBool::new(false) }
    }

    /// What is to be sent; `None` once it was served.
    pub(crate) fn request(&self) -> Option<(Kind, &[u8])> {
        (!self.is_served.load(Ordering::Relaxed)).then_some((self.kind, &self.payload))
    }

    pub(crate) fn note_served(&self) {
        self.is_served.store(true, Ordering::Relaxed);
    }
}
