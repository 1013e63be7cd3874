//! How long a task of asyncio looks for a reply, learned from the calls before.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::wait::LOOK;

/// How long a call looks for its reply before its task gives the event loop back: [`LOOK`], or
/// [`LONG_LOOK`] as long as replies come within that. A sleep and a wake-up of both sides cost more.
/// Whether replies would come within the longer time is tried every now and then.
#[derive(Debug)]
pub(crate) struct Look {
    /// How many calls look for longer, unless a reply comes in that time.
    long: AtomicU32,
    /// How many calls are left until the longer time is tried.
    left: AtomicU32,
    /// How many there are between two tries.
    pause: AtomicU32,
}

/// As long as it takes a worker to wake up, and to pickle some hundred KiB.
const LONG_LOOK: Duration = Duration::from_micros(150);

/// The first call of a try may only wake the worker up, so that the next one finds it awake.
const TRY: u32 = 3;

const SHORTEST_PAUSE: u32 = 8;
const LONGEST_PAUSE: u32 = 256;

impl Default for Look {
    fn default() -> Self {
        let pause = || AtomicU32::new(SHORTEST_PAUSE);
        Self { long: AtomicU32::new(0), left: pause(), pause: pause() }
    }
}

impl Look {
    pub(crate) fn next(&self) -> Duration {
        if self.long.load(Ordering::Relaxed) > 0 { LONG_LOOK } else { LOOK }
    }

    /// Learns whether a reply came in the time of a look. Tasks of several loops may do so at the same
    /// time: then a try comes sooner or later than it would.
    pub(crate) fn note(&self, look: Duration, was_found: bool) {
        if look == LONG_LOOK && was_found {
            self.long.store(TRY, Ordering::Relaxed);
            self.pause.store(SHORTEST_PAUSE, Ordering::Relaxed);
        } else if look == LONG_LOOK {
            let long = self.long.load(Ordering::Relaxed).saturating_sub(1);
            self.long.store(long, Ordering::Relaxed);
            if long == 0 {
                let pause = self.pause.load(Ordering::Relaxed);
                self.left.store(pause, Ordering::Relaxed);
                self.pause.store((2 * pause).min(LONGEST_PAUSE), Ordering::Relaxed);
            }
        } else if !was_found {
            let left = self.left.load(Ordering::Relaxed).saturating_sub(1);
            self.left.store(left, Ordering::Relaxed);
            if left == 0 {
                self.long.store(TRY, Ordering::Relaxed);
            }
        }
    }
}
