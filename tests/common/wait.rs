//! Waiting for what has no timeout of its own.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
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

/// A file for which handlers of [`STAY`](super::STAY) wait: they go on when this is dropped. So a
/// worker is busy for as long as a test needs, however slow the machine is.
pub struct Stay(PathBuf);

impl Stay {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("slipring-{}-stay-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, "").unwrap();
        Self(path)
    }

    /// The request for such a handler, and its reply.
    pub fn path(&self) -> Vec<u8> {
        self.0.as_os_str().as_bytes().to_vec()
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Sets a flag when it is dropped, also by a panic, so that the threads of a scope end.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
