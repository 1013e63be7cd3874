//! The pair of descriptors for the model checker: a count of bytes for each end.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "model checking only")]

use std::sync::Arc;

use loom::sync::{Condvar, Mutex};

/// How many bytes each end has to read.
#[derive(Debug)]
struct Pair {
    bytes: Mutex<[u32; 2]>,
    readable: Condvar,
}

/// One side's hold on the pair.
#[derive(Debug)]
pub(crate) struct WakeFd {
    pair: Arc<Pair>,
    own: usize,
}

/// What [`WakeFd::drain`] has found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    Nothing,
    Something,
    Broken,
}

impl WakeFd {
    pub(crate) fn pair() -> [Self; 2] {
        let bytes = Mutex::new([0; 2]);
        let pair = Arc::new(Pair { bytes, readable: Condvar::new() });
        [0, 1].map(|own| Self { pair: Arc::clone(&pair), own })
    }

    pub(crate) fn wake_peer(&self) {
        self.write_byte(1 - self.own);
    }

    pub(crate) fn wake_self(&self) {
        self.write_byte(self.own);
    }

    pub(crate) fn drain(&self) -> Drained {
        let mut bytes = self.pair.bytes.lock().unwrap();
        match std::mem::take(&mut bytes[self.own]) {
            0 => Drained::Nothing,
            _ => Drained::Something,
        }
    }

    /// Does what a reactor does.
    pub(crate) fn wait_until_readable(&self) {
        let mut bytes = self.pair.bytes.lock().unwrap();
        while bytes[self.own] == 0 {
            bytes = self.pair.readable.wait(bytes).unwrap();
        }
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.pair.bytes.lock().unwrap()[self.own] != 0
    }

    fn write_byte(&self, end: usize) {
        self.pair.bytes.lock().unwrap()[end] += 1;
        self.pair.readable.notify_all();
    }
}
