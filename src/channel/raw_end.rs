//! The parent's end of a raw link.

use std::sync::Arc;
use std::time::Duration;

use crate::channel::state::ChannelState;
use crate::channel::worker_handle::WorkerHandle;
use crate::error::{Error, ExitCause, Result};
use crate::link::{Duplex, ParentLink};
use crate::process::external::ExternalWorker;
use crate::raw::RawLink;
use crate::raw::peer::RawPeer;
use crate::ring::doorbell::Alarm;
use crate::sys::clock::Deadline;
use crate::sys::wake_fd::WakeFd;

/// The worker of a raw link. Dropping it ends the worker, without blocking.
#[derive(Debug)]
struct ParentEnd {
    worker: WorkerHandle,
    state: Arc<ChannelState>,
}

/// The parent's end of a link to a worker.
pub(crate) fn link_to(
    worker: WorkerHandle,
    state: Arc<ChannelState>,
    data: Duplex,
    wake_fd: Option<Arc<WakeFd>>,
) -> RawLink {
    if let Some(wake_fd) = wake_fd.clone() {
        // Set once, as `state` was made for this link. The first `rearm` notices an end that
        // came before this.
        state.on_end(move || wake_fd.wake_self());
    }
    RawLink::new(data, wake_fd, Arc::new(ParentEnd { worker, state }))
}

/// A raw link over the memory that it has in common with a worker that this process did not
/// start.
#[allow(dead_code, reason = "for the feature `testing`")]
pub(crate) fn link_to_thread(
    link: ParentLink,
    role: String,
    thread: ExternalWorker,
    state: Arc<ChannelState>,
    wake_fd: Option<Arc<WakeFd>>,
) -> RawLink {
    let worker = WorkerHandle::external(&state, link.health, role, thread);
    link_to(worker, state, link.data, wake_fd)
}

impl RawPeer for ParentEnd {
    fn check(&self) -> Result<()> {
        self.state.check_open()
    }

    fn alarm(&self) -> &Alarm {
        &self.state.alarm
    }

    fn explain(&self, error: Error, deadline: Deadline) -> Error {
        self.state.with_exit_status(error, deadline)
    }

    fn pid(&self) -> u32 {
        self.worker.pid()
    }

    fn exit_cause(&self) -> Option<ExitCause> {
        self.worker.exit_cause()
    }

    fn close(&self, timeout: Duration) -> Result<ExitCause> {
        self.worker.close(timeout)
    }
}
