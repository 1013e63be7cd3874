//! What a role decides, case by case.

use super::slot::Reserved;
use super::*;

mod fleet;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

/// A role whose workers this test plays, with requests that are their own numbers.
struct Role {
    scheduler: Scheduler<u64>,
    next: u64,
}

impl Role {
    fn new(limits: Limits) -> Self {
        Self { scheduler: Scheduler::new(limits, 1), next: 0 }
    }

    /// A role whose first workers are ready.
    fn ready(limits: Limits) -> Self {
        let mut role = Self::new(limits);
        role.scheduler.tick(0);
        role.make_ready(0);
        role
    }

    /// What is to be started becomes ready; returns all other actions.
    fn make_ready(&mut self, now: u64) -> Vec<Action<u64>> {
        let mut others = Vec::new();
        loop {
            let actions = self.scheduler.take_actions();
            if actions.is_empty() {
                return others;
            }
            for action in actions {
                match action {
                    Action::Start(worker) => self.scheduler.note_ready(now, worker),
                    Action::Stop(worker) => {
                        self.scheduler.note_stopped(now, worker);
                        others.push(action);
                    }
                    _ => others.push(action),
                }
            }
        }
    }

    fn ask(&mut self, now: u64) -> Admission {
        self.ask_with(now, Priority::Normal, None)
    }

    fn ask_with(&mut self, now: u64, priority: Priority, key: Option<u64>) -> Admission {
        self.admit(now, Asked { priority, key, ..call() })
    }

    fn ask_stream(&mut self, now: u64) -> Admission {
        self.admit(now, Asked { is_open_ended: true, ..call() })
    }

    fn admit(&mut self, now: u64, asked: Asked) -> Admission {
        self.next += 1;
        let number = self.next;
        self.scheduler.admit(now, Asked { number, ..asked }, || number)
    }

    fn ask_granted(&mut self, now: u64) -> Grant {
        granted(self.ask(now))
    }

    fn ask_again(&mut self, now: u64, history: &History) -> Admission {
        self.next += 1;
        let number = self.next;
        self.scheduler.admit_again(now, Asked { number, ..call() }, history, || number)
    }

    /// The worker of this slot.
    fn worker(&self, slot: usize) -> WorkerId {
        WorkerId { slot, incarnation: self.scheduler.fleet.slots[slot].incarnation }
    }

    fn starts(&mut self) -> usize {
        let actions = self.scheduler.take_actions();
        actions.iter().filter(|action| matches!(action, Action::Start(_))).count()
    }
}

/// A call without a number.
fn call() -> Asked {
    Asked {
        number: 0,
        priority: Priority::Normal,
        key: None,
        elsewhere: Elsewhere::Never,
        is_open_ended: false,
    }
}

fn granted(admission: Admission) -> Grant {
    match admission {
        Admission::Granted(grant) => grant,
        other => panic!("{other:?}"),
    }
}

fn grants(actions: &[Action<u64>]) -> Vec<(u64, Grant)> {
    let grant = |action: &Action<u64>| match action {
        Action::Grant { owner, grant } => Some((*owner, *grant)),
        _ => None,
    };
    actions.iter().filter_map(grant).collect()
}

fn stops(actions: &[Action<u64>]) -> Vec<WorkerId> {
    let stop = |action: &Action<u64>| match action {
        Action::Stop(worker) => Some(*worker),
        _ => None,
    };
    actions.iter().filter_map(stop).collect()
}

fn of(max_size: usize) -> Limits {
    Limits { min_idle: max_size, max_size, max_starts: 8, ..Limits::default() }
}

fn suspect() -> History {
    History { is_idempotent: true, is_suspect: true, ..History::default() }
}

#[test]
fn a_worker_gets_what_it_serves_and_a_little_more() {
    let mut role = Role::ready(of(2));
    let slots: Vec<_> = (0..4).map(|_| role.ask_granted(0).worker.slot).collect();
    assert_eq!(slots, [0, 1, 0, 1]);
    assert!(matches!(role.ask(0), Admission::Waits(_)));
}

