//! How many workers of a pool start at the same time.

use std::time::Duration;

use crate::sync::plain::{Condvar, Mutex};

/// Between two looks of a start that waits whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// Turns to start a worker.
#[derive(Debug)]
pub(super) struct Starts {
    free: Mutex<usize>,
    changed: Condvar,
}

/// A turn. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Turn<'a>(Option<&'a Starts>);

impl Starts {
    pub(super) fn new(most: usize) -> Self {
        Self { free: Mutex::new(most), changed: Condvar::default() }
    }

    /// Blocks until a turn is free, or until it is not wanted any more.
    pub(super) fn take(&self, is_unwanted: impl Fn() -> bool) -> Turn<'_> {
        let mut free = self.free.lock();
        while *free == 0 {
            if is_unwanted() {
                return Turn(None);
            }
            free = self.changed.wait_timeout(free, LOOK);
        }
        *free -= 1;
        Turn(Some(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(starts) = self.0 {
            *starts.free.lock() += 1;
            starts.changed.notify_one();
        }
    }
}
