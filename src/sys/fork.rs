//! Noticing that this process is a fork of the one that mapped the regions, and keeping it
//! from them.
//!
//! A forked child inherits every handle that its parent had: pointers into the regions,
//! slices of slots that are being filled, locks that threads of the parent hold. Two things
//! make that harmless.
//!
//! * One byte says which process this is. The kernel wipes its page in every kind of forked
//!   child, so that looking costs one comparison; asking for the process id would be a system
//!   call for every request. Operations look at it before they take a lock or touch a ring.
//! * What this process writes is replaced in the child, before the child runs any code of
//!   its own, by private memory at the same addresses. So nothing that the child still
//!   writes by an inherited pointer can reach the peer, and nothing that it allocates can
//!   come to lie there. What the peer writes is mapped read-only, and stays: replies that
//!   the child inherited lie in it.
//!
//! The second is the work of a `pthread_atfork` handler. A child that was made by the bare
//! system call, which runs no handlers, still shares the map, and has the first alone.
#![allow(unsafe_code, reason = "pthread_atfork, madvise, and memory that is put over a map")]

use std::cell::Cell;
use std::io;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::arch::Page;
use crate::error::{Error, ErrorKind, Result};

/// An error in a process that was forked from one that has used the library.
///
/// # Errors
///
/// [`ErrorKind::Forked`].
#[inline]
pub(crate) fn check() -> Result<()> {
    if is_forked_child() { forked() } else { Ok(()) }
}

#[cold]
fn forked() -> Result<()> {
    Err(Error::new(
        ErrorKind::Forked,
        "workers belong to the process that was forked; a fork of it must exec before it can \
         have its own",
    ))
}

/// [`HERE`] in the process that was set up, zero in its forked children.
static PLACE: Page<AtomicU8> = Page(AtomicU8::new(0));
const HERE: u8 = 1;

/// Who sets this up: nobody yet, the process with this id, or it is done. Not a lock of
/// the standard library: a forked child would wait for ever for a thread that is not there.
static SETUP: AtomicU32 = AtomicU32::new(NOBODY);
const NOBODY: u32 = 0;
/// No process has this id.
const DONE: u32 = u32::MAX;

/// Maps that forked children get private memory in the place of.
static KEPT: Mutex<Vec<Span>> = Mutex::new(Vec::new());

thread_local! {
    /// Held by the thread that forks from before the fork until after it, on both sides,
    /// so that the list is whole in the child.
    static HELD: Cell<Option<ManuallyDrop<MutexGuard<'static, Vec<Span>>>>> =
        const { Cell::new(None) };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: usize,
    len: usize,
}

/// Whether this process was forked, without exec, from one that has used the library. To
/// be asked about what was made after [`watch`] had returned: before that it is always true.
#[inline]
pub(crate) fn is_forked_child() -> bool {
    if cfg!(test) && SETUP.load(Ordering::Relaxed) == NOBODY {
        // Unit tests make parts without the memory that they stand on.
        let _ = watch();
    }
    PLACE.0.load(Ordering::Relaxed) != HERE
}

/// Makes forked children notice that they are; to be called before anything that a child
/// could inherit exists. Blocks for some microseconds at most.
///
/// # Errors
///
/// [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a forked child;
/// [`ErrorKind::Os`](crate::ErrorKind::Os) if memory runs out.
pub(crate) fn watch() -> Result<()> {
    let this = std::process::id();
    loop {
        match SETUP.compare_exchange(NOBODY, this, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => {
                let done = set_up();
                let next = if done.is_ok() { DONE } else { NOBODY };
                // Pairs with the Acquire loads: who sees it sees the byte.
                SETUP.store(next, Ordering::Release);
                return done;
            }
            Err(DONE) => return check(),
            // Another thread is at it.
            Err(process) if process == this => std::thread::yield_now(),
            // It was, in the process that this one is a fork of.
            Err(_) => return forked(),
        }
    }
}

fn set_up() -> Result<()> {
    // SAFETY: functions that live as long as the code that they are part of; the C library
    // forgets them when it unloads that.
    let code = unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
    if code != 0 {
        let error = io::Error::from_raw_os_error(code);
        return Err(Error::os("cannot have forks of this process looked after", error));
    }
    // If it cannot be had, as under a system call filter, the handlers alone clear the byte.
    let page = ptr::from_ref(&PLACE).cast_mut().cast();
    // SAFETY: the range is exactly the pages of a static that nothing else lies in; what a
    // child finds there are zeros, which are valid for it.
    let _ = unsafe { libc::madvise(page, size_of_val(&PLACE), libc::MADV_WIPEONFORK) };
    PLACE.0.store(HERE, Ordering::Relaxed);
    Ok(())
}

