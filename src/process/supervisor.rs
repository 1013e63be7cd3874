//! The supervisor: one thread that starts every worker and reaps every worker.
//!
//! Workers ask to be killed when the *thread* that started them ends, so that this has to
//! be a thread which stays. It sleeps in one epoll wait over a bell for commands and the
//! workers' pidfds, with a timeout only while a retirement is due.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::exit::{Child, Process};
use super::log::Log;
use super::oom::OomCount;
use super::service::{Home, lock, start_thread};
use super::spawn::{Program, spawn};
use super::sys::fd::{Epoll, EventCounter};
use super::sys::process::pidfd_open;
use crate::error::{Error, ErrorKind, ExitCause, Result};

/// What is called once when a worker has ended, on the supervisor's thread: it must not
/// block. It may start another worker.
pub(crate) type OnExit = Box<dyn FnOnce(ExitCause) + Send>;

/// How often a worker without a pidfd is looked at.
const POLL: Duration = Duration::from_millis(50);

/// The bell's key; workers' keys begin above.
const BELL: u64 = 0;

static HOME: Home = Home::new();
static INBOX: Mutex<Option<Arc<Inbox>>> = Mutex::new(None);
static NEXT_KEY: AtomicU64 = AtomicU64::new(BELL + 1);

thread_local! {
    static IS_SUPERVISOR: Cell<bool> = const { Cell::new(false) };
}

/// Starts `program` and returns once it runs. `stdin` is closed then. `on_exit` is called exactly once if this succeeds, possibly
/// before it returns, and never if it fails.
///
/// What belongs to a thread and not to a process, as namespaces and capabilities do, a
/// worker inherits from the supervisor's thread, which got it from the thread that started
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
    log: Option<Log>,
    on_exit: OnExit,
) -> Result<Child> {
    start_with(program, stdin, log, on_exit, Pidfds::Use)
}

/// Whether to use pidfds; they can be absent, or forbidden by a system call filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pidfds {
    Use,
    #[cfg(test)]
    Avoid,
}

pub(super) fn start_with(
    program: Program,
    stdin: OwnedFd,
    log: Option<Log>,
    on_exit: OnExit,
    pidfds: Pidfds,
) -> Result<Child> {
    if !is_at_home() {
        let message = "workers cannot be started in a fork of the process that uses slipring";
        return Err(Error::new(ErrorKind::Forked, message));
    }
    let inbox = running()?;
    let job = Box::new(Job { program, stdin, log, on_exit, pidfds });
    if IS_SUPERVISOR.get() {
        // Called by an `on_exit`: waiting for this thread would be for ever.
        let ward = job.carry_out()?;
        let child = ward.child();
        inbox.post(Command::Adopt(ward));
        return Ok(child);
    }
    let (reply, answer) = sync_channel(1);
    inbox.post(Command::Start(job, reply));
    answer.recv().unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Spawn, "the supervisor failed while it started a worker"))
    })
}

/// Whether this process is the one whose workers are supervised.
pub(super) fn is_at_home() -> bool {
    HOME.is_here()
}

/// See [`Child::retire`].
pub(super) fn retire(key: u64, term_at: Option<Instant>, kill_at: Option<Instant>) {
    if is_at_home()
        && let Some(inbox) = &*lock(&INBOX)
    {
        inbox.post(Command::Retire { key, term_at, kill_at });
    }
}

/// The inbox of the supervisor, which is started if need be.
fn running() -> Result<Arc<Inbox>> {
    let mut inbox = lock(&INBOX);
    if let Some(inbox) = &*inbox {
        return Ok(Arc::clone(inbox));
    }
    let begin = || {
        let new = Arc::new(Inbox { commands: Mutex::default(), bell: EventCounter::new()? });
        let epoll = Epoll::new()?;
        epoll.add(new.bell.as_fd(), BELL)?;
        let supervisor = Supervisor { inbox: Arc::clone(&new), epoll, wards: HashMap::new() };
        start_thread("slipring-super", move || supervisor.run())?;
        Ok(new)
    };
    let new = begin().map_err(|e| Error::os("cannot start the supervisor of the workers", e))?;
    *inbox = Some(Arc::clone(&new));
    Ok(new)
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
    Start(Box<Job>, SyncSender<Result<Child>>),
    /// Started by the supervisor's own thread, in an `on_exit`.
    Adopt(Ward),
    Retire {
        key: u64,
        term_at: Option<Instant>,
        kill_at: Option<Instant>,
    },
}

