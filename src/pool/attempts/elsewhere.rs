//! A request that leaves its role for other workers, and comes back if those do not take it.

use std::sync::Arc;

use super::{Attempts, Destination};
use crate::backend::BackendRequest;
use crate::channel::Progress;
use crate::error::{Error, ErrorKind, Result};
use crate::payload::{Payload, encoded_bytes};
use crate::pool::overflow::CancelElsewhere;
use crate::pool::role::RoleRef;
use crate::pool::scheduler::{Elsewhere, Scheduler};

impl<R: RoleRef> Attempts<R> {
    /// Looks whether other workers would take it.
    #[inline]
    pub(super) fn look_elsewhere(&mut self) -> Result<()> {
        let Some(overflow) = &self.role.overflow else { return Ok(()) };
        let elsewhere = match (self.must_stay, self.role.has_workers) {
            (true, true) => Elsewhere::Never,
            (true, false) => return Err(self.cannot_stay()),
            (false, true) => overflow.takes_requests(),
            // It is for them to have it wait.
            (false, false) => Elsewhere::IfFull,
        };
        self.asked.elsewhere = elsewhere;
        Ok(())
    }

    #[cold]
    fn cannot_stay(&mut self) -> Error {
        let message = format!(
            "role {} has no workers of its own, which a message that is written in parts needs",
            self.role.name
        );
        self.failed_with(Error::new(ErrorKind::Unsupported, message).with_begun(false))
    }

    pub(super) fn leave_for_others(&mut self) -> Result<Destination<R>> {
        match self.role.overflow.clone() {
            Some(overflow) => Ok(Destination::Elsewhere(overflow)),
            None => Err(self.no_others()),
        }
    }

    /// What the other workers are asked.
    pub(crate) fn request_elsewhere<P: Payload + ?Sized>(
        &self,
        payload: &P,
        progress: Progress,
    ) -> Result<BackendRequest> {
        let request = BackendRequest::new(self.kind, encoded_bytes(payload)?)
            .priority(self.asked.priority)
            .idempotent(self.history.is_idempotent)
            .with_progress(progress);
        let request = self.asked.key.into_iter().fold(request, BackendRequest::key);
        Ok(self.trace.iter().cloned().fold(request, BackendRequest::trace))
    }

    /// What ends it there, for a stream.
    pub(crate) fn cancel_elsewhere(&self) -> Arc<CancelElsewhere> {
        let elsewhere = Arc::default();
        if let Some(cancel) = &self.cancel
            && !cancel.note_elsewhere(&elsewhere)
        {
            elsewhere.cancel();
        }
        elsewhere
    }

    /// What has become of it elsewhere. `None`: nothing, so that it is to ask for a worker here.
    pub(crate) fn come_back<T>(&mut self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(found) => Ok(Some(found)),
            Err(error) if self.can_come_back(&error) => {
                self.must_stay = true;
                if self.resent.is_some() {
                    // It asks once more as one that is sent again: a close waits for that.
                    self.role.change(Scheduler::note_return);
                    self.is_returning = true;
                }
                self.earlier.get_or_insert_default().push(&error);
                Ok(None)
            }
            Err(error) => Err(self.of_all(error)),
        }
    }

    fn can_come_back(&self, error: &Error) -> bool {
        let is_unserved = error.was_begun() == Some(false);
        is_unserved && self.role.has_workers && error.kind() != ErrorKind::Cancelled
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::{Backend, BackendLoad, BoxChunks, BoxFuture};
    use crate::channel::{Reply, StreamTimeouts};
    use crate::pool::attempts::Dead;
    use crate::pool::role::{Permit, RoleShared};
    use crate::pool::scheduler::{Grant, Priority, WorkerId};
    use crate::pool::{Pool, Role};
    use crate::protocol::{Health, Kind};
    use crate::sys::clock::{Deadline, now_ns};

    /// Has places, and is asked nothing.
    #[derive(Debug)]
    struct Others;

    impl Backend for Others {
        fn role(&self) -> &str {
            "one"
        }

        fn load(&self) -> BackendLoad {
            BackendLoad { places: 9, is_ready: true, ..BackendLoad::default() }
        }

        fn call(&self, _: BackendRequest, _: Duration) -> BoxFuture<'static, Result<Reply>> {
            unreachable!()
        }

        fn submit(&self, _: BackendRequest, _: Duration) -> BoxFuture<'static, Result<Reply>> {
            unreachable!()
        }

        fn stream(
            &self,
            _: BackendRequest,
            _: StreamTimeouts,
        ) -> BoxFuture<'static, Result<BoxChunks>> {
            unreachable!()
        }

        fn ping(&self, _: Duration) -> BoxFuture<'static, Vec<Result<Health>>> {
            unreachable!()
        }

        fn abort(&self) {}

        fn clear_abort(&self) {}

        fn close(&self, _: Duration) -> BoxFuture<'static, Result<()>> {
            unreachable!()
        }
    }

    /// A pool whose role overflows, and that has no worker yet.
    fn pool() -> Pool {
        let role = Role::with_channels(|_| Err(Error::invalid_config("no worker")));
        let role = role.lazy().overflow(Arc::new(Others));
        Pool::builder().role("one", role).build().unwrap()
    }

    /// A request whose worker has died before it began it, and which is sent again.
    fn returning(pool: &Pool) -> Attempts<Arc<RoleShared>> {
        let role = Arc::clone(pool.roles.get("one").unwrap());
        let grant = Grant { worker: WorkerId { slot: 0, incarnation: 0 }, is_alone: false };
        let permit = Permit::new(Arc::clone(&role), grant, Arc::default(), 0);
        let mut attempts = Attempts::begin(role, Kind::app(1), Priority::Normal, None, true);
        let error = Error::disconnected("died", Some(false));
        attempts.judge(Dead { permit, error, has_delivered: false }).unwrap();
        attempts
    }

    #[test]
    fn a_close_waits_for_a_request_beside_one_that_came_back() {
        let pool = pool();
        let (mut one, mut other) = (returning(&pool), returning(&pool));
        let passed = || Deadline::from(0, Duration::ZERO);
        let left = one.acquire(now_ns(), passed()).unwrap();
        assert!(matches!(left, Destination::Elsewhere(_)));
        let refused = Error::disconnected("full", Some(false));
        assert!(one.come_back::<()>(Err(refused)).unwrap().is_none());
        // No worker comes.
        assert_eq!(one.acquire(now_ns(), passed()).unwrap_err().kind(), ErrorKind::QueueTimeout);
        drop(one);
        pool.roles.get("one").unwrap().change(|scheduler| scheduler.close(now_ns()));
        let error = other.acquire(now_ns(), passed()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QueueTimeout, "{error}");
    }

    #[test]
    fn an_error_from_elsewhere_tells_of_the_attempt_before_it() {
        let pool = pool();
        let mut attempts = returning(&pool);
        attempts.history.begun = 1;
        let cancelled = Error::new(ErrorKind::Cancelled, "cancelled").with_begun(false);
        let error = attempts.come_back::<()>(Err(cancelled)).unwrap_err();
        assert_eq!(error.was_begun(), Some(true));
    }
}
