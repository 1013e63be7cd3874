//! Tasks that wait for one thing. Each has a place that it can leave, so that a future
//! that is dropped, or polled a thousand times, leaves nothing behind.
//!
//! Wakers are cloned, dropped and woken outside of the lock: what they do is the
//! executor's business, and may lead back here. In a forked child, whose parent's tasks are
//! not its own and in which the lock may be held for ever, nothing is done.

use std::collections::BTreeMap;
use std::task::Waker;

use crate::sync::Mutex;
use crate::sys::fork;

/// Those who wait.
#[derive(Debug, Default)]
pub(crate) struct Wakers(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    #[cfg(feature = "async")]
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

/// Somebody's place; zero before the first wait.
#[cfg(feature = "async")]
#[derive(Debug, Default)]
pub(crate) struct Place(u64);

impl Wakers {
    /// Wakes everybody, once.
    pub(crate) fn wake_all(&self) {
        if fork::is_forked_child() {
            return;
        }
        let waiting = std::mem::take(&mut self.0.lock().wakers);
        waiting.into_values().for_each(Waker::wake);
    }

    /// As [`Wakers::wake_all`], for a thread that serves all workers, and is not to be held
    /// up by a task's executor.
    pub(crate) fn wake_all_elsewhere(&self) {
        #[cfg(feature = "async")]
        {
            let waiting = std::mem::take(&mut self.0.lock().wakers);
            crate::process::notifier::wake(waiting.into_values().collect());
        }
    }

    /// Has the task woken next time; look for what is waited for after this.
    #[cfg(feature = "async")]
    pub(crate) fn wait(&self, place: &mut Place, waker: &Waker) {
        if fork::is_forked_child() {
            return;
        }
        let waker = waker.clone();
        let mut waiting = self.0.lock();
        if place.0 == 0 {
            waiting.next += 1;
            place.0 = waiting.next;
        }
        let before = waiting.wakers.insert(place.0, waker);
        drop(waiting);
        drop(before);
    }

    #[cfg(feature = "async")]
    pub(crate) fn leave(&self, place: &mut Place) {
        let number = std::mem::take(&mut place.0);
        if number != 0 && !fork::is_forked_child() {
            let left = self.0.lock().wakers.remove(&number);
            drop(left);
        }
    }

    /// Takes the lock, for a test of what must not wait for it.
    #[cfg(all(test, feature = "tokio", not(loom)))]
    pub(super) fn hold(&self) -> impl Sized {
        self.0.lock()
    }

    #[cfg(feature = "async")]
    pub(crate) fn seat(&self) -> Seat<'_> {
        Seat { wakers: self, place: Place::default() }
    }
}

/// A place that is left when this is dropped.
#[cfg(feature = "async")]
#[derive(Debug)]
pub(crate) struct Seat<'a> {
    wakers: &'a Wakers,
    place: Place,
}

#[cfg(feature = "async")]
impl Seat<'_> {
    /// As [`Wakers::wait`].
    pub(crate) fn wait(&mut self, waker: &Waker) {
        self.wakers.wait(&mut self.place, waker);
    }

    pub(crate) fn leave(&mut self) {
        self.wakers.leave(&mut self.place);
    }
}

#[cfg(feature = "async")]
impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(all(test, feature = "async"))]
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
        let (wakers, counter) = (Wakers::default(), Arc::new(Counter::default()));
        let waker = Waker::from(Arc::clone(&counter));
        let mut seat = wakers.seat();
        (0..100).for_each(|_| seat.wait(&waker));
        wakers.wake_all();
        wakers.wake_all();
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        (0..100).for_each(|_| seat.wait(&waker));
        drop(seat);
        wakers.wake_all();
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        drop(waker);
        assert_eq!(Arc::strong_count(&counter), 1, "nothing is left behind");
    }
}
