//! One worker of a pool: its channel, and what wakes the thread that looks after it.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use super::scheduler::Grant;
use crate::channel::{Channel, Core, has_ended};
use crate::error::{Error, ErrorKind, Mark, Result};
use crate::id::RequestId;
use crate::protocol::Kind;
use crate::sync::plain::{Condvar, Mutex};
use crate::sys::clock::Deadline;
use crate::tasks::driver;
#[cfg(feature = "tokio")]
use crate::tasks::tokio_driver::TokioDriver;

/// Between two looks at a worker that is dead and whose exit status is not known.
pub(super) const LOOK: Duration = Duration::from_millis(1);

/// How many requests that were sent again are kept for a crash report.
const MOST_RETRIES: usize = 16;

/// A worker of a pool.
#[derive(Debug, Default)]
pub(super) struct Worker {
    /// Reads for tasks, from the first on. Ends before the channel does: its descriptor is taken
    /// out of the reactor while it is open.
    driver: Mutex<Option<Box<dyn Any + Send + Sync>>>,
    /// The runtime that is to read for them.
    #[cfg(feature = "tokio")]
    runtime: OnceLock<tokio::runtime::Handle>,
    channel: OnceLock<Channel>,
    bell: Arc<Bell>,
    notes: Arc<Notes>,
    lingering: Mutex<Lingering>,
}

/// What its crash report tells of it, which may be written when the worker is forgotten.
#[derive(Debug, Default)]
pub(super) struct Notes {
    is_ready: OnceLock<()>,
    was_hung: OnceLock<()>,
    /// The last requests that it got after other workers had died with them.
    retries: Mutex<VecDeque<Retry>>,
}

/// A request that a worker got after other workers had died with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retry {
    /// Its number in the role.
    pub(super) number: u64,
    pub(super) kind: Kind,
    /// Which attempt this is; the first one is no retry.
    pub(super) attempt: u64,
    /// When it got its place, in nanoseconds of the monotonic clock.
    pub(super) since: u64,
    /// Whether the worker served nothing else meanwhile.
    pub(super) is_alone: bool,
}

