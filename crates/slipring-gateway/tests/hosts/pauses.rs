//! How long the machine let this program wait: a fault that is noticed late by less is not late.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(10);

static LONGEST: AtomicU64 = AtomicU64::new(0);

/// Measures from now on.
pub fn measure() {
    spawn(|| {
        loop {
            let began = Instant::now();
            sleep(STEP);
            let pause = began.elapsed().saturating_sub(STEP).as_millis();
            LONGEST.fetch_max(u64::try_from(pause).unwrap(), Ordering::Relaxed);
        }
    });
}

/// The longest pause in milliseconds since the last call.
pub fn longest() -> u64 {
    LONGEST.swap(0, Ordering::Relaxed)
}
