//! A worker without a process, under the model checker: it has ended, and nothing is known.

use std::sync::Arc;

use crate::error::{EndOfService, Error, WorkerDeath};
use crate::sys::clock::Deadline;

/// Who the worker is.
#[derive(Debug)]
pub(crate) struct Deathbed;

impl Deathbed {
    #[expect(clippy::unused_self, reason = "nothing is known")]
    pub(crate) fn wait_for_status(&self, _: Deadline) {}

    #[expect(clippy::unused_self, reason = "nothing is known")]
    pub(crate) fn error(&self, request: Option<u64>, end_of_service: Arc<EndOfService>) -> Error {
        Error::peer_died(WorkerDeath {
            role: String::new(),
            pid: 0,
            request,
            log_path: None,
            log_tail: None,
            status: Arc::default(),
            oom_suspected: Arc::default(),
            end_of_service,
        })
    }
}
