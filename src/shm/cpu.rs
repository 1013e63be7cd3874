//! Which processor this thread runs on, for deciding whether spinning can help.
#![allow(unsafe_code, reason = "sched_getcpu is a C function")]

use std::sync::OnceLock;

/// The processor's number plus one; zero when it is not known.
pub(crate) fn current() -> u32 {
    // SAFETY: takes no arguments and only reports.
    let cpu = unsafe { libc::sched_getcpu() };
    u32::try_from(cpu.saturating_add(1)).unwrap_or(0)
}

/// Whether this process may run on one processor only.
pub(crate) fn is_only_one() -> bool {
    static ONE: OnceLock<bool> = OnceLock::new();
    *ONE.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from) == 1)
}
