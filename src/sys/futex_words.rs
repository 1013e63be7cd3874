//! Waiting for one of many words, and waking a waiter.
#![allow(unsafe_code, reason = "futex system calls")]

use std::io;
use std::ptr;
use std::sync::atomic::AtomicU32;

use super::check;

/// The most words that one wait takes.
pub(crate) const MAX_WORDS: usize = 128;

/// Who waits on a word. Wait and wake must agree, or the wake is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Threads of this process only.
    Private,
    /// Any process that maps the memory.
    Shared,
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

/// Sleeps until one of the words is woken and returns its index, which is a hint.
///
/// # Errors
///
/// `WouldBlock` when a word does not have its expected value, `Interrupted` after a
/// signal, `ENOSYS` or `EPERM` where the kernel or a filter does not allow the call.
pub(crate) fn wait_any(words: &[Word<'_>]) -> io::Result<usize> {
    let no_timeout: *const libc::timespec = ptr::null();
    // SAFETY: `words` is an array of live entries in the kernel's layout; each address
    // comes from a reference, so that it is mapped for the whole call; the kernel only
    // reads the entries and the words.
    let index = check(unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            words.as_ptr(),
            words.len(),
            0_usize,
            no_timeout,
            libc::CLOCK_MONOTONIC,
        )
    })?;
    Ok(usize::try_from(index).unwrap_or(0))
}

/// Wakes one thread that waits on `word`.
pub(crate) fn wake_one(word: &AtomicU32, scope: Scope) {
    let operation = match scope {
        Scope::Private => libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
        Scope::Shared => libc::FUTEX_WAKE,
    };
    // SAFETY: the address comes from a reference; a wake does not touch the memory.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, 1) };
}
