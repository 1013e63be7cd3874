//! The starter: one thread that starts every worker.
//!
//! Workers ask to be killed when the *thread* that started them ends, so that this has to
//! be a thread which stays. It is not the supervisor's: the kernel returns from a start when
//! it has loaded the program, which takes as long as the program's file system does, and the
//! ends of other workers are not to be noticed later for that.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use super::exit::{Child, Process};
use super::log::Log;
use super::oom::OomCount;
use super::service::start_thread;
use super::spawn::{Program, spawn};
use super::supervisor::{OnExit, Pidfds, Ward, next_key};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::process::pidfd_open;

/// A worker to start.
pub(super) struct Job {
    pub(super) program: Program,
    pub(super) stdin: OwnedFd,
    pub(super) socket: Option<Arc<UnixStream>>,
    pub(super) log: Option<Log>,
    pub(super) on_exit: OnExit,
    pub(super) pidfds: Pidfds,
}

type Order = (Box<Job>, SyncSender<Result<Child>>);

/// The means to order a start. The thread ends when this is dropped.
#[derive(Clone)]
pub(super) struct Starter(Sender<Order>);

impl Starter {
    /// Starts the thread, which gives every worker that it has started to `adopt`.
    pub(super) fn begin(adopt: impl Fn(Ward) + Send + 'static) -> io::Result<Self> {
        let (order, orders) = channel();
        start_thread("slipring-start", move || run(&orders, adopt))?;
        Ok(Self(order))
    }

    /// Starts a worker. Blocks while others are started, and until the program is loaded.
    pub(super) fn start(&self, job: Job) -> Result<Child> {
        let (reply, answer) = sync_channel(1);
        // Without the thread there is no answer.
        let _ = self.0.send((Box::new(job), reply));
        answer.recv().unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Spawn, "the library failed while it started a worker"))
        })
    }
}

fn run(orders: &Receiver<Order>, adopt: impl Fn(Ward)) {
    while let Ok((job, reply)) = orders.recv() {
        // Whatever panics in here was brought by a caller, who then gets no answer.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let started = job.carry_out().map(|ward| {
                let child = ward.child();
                // Before the answer: the supervisor knows of every worker that is known of.
                adopt(ward);
                child
            });
            // The caller waits for the answer, so that it is there to take it.
            let _ = reply.send(started);
        }));
    }
}

impl Job {
    fn carry_out(self: Box<Self>) -> Result<Ward> {
        let Self { program, stdin, socket, mut log, on_exit, pidfds } = *self;
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
        let process = Process::new(next_key(), pid, pidfd, log, socket, oom);
        Ok(Ward::new(Arc::new(process), on_exit))
    }
}
