//! Models of a pool: which requests get the places of workers while these die, requests leave and
//! the role is closed, and that no tick is missed.
//!
//! Workers have no process here. As in the models of the ring, no thread wakes without a reason, and
//! the time of a wait with a deadline is up as soon as the thread would sleep. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p slipring --release --lib pool::models`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::core::{Deed, Deeds, Placed, RoleCore};
use super::scheduler::{
    Asked, Death, Elsewhere, Ending, Grant, History, Limits, Priority, Refusal, Scheduler, WorkerId,
};
use super::seat::Told;
use super::ticker::Ticker;
use crate::ring::models::model_up_to;
use crate::sync::{Counter, Mutex, Ordering};
use crate::sys::clock::Deadline;

const PREEMPTIONS: usize = 3;
/// The limit for three threads.
const FEWER: usize = 2;

/// A timeout that passes when its thread sleeps.
const SOON: Duration = Duration::from_millis(1);

/// Moments at which a ticker's thread looks: one that passes when it sleeps, and one that does not.
const FIRST_TICK: u64 = 1_000_000;
const LAST_TICK: u64 = u64::MAX / 2;

/// What becomes of a request that asked, or waited.
type Outcome = Result<Grant, Ended>;

/// What ends a request without a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Refused(Refusal),
    /// Its deadline has passed.
    Late,
    Left,
}

/// A role whose workers are ready once they are started, and end once they are told to.
struct Role {
    core: RoleCore<()>,
    /// How many places other workers have, which each request that goes there takes for ever.
    others: Counter,
}

impl Role {
    /// A role with so many workers that serve one request each.
    fn new(workers: usize) -> Arc<Self> {
        let limits =
            Limits { min_idle: workers, max_size: workers, prefetch: 0, ..Limits::default() };
        let core = RoleCore::new(Scheduler::new(limits, 1));
        let role = Arc::new(Self { core, others: Counter::new(0) });
        role.perform(role.core.change(|scheduler| scheduler.tick(0)).1);
        role
    }

    fn perform(&self, deeds: Option<Deeds<()>>) {
        for deed in deeds.into_iter().flat_map(|deeds| deeds.deeds) {
            match deed {
                Deed::Start(id, _) => {
                    self.perform(self.core.change(|scheduler| scheduler.note_ready(0, id)).1);
                }
                // Its thread ends it.
                Deed::Stop(_) | Deed::Note(_) => {}
                Deed::LookElsewhere => self.look_elsewhere(),
                Deed::TellRoom => unreachable!("no other role watches"),
            }
        }
    }

    fn look_elsewhere(&self) {
        let places = usize::try_from(self.others.load(Ordering::Relaxed)).unwrap();
        self.perform(self.core.change(|scheduler| scheduler.offer(0, places, true)).1);
    }

    /// The others have a place that they had not.
    fn note_room(&self) {
        self.others.fetch_add(1, Ordering::Relaxed);
        self.perform(self.core.change(|scheduler| scheduler.note_room(0)).1);
    }

    fn ask(&self, number: u64, timeout: Duration) -> Outcome {
        self.ask_or_leave(number, timeout, Elsewhere::Never)
    }

    fn ask_or_leave(&self, number: u64, timeout: Duration, elsewhere: Elsewhere) -> Outcome {
        let asked = Asked {
            number,
            priority: Priority::Normal,
            key: None,
            elsewhere,
            is_open_ended: false,
        };
        let (placed, deeds) = self.core.admit(0, asked);
        self.placed(placed, deeds, timeout)
    }

    fn ask_again(&self, number: u64, timeout: Duration) -> Outcome {
        let asked = Asked {
            number,
            priority: Priority::Normal,
            key: None,
            elsewhere: Elsewhere::Never,
            is_open_ended: false,
        };
        let (placed, deeds) = self.core.admit_again(0, asked, &History::default());
        self.placed(placed, deeds, timeout)
    }

