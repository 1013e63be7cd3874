//! A worker thread in place of the worker process, for a host's own tests.
//!
//! The rings, the doorbells, the protocol and the handlers are the same, over memfds of
//! their own that are mapped once for each side. What a process gives is missing: it
//! cannot crash alone, be killed, be stopped by a signal, or be limited; it has no log,
//! no pid of its own, and a handler that never returns cannot be ended.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::channel::{Channel, Life};
use crate::config::Config;
use crate::error::{Error, ExitCause, Result};
use crate::link::{ParentLink, WorkerLink};
use crate::process::thread::ThreadWorker;
use crate::protocol::handshake::RoleConfig;
use crate::sys::wake_fd::WakeFd;
use crate::worker::{Stop, Worker};

/// Starts a worker as a thread of this process and returns the channel to it. `make` is
/// called on that thread.
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os) if memory, descriptors or threads run out.
pub fn spawn_thread<S>(
    config: &Config,
    role: RoleConfig,
    make: impl FnOnce() -> Worker<S> + Send + 'static,
) -> Result<Channel> {
    let (wake_fd, fds) = WakeFd::pair()?;
    let (wake_fd, theirs) = (Some(Arc::new(wake_fd)), Some(Arc::new(WakeFd::of(fds))));
    let (parent, files) = ParentLink::create(config, wake_fd.as_ref())?;
    let (down, up) = (files.down.into(), files.up.into());
    let link = WorkerLink::attach(down, up, config.wait, theirs.as_ref())?;
    parent.answer.check_attached()?;
    let (life, stop) = (Arc::<Life>::default(), Arc::<Stop>::default());
    let thread = ThreadWorker::new(std::process::id(), {
        let stop = Arc::clone(&stop);
        Arc::new(move || stop.set())
    });
    let name = role.role.clone();
    let started = std::thread::Builder::new().name(format!("worker {name}")).spawn({
        let (life, thread) = (Arc::clone(&life), thread.clone());
        move || {
            // A panic of `make` is the end of a worker, as it would be of its process.
            let serve = AssertUnwindSafe(|| make().serve_link(link, &role, &stop));
            let code = match catch_unwind(serve) {
                Ok(served) => i32::from(served.is_err()),
                Err(_) => 101,
            };
            thread.has_ended(ExitCause::Exited(code));
            life.has_ended();
        }
    });
    started.map_err(|e| Error::os("cannot start a worker thread", e))?;
    Ok(Channel::over_thread(parent, config, name, thread, life, wake_fd))
}