#[test]
fn nothing_lies_ready_behind_streams_that_fill_a_worker() {
    for concurrency in [1, 2] {
        let mut role = Role::ready(Limits { concurrency, ..of(2) });
        let slots = |role: &mut Role, count: usize| -> Vec<_> {
            (0..count).map(|_| role.ask_granted(0).worker.slot).collect()
        };
        // They fill the first worker, and all but one place of the second.
        let streams: Vec<_> = (1..2 * concurrency).map(|_| granted(role.ask_stream(0))).collect();
        assert_eq!(slots(&mut role, 2), [1, 1], "one call is served, and one lies ready");
        assert!(matches!(role.ask(0), Admission::Waits(_)));
        assert!(matches!(role.ask(0), Admission::Waits(_)));
        // The first worker has a place again, and one more beside it.
        let first = streams.into_iter().find(|stream| stream.worker.slot == 0).unwrap();
        role.scheduler.finish(1, first, Ending::Over);
        let given = grants(&role.scheduler.take_actions());
        assert_eq!(given.iter().map(|(_, grant)| grant.worker.slot).collect::<Vec<_>>(), [0, 0]);
    }
}

#[test]
fn a_stream_that_has_waited_counts_as_one() {
    let mut role = Role::ready(of(1));
    let calls = [role.ask_granted(0), role.ask_granted(0)];
    role.ask_stream(0);
    role.scheduler.finish(1, calls[0], Ending::Over);
    let stream = grants(&role.scheduler.take_actions())[0].1;
    role.scheduler.finish(2, calls[1], Ending::Over);
    assert!(matches!(role.ask(2), Admission::Waits(_)), "the stream alone is left");
    role.scheduler.finish(3, stream, Ending::Over);
    assert_eq!(grants(&role.scheduler.take_actions()).len(), 1);
}

#[test]
fn what_waits_goes_to_the_worker_that_becomes_free() {
    let mut role = Role::ready(of(1));
    let first = role.ask_granted(0);
    role.ask_granted(0);
    role.ask(0);
    role.ask_with(0, Priority::High, None);
    role.scheduler.finish(1, first, Ending::Over);
    let actions = role.scheduler.take_actions();
    assert_eq!(grants(&actions).iter().map(|(owner, _)| *owner).collect::<Vec<_>>(), [4]);
}

#[test]
fn over_the_bound_a_request_is_refused_at_once_with_what_is_known() {
    let mut role = Role::ready(Limits { max_waiting: 2, ..of(1) });
    for _ in 0..80 {
        let grant = role.ask_granted(SECOND);
        role.scheduler.finish(SECOND, grant, Ending::Over);
    }
    let first = role.ask_granted(SECOND);
    role.ask_granted(SECOND);
    role.ask(SECOND);
    role.ask(SECOND);
    let Admission::Refused(Refusal::Overloaded(overload)) = role.ask(3 * SECOND) else { panic!() };
    assert_eq!((overload.queued, overload.limit, overload.in_flight), (2, 2, 2));
    assert_eq!(overload.oldest_wait, 2 * SECOND);
    assert_eq!(overload.retry_after, SECOND / 5, "80 were served in 8 seconds");
    role.scheduler.finish(3 * SECOND, first, Ending::Over);
    assert!(matches!(role.ask(3 * SECOND), Admission::Waits(_)));
}

#[test]
fn the_same_key_goes_to_the_same_worker_while_that_has_a_place() {
    let mut role = Role::ready(of(4));
    let ask = |role: &mut Role| granted(role.ask_with(0, Priority::Normal, Some(7)));
    let (first, second, third) = (ask(&mut role), ask(&mut role), ask(&mut role));
    assert_eq!(first.worker, second.worker);
    assert_ne!(first.worker, third.worker, "it has no place, and others have");
    let homes: std::collections::BTreeSet<_> = (0..64)
        .map(|key| {
            let grant = role.scheduler.fleet.place_for(Some(key)).unwrap();
            grant.worker.slot
        })
        .collect();
    assert!(homes.len() >= 3, "keys are spread");
}

