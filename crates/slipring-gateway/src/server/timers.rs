//! Timers that are used again.
//!
//! To set a timer that ends before all others wakes the runtime's driver: a system call, and often a thread
//! that sleeps, for each request that looks for its answer after a moment. To put off a timer that still
//! runs costs neither. So the timer of a request that was answered soon runs on for the next one.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// How many are kept.
const KEPT: usize = 8;

/// The timers of one connection, whose requests are all of one runtime.
#[derive(Debug, Default)]
pub(super) struct Timers(Mutex<Vec<Pin<Box<Sleep>>>>);

/// A timer. It is kept for the next request when this is dropped.
pub(super) struct Timer<'a> {
    timers: &'a Timers,
    /// Always there until the drop.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timers {
    /// Returns a timer that ends after so long.
    pub(super) fn timer_after(&self, after: Duration) -> Timer<'_> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let sleep = match kept {
            Some(mut sleep) => {
                sleep.as_mut().reset(Instant::now() + after);
                sleep
            }
            None => Box::pin(sleep(after)),
        };
        Timer { timers: self, sleep: Some(sleep) }
    }
}

impl Timer<'_> {
    /// Sets it to end after so long.
    pub(super) fn set(&mut self, after: Duration) {
        if let Some(sleep) = &mut self.sleep {
            sleep.as_mut().reset(Instant::now() + after);
        }
    }

    /// Ready when it has ended.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().map_or(Poll::Ready(()), |sleep| sleep.as_mut().poll(context))
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let mut kept = self.timers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.extend(self.sleep.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_used_again_ends_at_its_new_time() {
        let (timers, second) = (Timers::default(), Duration::from_secs(1));
        let mut addresses = Vec::new();
        // The last one has ended while it was kept.
        for pause in [0, 1, 5] {
            tokio::time::sleep(pause * second).await;
            let (mut timer, began) = (timers.timer_after(3 * second), Instant::now());
            addresses.push(std::ptr::from_ref(timer.sleep.as_deref().unwrap()));
            let end = poll_fn(|context| timer.poll(context));
            assert!(tokio::time::timeout(2 * second, end).await.is_err());
            if pause == 5 {
                poll_fn(|context| timer.poll(context)).await;
                assert_eq!(began.elapsed().as_secs(), 3);
            }
        }
        assert!(addresses.iter().all(|address| *address == addresses[0]), "it is the same one");
    }

    #[tokio::test]
    async fn few_timers_are_kept() {
        let timers = Timers::default();
        let second = Duration::from_secs(1);
        drop((0..2 * KEPT).map(|_| timers.timer_after(second)).collect::<Vec<_>>());
        assert_eq!(timers.0.lock().unwrap().len(), KEPT);
    }
}
