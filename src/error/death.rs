//! What is known about the end of a worker.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use super::crash_report::{ReportPlace, write_path};
use super::stage::{Mark, RequestStage, Stage};
use super::{Escaped, ExitCause, write_log_tail};
use crate::id::RequestId;

/// What is known about the end of a worker.
///
/// The first signs of a death come before the kernel hands out the exit status: half a second
/// before, if the process is big. Until then [`cause`](Self::cause) and what depends on it
/// return `None`. They can be asked again later: no operation of the channel is needed.
///
/// `{}` writes one line. `{:#}` adds the end of the log below it.
///
/// ```no_run
/// # fn example(error: &slipring::Error) {
/// if let Some(death) = error.death() {
///     match death.cause() {
///         Some(cause) => eprintln!("worker {} {cause}", death.pid()),
///         None => eprintln!("worker {} is gone", death.pid()),
///     }
///     if let Some(request) = death.serving() {
///         eprintln!("it was serving request {request}");
///     }
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct WorkerDeath {
    pub(crate) role: String,
    pub(crate) pid: u32,
    /// `None`: this machine.
    pub(crate) host: Option<String>,
    pub(crate) request: Option<u64>,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) log_tail: Option<String>,
    pub(crate) status: Arc<OnceLock<ExitCause>>,
    pub(crate) oom_suspected: Arc<OnceLock<bool>>,
    pub(crate) end_of_service: Arc<EndOfService>,
    pub(crate) crash_report: Option<ReportPlace>,
}

impl WorkerDeath {
    /// Returns the worker's role.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Returns the worker's process id, which the kernel may have given to another process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the name of the worker's host, if that is another machine; `None` if it is this one.
    /// Its process id and the path of its log are those of its host then, and its requests have the
    /// numbers that they had there.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Returns the request that the error ended; `None` if the error ended no request, or one
    /// that was not sent.
    ///
    /// The worker did not necessarily serve this request: see [`serving`](Self::serving) and
    /// [`was_begun`](Self::was_begun).
    #[must_use]
    pub fn request(&self) -> Option<RequestId> {
        self.request.map(RequestId::new)
    }

    /// Returns the path of the worker's log, if it has one.
    #[must_use]
    pub fn log_path(&self) -> Option<&Path> {
        self.log_path.as_deref()
    }

    /// Returns the last 4096 bytes that the worker logged, lossily decoded, if it has a log.
    #[must_use]
    pub fn log_tail(&self) -> Option<&str> {
        self.log_tail.as_deref()
    }

    /// Returns how the worker ended; `None` until that is known.
    #[must_use]
    pub fn cause(&self) -> Option<ExitCause> {
        self.status.get().copied()
    }

    /// Returns the request that the worker was serving when it ended; of several, the one that
    /// was begun first. `None` if it served none, until [`cause`](Self::cause) is known, and for a
    /// worker that uses raw rings.
    #[must_use]
    pub fn serving(&self) -> Option<RequestId> {
        self.begun_requests().first().copied()
    }

    /// Returns all requests that the worker was serving when it ended, in the order in which
    /// they were begun. Empty if it served none, and as long as [`serving`](Self::serving) is
    /// `None`.
    #[must_use]
    pub fn begun_requests(&self) -> Vec<RequestId> {
        self.known_begun_requests().unwrap_or_default()
    }

    /// As [`WorkerDeath::begun_requests`]; `None` if they are not known.
    pub(super) fn known_begun_requests(&self) -> Option<Vec<RequestId>> {
        let mut begun: Vec<&Mark> = self.marks()?.iter().filter(|mark| mark.is_begun()).collect();
        begun.sort_by_key(|mark| (mark.since, mark.request));
        Some(begun.into_iter().map(|mark| RequestId::new(mark.request)).collect())
    }

    /// Returns whether the worker had begun the request that the error ended: its handler had been
    /// called or was about to be, or the worker had called
    /// [`OwnedResponder::begin`](crate::worker::OwnedResponder::begin).
    ///
    /// `Some(false)` is certain: no handler has seen the request, though the worker may have taken
    /// it. It can be sent to another worker without being served twice.
    ///
    /// `None`: it is not known yet. The answer comes with [`cause`](Self::cause), or a moment
    /// later, when the last thread of the worker has stopped. For a worker that uses raw rings
    /// it never comes: this library does not know what such a worker was asked.
    #[must_use]
    pub fn was_begun(&self) -> Option<bool> {
        let Some(request) = self.request else {
            return self.end_of_service.has_marks().then_some(false);
        };
        self.marks()
            .map(|marks| marks.iter().any(|mark| mark.request == request && mark.was_begun()))
    }

