//! Reading for a channel's tasks from tokio's own reactor.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::channel::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::raw::not_pollable;

/// The task that reads; dropping it ends the task.
#[derive(Debug)]
pub(crate) struct TokioDriver(JoinHandle<()>);

impl TokioDriver {
    pub(crate) fn start(engine: &Arc<Engine>) -> Result<Self> {
        let runtime = Handle::try_current().map_err(|e| {
            Error::new(ErrorKind::Unsupported, format!("no tokio runtime here: {e}"))
        })?;
        let hint = engine.hint.as_ref().ok_or_else(not_pollable)?;
        let failed = |e| Error::os("cannot watch a channel", e);
        // A copy: the reactor's registration must end before its descriptor is closed.
        let fd = hint.as_fd().try_clone_to_owned().map_err(failed)?;
        #[allow(
            deprecated,
            reason = "its replacement is unsafe and not in older versions; what it asks for, a \
                      descriptor that stays the same while it is owned, holds for an OwnedFd"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE).map_err(failed)?;
        let engine = Arc::downgrade(engine);
        Ok(Self(runtime.spawn(async move {
            while ready(&fd).await {
                let Some(engine) = engine.upgrade() else { return };
                engine.pump();
            }
        })))
    }
}

/// Waits until the descriptor is readable; false when the runtime shuts down.
async fn ready(fd: &AsyncFd<OwnedFd>) -> bool {
    match fd.readable().await {
        Ok(mut guard) => {
            // Before the ring is read: what comes from here on makes it ready again.
            guard.clear_ready();
            true
        }
        Err(_) => false,
    }
}

impl Drop for TokioDriver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
