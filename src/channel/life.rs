//! Whether a channel can still be used, and if not, why.
//!
//! ```text
//!   open ---> closing ---> closed      close() or drop
//!     |
//!     +-----> dead                     the worker ended by itself
//!     +-----> failed                   it wrote garbage, or has no session
//! ```
//!
//! The first cause wins and never changes.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::channel::death::Deathbed;
use crate::channel::wakers::Wakers;
use crate::error::{EndOfService, Error, ErrorKind, Result};
use crate::ring::doorbell::Alarm;
use crate::sync::mutant::{Mutant, chosen};
use crate::sync::{AtomicU32, Ordering};
use crate::sys::clock::Deadline;
use crate::sys::fork;

const OPEN: u32 = 0;
const CLOSING: u32 = 1;
const CLOSED: u32 = 2;
const DEAD: u32 = 3;
const FAILED: u32 = 4;

/// How a channel stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    Closing,
    Closed,
    Dead,
    Failed,
}

/// The state that every operation looks at before and while it waits.
#[derive(Default)]
pub(crate) struct Life {
    phase: AtomicU32,
    failure: OnceLock<Error>,
    pub(crate) alarm: Alarm,
    /// Who the worker is and how it ended; set once it is started.
    pub(crate) deathbed: OnceLock<Deathbed>,
    /// Which request the worker served when it ended.
    pub(crate) end_of_service: Arc<EndOfService>,
    /// Tasks that wait for the worker's exit status.
    pub(crate) ended: Wakers,
    /// Wakes those who wait on something else than the alarm.
    pub(crate) on_over: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Life {
    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        // Pairs with the Release in `leave`: the failure is there for who sees the phase.
        match self.phase.load(Ordering::Acquire) {
            OPEN => Phase::Open,
            CLOSING => Phase::Closing,
            CLOSED => Phase::Closed,
            DEAD => Phase::Dead,
            _ => Phase::Failed,
        }
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.phase() == Phase::Open
    }

    /// Leaves the open phase; false if that has happened before. Wakes all waits.
    fn leave(&self, to: u32) -> bool {
        if chosen(Mutant::AlarmBeforeEnd) {
            self.alarm.raise();
        }
        let left =
            self.phase.compare_exchange(OPEN, to, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if chosen(Mutant::LastCauseWins) {
            self.phase.store(to, Ordering::Release);
        }
        if !chosen(Mutant::AlarmBeforeEnd) && !chosen(Mutant::NoAlarmAtEnd) {
            self.alarm.raise();
        }
        if let Some(wake) = self.on_over.get() {
            wake();
        }
        left
    }

    pub(crate) fn close(&self) -> bool {
        self.leave(CLOSING)
    }

    pub(crate) fn closed(&self) {
        let _ = self.phase.compare_exchange(CLOSING, CLOSED, Ordering::AcqRel, Ordering::Acquire);
        self.alarm.raise();
    }

    /// The worker has ended and its exit status is known.
    pub(crate) fn has_ended(&self) -> bool {
        // While the channel's memory is there; the answer is kept.
        let _ = self.end_of_service.last_served();
        let is_first = self.die();
        self.ended.wake_all_elsewhere();
        is_first
    }

    pub(crate) fn die(&self) -> bool {
        self.leave(DEAD)
    }

    /// The channel cannot be used any more because of `error`.
    pub(crate) fn fail(&self, error: Error) -> bool {
        if chosen(Mutant::FailureLate) {
            let left = self.leave(FAILED);
            let _ = self.failure.set(error);
            return left;
        }
        // Whoever sets it first; a later cause must not replace what others were told.
        let _ = self.failure.set(error);
        self.leave(FAILED)
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.get().cloned()
    }

    /// An error unless operations can begin.
    /// Never blocks: the error may be one for [`Life::with_status`].
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        check_not_forked()?;
        if self.is_open() { Ok(()) } else { Err(self.why_over_now(None)) }
    }

    /// Why nothing can be done any more, as told to the owner of `request`. Blocks as
    /// [`Life::with_status`] does.
    #[cold]
    pub(crate) fn why_over(&self, request: Option<u64>, deadline: Deadline) -> Error {
        self.with_status(self.why_over_now(request), deadline)
    }

