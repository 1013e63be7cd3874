//! The wait for a place of a role, for another one that overflows to it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::role::RoleShared;
use super::scheduler::Scheduler;
use crate::channel::WaitKey;
use crate::sys::fork;

/// Completes once the role has a place that it had not when this was polled first.
pub(super) struct RoleRoom {
    role: Arc<RoleShared>,
    key: WaitKey,
    /// How often it had been told of room then.
    before: Option<u64>,
}

impl RoleRoom {
    pub(super) fn new(role: Arc<RoleShared>) -> Self {
        Self { role, key: WaitKey::default(), before: None }
    }
}

impl Future for RoleRoom {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // There the role's lock may be held for ever.
        if fork::is_forked_child() {
            return Poll::Pending;
        }
        let Self { role, key, before } = &mut *self;
        let before = *before.get_or_insert_with(|| role.room.told.load(Ordering::Acquire));
        role.room.tasks.wait(key, context.waker());
        if role.room.told.load(Ordering::Acquire) != before {
            return Poll::Ready(());
        }
        role.change(Scheduler::watch);
        Poll::Pending
    }
}

impl Drop for RoleRoom {
    fn drop(&mut self) {
        self.role.room.tasks.leave(&mut self.key);
    }
}
