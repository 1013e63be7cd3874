//! Workers that are not the role's own: a request goes to them for which the role has no place.

mod chunks;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use super::room::RoomWatch;
use super::scheduler::Elsewhere;
use super::ticker::Ticker;
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::plain::Mutex;
use crate::sys::clock::Deadline;

pub(super) use chunks::{CancelElsewhere, ChunksElsewhere};

/// The workers to which requests go for which a role has no place.
// A pool stays safe to use after a panic that a host has caught: it looks at nothing inside of them.
#[derive(Clone)]
pub(super) struct Overflow(Arc<AssertUnwindSafe<Shared>>);

struct Shared {
    backend: Arc<dyn Backend>,
    watch: RoomWatch,
    /// What ends the requests that are there, by their numbers.
    away: Mutex<BTreeMap<u64, Arc<CancelElsewhere>>>,
}

impl Overflow {
    pub(super) fn new(backend: Arc<dyn Backend>, ticker: &Arc<Ticker>) -> Self {
        let (watch, away) = (RoomWatch::new(ticker), Mutex::default());
        Self(Arc::new(AssertUnwindSafe(Shared { backend, watch, away })))
    }

    /// Whether they would take a request.
    pub(super) fn takes_requests(&self) -> Elsewhere {
        match self.free_places() {
            None => Elsewhere::Later,
            Some(0) => Elsewhere::IfRefused,
            Some(_) => Elsewhere::IfFull,
        }
    }

    /// How many places are free there; `None` if they take no requests.
    pub(super) fn free_places(&self) -> Option<usize> {
        let load = self.0.backend.load();
        let requests = load.in_flight.saturating_add(load.queued);
        (load.is_ready && !load.is_draining).then(|| load.places.saturating_sub(requests))
    }

    pub(super) fn backend(&self) -> &dyn Backend {
        &*self.0.backend
    }

    /// Runs a future of theirs on this thread, which sleeps meanwhile. If this thread must not, the
    /// future was not polled.
    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        let (mut future, mut found) = (pin!(future), None);
        self.0.backend.block(&mut || found = Some(block_on(future.as_mut())))?;
        // A backend that has run nothing has refused, too.
        found.ok_or_else(|| self.must_not_wait())
    }

    /// Waits for what `wait` finds before a deadline of a request that may be here or there. If this thread
    /// must not wait for the others, it does so while the request is here.
    pub(super) fn wait_for<T>(
        &self,
        number: u64,
        wait: impl Fn(Deadline) -> Option<T>,
    ) -> Result<Option<T>> {
        const LOOK: Duration = Duration::from_millis(20);
        let (mut found, mut has_run) = (None, false);
        let blocked = self.0.backend.block(&mut || {
            (found, has_run) = (wait(Deadline::NEVER), true);
        });
        let refused = match blocked {
            Ok(()) if has_run => return Ok(found),
            Ok(()) => self.must_not_wait(),
            Err(error) => error,
        };
        loop {
            let found = wait(Deadline::after(LOOK));
            if found.is_some() {
                return Ok(found);
            }
            if self.0.away.lock().contains_key(&number) {
                return Err(refused);
            }
        }
    }

    #[cold]
    fn must_not_wait(&self) -> Error {
        let role = self.0.backend.role();
        let message = format!("role {role}: its backend has not let this thread wait for it");
        Error::new(ErrorKind::InvalidInput, message)
    }

    /// As [`RoomWatch::begin`].
    pub(super) fn watch(&self) -> bool {
        self.0.watch.begin(&*self.0.backend)
    }

    /// As [`RoomWatch::take_sign`].
    pub(super) fn take_sign(&self) -> bool {
        self.0.watch.take_sign()
    }

    /// A request leaves: returns what ends it there.
    pub(super) fn note_away(&self, number: u64) -> Arc<CancelElsewhere> {
        let cancel = Arc::<CancelElsewhere>::default();
        self.0.away.lock().insert(number, Arc::clone(&cancel));
        cancel
    }

    /// A request has ended there, or comes back.
    pub(super) fn forget_away(&self, number: u64) {
        let cancel = self.0.away.lock().remove(&number);
        // It may have the last waker of a task.
        drop(cancel);
    }

    /// Ends all requests that are there: the role is closed.
    pub(super) fn close_all(&self) {
        let all: Vec<_> = self.0.away.lock().values().map(Arc::clone).collect();
        all.iter().for_each(|cancel| cancel.close());
    }

    pub(super) fn abort(&self) {
        self.0.backend.abort();
    }

    pub(super) fn clear_abort(&self) {
        self.0.backend.clear_abort();
    }
}

impl fmt::Debug for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Overflow").field(&self.0.backend).finish()
    }
}

/// Runs a future on this thread, which sleeps meanwhile.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(found) => return found,
            Poll::Pending => thread::park(),
        }
    }
}
