//! One small thread for all channels of the process: it waits until one of their
//! descriptors is readable, reads that channel's ring for its tasks, and keeps the time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, OnceLock, Weak};
use std::task::Waker;
use std::time::Duration;

use crate::channel::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::process::service::{Home, lock, start_thread};
use crate::process::sys::fd::{Epoll, EventCounter};
use crate::shm::clock::Deadline;

/// Key of the counter that makes the thread look at the timers again.
const WAKE: u64 = 0;

/// A timer that was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerKey {
    pub(crate) deadline: Deadline,
    number: u64,
}

/// The thread's state.
struct Driver {
    epoll: Epoll,
    wake: EventCounter,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    channels: HashMap<u64, Weak<Engine>>,
    timers: BTreeMap<TimerKey, Waker>,
    /// What the thread sleeps until; never while it is awake.
    sleeps_until: Option<Deadline>,
}

static HOME: Home = Home::new();
static DRIVER: OnceLock<Option<Driver>> = OnceLock::new();

fn driver() -> Result<&'static Driver> {
    if !HOME.is_here() {
        return Err(Error::new(ErrorKind::Forked, "tasks of a forked child have no driver"));
    }
    let driver = DRIVER.get_or_init(|| {
        let driver = Driver {
            epoll: Epoll::new().ok()?,
            wake: EventCounter::new().ok()?,
            state: Mutex::default(),
        };
        driver.epoll.add(std::os::fd::AsFd::as_fd(&driver.wake), WAKE).ok()?;
        start_thread("slipring-async", run).ok()?;
        Some(driver)
    });
    driver.as_ref().ok_or_else(|| {
        let out_of = std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        Error::os("the driver of tasks could not be started: no descriptor or thread", out_of)
    })
}

/// A channel that the driver reads for; dropping it ends that.
#[derive(Debug)]
pub(crate) struct Registration {
    key: u64,
    engine: Weak<Engine>,
}

/// Has the driver read for this channel's tasks.
pub(crate) fn register(engine: &std::sync::Arc<Engine>) -> Result<Registration> {
    let driver = driver()?;
    let hint = engine.hint.as_ref().ok_or_else(crate::raw::not_pollable)?;
    let mut state = lock(&driver.state);
    state.next += 1;
    let key = state.next;
    state.channels.insert(key, std::sync::Arc::downgrade(engine));
    drop(state);
    let registration = Registration { key, engine: std::sync::Arc::downgrade(engine) };
    let fd = std::os::fd::AsFd::as_fd(&**hint);
    driver.epoll.add(fd, key).map_err(|e| Error::os("cannot watch a channel", e))?;
    Ok(registration)
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Ok(driver) = driver() else { return };
        lock(&driver.state).channels.remove(&self.key);
        if let Some(engine) = self.engine.upgrade()
            && let Some(hint) = &engine.hint
        {
            // It may not have been added: then there is nothing to remove.
            let _ = driver.epoll.remove(std::os::fd::AsFd::as_fd(&**hint));
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
        lock(&driver.state).timers.remove(&key);
    }
}

fn run() {
    let Some(driver) = DRIVER.wait() else { return };
    let mut keys = Vec::new();
    loop {
        let until = wake_expired(driver);
        let left = (until != Deadline::NEVER).then(|| until.remaining());
        keys.clear();
        let waited = driver.epoll.wait(left, &mut keys);
        lock(&driver.state).sleeps_until = None;
        if waited.is_err_and(|e| e.kind() != std::io::ErrorKind::Interrupted) {
            // Cannot happen with valid arguments; not to spin if it does.
            std::thread::sleep(Duration::from_millis(100));
        }
        for key in &keys {
            if *key == WAKE {
                driver.wake.clear();
                continue;
            }
            let engine = lock(&driver.state).channels.get(key).and_then(Weak::upgrade);
            if let Some(engine) = engine {
                engine.pump();
            }
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
