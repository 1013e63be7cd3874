//! Signs of room between a role and the backend that it overflows to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Wake, Waker};

use super::ticker::Ticker;
use crate::backend::{Backend, BoxFuture};
use crate::channel::WaitList;
use crate::sync::plain::Mutex;
use crate::sys::fork;

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
        let has_changed = change.as_mut().poll(&mut context).is_ready();
        if has_changed {
            change = backend.load_changed();
            if change.as_mut().poll(&mut context).is_ready() {
                return true;
            }
        }
        let replaced = self.change.lock().replace(change);
        drop(replaced);
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