    /// Returns how far the worker was with the request that the error ended: whether it waited in
    /// shared memory, was taken, or was begun. `None` as long as [`was_begun`](Self::was_begun) is.
    #[must_use]
    pub fn stage(&self) -> Option<RequestStage> {
        if self.was_begun()? {
            return Some(RequestStage::Begun);
        }
        let marks = self.marks().unwrap_or_default();
        let is_taken = marks.iter().any(|mark| Some(mark.request) == self.request);
        Some(if is_taken { RequestStage::Taken } else { RequestStage::Queued })
    }

    /// Returns whether the request that the error ended was begun, and the worker served no other
    /// when it ended. If so, the worker died of this request or of no request. If several were
    /// begun, it is not known of which one the worker died: send them again one at a time. `None`
    /// as long as [`was_begun`](Self::was_begun) is.
    #[must_use]
    pub fn begun_alone(&self) -> Option<bool> {
        let was_begun = self.was_begun()?;
        let others =
            self.begun_requests().into_iter().filter(|other| Some(*other) != self.request());
        Some(was_begun && others.count() == 0)
    }

    /// Returns the path of the worker's [crash report](crate::CrashReports) once that is written. It is
    /// written beside all that the caller does, a moment after the cause of the death is known.
    #[must_use]
    pub fn crash_report(&self) -> Option<&Path> {
        self.crash_report.as_ref()?.path()
    }

    /// Returns whether the kernel's out-of-memory killer is the likely cause: the worker was
    /// killed by a SIGKILL that this library did not send, and the kernel's count of such kills
    /// went up meanwhile. `false` until [`cause`](Self::cause) is known.
    #[must_use]
    pub fn is_oom_suspected(&self) -> bool {
        self.oom_suspected.get().copied().unwrap_or(false)
    }

    /// Returns what the worker has marked, only once the exit status is known: the first signs
    /// of a death come while threads of the worker may still run.
    fn marks(&self) -> Option<&[Mark]> {
        self.cause()?;
        self.end_of_service.marks()
    }
}

/// How the line of a death without a log ends.
pub(crate) const NO_LOG: &str = "; it has no log: `Spawner::log_dir` keeps one of a spawned worker";

impl fmt::Display for WorkerDeath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} (pid {}", self.role, self.pid)?;
        if let Some(host) = &self.host {
            write!(f, " on {}", Escaped(host))?;
        }
        f.write_str(") died: ")?;
        match self.cause() {
            Some(cause) => write!(f, "{cause}")?,
            None => f.write_str("exit status not known yet")?,
        }
        if self.is_oom_suspected() {
            f.write_str(", probably by the kernel's out-of-memory killer")?;
        }
        let begun = self.begun_requests();
        let others = begun.iter().filter(|other| Some(**other) != self.request()).count();
        match (self.was_begun(), self.request, begun.as_slice()) {
            (Some(true), Some(request), _) => {
                write!(f, ", while it served request {request}")?;
                write_others(f, others)?;
            }
            (_, _, [first, ..]) => {
                write!(f, ", while it served request {first}")?;
                write_others(f, begun.len() - 1)?;
            }
            (Some(false), _, []) if self.marks().is_some() => {
                f.write_str(", while it served no request")?;
            }
            _ => {}
        }
        match (self.stage(), self.request) {
            (Some(RequestStage::Queued), Some(request)) => {
                write!(f, "; request {request} had not been begun")?;
            }
            (Some(RequestStage::Taken), Some(request)) => {
                write!(f, "; request {request} had been taken and not begun")?;
            }
            _ => {}
        }
        match &self.log_path {
            Some(path) => write!(f, "; log {}", path.display())?,
            None => f.write_str(NO_LOG)?,
        }
        write_path(f, self.crash_report())?;
        if f.alternate() { write_log_tail(f, self.log_tail()) } else { Ok(()) }
    }
}

