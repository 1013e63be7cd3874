//! How one side of a ring wakes the other: a word in shared memory and a socket.
//!
//! The word says whether the side that waits wants a byte, and for which position. The socket has an
//! unread byte exactly if the word is `RUNG`, and has one or is about to have one if it is `RINGING`:
//!
//! ```text
//!   QUIET ---arm---> armed at a position ---ring---> RINGING ---the byte is sent---> RUNG
//!                      ^    |      ^                    |                              |
//!                      '-arm'      '--------------------'----arm: take the byte--------'
//! ```
//!
//! A sender that is killed before its byte leaves `RINGING`. Senders take turns, so that the next one
//! knows by that, and sends the byte in its place. The waiting side arms a word that is `RINGING` only
//! once the byte is there, or did not come for so long that its sender must be gone. In the second case no
//! byte is owed.
//!
//! *Waiting side*: 1 the word becomes armed at the position that must be passed; 2 fence; 3 look at the
//! ring; 4 if nothing is there, take the byte if the word stood for one, and sleep until the socket is
//! readable. If something is there, the word becomes `RUNG` and the byte stays unread, so that the
//! socket is still readable.
//!
//! *Other side*: 1 publish; 2 fence; 3 look at the word; 4 if it is armed at a position that was passed,
//! make it `RINGING`, send a byte and make it `RUNG`. If the waiting side changes the word meanwhile, look
//! again.
//!
//! Both fences are SeqCst, as in Dekker's algorithm: either the other side sees the armed word, or the
//! waiting side sees what was published. Each change of the word is a compare-and-swap, and the side
//! that succeeds owes exactly one byte, sent or taken. So the number of unread bytes stays right also
//! if several processes wait. A position is passed once only: a side that is late with its look finds
//! the word armed at a later position, and makes up no wake for what was read meanwhile.

use std::sync::Arc;

use super::sockets::{Line, Sockets};
use crate::shm::words::OwnU64;
use crate::sync::{Ordering, fence};
use crate::sys::wake_socket::WakeSocket;

/// Nothing is wanted, and nothing was sent.
pub(super) const QUIET: u64 = 0;
/// A byte was sent and is not taken.
const RUNG: u64 = 2;
/// A byte is about to be sent, or was.
pub(super) const RINGING: u64 = 4;

/// How often a change of the word is tried that other processes are changing all the time.
const ATTEMPTS: u32 = 64;

/// The next ring is to send a byte, once this position is passed. Positions are multiples of 64.
pub(super) fn armed_at(position: u64) -> u64 {
    position | 1
}

/// Whether a side that has reached this position owes a byte: its own, or that of a sender that was killed.
fn is_due(word: u64, reached: u64) -> bool {
    let is_passed = word & 1 == 1 && reached.wrapping_sub(word & !1).cast_signed() > 0;
    is_passed || word == RINGING
}

/// One side's handle on a bell.
#[derive(Debug)]
pub(super) struct Bell {
    word: OwnU64,
    sockets: Arc<Sockets>,
    line: Line,
}

impl Bell {
    pub(super) fn new(word: OwnU64, sockets: Arc<Sockets>, line: Line) -> Self {
        Self { word, sockets, line }
    }

    pub(super) fn socket(&self) -> &WakeSocket {
        self.sockets.of(self.line)
    }

    /// Wakes the other side if it waits for a position before `reached`, which the caller has published.
    /// Returns false if the other side is gone, as far as was looked.
    #[inline]
    pub(super) fn ring(&self, reached: u64) -> bool {
        fence(Ordering::SeqCst); // pairs with the fence in `arm`
        let word = self.word.load(Ordering::Relaxed);
        !is_due(word, reached) || self.send(word, reached)
    }

    #[cold]
    fn send(&self, mut word: u64, reached: u64) -> bool {
        for _ in 0..ATTEMPTS {
            if !is_due(word, reached) {
                break;
            }
            match self.change(word, RINGING) {
                Ok(_) => {
                    let is_held = self.socket().send_byte();
                    // It fails if the waiting side knows of the byte already.
                    let _ = self.change(RINGING, RUNG);
                    return is_held;
                }
                // The waiting side has armed it anew, maybe before this position.
                Err(changed) => word = changed,
            }
        }
        true
    }

    /// Leaves the word as a process does that is killed before it sends the byte.
    #[cfg(all(test, loom))]
    pub(super) fn ring_without_byte(&self) {
        assert!(self.change(self.word.load(Ordering::Relaxed), RINGING).is_ok());
        self.socket().lose_byte();
    }

    /// Asks the other side for a byte once it passes the position, unless `has_come` already. Returns
    /// whether it has: then the socket is as readable as before.
    pub(super) fn arm(&self, position: u64, has_come: impl FnOnce() -> bool) -> bool {
        let armed = armed_at(position);
        let mut found = self.word.load(Ordering::Relaxed);
        let mut is_owed = false;
        for _ in 0..ATTEMPTS {
            if found == armed {
                break;
            }
            // Of a sender that was killed no byte comes, and none must be taken in its place.
            let is_sent = found == RUNG || found == RINGING && self.socket().await_byte();
            match self.change(found, armed) {
                Ok(_) => {
                    is_owed = is_sent;
                    break;
                }
                Err(changed) => found = changed,
            }
        }
        fence(Ordering::SeqCst); // pairs with the fence in `ring`
        let has_come = has_come();
        let is_kept = has_come && is_owed && self.change(armed, RUNG).is_ok();
        if is_owed && !is_kept {
            self.socket().take_byte();
        }
        has_come
    }

    /// Returns whether the socket has no byte that belongs there.
    pub(super) fn is_armed(&self) -> bool {
        self.word.load(Ordering::Relaxed) & 1 == 1
    }

    /// Returns whether the other side is asked for a byte once it passes the position.
    pub(super) fn is_armed_at(&self, position: u64) -> bool {
        self.word.load(Ordering::Relaxed) == armed_at(position)
    }

    fn change(&self, from: u64, to: u64) -> Result<u64, u64> {
        self.word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
    }
}
