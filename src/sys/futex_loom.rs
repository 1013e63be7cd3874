//! The kernel's promises of [`futex`](super::futex), for the model checker.
//!
//! Comparing the words and going to sleep is one step with respect to a wake. A wake reaches
//! those threads that sleep on that very word with that very scope, and no others. The model is
//! stricter than the kernel, in that no thread wakes for no reason: then no lost wake-up is made
//! good by luck. A wait with a deadline ends by the deadline.
#![allow(clippy::unwrap_used, reason = "model checking only")]

use loom::sync::{Condvar, Mutex, MutexGuard};

use super::clock::Deadline;
use crate::sync::{AtomicU32, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Private,
    Shared,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slept {
    Interrupted,
    Ended,
}

/// A word's address, and which threads sleep on it.
type Key = (usize, Scope);

#[derive(Default)]
struct Queue {
    /// The threads that sleep, by ticket, and on what.
    sleepers: Vec<(u64, [Key; 2])>,
    next_ticket: u64,
}

loom::lazy_static! {
    static ref QUEUE: (Mutex<Queue>, Condvar) = (Mutex::default(), Condvar::new());
}

fn key(word: &AtomicU32, scope: Scope) -> Key {
    (std::ptr::from_ref(word).addr(), scope)
}

pub(crate) fn wait_either(
    shared: &AtomicU32,
    shared_value: u32,
    private: &AtomicU32,
    private_value: u32,
    deadline: Deadline,
) -> Slept {
    let queue = QUEUE.0.lock().unwrap();
    let same = shared.load(Ordering::Relaxed) == shared_value
        && private.load(Ordering::Relaxed) == private_value;
    if !same {
        return Slept::Ended;
    }
    sleep(queue, [key(shared, Scope::Shared), key(private, Scope::Private)], deadline)
}

pub(crate) fn wait(word: &AtomicU32, expected: u32, scope: Scope, deadline: Deadline) -> Slept {
    let queue = QUEUE.0.lock().unwrap();
    if word.load(Ordering::Relaxed) != expected {
        return Slept::Ended;
    }
    sleep(queue, [key(word, scope); 2], deadline)
}

fn sleep(mut queue: MutexGuard<'_, Queue>, keys: [Key; 2], deadline: Deadline) -> Slept {
    if !deadline.is_endless() {
        crate::sync::pass(deadline.remaining());
        return Slept::Ended;
    }
    let ticket = queue.next_ticket;
    queue.next_ticket += 1;
    queue.sleepers.push((ticket, keys));
    while queue.sleepers.iter().any(|(sleeper, _)| *sleeper == ticket) {
        queue = QUEUE.1.wait(queue).unwrap();
    }
    Slept::Ended
}

pub(crate) fn wake_all(word: &AtomicU32, scope: Scope) {
    let mut queue = QUEUE.0.lock().unwrap();
    let word = key(word, scope);
    queue.sleepers.retain(|(_, keys)| !keys.contains(&word));
    drop(queue);
    QUEUE.1.notify_all();
}

/// Wakes the one that sleeps longest, as the kernel does.
pub(crate) fn wake_one(word: &AtomicU32, scope: Scope) {
    let mut queue = QUEUE.0.lock().unwrap();
    let word = key(word, scope);
    let first = queue.sleepers.iter().position(|(_, keys)| keys.contains(&word));
    first.map(|first| queue.sleepers.remove(first));
    drop(queue);
    QUEUE.1.notify_all();
}
