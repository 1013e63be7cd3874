//! A queue between threads that either side may close: unlike `std`'s
//! channels it has several consumers, and closing it wakes all of them.
//!
//! It needs no bound of its own: the number of batches in the program is fixed
//! (see [`crate::pipeline`]).

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
}

impl<T> Queue<T> {
    pub(crate) fn new(items: impl IntoIterator<Item = T>) -> Self {
        Self {
            state: Mutex::new(State { items: items.into_iter().collect(), closed: false }),
            changed: Condvar::new(),
        }
    }

    /// Appends an item. Never blocks. After `close` the item is dropped.
    pub(crate) fn push(&self, item: T) {
        let mut state = self.lock();
        if !state.closed {
            state.items.push_back(item);
            self.changed.notify_one();
        }
    }

    /// Takes the oldest item. Blocks while the queue is empty and open; `None`
    /// means that it is empty and closed.
    pub(crate) fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Accepts no more items. The items inside can still be taken.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_out_in_order_and_survive_the_closing() {
        let queue = Queue::new([1, 2]);
        queue.push(3);
        queue.close();
        queue.push(4);
        let items: Vec<i32> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(items, [1, 2, 3]);
    }

    #[test]
    fn closing_wakes_every_consumer_that_waits() {
        let queue = Queue::<()>::new([]);
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| queue.pop())).collect();
            queue.close();
            for consumer in waiting {
                assert_eq!(consumer.join().unwrap(), None);
            }
        });
    }
}
