//! Waiting for what has no timeout of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

/// A timeout that passes only if something hangs.
pub const LONG: Duration = Duration::from_secs(60);

/// Runs `operation`, and aborts the process if it takes longer than [`LONG`].
pub fn within_long<T: Send>(name: &str, operation: impl FnOnce() -> T + Send) -> T {
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let name = name.to_owned();
        scope.spawn(move || {
            if is_done.recv_timeout(LONG) == Err(RecvTimeoutError::Timeout) {
                // A panic would wait for the thread that hangs, as a scope ends with its threads.
                eprintln!("{name} hangs");
                std::process::abort();
            }
        });
        let result = operation();
        drop(done);
        result
    })
}

/// Polls until a condition holds; panics after [`LONG`].
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sets a flag when it is dropped, also by a panic, so that the threads of a scope end.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
