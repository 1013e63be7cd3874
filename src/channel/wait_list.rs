//! Tasks that wait for one thing.
//!
//! Each task has a key under which its waker is kept. A future that is dropped gives its key
//! back, and one that is polled a thousand times still has one: nothing is left behind.
//!
//! Wakers are cloned, dropped and woken outside of the lock: they are the executor's code and
//! may call this channel again. In a forked child these methods do nothing: the tasks are the
//! parent's, and the lock may have been held by a thread that the child does not have.

use std::collections::BTreeMap;
use std::task::Waker;

use crate::process::service::{wake_task, wake_tasks};
use crate::sync::Mutex;
use crate::sys::fork;

/// Tasks to be woken by one event.
#[derive(Debug, Default)]
pub(crate) struct WaitList(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

/// A task's key in one list; zero before its first wait.
#[derive(Debug, Default)]
pub(crate) struct Key(u64);

impl WaitList {
    /// Wakes all tasks, once, on this thread.
    pub(crate) fn wake_all(&self) {
        self.take_all().into_iter().for_each(wake_task);
    }

    /// Wakes all tasks, once, on a thread of their own. For threads that serve all workers and
    /// must not be held up by a task's executor.
    pub(crate) fn wake_all_elsewhere(&self) {
        wake_tasks(self.take_all());
    }

    fn take_all(&self) -> Vec<Waker> {
        if fork::is_forked_child() {
            return Vec::new();
        }
        std::mem::take(&mut self.0.lock().wakers).into_values().collect()
    }

    /// Registers the task's waker. The caller must look for what it waits for afterwards.
    pub(crate) fn wait(&self, key: &mut Key, waker: &Waker) {
        if fork::is_forked_child() {
            return;
        }
        let waker = waker.clone();
        let mut waiting = self.0.lock();
        if key.0 == 0 {
            waiting.next += 1;
            key.0 = waiting.next;
        }
        let replaced = waiting.wakers.insert(key.0, waker);
        drop(waiting);
        drop(replaced);
    }

    /// Forgets the task.
    pub(crate) fn leave(&self, key: &mut Key) {
        let number = std::mem::take(&mut key.0);
        if number != 0 && !fork::is_forked_child() {
            let removed = self.0.lock().wakers.remove(&number);
            drop(removed);
        }
    }

    /// Makes a registration that is given back when it is dropped.
    pub(crate) fn register(&self) -> WaitRegistration<'_> {
        WaitRegistration { list: self, key: Key::default() }
    }
}

/// A task's place in a list. Dropping it forgets the task.
#[derive(Debug)]
pub(crate) struct WaitRegistration<'a> {
    list: &'a WaitList,
    key: Key,
}

impl WaitRegistration<'_> {
    /// As [`WaitList::wait`].
    pub(crate) fn wait(&mut self, waker: &Waker) {
        self.list.wait(&mut self.key, waker);
    }

    /// As [`WaitList::leave`].
    pub(crate) fn leave(&mut self) {
        self.list.leave(&mut self.key);
    }
}

impl Drop for WaitRegistration<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_place_is_woken_once_however_often_it_waits_and_not_after_it_was_left() {
        let (list, counter) = (WaitList::default(), Arc::new(Counter::default()));
        let waker = Waker::from(Arc::clone(&counter));
        let mut registration = list.register();
        (0..100).for_each(|_| registration.wait(&waker));
        list.wake_all();
        list.wake_all();
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        (0..100).for_each(|_| registration.wait(&waker));
        drop(registration);
        list.wake_all();
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        drop(waker);
        assert_eq!(Arc::strong_count(&counter), 1, "nothing is left behind");
    }
}
