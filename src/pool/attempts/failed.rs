//! What becomes of a request whose attempt has failed.

use super::{Attempts, Standing};
use crate::channel::Channel;
use crate::error::{Error, ErrorKind, Result};
use crate::id::RequestId;
use crate::pool::attempt::{ends_worker, is_killed_from_outside, is_unanswered, waited_in_ring};
use crate::pool::permit::Permit;
use crate::pool::role::RoleRef;
use crate::pool::scheduler::{Attempt, Reason, Verdict};
use crate::pool::task_wait;
use crate::sys::clock::Deadline;

/// An attempt that its worker's end has ended. Dropping it gives the worker back.
#[derive(Debug)]
pub(super) struct Dead<R: RoleRef> {
    pub(super) permit: Permit<R>,
    pub(super) error: Error,
    pub(super) has_delivered: bool,
}

impl<R: RoleRef> Dead<R> {
    /// Whether it is to be waited for until it is known whether the worker had begun the request.
    fn is_unclear(&self) -> bool {
        self.error.was_begun().is_none() && self.error.is_peer_dead()
    }

    /// What is known of the attempt.
    fn attempt(&self) -> Attempt {
        let Self { permit, error, has_delivered } = self;
        let has_delivered = *has_delivered;
        let is_killed = error.death().is_some_and(is_killed_from_outside);
        Attempt {
            // What has answered was begun, whatever the worker's memory says.
            was_begun: error.was_begun().filter(|was_begun| *was_begun || !has_delivered),
            // Also by what the worker itself has marked: it may be at a request that was given up.
            was_alone: permit.is_alone() && error.begun_alone() == Some(true),
            was_killed: is_killed && !permit.worker.was_hung(),
            has_delivered,
        }
    }
}

impl<R: RoleRef> Attempts<R> {
    /// An attempt has failed. Returns the error if no other follows. Blocks until it is known
    /// whether a dead worker had begun the request, but not beyond the deadline.
    #[cold]
    pub(crate) fn failed(
        &mut self,
        permit: Permit<R>,
        id: Option<RequestId>,
        error: Error,
        has_delivered: bool,
        deadline: Deadline,
    ) -> Result<()> {
        let dead = self.death_of(permit, id, error, has_delivered)?;
        if dead.is_unclear() {
            dead.permit.worker.wait_until_known(deadline);
        }
        self.judge(dead)
    }

    /// As [`Attempts::failed`], without blocking.
    pub(crate) async fn failed_async(
        &mut self,
        permit: Permit<R>,
        id: Option<RequestId>,
        error: Error,
        has_delivered: bool,
        deadline: Deadline,
    ) -> Result<()> {
        let dead = self.death_of(permit, id, error, has_delivered)?;
        if dead.is_unclear() {
            task_wait::until_known(&dead.permit.worker, deadline).await;
        }
        self.judge(dead)
    }

    /// An attempt that its worker's end has ended, or else the error, which no attempt follows.
    fn death_of(
        &mut self,
        mut permit: Permit<R>,
        id: Option<RequestId>,
        error: Error,
        has_delivered: bool,
    ) -> Result<Dead<R>> {
        // An error of the host's own code, such as an encoder, may be that of another worker.
        let is_alive = permit.worker.channel().is_some_and(Channel::is_alive);
        if ends_worker(&error) && !is_alive {
            permit.note_dead();
            return Ok(Dead { permit, error, has_delivered });
        }
        let sent_in_part = error.part_sent().map(RequestId::new);
        if let Some(id) = id.filter(|_| is_unanswered(&error)).or(sent_in_part) {
            permit.linger(id);
        }
        // That of a request that was not sent may be the host's own, too.
        let is_late = id.is_some() && waited_in_ring(&error);
        let error = if is_late { self.waited_in_ring(error) } else { error };
        Err(self.failed_with(error))
    }

    /// The error of a request that has waited in its worker's ring until its deadline.
    fn waited_in_ring(&self, error: Error) -> Error {
        let (role, number) = (&self.role.name, self.number());
        let message = format!("role {role}: request {number} waited too long for its worker");
        let (which, was_begun) = (error.stream_timeout(), error.was_begun());
        let mut late = Error::with_source(ErrorKind::QueueTimeout, message, error);
        if let Some(which) = which {
            late = late.with_stream_timeout(which);
        }
        match was_begun {
            Some(was_begun) => late.with_begun(was_begun),
            // The worker may still begin it, until it finds it cancelled.
            None => late,
        }
    }

