//! The worker's half of the handshake.

use std::cell::Cell;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::link::WorkerLink;
use crate::process::parent_watch::ParentWatch;
use crate::process::worker_env::{self, ParentId};
use crate::process::{limits, socket, stdio};
use crate::protocol::handshake::{AttachReply, Limits, MAX_LEN, MAX_MESSAGE_FDS, WorkerSetup};
use crate::protocol::{RoleConfig, blob};
use crate::ring::copy_choice::FINDINGS;
use crate::shm::layout::as_usize;
use crate::shm::memfd;
use crate::sys::wake_fd::WakeFd;
use crate::worker::stop_token::StopToken;

/// How long the parent may take to send its setup, and to read the reply.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a handler may run on when the parent is gone.
const HANDLER_GRACE: Duration = Duration::from_millis(800);
/// The exit code of a worker that cannot watch its parent any more, `EX_SOFTWARE`.
const CANNOT_WATCH: i32 = 70;

/// A worker that has attached.
pub(crate) struct Attached {
    pub(crate) link: WorkerLink,
    pub(crate) role: RoleConfig,
    pub(crate) stop: Arc<StopToken>,
    pub(crate) wake_fd: Option<Arc<WakeFd>>,
    parent: ParentWatch,
}

/// Returns whether this process was started by a [`Spawner`](crate::Spawner) as a worker and has
/// not attached yet. Never blocks.
///
/// A program that starts itself as its worker, see
/// [`Spawner::current_exe`](crate::Spawner::current_exe), must call this first in its `main`, and
/// serve if it is true.
///
/// This is false once the worker has attached, and in programs that a worker starts, whatever
/// these inherit from it.
///
/// ```standalone_crate
/// use slipring::{Spawner, worker};
/// use std::time::Duration;
///
/// fn main() -> slipring::Result<()> {
///     if worker::is_worker() {
///         return worker::Worker::new(|_role| Ok(())).serve();
///     }
///     let channel = Spawner::current_exe()?.spawn()?;
///     assert!(channel.is_alive());
///     channel.close(Duration::from_secs(10))?;
///     Ok(())
/// }
/// ```
#[must_use]
pub fn is_worker() -> bool {
    worker_env::parent().is_ok()
}

/// Receives the setup over the socket that is this process's standard input, and attaches to the
/// regions. The parent is told of that by [`Attached::confirm`], and of an error at once.
pub(super) fn attach() -> Result<Attached> {
    let parent = worker_env::parent()?;
    let socket = stdio::take_stdin()?;
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let (bytes, fds) = match socket::recv(socket.as_fd(), MAX_LEN, MAX_MESSAGE_FDS, Some(deadline))?
    {
        socket::Received::Message { bytes, fds } => (bytes, fds),
        socket::Received::Eof => {
            return Err(Error::new(ErrorKind::Handshake, "the parent is gone"));
        }
    };
    let refuse = |error: Error| {
        Refusal::of(socket.as_fd()).send(&error);
        error
    };
    let (link, role, wake_fd, is_child) =
        take_over(&bytes, fds, parent, socket.as_fd()).map_err(refuse)?;
    let parent = ParentWatch::new(socket, is_child)?;
    Ok(Attached { link, role, stop: Arc::default(), parent, wake_fd })
}

/// The last field is whether this process is a child of the parent. It is not if a program in
/// between runs it.
type Taken = (WorkerLink, RoleConfig, Option<Arc<WakeFd>>, bool);

