//! When a worker's crash report is written: once, when its channel is over without having been closed, or
//! when the worker could not be started.
//!
//! The thread that finds the worker's end looks which requests are in flight, before their waits end, and
//! has a thread of the library's do the rest. See `crash_contents.rs` for what is in a report.

use std::fmt;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime};

use crate::channel::core::Core;
use crate::channel::crash_contents::{Contents, Facts, PoolRow, Trouble};
use crate::channel::health::LastPong;
use crate::channel::requests::Unfinished;
use crate::channel::state::{ChannelState, FailureObserver, Phase};
use crate::crash_report::CrashReports;
use crate::error::{Error, ReportPlace};
use crate::process::child::Child;
use crate::process::worker_process::WorkerProcess;
use crate::sync::plain::Mutex;
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::fork;

/// How long a report waits for the exit status of a worker that has ended, and for what it had begun.
const EXIT_STATUS_WAIT: Duration = Duration::from_secs(5);
/// How long for that of one that wrote garbage, or has no session, which may go on.
const FAILED_WAIT: Duration = Duration::from_millis(100);
/// How long for the last line of the log.
const LOG_WAIT: Duration = Duration::from_secs(1);
/// How long until what was recorded is in its file.
const RECORDING_WAIT: Duration = Duration::from_secs(1);
/// Between two looks at whether the threads of a dead worker have stopped.
const LOOK: Duration = Duration::from_millis(1);

// What has become of the worker, as far as its report is concerned:
//
//   STARTING ---> WATCHED ---> TOLD
//      |  \                     ^^
//      |   +---> ENDED ---------+|     it ended before it was watched
//      +-------------------------+     it could not be started
const STARTING: u8 = 0;
const WATCHED: u8 = 1;
const ENDED: u8 = 2;
const TOLD: u8 = 3;

/// Writes the crash report of one worker.
pub(crate) struct Reporter {
    reports: CrashReports,
    facts: Facts,
    stage: AtomicU8,
    child: OnceLock<Child>,
    state: Weak<ChannelState>,
    core: OnceLock<Weak<Core>>,
    last_pong: LastPong,
    pool: OnceLock<Box<dyn PoolRow>>,
    recording: OnceLock<PathBuf>,
    place: ReportPlace,
    /// What was seen when the end was noticed, until it is passed on.
    seen: Mutex<Option<Seen>>,
    this: Weak<Self>,
}

/// What only the moment shows at which the end is noticed.
struct Seen {
    at: SystemTime,
    at_ns: u64,
    /// Keeps the memory of the channel until it was looked at.
    core: Option<Arc<Core>>,
    requests: Vec<Unfinished>,
}

impl Reporter {
    /// Makes the reporter of a worker that is about to be started, and has it told of the worker's end.
    pub(super) fn new(reports: CrashReports, facts: Facts, state: &Arc<ChannelState>) -> Arc<Self> {
        let reporter = Arc::new_cyclic(|this| Self {
            reports,
            facts,
            stage: AtomicU8::new(STARTING),
            child: OnceLock::new(),
            state: Arc::downgrade(state),
            core: OnceLock::new(),
            last_pong: LastPong::default(),
            pool: OnceLock::new(),
            recording: OnceLock::new(),
            place: ReportPlace::default(),
            seen: Mutex::new(None),
            this: Weak::clone(this),
        });
        state.observe(Arc::<Self>::clone(&reporter));
        reporter
    }

    /// Sets the worker's process, once.
    pub(super) fn set_child(&self, child: Child) {
        let _ = self.child.set(child);
    }

    /// Where the last report of the worker is to be kept.
    pub(super) fn last_pong(&self) -> LastPong {
        Arc::clone(&self.last_pong)
    }

    /// Says in which pool the worker is, once.
    pub(crate) fn set_pool(&self, row: Box<dyn PoolRow>) {
        let _ = self.pool.set(row);
    }

    /// Says where the channel is recorded, once.
    pub(super) fn set_recording(&self, path: &Path) {
        let _ = self.recording.set(path.to_owned());
    }

    /// The worker has attached: from now on its end is reported. `None` for a raw link.
    pub(super) fn watch(&self, core: Option<&Arc<Core>>) {
        if let Some(core) = core {
            let _ = self.core.set(Arc::downgrade(core));
        }
        let begun =
            self.stage.compare_exchange(STARTING, WATCHED, Ordering::AcqRel, Ordering::Acquire);
        if begun == Err(ENDED) && self.stage.swap(TOLD, Ordering::AcqRel) == ENDED {
            self.reports.announce();
            self.see();
            self.pass_on(None);
        }
    }