    fn placed(&self, placed: Placed<()>, deeds: Option<Deeds<()>>, timeout: Duration) -> Outcome {
        self.perform(deeds);
        match placed {
            Placed::Granted(grant, _) => Ok(grant),
            Placed::Refused(why) => Err(Ended::Refused(why)),
            Placed::Elsewhere => unreachable!("no request of a model may leave"),
            Placed::Waits(ticket, seat) => {
                let (told, deeds) = self.core.wait(ticket, &seat, Deadline::after(timeout));
                self.perform(deeds);
                match told {
                    Some(Told::Granted(grant, _)) => Ok(grant),
                    Some(Told::Leave) => Err(Ended::Left),
                    Some(Told::Refused(why)) => Err(Ended::Refused(why)),
                    Some(Told::Cancelled) | None => Err(Ended::Late),
                }
            }
        }
    }

    fn finish(&self, grant: Grant, ending: Ending) {
        self.perform(self.core.finish(0, grant, ending));
    }

    /// The thread of a worker that has died finds that.
    fn note_death(&self, worker: WorkerId) {
        let note = |scheduler: &mut Scheduler<_>| scheduler.note_death(0, worker, Death::Serving);
        self.perform(self.core.forget(worker, note).map(|after| self.core.tell(after)));
    }

    /// The threads of all workers, which were told to end, have ended them.
    fn end_workers(&self) {
        assert!(!self.is_over(), "its workers are there");
        for (worker, _) in self.core.workers() {
            let note = |scheduler: &mut Scheduler<_>| scheduler.note_stopped(0, worker);
            self.perform(self.core.forget(worker, note).map(|after| self.core.tell(after)));
        }
        assert!(self.is_over());
    }

    fn close_now(&self) {
        self.perform(self.core.change(|scheduler| scheduler.close_now(0)).1);
    }

    fn is_over(&self) -> bool {
        self.core.change(|scheduler| scheduler.is_over()).0
    }

    /// So many places are free, and no more.
    fn check_free(&self, places: u64) {
        for number in 0..places {
            assert!(self.ask(100 + number, SOON).is_ok(), "a place is lost");
        }
        assert!(self.ask(200, SOON).is_err(), "a place is held twice");
    }
}

#[test]
fn a_request_that_waits_gets_the_place_that_becomes_free() {
    model_up_to(PREEMPTIONS, || {
        let role = Role::new(1);
        let first = role.ask(1, SOON).unwrap();
        let other = Arc::clone(&role);
        let waiting = thread::spawn(move || {
            let second = other.ask(2, Duration::MAX).unwrap();
            other.finish(second, Ending::Over);
        });
        role.finish(first, Ending::Over);
        waiting.join().unwrap();
        role.check_free(1);
    });
}

#[test]
fn a_place_is_not_lost_at_a_request_that_leaves() {
    model_up_to(PREEMPTIONS, || {
        let role = Role::new(1);
        let first = role.ask(1, SOON).unwrap();
        let other = Arc::clone(&role);
        let leaving = thread::spawn(move || match other.ask(2, SOON) {
            Ok(second) => other.finish(second, Ending::Over),
            Err(why) => assert_eq!(why, Ended::Late),
        });
        role.finish(first, Ending::Over);
        leaving.join().unwrap();
        role.check_free(1);
    });
}

#[test]
fn one_of_two_that_wait_gets_the_place_and_then_the_other() {
    model_up_to(FEWER, || {
        let role = Role::new(1);
        let first = role.ask(1, SOON).unwrap();
        let waiting = [2, 3].map(|number| {
            let other = Arc::clone(&role);
            thread::spawn(move || {
                let grant = other.ask(number, Duration::MAX).unwrap();
                other.finish(grant, Ending::Over);
            })
        });
        role.finish(first, Ending::Over);
        for thread in waiting {
            thread.join().unwrap();
        }
        role.check_free(1);
    });
}

#[test]
fn what_waits_as_a_worker_dies_goes_to_the_next() {
    model_up_to(FEWER, || {
        let role = Role::new(1);
        let first = role.ask(1, SOON).unwrap();
        let (caller, waiter) = (Arc::clone(&role), Arc::clone(&role));
        let calling = thread::spawn(move || caller.finish(first, Ending::WorkerDied));
        let waiting = thread::spawn(move || {
            let second = waiter.ask(2, Duration::MAX).unwrap();
            assert_ne!(second.worker, first.worker, "the worker is dead");
            waiter.finish(second, Ending::Over);
        });
        role.note_death(first.worker);
        calling.join().unwrap();
        waiting.join().unwrap();
        role.check_free(1);
    });
}

