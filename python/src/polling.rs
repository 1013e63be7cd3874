//! How a thread waits for a future of the library.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::wait::{LOOK, wait};

/// Wakes a thread that waits for a future.
struct Unpark {
    thread: Thread,
    is_woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        // Pairs with the load of `poll_for`: what the future has is visible to its next poll, which
        // the future's own locks would make so, too.
        self.is_woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Polls until there is a result, for `longest` at most. Looks for [`LOOK`] before it sleeps.
pub(crate) fn poll_for<T>(
    longest: Duration,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Option<T> {
    let begun = Instant::now();
    let unpark = Arc::new(Unpark { thread: thread::current(), is_woken: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&unpark));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(found) = poll(&mut context) {
            return Some(found);
        }
        // Pairs with the store of `Unpark::wake`.
        while !unpark.is_woken.swap(false, Ordering::Acquire) {
            let waited = begun.elapsed();
            let left = longest.saturating_sub(waited);
            if left.is_zero() {
                return None;
            }
            if waited < LOOK {
                std::hint::spin_loop();
            } else {
                thread::park_timeout(left);
            }
        }
    }
}

/// Waits until a future is ready. An exception of a signal handler drops it.
pub(crate) fn wait_for<T: Send>(
    py: Python<'_>,
    future: impl Future<Output = slipring::Result<T>> + Send,
) -> PyResult<T> {
    let mut future = pin!(future);
    wait(py, |longest| poll_for(longest, |context| future.as_mut().poll(context)).transpose())
}
