//! A worker that uses the data rings without requests and replies.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ExitCause, Result};
use crate::link::WorkerLink;
use crate::process::worker_env;
use crate::protocol::RoleConfig;
use crate::raw::RawLink;
use crate::raw::peer::RawPeer;
use crate::ring::doorbell::Alarm;
use crate::sys::clock::Deadline;
use crate::sys::fork;
use crate::sys::wake_fd::WakeFd;
use crate::worker::attach::{Attached, Refusal, attach};
use crate::worker::health::HealthThread;
use crate::worker::last_error::LastError;
use crate::worker::status::StatusWriter;
use crate::worker::stop_token::StopToken;

/// The parent of a raw link's worker. Dropping it detaches the worker.
struct WorkerEnd {
    stop: Arc<StopToken>,
    parent: u32,
    health: Option<HealthThread>,
}

impl RawPeer for WorkerEnd {
    fn check(&self) -> Result<()> {
        fork::check()?;
        self.stop.check()
    }

    fn alarm(&self) -> &Alarm {
        &self.stop.alarm
    }

    fn explain(&self, error: Error, _: Deadline) -> Error {
        error
    }

    fn pid(&self) -> u32 {
        self.parent
    }

    fn exit_cause(&self) -> Option<ExitCause> {
        None
    }

    fn close(&self, _: Duration) -> Result<ExitCause> {
        fork::check()?;
        self.stop.set();
        Ok(ExitCause::Unknown)
    }
}

impl fmt::Debug for WorkerEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerEnd").field("parent", &self.parent).finish_non_exhaustive()
    }
}

impl Drop for WorkerEnd {
    fn drop(&mut self) {
        if let Some(health) = self.health.take() {
            health.finish();
        }
    }
}

/// Attaches to the parent that started this process with
/// [`Spawner::spawn_raw`](crate::Spawner::spawn_raw), and returns this end of the link and what
/// the spawner says of the worker's role. Blocks for at most 30 seconds, in which the parent
/// must send what the link is made of.
///
/// When the parent closes the link or ends, operations on it end with
/// [`ErrorKind::Closed`](crate::ErrorKind::Closed). The process should end then; it is ended
/// 800 ms after the end of its parent. See [`RawLink`] for an example.
///
/// # Errors
///
/// Those of [`Worker::serve`](crate::worker::Worker::serve), except for the ones about handlers
/// and the session.
pub fn attach_raw() -> Result<(RawLink, RoleConfig)> {
    let parent_pid = worker_env::parent()?.pid;
    let attached = attach()?;
    let wake_fd = attached.wake_fd.clone();
    let (link, role, stop, parent) = attached.into_parts();
    let refusal = Refusal::of(parent.socket());
    let link = link_of(link, wake_fd, &stop, parent_pid)
        .and_then(|link| Attached::confirm(parent, &stop).map(|()| link))
        .inspect_err(|error| refusal.send(error))?;
    Ok((link, role))
}

/// The worker's end of a link to the process `parent`. `stop` ends it.
pub(crate) fn link_of(
    link: WorkerLink,
    wake_fd: Option<Arc<WakeFd>>,
    stop: &Arc<StopToken>,
    parent: u32,
) -> Result<RawLink> {
    let WorkerLink { data, health, words, owner, .. } = link;
    if let Some(wake_fd) = &wake_fd {
        stop.wake_self(Arc::clone(wake_fd));
    }
    let status = StatusWriter::new(Arc::new(words));
    let last_error = Arc::<LastError>::default();
    let health = HealthThread::start(health, owner, status, last_error, Arc::clone(stop))?;
    let end = WorkerEnd { stop: Arc::clone(stop), parent, health: Some(health) };
    Ok(RawLink::new(data, wake_fd, Arc::new(end)))
}
