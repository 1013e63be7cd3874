//! Forks of a process that has mapped regions: how they are noticed, and kept from the regions.
//!
//! A forked child inherits every handle that its parent had: pointers into the regions, slices
//! of slots that are being filled, locks that threads of the parent hold. Two things make that
//! harmless.
//!
//! * One byte says whether this is the process that was set up. The kernel wipes its page in
//!   every kind of forked child, so that a check costs one comparison; asking for the process id
//!   would be a system call for every request. Each operation checks it before it takes a lock or
//!   touches a ring.
//! * In the child, the maps that the parent writes are replaced by private memory at the same
//!   addresses, before the child runs any code of its own. So nothing that the child writes by an
//!   inherited pointer can reach the peer, and nothing that it allocates can come to lie there.
//!   The maps that the peer writes are read-only, and stay: replies that the child inherited lie
//!   in them.
//!
//! A `pthread_atfork` handler does the second. A child that is made by the bare system call,
//! which runs no handlers, has only the first and still shares the maps.
#![allow(unsafe_code, reason = "pthread_atfork, madvise, and memory that is put over a map")]

use std::cell::Cell;
use std::io;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::arch::Page;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::plain::before_lock;

/// Returns an error in a process that was forked from one that has used the library.
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

/// The state of the set-up: not begun, done, or the id of the process that is at it. A lock of
/// the standard library would not do: a forked child would wait for ever for a thread that it does
/// not have.
static SETUP: AtomicU32 = AtomicU32::new(NOT_BEGUN);
/// No process has this id.
const NOT_BEGUN: u32 = 0;
/// No process has this id.
const DONE: u32 = u32::MAX;

/// The maps in whose place forked children get private memory.
static KEPT: Mutex<Vec<Span>> = Mutex::new(Vec::new());

thread_local! {
    /// The lock of the list, which a thread that forks holds from before the fork until after
    /// it, on both sides, so that the list is whole in the child.
    static HELD: Cell<Option<ManuallyDrop<MutexGuard<'static, Vec<Span>>>>> =
        const { Cell::new(None) };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: usize,
    len: usize,
}

/// Whether this process was forked, without exec, from one that has used the library. The answer
/// is about things that were made after [`watch`] had returned; before that it is always true.
#[inline]
pub(crate) fn is_forked_child() -> bool {
    if cfg!(test) && SETUP.load(Ordering::Relaxed) == NOT_BEGUN {
        // Unit tests make parts of a channel without the regions, for which this is set up.
        let _ = watch();
    }
    PLACE.0.load(Ordering::Relaxed) != HERE
}

/// Sets this process up, so that its forked children notice what they are. To be called before
/// anything exists that a child could inherit. Blocks for some microseconds at most.
///
/// # Errors
///
/// [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a forked child;
/// [`ErrorKind::Os`](crate::ErrorKind::Os) if memory runs out.
pub(crate) fn watch() -> Result<()> {
    let this = std::process::id();
    loop {
        match SETUP.compare_exchange(NOT_BEGUN, this, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => {
                let done = set_up();
                let next = if done.is_ok() { DONE } else { NOT_BEGUN };
                // Pairs with the Acquire loads above: a thread that sees DONE sees the byte.
                SETUP.store(next, Ordering::Release);
                return done;
            }
            Err(DONE) => return check(),
            // Another thread of this process is setting up.
            Err(process) if process == this => std::thread::yield_now(),
            // A thread was setting up in the process of which this one is a fork.
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
    // If the kernel refuses, as under a system call filter, the handlers alone clear the byte.
    let page = ptr::from_ref(&PLACE).cast_mut().cast();
    // SAFETY: the range is exactly the pages of a static that nothing else lies in; what a
    // child finds there are zeros, which are valid for it.
    let _ = unsafe { libc::madvise(page, size_of_val(&PLACE), libc::MADV_WIPEONFORK) };
    PLACE.0.store(HERE, Ordering::Relaxed);
    Ok(())
}

fn lock() -> MutexGuard<'static, Vec<Span>> {
    before_lock();
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
    // They are this process's own now: its forks may share them.
    kept.clear();
}

/// Puts private zeros over a map. If that fails, as it may under a limit on memory, the map stays
/// shared, and the checks of all operations remain.
fn replace(start: *mut libc::c_void, len: usize) {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let how = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the range is a map of this process that is in the list, so that its owner
    // has not unmapped it. Nothing depends on the bytes in it: see `keep`.
    let _ = unsafe { libc::mmap(start, len, protection, how, -1, 0) };
}

/// An entry in the list of maps. Dropping it removes the entry.
#[derive(Debug)]
#[must_use]
pub(crate) struct Kept(Span);

/// Gives forked children private zeros in the place of a map that this process writes.
///
/// # Safety
///
/// The pages from `start` on are one or more whole maps of this process, and stay mapped
/// until the result is dropped. Code that reads there must cope with any bytes.
pub(crate) unsafe fn keep(start: NonNull<u8>, len: usize) -> Kept {
    let span = Span { start: start.as_ptr().expose_provenance(), len };
    lock().push(span);
    Kept(span)
}

impl Drop for Kept {
    fn drop(&mut self) {
        // In a forked child the list is empty. In one that the bare system call has made, the
        // lock can be held by a thread that does not exist.
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
            SETUP.store(NOT_BEGUN, Ordering::Relaxed);
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