#[test]
fn a_request_that_is_sent_again_as_the_role_is_closed_ends() {
    model_up_to(FEWER, || {
        let role = Role::new(2);
        let [first, second] = [1, 2].map(|number| role.ask(number, SOON).unwrap());
        let other = Arc::clone(&role);
        let again = thread::spawn(move || {
            other.finish(first, Ending::WorkerDied);
            match other.ask_again(1, Duration::MAX) {
                Ok(grant) => other.finish(grant, Ending::Over),
                Err(why) => assert_eq!(why, Ended::Refused(Refusal::Closed)),
            }
        });
        role.close_now();
        role.finish(second, Ending::Over);
        again.join().unwrap();
        role.end_workers();
    });
}

#[test]
fn no_request_waits_at_a_role_that_is_closed() {
    model_up_to(PREEMPTIONS, || {
        let role = Role::new(1);
        let first = role.ask(1, SOON).unwrap();
        let other = Arc::clone(&role);
        let asking = thread::spawn(move || {
            assert_eq!(other.ask(2, Duration::MAX), Err(Ended::Refused(Refusal::Closed)));
        });
        role.close_now();
        asking.join().unwrap();
        role.finish(first, Ending::WorkerDied);
        role.end_workers();
    });
}

/// A worker of the role and one of the others become free at the same time.
#[test]
fn two_that_wait_get_the_place_here_and_that_elsewhere() {
    model_up_to(FEWER, || {
        let role = Role::new(1);
        let first = role.ask(1, SOON).unwrap();
        let waiting = [2, 3].map(|number| {
            let other = Arc::clone(&role);
            thread::spawn(move || other.ask_or_leave(number, Duration::MAX, Elsewhere::Later))
        });
        role.note_room();
        role.finish(first, Ending::Over);
        let outcomes = waiting.map(|thread| thread.join().unwrap());
        let left = outcomes.iter().filter(|outcome| **outcome == Err(Ended::Left)).count();
        let served: Vec<_> = outcomes.into_iter().flatten().collect();
        assert!(served.len() + left == 2 && left <= 1);
        for grant in served {
            role.finish(grant, Ending::Over);
        }
        role.check_free(1);
    });
}

#[test]
fn a_request_that_leaves_as_its_deadline_passes_is_counted_once() {
    model_up_to(PREEMPTIONS, || {
        let role = Role::new(1);
        let first = role.ask(1, SOON).unwrap();
        let other = Arc::clone(&role);
        let waiting = thread::spawn(move || {
            if other.ask_or_leave(2, SOON, Elsewhere::Later) == Err(Ended::Left) {
                let end = |scheduler: &mut Scheduler<_>| scheduler.forget_leaver(0);
                other.perform(other.core.change(end).1);
            }
        });
        role.note_room();
        waiting.join().unwrap();
        role.finish(first, Ending::Over);
        let next = role.ask(3, SOON).unwrap();
        role.finish(next, Ending::Over);
        // A close waits for none.
        role.perform(role.core.change(|scheduler| scheduler.close(0)).1);
        role.end_workers();
    });
}

#[test]
fn a_change_is_looked_at_whenever_it_comes() {
    model_up_to(PREEMPTIONS, || {
        // A role in which nothing happens after a first tick, but that another thread changes it.
        let (ticker, is_changed) = (Arc::new(Ticker::new()), Arc::new(Mutex::new(false)));
        let (other, role) = (Arc::clone(&ticker), Arc::clone(&is_changed));
        let looking = thread::spawn(move || {
            let looks = Counter::new(0);
            other.run(|| {
                let is_changed = *role.lock();
                if is_changed {
                    other.end();
                }
                let is_first = looks.fetch_add(1, Ordering::Relaxed) == 0;
                Some(if is_first { FIRST_TICK } else { LAST_TICK })
            });
        });
        *is_changed.lock() = true;
        ticker.look_before(2 * FIRST_TICK);
        // If the change were missed, it would sleep until the last tick, which never comes.
        looking.join().unwrap();
    });
}

#[test]
fn a_pool_that_is_gone_ends_its_thread() {
    model_up_to(PREEMPTIONS, || {
        let ticker = Arc::new(Ticker::new());
        let other = Arc::clone(&ticker);
        let looking = thread::spawn(move || other.run(|| None));
        ticker.end();
        looking.join().unwrap();
    });
}
