//! Reading for a channel's tasks from tokio's own reactor.
//!
//! The library's own thread takes over if that runtime ends before the channel does, and as
//! soon as a task of another executor waits: the runtime's reactor runs only while the
//! runtime is polled, and a task elsewhere must not wait for that.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Mutex, Weak};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Handle, Id};
use tokio::task::{AbortHandle, JoinHandle};

use crate::channel::{Core, read_for_task, read_readable};
use crate::error::{Error, ErrorKind, Result};
use crate::link::not_pollable;
use crate::process::service::lock;
use crate::sys::fork;
use crate::sys::wake_fd::WakeFd;
use crate::tasks::driver::{self, DriverRegistration};

/// The task that reads; dropping it ends the task.
#[derive(Debug)]
pub(crate) struct TokioDriver {
    /// Always there until the drop.
    task: Option<JoinHandle<()>>,
    successor: Arc<Mutex<Successor>>,
}

/// What reads when the task is gone.
#[derive(Debug)]
enum Successor {
    None,
    Thread(
        #[expect(dead_code, reason = "ends the registration when it is dropped")]
        DriverRegistration,
    ),
    /// The channel is not used any more.
    NotNeeded,
}

impl TokioDriver {
    pub(crate) fn start(core: &Arc<Core>) -> Result<Self> {
        fork::check()?;
        let runtime = Handle::try_current().map_err(|e| {
            Error::new(ErrorKind::Unsupported, format!("no tokio runtime here: {e}"))
        })?;
        let wake_fd = core.reactor_state.wake_fd().ok_or_else(not_pollable)?;
        let failed = |e| Error::os("cannot watch a channel", e);
        let fd = OwnedWakeFd(Arc::clone(wake_fd));
        #[allow(
            deprecated,
            reason = "its replacement is unsafe and not in older versions; what it asks for, a \
                      descriptor that stays the same while it is owned, holds for what keeps the wake_fd"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE).map_err(failed)?;
        let successor = Arc::new(Mutex::new(Successor::None));
        let reading = ReadingTask { core: Arc::downgrade(core), successor: Arc::clone(&successor) };
        let task = runtime.spawn(async move {
            while ready(&fd).await {
                let Some(core) = reading.core.upgrade() else { return };
                if !read_readable(&core) {
                    *lock(&reading.successor) = Successor::NotNeeded;
                    return;
                }
            }
        });
        let guard = Guard {
            runtime: runtime.id(),
            core: Arc::downgrade(core),
            successor: Arc::clone(&successor),
            task: task.abort_handle(),
        };
        core.reactor_state.set_before_wait(move || guard.before_wait());
        Ok(Self { task: Some(task), successor })
    }
}

/// What hands the channel over to the library's thread when it is needed.
struct Guard {
    runtime: Id,
    core: Weak<Core>,
    successor: Arc<Mutex<Successor>>,
    task: AbortHandle,
}

impl Guard {
    /// A task is about to wait, on this thread.
    fn before_wait(&self) {
        // The runtime polls its reactor before it sleeps, and so for each of its own tasks.
        if Handle::try_current().is_ok_and(|current| current.id() == self.runtime) {
            return;
        }
        let Some(core) = self.core.upgrade() else { return };
        if take_over(&core, &self.successor) {
            // It ends when the runtime is polled the next time; until then both may read.
            self.task.abort();
        }
    }
}

/// Has the library's thread read from now on. Returns whether it did not before.
fn take_over(core: &Arc<Core>, successor: &Mutex<Successor>) -> bool {
    let mut successor = lock(successor);
    if let Successor::None = *successor
        && let Ok(registration) = driver::register(core)
    {
        *successor = Successor::Thread(registration);
        return true;
    }
    false
}

/// The descriptor, kept open until the reactor has dropped it.
struct OwnedWakeFd(Arc<WakeFd>);

impl AsRawFd for OwnedWakeFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Waits until the descriptor is readable; false when the runtime shuts down.
async fn ready(fd: &AsyncFd<OwnedWakeFd>) -> bool {
    match fd.readable().await {
        Ok(mut guard) => {
            // Before the ring is read: what comes from here on makes it ready again.
            guard.clear_ready();
            true
        }
        Err(_) => false,
    }
}

/// The task's post; when it is left, by the end of the runtime, another takes it.
struct ReadingTask {
    core: Weak<Core>,
    successor: Arc<Mutex<Successor>>,
}

impl Drop for ReadingTask {
    fn drop(&mut self) {
        let Some(core) = self.core.upgrade() else { return };
        if take_over(&core, &self.successor) {
            // What came between the last look and the registration.
            read_for_task(&core);
        }
    }
}

impl Drop for TokioDriver {
    fn drop(&mut self) {
        let Some(task) = self.task.take() else { return };
        if fork::is_forked_child() {
            // The runtime's locks are not this library's to take in a forked child.
            std::mem::forget(task);
            return;
        }
        let before = std::mem::replace(&mut *lock(&self.successor), Successor::NotNeeded);
        drop(before);
        task.abort();
    }
}
