//! Signs of room between a role and the backend that it overflows to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Wake, Waker};

use super::ticker::Ticker;
use crate::backend::{Backend, BoxFuture};
use crate::channel::WaitList;
use crate::sync::plain::Mutex;
use crate::sys::fork;

/// How many changes in a row a look takes. A backend that says that there is always one would hold up
/// the pool's thread.
const MOST_CHANGES: usize = 8;

/// What a role waits for at its backend while requests wait here.
pub(super) struct RoomWatch {
    /// What [`Backend::load_changed`] has returned, polled once.
    change: Mutex<Option<BoxFuture<'static, ()>>>,
    sign: Arc<Sign>,
    waker: Waker,
}

/// Has the pool's thread look at its roles. The backend wakes it from any thread of its own, which
/// is not held up.
struct Sign {
    ticker: Arc<Ticker>,
    has_come: AtomicBool,
}

impl Wake for Sign {
    fn wake(self: Arc<Self>) {
        // There the lock of the ticker may be held for ever.
        if fork::is_forked_child() {
            return;
        }
        // Pairs with the Acquire in `take_sign`. The ticker's lock orders it before the look.
        self.has_come.store(true, Ordering::Release);
        self.ticker.look();
    }
}

impl RoomWatch {
    pub(super) fn new(ticker: &Arc<Ticker>) -> Self {
        let sign = Arc::new(Sign { ticker: Arc::clone(ticker), has_come: AtomicBool::new(false) });
        let waker = Waker::from(Arc::clone(&sign));
        Self { change: Mutex::new(None), sign, waker }
    }

    /// Whether the backend has told of a change since the last call.
    pub(super) fn take_sign(&self) -> bool {
        self.sign.has_come.load(Ordering::Relaxed)
            && self.sign.has_come.swap(false, Ordering::Acquire)
    }

    /// Has the pool's thread look at the next change of the load. The caller looks at the load
    /// afterwards. Returns whether it has changed since the last call.
    pub(super) fn begin(&self, backend: &dyn Backend) -> bool {
        let mut context = Context::from_waker(&self.waker);
        // Polled without the lock: it is the backend's code. If another thread begins meanwhile, one
        // of both is dropped, and either wakes the pool's thread for all changes after this.
        let before = self.change.lock().take();
        let mut change = before.unwrap_or_else(|| backend.load_changed());
        let mut has_changed = false;
        for _ in 0..MOST_CHANGES {
            if change.as_mut().poll(&mut context).is_pending() {
                let replaced = self.change.lock().replace(change);
                drop(replaced);
                return has_changed;
            }
            has_changed = true;
            change = backend.load_changed();
        }
        has_changed
    }
}

/// Tells others when the role has a place that it had not.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) told: AtomicU64,
    pub(super) tasks: WaitList,
}

impl Room {
    /// Tells all that watch.
    pub(super) fn tell(&self) {
        // Pairs with the Acquire in `RoleRoom::poll`, which looks after it has registered its task.
        self.told.fetch_add(1, Ordering::Release);
        self.tasks.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;
    use crate::backend::{BackendLoad, BackendRequest, BoxChunks};
    use crate::channel::{Reply, StreamTimeouts};
    use crate::error::{Error, ErrorKind, Result};
    use crate::id::RequestId;
    use crate::pool::{Pool, Role};
    use crate::process::testing::eventually;
    use crate::protocol::{Health, Kind};

    const LONG: Duration = Duration::from_secs(60);

    /// Has so many places, refuses so many requests, and tells of a change when it is told to.
    #[derive(Debug, Default)]
    struct Others {
        places: AtomicUsize,
        refusals: AtomicUsize,
        change: Arc<Change>,
    }

    #[derive(Debug, Default)]
    struct Change {
        /// How many are to be told.
        count: AtomicUsize,
        waker: Mutex<Option<Waker>>,
    }

    impl Change {
        fn tell(&self, count: usize) {
            self.count.fetch_add(count, Ordering::SeqCst);
            let waker = self.waker.lock().take();
            waker.into_iter().for_each(Waker::wake);
        }
    }

    fn take_one(count: &AtomicUsize) -> bool {
        let taken = count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |it| it.checked_sub(1));
        taken.is_ok()
    }

    impl Backend for Others {
        fn role(&self) -> &str {
            "one"
        }

        fn load(&self) -> BackendLoad {
            let places = self.places.load(Ordering::SeqCst);
            BackendLoad { places, is_ready: true, ..BackendLoad::default() }
        }

        fn load_changed(&self) -> BoxFuture<'static, ()> {
            let change = Arc::clone(&self.change);
            Box::pin(poll_fn(move |context| {
                *change.waker.lock() = Some(context.waker().clone());
                if !take_one(&change.count) {
                    return Poll::Pending;
                }
                *change.waker.lock() = None;
                Poll::Ready(())
            }))
        }

        fn call(&self, _: BackendRequest, _: Duration) -> BoxFuture<'static, Result<Reply>> {
            let is_refused = take_one(&self.refusals);
            Box::pin(std::future::ready(match is_refused {
                true => Err(Error::new(ErrorKind::Overloaded, "full").with_begun(false)),
                false => Ok(Reply::from_owner(RequestId::new(1), "there")),
            }))
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

    /// A pool whose role overflows, and whose worker does not start before the sender is dropped.
    fn pool(others: &Arc<Others>) -> (Pool, mpsc::Sender<()>) {
        let (end, ended) = mpsc::channel::<()>();
        let ended = Mutex::new(ended);
        let role = Role::with_channels(move |_| {
            let _ = ended.lock().recv();
            Err(Error::invalid_config("no worker"))
        });
        let others: Arc<dyn Backend> = others.clone();
        (Pool::builder().role("one", role.overflow(others)).build().unwrap(), end)
    }

    #[test]
    fn a_request_that_was_refused_leaves_again_after_the_first_sign_of_room() {
        let (places, refusals) = (AtomicUsize::new(1), AtomicUsize::new(1));
        let others = Arc::new(Others { places, refusals, ..Others::default() });
        let (pool, _end) = pool(&others);
        let one = pool.role("one").unwrap();
        let pending = one.submit(Kind::app(1), "", LONG).unwrap();
        assert_eq!(others.refusals.load(Ordering::SeqCst), 0, "it was refused");
        assert_eq!(one.health().load.queued, 1);
        others.change.tell(1);
        assert_eq!(pending.wait().unwrap().text().unwrap(), "there");
    }

    #[test]
    fn a_change_while_the_last_one_is_looked_at_does_not_end_the_watch() {
        let others = Arc::<Others>::default();
        let (pool, _end) = pool(&others);
        let one = pool.role("one").unwrap();
        let pending = one.submit(Kind::app(1), "", LONG).unwrap();
        assert_eq!(one.health().load.queued, 1);
        others.change.tell(2);
        eventually("it has looked", || others.change.count.load(Ordering::SeqCst) == 0);
        others.places.store(1, Ordering::SeqCst);
        others.change.tell(1);
        assert_eq!(pending.wait().unwrap().text().unwrap(), "there");
    }
}
