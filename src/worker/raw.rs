//! A worker that uses the data rings as they are.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ExitCause, Result};
use crate::link::WorkerLink;
use crate::protocol::RoleConfig;
use crate::raw::{End, RawLink};
use crate::ring::doorbell::Alarm;
use crate::sys::clock::Deadline;
use crate::sys::fork;
use crate::worker::attach::{Attached, Refusal, attach};
use crate::worker::health::{HealthThread, LastError};
use crate::worker::status::StatusWriter;
use crate::worker::stop_token::StopToken;

/// What keeps a raw worker attached.
struct RawEnd {
    stop: Arc<StopToken>,
    health: Option<HealthThread>,
}

impl End for RawEnd {
    fn check(&self) -> Result<()> {
        self.stop.check()
    }

    fn alarm(&self) -> &Alarm {
        &self.stop.alarm
    }

    fn explain(&self, error: Error, _: Deadline) -> Error {
        error
    }

    fn close(&self, _: Duration) -> Result<ExitCause> {
        fork::check()?;
        Ok(ExitCause::Unknown)
    }
}

impl fmt::Debug for RawEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the worker's end")
    }
}

impl Drop for RawEnd {
    fn drop(&mut self) {
        if let Some(health) = self.health.take() {
            health.finish();
        }
    }
}

/// Attaches to the parent that started this process with
/// [`Spawner::spawn_raw`](crate::Spawner::spawn_raw). The link's operations end with
/// [`ErrorKind::Closed`](crate::ErrorKind::Closed) when the parent says to end or is
/// gone; the process should then end too.
///
/// # Errors
///
/// As [`Worker::serve`](crate::worker::Worker::serve).
pub fn attach_raw() -> Result<(RawLink, RoleConfig)> {
    let attached = attach()?;
    let wake_fd = attached.wake_fd.clone();
    let (link, role, stop, parent) = attached.into_parts();
    let WorkerLink { data, health, words, owner, .. } = link;
    if let Some(wake_fd) = &wake_fd {
        stop.wake_self(Arc::clone(wake_fd));
    }
    let status = StatusWriter::new(Arc::new(words));
    let last_error = Arc::<LastError>::default();
    let refusal = Refusal::of(parent.socket());
    let health = HealthThread::start(health, owner, status, last_error, Arc::clone(&stop))
        .and_then(|health| Attached::confirm(parent, &stop).map(|()| health))
        .inspect_err(|error| refusal.send(error))?;
    let end = RawEnd { stop, health: Some(health) };
    Ok((RawLink::new(data, wake_fd, Box::new(end)), role))
}
