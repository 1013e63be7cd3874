//! Sleeping on words of shared memory and waking who sleeps there.
//!
//! Shared words are never waited on with the PRIVATE flag: the kernel would then
//! look for the waiter in this process only, and the wake-up would be lost.
#![allow(unsafe_code, reason = "futex system calls")]

use super::clock::Deadline;
use crate::sync::AtomicU32;

#[cfg(not(loom))]
pub(crate) use kernel::{wait_either, wake};
#[cfg(loom)]
pub(crate) use model::{wait_either, wake};

#[cfg(not(loom))]
mod kernel {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::{AtomicU32, Deadline};

    const SIZE_U32: u32 = 2;
    const PRIVATE: u32 = 128;
    /// How often a wait without `FUTEX_WAITV` looks at its private word.
    const SLICE: Duration = Duration::from_millis(100);

    static NO_WAITV: AtomicBool = AtomicBool::new(false);

    #[repr(C)]
    struct Waiter {
        value: u64,
        address: u64,
        flags: u32,
        reserved: u32,
    }

    impl Waiter {
        fn new(word: &AtomicU32, value: u32, flags: u32) -> Self {
            let address = u64::try_from(word.as_ptr().addr()).unwrap_or(0);
            Self { value: u64::from(value), address, flags: SIZE_U32 | flags, reserved: 0 }
        }
    }

    /// Sleeps until `shared` is not `value`, somebody wakes it, the deadline passes, or
    /// for no reason: callers look again.
    pub(super) fn wait(shared: &AtomicU32, value: u32, deadline: Deadline) {
        let timeout = deadline.timespec();
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // FUTEX_WAIT_BITSET takes an absolute deadline on the monotonic clock.
        // SAFETY: `shared` is a live aligned word, `timeout` is null or a valid timespec;
        // the kernel only reads both.
        let _ = unsafe {
            libc::syscall(
                libc::SYS_futex,
                shared.as_ptr(),
                libc::FUTEX_WAIT_BITSET,
                value,
                timeout,
                std::ptr::null::<u32>(),
                libc::FUTEX_BITSET_MATCH_ANY,
            )
        };
    }

    /// Sleeps until `shared` is not `shared_value`, `private` is not `private_value`, a
    /// wake of either, the deadline, or for no reason.
    pub(crate) fn wait_either(
        shared: &AtomicU32,
        shared_value: u32,
        private: &AtomicU32,
        private_value: u32,
        deadline: Deadline,
    ) {
        if !NO_WAITV.load(Ordering::Relaxed) {
            let waiters = [
                Waiter::new(shared, shared_value, 0),
                Waiter::new(private, private_value, PRIVATE),
            ];
            if waitv(&waiters, deadline) {
                return;
            }
            NO_WAITV.store(true, Ordering::Relaxed);
        }
        if private.load(Ordering::Acquire) == private_value {
            wait(shared, shared_value, deadline.at_most(SLICE));
        }
    }

    /// Whether the kernel knows the call.
    fn waitv(waiters: &[Waiter; 2], deadline: Deadline) -> bool {
        let timeout = deadline.timespec();
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: two valid waiters whose words are live, and null or a valid timespec; the
        // kernel only reads them.
        let woken = unsafe {
            libc::syscall(
                libc::SYS_futex_waitv,
                waiters.as_ptr(),
                waiters.len(),
                0,
                timeout,
                libc::CLOCK_MONOTONIC,
            )
        };
        if woken >= 0 {
            return true;
        }
        let error = std::io::Error::last_os_error().raw_os_error();
        !matches!(error, Some(libc::ENOSYS | libc::EPERM | libc::EINVAL))
    }

    /// Wakes all that sleep on `word`, in any process; `private` must be what they
    /// waited with.
    pub(crate) fn wake(word: &AtomicU32, private: bool) {
        let flag = if private { libc::FUTEX_PRIVATE_FLAG } else { 0 };
        // SAFETY: `word` is a live aligned word; the kernel uses its address only.
        let _ = unsafe {
            libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | flag, i32::MAX)
        };
    }
}

