//! The supervisor: one thread that ends and reaps every worker.
//!
//! It sleeps in one epoll wait over a bell for commands, the workers' pidfds and those of
//! what workers have left behind, with a timeout only while something is due. As it is one
//! thread for all workers, nothing that it does waits for one of them, for a file or for the
//! host: what could runs apart, see [`run_apart`].

use std::collections::HashMap;
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::exit::{Child, Process};
use super::log::Log;
use super::orphans::{self, Reaped};
use super::service::{Home, lock, run_apart, start_thread};
use super::spawn::Program;
use super::starter::{Job, Starter};
use crate::error::{Error, ErrorKind, ExitCause, Result};
use crate::sys::fd::{Epoll, EventCounter};

/// What is called once when a worker has ended, on the supervisor's thread: it must not
/// block, and not run code of the host's.
pub(crate) type OnExit = Box<dyn FnOnce(ExitCause) + Send>;

/// How often a worker without a pidfd is looked at.
const POLL: Duration = Duration::from_millis(50);
/// How long an orphan that has ended may be another process's child, or held by a debugger.
/// That parent was killed with it, and leaves the orphan to this process when it ends.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(5);

/// The bell's key; workers' keys begin above.
const BELL: u64 = 0;

static HOME: Home = Home::new();
static SERVICE: Mutex<Option<Service>> = Mutex::new(None);
static NEXT_KEY: AtomicU64 = AtomicU64::new(BELL + 1);

/// The key of the next worker.
pub(super) fn next_key() -> u64 {
    NEXT_KEY.fetch_add(1, Ordering::Relaxed)
}

/// Starts `program` and returns once it runs. `stdin` is closed then. `socket` is the other
/// end of `stdin`, if that is a bootstrap socket; it is shut down when the worker has ended.
/// `on_exit` is called exactly once if this succeeds, possibly before it returns, and never
/// if it fails.
///
/// What belongs to a thread and not to a process, as namespaces and capabilities do, a
/// worker inherits from the starter's thread, which got it from the thread that started
/// the first worker; only processors are the main thread's.
///
/// # Errors
///
/// [`ErrorKind::Spawn`] when the program cannot be started, [`ErrorKind::Forked`] in a
/// fork of the process that started the first worker, [`ErrorKind::Os`] when the
/// supervisor itself cannot be started or no descriptor is free.
pub(crate) fn start(
    program: Program,
    stdin: OwnedFd,
    socket: Option<Arc<UnixStream>>,
    log: Option<Log>,
    on_exit: OnExit,
) -> Result<Child> {
    start_job(Job { program, stdin, socket, log, on_exit, pidfds: Pidfds::Use })
}

/// Whether to use pidfds; they can be absent, or forbidden by a system call filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pidfds {
    Use,
    #[cfg(test)]
    Avoid,
}

fn start_job(job: Job) -> Result<Child> {
    if !is_at_home() {
        let message = "workers cannot be started in a fork of the process that uses slipring";
        return Err(Error::new(ErrorKind::Forked, message));
    }
    running()?.start(job)
}

/// Takes the lock, for a test of what must not wait for it.
#[cfg(all(test, feature = "tokio"))]
pub(crate) fn hold() -> impl Sized {
    lock(&SERVICE)
}

/// Whether this process is the one whose workers are supervised.
pub(super) fn is_at_home() -> bool {
    HOME.is_here()
}

/// See [`Child::retire`].
pub(super) fn retire(key: u64, term_at: Option<Instant>, kill_at: Option<Instant>) {
    if is_at_home()
        && let Some(service) = &*lock(&SERVICE)
    {
        service.inbox.post(Command::Retire { key, term_at, kill_at });
    }
}

/// The two threads behind this module, as others see them.
struct Service {
    inbox: Arc<Inbox>,
    starter: Starter,
}

