//! A robust futex: a word in shared memory that the kernel marks, and wakes a waiter of, when
//! the thread that owns it ends in any way. It tells the parent of a worker's death.
//!
//! The kernel keeps the address of a list of such words for each thread. It walks the list
//! first when the thread ends, long before it frees the memory of the process. So the notice
//! comes at once, however big the process is. The head and the node of the list are private
//! memory. Only the word is shared; the list has its distance from the node, and no address is
//! ever shared.
#![allow(unsafe_code, reason = "registers memory with the kernel")]

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicIsize, AtomicPtr, AtomicU32, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::sys::check;
use crate::sys::futex::{Scope, wake_one};
use crate::sys::process::thread_id;

/// Returns whether the value of a robust futex says that its owner has died.
pub(crate) fn owner_died(value: u32) -> bool {
    value & libc::FUTEX_OWNER_DIED != 0
}

/// The kernel's `struct robust_list`.
#[repr(C)]
struct Node {
    next: AtomicPtr<Node>,
}

/// The kernel's `struct robust_list_head`. Its fields are atomics, as the kernel reads them at
/// any time at which the thread ends.
#[repr(C)]
struct Head {
    list: Node,
    futex_offset: AtomicIsize,
    list_op_pending: AtomicPtr<Node>,
}

const _: () = assert!(size_of::<Head>() == 24 && std::mem::offset_of!(Head, list) == 0);

struct RobustRegistration {
    head: Head,
    node: Node,
    word: Box<dyn Deref<Target = AtomicU32>>,
    /// The C library's list of this thread, which is registered again after a release.
    previous: (*mut Head, usize),
}

thread_local! {
    static IS_OWNER: Cell<bool> = const { Cell::new(false) };
}

/// The calling thread's ownership of a robust futex. It cannot leave its thread.
///
/// If it is dropped without [`release`](Self::release), as after a panic, the word stays
/// registered: the end of the thread then counts as a death. The memory is leaked, as the kernel
/// may read it until the thread has ended.
#[must_use = "its thread owns the word until it is released"]
pub(crate) struct RobustFutex {
    registration: NonNull<RobustRegistration>,
    _of_one_thread: PhantomData<*mut ()>,
}

