//! One worker of a pool: its channel, and what wakes the thread that looks after it.

use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use super::scheduler::Grant;
use crate::channel::{Channel, Core};
use crate::error::{Error, ErrorKind, Result};
use crate::id::RequestId;
use crate::protocol::Health;
use crate::sync::plain::{Condvar, Mutex};
use crate::sys::clock::Deadline;
use crate::tasks::driver::{self, DriverRegistration};

/// Between two looks at a worker that is dead and whose exit status is not known.
pub(super) const LOOK: Duration = Duration::from_millis(1);

/// A worker of a pool.
#[derive(Debug, Default)]
pub(super) struct Worker {
    /// Reads for tasks, from the first on. Ends before the channel does: its descriptor is taken
    /// out of the reactor while it is open.
    driver: Mutex<Option<DriverRegistration>>,
    channel: OnceLock<Channel>,
    is_ready: OnceLock<()>,
    bell: Arc<Bell>,
    was_hung: OnceLock<()>,
    /// Requests that no caller waits for any more, and that the worker may be at.
    lingering: Mutex<Vec<(RequestId, Grant)>>,
}

impl Worker {
    /// Its channel, once it is started. Requests get it when it is ready.
    pub(super) fn channel(&self) -> Option<&Channel> {
        self.channel.get()
    }

    /// Sets the channel of a worker that was started, once.
    pub(super) fn set_channel(&self, started: Channel) -> &Channel {
        self.channel.get_or_init(|| started)
    }

    pub(super) fn set_ready(&self) {
        let _ = self.is_ready.set(());
    }

    pub(super) fn is_to_stop(&self) -> bool {
        self.bell.state.lock().is_to_stop
    }

    /// Wakes its thread.
    pub(super) fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.bell))
    }

    /// Blocks its thread until it is woken, or until the deadline. Returns whether the worker is to
    /// be stopped.
    pub(super) fn sleep(&self, deadline: Deadline) -> bool {
        self.bell.wait(deadline)
    }

    /// What tasks use of its channel. The first time has the library's thread read for them.
    pub(super) fn core_for_tasks(&self) -> Result<&Arc<Core>> {
        let core = self.channel_in_use()?.core();
        let mut driver = self.driver.lock();
        if driver.is_none() {
            *driver = Some(driver::register(core)?);
        }
        Ok(core)
    }

    /// The channel of a worker that was granted. The scheduler grants only those that are ready.
    pub(super) fn channel_in_use(&self) -> Result<&Channel> {
        self.channel().ok_or_else(|| Error::new(ErrorKind::Closed, "the worker is gone"))
    }

    /// Has its thread end it. A start is not waited for. Never blocks.
    pub(super) fn stop(&self) {
        self.bell.ring(true);
        if self.is_ready.get().is_none()
            && let Some(channel) = self.channel()
        {
            // Ends the wait until it is ready.
            let _ = channel.worker().begin_close(Duration::ZERO);
        }
    }

    /// Ends it at once, also if its thread already waits for its end. Never blocks.
    pub(super) fn hasten(&self) {
        if let Some(channel) = self.channel() {
            let _ = channel.worker().begin_close(Duration::ZERO);
        }
    }

    /// Has its thread look whether it is of any use still.
    pub(super) fn look(&self) {
        self.bell.ring(false);
    }

    /// Has its thread give a request's place back when the worker is done with the request.
    pub(super) fn linger(&self, request: RequestId, grant: Grant) {
        self.lingering.lock().push((request, grant));
        self.look();
    }

    pub(super) fn has_lingering(&self) -> bool {
        !self.lingering.lock().is_empty()
    }

    /// The places of requests that the worker is done with.
    pub(super) fn take_done(&self, health: impl Fn() -> Health) -> Vec<Grant> {
        let mut lingering = self.lingering.lock();
        if lingering.is_empty() {
            return Vec::new();
        }
        let health = health();
        let done = lingering.extract_if(.., |(request, _)| is_done(&health, *request));
        done.map(|(_, grant)| grant).collect()
    }

    /// Notes that the pool is about to kill it because a request makes no progress.
    pub(super) fn note_hung(&self) {
        let _ = self.was_hung.set(());
    }

    /// Whether the pool has killed it because a request made no progress.
    pub(super) fn was_hung(&self) -> bool {
        self.was_hung.get().is_some()
    }

    /// Blocks until all that an error says of the worker's end is known, or until the deadline.
    pub(super) fn wait_until_known(&self, deadline: Deadline) {
        let Some(exit) = self.channel().and_then(|channel| channel.core().state.exit()) else {
            return;
        };
        let until = deadline.instant();
        exit.process.wait_for_cause(until);
        while !exit.is_known() && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
    }
}

/// Whether a worker is done with a request: it is at others that came later, or at none.
fn is_done(health: &Health, request: RequestId) -> bool {
    let requests = &health.requests;
    let is_idle = health.begun == 0 && health.taken == 0;
    // A report names only so many requests.
    let is_whole = requests.len() < Health::MOST_REQUESTS;
    let is_listed = requests.iter().any(|listed| listed.id == request);
    is_idle || is_whole && !is_listed && requests.iter().any(|listed| listed.id > request)
}

/// Wakes a worker's thread.
#[derive(Debug, Default)]
struct Bell {
    state: Mutex<BellState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct BellState {
    has_rung: bool,
    is_to_stop: bool,
}

impl Bell {
    fn ring(&self, is_to_stop: bool) {
        let mut state = self.state.lock();
        state.has_rung = true;
        state.is_to_stop |= is_to_stop;
        drop(state);
        self.changed.notify_all();
    }

    /// Blocks until it has rung since the last wait, or until the deadline. Returns whether the
    /// worker is to be stopped.
    fn wait(&self, deadline: Deadline) -> bool {
        let mut state = self.state.lock();
        while !state.has_rung {
            let left = deadline.remaining();
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left);
        }
        state.has_rung = false;
        state.is_to_stop
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring(false);
    }
}