    /// Reports that the worker could not be started, unless its end was reported. Returns the error, which
    /// knows where the report will be.
    pub(crate) fn note_failed_start(&self, error: Error) -> Error {
        if fork::is_forked_child() {
            return error;
        }
        let error = error.with_crash_report(self.place.clone());
        if self.stage.swap(TOLD, Ordering::AcqRel) != TOLD {
            self.reports.announce();
            self.see();
            self.pass_on(Some(error.clone()));
        }
        error
    }

    /// Keeps what will not be there any more when the report is written. The lock that this takes is held
    /// for moments only.
    fn see(&self) {
        let core = self.core.get().and_then(Weak::upgrade);
        let requests = core.as_ref().map(|core| core.pending.requests().unfinished());
        let (at, at_ns) = (SystemTime::now(), now_ns());
        *self.seen.lock() = Some(Seen { at, at_ns, core, requests: requests.unwrap_or_default() });
    }

    /// Has the report written of what was seen.
    fn pass_on(&self, start: Option<Error>) {
        let seen = mem::take(&mut *self.seen.lock());
        let (Some(Seen { at, at_ns, core, requests }), Some(this)) = (seen, self.this.upgrade())
        else {
            return;
        };
        let state = self.state.upgrade();
        let pid = self.child.get().map_or(0, WorkerProcess::pid);
        let name = (self.facts.role.role.clone(), pid, at);
        let collect = move |wants| {
            this.wait_until_known(state.as_deref(), start.is_some(), at_ns);
            if let Some(state) = &state {
                let left = left_of(EXIT_STATUS_WAIT + LOG_WAIT + RECORDING_WAIT, at_ns, now_ns());
                state.flush_recording(Deadline::after(left.min(RECORDING_WAIT)));
            }
            let failure = state.as_ref().and_then(|state| state.failure());
            let is_failed = state.as_ref().is_some_and(|state| state.phase() == Phase::Failed);
            let trouble = match (start, failure.filter(|_| is_failed)) {
                (Some(error), _) => Trouble::Start(error),
                (None, Some(error)) => Trouble::Failed(error),
                (None, None) => Trouble::Died,
            };
            let contents = Contents {
                facts: &this.facts,
                trouble,
                at,
                at_ns,
                process: this.child.get(),
                state: state.as_deref(),
                core: core.as_deref(),
                requests: &requests,
                last_pong: this.last_pong.lock().take(),
                pool: this.pool.get().map(|pool| &**pool),
                recording: this.recording.get().map(PathBuf::as_path),
                wants,
            };
            contents.collect()
        };
        self.reports.write(name, self.place.clone(), Box::new(collect));
    }

    /// Blocks until it is known how the worker ended and what it had begun, but not for long after its end
    /// was noticed.
    fn wait_until_known(&self, state: Option<&ChannelState>, is_start: bool, at_ns: u64) {
        let Some(child) = self.child.get() else { return };
        let is_dead = state.is_some_and(|state| state.phase() == Phase::Dead);
        let wait = if is_dead || is_start { EXIT_STATUS_WAIT } else { FAILED_WAIT };
        let until = |wait| Instant::now() + left_of(wait, at_ns, now_ns());
        let deadline = until(wait);
        child.wait_for_cause(deadline);
        while !child.has_stopped() && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        // The reaping tells of a core dump, and only then there is a last line of the log.
        if child.wait(deadline).is_some() {
            child.wait_for_log(until(wait + LOG_WAIT));
        }
    }
}

/// How much is left at `now` of a wait that began `at` that time. One thread writes the reports of all
/// workers: a hundred that end together must not be waited for one after the other.
fn left_of(wait: Duration, at: u64, now: u64) -> Duration {
    wait.saturating_sub(Duration::from_nanos(now.saturating_sub(at)))
}

impl FailureObserver for Reporter {
    fn announce(&self) {
        if !fork::is_forked_child() {
            self.reports.announce();
        }
    }

    fn look(&self, is_failure: bool) {
        let ended = |stage| match stage {
            STARTING => Some(ENDED),
            WATCHED => Some(TOLD),
            _ => None,
        };
        if fork::is_forked_child() {
            return;
        }
        let update = || self.stage.fetch_update(Ordering::AcqRel, Ordering::Acquire, ended);
        if is_failure && update() == Ok(WATCHED) {
            self.see();
        } else {
            self.reports.withdraw();
        }
    }

    fn report(&self) {
        if !fork::is_forked_child() {
            self.pass_on(None);
        }
    }

    fn place(&self) -> &ReportPlace {
        &self.place
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("reports", &self.reports).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_waits_of_reports_run_from_the_ends_of_their_workers() {
        let second = 1_000_000_000;
        let left = [(7, 7), (7, 8), (7, 12), (7, 500), (8, 7)]
            .map(|(at, now)| left_of(EXIT_STATUS_WAIT, at * second, now * second).as_secs());
        assert_eq!(left, [5, 4, 0, 0, 5]);
    }
}
