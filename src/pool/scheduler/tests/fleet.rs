//! Which workers run, case by case.

use super::super::slot::Slot;
use super::*;

#[test]
fn a_death_while_serving_is_mended_at_once_and_failures_ever_later() {
    let mut role = Role::ready(of(1));
    for now in 1..50 {
        let grant = role.ask_granted(now);
        role.scheduler.finish(now, grant, Ending::WorkerDied);
        role.scheduler.note_death(now, grant.worker, Death::Serving);
        let actions = role.make_ready(now);
        assert!(actions.is_empty(), "{actions:?}");
    }
    assert!(!role.scheduler.is_degraded());
    let (mut now, mut delays) = (100, Vec::new());
    for _ in 0..5 {
        let slot = role.scheduler.fleet.slots.iter().position(|slot| !slot.is_empty()).unwrap();
        let incarnation = role.scheduler.fleet.slots[slot].incarnation;
        role.scheduler.note_death(now, WorkerId { slot, incarnation }, Death::Failed);
        assert_eq!(role.starts(), 0);
        let next = role.scheduler.next_tick(0).unwrap();
        role.scheduler.tick(next - 1);
        assert_eq!(role.starts(), 0);
        delays.push(next - now);
        now = next;
        role.scheduler.tick(now);
        assert_eq!(role.starts(), 1);
    }
    for (delay, full) in delays.iter().zip([1, 2, 4, 8, 16]) {
        assert!(*delay <= full * SECOND && *delay >= full * SECOND * 4 / 5, "{delays:?}");
    }
}

#[test]
fn too_many_failures_degrade_a_role_that_keeps_trying_and_heals() {
    let mut role = Role::new(Limits { failures_per_worker: 2, ..of(1) });
    role.scheduler.tick(0);
    let mut now = 0;
    let mut last = Vec::new();
    for _ in 0..3 {
        let actions = role.scheduler.take_actions();
        let [Action::Start(worker)] = actions[..] else { panic!("{actions:?}") };
        if last.is_empty() {
            role.ask(now);
        }
        role.scheduler.note_death(now, worker, Death::Failed);
        last = role.scheduler.take_actions();
        now = role.scheduler.next_tick(0).unwrap();
        role.scheduler.tick(now);
    }
    assert!(matches!(last[0], Action::Note(Note::Degraded)), "{last:?}");
    assert!(matches!(last[1], Action::Refuse { owner: 1, why: Refusal::Degraded }), "{last:?}");
    assert!(matches!(role.ask(now), Admission::Refused(Refusal::Degraded)));
    let Some(Action::Start(worker)) = role.scheduler.take_actions().pop() else { panic!() };
    role.scheduler.note_ready(now, worker);
    let actions = role.scheduler.take_actions();
    assert!(matches!(actions[..], [Action::Note(Note::Healed)]), "{actions:?}");
    role.ask_granted(now);
}

#[test]
fn a_reset_forgets_all_failures() {
    let mut role = Role::new(Limits { failures_per_worker: 0, ..of(1) });
    role.scheduler.tick(0);
    let Some(Action::Start(worker)) = role.scheduler.take_actions().pop() else { panic!() };
    role.scheduler.note_death(0, worker, Death::Failed);
    assert!(role.scheduler.is_degraded());
    role.scheduler.take_actions();
    role.scheduler.reset(1);
    assert!(!role.scheduler.is_degraded());
    let actions = role.make_ready(1);
    assert!(matches!(actions[..], [Action::Note(Note::Healed)]), "{actions:?}");
    role.ask_granted(1);
}

