//! One small thread for all channels of the process: it waits until one of their
//! descriptors is readable, reads that channel's ring for its tasks, and keeps the time.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::task::Waker;
use std::time::Duration;

use crate::channel::{Core, read_readable};
use crate::error::{Error, Result};
use crate::process::service::{lock, start_thread};
use crate::sys::clock::Deadline;
use crate::sys::fd::{Epoll, EventCounter};
use crate::sys::fork;
use crate::sys::wake_fd::WakeFd;

/// Key of the counter that makes the thread look at the timers again.
const WAKE: u64 = 0;

/// A timer that was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerKey {
    pub(crate) deadline: Deadline,
    number: u64,
}

/// The thread's state.
#[derive(Debug)]
struct Driver {
    epoll: Epoll,
    wake: EventCounter,
    state: Mutex<State>,
    /// Whether the thread is there.
    is_running: Mutex<bool>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    channels: HashMap<u64, (Weak<Core>, Arc<WakeFd>)>,
    timers: BTreeMap<TimerKey, Waker>,
    /// What the thread sleeps until; never while it is awake.
    sleeps_until: Option<Deadline>,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

/// The driver. What cannot be had today, a descriptor or a thread, is tried again when
/// it is needed the next time.
fn driver() -> Result<&'static Driver> {
    // The thread is not in a forked child, but the locks that it may have held are.
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

    fn forget(&self, key: u64) {
        let forgotten = lock(&self.state).channels.remove(&key);
        if let Some((_, wake_fd)) = forgotten {
            // Explicitly: the worker has the descriptor too, and keeps its entry alive. It
            // may not have been added: then there is nothing to remove.
            let _ = self.epoll.remove(wake_fd.as_fd());
        }
    }
}

/// A channel that the driver reads for; dropping it ends that.
#[derive(Debug)]
pub(crate) struct Registration {
    key: u64,
}

/// Has the driver read for this channel's tasks, until the channel is over.
pub(crate) fn register(core: &Arc<Core>) -> Result<Registration> {
    let driver = driver()?;
    let wake_fd = core.reactor().wake_fd().ok_or_else(crate::link::not_pollable)?;
    let mut state = lock(&driver.state);
    state.next += 1;
    let key = state.next;
    state.channels.insert(key, (Arc::downgrade(core), Arc::clone(wake_fd)));
    drop(state);
    let registration = Registration { key };
    driver.epoll.add(wake_fd.as_fd(), key).map_err(|e| Error::os("cannot watch a channel", e))?;
    Ok(registration)
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Ok(driver) = driver() {
            driver.forget(self.key);
        }
    }
}

/// Wakes `waker` when the deadline has passed. Where there is no driver the task is
/// woken at once, so that it looks for itself.
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

pub(crate) fn stop_timer(key: TimerKey) {
    if let Ok(driver) = driver() {
        let waker = lock(&driver.state).timers.remove(&key);
        // A waker's drop may run anything: not under the lock.
        drop(waker);
    }
}

fn run(driver: &'static Driver) {
    let mut keys = Vec::new();
    loop {
        // A waker that panics is its executor's bug, and must not end everybody's driver.
        let turn = AssertUnwindSafe(|| turn(driver, &mut keys));
        let _ = std::panic::catch_unwind(turn);
    }
}

fn turn(driver: &Driver, keys: &mut Vec<u64>) {
    let until = wake_expired(driver);
    let left = (!until.is_endless()).then(|| until.remaining());
    keys.clear();
    let waited = driver.epoll.wait(left, keys);
    lock(&driver.state).sleeps_until = None;
    if waited.is_err_and(|e| e.kind() != std::io::ErrorKind::Interrupted) {
        // Cannot happen with valid arguments; not to spin if it does.
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

/// Wakes the tasks whose time has come; returns when the next one's comes.
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
    expired.into_iter().for_each(Waker::wake);
    next
}
