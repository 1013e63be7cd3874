//! Replies that Python holds, and how they are kept from filling the ring.
//!
//! A reply lies in the ring, and the slots of a ring come back in their order: one reply that is
//! kept stops the worker once the ring is full behind it. Python keeps results. So a reply that
//! is still held when a share of the ring has come after it is copied out of the ring, and the
//! slot is given back. A reply that has a view cannot move; views together get no more than a
//! share of the ring, and further ones are of copies.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use slipring::Reply;

/// The replies of one channel that are held.
pub(crate) struct KeptReplies {
    /// A quarter of the ring, in bytes.
    share: usize,
    /// Bytes of slots that came so far.
    received: AtomicU64,
    /// Bytes of replies that have views in the ring.
    viewed: AtomicUsize,
    /// Replies that may lie in the ring, with `received` as it was when they came.
    leased: Mutex<VecDeque<(u64, Weak<KeptReply>)>>,
}

/// A reply that Python objects hold.
pub(crate) struct KeptReply {
    /// Code of Python's runs while a reply is read, so that it is not read under the lock. `None`
    /// only while it is copied.
    reply: Mutex<Option<Arc<Reply>>>,
    replies: Arc<KeptReplies>,
}

/// A reply that stays where it is.
pub(crate) struct PinnedReply {
    reply: Arc<Reply>,
    /// Bytes that count as viewed.
    viewed: usize,
    replies: Arc<KeptReplies>,
}

/// Replies of up to this many bytes are never leased: see [`Reply`].
const SHORT: usize = 96;

impl KeptReplies {
    pub(crate) fn new(ring: usize) -> Self {
        Self {
            share: ring / 4,
            received: AtomicU64::new(0),
            viewed: AtomicUsize::new(0),
            leased: Mutex::default(),
        }
    }

    /// Keeps a reply that has come, and copies those that have been in the ring for long.
    pub(crate) fn keep(self: &Arc<Self>, reply: Reply) -> Arc<KeptReply> {
        let len = reply.len();
        let slot = u64::try_from(len).unwrap_or(u64::MAX / 2).saturating_add(96) & !63;
        let now = self.received.fetch_add(slot, Ordering::Relaxed);
        let reply = Mutex::new(Some(Arc::new(reply)));
        let kept = Arc::new(KeptReply { reply, replies: Arc::clone(self) });
        let mut leased = lock(&self.leased);
        if len > SHORT {
            leased.push_back((now, Arc::downgrade(&kept)));
        }
        let mut old = Vec::new();
        while let Some((came, weak)) = leased.front() {
            let held = weak.upgrade();
            let is_old = now.saturating_sub(*came) > self.share.try_into().unwrap_or(u64::MAX);
            if held.is_some() && !is_old {
                break;
            }
            old.extend(held);
            leased.pop_front();
        }
        drop(leased);
        // One that is being read, or has a view, cannot be moved: it has its turn again later.
        old.retain(|kept| !kept.leave_ring());
        let again = old.iter().map(|kept| (now, Arc::downgrade(kept)));
        lock(&self.leased).extend(again);
        kept
    }
}

impl KeptReply {
    /// Returns the reply, which stays where it is while the caller has it.
    pub(crate) fn get(&self) -> Option<Arc<Reply>> {
        lock(&self.reply).clone()
    }

    /// Keeps the bytes where they are. If views hold too much of the ring, the bytes leave it
    /// before that.
    pub(crate) fn pin(&self) -> Option<PinnedReply> {
        let replies = Arc::clone(&self.replies);
        let mut viewed = self.get()?.len();
        let before = replies.viewed.fetch_add(viewed, Ordering::Relaxed);
        if before.saturating_add(viewed) > replies.share && self.leave_ring() {
            replies.viewed.fetch_sub(viewed, Ordering::Relaxed);
            viewed = 0;
        }
        Some(PinnedReply { reply: self.get()?, viewed, replies })
    }

    /// Copies the reply out of the ring, unless it is in use. Returns whether it is outside.
    fn leave_ring(&self) -> bool {
        let mut reply = lock(&self.reply);
        let Some(shared) = reply.take() else { return true };
        let (left, has_left) = match Arc::try_unwrap(shared) {
            Ok(own) => (Arc::new(own.detach()), true),
            Err(shared) => (shared, false),
        };
        *reply = Some(left);
        has_left
    }
}

impl PinnedReply {
    pub(crate) fn reply(&self) -> &Reply {
        &self.reply
    }
}

impl Drop for PinnedReply {
    fn drop(&mut self) {
        self.replies.viewed.fetch_sub(self.viewed, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