/// The starter; both threads are started if need be.
fn running() -> Result<Starter> {
    let mut service = lock(&SERVICE);
    if let Some(service) = &*service {
        return Ok(service.starter.clone());
    }
    let begin = || {
        let inbox = Arc::new(Inbox { commands: Mutex::default(), bell: EventCounter::new()? });
        let epoll = Epoll::new()?;
        epoll.add(inbox.bell.as_fd(), BELL)?;
        let adopting = Arc::clone(&inbox);
        let starter = Starter::begin(move |ward| adopting.post(Command::Adopt(Box::new(ward))))?;
        let supervisor = Supervisor {
            inbox: Arc::clone(&inbox),
            epoll,
            wards: HashMap::new(),
            orphans: HashMap::new(),
        };
        // If this fails, the starter ends with its handle.
        start_thread("slipring-super", move || supervisor.run())?;
        Ok(Service { inbox, starter })
    };
    let new = begin().map_err(|e| Error::os("cannot start the supervisor of the workers", e))?;
    let starter = new.starter.clone();
    *service = Some(new);
    Ok(starter)
}

/// How others talk to the supervisor.
struct Inbox {
    commands: Mutex<Vec<Command>>,
    bell: EventCounter,
}

impl Inbox {
    fn post(&self, command: Command) {
        lock(&self.commands).push(command);
        self.bell.raise();
    }
}

enum Command {
    Adopt(Box<Ward>),
    Retire { key: u64, term_at: Option<Instant>, kill_at: Option<Instant> },
}

/// A worker in the supervisor's care.
pub(super) struct Ward {
    process: Arc<Process>,
    on_exit: OnExit,
    /// Not in the epoll set.
    is_polled: bool,
    term_at: Option<Instant>,
    kill_at: Option<Instant>,
}

impl Ward {
    pub(super) fn new(process: Arc<Process>, on_exit: OnExit) -> Self {
        Self { process, on_exit, is_polled: true, term_at: None, kill_at: None }
    }

    pub(super) fn child(&self) -> Child {
        Child(Arc::clone(&self.process))
    }

    fn next_deadline(&self) -> Option<Instant> {
        earlier(self.term_at, self.kill_at)
    }

    /// Takes the means whose time has come.
    fn press(&mut self, now: Instant) {
        if self.term_at.take_if(|at| *at <= now).is_some() {
            // Reaches also a worker that this process may not signal.
            self.process.hang_up();
            self.process.signal(libc::SIGTERM);
        }
        if self.kill_at.take_if(|at| *at <= now).is_some() {
            self.process.kill();
        }
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    [a, b].into_iter().flatten().min()
}

struct Supervisor {
    inbox: Arc<Inbox>,
    epoll: Epoll,
    wards: HashMap<u64, Ward>,
    orphans: HashMap<u64, Orphan>,
}

/// Something that a worker has left behind and that is to be reaped.
struct Orphan {
    pidfd: OwnedFd,
    /// Set for one that has ended and cannot be reaped yet: it is out of the epoll set, and
    /// looked at again and again until then.
    until: Option<Instant>,
}

impl Supervisor {
    fn run(mut self) {
        loop {
            // Whatever panics in here was brought by a caller, and concerns one worker.
            let _ = catch_unwind(AssertUnwindSafe(|| self.turn()));
        }
    }