/// A worker to start.
struct Job {
    program: Program,
    stdin: OwnedFd,
    log: Option<Log>,
    on_exit: OnExit,
    pidfds: Pidfds,
}

impl Job {
    fn carry_out(self: Box<Self>) -> Result<Ward> {
        let Self { program, stdin, mut log, on_exit, pidfds } = *self;
        // The place in the table for the pidfd: better no worker than one without.
        let place = stdin.try_clone().map_err(|e| Error::os("no descriptor for a worker", e))?;
        let oom = OomCount::now();
        let pid = spawn(&program, stdin.as_fd(), log.as_mut().and_then(Log::fd))?;
        drop((place, stdin));
        // The worker cannot be recycled before this, as nobody has reaped it: unless the
        // host does that, and then waiting tells that it is no child of ours. Any failure
        // leaves it to be polled.
        let pidfd = match pidfds {
            Pidfds::Use => pidfd_open(pid).ok(),
            #[cfg(test)]
            Pidfds::Avoid => None,
        };
        let key = NEXT_KEY.fetch_add(1, Ordering::Relaxed);
        let process = Arc::new(Process::new(key, pid, pidfd, log));
        Ok(Ward { process, on_exit, oom, is_polled: true, term_at: None, kill_at: None })
    }
}

/// A worker in the supervisor's care.
struct Ward {
    process: Arc<Process>,
    on_exit: OnExit,
    oom: Option<OomCount>,
    /// Not in the epoll set.
    is_polled: bool,
    term_at: Option<Instant>,
    kill_at: Option<Instant>,
}

impl Ward {
    fn child(&self) -> Child {
        Child(Arc::clone(&self.process))
    }

    fn next_deadline(&self) -> Option<Instant> {
        earlier(self.term_at, self.kill_at)
    }

    /// Sends the signals whose time has come.
    fn press(&mut self, now: Instant) {
        if self.term_at.take_if(|at| *at <= now).is_some() {
            self.process.signal(libc::SIGTERM);
        }
        if self.kill_at.take_if(|at| *at <= now).is_some() {
            self.process.kill_group();
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
}

impl Supervisor {
    fn run(mut self) {
        IS_SUPERVISOR.set(true);
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
                ready.extend(self.wards.keys());
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
        }
        let now = Instant::now();
        for ward in self.wards.values_mut() {
            ward.press(now);
        }
        let polled = self.wards.iter().filter(|(_, ward)| ward.is_polled);
        for key in polled.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.look_at(key);
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let deadline = self.wards.values().filter_map(Ward::next_deadline).min();
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        if self.wards.values().any(|ward| ward.is_polled) {
            return Some(left.map_or(POLL, |left| left.min(POLL)));
        }
        left
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Start(job, reply) => match job.carry_out() {
                Ok(ward) => {
                    let child = ward.child();
                    let key = self.adopt(ward);
                    // The caller waits for the answer, so that it is there to take it.
                    let _ = reply.send(Ok(child));
                    // One that is no child of this process any more, because the host ignores
                    // SIGCHLD, would not be noticed otherwise.
                    self.look_at(key);
                }
                Err(error) => drop(reply.send(Err(error))),
            },
            Command::Adopt(ward) => {
                let key = self.adopt(ward);
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
        if let Some(ward) = self.wards.remove(&key) {
            let grown = || ward.oom.as_ref().is_some_and(OomCount::has_grown);
            ward.process.announce(end.cause, grown);
            let on_exit = ward.on_exit;
            let _ = catch_unwind(AssertUnwindSafe(|| on_exit(end.cause)));
        }
        true
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
