//! What is told of a worker that has ended.

use std::time::{Duration, Instant};

use crate::error::{Error, WorkerDeath};
use crate::process::exit::Child;

/// How long an error waits for the exit status to be known. The kernel tells of a
/// death before it has torn the process down; a small one takes it a millisecond.
const PATIENCE: Duration = Duration::from_millis(2);

/// Who the worker is and where its end is written down.
#[derive(Debug)]
pub(crate) struct Deathbed {
    pub(crate) role: String,
    pub(crate) child: Child,
}

impl Deathbed {
    /// The error for an operation that the worker's end has ended. May block for two
    /// milliseconds.
    pub(crate) fn error(&self, request: Option<u64>) -> Error {
        let _ = self.child.wait(Instant::now() + PATIENCE);
        Error::peer_died(WorkerDeath {
            role: self.role.clone(),
            pid: self.child.pid(),
            request,
            log_path: self.child.log().map(|log| log.path().to_owned()),
            log_tail: self.child.log().and_then(|log| log.tail()),
            status: self.child.status_cell(),
            oom_suspected: self.child.oom_cell(),
        })
    }
}