impl RobustFutex {
    /// Makes the calling thread the owner of `word`, a handle that keeps the word mapped.
    /// Robust mutexes of the C library do not work in this thread until the word is released.
    /// An exec of the thread counts as its death.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] if the thread owns a word already, or the kernel or a system
    /// call filter does not allow it.
    pub(crate) fn claim<W>(word: W) -> Result<Self>
    where
        W: Deref<Target = AtomicU32> + 'static,
    {
        if IS_OWNER.get() {
            let message = "a thread can own one robust word only";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let unsupported =
            |e| Error::with_source(ErrorKind::Unsupported, "cannot register a robust word", e);
        let previous = robust_list().map_err(unsupported)?;
        let registration = Box::new(RobustRegistration {
            head: Head {
                list: Node { next: AtomicPtr::default() },
                futex_offset: AtomicIsize::new(0),
                list_op_pending: AtomicPtr::default(),
            },
            node: Node { next: AtomicPtr::default() },
            word: Box::new(word),
            previous,
        });
        let registration = NonNull::from(Box::leak(registration));
        // SAFETY: just leaked, so that it is live; nothing else has its address.
        let this = unsafe { registration.as_ref() };
        let word: &AtomicU32 = &this.word;
        let word_at = ptr::from_ref(word).expose_provenance();
        let node_at = ptr::from_ref(&this.node).expose_provenance();
        let distance = word_at.wrapping_sub(node_at).cast_signed();
        this.head.futex_offset.store(distance, Ordering::Relaxed);
        this.node.next.store(ptr::from_ref(&this.head.list).cast_mut(), Ordering::Relaxed);
        this.head.list.next.store(ptr::from_ref(&this.node).cast_mut(), Ordering::Release);
        let head = ptr::from_ref(&this.head).cast_mut();
        // SAFETY: the head and its one node are initialised, and stay leaked until another
        // list is in their place, or the thread is gone; the word they lead to is kept
        // mapped by the handle beside them.
        if let Err(error) = unsafe { set_robust_list(head, size_of::<Head>()) } {
            // SAFETY: leaked above, and the kernel has refused to know of it.
            drop(unsafe { Box::from_raw(registration.as_ptr()) });
            return Err(unsupported(error));
        }
        IS_OWNER.set(true);
        // After the registration: if the thread ends in between, the word stays unowned. In the
        // other order it would stay owned for ever. The kernel wakes waiters only if
        // FUTEX_WAITERS is set, and the waiters map the word read-only, so it is always set.
        // Release pairs with the Acquire load in `watch::WatchedWord::look`.
        word.store(thread_id() | libc::FUTEX_WAITERS, Ordering::Release);
        Ok(Self { registration, _of_one_thread: PhantomData })
    }

    /// Releases the word before a clean end: it becomes 0, and no death is noticed.
    pub(crate) fn release(self) {
        // SAFETY: leaked in `claim`, and freed below only.
        let this = unsafe { self.registration.as_ref() };
        let word: &AtomicU32 = &this.word;
        // The word first: the kernel marks a word that is still listed only if it holds the id
        // of the ending thread. `list_op_pending` is not needed, as no other thread takes this
        // word between the two steps. Release pairs with the Acquire load in
        // `watch::WatchedWord::look`.
        word.store(0, Ordering::Release);
        wake_one(word, Scope::Shared);
        let list = ptr::from_ref(&this.head.list).cast_mut();
        this.head.list.next.store(list, Ordering::Release);
        let (head, length) = this.previous;
        // SAFETY: this list was registered for this thread before, by the C library, which keeps
        // it as long as the thread lives.
        if unsafe { set_robust_list(head, length) }.is_ok() {
            // SAFETY: leaked in `claim`, by this thread, and unknown to the kernel now.
            drop(unsafe { Box::from_raw(self.registration.as_ptr()) });
            IS_OWNER.set(false);
        }
    }
}

/// Returns the calling thread's present list.
fn robust_list() -> io::Result<(*mut Head, usize)> {
    let mut head: *mut Head = ptr::null_mut();
    let mut length = 0_usize;
    // SAFETY: both places are live and have the size that the kernel writes; 0 is the
    // calling thread.
    check(unsafe {
        libc::syscall(libc::SYS_get_robust_list, 0_usize, &raw mut head, &raw mut length)
    })?;
    Ok((head, length))
}

/// # Safety
///
/// `head` is null, or a list that stays valid until it is replaced or the calling thread has
/// ended.
unsafe fn set_robust_list(head: *mut Head, length: usize) -> io::Result<()> {
    // SAFETY: the kernel only keeps the address; that it stays valid is the caller's promise.
    check(unsafe { libc::syscall(libc::SYS_set_robust_list, head, length) }).map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    fn word() -> Arc<AtomicU32> {
        Arc::new(AtomicU32::new(0))
    }

    fn value(word: &AtomicU32) -> u32 {
        word.load(Ordering::Acquire)
    }

    #[test]
    fn a_thread_that_ends_as_owner_leaves_the_mark_of_death() {
        let word = word();
        let theirs = Arc::clone(&word);
        thread::spawn(move || {
            {
                let _owner = RobustFutex::claim(Arc::clone(&theirs)).unwrap();
                assert_eq!(value(&theirs), thread_id() | libc::FUTEX_WAITERS);
            }
            assert!(!owner_died(value(&theirs)));
        })
        .join()
        .unwrap();
        // The join returns when the kernel has cleared the thread's id, which it does
        // after it has walked the list.
        assert!(owner_died(value(&word)));
    }

    #[test]
    fn a_panic_of_the_owner_is_a_death() {
        let word = word();
        let theirs = Arc::clone(&word);
        let owner = thread::spawn(move || {
            let _owner = RobustFutex::claim(theirs).unwrap();
            std::panic::resume_unwind(Box::new("on purpose"));
        });
        assert!(owner.join().is_err());
        assert!(owner_died(value(&word)));
    }

    #[test]
    fn a_released_word_is_zero_its_handle_is_dropped_and_another_can_follow() {
        let (first, second) = (word(), word());
        let theirs = (Arc::clone(&first), Arc::clone(&second));
        thread::spawn(move || {
            RobustFutex::claim(theirs.0).unwrap().release();
            RobustFutex::claim(theirs.1).unwrap().release();
        })
        .join()
        .unwrap();
        assert_eq!((value(&first), value(&second)), (0, 0));
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 1));
    }

    #[test]
    fn one_thread_owns_one_word() {
        thread::spawn(|| {
            let owner = RobustFutex::claim(word()).unwrap();
            let error = RobustFutex::claim(word()).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            owner.release();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn robust_mutexes_of_the_c_library_work_again_after_a_release() {
        thread::spawn(|| {
            let before = robust_list().unwrap();
            RobustFutex::claim(word()).unwrap().release();
            assert!(before == robust_list().unwrap());
        })
        .join()
        .unwrap();
    }
}
