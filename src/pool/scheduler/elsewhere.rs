//! Requests that leave for workers that are not the role's own, at once or after a wait here, and
//! those that come back.
//!
//! The scheduler does not know how full the others are. `Action::LookElsewhere` has the role look,
//! and tell `Scheduler::offer` how many places it has seen. Looks follow only signs of room: a
//! request that begins to wait, one that has ended there, or `Scheduler::note_room`.

use super::Scheduler;
use super::actions::{Action, Admission, Asked, Elsewhere, Refusal};
use super::fleet::Phase;
use super::retry::History;

impl<W> Scheduler<W> {
    /// Has a request go elsewhere. What would have waited here has the role grow at once: there is no
    /// queue whose oldest request tells how long.
    pub(super) fn pass_on(&mut self, now: u64) -> Admission {
        if self.fleet.grow_at_once() {
            self.plan(now);
        }
        self.note_left();
        Admission::Elsewhere
    }

    pub(super) fn note_left(&mut self) {
        self.away.count += 1;
        self.away.leaving += 1;
    }

    /// Whether a request for which no worker has a place leaves at once. If others wait to leave, it
    /// waits with them: what it has seen is room for the first of them.
    pub(super) fn leaves_at_once(&mut self, now: u64, asked: Asked) -> bool {
        if asked.elsewhere != Elsewhere::IfFull {
            return false;
        }
        let is_first = self.queue.leavers() == 0;
        if !is_first {
            self.note_room(now);
        }
        is_first
    }

    /// Takes a request again that the others have not begun. It gets its place in the queue back, with
    /// the moment `since` which it had waited; `None` if it had not. If they have `refused` it as they
    /// are, and not for what it is, no other is offered to them for a while.
    pub(crate) fn admit_back(
        &mut self,
        now: u64,
        asked: Asked,
        (since, refused): (Option<u64>, bool),
        history: &History,
        owner: impl FnOnce() -> W,
    ) -> Admission {
        self.away.count = self.away.count.saturating_sub(1);
        match refused {
            true => self.away.pause(now),
            // The place that it had there is free.
            false => self.look_elsewhere(now),
        }
        if self.phase == Phase::Closed {
            return Admission::Refused(Refusal::Closed);
        }
        if self.fleet.is_sick() {
            // It may have been the last that a close waited for.
            self.plan(now);
            return Admission::Refused(Refusal::Degraded);
        }
        if self.queue.len() == self.queue.count_alone()
            && !history.is_suspect
            && let Some(grant) = self.fleet.place_for(asked.key)
        {
            self.note_if_new(now, since, history);
            return Admission::Granted(self.grant(grant, asked.is_open_ended));
        }
        let is_new = since.is_none() && history.retries == 0 && self.phase == Phase::Open;
        if is_new && self.queue.len() >= self.max_waiting {
            return Admission::Refused(Refusal::Overloaded(self.overload(now)));
        }
        self.note_if_new(now, since, history);
        self.wait(now, since.unwrap_or(now), asked, history.is_suspect, owner)
    }

    /// Counts a request that was not counted as it came.
    fn note_if_new(&mut self, now: u64, since: Option<u64>, history: &History) {
        if since.is_none() && history.retries == 0 {
            self.retries.note_request(now);
        }
    }

    /// The load of the others counts a request that has left, or it does not go.
    pub(crate) fn note_counted(&mut self) {
        self.away.leaving = self.away.leaving.saturating_sub(1);
    }

    /// A request has ended at other workers, whose place is free.
    pub(crate) fn end_away(&mut self, now: u64) {
        self.away.count = self.away.count.saturating_sub(1);
        (self.away.length, self.away.paused) = (0, None);
        if self.phase == Phase::Draining {
            self.plan(now);
        }
        self.look_elsewhere(now);
    }

    /// A request that was told to leave does not go.
    pub(crate) fn forget_leaver(&mut self, now: u64) {
        self.note_counted();
        self.end_away(now);
    }

    /// The others may have a place that they had not.
    pub(crate) fn note_room(&mut self, now: u64) {
        if let Some(pause) = &mut self.away.paused {
            pause.has_room = true;
        }
        // The end of a pause is to be waited for.
        self.has_planned = true;
        self.look_elsewhere(now);
    }

    /// Has the role look whether the others have a place, if a request waits that may go there.
    pub(super) fn look_elsewhere(&mut self, now: u64) {
        if self.away.may_offer(now) {
            self.note_look();
        }
    }

    pub(super) fn note_look(&mut self) {
        let has_look = self.actions.iter().any(|it| matches!(it, Action::LookElsewhere));
        if !has_look && self.queue.leavers() > 0 {
            self.actions.push(Action::LookElsewhere);
        }
    }

    /// When to look at the others again.
    pub(super) fn next_look(&self) -> Option<u64> {
        self.away.ends_at().filter(|_| self.queue.leavers() > 0)
    }

    /// Has requests that wait go elsewhere, the most important and oldest first: so many places were
    /// seen there. `has_changed`: that there may be more of them than there were.
    pub(crate) fn offer(&mut self, now: u64, places: usize, has_changed: bool) {
        if has_changed && let Some(pause) = &mut self.away.paused {
            (pause.has_room, self.has_planned) = (true, true);
        }
        if !self.away.may_offer(now) {
            return;
        }
        let mut has_left = false;
        for _ in self.away.leaving..places {
            let Some(next) = self.queue.pop_leaver() else { break };
            self.fleet.grow_at_once();
            self.note_left();
            self.actions.push(Action::Leave { owner: next.owner });
            has_left = true;
        }
        if has_left {
            self.plan(now);
        }
    }

    /// No worker of the role's own will serve what waits: has those go elsewhere that may, and refuses
    /// the others.
    pub(super) fn refuse_sick(&mut self) {
        for it in self.queue.drain() {
            if it.may_leave {
                self.note_left();
                self.actions.push(Action::Leave { owner: it.owner });
            } else {
                self.actions.push(Action::Refuse { owner: it.owner, why: Refusal::Degraded });
            }
        }
    }
}

/// The other way round: callers elsewhere that wait for a place here are told of one.
impl<W> Scheduler<W> {
    /// Makes [`Action::TellRoom`] when a worker has a place, once.
    pub(crate) fn watch(&mut self) {
        self.queue.set_watched(true);
    }

    /// Tells of room, if that is watched for.
    pub(super) fn tell_room(&mut self) {
        if self.queue.is_watched() {
            let load = self.load();
            if load.is_ready && load.in_flight + load.queued < load.places {
                self.queue.set_watched(false);
                self.actions.push(Action::TellRoom);
            }
        }
    }
}
