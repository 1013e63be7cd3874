//! The receiving side of a channel: the consumer, and the turn to read it (lock 1).
//!
//! There is no thread of the library's own on this path. A thread that waits for a reply
//! takes the turn, hands the frames of others to their requests, and leaves with its own. A
//! lone caller always reads for itself and pays no hop between threads.
//!
//! # Ordering
//!
//! The turn is never waited for. Two kinds of readers can find it taken:
//!
//! * A thread registers as a follower and in the pending table, fences, tries once more, and
//!   parks. A reader that leaves gives the turn back, fences, and looks for followers. So one
//!   of the two sees the other, and no thread parks while nothing reads.
//! * A task or a reactor sets `missed`, fences, tries once more, and leaves. A reader that
//!   leaves gives the turn back, fences, and looks at `missed`. If it is set, it reads again.
//!   So no frame that a reactor was called for is left unread.

use std::sync::Arc;

use crate::channel::waiter::WakeList;
use crate::config::CopyChoices;
use crate::ring::{Consumer, PeerCopies, ReaderGauge};
use crate::sync::{AtomicU32, Ordering, TryGuard, TryLock};

/// Owner of the reply ring's consumer.
#[derive(Debug)]
pub(crate) struct Receiver {
    consumer: TryLock<Consumer>,
    /// Threads that wait behind the one that reads.
    followers: AtomicU32,
    /// Set by a task or reactor that found the turn taken.
    missed: AtomicU32,
    /// Tasks that the reader wakes when it has given the turn back.
    pub(super) wake_list: WakeList,
    gauge: ReaderGauge,
    peer_copies: Arc<PeerCopies>,
}

impl Receiver {
    pub(super) fn new(consumer: Consumer) -> Self {
        Self {
            gauge: consumer.gauge(),
            peer_copies: Arc::clone(consumer.peer_copies()),
            consumer: TryLock::new(consumer),
            followers: AtomicU32::new(0),
            missed: AtomicU32::new(0),
            wake_list: WakeList::default(),
        }
    }

    /// The turn to read, if no other reader has it. A thread gives it back with
    /// `turn::end_turn`, which lets others have it that found it taken.
    #[inline]
    pub(super) fn try_turn(&self) -> Option<TryGuard<'_, Consumer>> {
        self.consumer.try_lock()
    }

    pub(super) fn add_follower(&self) {
        self.followers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove_follower(&self) {
        self.followers.fetch_sub(1, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn has_followers(&self) -> bool {
        self.followers.load(Ordering::Relaxed) != 0
    }

    /// Leaves a note for the reader that a task or reactor found the turn taken.
    pub(super) fn set_missed(&self) {
        self.missed.store(1, Ordering::Relaxed);
    }

    /// Whether a task or reactor found the turn taken since the last call.
    #[inline]
    pub(super) fn take_missed(&self) -> bool {
        self.missed.load(Ordering::Relaxed) != 0 && self.missed.swap(0, Ordering::Relaxed) != 0
    }

    /// How the worker copies into the reply ring, as it says itself.
    pub(super) fn peer_copies(&self) -> Option<CopyChoices> {
        self.peer_copies.read()
    }

    /// Replies and chunks that still hold a slot.
    pub(super) fn leases_held(&self) -> usize {
        self.gauge.held()
    }

    /// Bytes of the reply ring that the worker cannot fill again yet.
    pub(super) fn used(&self) -> u64 {
        self.gauge.used()
    }

    /// The most bytes that the worker has found in the reply ring when that seemed full.
    pub(super) fn high_water(&self) -> u64 {
        self.gauge.high_water()
    }
}
