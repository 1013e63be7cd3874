//! What is told of the best routines: to later rings of this process, and to the peer.

use std::sync::atomic::AtomicU32;

use crate::config::{CopyChoices, CopyRoutine};
use crate::shm::words::PeerU32;
use crate::sync::Ordering;

/// What the rings of this process have found last, for those that are made later.
#[derive(Debug)]
pub(crate) struct Findings(AtomicU32);

/// The findings of this process.
pub(crate) static FINDINGS: Findings = Findings::new();

impl Findings {
    pub(super) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// What was found, as [`CopyChoices::to_bits`] tells it: zero for a class of which nothing is
    /// known.
    pub(crate) fn bits(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes what another process has found for its own, if nothing is known yet.
    pub(crate) fn begin_with(&self, bits: u32) {
        // One that fails has found something.
        let _ = self.0.compare_exchange(0, bits, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Notes the best routine of a class. Of two rings that do so at the same time, one may be
    /// lost: it is a hint.
    pub(super) fn note(&self, class: usize, routine: CopyRoutine) {
        self.0.store(CopyChoices::bits_with(self.bits(), class, routine), Ordering::Relaxed);
    }
}

/// What a peer's producer says of its choice.
#[derive(Debug)]
pub(crate) struct PeerCopies(PeerU32);

impl PeerCopies {
    pub(crate) fn new(word: PeerU32) -> Self {
        Self(word)
    }

    /// `None` if the peer says nothing that this version knows.
    pub(crate) fn read(&self) -> Option<CopyChoices> {
        CopyChoices::from_bits(self.0.load(Ordering::Relaxed))
    }
}
