//! The thread `slipring-async`, one for all channels of the process. It waits until the
//! descriptor of a channel is readable, reads that channel's ring for its tasks, and wakes tasks
//! whose deadline has passed.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::task::Waker;
use std::time::Duration;

use crate::channel::{Core, read_readable};
use crate::error::{Error, Result};
use crate::process::service::{lock, start_thread, wake_task};
use crate::sys::clock::Deadline;
use crate::sys::fd::{Epoll, EventCounter};
use crate::sys::fork;
use crate::sys::wake_fd::WakeFd;

/// The key of the counter that makes the thread look at the timers again. Keys of channels are
/// higher.
const WAKE: u64 = 0;

/// A timer that was set. Timers are sorted by their deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerKey {
    pub(crate) deadline: Deadline,
    number: u64,
}

/// The thread, and what it shares with the threads that use it.
#[derive(Debug)]
struct Driver {
    epoll: Epoll,
    wake: EventCounter,
    state: Mutex<DriverState>,
    /// Whether the thread has been started.
    is_running: Mutex<bool>,
}

#[derive(Debug, Default)]
struct DriverState {
    next: u64,
    channels: HashMap<u64, (Weak<Core>, Arc<WakeFd>)>,
    timers: BTreeMap<TimerKey, Waker>,
    /// Until when the thread sleeps; `None` while it is awake.
    sleeps_until: Option<Deadline>,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

/// Returns the driver, and starts its thread if that has not happened. After an error, as when
/// descriptors have run out, the next call tries again.
fn driver() -> Result<&'static Driver> {
    // A forked child has no such thread, and a lock that the thread holds stays held there.
    fork::check()?;
    if DRIVER.get().is_none() {
        let made = Driver::new().map_err(|e| Error::os("cannot make the driver of tasks", e))?;
        // Another thread may have been faster.
        let _ = DRIVER.set(made);
    }
    let out_of = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
    let driver = DRIVER.get().ok_or_else(|| Error::os("no driver of tasks", out_of()))?;
    let mut is_running = lock(&driver.is_running);
    if !*is_running {
        start_thread("slipring-async", || run(driver))
            .map_err(|e| Error::os("cannot start the driver of tasks", e))?;
        *is_running = true;
    }
    Ok(driver)
}

impl Driver {
    fn new() -> std::io::Result<Self> {
        let (epoll, wake) = (Epoll::new()?, EventCounter::new()?);
        epoll.add(wake.as_fd(), WAKE)?;
        Ok(Self { epoll, wake, state: Mutex::default(), is_running: Mutex::new(false) })
    }

    /// Stops reading for a channel.
    fn forget(&self, key: u64) {
        let forgotten = lock(&self.state).channels.remove(&key);
        if let Some((_, wake_fd)) = forgotten {
            // Closing the descriptor does not remove it, as the worker has a copy. The removal
            // fails if the descriptor was never added, which is no harm.
            let _ = self.epoll.remove(wake_fd.as_fd());
        }
    }
}

/// A channel that the driver reads for, until this is dropped.
#[derive(Debug)]
pub(crate) struct DriverRegistration {
    key: u64,
}

/// Has the driver read for this channel's tasks, until the channel is over.
pub(crate) fn register(core: &Arc<Core>) -> Result<DriverRegistration> {
    let driver = driver()?;
    let wake_fd = core.reactor_state.wake_fd().ok_or_else(crate::link::not_pollable)?;
    let mut state = lock(&driver.state);
    state.next += 1;
    let key = state.next;
    state.channels.insert(key, (Arc::downgrade(core), Arc::clone(wake_fd)));
    drop(state);
    let registration = DriverRegistration { key };
    driver.epoll.add(wake_fd.as_fd(), key).map_err(|e| Error::os("cannot watch a channel", e))?;
    Ok(registration)
}

impl Drop for DriverRegistration {
    fn drop(&mut self) {
        if let Ok(driver) = driver() {
            driver.forget(self.key);
        }
    }
}

/// Wakes `waker` when the deadline has passed. Without a driver the task is woken at once, and
/// looks at the clock itself.
pub(crate) fn set_timer(deadline: Deadline, waker: Waker) -> TimerKey {
    let Ok(driver) = driver() else {
        waker.wake();
        return TimerKey { deadline, number: 0 };
    };
    let mut state = lock(&driver.state);
    state.next += 1;
    let key = TimerKey { deadline, number: state.next };
    state.timers.insert(key, waker);
    let is_earlier = state.sleeps_until.is_some_and(|until| deadline < until);
    drop(state);
    if is_earlier {
        driver.wake.raise();
    }
    key
}

/// Forgets a timer.
pub(crate) fn stop_timer(key: TimerKey) {
    if let Ok(driver) = driver() {
        let waker = lock(&driver.state).timers.remove(&key);
        // After the lock: dropping a waker runs the executor's code.
        drop(waker);
    }
}

fn run(driver: &'static Driver) {
    let mut keys = Vec::new();
    loop {
        // A waker that panics must not end the driver of all channels.
        let turn = AssertUnwindSafe(|| poll_once(driver, &mut keys));
        let _ = std::panic::catch_unwind(turn);
    }
}

/// Wakes the tasks whose deadline has passed, and reads for the channels whose descriptor becomes
/// readable before the next deadline.
fn poll_once(driver: &Driver, keys: &mut Vec<u64>) {
    let until = wake_expired(driver);
    let left = (!until.is_endless()).then(|| until.remaining());
    keys.clear();
    let waited = driver.epoll.wait(left, keys);
    lock(&driver.state).sleeps_until = None;
    if waited.is_err_and(|e| e.kind() != std::io::ErrorKind::Interrupted) {
        // Cannot happen with valid arguments. If it does, the loop must not take a processor.
        std::thread::sleep(Duration::from_millis(100));
    }
    for key in keys.drain(..) {
        if key == WAKE {
            driver.wake.clear();
            continue;
        }
        let core = lock(&driver.state).channels.get(&key).and_then(|(core, _)| core.upgrade());
        let Some(core) = core else { continue };
        if !read_readable(&core) {
            driver.forget(key);
        }
    }
}

/// Wakes the tasks whose deadline has passed. Returns the next deadline.
fn wake_expired(driver: &Driver) -> Deadline {
    let mut expired = Vec::new();
    let mut state = lock(&driver.state);
    while let Some(first) = state.timers.first_entry()
        && first.key().deadline.has_passed()
    {
        expired.push(first.remove());
    }
    let next = state.timers.first_key_value().map_or(Deadline::NEVER, |(key, _)| key.deadline);
    state.sleeps_until = Some(next);
    drop(state);
    expired.into_iter().for_each(wake_task);
    next
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker of the host's");
        }
    }

    #[derive(Default)]
    struct Notes(OnceLock<()>);

    impl Wake for Notes {
        fn wake(self: Arc<Self>) {
            let _ = self.0.set(());
        }
    }

    #[test]
    fn a_waker_that_panics_keeps_no_other_timer_from_waking() {
        let deadline = Deadline::after(Duration::from_millis(100));
        let other = Arc::new(Notes::default());
        let _first = set_timer(deadline, Waker::from(Arc::new(Panics)));
        let _second = set_timer(deadline, Waker::from(Arc::clone(&other)));
        for _ in 0..60_000 {
            if other.0.get().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("never woken");
    }
}
