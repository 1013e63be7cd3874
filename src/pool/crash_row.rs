//! What a pool adds to the crash report of one of its workers.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::handle::{health, metrics};
use super::role::RoleShared;
use super::scheduler::WorkerId;
use super::worker::{Notes, Retry, Worker};
use crate::channel::{Channel, PoolRow};
use crate::crash_report::json::{Json, object};
use crate::protocol::Kind;
use crate::sys::clock::now_ns;

/// Has the report of a worker that was started say what its place in the pool is.
pub(super) fn add(channel: &Channel, role: &Arc<RoleShared>, id: WorkerId, worker: &Arc<Worker>) {
    if let Some(reporter) = channel.worker().reporter() {
        let (role, notes) = (Arc::downgrade(role), Arc::clone(worker.notes()));
        reporter.set_pool(Box::new(Row { role, id, notes }));
    }
}

/// A worker's place in a pool. It keeps neither the pool nor the worker.
struct Row {
    role: Weak<RoleShared>,
    id: WorkerId,
    notes: Arc<Notes>,
}

impl PoolRow for Row {
    fn describe(&self) -> Json {
        let mut row = object! {
            "place": self.id.slot,
            "workers_before": self.id.incarnation,
            "was_ready": self.notes.is_ready(),
            "resent_requests": self.notes.retries().iter().map(|it| self.retry(it)).collect::<Json>(),
        };
        let Some(role) = self.role.upgrade() else { return row };
        let (health, metrics) = (health(&role), metrics(&role));
        let (workers, load) = (&metrics.workers, &metrics.load);
        let backoff = role.change(|scheduler| scheduler.failures_in_a_row());
        row.add("role", role.name.as_str());
        row.add("is_degraded", health.is_degraded);
        row.add("serving", role.change(|scheduler| scheduler.serving()));
        row.add("queued", load.queued);
        row.add("in_flight", load.in_flight);
        row.add("failures_in_a_row", backoff);
        row.add(
            "workers",
            object! {
                "started": workers.started,
                "restarted": workers.restarted,
                "failed_to_start": workers.failed_to_start,
                "died_serving": workers.died_serving,
                "died_idle": workers.died_idle,
                "killed_idle": workers.killed_idle,
                "hung": workers.hung,
            },
        );
        row.add("resent_begun", metrics.resent_begun);
        row.add("resent_unbegun", metrics.resent_unbegun);
        row
    }

    fn kind_name(&self, kind: Kind) -> Option<String> {
        self.role.upgrade()?.settings().kind_names.get(&kind).cloned()
    }

    fn has_killed(&self) -> bool {
        self.notes.was_hung()
    }
}

impl Row {
    fn retry(&self, retry: &Retry) -> Json {
        let Retry { number, kind, attempt, since, is_alone } = *retry;
        object! {
            "number": number,
            "kind": self.kind_name(kind).unwrap_or_else(|| kind.to_string()),
            "attempt": attempt,
            "is_alone": is_alone,
            "given_ms_ago": Duration::from_nanos(now_ns().saturating_sub(since)),
        }
    }
}
