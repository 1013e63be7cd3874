//! Points at which a test ends, stops or delays this process.
//!
//! `SLIPRING_FAILPOINT=point:action[:n]` does `kill`, `stop`, `abort`, `exit` or `sleep` at the
//! n-th time that the point is passed, the first if it is not said.
#![allow(unsafe_code, reason = "a signal to this process")]

/// A point with this name.
macro_rules! failpoint {
    ($name:literal) => {
        $crate::failpoint::pass($name)
    };
}
pub(crate) use failpoint;

pub(crate) fn pass(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static CHOSEN: OnceLock<Option<(String, String, u32)>> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);

    let parse = || {
        let text = std::env::var("SLIPRING_FAILPOINT").ok()?;
        let mut parts = text.split(':');
        let (point, action) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        Some((point, action, parts.next().and_then(|n| n.parse().ok()).unwrap_or(1)))
    };
    let Some((point, action, nth)) = CHOSEN.get_or_init(parse) else { return };
    if point != name || PASSED.fetch_add(1, Ordering::Relaxed) + 1 != *nth {
        return;
    }
    // Standard error is a worker's log.
    eprintln!("failpoint {name}: {action}");
    let signal = |signal| {
        // SAFETY: a call without pointers. At this thread, so that it goes not one step on.
        unsafe { libc::raise(signal) };
    };
    match action.as_str() {
        "kill" => signal(libc::SIGKILL),
        "stop" => signal(libc::SIGSTOP),
        "abort" => std::process::abort(),
        "exit" => std::process::exit(0),
        _ => std::thread::sleep(std::time::Duration::from_millis(100)),
    }
}