    pub(super) fn judge(&mut self, dead: Dead<R>) -> Result<()> {
        if self.is_cancelled() {
            let Dead { permit, error, .. } = dead;
            drop(permit);
            return Err(self.cancelled(Some(error)));
        }
        let attempt = dead.attempt();
        let Dead { permit, error, .. } = dead;
        match permit.end_dead(&mut self.history, attempt) {
            Verdict::Again => {
                self.resent = Some(attempt.was_begun != Some(false));
                self.standing = Standing::Returns;
                self.past.get_or_insert_default().earlier.push(&error);
                Ok(())
            }
            Verdict::Over(Reason::Poison) => {
                let message = format!(
                    "role {}: request {} is not sent again: it has killed {} workers, the last of \
                     them alone",
                    self.role.name,
                    self.number(),
                    self.history.begun
                );
                let tail = error.log_tail().map(str::to_owned);
                let poison = Error::with_source(ErrorKind::Poison, message, error);
                Err(self.failed_with(poison.with_log_tail(tail).with_begun(true)))
            }
            Verdict::Over(reason) => {
                let error = error.with_note(&self.not_again(reason));
                Err(self.failed_with(error))
            }
        }
    }

    /// Why a request is not sent again whose worker has died.
    fn not_again(&self, reason: Reason) -> String {
        let why = match reason {
            Reason::NotIdempotent => "it may have been begun, and is not declared idempotent",
            Reason::Delivered => "a part of it was delivered, or cannot be sent twice",
            Reason::Attempts => "it was begun as often as max_attempts allows",
            Reason::Budget => "the role's retry_budget is used up",
            Reason::Poison => "it has killed its worker",
        };
        format!("role {}: request {} is not sent again: {why}", self.role.name, self.number())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};

    use super::*;
    use crate::error::{EndOfService, ExitCause, Mark, Marks, Stage, WorkerDeath};
    use crate::pool::role::RoleShared;
    use crate::pool::scheduler::{Grant, Priority, WorkerId};
    use crate::pool::{Pool, Role};
    use crate::protocol::Kind;

    const REQUEST: u64 = 7;

    /// What a worker has marked as it ended.
    #[derive(Debug)]
    struct Marked(Vec<Mark>);

    impl Marks for Marked {
        fn all(&self) -> Vec<Mark> {
            self.0.clone()
        }
    }

    /// The death of a worker by its own code that had begun these requests, and so ended `REQUEST`.
    fn death(begun: &[u64]) -> Error {
        let mark = |request: &u64| Mark {
            request: *request,
            stage: Stage::Begun,
            since: *request,
            progress: 0,
            awaits_credit: false,
        };
        let marks: Arc<dyn Marks> = Arc::new(Marked(begun.iter().map(mark).collect()));
        let end_of_service = Arc::new(EndOfService::default());
        end_of_service.set_source(Arc::downgrade(&marks));
        end_of_service.set_has_stopped(Box::new(|| true));
        assert!(end_of_service.marks().is_some());
        Error::peer_died(WorkerDeath {
            role: "one".to_owned(),
            pid: 1,
            host: None,
            request: Some(REQUEST),
            log_path: None,
            log_tail: None,
            status: Arc::new(OnceLock::from(ExitCause::Signaled(libc::SIGSEGV))),
            oom_suspected: Arc::default(),
            end_of_service,
            crash_report: None,
        })
    }

    /// What becomes of an idempotent request whose worker the pool has given to it alone, or not.
    fn outcome(role: &Arc<RoleShared>, is_alone: bool, error: Error) -> Result<()> {
        let worker = WorkerId { slot: 0, incarnation: 0 };
        let grant = Grant { worker, is_alone, is_open_ended: false };
        let permit = Permit::new(Arc::clone(role), grant, Arc::default(), 0);
        let mut attempts =
            Attempts::begin(Arc::clone(role), Kind::app(1), Priority::Normal, None, true);
        attempts.judge(Dead { permit, error, has_delivered: false })
    }

    #[test]
    fn a_request_is_poison_only_if_the_pool_and_its_worker_say_it_was_alone() {
        let role = Role::with_channels(|_| Err(Error::invalid_config("no worker"))).lazy();
        let pool = Pool::builder().role("one", role).build().unwrap();
        let role = pool.roles.get("one").unwrap();
        let (alone, beside) = ([REQUEST], [REQUEST, 3]);
        let poison = outcome(role, true, death(&alone)).unwrap_err();
        assert_eq!(poison.kind(), ErrorKind::Poison);
        // The worker was at one that was given up, or the pool had others with it.
        for (is_alone, begun) in [(true, &beside[..]), (false, &alone), (false, &beside)] {
            assert!(outcome(role, is_alone, death(begun)).is_ok(), "{is_alone} {begun:?}");
        }
    }
}
