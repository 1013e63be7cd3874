//! What the tests of pools share: a pool with one role, and looks at its workers.

use std::time::Duration;

use crate::common::*;
use slipring::pool::{Outcome, Pool, Role, RoleHandle, WorkerHealth};
use slipring::{Health, Spawner, WorkerState};

const ONE: &str = "one";

/// A role that starts workers again soon after a failure.
pub(crate) fn role() -> Role {
    let (first, most) = (Duration::from_millis(20), Duration::from_millis(200));
    Role::new(|_| Ok(patient())).backoff(first, most, Duration::from_secs(5))
}

/// As [`small`]. Errors of a death wait for the exit status and for what was begun, for which a busy
/// machine can take longer than they wait by default.
pub(crate) fn patient() -> Spawner {
    small().exit_status_timeout(LONG)
}

/// A pool of one role, whose workers may not be ready yet.
pub(crate) fn new_pool_of(role: Role) -> (Pool, RoleHandle) {
    let pool = Pool::builder().role(ONE, role).build().unwrap();
    let handle = pool.role(ONE).unwrap();
    (pool, handle)
}

/// A pool of one role, with a worker that serves.
pub(crate) fn pool_of(role: Role) -> (Pool, RoleHandle) {
    let (pool, handle) = new_pool_of(role);
    handle.call(ECHO, "", LONG).unwrap();
    (pool, handle)
}

pub(crate) fn close(pool: &Pool) {
    within_long("close", || pool.close(LONG)).unwrap();
}

/// The process ids of the workers that are there.
pub(crate) fn pids(handle: &RoleHandle) -> Vec<u32> {
    handle.health().workers.iter().filter_map(|worker| worker.pid).collect()
}

/// How many workers serve.
pub(crate) fn alive(handle: &RoleHandle) -> usize {
    let serves = |health: &Health| health.state != WorkerState::Starting;
    let is_it = |worker: &&WorkerHealth| worker.health.as_ref().is_some_and(serves);
    handle.health().workers.iter().filter(|worker| worker.is_alive).filter(is_it).count()
}

/// How many requests were answered.
pub(crate) fn answered(handle: &RoleHandle) -> u64 {
    handle.metrics().requests_with(Outcome::Answered)
}

/// Whether a worker that lives has begun a request.
pub(crate) fn is_begun(handle: &RoleHandle) -> bool {
    handle.health().workers.iter().any(is_busy)
}

pub(crate) fn is_busy(worker: &WorkerHealth) -> bool {
    let has_begun = |health: &Health| health.begun > 0;
    worker.is_alive && worker.health.as_ref().is_some_and(has_begun)
}

/// Waits until a worker that lives has begun a request, and kills it. Beside it the dead one that it
/// has replaced may still be listed.
pub(crate) fn kill_one_that_serves(handle: &RoleHandle) {
    let mut victim = None;
    eventually("one is begun", || {
        let workers = handle.health().workers;
        victim = workers.iter().find(|worker| is_busy(worker)).and_then(|worker| worker.pid);
        victim.is_some()
    });
    send_signal(victim.unwrap(), libc::SIGKILL);
}

/// Whether all places are free and nothing waits.
pub(crate) fn is_empty(handle: &RoleHandle) -> bool {
    let load = handle.health().load;
    (load.queued, load.in_flight) == (0, 0)
}