#[test]
fn a_request_that_left_the_queue_is_not_granted() {
    let mut role = Role::ready(of(1));
    let first = role.ask_granted(0);
    role.ask_granted(0);
    let Admission::Waits(ticket) = role.ask(0) else { panic!() };
    role.ask(0);
    assert_eq!(role.scheduler.leave(1, ticket), Some(3));
    assert_eq!(role.scheduler.leave(1, ticket), None);
    role.scheduler.finish(1, first, Ending::Over);
    let actions = role.scheduler.take_actions();
    assert_eq!(grants(&actions).len(), 1);
    assert_eq!(grants(&actions)[0].0, 4);
}

#[test]
fn a_suspect_gets_a_worker_of_its_own_when_that_has_nothing_left() {
    let mut role = Role::ready(of(2));
    let busy: Vec<_> = (0..4).map(|_| role.ask_granted(0)).collect();
    let history = History { is_idempotent: true, is_suspect: true, ..History::default() };
    let asked = Asked { number: 1000, priority: Priority::Low, ..call() };
    let admission = role.scheduler.admit_again(0, asked, &history, || 1000);
    assert!(matches!(admission, Admission::Waits(_)));
    assert!(matches!(role.ask(0), Admission::Waits(_)));
    let kept = role.scheduler.fleet.slots.iter().position(|slot| slot.reserved == Reserved::Kept);
    let kept = kept.unwrap();
    for grant in busy.iter().filter(|grant| grant.worker.slot == kept) {
        assert!(grants(&role.scheduler.take_actions()).is_empty());
        role.scheduler.finish(1, *grant, Ending::Over);
    }
    let given = grants(&role.scheduler.take_actions());
    assert_eq!(given.len(), 1);
    assert!(given[0].0 == 1000 && given[0].1.is_alone && given[0].1.worker.slot == kept);
    let other = busy.iter().find(|grant| grant.worker.slot != kept).unwrap();
    role.scheduler.finish(2, *other, Ending::Over);
    assert_eq!(grants(&role.scheduler.take_actions()).len(), 1, "the other worker goes on");
    assert!(matches!(role.ask(2), Admission::Waits(_)));
    role.scheduler.finish(3, given[0].1, Ending::Over);
    assert_eq!(grants(&role.scheduler.take_actions()).len(), 1, "it is shared again");
}

#[test]
fn a_death_is_made_good_by_a_spare_at_once() {
    let mut role = Role::ready(Limits { spares: 1, ..of(1) });
    let grant = role.ask_granted(0);
    role.scheduler.finish(1, grant, Ending::WorkerDied);
    let next = role.ask_granted(1);
    assert_ne!(next.worker, grant.worker);
    role.scheduler.note_death(1, grant.worker, Death::Serving);
    assert_eq!(role.starts(), 1, "there is a spare again");
}

#[test]
fn a_close_serves_what_waits_and_takes_nothing_more() {
    let mut role = Role::ready(of(1));
    let first = role.ask_granted(0);
    role.ask_granted(0);
    role.ask(0);
    role.scheduler.close(0);
    assert!(matches!(role.ask(0), Admission::Refused(Refusal::Closed)));
    role.scheduler.finish(1, first, Ending::Over);
    let given = grants(&role.scheduler.take_actions());
    assert_eq!(given.len(), 1);
    role.scheduler.finish(1, first, Ending::Over);
    assert!(role.scheduler.take_actions().is_empty());
    role.scheduler.finish(1, given[0].1, Ending::Over);
    assert_eq!(stops(&role.scheduler.take_actions()), [first.worker]);
    role.scheduler.note_stopped(1, first.worker);
    assert!(role.scheduler.is_over());
}

