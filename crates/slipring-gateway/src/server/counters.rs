//! What a gateway counts: numbers that only grow, added to without a lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use slipring::pool::Outcome;
use slipring::pool::export::{Outcomes, Times};

use crate::metrics::{GatewayRoleMetrics, OutcomeCount};

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, number: usize) {
        self.0.fetch_add(u64::try_from(number).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a gateway counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: Count,
    pub(super) refused_connections: Count,
    pub(super) failed_handshakes: Count,
    pub(super) silent_connections: Count,
    pub(super) paced_connections: Count,
    roles: BTreeMap<String, Arc<RoleCounters>>,
    /// Requests that are for no role, or ended before that was known.
    pub(super) no_role: Arc<RoleCounters>,
}

/// What a gateway counts of the requests to one role.
#[derive(Debug, Default)]
pub(super) struct RoleCounters {
    outcomes: Outcomes,
    times: Times,
    received: Count,
    sent: Count,
}

impl Counters {
    pub(super) fn of<'a>(roles: impl Iterator<Item = &'a String>) -> Self {
        let roles = roles.map(|role| (role.clone(), Arc::default())).collect();
        Self { roles, ..Self::default() }
    }

    pub(super) fn role(&self, name: &str) -> Option<&Arc<RoleCounters>> {
        self.roles.get(name)
    }

    /// Those of each role, and of requests without one if there were any.
    pub(super) fn of_roles(&self) -> Vec<GatewayRoleMetrics> {
        let roles = self.roles.iter().map(|(name, role)| role.snapshot(name));
        let no_role = self.no_role.snapshot("");
        roles.chain(Some(no_role).filter(|role| !role.requests.is_empty())).collect()
    }
}

impl RoleCounters {
    pub(super) fn note_received(&self, len: usize) {
        self.received.add(len);
    }

    pub(super) fn note_sent(&self, len: usize) {
        self.sent.add(len);
    }

    pub(super) fn note_end(&self, outcome: Outcome, took: Duration) {
        self.outcomes.count(outcome);
        self.times.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    fn snapshot(&self, role: &str) -> GatewayRoleMetrics {
        let counts = self.outcomes.counts();
        GatewayRoleMetrics {
            role: role.to_owned(),
            requests: counts.map(|(outcome, count)| OutcomeCount { outcome, count }).collect(),
            times: self.times.histogram(),
            bytes_received: self.received.get(),
            bytes_sent: self.sent.get(),
        }
    }
}