#[test]
fn workers_are_started_for_what_waits_and_ended_when_they_are_idle() {
    let mut role = Role::ready(Limits { min_idle: 1, max_size: 3, ..of(1) });
    let mut busy: Vec<_> = (0..2).map(|_| role.ask_granted(0)).collect();
    (0..3).for_each(|_| _ = role.ask(0));
    assert_eq!(role.starts(), 0, "they have only come");
    assert_eq!(role.scheduler.next_tick(0), Some(50 * MS));
    role.scheduler.tick(50 * MS);
    let given = grants(&role.make_ready(50 * MS));
    assert_eq!(given.len(), 3, "two more workers serve, as three waited and one has two places");
    busy.extend(given.iter().map(|(_, grant)| *grant));
    for grant in busy {
        role.scheduler.finish(SECOND, grant, Ending::Over);
    }
    role.scheduler.take_actions();
    assert_eq!(role.scheduler.next_tick(0), Some(601 * SECOND));
    role.scheduler.tick(601 * SECOND);
    let stopped = stops(&role.make_ready(601 * SECOND));
    assert_eq!(stopped.iter().map(|worker| worker.slot).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(role.scheduler.next_tick(0), None);
}

#[test]
fn a_lazy_role_starts_nothing_before_its_first_request() {
    let mut role = Role::new(Limits { is_lazy: true, spares: 1, ..of(2) });
    role.scheduler.tick(SECOND);
    assert_eq!((role.starts(), role.scheduler.next_tick(0)), (0, None));
    assert!(matches!(role.ask(SECOND), Admission::Waits(_)));
    let actions = role.make_ready(SECOND);
    assert_eq!(grants(&actions).len(), 1);
    assert_eq!(role.scheduler.fleet.count(State::Serving), 2);
}

#[test]
fn an_old_worker_serves_until_its_replacement_does() {
    let mut role = Role::ready(Limits { max_lifetime: Some(SECOND), jitter: 0, ..of(1) });
    let grant = role.ask_granted(0);
    role.scheduler.tick(SECOND);
    let actions = role.scheduler.take_actions();
    let [Action::Start(next)] = actions[..] else { panic!("{actions:?}") };
    assert_eq!(role.ask_granted(SECOND).worker, grant.worker, "the old one still serves");
    role.scheduler.note_ready(2 * SECOND, next);
    let actions = role.scheduler.take_actions();
    let why = RecycleReason::Lifetime;
    let [Action::Note(note)] = actions[..] else { panic!("{actions:?}") };
    assert_eq!(note, Note::Recycled { worker: grant.worker, why });
    assert_eq!(role.ask_granted(2 * SECOND).worker, next);
    role.scheduler.finish(2 * SECOND, grant, Ending::Over);
    assert!(role.scheduler.take_actions().is_empty(), "it has one left");
    role.scheduler.finish(2 * SECOND, grant, Ending::Over);
    assert_eq!(stops(&role.scheduler.take_actions()), [grant.worker]);
}

#[test]
fn where_the_old_worker_has_to_go_first_it_does() {
    let limits = Limits { max_requests: Some(2), jitter: 0, stop_first: true, ..of(1) };
    let mut role = Role::ready(limits);
    let grant = role.ask_granted(0);
    role.ask_granted(0);
    role.scheduler.finish(0, grant, Ending::Over);
    assert!(matches!(role.ask(0), Admission::Waits(_)), "it gets nothing more");
    let note = role.scheduler.take_actions();
    assert!(matches!(note[..], [Action::Note(Note::Recycled { .. })]), "{note:?}");
    role.scheduler.finish(0, grant, Ending::Over);
    let actions = role.scheduler.take_actions();
    assert_eq!(stops(&actions), [grant.worker]);
    assert_eq!(actions.len(), 1, "none starts before it has ended");
    role.scheduler.note_stopped(1, grant.worker);
    assert_eq!(grants(&role.make_ready(1)).len(), 1);
}

#[test]
fn a_changed_recipe_replaces_all_workers_one_after_another() {
    let mut role = Role::ready(of(3));
    role.scheduler.reload(0);
    let mut replaced = 0;
    for _ in 0..3 {
        let actions = role.scheduler.take_actions();
        let start = actions.iter().find_map(|action| match action {
            Action::Start(worker) => Some(*worker),
            _ => None,
        });
        assert_eq!(role.scheduler.fleet.count(State::Serving), 3);
        role.scheduler.note_ready(0, start.unwrap());
        let actions = role.scheduler.take_actions();
        for worker in stops(&actions) {
            replaced += 1;
            role.scheduler.note_stopped(0, worker);
        }
    }
    assert_eq!(replaced, 3);
    let is_new = |slot: &Slot| slot.recipe == 1 && slot.due.is_none();
    assert_eq!(
        role.scheduler.fleet.slots.iter().filter(|slot| slot.is_ready() && is_new(slot)).count(),
        3
    );
}

#[test]
fn a_spare_that_serves_for_what_waits_is_growth_enough() {
    let mut role = Role::ready(Limits { min_idle: 1, max_size: 4, spares: 1, ..of(1) });
    role.ask_granted(0);
    role.ask_granted(0);
    role.ask(0);
    role.scheduler.tick(50 * MS);
    let actions = role.scheduler.take_actions();
    assert_eq!(grants(&actions).len(), 1, "the spare serves it");
    let is_start = |action: &&Action<u64>| matches!(action, Action::Start(_));
    assert_eq!(actions.iter().filter(is_start).count(), 1, "there is a spare again");
    assert_eq!(role.scheduler.fleet.target, 2);
}

#[test]
fn a_role_grows_by_what_waits_beyond_the_places_that_are_to_come() {
    for (waiting, workers) in [(1, 1), (2, 1), (3, 2), (5, 3)] {
        let mut role = Role::new(Limits { min_idle: 1, max_size: 4, ..of(1) });
        role.scheduler.tick(0);
        (0..waiting).for_each(|_| _ = role.ask(0));
        role.scheduler.tick(50 * MS);
        assert_eq!(role.starts(), workers, "{waiting} wait");
    }
}

#[test]
fn a_degraded_role_refuses_what_it_took_before_unless_something_serves() {
    let mut role = Role::ready(Limits { failures_per_worker: 0, ..of(2) });
    let first = role.worker(0);
    role.scheduler.note_death(0, first, Death::Failed);
    assert!(role.scheduler.is_degraded());
    let mut busy: Vec<_> = (0..2).map(|_| role.ask_granted(0)).collect();
    assert!(matches!(role.ask(0), Admission::Waits(_)), "the other one serves");
    role.scheduler.take_actions();
    let last = busy.pop().unwrap();
    role.scheduler.note_death(1, last.worker, Death::Serving);
    let actions = role.scheduler.take_actions();
    let refused = |action: &Action<u64>| {
        matches!(action, Action::Refuse { owner: 3, why: Refusal::Degraded })
    };
    assert!(actions.iter().any(refused), "{actions:?}");
    let again = role.ask_again(1, &History::default());
    assert!(matches!(again, Admission::Refused(Refusal::Degraded)));
}

#[test]
fn a_degraded_role_waits_for_the_one_worker_that_it_tries() {
    let mut role = Role::new(Limits { failures_per_worker: 0, ..of(2) });
    role.scheduler.tick(0);
    let failed = role.worker(0);
    let other = role.worker(1);
    role.scheduler.note_death(0, failed, Death::Failed);
    role.scheduler.note_death(0, other, Death::Failed);
    role.scheduler.take_actions();
    role.scheduler.tick(60 * SECOND);
    assert_eq!(role.starts(), 1);
    role.scheduler.tick(600 * SECOND);
    assert_eq!(role.starts(), 0, "it is still starting");
}

#[test]
fn a_slot_that_failed_is_started_after_those_that_did_not() {
    let mut role = Role::ready(of(1));
    let first = role.worker(0);
    role.scheduler.note_death(0, first, Death::Failed);
    let next = role.scheduler.next_tick(0).unwrap();
    role.scheduler.tick(next);
    let actions = role.scheduler.take_actions();
    let [Action::Start(worker)] = actions[..] else { panic!("{actions:?}") };
    assert_eq!(worker.slot, 1);
}

#[test]
fn a_close_starts_as_many_workers_as_what_waits_needs() {
    for (waiting, workers) in [(0, 0), (1, 1), (5, 2)] {
        let mut role = Role::ready(of(2));
        let busy: Vec<_> = (0..4).map(|_| role.ask_granted(0)).collect();
        (0..waiting).for_each(|_| _ = role.ask(0));
        role.scheduler.close(0);
        for grant in &busy {
            role.scheduler.note_death(1, grant.worker, Death::Serving);
        }
        assert!(!role.scheduler.is_over(), "callers have not heard of it");
        for grant in busy {
            role.scheduler.finish(1, grant, Ending::WorkerDied);
        }
        assert_eq!(role.starts(), workers, "{waiting} wait");
        assert_eq!(role.scheduler.is_over(), waiting == 0);
    }
}

#[test]
fn as_many_workers_start_at_the_same_time_as_allowed() {
    for max_starts in [1, 2, 3] {
        let mut role = Role::new(Limits { max_starts, ..of(3) });
        role.scheduler.tick(0);
        assert_eq!(role.starts(), max_starts);
    }
}

#[test]
fn a_spare_of_the_old_recipe_replaces_no_worker() {
    let mut role = Role::ready(Limits { spares: 1, ..of(1) });
    role.scheduler.reload(0);
    let notes = role.scheduler.take_actions();
    let spare = role.worker(1);
    let why = RecycleReason::Recipe;
    let recycled = Note::Recycled { worker: spare, why };
    assert!(matches!(notes[0], Action::Note(note) if note == recycled), "{notes:?}");
    assert_eq!(role.ask_granted(0).worker.slot, 0, "the old worker serves until a new one does");
}

#[test]
fn a_reset_starts_at_once_what_waits_for_its_backoff() {
    let mut role = Role::new(of(1));
    role.scheduler.tick(0);
    for now in [0, SECOND] {
        let Some(Action::Start(worker)) = role.scheduler.take_actions().pop() else { panic!() };
        role.scheduler.note_death(now, worker, Death::Failed);
        role.scheduler.tick(SECOND);
    }
    assert_eq!(role.starts(), 0);
    role.scheduler.reset(SECOND);
    assert_eq!(role.starts(), 1);
}

#[test]
fn a_replacement_that_is_not_needed_any_more_ends() {
    let mut role = Role::ready(Limits { min_idle: 1, max_size: 2, ..of(2) });
    (0..3).for_each(|_| _ = role.ask(0));
    role.scheduler.tick(50 * MS);
    role.make_ready(50 * MS);
    for slot in [0, 0, 1] {
        let grant = Grant { worker: role.worker(slot), is_alone: false, is_open_ended: false };
        role.scheduler.finish(SECOND, grant, Ending::Over);
    }
    let old = role.worker(1);
    role.scheduler.recycle(SECOND, old, RecycleReason::Memory);
    let actions = role.scheduler.take_actions();
    let [Action::Start(next)] = actions[..] else { panic!("{actions:?}") };
    role.scheduler.tick(601 * SECOND);
    assert_eq!(stops(&role.scheduler.take_actions()), [old], "it was idle for too long");
    role.scheduler.note_ready(601 * SECOND, next);
    assert_eq!(stops(&role.scheduler.take_actions()), [next]);
}

#[test]
fn a_degraded_role_that_has_shrunk_to_nothing_heals_when_it_is_asked() {
    let limits = Limits {
        min_idle: 0,
        is_lazy: true,
        failures_per_worker: 0,
        idle_timeout: Some(SECOND),
        ..Limits::default()
    };
    let mut scheduler = Scheduler::new(limits, 1);
    let asked = |number| Asked { number, ..call() };
    let started = |scheduler: &mut Scheduler<u64>| {
        scheduler.take_actions().into_iter().find_map(|action| match action {
            Action::Start(worker) => Some(worker),
            _ => None,
        })
    };
    scheduler.admit(0, asked(1), || 1);
    let first = started(&mut scheduler).unwrap();
    scheduler.note_ready(0, first);
    scheduler.finish(
        0,
        Grant { worker: first, is_alone: false, is_open_ended: false },
        Ending::Over,
    );
    // Its replacement fails, and then it ends as it has nothing to do.
    scheduler.reload(0);
    let second = started(&mut scheduler).unwrap();
    scheduler.note_death(0, second, Death::Failed);
    assert!(scheduler.is_degraded());
    scheduler.tick(SECOND);
    scheduler.note_stopped(SECOND, first);
    scheduler.take_actions();
    let later = 200 * SECOND;
    let refused = scheduler.admit(later, asked(2), || 2);
    assert!(matches!(refused, Admission::Refused(Refusal::Degraded)));
    let third = started(&mut scheduler).expect("a worker is tried");
    scheduler.note_ready(later, third);
    assert!(matches!(scheduler.admit(later, asked(3), || 3), Admission::Granted(_)));
}