    fn turn(&mut self) {
        let mut ready = Vec::new();
        match self.epoll.wait(self.timeout(), &mut ready) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                // Cannot be; but then workers are still noticed, by polling them all.
                thread::sleep(POLL);
                ready.extend(self.wards.keys().chain(self.orphans.keys()));
            }
            _ => {}
        }
        // The bell before the commands: one that is posted after the look rings again.
        self.inbox.bell.clear();
        let commands = mem::take(&mut *lock(&self.inbox.commands));
        for command in commands {
            self.obey(command);
        }
        for key in ready {
            if self.wards.contains_key(&key) && !self.look_at(key) {
                self.poll_from_now_on(key);
            }
            self.look_at_orphan(key, true);
        }
        let now = Instant::now();
        for ward in self.wards.values_mut() {
            ward.press(now);
        }
        let polled = self.wards.iter().filter(|(_, ward)| ward.is_polled);
        for key in polled.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.look_at(key);
        }
        let polled = self.orphans.iter().filter(|(_, orphan)| orphan.until.is_some());
        for key in polled.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.look_at_orphan(key, false);
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let deadline = self.wards.values().filter_map(Ward::next_deadline).min();
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let has_polled = self.wards.values().any(|ward| ward.is_polled)
            || self.orphans.values().any(|orphan| orphan.until.is_some());
        if has_polled {
            return Some(left.map_or(POLL, |left| left.min(POLL)));
        }
        left
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Adopt(ward) => {
                let key = self.adopt(*ward);
                // One that is no child of this process any more, because the host ignores
                // SIGCHLD, would not be noticed otherwise.
                self.look_at(key);
            }
            Command::Retire { key, term_at, kill_at } => {
                if let Some(ward) = self.wards.get_mut(&key) {
                    ward.term_at = earlier(ward.term_at, term_at);
                    ward.kill_at = earlier(ward.kill_at, kill_at);
                }
            }
        }
    }

    fn adopt(&mut self, mut ward: Ward) -> u64 {
        let key = ward.process.key();
        let added = ward.process.with_pidfd(|fd| self.epoll.add(fd, key));
        ward.is_polled = !matches!(added, Some(Ok(())));
        self.wards.insert(key, ward);
        key
    }

    /// Finishes the worker if it has ended; whether it has.
    fn look_at(&mut self, key: u64) -> bool {
        let Some(end) = self.wards.get(&key).and_then(|ward| ward.process.reap_if_ended()) else {
            return false;
        };
        if let Some(fd) = &end.pidfd {
            // Best effort, as a polled one is not in the set.
            let _ = self.epoll.remove(fd.as_fd());
        }
        drop(end.pidfd);
        for pidfd in end.orphans {
            self.take_in(pidfd);
        }
        if let Some(ward) = self.wards.remove(&key) {
            let Ward { process, on_exit, .. } = ward;
            let cause = process.announce(end.cause);
            let _ = catch_unwind(AssertUnwindSafe(|| on_exit(cause)));
            if process.has_log() {
                run_apart("slipring-log", move || process.complete_log(cause));
            }
        }
        true
    }

    /// Waits for the end of something that a worker has left behind.
    fn take_in(&mut self, pidfd: OwnedFd) {
        let key = next_key();
        let is_in_set = self.epoll.add(pidfd.as_fd(), key).is_ok();
        let until = (!is_in_set).then(|| Instant::now() + ORPHAN_PATIENCE);
        self.orphans.insert(key, Orphan { pidfd, until });
    }

    /// Reaps the orphan if it has ended. `is_ready` says that its pidfd was readable.
    fn look_at_orphan(&mut self, key: u64, is_ready: bool) {
        let Some(orphan) = self.orphans.get_mut(&key) else { return };
        let now = Instant::now();
        let is_done = match orphans::reap(&orphan.pidfd) {
            Reaped::Done => true,
            // Left to the epoll set, if it is there.
            Reaped::NotEnded if !is_ready => orphan.until.is_some_and(|until| until <= now),
            // It has ended, but its parent is another process, or a debugger holds it. Left in
            // the set it would end every wait at once.
            Reaped::NotEnded | Reaped::NotHere => {
                let _ = self.epoll.remove(orphan.pidfd.as_fd());
                *orphan.until.get_or_insert(now + ORPHAN_PATIENCE) <= now
            }
        };
        if is_done && let Some(orphan) = self.orphans.remove(&key) {
            let _ = self.epoll.remove(orphan.pidfd.as_fd());
        }
    }

    /// A dead process that a debugger still holds is readable, but cannot be reaped:
    /// left in the set, it would end every wait at once.
    fn poll_from_now_on(&mut self, key: u64) {
        if let Some(ward) = self.wards.get_mut(&key) {
            let _ = ward.process.with_pidfd(|fd| self.epoll.remove(fd));
            ward.is_polled = true;
        }
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
