//! The supervisor: one thread that ends and reaps every worker.
//!
//! It sleeps in one wait for its event counter, the workers' pidfds and those of what
//! workers leave behind, and has a deadline only while something is due. As it serves all
//! workers, it never waits for one of them, for a file or for the host: whatever could block
//! runs on a thread of its own, see [`run_detached`].

use std::io;
use std::iter;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::child::Child;
use super::reap::{Attempt, Reaped, reap_member};
use super::service::{lock, run_detached};
use super::worker_process::WorkerProcess;
use crate::error::ExitCause;
use crate::sys::fd::{EventCounter, wait_for_any};

/// Called once when a worker has been reaped, on the supervisor's thread: it must not block,
/// and not run code of the host's.
pub(crate) type OnExit = Box<dyn FnOnce(ExitCause) + Send>;

/// How often a worker without a pidfd is looked at.
const POLL: Duration = Duration::from_millis(50);
/// How long a descendant of a worker that has ended may be another process's child, or held by
/// a debugger. Its parent was killed too, and leaves it to this process when it ends.
const MAX_ZOMBIE_TIME: Duration = Duration::from_secs(5);

/// The means to give a worker to the supervisor.
#[derive(Clone)]
pub(super) struct Supervisor(Arc<SupervisorInbox>);

struct SupervisorInbox {
    new_workers: Mutex<Vec<Worker>>,
    /// Raised when there is a new worker, or an earlier deadline of one.
    event: Arc<EventCounter>,
}

impl Supervisor {
    /// Returns a supervisor, and what its thread has to run.
    pub(super) fn new() -> io::Result<(Self, impl FnOnce() + Send)> {
        let event = Arc::new(EventCounter::new()?);
        let inbox = Arc::new(SupervisorInbox { new_workers: Mutex::default(), event });
        let supervision =
            Supervision { inbox: Arc::clone(&inbox), workers: Vec::new(), descendants: Vec::new() };
        Ok((Self(inbox), move || supervision.run()))
    }

    /// Raised, it makes the supervisor look at the deadlines of all workers.
    pub(super) fn event(&self) -> &Arc<EventCounter> {
        &self.0.event
    }

    pub(super) fn adopt(&self, child: Child, on_exit: OnExit) {
        let pidfd = child.pidfd();
        lock(&self.0.new_workers).push(Worker { child, on_exit, pidfd });
        self.0.event.raise();
    }
}

/// A worker that is supervised.
struct Worker {
    child: Child,
    on_exit: OnExit,
    /// `None` if the worker must be polled: it has no pidfd, or has ended and cannot be reaped,
    /// because a debugger holds it. Its pidfd would end every wait at once then.
    pidfd: Option<Arc<OwnedFd>>,
}

/// A process that a worker has left behind, and that this process must reap.
struct Descendant {
    pidfd: OwnedFd,
    /// Set when it has ended and cannot be reaped yet: then it is polled until this time.
    polled_until: Option<Instant>,
}

/// What the thread has.
struct Supervision {
    inbox: Arc<SupervisorInbox>,
    workers: Vec<Worker>,
    descendants: Vec<Descendant>,
}

impl Supervision {
    fn run(mut self) {
        loop {
            // A panic in here comes from a caller's code, and concerns one worker.
            let _ = catch_unwind(AssertUnwindSafe(|| self.turn()));
        }
    }

    fn turn(&mut self) {
        let ready = self.wait();
        let (workers_ready, descendants_ready) = ready.split_at(self.workers.len());
        // Cleared before the inbox is read: a worker that comes after that raises it again.
        self.inbox.event.clear();
        let new_workers = mem::take(&mut *lock(&self.inbox.new_workers));
        let now = Instant::now();
        let descendants = mem::take(&mut self.descendants).into_iter().zip(descendants_ready);
        self.descendants =
            descendants.filter_map(|(d, ready)| d.reap_if_ended(*ready, now)).collect();
        // New ones are looked at, too: a worker that is no child of this process any more, because
        // the host ignores SIGCHLD, does not become readable.
        let workers = mem::take(&mut self.workers).into_iter().chain(new_workers);
        let are_ready = workers_ready.iter().copied().chain(iter::repeat(false));
        for (mut worker, is_ready) in workers.zip(are_ready) {
            if let Some(reaped) = worker.child.reap_if_ended() {
                self.bury(worker, reaped);
                continue;
            }
            if is_ready {
                worker.pidfd = None;
            }
            worker.child.end_if_due(now);
            self.workers.push(worker);
        }
    }

    /// Sleeps until something happens or is due. Returns which of the workers, and then which of
    /// the descendants, have a readable pidfd.
    fn wait(&self) -> Vec<bool> {
        let workers = self.workers.iter().map(|worker| worker.pidfd.as_deref());
        let descendants = self.descendants.iter();
        let descendants = descendants.map(|d| d.polled_until.is_none().then_some(&d.pidfd));
        let pidfds = workers.chain(descendants).map(|pidfd| pidfd.map(AsFd::as_fd));
        // The event comes last, so that its place needs no thought.
        let event = Some(self.inbox.event.as_fd());
        wait_for_any(pidfds.chain([event]), self.next_deadline()).unwrap_or_else(|_| {
            // Not expected; if it happens, all are polled.
            thread::sleep(POLL);
            vec![true; self.workers.len() + self.descendants.len()]
        })
    }

    fn next_deadline(&self) -> Option<Instant> {
        let deadlines = self.workers.iter().filter_map(|worker| worker.child.next_deadline());
        let has_polled = self.workers.iter().any(|worker| worker.pidfd.is_none())
            || self.descendants.iter().any(|process| process.polled_until.is_some());
        deadlines.chain(has_polled.then(|| Instant::now() + POLL)).min()
    }

    /// Tells of the end of a worker that was reaped.
    fn bury(&mut self, worker: Worker, reaped: Reaped) {
        let Worker { child, on_exit, pidfd } = worker;
        drop(pidfd);
        let status = child.record_exit(&reaped);
        let members = reaped.members.into_iter();
        self.descendants.extend(members.map(|pidfd| Descendant { pidfd, polled_until: None }));
        let _ = catch_unwind(AssertUnwindSafe(|| on_exit(status)));
        if child.log().is_some() {
            run_detached("slipring-log", move || child.complete_log(status));
        }
    }
}

impl Descendant {
    /// Reaps the process if it has ended. Returns it if it must be looked at again. `is_ready`
    /// means that its pidfd was readable.
    fn reap_if_ended(mut self, is_ready: bool, now: Instant) -> Option<Self> {
        if !is_ready && self.polled_until.is_none() {
            return Some(self);
        }
        let until = match reap_member(&self.pidfd) {
            Attempt::Gone => return None,
            // It has ended, but its parent is another process, or a debugger holds it. Its pidfd
            // would end every wait at once.
            Attempt::Running | Attempt::NotOurs => {
                *self.polled_until.get_or_insert(now + MAX_ZOMBIE_TIME)
            }
        };
        (now < until).then_some(self)
    }
}
