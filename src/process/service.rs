//! The library's own threads: how they are started. They take no part in the host's signal
//! handling or processor placement.

use std::ffi::CStr;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread;

use crate::sync::plain::before_lock;
use crate::sys::fork;
use crate::sys::process as system;
use crate::sys::signal::SignalSet;
use crate::sys::thread as small_thread;

/// Locks a mutex, also after a thread has panicked with it. That is sound for the locks of this
/// module: all callbacks run unlocked, so a panic leaves no state half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    before_lock();
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a service thread. It inherits neither the signal mask nor the processors of the
/// calling thread.
pub(crate) fn start_thread(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new().name(name.to_owned());
    // Blocked before the thread starts: otherwise the kernel could deliver a signal to the new
    // thread before it has blocked them itself.
    let before = service_mask().set_as_mask()?;
    let started = builder.spawn(move || {
        use_the_affinity_of_the_process();
        body();
    });
    before.set_as_mask()?;
    started.map(drop)
}

/// Starts a service thread with a small stack and without a heap of its own, for a body that does not
/// allocate. It has no priority over threads of the host, whichever of them starts it.
pub(crate) fn start_small_thread(body: fn()) -> io::Result<()> {
    let before = service_mask().set_as_mask()?;
    let started = small_thread::start(body);
    before.set_as_mask()?;
    started
}

/// What the body of a small thread is to call first.
pub(crate) fn begin_small_thread(name: &CStr) {
    // Best effort, as below: a thread that has no name, or more priority, works as well.
    let _ = system::set_thread_name(name);
    if system::nice() < 0 {
        let _ = system::set_nice(0);
    }
    use_the_affinity_of_the_process();
}

/// Runs `job` on a short-lived thread of its own, so that a callback of the host's, or a file
/// system that does not answer, does not block the caller. If no thread can be started, `job`
/// runs on the calling thread: it must run in any case.
pub(crate) fn run_detached(name: &str, job: impl FnOnce() + Send + 'static) {
    let job = Arc::new(Mutex::new(Some(job)));
    let theirs = Arc::clone(&job);
    if start_thread(name, move || run_once(&theirs)).is_err() {
        run_once(&job);
    }
}

/// Wakes tasks, in order, on a short-lived thread of their own, for a thread that serves all
/// workers. A waker is the executor's code: one that blocks then delays these tasks alone, and
/// not the news of other workers' ends. Does nothing in a forked child, whose tasks are not its
/// own.
#[allow(dead_code, reason = "only the feature `async` has tasks")]
pub(crate) fn wake_tasks(wakers: Vec<Waker>) {
    if wakers.is_empty() || fork::is_forked_child() {
        return;
    }
    run_detached("slipring-wake", move || wakers.into_iter().for_each(wake_task));
}

/// Wakes a task. A waker is the executor's code: a panic of it, which the panic hook has shown, must
/// neither keep others asleep nor end what the thread was at.
pub(crate) fn wake_task(waker: Waker) {
    let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
}

fn run_once<F: FnOnce()>(job: &Mutex<Option<F>>) {
    let job = lock(job).take();
    if let Some(job) = job {
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

/// The signals that a service thread blocks: all but those that a thread raises by a fault of
/// its own. So the host's handlers run on the host's threads, and the host's crash handler
/// still reports a fault of a service thread.
pub(crate) fn service_mask() -> SignalSet {
    let mut mask = SignalSet::full();
    for fault in
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS]
    {
        mask.remove(fault);
    }
    mask
}

/// Gives the calling thread the affinity of the main thread, which is the process's own. A
/// thread otherwise inherits that of the thread that started it, and hands it on to every worker
/// that it starts.
fn use_the_affinity_of_the_process() {
    if let Ok(mask) = system::affinity(process::id()) {
        // Best effort: if the change is not allowed, the thread keeps the affinity that it has.
        let _ = system::set_affinity(&mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::testing::{alone, blocked_signals, eventually, forbid};

    #[test]
    fn a_service_thread_blocks_all_signals_but_faults_and_its_starter_none() {
        let (tell, told) = std::sync::mpsc::channel();
        start_thread("slipring-test", move || tell.send(blocked_signals()).unwrap()).unwrap();
        let blocked = told.recv().unwrap();
        for signal in [libc::SIGTERM, libc::SIGCHLD, libc::SIGALRM, libc::SIGUSR1] {
            assert!(blocked.contains(&signal) && !blocked_signals().contains(&signal), "{signal}");
        }
        assert!(!blocked.contains(&libc::SIGSEGV));
    }

    #[test]
    fn a_detached_job_does_not_block_its_caller_and_runs_without_a_thread() {
        alone(|| {
            let (tell, told) = std::sync::mpsc::channel();
            let (go, gone) = std::sync::mpsc::channel::<()>();
            run_detached("slipring-test", move || {
                gone.recv().unwrap();
                tell.send(thread::current().id()).unwrap();
            });
            assert!(told.try_recv().is_err());
            go.send(()).unwrap();
            assert_ne!(told.recv().unwrap(), thread::current().id());
            run_detached("slipring-test", || std::panic::resume_unwind(Box::new("on purpose")));

            let (tell, told) = std::sync::mpsc::channel();
            forbid([libc::SYS_clone3, libc::SYS_clone], libc::EAGAIN);
            run_detached("slipring-test", move || tell.send(thread::current().id()).unwrap());
            assert_eq!(told.recv().unwrap(), thread::current().id());
        });
    }

    #[test]
    fn a_service_thread_is_not_bound_to_the_processor_of_its_starter() {
        let whole = system::affinity(process::id()).unwrap();
        let bound = thread::spawn(|| {
            let mut first = system::NO_CPUS;
            first[0] = 1;
            system::set_affinity(&first).unwrap();
            let (tell, told) = std::sync::mpsc::channel();
            start_thread("slipring-test", move || tell.send(system::affinity(0)).unwrap()).unwrap();
            told.recv().unwrap().unwrap()
        });
        assert!(bound.join().unwrap() == whole);
    }

    #[test]
    fn a_small_thread_takes_nothing_over_from_its_starter() {
        static TOLD: Mutex<Option<(Vec<i32>, bool, i32)>> = Mutex::new(None);
        thread::spawn(|| {
            let mut first = system::NO_CPUS;
            first[0] = 1;
            system::set_affinity(&first).unwrap();
            start_small_thread(|| {
                begin_small_thread(c"slipring-small");
                let is_whole =
                    system::affinity(0).unwrap() == system::affinity(process::id()).unwrap();
                *lock(&TOLD) = Some((blocked_signals(), is_whole, system::nice()));
            })
            .unwrap();
        });
        eventually("the thread has told", || lock(&TOLD).is_some());
        let (blocked, is_whole, nice) = lock(&TOLD).take().unwrap();
        assert!(blocked.contains(&libc::SIGTERM) && !blocked.contains(&libc::SIGSEGV));
        assert!(is_whole && nice >= 0, "{nice}");
    }
}
