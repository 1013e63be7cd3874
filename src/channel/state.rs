//! Whether a channel can still be used, and if not, why.
//!
//! ```text
//!   open ---> closing ---> closed      close() or drop
//!     |
//!     +-----> dead                     the worker ended by itself
//!     +-----> failed                   it wrote garbage, or has no session
//! ```
//!
//! The first cause wins and never changes. The end of the open phase ends every wait: threads
//! that sleep on the bell are woken by the alarm, all others by what [`ChannelState::on_end`] got.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::channel::wait_list::WaitList;
use crate::channel::worker_exit::WorkerExit;
use crate::error::{EndOfService, Error, ErrorKind, ReportPlace, Result};
use crate::ring::doorbell::Alarm;
use crate::sync::{AtomicU32, Ordering};
use crate::sys::clock::Deadline;
use crate::sys::{activity, fork};

// Frames are read in the first two.
const OPEN: u32 = 0;
const DEAD: u32 = 1;
const CLOSING: u32 = 2;
const CLOSED: u32 = 3;
const FAILED: u32 = 4;

/// A bit beside the phase: the channel's frames are shown to a tap. It is here so that a reader of frames
/// finds it with a look that it takes anyway.
const TAPPED: u32 = 8;

/// How a channel stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    Dead,
    Closing,
    Closed,
    Failed,
}

/// What is told that a channel is over without having been closed, once.
pub(crate) trait FailureObserver: fmt::Debug + Send + Sync {
    /// Called before anything else can notice the failure. [`FailureObserver::look`] follows.
    fn announce(&self);

    /// Called before the waits of the channel's requests end, so that they are still there to be listed. No
    /// failure is to be told if the channel was over before. The calling thread may serve all workers:
    /// this must not block.
    fn look(&self, is_failure: bool);

    /// Called when the waits have been ended, after a failure. Must not block either.
    fn report(&self);

    /// Where a report will be.
    fn place(&self) -> &ReportPlace;
}

/// What every operation looks at before and while it waits.
#[derive(Default)]
pub(crate) struct ChannelState {
    phase: AtomicU32,
    failure: OnceLock<Error>,
    /// Has waits on the bell look again.
    pub(crate) alarm: Alarm,
    /// How the worker ends; set once it is started.
    exit: OnceLock<WorkerExit>,
    /// Which request the worker served when it ended.
    pub(crate) end_of_service: Arc<EndOfService>,
    /// Tasks that wait for the worker's exit status.
    pub(crate) exit_waiters: WaitList,
    on_end: OnceLock<Box<dyn Fn() + Send + Sync>>,
    observer: OnceLock<Arc<dyn FailureObserver>>,
    /// Waits until what was recorded is in its file.
    flush: OnceLock<Box<dyn Fn(Deadline) + Send + Sync>>,
}

impl ChannelState {
    /// Sets how the worker ends. Once: a state is made for one worker.
    pub(crate) fn set_exit(&self, exit: WorkerExit) {
        let _ = self.exit.set(exit);
    }

    /// How the worker ends, once it is started.
    pub(crate) fn exit(&self) -> Option<&WorkerExit> {
        self.exit.get()
    }

    /// Sets what wakes the waits that do not sleep on the alarm. Once: a state is made for one
    /// channel or link.
    pub(crate) fn on_end(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_end.set(Box::new(wake));
    }

    /// Sets what is told of a failure. Once, before the worker is started.
    #[allow(dead_code, reason = "not in a model")]
    pub(crate) fn observe(&self, observer: Arc<dyn FailureObserver>) {
        let _ = self.observer.set(observer);
    }

    /// Has errors that tell of the worker's death wait, as long as for the exit status, until what was
    /// recorded is in its file. Once, at the start.
    #[allow(dead_code, reason = "models record nothing")]
    pub(crate) fn set_flush(&self, flush: impl Fn(Deadline) + Send + Sync + 'static) {
        let _ = self.flush.set(Box::new(flush));
    }

