//! The socket pair for the model checker: a count of bytes for each end, and whether one that was
//! announced will never be sent.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "model checking only")]

use std::sync::Arc;
use std::time::Duration;

use loom::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug)]
struct Pair {
    ends: Mutex<[End; 2]>,
    readable: Condvar,
}

#[derive(Debug, Default)]
struct End {
    bytes: u32,
    /// The process that was to send a byte was killed.
    is_one_lost: bool,
}

/// One end of the pair.
#[derive(Debug)]
pub(crate) struct WakeSocket {
    pair: Arc<Pair>,
    own: usize,
}

/// What [`WakeSocket::wait`] has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Polled {
    pub(crate) is_readable: bool,
    pub(crate) is_closed: bool,
}

impl WakeSocket {
    pub(crate) fn pair() -> [Self; 2] {
        let pair = Arc::new(Pair { ends: Mutex::default(), readable: Condvar::new() });
        [0, 1].map(|own| Self { pair: Arc::clone(&pair), own })
    }

    pub(crate) fn send_byte(&self) -> bool {
        let mut ends = self.pair.ends.lock().unwrap();
        let end = &mut ends[1 - self.own];
        // A byte that another process sends in the place of the lost one.
        end.is_one_lost = false;
        end.bytes += 1;
        self.pair.readable.notify_all();
        true
    }

    /// What is known of a process that is killed before [`Self::send_byte`].
    pub(crate) fn lose_byte(&self) {
        self.pair.ends.lock().unwrap()[1 - self.own].is_one_lost = true;
    }

    /// Takes a byte, which is waited for as in [`Self::await_byte`].
    pub(crate) fn take_byte(&self) -> bool {
        let mut ends = self.ends_with_byte();
        let is_there = ends[self.own].bytes > 0;
        ends[self.own].bytes -= u32::from(is_there);
        is_there
    }

    /// Waits for the byte: in a model, one that is about to be sent always comes. For one that is
    /// lost the time is over at once.
    pub(crate) fn await_byte(&self) -> bool {
        self.ends_with_byte()[self.own].bytes > 0
    }

    fn ends_with_byte(&self) -> MutexGuard<'_, [End; 2]> {
        let mut ends = self.pair.ends.lock().unwrap();
        while ends[self.own].bytes == 0 && !std::mem::take(&mut ends[self.own].is_one_lost) {
            ends = self.pair.readable.wait(ends).unwrap();
        }
        ends
    }

    /// Waits without end, unless the time is zero.
    pub(crate) fn wait(&self, longest: Duration) -> Polled {
        let mut ends = self.pair.ends.lock().unwrap();
        while ends[self.own].bytes == 0 && longest != Duration::ZERO {
            ends = self.pair.readable.wait(ends).unwrap();
        }
        Polled { is_readable: ends[self.own].bytes != 0, is_closed: false }
    }

    pub(crate) fn is_closed(&self) -> bool {
        false
    }
}
