//! Requests that leave for the others, and what becomes of them there.

use super::super::*;
use super::actors::*;
use super::oracle::Outcome;
use super::state::World;

impl World {
    /// A request was told to leave, which had waited since a moment or not.
    pub(super) fn leave(&mut self, number: u64, since: Option<u64>) {
        self.oracle.note_leave(number, &self.requests[&number]);
        self.set(number, RequestState::Leaves(since));
        let left = self.requests[&number].deadline - self.now;
        let after = (self.random.below(3) * MS).min(left);
        self.schedule(after, Event::Arrives(number));
    }

    pub(super) fn arrives(&mut self, number: u64) {
        let RequestState::Leaves(since) = self.requests[&number].state else { return };
        self.scheduler.note_counted();
        if !self.others.is_ready {
            return self.come_back(number, since, true);
        }
        self.others.ours += 1;
        self.set(number, RequestState::Away(since));
        let is_refused = self.random.below(100) < self.others.refusals;
        let after = self.random.below(if is_refused { 3 } else { 200 }) * MS;
        self.schedule(after, Event::Back(number, is_refused));
    }

    /// The others are done with it.
    pub(super) fn back(&mut self, number: u64, is_refused: bool) {
        let RequestState::Away(since) = self.requests[&number].state else { return };
        self.others.ours -= 1;
        if is_refused {
            // Now and then for what it is.
            let as_they_are = self.random.below(4) != 0;
            return self.come_back(number, since, as_they_are);
        }
        self.end_away(number, Outcome::Elsewhere);
    }

    fn come_back(&mut self, number: u64, since: Option<u64>, is_refused: bool) {
        let request = self.requests.get_mut(&number).unwrap();
        if !is_refused {
            request.asked.elsewhere = Elsewhere::Never;
        }
        let (asked, history) = (request.asked, request.history);
        self.oracle.note_back();
        if is_refused {
            self.oracle.note_refused(self.now);
        }
        let from = (since, is_refused);
        let admission = self.scheduler.admit_back(self.now, asked, from, &history, || number);
        assert!(!matches!(admission, Admission::Elsewhere), "{number} does not stay");
        if since.is_some() {
            let is_full = matches!(admission, Admission::Refused(Refusal::Overloaded(_)));
            assert!(!is_full, "{number} has lost its place");
        } else if matches!(admission, Admission::Granted(_) | Admission::Waits(_)) {
            self.oracle.note_taken_back(self.now, &history);
        }
        match admission {
            Admission::Waits(ticket) => {
                let since = since.unwrap_or(self.now);
                self.set(number, RequestState::Waits(ticket, since));
            }
            other => self.admitted(number, other),
        }
    }

    /// It is over there.
    pub(super) fn end_away(&mut self, number: u64, outcome: Outcome) {
        self.oracle.note_end_away();
        self.over(number, outcome);
        self.scheduler.end_away(self.now);
    }

    /// Its caller gives it up, or the role is closed.
    pub(super) fn recall(&mut self, number: u64, outcome: Outcome) {
        match self.requests[&number].state {
            RequestState::Leaves(_) => self.scheduler.note_counted(),
            _ => self.others.ours -= 1,
        }
        self.end_away(number, outcome);
    }

    /// Something may change at the others.
    pub(super) fn change_others(&mut self) {
        self.watch();
        if self.random.below(4) == 0 {
            let after = self.random.below(50) * MS;
            self.schedule(after, Event::Others);
        }
    }

    pub(super) fn others_change(&mut self) {
        let before = self.others.free();
        let r = &mut self.random;
        self.others.alien = pick(r, self.others.places + 1);
        self.others.is_ready = r.below(5) != 0;
        if self.others.free() > before && self.others.tells {
            self.scheduler.note_room(self.now);
        }
    }

    /// Another role begins to watch for a place of this one.
    fn watch(&mut self) {
        if self.random.below(4) == 0 {
            self.is_watched = true;
            self.scheduler.watch();
        }
    }

    pub(super) fn note_told_room(&mut self) {
        assert!(std::mem::take(&mut self.is_watched), "it was told of room unasked");
        assert!(self.has_room(), "it was told of room, and there is none");
    }

    fn has_room(&self) -> bool {
        let (waiting, held) = (self.scheduler.queue.len(), self.scheduler.in_flight);
        let places = self.limits.max_size * self.limits.concurrency;
        self.scheduler.is_ready() && waiting + held < places
    }

    /// Room that comes is told.
    pub(super) fn check_watched(&mut self) {
        let has_room = self.has_room();
        let is_new = has_room && !std::mem::replace(&mut self.had_room, has_room);
        assert!(!is_new || !self.is_watched, "room was not told");
    }

    /// The role looks how full the others are.
    pub(super) fn look_elsewhere(&mut self) {
        let free = self.others.free();
        self.scheduler.offer(self.now, free, false);
    }

    /// The requests that wait and may leave.
    pub(super) fn leavers(&self) -> impl Iterator<Item = (u64, &Request)> {
        let may_leave = |request: &Request| match request.state {
            RequestState::Waits(ticket, _) => {
                !ticket.is_alone() && request.asked.elsewhere != Elsewhere::Never
            }
            _ => false,
        };
        let all = self.requests.iter().map(|(number, request)| (*number, request));
        all.filter(move |(_, request)| may_leave(request))
    }
}

/// What must hold at every moment of those that leave.
pub(super) fn check(world: &World) {
    let (scheduler, others) = (&world.scheduler, &world.others);
    let count = |is_it: fn(RequestState) -> bool| {
        world.requests.values().filter(|request| is_it(request.state)).count()
    };
    let leaving = count(|state| matches!(state, RequestState::Leaves(_)));
    let away = count(|state| matches!(state, RequestState::Away(_)));
    assert_eq!((scheduler.away.leaving, scheduler.away.count), (leaving, leaving + away));
    assert_eq!(others.ours, away);
    let leavers = world.leavers().count();
    assert_eq!(scheduler.queue.leavers(), leavers);
    // A close that drains waits for them.
    let is_over = scheduler.phase == Phase::Closed && !world.is_closed_now;
    assert!(!is_over || leaving + away == 0, "a close has not waited");
    // No request waits for which the others have a place, but for a while after they refused one.
    let has_room = others.free() > leaving && others.tells;
    let is_paused = scheduler.away.is_paused();
    assert!(!has_room || leavers == 0 || is_paused, "{leavers} wait, and the others have a place");
}

/// A request that waits is told to leave: the oldest of its class, and soon after a refusal only if the
/// role is sick.
pub(super) fn check_leave(world: &World, number: u64) {
    let asked = world.requests[&number].asked;
    let is_older = |(other, request): (u64, &Request)| {
        other < number && request.asked.priority == asked.priority
    };
    assert!(!world.leavers().any(is_older), "{number} leaves before an older one");
    let is_soon = world.oracle.last_refusal().is_some_and(|at| world.now < at + 10 * MS);
    assert!(!is_soon || world.scheduler.fleet.is_sick(), "{number} is offered again too soon");
}
