//! Sleeping on words of memory until another thread or process wakes the sleeper.
//!
//! A wait and its wake must agree on the [`Scope`] of the word. If a word in shared memory is
//! waited for as a private one, the kernel looks for the sleeper in the waking process only,
//! and the wake-up is lost.
#![allow(unsafe_code, reason = "futex system calls")]

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::check;
use super::clock::Deadline;

/// The most words that one wait takes.
pub(crate) const MAX_WORDS: usize = 128;

/// How often a wait that cannot sleep on two words looks at the private one.
const SLICE: Duration = Duration::from_millis(100);

/// Which threads sleep on a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Threads of this process only.
    Private,
    /// Threads of any process that maps the memory.
    Shared,
}

impl Scope {
    /// The operation as `SYS_futex` takes it.
    fn of(self, operation: i32) -> i32 {
        match self {
            Self::Private => operation | libc::FUTEX_PRIVATE_FLAG,
            Self::Shared => operation,
        }
    }
}

/// How a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slept {
    /// A signal handler of this thread has run.
    Interrupted,
    /// By a wake, another value of a word, the deadline, or for no reason.
    Ended,
}

impl Slept {
    /// What the error of a system call that sleeps says.
    fn of(error: Option<i32>) -> Self {
        if error == Some(libc::EINTR) { Self::Interrupted } else { Self::Ended }
    }
}

/// A word, and the value that it must still have for a wait to begin.
#[repr(C)]
pub(crate) struct Word<'a> {
    expected: u64,
    // A reference where the kernel has a 64-bit address: the same bits on the 64-bit
    // targets that are supported.
    word: &'a AtomicU32,
    flags: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Word<'_>>() == 24);

impl<'a> Word<'a> {
    pub(crate) fn new(word: &'a AtomicU32, expected: u32, scope: Scope) -> Self {
        let scope = match scope {
            Scope::Private => libc::FUTEX2_PRIVATE,
            Scope::Shared => 0,
        };
        let flags = (libc::FUTEX2_SIZE_U32 | scope).unsigned_abs();
        Self { expected: u64::from(expected), word, flags, reserved: 0 }
    }
}

/// Sleeps until one of the words is woken or the deadline has passed. Returns the index of the
/// word, which need not be the only one that was woken.
///
/// # Errors
///
/// `WouldBlock` if a word does not have its expected value, `TimedOut` at the deadline,
/// `Interrupted` after a signal; `ENOSYS` or `EPERM` where the kernel or a filter does not allow
/// the call.
pub(crate) fn wait_any(words: &[Word<'_>], deadline: Deadline) -> io::Result<usize> {
    let timeout = deadline.timespec();
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `words` is an array of live entries in the kernel's layout; each address comes
    // from a reference, so that it is mapped for the whole call; the timeout is null or a valid
    // timespec. The kernel only reads all of them.
    let index = check(unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            words.as_ptr(),
            words.len(),
            0_usize,
            timeout,
            libc::CLOCK_MONOTONIC,
        )
    })?;
    Ok(usize::try_from(index).unwrap_or(0))
}

/// Sleeps until a word of shared memory or one of this process is woken or has another value,
/// until the deadline has passed, or for no reason: the caller looks again.
pub(crate) fn wait_either(
    shared: &AtomicU32,
    shared_value: u32,
    private: &AtomicU32,
    private_value: u32,
    deadline: Deadline,
) -> Slept {
    static HAS_NO_WAITV: AtomicBool = AtomicBool::new(false);
    if !HAS_NO_WAITV.load(Ordering::Relaxed) {
        let words = [
            Word::new(shared, shared_value, Scope::Shared),
            Word::new(private, private_value, Scope::Private),
        ];
        let error = wait_any(&words, deadline).err().and_then(|error| error.raw_os_error());
        if !matches!(error, Some(libc::ENOSYS | libc::EPERM | libc::EINVAL)) {
            return Slept::of(error);
        }
        HAS_NO_WAITV.store(true, Ordering::Relaxed);
    }
    if private.load(Ordering::Acquire) == private_value {
        return wait(shared, shared_value, Scope::Shared, deadline.at_most(SLICE));
    }
    Slept::Ended
}

/// Sleeps until `word` is woken or has another value than `expected`, until the deadline has
/// passed, or for no reason.
pub(crate) fn wait(word: &AtomicU32, expected: u32, scope: Scope, deadline: Deadline) -> Slept {
    let timeout = deadline.timespec();
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // FUTEX_WAIT_BITSET takes an absolute deadline on the monotonic clock.
    let operation = scope.of(libc::FUTEX_WAIT_BITSET);
    // SAFETY: the address comes from a reference, and the timeout is null or a valid timespec;
    // the kernel only reads both.
    let woken = check(unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            operation,
            expected,
            timeout,
            ptr::null::<u32>(),
            libc::FUTEX_BITSET_MATCH_ANY,
        )
    });
    Slept::of(woken.err().and_then(|error| error.raw_os_error()))
}

/// Wakes all threads that sleep on `word`.
pub(crate) fn wake_all(word: &AtomicU32, scope: Scope) {
    wake(word, scope, i32::MAX);
}

/// Wakes one thread that sleeps on `word`.
pub(crate) fn wake_one(word: &AtomicU32, scope: Scope) {
    wake(word, scope, 1);
}

fn wake(word: &AtomicU32, scope: Scope, most: i32) {
    let operation = scope.of(libc::FUTEX_WAKE);
    // SAFETY: the address comes from a reference; a wake does not touch the memory.
    let _ = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, most) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_changed_word_or_a_passed_deadline_ends_a_wait_at_once() {
        let (shared, private) = (AtomicU32::new(1), AtomicU32::new(1));
        wait(&shared, 0, Scope::Shared, Deadline::NEVER);
        wait_either(&shared, 0, &private, 1, Deadline::NEVER);
        wait_either(&shared, 1, &private, 0, Deadline::NEVER);
        wait_either(&shared, 1, &private, 1, Deadline::after(Duration::ZERO));
        wait(&private, 1, Scope::Private, Deadline::after(Duration::from_millis(1)));
    }

    #[test]
    fn a_wake_reaches_all_that_sleep_on_the_word() {
        let words = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
        let waiters: Vec<_> = (0..4)
            .map(|_| {
                let words = Arc::clone(&words);
                std::thread::spawn(move || {
                    while words.0.load(Ordering::Acquire) == 0 {
                        wait_either(&words.0, 0, &words.1, 0, Deadline::NEVER);
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(5));
        words.0.store(1, Ordering::Release);
        wake_all(&words.0, Scope::Shared);
        for waiter in waiters {
            waiter.join().unwrap();
        }
    }

    #[test]
    fn a_wake_of_either_word_ends_a_wait() {
        for scope in [Scope::Shared, Scope::Private] {
            let words = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
            let theirs = Arc::clone(&words);
            let waiter = std::thread::spawn(move || {
                while theirs.0.load(Ordering::Acquire) + theirs.1.load(Ordering::Acquire) == 0 {
                    wait_either(&theirs.0, 0, &theirs.1, 0, Deadline::NEVER);
                }
            });
            std::thread::sleep(Duration::from_millis(5));
            let word = if scope == Scope::Private { &words.1 } else { &words.0 };
            word.store(1, Ordering::Release);
            wake_all(word, scope);
            waiter.join().unwrap();
        }
    }
}
