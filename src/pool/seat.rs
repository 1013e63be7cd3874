//! Where a request that waits for a worker is told what becomes of it.

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
}

/// The place of one request that waits. It is told once.
#[derive(Debug)]
pub(super) struct Seat<L>(Mutex<State<L>>);

#[derive(Debug)]
enum State<L> {
    Waits(Option<Waiter>),
    Told(Told<L>),
    /// Its owner has heard.
    Empty,
}

#[derive(Debug)]
enum Waiter {
    Thread(Thread),
    Task(Waker),
}

impl<L> Seat<L> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State::Waits(None)))
    }

    /// Tells the owner, and wakes it. The caller holds no lock: a waker is an executor's code.
    pub(super) fn tell(&self, told: Told<L>) {
        let before = std::mem::replace(&mut *self.0.lock(), State::Told(told));
        match before {
            State::Waits(Some(Waiter::Thread(thread))) => thread.unpark(),
            State::Waits(Some(Waiter::Task(waker))) => waker.wake(),
            _ => {}
        }
    }

    /// Blocks until the owner is told, or until the deadline, and then returns `None`.
    pub(super) fn wait(&self, deadline: Deadline) -> Option<Told<L>> {
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
    #[allow(dead_code, reason = "for tasks")]
    pub(super) fn poll(&self, waker: &Waker) -> Option<Told<L>> {
        self.look(|| Waiter::Task(waker.clone()))
    }

    fn look(&self, waiter: impl FnOnce() -> Waiter) -> Option<Told<L>> {
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, State::Empty) {
            State::Told(told) => Some(told),
            State::Waits(before) => {
                *state = State::Waits(Some(waiter()));
                drop(state);
                drop(before);
                None
            }
            State::Empty => None,
        }
    }
}
