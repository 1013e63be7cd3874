//! What must hold at every moment.

use super::super::fleet::weight;
use super::super::slot::Slot;
use super::super::*;
use super::actors::*;
use super::state::World;

pub(super) fn check(world: &World) {
    let (scheduler, limits, now) = (&world.scheduler, &world.limits, world.now);
    let count = |state| scheduler.fleet.count(state);
    assert!(count(State::Serving) <= limits.max_size, "more serve than allowed");
    assert!(count(State::Starting) <= limits.max_starts, "more start than allowed");
    assert!(world.workers.len() <= limits.slots(), "more processes than slots");
    // Nothing waits beside a worker that has a place.
    let shared = scheduler.queue.len() - scheduler.queue.count_alone();
    let has_place = scheduler.fleet.place_for(None).is_some();
    assert!(shared == 0 || !has_place, "{shared} wait, and a worker has a place");
    // The places that are held are those of requests that were granted and are not over, and of
    // those that were given up and that their worker is not done with.
    let held: usize = world.workers.values().map(|worker| worker.holders.len()).sum();
    assert_eq!(scheduler.in_flight, held);
    // A close waits for those whose worker is gone, and for those that are about to ask again.
    let states = || world.requests.values().map(|request| request.state);
    let is_orphan = |state: &RequestState| match state {
        RequestState::Granted(grant) | RequestState::Lingers(grant) => {
            !world.workers.contains_key(&key(grant.worker))
        }
        _ => false,
    };
    assert_eq!(scheduler.orphans, states().filter(is_orphan).count());
    let returning = states().filter(|state| *state == RequestState::Returns).count();
    assert!(scheduler.returning == returning || scheduler.phase == Phase::Closed);
    for ((slot, incarnation), worker) in &world.workers {
        let slot = &scheduler.fleet.slots[*slot];
        assert_eq!(slot.incarnation, *incarnation, "a slot has one worker");
        check_worker(world, slot, worker);
    }
    // None is kept for a suspect that does not wait.
    let is_kept = |slot: &&Slot| slot.reserved == Reserved::Kept && slot.state == State::Serving;
    let kept = scheduler.fleet.slots.iter().filter(is_kept).count();
    assert!(kept <= scheduler.queue.count_alone(), "{kept} are kept");
    // Spares serve exactly if too few do.
    assert!(count(State::Serving) <= scheduler.fleet.target, "more serve than are to");
    assert!(scheduler.fleet.target <= limits.max_size);
    let is_open = scheduler.phase != Phase::Closed;
    assert!(
        !is_open || count(State::Serving) == scheduler.fleet.target || count(State::Spare) == 0
    );
    let spares = if scheduler.fleet.target == 0 { 0 } else { limits.spares };
    assert!(count(State::Spare) <= spares || !is_open, "too many spares");
    // Nothing waits for workers that do not come, and all that wait for others that serve.
    let is_sick = scheduler.is_degraded() && count(State::Serving) == 0;
    assert!(!is_sick || scheduler.queue.is_empty(), "a degraded role lets requests wait");
    // The pool's thread wakes when there is something to do.
    assert!(scheduler.next_tick(now).is_none_or(|next| next >= now), "a tick was missed");
    // An empty role keeps trying.
    let is_empty = scheduler.fleet.slots.iter().all(|slot| !slot.is_kept());
    let is_wanted = scheduler.fleet.target > 0 || !scheduler.queue.is_empty();
    let has_ending = scheduler.fleet.slots.iter().any(|slot| !slot.is_empty() && !slot.is_kept());
    if is_empty && is_wanted && !has_ending && scheduler.phase == Phase::Open {
        assert!(scheduler.next_tick(now).is_some(), "an empty role does not try again");
    }
}

fn check_worker(world: &World, slot: &Slot, worker: &Worker) {
    let (scheduler, limits, now) = (&world.scheduler, &world.limits, world.now);
    let holders = &worker.holders;
    assert_eq!((slot.in_flight, slot.open_ended), (holders.len(), worker.open_ended()));
    // A worker that is stuck gets no more than its places, and a suspect has nothing beside it.
    assert!(holders.len() <= limits.places(), "{} places are held", holders.len());
    let is_alone = holders.iter().any(|(_, grant)| grant.is_alone);
    assert!(!is_alone || holders.len() == 1, "a suspect is not alone");
    if !worker.is_ready || worker.is_dead || worker.is_recycled || worker.is_stopping {
        return;
    }
    // A worker that is used up or old is to be replaced.
    let is_old = limits.max_lifetime.is_some_and(|most| worker.ready_at + most < now);
    assert!(!is_old || slot.due.is_some(), "a worker is too old");
    let most = limits.max_requests.map(|most| usize::try_from(most).unwrap() + limits.places());
    let granted = usize::try_from(worker.granted).unwrap();
    assert!(
        slot.due.is_some() || most.is_none_or(|most| granted <= most),
        "it has served too many"
    );
    // A worker that is idle for too long ends, unless it is needed.
    let is_idle = slot.state == State::Serving && holders.is_empty();
    let is_needed = scheduler.fleet.target <= limits.min_idle || !scheduler.queue.is_empty();
    let is_over = limits.idle_timeout.is_some_and(|most| worker.idle_since + most < now);
    let is_open = scheduler.phase == Phase::Open && slot.due.is_none();
    assert!(!is_open || !is_idle || is_needed || !is_over, "a worker is idle for too long");
}

