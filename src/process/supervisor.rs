//! The supervisor: one thread that ends and reaps every worker.
//!
//! It sleeps in one epoll wait for its event counter, the workers' pidfds and those of what
//! workers leave behind, and has a timeout only while something is due. As it serves all
//! workers, it never waits for one of them, for a file or for the host: whatever could block
//! runs on a thread of its own, see [`run_detached`].

use std::collections::HashMap;
use std::io;
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
use crate::sys::fd::{Epoll, EventCounter};

/// Called once when a worker has been reaped, on the supervisor's thread: it must not block,
/// and not run code of the host's.
pub(crate) type OnExit = Box<dyn FnOnce(ExitCause) + Send>;

/// How often a worker without a pidfd is looked at.
const POLL: Duration = Duration::from_millis(50);
/// How long a descendant of a worker that has ended may be another process's child, or held by
/// a debugger. Its parent was killed too, and leaves it to this process when it ends.
const MAX_ZOMBIE_TIME: Duration = Duration::from_secs(5);

/// The event counter's key; other keys are higher.
const EVENT_KEY: u64 = 0;

/// The means to give a worker to the supervisor.
#[derive(Clone)]
pub(super) struct Supervisor(Arc<Inbox>);

struct Inbox {
    new_workers: Mutex<Vec<Worker>>,
    /// Raised when there is a new worker, or an earlier deadline of one.
    event: Arc<EventCounter>,
}

impl Supervisor {
    /// Returns a supervisor, and what its thread has to run.
    pub(super) fn new() -> io::Result<(Self, impl FnOnce() + Send)> {
        let event = Arc::new(EventCounter::new()?);
        let epoll = Epoll::new()?;
        epoll.add(event.as_fd(), EVENT_KEY)?;
        let inbox = Arc::new(Inbox { new_workers: Mutex::default(), event });
        let supervision = Supervision {
            inbox: Arc::clone(&inbox),
            epoll,
            last_key: EVENT_KEY,
            workers: HashMap::new(),
            descendants: HashMap::new(),
        };
        Ok((Self(inbox), move || supervision.run()))
    }

    /// Raised, it makes the supervisor look at the deadlines of all workers.
    pub(super) fn event(&self) -> &Arc<EventCounter> {
        &self.0.event
    }

    pub(super) fn adopt(&self, child: Child, on_exit: OnExit) {
        lock(&self.0.new_workers).push(Worker { child, on_exit, is_polled: true });
        self.0.event.raise();
    }
}

/// A worker that is supervised.
struct Worker {
    child: Child,
    on_exit: OnExit,
    /// It is not in the epoll set.
    is_polled: bool,
}

/// A process that a worker has left behind, and that this process must reap.
struct Descendant {
    pidfd: OwnedFd,
    /// Set while it is out of the epoll set, because it has ended and cannot be reaped yet:
    /// then it is polled until this time.
    polled_until: Option<Instant>,
}

/// What the thread has.
struct Supervision {
    inbox: Arc<Inbox>,
    epoll: Epoll,
    last_key: u64,
    workers: HashMap<u64, Worker>,
    descendants: HashMap<u64, Descendant>,
}

impl Supervision {
    fn run(mut self) {
        loop {
            // A panic in here comes from a caller's code, and concerns one worker.
            let _ = catch_unwind(AssertUnwindSafe(|| self.turn()));
        }
    }

