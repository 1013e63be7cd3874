//! The socket pair for the model checker: a count of bytes for each end.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "model checking only")]

use std::sync::Arc;
use std::time::Duration;

use loom::sync::{Condvar, Mutex};

#[derive(Debug)]
struct Pair {
    bytes: Mutex<[u32; 2]>,
    readable: Condvar,
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
        let pair = Arc::new(Pair { bytes: Mutex::new([0; 2]), readable: Condvar::new() });
        [0, 1].map(|own| Self { pair: Arc::clone(&pair), own })
    }

    pub(crate) fn send_byte(&self) -> bool {
        self.pair.bytes.lock().unwrap()[1 - self.own] += 1;
        self.pair.readable.notify_all();
        true
    }

    /// Waits for the byte: in a model, one that is about to be sent always comes.
    pub(crate) fn take_byte(&self) -> bool {
        let mut bytes = self.pair.bytes.lock().unwrap();
        while bytes[self.own] == 0 {
            bytes = self.pair.readable.wait(bytes).unwrap();
        }
        bytes[self.own] -= 1;
        true
    }

    /// Waits for the byte, as [`Self::take_byte`].
    pub(crate) fn await_byte(&self) -> bool {
        self.wait(Duration::MAX).is_readable
    }

    /// Waits without end, unless the time is zero.
    pub(crate) fn wait(&self, longest: Duration) -> Polled {
        let mut bytes = self.pair.bytes.lock().unwrap();
        while bytes[self.own] == 0 && longest != Duration::ZERO {
            bytes = self.pair.readable.wait(bytes).unwrap();
        }
        Polled { is_readable: bytes[self.own] != 0, is_closed: false }
    }

    pub(crate) fn is_closed(&self) -> bool {
        false
    }
}
