//! Tests of the thread of the status page.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::super::{RoleNumbers, host};
use super::*;
use crate::process::testing::{alone, forbid, lock_memory, status_kib, threads_named};

/// Describes itself as idle.
struct Idle;

impl Source for Idle {
    fn look(&self, _: bool) -> Option<u64> {
        Some(7)
    }

    fn describe(&self, block: &mut Block, now: u64) -> Option<()> {
        block.set_role(&RoleNumbers::default(), now);
        Some(())
    }

    fn release(self: Arc<Self>) {}
}

impl Drop for Idle {
    fn drop(&mut self) {
        remove(self);
    }
}

/// Describes itself as often as it is listed.
fn add_to_page<S: Source + 'static>(source: &Arc<S>) {
    let weak: Weak<dyn Source> = Arc::<S>::downgrade(source);
    add(weak);
}

fn rows() -> Option<usize> {
    host(std::process::id()).unwrap().map(|host| host.rows.len())
}

fn until(is_so: impl Fn() -> bool) {
    let deadline = Deadline::after(Duration::from_secs(60));
    while !is_so() {
        assert!(!deadline.has_passed());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn has_thread() -> bool {
    threads_named("slipring-status") != 0
}

#[test]
fn what_is_gone_leaves_the_page_and_the_last_one_ends_it() {
    alone(|| {
        fork::watch().unwrap();
        let (one, other) = (Arc::new(Idle), Arc::new(Idle));
        (0..2500).for_each(|_| add_to_page(&one));
        add_to_page(&other);
        until(|| rows() == Some(BLOCKS));
        // A round that began before the last of them has counted less.
        until(|| host(std::process::id()).unwrap().unwrap().omitted == 453);
        drop(one);
        until(|| rows() == Some(1));
        drop(other);
        until(|| rows().is_none() && !has_thread());
        // And again.
        let again = Arc::new(Idle);
        add_to_page(&again);
        until(|| rows() == Some(1));
        turn_off();
        assert_eq!(rows(), None);
        add_to_page(&again);
        assert_eq!(rows(), None);
        until(|| !has_thread());
    });
}

#[test]
fn a_process_that_may_not_have_a_thread_or_a_memfd_has_no_page() {
    alone(|| {
        fork::watch().unwrap();
        forbid([libc::SYS_clone3, libc::SYS_clone], libc::EAGAIN);
        let source = Arc::new(Idle);
        let has_none = || {
            add_to_page(&source);
            add_to_page(&source);
            assert_eq!((rows(), has_thread()), (None, false));
            // What there is waits for a page.
            assert!(!INBOX.lock().listed.is_empty());
            turn_off();
            assert!(INBOX.lock().listed.is_empty());
            turn_on();
        };
        has_none();
        forbid([libc::SYS_memfd_create; 2], libc::EPERM);
        has_none();
    });
}

#[test]
fn a_page_costs_few_addresses_and_locks_little_memory() {
    alone(|| {
        fork::watch().unwrap();
        if !lock_memory() {
            println!("only addresses are measured: this process may not lock its memory");
        }
        let (source, other) = (Arc::new(Idle), Arc::new(Idle));
        // What the look at `/proc` needs is there then.
        assert_eq!(rows(), None);
        let figures = || ["VmSize", "VmLck", "VmRSS"].map(status_kib);
        let before = figures();
        let check = |most: [u64; 2]| {
            let now = figures();
            let [addresses, locked, resident] =
                [0, 1, 2].map(|at: usize| now[at].saturating_sub(before[at]));
            println!("{addresses} KiB of addresses, {locked} KiB locked, {resident} KiB resident");
            assert!(addresses < most[0] && locked < most[1]);
        };
        add_to_page(&source);
        add_to_page(&other);
        until(|| rows() == Some(2));
        check([5 << 10, 1 << 10]);
        drop((source, other));
        until(|| rows().is_none() && !has_thread());
        // The C library keeps the stack for another thread.
        check([1 << 10, 1 << 10]);
    });
}

/// Turns the page off as it is dropped, as code of the host's may. It is looked at when the test says so.
struct TurnsOff {
    tell: Sender<()>,
    gone: Mutex<Receiver<()>>,
}

impl Source for TurnsOff {
    fn look(&self, _: bool) -> Option<u64> {
        self.tell.send(()).unwrap();
        // Until the test has dropped its owner.
        let _ = self.gone.lock().recv();
        Some(7)
    }

    fn describe(&self, _: &mut Block, _: u64) -> Option<()> {
        None
    }

    fn release(self: Arc<Self>) {}
}

impl Drop for TurnsOff {
    fn drop(&mut self) {
        turn_off();
    }
}

#[test]
fn host_code_on_the_thread_of_the_page_can_turn_the_page_off() {
    alone(|| {
        fork::watch().unwrap();
        let ((tell, told), (go, gone)) = (channel(), channel());
        let source = Arc::new(TurnsOff { tell, gone: Mutex::new(gone) });
        add_to_page(&source);
        told.recv().unwrap();
        drop(source);
        drop(go);
        until(|| !has_thread());
        assert_eq!(rows(), None);
    });
}

/// Is dropped by its last owner but the thread of the page, which looks at it.
struct Outlived {
    tell: Sender<()>,
    gone: Mutex<Receiver<()>>,
}

impl Source for Outlived {
    fn look(&self, _: bool) -> Option<u64> {
        self.tell.send(()).unwrap();
        let _ = self.gone.lock().recv();
        Some(7)
    }

    fn describe(&self, block: &mut Block, now: u64) -> Option<()> {
        Idle.describe(block, now)
    }

    fn release(self: Arc<Self>) {
        release(self);
    }
}

impl Drop for Outlived {
    fn drop(&mut self) {
        remove(self);
    }
}

#[test]
fn what_the_thread_of_the_page_is_the_last_to_own_leaves_the_page() {
    alone(|| {
        fork::watch().unwrap();
        let ((tell, told), (go, gone)) = (channel(), channel());
        let source = Arc::new(Outlived { tell, gone: Mutex::new(gone) });
        add_to_page(&source);
        told.recv().unwrap();
        drop(source);
        drop(go);
        until(|| rows().is_none() && !has_thread());
    });
}

/// Cannot be looked at.
struct Busy;

impl Source for Busy {
    fn look(&self, _: bool) -> Option<u64> {
        None
    }

    fn describe(&self, _: &mut Block, _: u64) -> Option<()> {
        None
    }

    fn release(self: Arc<Self>) {}
}

#[test]
fn what_cannot_be_looked_at_keeps_no_other_from_the_page() {
    alone(|| {
        fork::watch().unwrap();
        let (busy, idle) = (Arc::new(Busy), Arc::new(Idle));
        add_to_page(&busy);
        add_to_page(&idle);
        until(|| rows() == Some(1));
        let period = || host(std::process::id()).unwrap().unwrap().heartbeat_period;
        assert_eq!(period(), PERIOD);
    });
}