    /// Says that a tap sees the channel's frames. To be called before there are any.
    pub(super) fn set_tapped(&self) {
        // Relaxed: threads that read frames get the channel after this.
        self.phase.fetch_or(TAPPED, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        // Pairs with the Release in `leave`: a thread that sees the phase sees the failure.
        phase_of(self.phase.load(Ordering::Acquire) & !TAPPED)
    }

    /// The phase, if it is one in which frames are read and no tap sees them.
    #[inline]
    pub(super) fn phase_of_reader(&self) -> Option<Phase> {
        // As above.
        match self.phase.load(Ordering::Acquire) {
            OPEN => Some(Phase::Open),
            DEAD => Some(Phase::Dead),
            _ => None,
        }
    }

    /// The phase, if a tap sees the frames.
    #[cold]
    pub(super) fn phase_if_tapped(&self) -> Option<Phase> {
        let word = self.phase.load(Ordering::Acquire); // as above
        (word & TAPPED != 0).then(|| phase_of(word & !TAPPED))
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        // As above.
        self.phase.load(Ordering::Acquire) & !TAPPED == OPEN
    }

    /// Goes from one phase to another. Returns false if it was not that one.
    fn go(&self, from: u32, to: u32) -> bool {
        let mut word = self.phase.load(Ordering::Acquire);
        while word & !TAPPED == from {
            let next = to | word & TAPPED;
            match self.phase.compare_exchange(word, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                // The bit may have been set meanwhile: a worker can die while its channel is made.
                Err(now) => word = now,
            }
        }
        false
    }

    /// Leaves the open phase and ends all waits. Returns false if the channel was not open.
    fn leave(&self, to: u32) -> bool {
        let observer = self.observer.get().filter(|_| to != CLOSING);
        if let Some(observer) = observer {
            observer.announce();
        }
        let left = self.go(OPEN, to);
        if let Some(observer) = observer {
            observer.look(left);
        }
        self.alarm.raise();
        if let Some(wake) = self.on_end.get() {
            wake();
        }
        if let Some(observer) = observer.filter(|_| left) {
            observer.report();
        }
        activity::note();
        left
    }

    pub(crate) fn close(&self) -> bool {
        self.leave(CLOSING)
    }

    pub(crate) fn note_closed(&self) {
        self.go(CLOSING, CLOSED);
        self.alarm.raise();
        activity::note();
    }

    /// Notes that the worker has ended and that its exit status is known.
    pub(crate) fn note_exit(&self) -> bool {
        // Read now, while the channel's memory is there, and kept.
        let _ = self.end_of_service.marks();
        let is_first = self.note_death();
        self.exit_waiters.wake_all_elsewhere();
        is_first
    }

    pub(crate) fn note_death(&self) -> bool {
        self.leave(DEAD)
    }

    /// Notes that the channel cannot be used any more because of `error`.
    pub(crate) fn fail(&self, error: Error) -> bool {
        let error = match self.observer.get() {
            Some(observer) => error.with_crash_report(observer.place().clone()),
            None => error,
        };
        // The first error counts: a later one must not replace what others were told.
        let _ = self.failure.set(error);
        self.leave(FAILED)
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure_ref().cloned()
    }

    pub(crate) fn failure_ref(&self) -> Option<&Error> {
        self.failure.get()
    }

    /// Returns an error unless operations can begin. Never blocks: the error may be one for
    /// [`ChannelState::with_exit_status`].
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        fork::check()?;
        if self.is_open() { Ok(()) } else { Err(self.why_over_now(None)) }
    }

    /// Why nothing can be done any more, as told to the owner of `request`. Blocks as
    /// [`ChannelState::with_exit_status`] does.
    #[cold]
    pub(crate) fn why_over(&self, request: Option<u64>, deadline: Deadline) -> Error {
        self.with_exit_status(self.why_over_now(request), deadline)
    }

    /// The error, once the exit status is known if it tells of the worker's death: blocks for
    /// that until the deadline, or until that which all errors of this worker share.
    /// The caller holds no lock that another thread may wait for.
    #[cold]
    pub(crate) fn with_exit_status(&self, error: Error, deadline: Deadline) -> Error {
        if error.is_peer_dead()
            && let Some(exit) = self.exit.get()
        {
            exit.wait_for_status(deadline);
            self.flush_recording(deadline);
        }
        error
    }

