//! The starter: one thread that starts every worker.
//!
//! A worker asks the kernel to kill it when the *thread* that started it ends, so workers are
//! started by a thread that lasts as long as the process. It is not the supervisor's thread:
//! the kernel returns from a start when it has loaded the program, which takes as long as the
//! program's file system does, and must not delay the news of other workers' ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};

use super::child::Child;
use super::log::Log;
use super::oom::OomCount;
use super::pid_handle::PidHandle;
use super::service::{lock, service_mask, start_thread};
use super::spawn::{Program, spawn};
use super::supervisor::{OnExit, Supervisor};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::fork;
use crate::sys::process::pidfd_open;
use crate::sys::signal::has_default_action;

/// The means to use the starter's thread, which ends when this is dropped. `None` until the
/// first worker is started.
static STARTER: Mutex<Option<Sender<Order>>> = Mutex::new(None);

/// Starts `program`, and returns once it runs. `stdin` is closed then. `socket` is the other
/// end of `stdin`, if that is a bootstrap socket; it is shut down when the worker has ended.
/// `on_exit` is called exactly once if this succeeds, possibly before it returns, and never
/// if it fails.
///
/// A worker inherits what the kernel keeps for each thread, such as namespaces and
/// capabilities, from the starter's thread, which has it from the thread that started the first
/// worker. Only the affinity is that of the main thread.
///
/// # Errors
///
/// [`ErrorKind::Spawn`] when the program cannot be started, [`ErrorKind::Forked`] in a
/// fork of the process that started the first worker, [`ErrorKind::Os`] when the library's
/// threads cannot be started or no descriptor is free.
pub(crate) fn start(
    program: Program,
    stdin: OwnedFd,
    socket: Option<Arc<UnixStream>>,
    log: Option<Log>,
    on_exit: OnExit,
) -> Result<Child> {
    let oom = Arc::default();
    Job { program, stdin, socket, log, on_exit, uses_pidfd: true, oom }.run()
}

/// A worker to start.
struct Job {
    program: Program,
    stdin: OwnedFd,
    socket: Option<Arc<UnixStream>>,
    log: Option<Log>,
    on_exit: OnExit,
    /// False in tests only, as on a kernel without pidfds.
    uses_pidfd: bool,
    /// The number of out-of-memory kills at the start.
    oom: Arc<OnceLock<OomCount>>,
}

type Order = (Box<Job>, SyncSender<Result<Child>>);

/// Returns the means to use the starter's thread. Starts that thread and the supervisor's if
/// they do not run yet.
fn starter() -> Result<Sender<Order>> {
    let mut starter = lock(&STARTER);
    if let Some(running) = &*starter {
        return Ok(running.clone());
    }
    let begin = || -> io::Result<Sender<Order>> {
        let (supervisor, supervise) = Supervisor::new()?;
        let (order, orders) = channel();
        start_thread("slipring-start", move || run(&orders, &supervisor))?;
        // If this fails, `order` is dropped, and the starter's thread ends.
        start_thread("slipring-super", supervise)?;
        Ok(order)
    };
    let new = begin().map_err(|e| Error::os("cannot start the supervisor of the workers", e))?;
    Ok(starter.insert(new).clone())
}

fn run(orders: &Receiver<Order>, supervisor: &Supervisor) {
    while let Ok((job, reply)) = orders.recv() {
        let_the_kernel_ignore_ends();
        // A panic in here comes from a caller's code. That caller then gets no reply.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            // The caller waits for the reply, so this cannot fail.
            let _ = reply.send(job.carry_out(supervisor));
        }));
    }
}

/// Keeps the ends of workers from interrupting the host. The kernel drops the signal of a
/// child's end if nothing handles it, but not if the thread that has started the child blocks
/// it: then it interrupts a system call of some other thread. So this thread, which starts all
/// workers, blocks the signal only if the host handles it, as the handler is for the host's
/// threads. The thread checks that at each start, since the host may set a handler at any time.
/// What is left is a worker that ends while this thread is still in the C library's call that
/// starts it.
fn let_the_kernel_ignore_ends() {
    let mut mask = service_mask();
    if has_default_action(libc::SIGCHLD) {
        mask.remove(libc::SIGCHLD);
    }
    // Fails for no valid set.
    let _ = mask.set_as_mask();
}

impl Job {
    /// Has the starter's thread start the worker. Blocks while it starts others, and until the
    /// program is loaded.
    fn run(self) -> Result<Child> {
        fork::check()?;
        let (reply, answer) = sync_channel(1);
        let oom = Arc::clone(&self.oom);
        // Without the thread there is no answer.
        let _ = starter()?.send((Box::new(self), reply));
        // Meanwhile the kernel loads the program, which takes longer than this. A worker that dies
        // for want of memory before that has no hint.
        if let Some(count) = OomCount::now() {
            let _ = oom.set(count);
        }
        answer.recv().unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Spawn, "the library failed while it started a worker"))
        })
    }

    fn carry_out(self: Box<Self>, supervisor: &Supervisor) -> Result<Child> {
        let Self { program, stdin, socket, mut log, on_exit, uses_pidfd, oom } = *self;
        // Keeps a descriptor free for the pidfd.
        let place = stdin.try_clone().map_err(|e| Error::os("no descriptor for a worker", e))?;
        let output = log.as_mut().and_then(Log::take_output);
        let pid = spawn(&program, stdin.as_fd(), output.as_ref().map(AsFd::as_fd))?;
        drop(output);
        drop((place, stdin));
        // The process id cannot have been recycled yet, as the library has not reaped the
        // worker. If the host reaps children that are not its own, waiting for the worker
        // fails, which is taken for its end. Without a pidfd the worker is polled.
        let pidfd = uses_pidfd.then(|| pidfd_open(pid).ok()).flatten();
        let handle = PidHandle::new(pid, pidfd);
        let event = Arc::clone(supervisor.event());
        let child = Child::new(handle, log, socket, oom, event);
        supervisor.adopt(child.clone(), on_exit);
        Ok(child)
    }
}

#[cfg(test)]
#[path = "starter_tests.rs"]
mod tests;
