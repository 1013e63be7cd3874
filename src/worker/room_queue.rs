//! The threads that wait for room in the reply ring, first come first.
//!
//! The first of them sleeps on the parent's bell, and the others are parked: a ring of the bell
//! wakes all that sleep on it, and makes room for a frame or two.

use std::collections::VecDeque;

use crate::sync::{BACKSTOP, Thread, current, park_timeout};

#[derive(Debug, Default)]
pub(super) struct RoomQueue {
    waiting: VecDeque<Waiter>,
    next: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    request: u64,
    thread: Thread,
}

/// A thread's place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

impl RoomQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds this thread, which has a frame of the request.
    pub(super) fn join(&mut self, request: u64) -> Ticket {
        let ticket = Ticket(self.next);
        self.next = self.next.wrapping_add(1);
        self.waiting.push_back(Waiter { ticket, request, thread: current() });
        ticket
    }

    pub(super) fn is_first(&self, ticket: Ticket) -> bool {
        self.waiting.front().is_some_and(|first| first.ticket == ticket)
    }

    /// Removes a thread, and wakes the one that is the first then.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        self.waiting.retain(|waiter| waiter.ticket != ticket);
        if let Some(first) = self.waiting.front() {
            first.thread.unpark();
        }
    }

    /// Wakes the threads of the requests that `is_over` tells of.
    pub(super) fn wake(&self, is_over: impl Fn(u64) -> bool) {
        let over = self.waiting.iter().filter(|waiter| is_over(waiter.request));
        over.for_each(|waiter| waiter.thread.unpark());
    }
}

/// Sleeps until this thread is woken by the queue, or for no reason. All that it waits for wakes
/// it, so that the backstop passes only if something is wrong.
pub(super) fn park() {
    park_timeout(BACKSTOP);
}
