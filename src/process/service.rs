//! What the library's own threads have in common: they belong to one process, and they
//! take no part in the host's signal handling or processor placement.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::sys::process as system;
use crate::sys::signal::SignalSet;

/// The process that a service lives in. A fork takes the service's memory along, with
/// its locks in whatever state, but not its thread: there the service is not at home.
#[derive(Debug)]
pub(crate) struct Home(AtomicU32);

impl Home {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Whether the service belongs to this process; the first process that asks owns it.
    /// Ask before taking any lock of the service.
    pub(crate) fn is_here(&self) -> bool {
        let here = process::id();
        // Relaxed: the word carries nothing but itself, and within one process it is
        // written once.
        match self.0.compare_exchange(0, here, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(owner) => owner == here,
        }
    }
}

/// Locks in spite of a panic elsewhere: no state behind these locks is ever left half
/// changed by a callback, which all run unlocked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a thread that lasts as long as the process.
pub(crate) fn start_thread(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new().name(name.to_owned());
    // Blocked by the starter, so that there is no moment in which the new thread could be
    // picked for a signal.
    let before = service_mask().set_as_mask()?;
    let started = builder.spawn(move || {
        leave_the_starters_processors();
        body();
    });
    before.set_as_mask()?;
    started.map(drop)
}

/// Runs `job` on a thread of its own, so that nothing that it does holds up the caller: a
/// callback of the host's, or a file system that does not answer. Where no thread can be had
/// it runs here, as it must run.
pub(crate) fn run_apart(name: &str, job: impl FnOnce() + Send + 'static) {
    let job = Arc::new(Mutex::new(Some(job)));
    let theirs = Arc::clone(&job);
    if start_thread(name, move || run_once(&theirs)).is_err() {
        run_once(&job);
    }
}

fn run_once<F: FnOnce()>(job: &Mutex<Option<F>>) {
    let job = lock(job).take();
    if let Some(job) = job {
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

/// All signals, so that the host's handlers run on the host's threads, except those that
/// a thread raises against itself by a fault: blocking these would turn a report of the
/// host's crash handler into a silent death.
pub(crate) fn service_mask() -> SignalSet {
    let mut mask = SignalSet::full();
    for fault in
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS]
    {
        mask.remove(fault);
    }
    mask
}

/// A thread inherits the processors of whoever happened to start it, and so would every
/// worker started from it. The main thread's are the process's own.
fn leave_the_starters_processors() {
    if let Ok(mask) = system::affinity(process::id()) {
        // Best effort: a forbidden change leaves the thread where it is.
        let _ = system::set_affinity(&mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::limits;
    use crate::process::testing::{alone, forbid};

    #[test]
    fn a_service_is_at_home_in_the_process_that_asked_first() {
        let home = Home::new();
        assert!(home.is_here() && home.is_here());
        assert!(!Home(AtomicU32::new(1)).is_here());
    }

    #[test]
    fn a_service_thread_blocks_all_signals_but_faults_and_leaves_the_starters_mask_alone() {
        let (tell, told) = std::sync::mpsc::channel();
        start_thread("slipring-test", move || tell.send(SignalSet::of_thread()).unwrap()).unwrap();
        let mask = told.recv().unwrap();
        for signal in [libc::SIGTERM, libc::SIGCHLD, libc::SIGALRM, libc::SIGUSR1] {
            assert!(mask.has(signal) && !SignalSet::of_thread().has(signal), "{signal}");
        }
        assert!(!mask.has(libc::SIGSEGV));
    }

    #[test]
    fn what_runs_apart_holds_up_nobody_and_runs_even_without_a_thread() {
        alone(|| {
            let (tell, told) = std::sync::mpsc::channel();
            let (go, gone) = std::sync::mpsc::channel::<()>();
            run_apart("slipring-test", move || {
                gone.recv().unwrap();
                tell.send(thread::current().id()).unwrap();
            });
            assert!(told.try_recv().is_err());
            go.send(()).unwrap();
            assert_ne!(told.recv().unwrap(), thread::current().id());
            run_apart("slipring-test", || std::panic::resume_unwind(Box::new("on purpose")));

            let (tell, told) = std::sync::mpsc::channel();
            forbid([libc::SYS_clone3, libc::SYS_clone], libc::EAGAIN);
            run_apart("slipring-test", move || tell.send(thread::current().id()).unwrap());
            assert_eq!(told.recv().unwrap(), thread::current().id());
        });
    }

    #[test]
    fn a_service_thread_is_not_bound_to_the_processor_of_its_starter() {
        let whole = system::affinity(process::id()).unwrap();
        let bound = thread::spawn(|| {
            limits::affinity(&[0]).unwrap();
            let (tell, told) = std::sync::mpsc::channel();
            start_thread("slipring-test", move || tell.send(system::affinity(0)).unwrap()).unwrap();
            told.recv().unwrap().unwrap()
        });
        assert!(bound.join().unwrap() == whole);
    }
}