    /// The error, once the exit status is known if it tells of the worker's death: blocks for
    /// that until the deadline, or until the patience of all errors of this worker is over.
    /// To be called without any lock that somebody else may wait for.
    #[cold]
    pub(crate) fn with_status(&self, error: Error, deadline: Deadline) -> Error {
        if error.is_peer_dead()
            && let Some(deathbed) = self.deathbed.get()
        {
            deathbed.wait_for_status(deadline);
        }
        error
    }

    /// For tasks: until when an error waits for the exit status, or `None` if there is nothing
    /// to wait for.
    #[cfg(feature = "async")]
    pub(crate) fn patience_ends(&self) -> Option<Deadline> {
        let deathbed = self.deathbed.get()?;
        let is_awaited = self.phase() == Phase::Dead && !deathbed.is_known();
        is_awaited.then(|| deathbed.patience_ends())
    }

    /// As [`Life::why_over`], without blocking.
    #[cold]
    pub(crate) fn why_over_now(&self, request: Option<u64>) -> Error {
        match (self.phase(), self.failure(), self.deathbed.get()) {
            (Phase::Failed | Phase::Dead, Some(failure), _) => failure,
            (Phase::Open | Phase::Dead, None, Some(deathbed)) => {
                deathbed.error(request, Arc::clone(&self.end_of_service))
            }
            _ => closed(),
        }
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Life").field("phase", &self.phase()).finish_non_exhaustive()
    }
}

/// An error in a process that was forked from the one that the channel belongs to.
#[inline]
pub(crate) fn check_not_forked() -> Result<()> {
    fork::check()
}

#[cold]
fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the channel is closed")
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    #[cfg(feature = "testing")]
    use std::sync::Arc;
    #[cfg(feature = "testing")]
    use std::time::{Duration, Instant};

    use super::*;
    #[cfg(feature = "testing")]
    use crate::channel::death::Body;
    #[cfg(feature = "testing")]
    use crate::error::ExitCause;
    #[cfg(feature = "testing")]
    use crate::process::thread::ThreadWorker;

    #[test]
    fn the_first_cause_wins() {
        let life = Life::default();
        assert!(life.check_open().is_ok());
        assert!(life.fail(Error::corrupt("garbage")));
        assert!(!life.die() && !life.close());
        assert_eq!(life.phase(), Phase::Failed);
        assert_eq!(life.check_open().unwrap_err().kind(), ErrorKind::PeerCorrupt);

        let life = Life::default();
        assert!(life.close());
        assert!(!life.die() && !life.close());
        life.closed();
        assert_eq!(life.phase(), Phase::Closed);
        assert!(life.check_open().unwrap_err().is_closed());
    }

    /// The channel of a worker that is dead, but of which it is not known how it died.
    #[cfg(feature = "testing")]
    fn dead(patience: Duration) -> (Life, ThreadWorker) {
        let (life, thread) = (Life::default(), ThreadWorker::new(0, Arc::new(|| {})));
        let body = Body::Thread(thread.clone());
        assert!(life.deathbed.set(Deathbed::new("test".into(), body, patience)).is_ok());
        assert!(life.die());
        (life, thread)
    }

    #[cfg(feature = "testing")]
    #[test]
    fn all_errors_of_a_death_wait_for_its_cause_no_longer_than_one() {
        let patience = Duration::from_millis(300);
        let (life, _thread) = dead(patience);
        let start = Instant::now();
        for _ in 0..100 {
            // A look does not wait.
            let error = life.check_open().unwrap_err();
            let error = life.with_status(error, Deadline::NEVER);
            assert!(error.to_string().contains("not known yet"), "{error}");
        }
        assert!(start.elapsed() >= patience && start.elapsed() < 30 * patience);
    }

    #[cfg(feature = "testing")]
    #[test]
    fn an_error_waits_for_the_cause_of_a_death_until_the_callers_deadline() {
        let long = Duration::from_secs(100);
        let (life, thread) = dead(long);
        let start = Instant::now();
        let error = life.why_over(None, Deadline::after(Duration::from_millis(5)));
        assert!(error.to_string().contains("not known yet"), "{error}");
        std::thread::scope(|scope| {
            let told = scope.spawn(|| life.why_over(Some(7), Deadline::NEVER));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!told.is_finished());
            thread.has_ended(ExitCause::Exited(3));
            assert!(told.join().unwrap().to_string().contains("exited with code 3"));
        });
        assert!(start.elapsed() < long / 2);
    }
}
