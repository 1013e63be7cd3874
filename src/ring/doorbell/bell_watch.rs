//! How a peer is noticed that rings its bell without end.

use crate::error::{Error, Result};
use crate::shm::words::PeerU32;
use crate::sync::{Mutex, Ordering};

/// Tells a bell that the peer rings for nothing from one that it rings for a reason.
///
/// An honest peer rings at most once for each position that is announced to it. So an
/// announcement earns the peer one ring, and each ring spends one. A peer that is far in debt is
/// corrupt. All sleepers on one bell share its watch.
#[derive(Debug)]
pub(crate) struct BellWatch(Mutex<Account>);

#[derive(Debug)]
struct Account {
    /// The bell's value up to which rings are spent.
    seen: u32,
    credit: i64,
    poisoned: Option<Error>,
}

impl BellWatch {
    /// Rings that can be earned in advance: more than announcements can be open at once.
    const MOST_CREDIT: i64 = 1024;
    /// Rings without a reason that are let pass.
    const MOST_DEBT: i64 = 1024;

    pub(crate) fn new(peer_bell: &PeerU32) -> Self {
        let seen = peer_bell.load(Ordering::Relaxed);
        Self(Mutex::new(Account { seen, credit: 0, poisoned: None }))
    }

    /// Notes that the peer has one more reason to ring.
    pub(crate) fn earn(&self) {
        let mut account = self.0.lock();
        account.credit = (account.credit + 1).min(Self::MOST_CREDIT);
    }

    /// Spends the rings up to `bell`, which was loaded from `peer_bell`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PeerCorrupt`](crate::ErrorKind::PeerCorrupt), from then on for ever, if
    /// too many were for nothing.
    pub(super) fn spend(&self, bell: u32, peer_bell: &PeerU32) -> Result<()> {
        let mut account = self.0.lock();
        if let Some(poison) = &account.poisoned {
            return Err(poison.clone());
        }
        // Another thread may have spent a later value meanwhile; a load under the lock gives
        // one that is no older. A bell that the peer has turned back is still behind then, and
        // counts as billions of rings.
        let is_stale = bell.wrapping_sub(account.seen).cast_signed().is_negative();
        let bell = if is_stale { peer_bell.load(Ordering::Acquire) } else { bell };
        let rung = bell.wrapping_sub(account.seen);
        account.seen = bell;
        account.credit -= i64::from(rung);
        if account.credit < -Self::MOST_DEBT {
            let count = -account.credit;
            let poison =
                Error::corrupt(format!("the peer rang its bell {count} times for nothing"));
            return Err(account.poisoned.insert(poison).clone());
        }
        Ok(())
    }
}
