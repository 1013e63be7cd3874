//! Wakes tasks for those threads of the library that serve all workers.
//!
//! A waker is the executor's code. One that blocked the supervisor or the watch thread would
//! hold up the news of other workers' deaths, and every spawn.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

use super::service::{Home, run_apart};

static HOME: Home = Home::new();

/// Wakes the tasks soon, in order, on a short-lived thread of their own, so that one waker
/// that blocks holds up these tasks alone; at once and here if no thread can be had. Does
/// nothing in a forked child, whose tasks are not its own.
pub(crate) fn wake(wakers: Vec<Waker>) {
    if wakers.is_empty() || !HOME.is_here() {
        return;
    }
    run_apart("slipring-wake", move || wakers.into_iter().for_each(wake_one));
}

/// A waker that panics is its executor's fault, and must not keep the others asleep.
fn wake_one(waker: Waker) {
    let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
}