/// Requests that no caller waits for any more, and that the worker may be at.
#[derive(Debug, Default)]
struct Lingering {
    places: Vec<(RequestId, Grant)>,
    /// The worker has ended: it is at none.
    has_ended: bool,
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
        let _ = self.notes.is_ready.set(());
    }

    pub(super) fn is_ready(&self) -> bool {
        self.notes.is_ready()
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

    /// Has a task of this runtime read for tasks, if none has come yet.
    #[cfg(feature = "tokio")]
    pub(super) fn read_on_tokio(&self, runtime: &tokio::runtime::Handle) {
        let _ = self.runtime.set(runtime.clone());
    }

    /// What tasks use of its channel. The first time has the library's thread, or a runtime, read for
    /// them.
    pub(super) fn core_for_tasks(&self) -> Result<&Arc<Core>> {
        let core = self.channel_in_use()?.core();
        let mut driver = self.driver.lock();
        if driver.is_none() {
            *driver = Some(self.start_driver(core)?);
        }
        Ok(core)
    }

    fn start_driver(&self, core: &Arc<Core>) -> Result<Box<dyn Any + Send + Sync>> {
        #[cfg(feature = "tokio")]
        if let Some(runtime) = self.runtime.get() {
            let _entered = runtime.enter();
            // It fails if the runtime has ended.
            if let Ok(driver) = TokioDriver::start(core) {
                return Ok(Box::new(driver));
            }
        }
        Ok(Box::new(driver::register(core)?))
    }

    /// The channel of a worker that was granted. The scheduler grants only those that are ready.
    pub(super) fn channel_in_use(&self) -> Result<&Channel> {
        self.channel().ok_or_else(|| Error::new(ErrorKind::Closed, "the worker is gone"))
    }

    /// Has its thread end it. A start is not waited for. Never blocks.
    pub(super) fn stop(&self) {
        self.bell.ring(true);
        if !self.is_ready()
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

    /// Has its thread give a request's place back when the worker is done with the request. Returns
    /// false if the worker has ended: then the caller gives the place back.
    #[must_use]
    pub(super) fn linger(&self, request: RequestId, grant: Grant) -> bool {
        let mut lingering = self.lingering.lock();
        if lingering.has_ended {
            return false;
        }
        lingering.places.push((request, grant));
        drop(lingering);
        self.look();
        true
    }

    pub(super) fn has_lingering(&self) -> bool {
        !self.lingering.lock().places.is_empty()
    }

    /// The places of requests that the worker is done with.
    pub(super) fn take_done(&self, core: &Core) -> Vec<Grant> {
        let places = self.lingering.lock().places.clone();
        if places.is_empty() {
            return Vec::new();
        }
        let marks = core.marks();
        // Without the lock: a look for the last frame reads those of other requests, too, and wakes
        // their tasks.
        let is_done = |request: RequestId| {
            is_marked_done(&marks, request).unwrap_or_else(|| has_ended(core, request))
        };
        let done: Vec<_> = places.into_iter().filter(|(request, _)| is_done(*request)).collect();
        // Only this thread takes some out, or ends all.
        self.lingering.lock().places.retain(|place| !done.contains(place));
        done.into_iter().map(|(_, grant)| grant).collect()
    }

    /// The worker has ended. Returns the places of all requests that were given up; from now on none
    /// is kept.
    pub(super) fn end_lingering(&self) -> Vec<Grant> {
        let mut lingering = self.lingering.lock();
        lingering.has_ended = true;
        std::mem::take(&mut lingering.places).into_iter().map(|(_, grant)| grant).collect()
    }

    /// Notes that it gets a request after other workers.
    pub(super) fn note_retry(&self, retry: Retry) {
        let mut retries = self.notes.retries.lock();
        if retries.len() >= MOST_RETRIES {
            retries.pop_front();
        }
        retries.push_back(retry);
    }

    pub(super) fn notes(&self) -> &Arc<Notes> {
        &self.notes
    }

    /// Notes that the pool is about to kill it because a request makes no progress.
    pub(super) fn note_hung(&self) {
        let _ = self.notes.was_hung.set(());
    }

    /// Whether the pool has killed it because a request made no progress.
    pub(super) fn was_hung(&self) -> bool {
        self.notes.was_hung()
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

impl Notes {
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready.get().is_some()
    }

    pub(super) fn was_hung(&self) -> bool {
        self.was_hung.get().is_some()
    }

    /// The last requests that it got after other workers, oldest first.
    pub(super) fn retries(&self) -> Vec<Retry> {
        self.retries.lock().iter().copied().collect()
    }
}

/// Whether a worker is done with a request: it has answered it, or it has taken one that came later,
/// and then it has passed this one over. `None` if the request has no mark: either it lies in the ring
/// still, or the worker had taken it, has found it cancelled, and has sent its last frame.
fn is_marked_done(marks: &[Mark], request: RequestId) -> Option<bool> {
    match marks.iter().find(|mark| mark.request == request.get()) {
        Some(mark) => Some(!mark.is_taken() && !mark.is_begun()),
        None => marks.iter().any(|mark| mark.request > request.get()).then_some(true),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Stage;
    use crate::pool::scheduler::WorkerId;

    fn mark(request: u64, stage: Stage) -> Mark {
        Mark { request, stage, since: request, progress: 0, awaits_credit: false }
    }

    fn is_done(marks: &[Mark], request: u64) -> Option<bool> {
        is_marked_done(marks, RequestId::new(request))
    }

    #[test]
    fn a_request_is_done_however_many_others_are_begun_or_run_on() {
        let begun = |numbers: std::ops::Range<u64>| numbers.map(|n| mark(n, Stage::Begun));
        let many: Vec<_> = begun(1..40).chain([mark(40, Stage::Done)]).collect();
        assert_eq!((is_done(&many, 40), is_done(&many, 39)), (Some(true), Some(false)));
        let older = [mark(1, Stage::Begun), mark(2, Stage::Done)];
        assert_eq!(is_done(&older, 2), Some(true), "an older one runs on");
        assert_eq!(is_done(&older, 1), Some(false));
    }

    #[test]
    fn a_request_without_a_mark_is_done_only_if_a_later_one_was_taken() {
        let marks = [mark(1, Stage::Begun)];
        assert_eq!(is_done(&marks, 2), None, "it may lie in the ring");
        let marks = [mark(1, Stage::Begun), mark(3, Stage::Taken)];
        assert_eq!((is_done(&marks, 2), is_done(&marks, 3)), (Some(true), Some(false)));
        // A worker that is stopped looks idle.
        assert_eq!(is_done(&[mark(1, Stage::Done)], 2), None);
    }

    #[test]
    fn no_place_is_kept_at_a_worker_that_has_ended() {
        let worker = Worker::default();
        let grant = Grant {
            worker: WorkerId { slot: 0, incarnation: 0 },
            is_alone: false,
            is_open_ended: false,
        };
        assert!(worker.linger(RequestId::new(1), grant));
        assert_eq!(worker.end_lingering(), [grant]);
        assert!(!worker.linger(RequestId::new(2), grant) && !worker.has_lingering());
    }
}
