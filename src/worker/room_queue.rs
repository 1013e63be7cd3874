//! The threads and tasks that wait for room in the reply ring, first come first.
//!
//! The first thread sleeps on the parent's bell, and the others are parked: a ring of the bell
//! wakes all that sleep on it, and makes room for a frame or two. A first that is a task is looked
//! after by the thread in the inbox (`wakers.rs`).

use std::collections::VecDeque;
use std::time::Duration;

use crate::sync::{BACKSTOP, Thread, current, park_timeout};
use crate::sys::clock::now_ns;

#[derive(Debug, Default)]
pub(super) struct RoomQueue {
    waiting: VecDeque<Waiter>,
    next: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    request: u64,
    /// `None` for a task.
    thread: Option<Thread>,
}

/// The number of a thread or a task that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

impl RoomQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds this thread, which has a frame of the request.
    pub(super) fn join(&mut self, request: u64) -> Ticket {
        self.push(request, Some(current()))
    }

    /// Adds a task, as [`RoomQueue::join`] does a thread.
    pub(super) fn join_task(&mut self, request: u64) -> Ticket {
        self.push(request, None)
    }

    fn push(&mut self, request: u64, thread: Option<Thread>) -> Ticket {
        let ticket = self.draw_ticket();
        self.waiting.push_back(Waiter { ticket, request, thread });
        ticket
    }

    /// Returns a number that nothing else has.
    pub(super) fn draw_ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.next);
        self.next = self.next.wrapping_add(1);
        ticket
    }

    pub(super) fn is_first(&self, ticket: Ticket) -> bool {
        self.waiting.front().is_some_and(|first| first.ticket == ticket)
    }

    /// Returns the first, if that is a task.
    pub(super) fn first_task(&self) -> Option<Ticket> {
        let first = self.waiting.front()?;
        first.thread.is_none().then_some(first.ticket)
    }

    /// Removes a thread or a task, and wakes the one that is the first then, if that is a thread.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        self.waiting.retain(|waiter| waiter.ticket != ticket);
        if let Some(thread) = self.waiting.front().and_then(|first| first.thread.as_ref()) {
            thread.unpark();
        }
    }

    /// Wakes the threads of the requests that `is_over` tells of.
    pub(super) fn wake(&self, is_over: impl Fn(u64) -> bool) {
        let over = self.waiting.iter().filter(|waiter| is_over(waiter.request));
        over.filter_map(|waiter| waiter.thread.as_ref()).for_each(Thread::unpark);
    }
}

/// Sleeps until this thread is woken by the queue, or for no reason. All that it waits for wakes
/// it. Returns whether the backstop has passed: a signal does not end this sleep.
pub(super) fn park() -> bool {
    let since = now_ns();
    park_timeout(BACKSTOP);
    Duration::from_nanos(now_ns().wrapping_sub(since)) >= BACKSTOP
}
