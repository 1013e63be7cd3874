//! A thread that wakes tasks for those threads of the library that serve all workers.
//!
//! A waker is the executor's code. One that blocked the supervisor or the watch thread would
//! hold up the news of other workers' deaths, and every spawn. The thread is started when
//! the first task has to hear of an end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::task::Waker;

use super::service::{Home, lock, start_thread};

static HOME: Home = Home::new();
static QUEUE: Mutex<Option<Sender<Vec<Waker>>>> = Mutex::new(None);

/// Wakes the tasks soon, in order, on a thread of its own; at once and here if that thread
/// cannot be started. Does nothing in a forked child, whose tasks are not its own.
pub(crate) fn wake(wakers: Vec<Waker>) {
    if wakers.is_empty() || !HOME.is_here() {
        return;
    }
    let mut queue = lock(&QUEUE);
    if queue.is_none() {
        let (sender, receiver) = channel::<Vec<Waker>>();
        let run = move || receiver.into_iter().flatten().for_each(wake_one);
        *queue = start_thread("slipring-wake", run).is_ok().then_some(sender);
    }
    let unsent = match &*queue {
        Some(sender) => sender.send(wakers).err().map(|refused| refused.0),
        None => Some(wakers),
    };
    drop(queue);
    unsent.into_iter().flatten().for_each(wake_one);
}

/// A waker that panics is its executor's fault, and must not keep the others asleep.
fn wake_one(waker: Waker) {
    let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
}
