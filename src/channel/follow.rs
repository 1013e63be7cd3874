//! Waiting behind a thread that reads, and handing the reader's place on.
//!
//! # Ordering
//!
//! A thread that finds the reader's lock taken announces itself (`followers`, then the
//! table), fences, and tries the lock once more before it parks; a reader unlocks,
//! fences, and looks for followers. One of the two sees the other, so that a thread
//! never parks while nobody reads. A thread that was woken to read, but has what it
//! wanted by then, hands on what it was given.

use std::time::Duration;

use crate::channel::engine::Engine;
use crate::channel::receive::Want;
use crate::protocol::table::Waiter;
use crate::sync::mutant::{self, Mutant, chosen};
use crate::sync::{self, Ordering};
use crate::sys::clock::Deadline;
use crate::sys::fork;

/// A parked thread looks again at least this often. Not in a model: it would make good what
/// was lost.
const BACKSTOP: Duration = if cfg!(loom) { Duration::MAX } else { Duration::from_secs(1) };

impl Engine {
    /// Parks until woken, the deadline or the backstop. False if the deadline passed.
    pub(super) fn follow(&self, want: Want, deadline: Deadline) -> bool {
        self.followers.fetch_add(1, Ordering::Relaxed);
        if let Some(place) = self.register(want) {
            mutant::full_fence(Mutant::NoFenceBeforePark); // pairs with the fence in `hand_over`
            let is_read = chosen(Mutant::NoSecondTry) || self.reader.try_lock().is_none();
            if is_read && self.life.is_open() {
                sync::park_timeout(deadline.remaining().min(BACKSTOP));
            } else if is_read {
                // The reader knows that it is over, and may need this processor to leave.
                if !chosen(Mutant::SpinsBehindReader) {
                    sync::yield_now();
                }
            } else {
                // The lock was free and is free again: somebody may have missed it.
                self.hand_over();
            }
            self.unregister(want, place);
        }
        self.followers.fetch_sub(1, Ordering::Relaxed);
        !deadline.has_passed()
    }

    /// Announces that this thread waits, unless what it wants is there; returns its place
    /// among those who wait for room.
    fn register(&self, want: Want) -> Option<u64> {
        let me = Waiter::Thread(sync::current());
        match want {
            Want::Reply(request) | Want::Chunk(request) => {
                self.table.lock().wait(request, me).then_some(0)
            }
            Want::Room(len) => {
                let place = self.want_room(len, me);
                // The reader announces what is wanted when it sleeps the next time.
                if !chosen(Mutant::RoomNotAsked) {
                    self.life.alarm.raise();
                }
                Some(place)
            }
        }
    }

    pub(super) fn want_room(&self, len: usize, waiter: Waiter) -> u64 {
        let place = self.room.lock().add(len, waiter);
        self.room_wanted.fetch_add(1, Ordering::Relaxed);
        place
    }

    pub(crate) fn leave_room(&self, place: u64) {
        if fork::is_forked_child() {
            return;
        }
        let left = self.room.lock().remove(place);
        drop(left);
        self.room_wanted.fetch_sub(1, Ordering::Relaxed);
    }

    fn unregister(&self, want: Want, place: u64) {
        match want {
            Want::Reply(request) | Want::Chunk(request) => {
                self.table.lock().stop_waiting(request);
            }
            Want::Room(_) => self.leave_room(place),
        }
    }

    /// Whoever gives the reader's lock back calls this: somebody may have found it taken.
    pub(super) fn hand_over(&self) {
        // Pairs with the fences in `follow` and `run_pump`.
        mutant::full_fence(Mutant::NoFenceAtHandOver);
        self.pump_for_tasks();
        self.wake_a_thread();
    }

    /// Wakes a thread that waits, to read the ring in this one's place.
    #[inline]
    pub(super) fn wake_a_thread(&self) {
        if self.followers.load(Ordering::Relaxed) != 0 && !chosen(Mutant::NoHandOver) {
            self.wake_follower();
        }
    }

    #[cold]
    fn wake_follower(&self) {
        let next = self.table.lock().pick_thread();
        if let Some(waiter) = next.or_else(|| self.room.lock().pick_thread()) {
            waiter.wake();
        }
    }
}