fn take_over(
    setup: &[u8],
    fds: Vec<OwnedFd>,
    parent: ParentId,
    socket: BorrowedFd<'_>,
) -> Result<Taken> {
    let setup = WorkerSetup::decode(setup)?;
    let (pid, named) = (parent.pid, setup.parent);
    if named != pid {
        let message = format!("the parent says that it is process {named}, but it is {pid}");
        return Err(Error::new(ErrorKind::Handshake, message));
    }
    let (found, expected) = (fds.len(), setup.fd_count());
    let mut fds = fds.into_iter();
    let (Some(down), Some(up), true) = (fds.next(), fds.next(), found == expected) else {
        let message = format!("{found} descriptors came with the setup, which names {expected}");
        return Err(Error::new(ErrorKind::Handshake, message));
    };
    let wake_fds = setup.is_pollable.then(|| fds.next().zip(fds.next())).flatten();
    let wake_fd = wake_fds.map(|(own, other)| Arc::new(WakeFd::of([own, other])));
    let mut role = setup.role;
    let blob = (setup.blob_len > 0).then(|| fds.next()).flatten();
    for (name, fd) in setup.fd_names.into_iter().zip(fds) {
        role.pass_fd(name, fd)?;
    }
    let is_child = match parent.pid_here {
        Some(pid) => limits::die_with_parent(pid)?,
        None => false,
    };
    // For a child of another process, only the socket tells whether the parent is there.
    if !is_child && socket::is_hung_up(socket)? {
        let message = format!("the parent, process {pid}, is gone");
        return Err(Error::new(ErrorKind::PeerDied, message));
    }
    apply(&setup.limits)?;
    limits::name_process(&role.role);
    crate::failpoint::failpoint!("before attach");
    FINDINGS.begin_with(setup.found_copies);
    let link = WorkerLink::over(memfd::attach(down, up)?, setup.tuning, wake_fd.as_ref())?;
    crate::failpoint::failpoint!("after attach");
    if let Some(blob) = blob {
        role.blob = blob::read(blob, setup.blob_len)?;
    }
    Ok((link, role, wake_fd, is_child))
}

fn apply(wanted: &Limits) -> Result<()> {
    if !wanted.allow_core_dumps {
        // The parent notices the death of a process only when its dump is written.
        limits::no_core_dumps()?;
    }
    if let Some(bytes) = wanted.memory {
        limits::set_rlimit(libc::RLIMIT_AS, bytes)?;
    }
    if let Some(nice) = wanted.nice {
        limits::nice(nice)?;
    }
    if !wanted.cpus.is_empty() {
        let cpus: Vec<usize> = wanted.cpus.iter().map(|cpu| as_usize(u64::from(*cpu))).collect();
        limits::affinity(&cpus)?;
    }
    Ok(())
}

/// The means to tell the parent why this process does not attach. Used at most once, and not
/// after the parent was told that it has attached.
pub(super) struct Refusal(Cell<Option<OwnedFd>>);

impl Refusal {
    pub(super) fn of(socket: BorrowedFd<'_>) -> Self {
        Self(Cell::new(socket.try_clone_to_owned().ok()))
    }

    /// Makes [`send`](Self::send) do nothing: the parent was told that the worker has attached.
    pub(super) fn disarm(&self) {
        self.0.set(None);
    }

    pub(super) fn send(&self, error: &Error) {
        if let Some(socket) = self.0.take() {
            let why = format!("{error:#}");
            let reply = match error.kind() {
                ErrorKind::Mismatch => AttachReply::Mismatch(why),
                _ => AttachReply::Failed(why),
            };
            let reply = reply.encode();
            // Fails if the parent is gone.
            let _ = socket::send(socket.as_fd(), &reply, &[], Instant::now() + HANDSHAKE_TIMEOUT);
        }
    }
}

impl Attached {
    /// Starts to watch for the parent's end, and tells the parent that this worker has attached.
    pub(super) fn confirm(parent: ParentWatch, stop: &Arc<StopToken>) -> Result<()> {
        let parent = Arc::new(parent);
        let (watched, stop) = (Arc::clone(&parent), Arc::clone(stop));
        let watch = std::thread::Builder::new().name("slipring-parent".to_owned());
        // Before the parent is told: an error of this can still be sent to it then.
        let watching = watch.spawn(move || {
            let _ = limits::block_all_signals();
            if let Err(error) = watched.wait() {
                // The parent finds the reason in the worker's log.
                let _ = writeln!(std::io::stderr(), "slipring worker: {error}");
                stdio::exit_at_once(CANNOT_WATCH);
            }
            stop.set();
            std::thread::sleep(HANDLER_GRACE);
            stdio::exit_at_once(0);
        });
        watching.map_err(|e| Error::os("cannot start the parent's watch", e))?;
        crate::failpoint::failpoint!("before answer");
        let reply = AttachReply::Attached(std::process::id()).encode();
        socket::send(parent.socket(), &reply, &[], Instant::now() + HANDSHAKE_TIMEOUT)?;
        crate::failpoint::failpoint!("after answer");
        Ok(())
    }

    /// Returns the parts that serving needs, and the watch on the parent.
    pub(super) fn into_parts(self) -> (WorkerLink, RoleConfig, Arc<StopToken>, ParentWatch) {
        (self.link, self.role, self.stop, self.parent)
    }
}