impl fmt::Debug for WorkerDeath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerDeath")
            .field("role", &self.role)
            .field("pid", &self.pid)
            .field("host", &self.host)
            .field("cause", &self.cause())
            .field("request", &self.request())
            .field("stage", &self.stage())
            .field("serving", &self.begun_requests())
            .field("is_oom_suspected", &self.is_oom_suspected())
            .field("log_path", &self.log_path)
            .field("log_tail", &self.log_tail)
            .field("crash_report", &self.crash_report())
            .finish()
    }
}

fn write_others(f: &mut fmt::Formatter<'_>, count: usize) -> fmt::Result {
    match count {
        0 => Ok(()),
        1 => f.write_str(" and another one"),
        _ => write!(f, " and {count} others"),
    }
}

/// The marks of a worker, in the memory of its channel.
pub(crate) trait Marks: fmt::Debug + Send + Sync {
    fn all(&self) -> Vec<Mark>;

    /// That of one request, if the worker has taken it.
    fn of(&self, request: u64) -> Option<Mark> {
        self.all().into_iter().find(|mark| mark.request == request)
    }
}

/// Tells whether no thread of the worker runs any more.
type HasStopped = Box<dyn Fn() -> bool + Send + Sync>;

/// What the worker had marked when it had ended. The marks are read once and kept, because an
/// error outlives the channel's memory.
#[derive(Default)]
pub(crate) struct EndOfService {
    source: OnceLock<Weak<dyn Marks>>,
    has_stopped: OnceLock<HasStopped>,
    read: OnceLock<Vec<Mark>>,
}

/// The marks of a worker that this process has not started.
#[derive(Debug)]
struct NoMarks;

impl Marks for NoMarks {
    fn all(&self) -> Vec<Mark> {
        Vec::new()
    }
}

impl EndOfService {
    /// What another process was told of its worker: how far that was with the request of the error,
    /// and which ones it had begun. Nothing is added to that later.
    pub(super) fn told(
        request: Option<u64>,
        stage: Option<RequestStage>,
        begun: Option<&[RequestId]>,
    ) -> Self {
        let told = Self::default();
        if stage.is_none() && begun.is_none() {
            return told;
        }
        told.set_source(Weak::<NoMarks>::new());
        if begun.is_none() && (request.is_none() || stage.is_none()) {
            return told;
        }
        let mark = |request, stage, since| Mark {
            request,
            stage,
            since,
            progress: 0,
            awaits_credit: false,
        };
        let begun = (0..).zip(begun.unwrap_or_default());
        let mut marks: Vec<Mark> =
            begun.map(|(order, request)| mark(request.get(), Stage::Begun, order)).collect();
        if let Some(own) = request.filter(|own| marks.iter().all(|mark| mark.request != *own)) {
            match stage {
                // It was begun, and is not among those that were served at the end.
                Some(RequestStage::Begun) => marks.push(mark(own, Stage::Answered, 0)),
                Some(RequestStage::Taken) => marks.push(mark(own, Stage::Taken, 0)),
                Some(RequestStage::Queued) | None => {}
            }
        }
        let _ = told.read.set(marks);
        told
    }

    /// Sets where to read, once.
    pub(crate) fn set_source(&self, marks: Weak<dyn Marks>) {
        // A channel sets this when it is made.
        let _ = self.source.set(marks);
    }

    /// Returns whether the worker serves requests. One that uses raw rings marks nothing.
    fn has_marks(&self) -> bool {
        self.source.get().is_some()
    }

    /// Sets how to tell whether no thread of the worker runs any more, once.
    pub(crate) fn set_has_stopped(&self, has_stopped: HasStopped) {
        // A channel has one worker, which sets this when it is started.
        let _ = self.has_stopped.set(has_stopped);
    }

    /// Returns the marks once no thread of the worker runs any more, so that nothing is begun
    /// after this look. `None` before that, and if the channel's memory is gone.
    pub(crate) fn marks(&self) -> Option<&[Mark]> {
        if self.read.get().is_none() {
            let source = self.source.get()?.upgrade()?;
            let has_stopped = self.has_stopped.get()?;
            if has_stopped() {
                self.read.get_or_init(|| source.all());
            }
        }
        self.read.get().map(Vec::as_slice)
    }
}

impl fmt::Debug for EndOfService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndOfService").field("read", &self.read.get()).finish_non_exhaustive()
    }
}
