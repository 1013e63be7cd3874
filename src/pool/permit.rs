//! A worker that a request has, and how it is given back.

use std::sync::Arc;

use super::role::RoleRef;
use super::scheduler::{Attempt, Ending, Grant, History, Reason, Verdict};
use super::worker::Worker;
use crate::id::RequestId;
use crate::sys::clock::now_ns;
use crate::sys::fork;

/// A worker that a request has. It is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Permit<R: RoleRef> {
    role: R,
    pub(super) worker: Arc<Worker>,
    grant: Grant,
    ending: Ending,
    /// When it was granted.
    since: u64,
    /// Set while a task sends the request in parts: the task may be dropped after any of them.
    pub(super) return_by: Return,
}

/// What gives a worker back that a request has.
#[derive(Debug, Clone, Copy)]
pub(super) enum Return {
    /// The permit's end.
    Caller,
    /// The worker's thread, when the worker is done with this request: it may be at it for longer
    /// than its caller waits.
    Worker(RequestId),
    /// It was given back.
    Done,
}

impl<R: RoleRef> Permit<R> {
    /// What a request has got without a wait.
    #[inline]
    pub(super) fn at_once(role: R, grant: Grant, worker: Arc<Worker>, now: u64) -> Self {
        role.metrics.note_wait(0);
        Self::new(role, grant, worker, now)
    }

    #[inline]
    pub(super) fn new(role: R, grant: Grant, worker: Arc<Worker>, since: u64) -> Self {
        Self { role, worker, grant, ending: Ending::Over, since, return_by: Return::Caller }
    }

    pub(super) fn is_alone(&self) -> bool {
        self.grant.is_alone
    }

    /// How long the request has had the worker, in nanoseconds.
    pub(super) fn held_ns(&self) -> u64 {
        now_ns().saturating_sub(self.since)
    }

    /// Gives the worker back when it is done with a request that no caller waits for any more: it may
    /// be stuck in it, and must not look free.
    pub(super) fn linger(mut self, request: RequestId) {
        self.set_lingering(Some(request));
    }

    /// Whether the worker is at a request, which its caller may give up by dropping this.
    pub(super) fn set_lingering(&mut self, request: Option<RequestId>) {
        self.return_by = request.map_or(Return::Caller, Return::Worker);
    }

    /// The worker has died with the request. Gives the worker back, and decides what becomes of the
    /// request. If it is sent again, it asks for a worker at once: a close of the pool waits for that.
    pub(super) fn end_dead(mut self, history: &mut History, attempt: Attempt) -> Verdict {
        self.return_by = Return::Done;
        if fork::is_forked_child() {
            return Verdict::Over(Reason::NotIdempotent);
        }
        let (now, grant) = (now_ns(), self.grant);
        self.role.metrics.note_service(now.saturating_sub(self.since));
        self.role.change(|scheduler| scheduler.end_dead(now, grant, history, attempt))
    }

    /// The worker is of no use any more.
    pub(super) fn note_dead(&mut self) {
        self.role.note_dead(self.grant.worker);
        self.ending = Ending::WorkerDied;
        self.set_lingering(None);
        self.worker.look();
    }
}

impl<R: RoleRef> Drop for Permit<R> {
    #[inline]
    fn drop(&mut self) {
        // In a forked child the pool is the parent's, and a thread may hold its locks for ever.
        if fork::is_forked_child() {
            return;
        }
        let now = now_ns();
        let is_left = match self.return_by {
            Return::Caller => false,
            Return::Worker(request) => {
                let grant = self.grant;
                if grant.is_open_ended {
                    self.grant = self.role.change(|scheduler| scheduler.end_open(now, grant));
                }
                self.worker.linger(request, self.grant)
            }
            Return::Done => return,
        };
        self.role.metrics.note_service(now.saturating_sub(self.since));
        if !is_left {
            self.role.finish(now, self.grant, self.ending);
        }
    }
}
