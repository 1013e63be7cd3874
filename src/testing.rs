//! A worker thread in place of the worker process, for a host's own tests.
//!
//! Rings, doorbells, protocol and handlers are those of a worker process. A thread cannot do what
//! needs a process: it cannot crash alone, be killed, be stopped by a signal, or have limits. It
//! has no log and no process id of its own. A handler that never returns cannot be ended.
//!
//! ```
//! use std::time::Duration;
//! use slipring::worker::Worker;
//! use slipring::{Config, Kind, RoleConfig, testing};
//!
//! const SHOUT: Kind = Kind::named("shout");
//!
//! fn worker() -> Worker<()> {
//!     Worker::new(|_config| Ok(())).on(SHOUT, |(), request, reply| {
//!         let text = String::from_utf8(request.to_vec())?;
//!         Ok(reply.send(&text.to_uppercase())?)
//!     })
//! }
//!
//! let channel = testing::spawn_thread(&Config::small(), RoleConfig::default(), worker)?;
//! let reply = channel.call(SHOUT, "hello", Duration::from_secs(10))?;
//! assert_eq!(reply.to_vec(), b"HELLO");
//! # Ok::<(), slipring::Error>(())
//! ```
//!
//! A test that needs a process starts its own program as the worker: see `examples/testing_host.rs`
//! in the repository.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::channel::{Channel, State};
use crate::config::Config;
use crate::error::{Error, ExitCause, Result};
use crate::link::{ParentLink, WorkerLink};
use crate::process::external::ExternalWorker;
use crate::protocol::RoleConfig;
use crate::sys::wake_fd::WakeFd;
use crate::worker::{StopToken, Worker};

/// Starts a worker as a thread of this process and returns the channel to it. The thread calls
/// `make` and serves the worker that it returns. Returns as soon as the thread is started; requests
/// wait until the worker's session is built.
///
/// A panic of `make` ends the worker, as it would end a process: the channel's operations then fail
/// with [`ErrorKind::PeerDied`](crate::ErrorKind::PeerDied).
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
    let (state, stop) = (Arc::<State>::default(), Arc::<StopToken>::default());
    let thread = ExternalWorker::new(std::process::id(), {
        let stop = Arc::clone(&stop);
        Arc::new(move || stop.set())
    });
    let name = role.role.clone();
    let started = std::thread::Builder::new().name(format!("worker {name}")).spawn({
        let (state, thread) = (Arc::clone(&state), thread.clone());
        move || {
            let serve = AssertUnwindSafe(|| make().serve_link(link, &role, &stop));
            let code = match catch_unwind(serve) {
                Ok(served) => i32::from(served.is_err()),
                Err(_) => 101,
            };
            thread.record_exit(ExitCause::Exited(code));
            state.has_ended();
        }
    });
    started.map_err(|e| Error::os("cannot start a worker thread", e))?;
    Ok(Channel::over_thread(parent, config, name, thread, state, wake_fd))
}
