//! A request that leaves its role for other workers, and comes back if those do not take it.

use std::sync::Arc;

use super::place::Destination;
use super::{Attempts, Past, Standing};
use crate::backend::BackendRequest;
use crate::channel::Progress;
use crate::error::{Error, ErrorKind, Result};
use crate::payload::{Payload, encoded_bytes};
use crate::pool::core::Placed;
use crate::pool::departure::Departure;
use crate::pool::overflow::CancelElsewhere;
use crate::pool::role::RoleRef;
use crate::pool::scheduler::Elsewhere;
use crate::pool::worker::Worker;
use crate::sys::clock::now_ns;

/// How often a request may have come from one host to another that leaves its role for other workers. One
/// that comes from a caller by a gateway still can, and roles that overflow to each other do not pass it
/// round.
const MOST_HOPS: u32 = 1;

impl<R: RoleRef> Attempts<R> {
    /// Says how often it has come from one host to another.
    pub(crate) fn came_by(mut self, hops: u32) -> Self {
        if hops > 0 && self.role.overflow.is_some() {
            self.past.get_or_insert_default().hops = hops;
            self.must_stay |= hops > MOST_HOPS && self.role.has_workers;
        }
        self
    }

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

    /// Its role has it go to other workers, and counts it as one that they have.
    pub(super) fn leave_for_others(&mut self) -> Result<Destination<R>> {
        let Some(others) = self.role.overflow.clone() else { return Err(self.no_others()) };
        self.standing = Standing::Away { is_refused: false };
        self.role.metrics.note_overflow();
        let cancel = others.note_away(self.number());
        // A close that came before has not seen it.
        if self.role.is_urgent() {
            cancel.close();
        }
        self.note_cancel(&cancel);
        Ok(Destination::Elsewhere(Departure::new(self.role.clone(), others, cancel)))
    }

    /// As [`Attempts::leave_for_others`], of a request that has waited here since `since`. Returns
    /// `None` if the others take no requests, so that it is to wait here again.
    pub(super) fn leave_after(&mut self, since: u64) -> Result<Option<Destination<R>>> {
        self.past.get_or_insert_default().waited_since.get_or_insert(since);
        let takes_requests = self.role.overflow.as_ref().map(|others| others.takes_requests());
        if takes_requests != Some(Elsewhere::Later) {
            return self.leave_for_others().map(Some);
        }
        self.role.change(|scheduler| scheduler.note_counted());
        self.standing = Standing::Away { is_refused: true };
        Ok(None)
    }

    /// Asks for a worker here after it was away.
    #[cold]
    pub(super) fn ask_back(&mut self, is_refused: bool) -> (Placed<Worker>, u64) {
        self.forget_away();
        let (now, since) = (now_ns(), self.past.as_ref().and_then(|past| past.waited_since));
        let placed = self.role.ask_back(self.asked, (since, is_refused), &self.history, now);
        if let Placed::Waits(..) = placed {
            self.past.get_or_insert_default().waited_since.get_or_insert(now);
        }
        (placed, now)
    }

    /// Other workers are done with it.
    #[cold]
    pub(crate) fn end_away(&mut self) {
        if let Standing::Away { .. } = self.standing {
            self.forget_away();
            self.role.end_away();
        }
    }

    fn forget_away(&mut self) {
        self.standing = Standing::Settled;
        if let Some(others) = &self.role.overflow {
            others.forget_away(self.number());
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
        let request = request.hops(self.past.as_ref().map_or(0, |past| past.hops));
        // If the others are gone by now, it comes back.
        let request = request.must_not_wait(self.role.has_workers);
        let request = self.asked.key.into_iter().fold(request, BackendRequest::key);
        Ok(self.trace.iter().cloned().fold(request, BackendRequest::trace))
    }

    /// A cancel of its stream ends it there.
    fn note_cancel(&self, elsewhere: &Arc<CancelElsewhere>) {
        if let Some(cancel) = &self.cancel
            && !cancel.note_elsewhere(elsewhere)
        {
            elsewhere.cancel();
        }
    }

    /// What has become of it elsewhere. `None`: nothing, so that it is to ask for a worker here.
    pub(crate) fn come_back<T>(&mut self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(found) => Ok(Some(found)),
            Err(error) if self.can_come_back(&error) => {
                let is_refused = is_refused(error.kind());
                // Others would say the same of it again.
                self.must_stay |= !is_refused;
                self.standing = Standing::Away { is_refused };
                self.role.metrics.note_overflow_back();
                let Past { earlier, .. } = &mut **self.past.get_or_insert_default();
                earlier.push(&error);
                Ok(None)
            }
            Err(error) => {
                self.end_away();
                Err(self.of_all(error))
            }
        }
    }