    /// Waits until what was recorded is in its file, if the channel is recorded.
    pub(crate) fn flush_recording(&self, deadline: Deadline) {
        if let Some(flush) = self.flush.get() {
            flush(deadline);
        }
    }

    /// For tasks: until when an error waits for the exit status, or `None` if there is nothing
    /// to wait for.
    pub(crate) fn exit_status_deadline(&self) -> Option<Deadline> {
        let exit = self.exit.get()?;
        let is_awaited = self.phase() == Phase::Dead && !exit.is_known();
        is_awaited.then(|| exit.exit_status_deadline())
    }

    /// As [`ChannelState::why_over`], without blocking.
    #[cold]
    pub(crate) fn why_over_now(&self, request: Option<u64>) -> Error {
        match (self.phase(), self.failure(), self.exit.get()) {
            (Phase::Failed | Phase::Dead, Some(failure), _) => failure,
            (Phase::Open | Phase::Dead, None, Some(exit)) => {
                let place = self.observer.get().map(|observer| observer.place().clone());
                exit.error(request, Arc::clone(&self.end_of_service), place)
            }
            _ => closed(),
        }
    }
}

impl fmt::Debug for ChannelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelState").field("phase", &self.phase()).finish_non_exhaustive()
    }
}

#[inline]
fn phase_of(word: u32) -> Phase {
    match word {
        OPEN => Phase::Open,
        CLOSING => Phase::Closing,
        CLOSED => Phase::Closed,
        DEAD => Phase::Dead,
        _ => Phase::Failed,
    }
}

#[cold]
fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the channel is closed")
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::error::ExitCause;
    use crate::process::external::ExternalWorker;

    #[test]
    fn the_first_cause_wins() {
        let state = ChannelState::default();
        assert!(state.check_open().is_ok());
        assert!(state.fail(Error::corrupt("garbage")));
        assert!(!state.note_death() && !state.close());
        assert_eq!(state.phase(), Phase::Failed);
        assert_eq!(state.check_open().unwrap_err().kind(), ErrorKind::PeerCorrupt);

        let state = ChannelState::default();
        assert!(state.close());
        assert!(!state.note_death() && !state.close());
        state.note_closed();
        assert_eq!(state.phase(), Phase::Closed);
        assert!(state.check_open().unwrap_err().is_closed());
    }

    /// The channel of a worker that is dead, but of which it is not known how it died.
    fn dead(timeout: Duration) -> (ChannelState, ExternalWorker) {
        let (state, thread) = (ChannelState::default(), ExternalWorker::new(0, Arc::new(|| {})));
        let process = Box::new(thread.clone());
        state.set_exit(WorkerExit::new("test".into(), process, timeout));
        assert!(state.note_death());
        (state, thread)
    }

    #[test]
    fn all_errors_of_a_death_wait_for_its_cause_no_longer_than_one() {
        let timeout = Duration::from_millis(300);
        let (state, _thread) = dead(timeout);
        let start = Instant::now();
        for _ in 0..100 {
            // A look does not wait.
            let error = state.check_open().unwrap_err();
            let error = state.with_exit_status(error, Deadline::NEVER);
            assert!(error.to_string().contains("not known yet"), "{error}");
        }
        assert!(start.elapsed() >= timeout && start.elapsed() < 30 * timeout);
    }

    #[test]
    fn an_error_waits_for_the_cause_of_a_death_until_the_callers_deadline() {
        let long = Duration::from_secs(100);
        let (state, thread) = dead(long);
        let start = Instant::now();
        let error = state.why_over(None, Deadline::after(Duration::from_millis(5)));
        assert!(error.to_string().contains("not known yet"), "{error}");
        std::thread::scope(|scope| {
            let told = scope.spawn(|| state.why_over(Some(7), Deadline::NEVER));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!told.is_finished());
            thread.record_exit(ExitCause::Exited(3));
            assert!(told.join().unwrap().to_string().contains("exited with code 3"));
        });
        assert!(start.elapsed() < long / 2);
    }
}
