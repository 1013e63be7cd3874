//! What the machine can do, measured with the least code that does it.
//!
//! Nothing here knows slipring: mapping, atomics, copies and system calls are this
//! module's own. It is frozen: a change to it makes every earlier ratio incomparable,
//! so it needs a reason and a new figure in `docs/BENCHMARKS.md`.
//!
//! | limit | what it is |
//! |---|---|
//! | [`mailbox`], one line | payload and flag in one cache line, there and back |
//! | [`mailbox`], two lines | the flag in one line, the payload in those after it |
//! | [`mailbox`], futex or waitv | the same, but each end sleeps in the kernel |
//! | [`ring`] | a ring on one page and its data: in-band commit, 16-byte header |
//! | [`bytes`] | a copy, a sum and a generator that use the widest vectors |
//!
//! The ends are not robust: they trust each other, and give up after a while.
#![allow(unsafe_code, reason = "mapped memory, vector instructions, raw system calls")]
#![allow(
    clippy::as_conversions,
    reason = "64-bit Linux only: offsets, lengths and pointers are all of one size"
)]

pub mod bytes;
pub mod mailbox;
pub mod memory;
pub mod ring;
pub mod sys;

use std::io;
use std::time::{Duration, Instant};

/// How long an end waits before it takes the other end for dead. Longer than the turns of all
/// other contenders in the idle workload.
const PATIENCE: Duration = Duration::from_secs(120);

/// Spins until `look` finds something.
///
/// # Errors
///
/// `TimedOut` after a long time: the other process is gone.
#[inline]
pub(crate) fn spin<T>(mut look: impl FnMut() -> Option<T>) -> io::Result<T> {
    for _ in 0..1 << 16 {
        if let Some(found) = look() {
            return Ok(found);
        }
        std::hint::spin_loop();
    }
    spin_longer(look)
}

#[cold]
fn spin_longer<T>(mut look: impl FnMut() -> Option<T>) -> io::Result<T> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        for _ in 0..1 << 10 {
            if let Some(found) = look() {
                return Ok(found);
            }
            std::hint::spin_loop();
        }
    }
    Err(gone())
}

#[cold]
pub(crate) fn gone() -> io::Error {
    let message = format!("the other process has not answered for {PATIENCE:?}");
    io::Error::new(io::ErrorKind::TimedOut, message)
}