/// A worker is told to go: not too early, and where it has to go first, alone.
pub(super) fn check_recycled(world: &World, id: WorkerId, why: RecycleReason) {
    let (worker, limits) = (&world.workers[&key(id)], &world.limits);
    assert!(!worker.is_recycled, "it was told before");
    let shortest = |limit: Option<u64>| {
        let limit = limit.expect("it is limited");
        limit - limit * limits.jitter / 100
    };
    match why {
        RecycleReason::Lifetime => {
            assert!(world.now - worker.ready_at >= shortest(limits.max_lifetime), "it is young");
        }
        RecycleReason::Requests => {
            assert!(worker.granted >= shortest(limits.max_requests), "it has served few");
        }
        _ => {}
    }
    if limits.stop_first && limits.spares == 0 {
        assert!(
            world.workers.len() >= world.scheduler.fleet.target,
            "one is missing, and {id:?} goes"
        );
        let others = world.workers.iter().filter(|(at, _)| **at != key(id));
        for (at, other) in others {
            let is_moving = !other.is_ready || other.is_stopping || other.is_recycled;
            assert!(!is_moving, "{at:?} is on its way, and {id:?} goes as well");
        }
    }
}

/// The worker that a request with this key goes to, if that has a place.
pub(super) fn preferred(world: &World, key: u64) -> Option<WorkerId> {
    let slots = || world.scheduler.fleet.slots.iter().enumerate();
    let mut best = None;
    for (at, slot) in slots().filter(|(_, slot)| slot.state == State::Serving) {
        if best.is_none_or(|(best, _)| weight(key, at) > weight(key, best)) {
            best = Some((at, slot));
        }
    }
    let (at, slot) = best?;
    let ready = if slot.open_ended < world.limits.concurrency { world.limits.prefetch } else { 0 };
    let has_place =
        slot.reserved == Reserved::No && slot.in_flight < world.limits.concurrency + ready;
    let worker = WorkerId { slot: at, incarnation: slot.incarnation };
    has_place.then_some(worker)
}

/// A request is refused as the role is degraded: none can serve it.
pub(super) fn check_degraded(world: &World) {
    assert!(world.scheduler.is_degraded());
    let serves = |worker: &Worker| worker.is_ready && !worker.is_dead && !worker.is_recycled;
    let mut workers = world.workers.values();
    assert!(!workers.any(|worker| serves(worker) && !worker.is_stopping), "a worker could");
}

/// A request is refused exactly at the bound, and overtakes none that waits for the same.
pub(super) fn check_admission(world: &World, admission: &Admission, preferred: Option<WorkerId>) {
    let waits = world.requests.values().filter_map(|request| match request.state {
        RequestState::Waits(_, since) => Some(since),
        _ => None,
    });
    let (waiting, oldest) = (waits.clone().count(), waits.min());
    match admission {
        Admission::Granted(grant) => {
            let waits_as_it_does = |request: &Request| match request.state {
                RequestState::Waits(ticket, _) => !ticket.is_alone(),
                _ => false,
            };
            assert!(!world.requests.values().any(waits_as_it_does), "it has overtaken");
            assert!(preferred.is_none_or(|preferred| preferred == grant.worker), "not its worker");
        }
        Admission::Waits(_) => assert!(waiting < world.limits.max_waiting, "over the bound"),
        Admission::Elsewhere => {
            let is_full = waiting >= world.limits.max_waiting;
            assert!(is_full || world.leavers().next().is_none(), "it has overtaken");
        }
        Admission::Refused(Refusal::Overloaded(overload)) => {
            assert!(waiting >= world.limits.max_waiting, "refused before the bound");
            assert_eq!((overload.queued, overload.limit), (waiting, world.limits.max_waiting));
            assert_eq!(overload.oldest_wait, world.now - oldest.unwrap());
            assert_eq!(overload.in_flight, world.scheduler.in_flight);
        }
        Admission::Refused(Refusal::Degraded) => check_degraded(world),
        Admission::Refused(Refusal::Closed) => assert_ne!(world.scheduler.phase, Phase::Open),
    }
}
