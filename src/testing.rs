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
//!     Worker::new(|_role| Ok(())).on(SHOUT, |(), request, responder| {
//!         Ok(responder.send(&request.text()?.to_uppercase())?)
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

use crate::channel::raw_end::link_to_thread;
use crate::channel::{Channel, ChannelState};
use crate::config::Config;
use crate::error::{Error, ExitCause, Result};
use crate::link::{ParentLink, WorkerLink};
use crate::process::external::ExternalWorker;
use crate::protocol::RoleConfig;
use crate::raw::RawLink;
use crate::shm::memfd;
use crate::sys::wake_fd::WakeFd;
use crate::worker::{StopToken, Worker, raw};

/// Starts a worker as a thread of this process and returns the channel to it. The thread calls
/// `make` and serves the worker that it returns. Returns as soon as the thread is started; requests
/// wait until the worker's session is built.
///
/// A panic of `make` ends the worker, as it would end a process: the channel's operations then fail
/// with [`ErrorKind::PeerDied`](crate::ErrorKind::PeerDied).
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os) if memory, descriptors or threads run out;
/// [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a forked child.
pub fn spawn_thread<S>(
    config: &Config,
    role: RoleConfig,
    make: impl FnOnce() -> Worker<S> + Send + 'static,
) -> Result<Channel> {
    let (name, ends) = (role.role.clone(), Ends::new(config)?);
    let (worker, stop) = (ends.worker, Arc::clone(&ends.stop));
    // The channel is there before the thread has begun.
    worker.words.tell_what_is_understood();
    ends.worker_thread.start(&name, move || make().serve_link(worker, &role, &stop))?;
    let WorkerThread { state, thread } = ends.worker_thread;
    Ok(Channel::over_thread(ends.parent, config, name, thread, state, Some(ends.wake_fd), None))
}

/// Starts a worker that uses the rings without requests and replies, as a thread of this
/// process, and returns the parent's end of its link. `run` is called on that thread with the
/// worker's end, and the worker ends when it returns. Both ends can be polled.
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os) if memory, descriptors or threads run out;
/// [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a forked child.
///
/// ```
/// use std::time::Duration;
///
/// use slipring::ring::Header;
/// use slipring::testing::spawn_raw_thread;
/// use slipring::{Config, RoleConfig};
///
/// let mut link = spawn_raw_thread(&Config::small(), RoleConfig::default(), |link, _role| {
///     // The worker sends each frame back until the link ends.
///     let (mut sender, mut receiver) = link.split();
///     while let Ok(frame) = receiver.recv(Duration::MAX) {
///         let mut claim = sender.claim(frame.payload().len(), Duration::MAX)?;
///         frame.payload().copy_to(claim.payload())?;
///         claim.commit(frame.header());
///     }
///     Ok(())
/// })?;
/// let mut claim = link.claim(5, Duration::from_secs(1))?;
/// claim.payload().copy_from_slice(b"hello");
/// claim.commit(Header { request: 7, ..Header::default() });
/// let frame = link.recv(Duration::from_secs(1))?;
/// assert_eq!(frame.header().request, 7);
/// assert_eq!(frame.payload().to_vec(), b"hello");
/// # Ok::<(), slipring::Error>(())
/// ```
pub fn spawn_raw_thread(
    config: &Config,
    role: RoleConfig,
    run: impl FnOnce(RawLink, RoleConfig) -> Result<()> + Send + 'static,
) -> Result<RawLink> {
    let (name, ends) = (role.role.clone(), Ends::new(config)?);
    let link = raw::link_of(ends.worker, Some(ends.theirs), &ends.stop, std::process::id())?;
    ends.worker_thread.start(&name, move || run(link, role))?;
    let WorkerThread { state, thread } = ends.worker_thread;
    Ok(link_to_thread(ends.parent, name, thread, state, Some(ends.wake_fd)))
}

/// Both ends of a channel's memory, and the thread that will be the worker.
struct Ends {
    parent: ParentLink,
    worker: WorkerLink,
    wake_fd: Arc<WakeFd>,
    theirs: Arc<WakeFd>,
    stop: Arc<StopToken>,
    worker_thread: WorkerThread,
}

struct WorkerThread {
    state: Arc<ChannelState>,
    thread: ExternalWorker,
}

impl Ends {
    fn new(config: &Config) -> Result<Self> {
        let (wake_fd, fds) = WakeFd::pair()?;
        let (wake_fd, theirs) = (Arc::new(wake_fd), Arc::new(WakeFd::of(fds)));
        let (regions, files) = memfd::create(config)?;
        let parent = ParentLink::over(regions, config.tuning(), Some(&wake_fd))?;
        let (down, up) = (files.down.into(), files.up.into());
        let worker = WorkerLink::over(memfd::attach(down, up)?, config.tuning(), Some(&theirs))?;
        parent.answer.check_attached()?;
        let stop = Arc::<StopToken>::default();
        let thread = ExternalWorker::new(std::process::id(), {
            let stop = Arc::clone(&stop);
            Arc::new(move || stop.set())
        });
        let worker_thread = WorkerThread { state: Arc::default(), thread };
        Ok(Self { parent, worker, wake_fd, theirs, stop, worker_thread })
    }
}

impl WorkerThread {
    fn start(&self, name: &str, run: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        let started = std::thread::Builder::new().name(format!("worker {name}")).spawn({
            let (state, thread) = (Arc::clone(&self.state), self.thread.clone());
            move || {
                // A panic is the end of a worker, as it would be of its process.
                let code = match catch_unwind(AssertUnwindSafe(run)) {
                    Ok(ended) => i32::from(ended.is_err()),
                    Err(_) => 101,
                };
                thread.record_exit(ExitCause::Exited(code));
                state.note_exit();
            }
        });
        started.map(drop).map_err(|e| Error::os("cannot start a worker thread", e))
    }
}