    fn turn(&mut self) {
        let mut ready = Vec::new();
        match self.epoll.wait(self.timeout(), &mut ready) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                // Not expected; if it happens, all workers are polled.
                thread::sleep(POLL);
                ready.extend(self.workers.keys().chain(self.descendants.keys()));
            }
            _ => {}
        }
        // Cleared before the inbox is read: a worker that comes after that raises it again.
        self.inbox.event.clear();
        let new_workers = mem::take(&mut *lock(&self.inbox.new_workers));
        for worker in new_workers {
            let key = self.adopt(worker);
            // Looked at once, as a worker that is no child of this process any more, because
            // the host ignores SIGCHLD, does not become readable.
            self.reap_if_ended(key);
        }
        for key in ready {
            if self.workers.contains_key(&key) && !self.reap_if_ended(key) {
                self.poll_from_now_on(key);
            }
            self.reap_descendant_if_ended(key, true);
        }
        let now = Instant::now();
        for worker in self.workers.values() {
            worker.child.end_if_due(now);
        }
        let polled = self.workers.iter().filter(|(_, worker)| worker.is_polled);
        for key in polled.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.reap_if_ended(key);
        }
        let polled = self.descendants.iter().filter(|(_, process)| process.polled_until.is_some());
        for key in polled.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.reap_descendant_if_ended(key, false);
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let deadlines = self.workers.values().filter_map(|worker| worker.child.next_deadline());
        let left = deadlines.min().map(|at| at.saturating_duration_since(Instant::now()));
        let has_polled = self.workers.values().any(|worker| worker.is_polled)
            || self.descendants.values().any(|process| process.polled_until.is_some());
        if has_polled {
            return Some(left.map_or(POLL, |left| left.min(POLL)));
        }
        left
    }

    fn next_key(&mut self) -> u64 {
        self.last_key += 1;
        self.last_key
    }

    fn adopt(&mut self, mut worker: Worker) -> u64 {
        let key = self.next_key();
        let added = worker.child.with_pidfd(|fd| self.epoll.add(fd, key));
        worker.is_polled = !matches!(added, Some(Ok(())));
        self.workers.insert(key, worker);
        key
    }

    /// Reaps the worker if it has ended, and tells of its end. Returns whether it has.
    fn reap_if_ended(&mut self, key: u64) -> bool {
        let reaped = self.workers.get(&key).and_then(|worker| worker.child.reap_if_ended());
        let Some(Reaped { cause, pidfd, members }) = reaped else { return false };
        if let Some(fd) = &pidfd {
            // Fails if it is polled, and so not in the set.
            let _ = self.epoll.remove(fd.as_fd());
        }
        drop(pidfd);
        for pidfd in members {
            self.adopt_descendant(pidfd);
        }
        if let Some(Worker { child, on_exit, .. }) = self.workers.remove(&key) {
            let status = child.record_exit(cause);
            let _ = catch_unwind(AssertUnwindSafe(|| on_exit(status)));
            if child.log().is_some() {
                run_detached("slipring-log", move || child.complete_log(status));
            }
        }
        true
    }

    fn adopt_descendant(&mut self, pidfd: OwnedFd) {
        let key = self.next_key();
        let is_in_set = self.epoll.add(pidfd.as_fd(), key).is_ok();
        let polled_until = (!is_in_set).then(|| Instant::now() + MAX_ZOMBIE_TIME);
        self.descendants.insert(key, Descendant { pidfd, polled_until });
    }

    /// Reaps a descendant of a worker if it has ended. `is_ready` means that its pidfd was
    /// readable.
    fn reap_descendant_if_ended(&mut self, key: u64, is_ready: bool) {
        let Some(process) = self.descendants.get_mut(&key) else { return };
        let now = Instant::now();
        let is_done = match reap_member(&process.pidfd) {
            Attempt::Gone => true,
            Attempt::Running if !is_ready => process.polled_until.is_some_and(|at| at <= now),
            // It has ended, but its parent is another process, or a debugger holds it. In the
            // epoll set it would end every wait at once.
            Attempt::Running | Attempt::NotOurs => {
                let _ = self.epoll.remove(process.pidfd.as_fd());
                *process.polled_until.get_or_insert(now + MAX_ZOMBIE_TIME) <= now
            }
        };
        if is_done && let Some(process) = self.descendants.remove(&key) {
            let _ = self.epoll.remove(process.pidfd.as_fd());
        }
    }

    /// Takes a worker out of the epoll set. Needed for one that has ended and cannot be reaped,
    /// because a debugger holds it: in the set it would end every wait at once.
    fn poll_from_now_on(&mut self, key: u64) {
        if let Some(worker) = self.workers.get_mut(&key) {
            let _ = worker.child.with_pidfd(|fd| self.epoll.remove(fd));
            worker.is_polled = true;
        }
    }
}