fn lock() -> MutexGuard<'static, Vec<Span>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn release() -> Option<MutexGuard<'static, Vec<Span>>> {
    HELD.take().map(ManuallyDrop::into_inner)
}

extern "C" fn before_fork() {
    HELD.set(Some(ManuallyDrop::new(lock())));
}

extern "C" fn in_parent() {
    drop(release());
}

extern "C" fn in_child() {
    PLACE.0.store(0, Ordering::Relaxed);
    let Some(mut kept) = release() else { return };
    for Span { start, len } in &*kept {
        replace(ptr::with_exposed_provenance_mut(*start), *len);
    }
    // They are not the parent's any more, and a fork of this process may have them.
    kept.clear();
}

/// Puts private zeros over a map. Where that is not allowed, as it may be under a limit on
/// memory, the map stays shared, and the checks of all operations remain.
fn replace(start: *mut libc::c_void, len: usize) {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let how = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the range is a map of this process that is in the list, so that its owner
    // has not unmapped it. Nothing depends on the bytes in it: see `keep`.
    let _ = unsafe { libc::mmap(start, len, protection, how, -1, 0) };
}

/// A map in the list; dropping this takes it out.
#[derive(Debug)]
#[must_use]
pub(crate) struct Kept(Span);

/// Has forked children find private zeros in the place of a map that this process writes.
///
/// # Safety
///
/// The pages from `start` on are one or more whole maps of this process, and stay mapped
/// until what is returned is dropped. Whoever reads there must cope with any bytes.
pub(crate) unsafe fn keep(start: NonNull<u8>, len: usize) -> Kept {
    let span = Span { start: start.as_ptr().expose_provenance(), len };
    lock().push(span);
    Kept(span)
}

impl Drop for Kept {
    fn drop(&mut self) {
        // In a forked child the list is empty; and by the bare system call that made it,
        // the lock may be held by a thread that is not there.
        if is_forked_child() {
            return;
        }
        let mut kept = lock();
        if let Some(index) = kept.iter().position(|span| *span == self.0) {
            kept.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::process::testing::{alone, fork};

    /// Forks by the bare system call, and returns the exit code of `child`.
    fn bare_fork(child: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the child only runs `child` and leaves without any clean-up.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
        if pid == 0 {
            let code = child();
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        let pid = i32::try_from(pid).unwrap();
        // SAFETY: `status` has room for what the call writes.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert!(libc::WIFEXITED(status), "{status:#x}");
        libc::WEXITSTATUS(status)
    }

    #[test]
    fn a_child_notices_however_it_was_forked_and_its_parent_is_none() {
        alone(|| {
            assert_eq!(fork(|| i32::from(watch().is_ok())), 1, "there is nothing to inherit");
            watch().unwrap();
            watch().unwrap();
            assert!(!is_forked_child());
            let seen = || i32::from(is_forked_child() && watch().is_err());
            assert_eq!((fork(seen), bare_fork(seen)), (1, 1));
            let grandchild = || fork(seen);
            assert_eq!(fork(grandchild), 1);
            assert!(!is_forked_child());
        });
    }

    #[test]
    fn a_fork_while_another_thread_sets_up_does_not_wait_for_it() {
        alone(|| {
            SETUP.store(std::process::id(), Ordering::Relaxed);
            let code = fork(|| {
                let error = watch().unwrap_err();
                i32::from(error.kind() == crate::ErrorKind::Forked)
            });
            assert_eq!(code, 1);
            SETUP.store(NOBODY, Ordering::Relaxed);
            watch().unwrap();
        });
    }

    #[test]
    fn a_kept_map_is_private_zeros_in_a_child_and_none_once_it_is_given_up() {
        alone(|| {
            watch().unwrap();
            let map = memmap2::MmapOptions::new().len(8192).map_anon().unwrap();
            let start = NonNull::new(map.as_ptr().cast_mut()).unwrap();
            // SAFETY: the map's own first byte, which nothing else refers to.
            let byte = unsafe { start.cast::<AtomicU8>().as_ref() };
            byte.store(7, Ordering::Relaxed);
            // SAFETY: a whole map, which outlives what is returned.
            let kept = unsafe { keep(start, 8192) };
            let code = fork(|| {
                let found = byte.swap(9, Ordering::Relaxed);
                // Its own: the child of the child has a copy of it.
                let inherited = fork(|| i32::from(byte.load(Ordering::Relaxed)));
                i32::from(found) + 10 * inherited
            });
            assert_eq!((code, byte.load(Ordering::Relaxed)), (90, 7));
            drop(kept);
            assert_eq!(fork(|| i32::from(byte.load(Ordering::Relaxed))), 7);
            assert!(lock().is_empty());
        });
    }
}