    fn can_come_back(&self, error: &Error) -> bool {
        let is_unserved = error.was_begun() == Some(false);
        is_unserved && self.role.has_workers && error.kind() != ErrorKind::Cancelled
    }
}

/// Whether other workers have refused a request as they are now, and not for what it is.
fn is_refused(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Overloaded
            | ErrorKind::TooManyInFlight
            | ErrorKind::Degraded
            | ErrorKind::Closed
            | ErrorKind::Disconnected
            | ErrorKind::QueueTimeout
            | ErrorKind::Session
            | ErrorKind::PeerDied
            | ErrorKind::PeerCorrupt
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::{Backend, BackendLoad, BoxChunks, BoxFuture};
    use crate::channel::{Reply, StreamTimeouts};
    use crate::pool::attempts::failed::Dead;
    use crate::pool::overflow::block_on;
    use crate::pool::permit::Permit;
    use crate::pool::role::RoleShared;
    use crate::pool::scheduler::{Grant, Priority, WorkerId};
    use crate::pool::{Pool, Role};
    use crate::protocol::{Health, Kind};
    use crate::sys::clock::{Deadline, now_ns};

    /// Has places, and answers nothing.
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
            Box::pin(std::future::pending())
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
        let grant = Grant {
            worker: WorkerId { slot: 0, incarnation: 0 },
            is_alone: false,
            is_open_ended: false,
        };
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
        let is_over = || pool.roles.get("one").unwrap().change(|scheduler| scheduler.is_over());
        pool.roles.get("one").unwrap().change(|scheduler| scheduler.close(now_ns()));
        let left = other.acquire(now_ns(), passed()).unwrap();
        assert!(matches!(left, Destination::Elsewhere(_)));
        assert!(!is_over(), "others have a request");
        drop((left, other));
        let longest = Deadline::after(Duration::from_secs(60));
        assert!(pool.shared.ended.wait(longest, is_over));
    }

    #[test]
    fn a_close_waits_for_a_first_attempt_elsewhere() {
        let pool = pool();
        let role = Arc::clone(pool.roles.get("one").unwrap());
        let begin =
            || Attempts::begin(Arc::clone(&role), Kind::app(1), Priority::Normal, None, false);
        let (mut one, mut back) = (begin(), begin());
        let passed = || Deadline::from(0, Duration::ZERO);
        let left = [&mut one, &mut back].map(|it| it.acquire(now_ns(), passed()).unwrap());
        assert!(left.iter().all(|left| matches!(left, Destination::Elsewhere(_))));
        role.change(|scheduler| scheduler.close(now_ns()));
        // It has its place here, although the role takes no others.
        let refused = Error::new(ErrorKind::Overloaded, "full").with_begun(false);
        assert!(back.come_back::<()>(Err(refused)).unwrap().is_none());
        let error = back.acquire(now_ns(), passed()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QueueTimeout, "{error}");
        drop(back);
        assert!(!role.change(|scheduler| scheduler.is_over()), "others have a request");
        let [Destination::Elsewhere(departure), _] = left else { unreachable!() };
        role.close_now();
        let request = one.request_elsewhere("", Progress::default()).unwrap();
        let error = block_on(departure.call(request, Duration::MAX)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
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

    #[test]
    fn a_request_that_has_come_by_two_hosts_stays() {
        let pool = pool();
        let asked = |hops| {
            let role = Arc::clone(pool.roles.get("one").unwrap());
            Attempts::begin(role, Kind::app(1), Priority::Normal, None, false).came_by(hops)
        };
        let passed = || Deadline::from(0, Duration::ZERO);
        for hops in [0, MOST_HOPS] {
            let mut attempts = asked(hops);
            let left = attempts.acquire(now_ns(), passed()).unwrap();
            assert!(matches!(left, Destination::Elsewhere(_)));
            let request = attempts.request_elsewhere("", Progress::default()).unwrap();
            assert_eq!(request.hop_count(), hops, "its next host counts");
        }
        let error = asked(MOST_HOPS + 1).acquire(now_ns(), passed()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QueueTimeout, "{error}");
    }
}