#[test]
fn a_close_that_does_not_wait_refuses_what_waits() {
    let mut role = Role::ready(of(1));
    role.ask_granted(0);
    role.ask_granted(0);
    role.ask(0);
    role.scheduler.close(0);
    role.scheduler.close_now(1);
    let actions = role.scheduler.take_actions();
    assert!(matches!(actions[0], Action::Refuse { owner: 3, why: Refusal::Closed }));
    assert_eq!(stops(&actions).len(), 1);
}

#[test]
fn suspects_have_half_of_the_workers_at_most() {
    let mut role = Role::ready(of(4));
    (0..4).for_each(|_| _ = role.ask_again(0, &suspect()));
    let given = grants(&role.scheduler.take_actions());
    assert_eq!(given.len(), 2);
    assert!(given.iter().all(|(_, grant)| grant.is_alone));
    assert!(matches!(role.ask(0), Admission::Granted(_)), "the others go on");
    role.scheduler.finish(1, given[0].1, Ending::Over);
    let next = grants(&role.scheduler.take_actions());
    assert!(next.len() == 1 && next[0].1.is_alone, "the next one's turn");
    let mut one = Role::ready(of(1));
    one.ask_again(0, &suspect());
    assert_eq!(grants(&one.scheduler.take_actions()).len(), 1, "or one worker");
}

#[test]
fn a_suspect_gets_the_worker_that_is_free_the_soonest() {
    let mut role = Role::ready(of(2));
    let busy: Vec<_> = (0..4).map(|_| role.ask_granted(0)).collect();
    let soon = busy.iter().find(|grant| grant.worker.slot == 1).unwrap();
    role.scheduler.finish(0, *soon, Ending::Over);
    role.ask_again(0, &suspect());
    assert_eq!(role.scheduler.fleet.slots[1].reserved, Reserved::Kept);
}

#[test]
fn a_worker_that_is_to_go_gets_a_request_only_if_no_other_has_a_place() {
    let mut role = Role::ready(of(2));
    let first = role.worker(0);
    role.scheduler.recycle(0, first, RecycleReason::Memory);
    let slots: Vec<_> = (0..4).map(|_| role.ask_granted(0).worker.slot).collect();
    assert_eq!(slots, [1, 1, 0, 0]);
}

#[test]
fn a_close_serves_again_what_was_taken_before() {
    let mut role = Role::ready(of(1));
    let grant = role.ask_granted(0);
    role.ask_granted(0);
    role.scheduler.close(0);
    role.scheduler.finish(0, grant, Ending::Over);
    assert!(matches!(role.ask_again(0, &History::default()), Admission::Waits(_)));
    assert_eq!(grants(&role.scheduler.take_actions()).len(), 1);
}

#[test]
fn a_request_is_not_refused_while_a_worker_has_a_place() {
    let limits = Limits {
        min_idle: 2,
        max_size: 2,
        concurrency: 1,
        prefetch: 0,
        max_waiting: 1,
        ..Limits::default()
    };
    let mut role = Role::ready(limits);
    let first = role.ask_granted(0);
    let suspect = role.ask_granted(0);
    let mut history = History { is_idempotent: true, ..History::default() };
    let attempt = Attempt {
        was_begun: Some(true),
        was_alone: false,
        was_killed: false,
        has_delivered: false,
    };
    assert_eq!(role.scheduler.end_dead(1, suspect, &mut history, attempt), Verdict::Again);
    role.scheduler.note_death(1, suspect.worker, Death::Serving);
    role.make_ready(2);
    let third = role.ask_granted(2);
    // Both workers are busy: it waits to be tried alone, and one of them is kept for that.
    assert!(matches!(role.ask_again(3, &history), Admission::Waits(_)));
    let kept = role.scheduler.fleet.slots.iter().position(|slot| slot.reserved == Reserved::Kept);
    let other = if kept == Some(first.worker.slot) { third } else { first };
    role.scheduler.finish(4, other, Ending::Over);
    assert!(matches!(role.ask(5), Admission::Granted(_)));
}