#[cfg(loom)]
mod model {
    //! The kernel's promises, for the model checker: comparing the words and going to
    //! sleep is one step with respect to a wake; a wake reaches those who sleep on that
    //! very word with that very flag, and nobody else. It is stricter than the kernel, in
    //! that nobody wakes for no reason: then no lost wake-up is made good by luck. A wait
    //! with a deadline ends by it.
    #![allow(clippy::unwrap_used, reason = "model checking only")]

    use loom::sync::{Condvar, Mutex};

    use super::{AtomicU32, Deadline};
    use crate::sync::Ordering;
    use crate::sync::mutant::{Mutant, chosen};

    /// A word's address, and whether its waiters are of this process only.
    type Key = (usize, bool);

    #[derive(Default)]
    struct Queue {
        /// Who sleeps, by ticket, and on what.
        sleepers: Vec<(u64, [Key; 2])>,
        next_ticket: u64,
    }

    loom::lazy_static! {
        static ref QUEUE: (Mutex<Queue>, Condvar) = (Mutex::default(), Condvar::new());
    }

    fn key(word: &AtomicU32, private: bool) -> Key {
        (std::ptr::from_ref(word).addr(), private)
    }

    pub(crate) fn wait_either(
        shared: &AtomicU32,
        shared_value: u32,
        private: &AtomicU32,
        private_value: u32,
        deadline: Deadline,
    ) {
        let mut queue = QUEUE.0.lock().unwrap();
        let is_alarm_ignored = chosen(Mutant::AlarmNotWaitedOn);
        let same = shared.load(Ordering::Relaxed) == shared_value
            && (is_alarm_ignored || private.load(Ordering::Relaxed) == private_value);
        if !same {
            return;
        }
        if !deadline.is_endless() {
            return crate::sync::pass(deadline.remaining());
        }
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        let own = key(shared, false);
        let other = if is_alarm_ignored { own } else { key(private, true) };
        queue.sleepers.push((ticket, [own, other]));
        while queue.sleepers.iter().any(|(sleeper, _)| *sleeper == ticket) {
            queue = QUEUE.1.wait(queue).unwrap();
        }
    }

    pub(crate) fn wake(word: &AtomicU32, private: bool) {
        let mut queue = QUEUE.0.lock().unwrap();
        let word = key(word, private);
        let mut woken = 0;
        queue.sleepers.retain(|(_, keys)| {
            let is_woken = keys.contains(&word) && !(woken == 1 && chosen(Mutant::WakeOne));
            woken += u32::from(is_woken);
            !is_woken
        });
        drop(queue);
        QUEUE.1.notify_all();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::kernel::wait;
    use super::*;
    use crate::sync::Ordering;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn a_changed_word_or_a_passed_deadline_ends_a_wait_at_once() {
        let (shared, private) = (AtomicU32::new(1), AtomicU32::new(1));
        wait(&shared, 0, Deadline::NEVER);
        wait_either(&shared, 0, &private, 1, Deadline::NEVER);
        wait_either(&shared, 1, &private, 0, Deadline::NEVER);
        wait_either(&shared, 1, &private, 1, Deadline::after(Duration::ZERO));
        wait(&shared, 1, Deadline::after(Duration::from_millis(1)));
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
        wake(&words.0, false);
        for waiter in waiters {
            waiter.join().unwrap();
        }
    }

    #[test]
    fn a_wake_of_either_word_ends_a_wait() {
        for private_one in [false, true] {
            let words = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
            let theirs = Arc::clone(&words);
            let waiter = std::thread::spawn(move || {
                while theirs.0.load(Ordering::Acquire) + theirs.1.load(Ordering::Acquire) == 0 {
                    wait_either(&theirs.0, 0, &theirs.1, 0, Deadline::NEVER);
                }
            });
            std::thread::sleep(Duration::from_millis(5));
            let word = if private_one { &words.1 } else { &words.0 };
            word.store(1, Ordering::Release);
            wake(word, private_one);
            waiter.join().unwrap();
        }
    }
}
