//! Where a waiter is told what it waits for: a request what becomes of it, and the owner of one
//! that was submitted how it has ended.

use std::sync::Arc;
use std::task::Waker;

use super::scheduler::{Grant, Refusal};
use crate::sync::{Mutex, Thread, current, park_timeout};
use crate::sys::clock::Deadline;

/// What becomes of a request that waited, with its worker `L`.
#[derive(Debug)]
pub(super) enum Told<L> {
    Granted(Grant, Arc<L>),
    Refused(Refusal),
    /// It goes to workers that are not the role's own.
    Leave,
    /// It was cancelled, and has left the queue.
    Cancelled,
}

/// The place of one request that waits for a worker.
pub(super) type Seat<L> = Answer<Told<L>>;

/// What one thread or task waits for. It is told once.
#[derive(Debug)]
pub(super) struct Answer<T>(Mutex<State<T>>);

#[derive(Debug)]
enum State<T> {
    Waits(Option<Waiter>),
    Told(T),
    /// Its owner has heard.
    Empty,
    /// Its owner does not want to hear any more.
    Abandoned,
}

#[derive(Debug)]
enum Waiter {
    Thread(Thread),
    Task(Waker),
}

impl<T> Answer<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State::Waits(None)))
    }

    /// Tells the owner, and wakes it. Returns what was to be told if the owner will not hear. The caller
    /// holds no lock: a waker is an executor's code.
    pub(super) fn tell(&self, told: T) -> Option<T> {
        let mut state = self.0.lock();
        if matches!(*state, State::Abandoned) {
            return Some(told);
        }
        let before = std::mem::replace(&mut *state, State::Told(told));
        drop(state);
        match before {
            State::Waits(Some(Waiter::Thread(thread))) => thread.unpark(),
            State::Waits(Some(Waiter::Task(waker))) => waker.wake(),
            _ => {}
        }
        None
    }

    /// The owner does not wait any more. Returns what it was told before.
    pub(super) fn abandon(&self) -> Option<T> {
        // The lock is free before a waker is dropped: that is an executor's code.
        let before = std::mem::replace(&mut *self.0.lock(), State::Abandoned);
        match before {
            State::Told(told) => Some(told),
            _ => None,
        }
    }

    /// Blocks until the owner is told, or until the deadline, and then returns `None`.
    pub(super) fn wait(&self, deadline: Deadline) -> Option<T> {
        loop {
            if let Some(told) = self.look(|| Waiter::Thread(current())) {
                return Some(told);
            }
            let left = deadline.remaining();
            if left.is_zero() {
                return None;
            }
            park_timeout(left);
        }
    }

    /// Returns what the owner is told, or has `waker` woken for it.
    pub(super) fn poll(&self, waker: &Waker) -> Option<T> {
        self.look(|| Waiter::Task(waker.clone()))
    }

    fn look(&self, waiter: impl FnOnce() -> Waiter) -> Option<T> {
        // Before the lock: the clone of a waker is an executor's code.
        let waiter = waiter();
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, State::Empty) {
            State::Told(told) => Some(told),
            State::Waits(before) => {
                *state = State::Waits(Some(waiter));
                drop(state);
                drop(before);
                None
            }
            other => {
                *state = other;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_comes_to_its_owner_once_or_back_if_that_has_left() {
        let (heard, left) = (Answer::new(), Answer::new());
        assert_eq!(heard.poll(Waker::noop()), None);
        assert_eq!(heard.tell(1), None);
        assert_eq!(heard.poll(Waker::noop()), Some(1));
        assert_eq!((heard.poll(Waker::noop()), heard.abandon()), (None, None));
        assert_eq!(left.abandon(), None);
        assert_eq!((left.tell(2), left.poll(Waker::noop())), (Some(2), None));
        let late = Answer::new();
        assert_eq!((late.tell(3), late.abandon()), (None, Some(3)));
    }
}
