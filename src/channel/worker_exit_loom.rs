//! A worker without a process, under the model checker: it has ended, and nothing is known.

use std::sync::Arc;

use crate::error::{EndOfService, Error, ReportPlace, WorkerDeath};
use crate::sys::clock::Deadline;

/// A worker that has ended.
#[derive(Debug)]
pub(crate) struct WorkerExit;

impl WorkerExit {
    #[expect(clippy::unused_self, reason = "nothing is known")]
    pub(crate) fn wait_for_status(&self, _: Deadline) {}

    #[expect(clippy::unused_self, reason = "nothing is known")]
    pub(crate) fn error(
        &self,
        request: Option<u64>,
        end_of_service: Arc<EndOfService>,
        crash_report: Option<ReportPlace>,
    ) -> Error {
        Error::peer_died(WorkerDeath {
            role: String::new(),
            pid: 0,
            host: None,
            request,
            log_path: None,
            log_tail: None,
            status: Arc::default(),
            oom_suspected: Arc::default(),
            end_of_service,
            crash_report,
        })
    }

    #[expect(clippy::unused_self, reason = "nothing is known")]
    pub(crate) fn is_known(&self) -> bool {
        true
    }

    #[expect(clippy::unused_self, reason = "nothing is known")]
    pub(crate) fn exit_status_deadline(&self) -> Deadline {
        Deadline::NEVER
    }
}
