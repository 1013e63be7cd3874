//! Crash reports: one file for each worker that has ended without being asked to, with what an issue needs.
//!
//! `docs/CRASH_REPORTS.md` has the format. What is known of a channel is collected in
//! `channel/crash_report.rs`, of a pool in `pool/crash_row.rs`.

mod exit;
mod file;
pub(crate) mod json;
mod program;
mod queue;
mod system;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use file::Name;
use json::{Json, object};
pub(crate) use queue::Wants;
use queue::{Job, Queue, Target};

use crate::error::ReportPlace;
use crate::sys::fork_once::ForkOnce;
use crate::sys::utc::Utc;
use crate::sys::variables;

/// How many reports are kept.
const KEEP: usize = 20;
/// The most bytes of one payload.
const MOST_PAYLOAD: usize = 4096;

/// Where crash reports go, and what is in them: for
/// [`Spawner::crash_reports`](crate::Spawner::crash_reports).
///
/// When a worker ends without having been asked to, one file is written with what an issue about it
/// needs: versions, how it ended, the end of its log, its health, what the channel has counted, and the
/// requests that were in flight, with how far the worker was with each. The same for a worker that wrote
/// garbage, that a pool has ended because it hung, or that could not be started. Nothing is written for a
/// worker that is closed.
///
/// A report has no payloads, no arguments of the program and no values of the environment, unless
/// [`payloads`](Self::payloads) or [`arguments`](Self::arguments) ask for them. It does have what the
/// worker logged last, and paths.
///
/// Reports are written by a thread of the library's. No operation waits for that: the path comes into
/// errors ([`Error::crash_report`](crate::Error::crash_report)) when the file is there. A file is whole, or it is not there. If
/// it cannot be written, nothing else fails: [`lost`](Self::lost) counts it, errors of this worker say
/// so, and an event of `tracing` tells of the first one.
///
/// All clones of a value count together. A host that is started with `SLIPRING_CRASH_REPORTS=DIR` writes reports
/// there for all workers whose spawners name no other directory.
///
/// ```no_run
/// use std::time::Duration;
///
/// use slipring::{CrashReports, Kind, Spawner};
///
/// # fn main() -> slipring::Result<()> {
/// let reports = CrashReports::in_dir("/var/lib/app/crashes").keep(50);
/// let channel = Spawner::program("./embedder").crash_reports(reports.clone()).spawn()?;
/// if let Err(error) = channel.call(Kind::EMBED, "any text", Duration::from_secs(1)) {
///     reports.wait(Duration::from_secs(1));
///     eprintln!("{error}"); // … died: killed by signal SIGSEGV (11), …; crash report /var/lib/…
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct CrashReports {
    target: Target,
    queue: Arc<Queue>,
}

impl CrashReports {
    /// Writes reports to this directory, which is made, for its owner alone, if it is missing. A relative
    /// path is resolved now.
    pub fn in_dir(directory: impl AsRef<Path>) -> Self {
        let directory = directory.as_ref();
        // Where the working directory is not known, the path is resolved later.
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        let target = Target { directory, keep: KEEP, wants: Wants::default() };
        Self { target, queue: Arc::default() }
    }

    /// Returns what `SLIPRING_CRASH_REPORTS` asks for, if it is set and not empty: the same for all
    /// callers. It is looked at once.
    #[must_use]
    pub fn from_env() -> Option<Self> {
        static FROM_ENV: ForkOnce<Option<CrashReports>> = ForkOnce::new();
        let make = || {
            let directory = variables::value(variables::CRASH_REPORTS)?;
            Some(CrashReports::in_dir(PathBuf::from(directory)))
        };
        FROM_ENV.get_or_init(make).map_or_else(make, Clone::clone)
    }

    /// Sets how many reports the directory keeps, at least 1: 20 by default. The oldest ones are removed,
    /// also those of other hosts of this user, and never anything else.
    pub fn keep(mut self, reports: usize) -> Self {
        self.target.keep = reports.max(1);
        self
    }

    /// Adds the arguments of the worker's program. They are left out by default, as they may have secrets in
    /// them.
    pub fn arguments(mut self) -> Self {
        self.target.wants.arguments = true;
        self
    }

    /// Adds up to so many bytes of the payload of each request that was in flight, at most 4096: as much of
    /// it as is still in shared memory. None by default.
    pub fn payloads(mut self, bytes: usize) -> Self {
        self.target.wants.payload = bytes.min(MOST_PAYLOAD);
        self
    }

    /// Returns the directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.target.directory
    }

    /// Returns how many reports were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.queue.counts().0
    }

    /// Returns how many could not be written.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.queue.counts().1
    }

    /// Returns why the last one could not be written; `None` if all could.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        self.queue.last_failure()
    }

    /// Blocks until the reports of all workers whose end was noticed are written, or could not be, or the
    /// timeout has passed. Returns whether none is left to write. A process that exits, other than by a
    /// signal or `_exit`, does this by itself, for 5 seconds at most. What is not written then is lost.
    #[allow(clippy::must_use_candidate, reason = "the wait is what is wanted")]
    pub fn wait(&self, timeout: Duration) -> bool {
        self.queue.wait(timeout)
    }

    /// Says that [`CrashReports::write`] or [`CrashReports::withdraw`] will be called.
    pub(crate) fn announce(&self) {
        self.queue.announce();
    }

    /// Says that nothing comes of what was announced.
    pub(crate) fn withdraw(&self) {
        self.queue.withdraw();
    }

    /// Has a report written that was announced. Never blocks.
    pub(crate) fn write(
        &self,
        (role, pid, time): (String, u32, SystemTime),
        place: ReportPlace,
        collect: Box<dyn FnOnce(Wants) -> Json + Send>,
    ) {
        let name = Name { role, pid, time };
        self.queue.add(Job { name, place, collect }, self.target.clone());
    }
}

/// The head of a report of something that was noticed at `time`: what it is, and what it is about.
pub(crate) fn head(time: SystemTime) -> Json {
    object! {
        "format": "slipring crash report",
        "format_version": 1_u64,
        "noticed": Utc::of(time).text(),
        "slipring": system::library(),
        "machine": system::machine(),
        "host": host(),
    }
}

/// What the file of a program says of itself.
pub(crate) fn program(path: &Path) -> Json {
    program::describe(path)
}

/// A moment as a report shows it.
pub(crate) fn moment(time: SystemTime) -> Json {
    Utc::of(time).text().into()
}

/// This process.
fn host() -> Json {
    let program = std::env::current_exe().ok();
    object! {
        "pid": std::process::id(),
        "program": program.map(|path| path.display().to_string()),
        "build": program::describe(Path::new("/proc/self/exe")),
    }
}
