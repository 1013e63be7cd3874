//! What callers do: they ask, wait, give up, and ask again.

use super::super::*;
use super::actors::*;
use super::always;
use super::oracle::Outcome;
use super::state::World;

impl World {
    pub(super) fn ask(&mut self) {
        let r = &mut self.random;
        let time = r.below(60) * MS;
        let effect = match r.below(100) {
            0..8 => Effect::Kill(time / 4),
            8..11 => Effect::Hang,
            _ => Effect::Answer(time),
        };
        let deadline = self.now + (50 + r.below(4000)) * MS;
        // In some schedules it is looked at too early: what was seen is not so any more.
        let elsewhere = match self.random.below(8) {
            0 => Elsewhere::Never,
            1 => Elsewhere::IfFull,
            _ => self.others.takes_requests(),
        };
        self.ask_with(effect, deadline, elsewhere);
    }

    pub(super) fn ask_with(&mut self, effect: Effect, deadline: u64, elsewhere: Elsewhere) -> u64 {
        let number = u64::try_from(self.requests.len()).unwrap() + 1;
        let r = &mut self.random;
        let priority = Priority::ALL[pick(r, 3)];
        let key = some(r, |r| r.below(8));
        let is_open_ended = r.below(3) == 0;
        let asked = Asked { number, priority, key, elsewhere, is_open_ended };
        let history = History { is_idempotent: r.below(2) == 0, ..History::default() };
        let state = RequestState::Over;
        let preferred = asked.key.and_then(|key| always::preferred(self, key));
        let admission = self.scheduler.admit(self.now, asked, || number);
        always::check_admission(self, &admission, preferred);
        self.requests.insert(number, Request { effect, deadline, asked, history, state });
        self.oracle.note_request(number, history);
        if matches!(admission, Admission::Granted(_) | Admission::Waits(_)) {
            self.oracle.note_taken(self.now);
        }
        self.schedule(deadline - self.now, Event::Deadline(number));
        self.admitted(number, admission);
        self.settle();
        number
    }

    pub(super) fn admitted(&mut self, number: u64, admission: Admission) {
        match admission {
            Admission::Granted(grant) => self.send(number, grant),
            Admission::Waits(ticket) => self.set(number, RequestState::Waits(ticket, self.now)),
            Admission::Refused(why) => self.over(number, Outcome::Refused(why)),
            Admission::Elsewhere => self.leave(number, None),
        }
    }

    pub(super) fn deadline(&mut self, number: u64) {
        match self.requests[&number].state {
            RequestState::Over | RequestState::Lingers(_) | RequestState::Returns => {}
            RequestState::Waits(ticket, _) => {
                let left = self.scheduler.leave(self.now, ticket);
                assert_eq!(left, Some(number), "a request that waits is in the queue");
                self.over(number, Outcome::QueueTimeout);
            }
            RequestState::Leaves(_) | RequestState::Away(_) => {
                self.recall(number, Outcome::Timeout);
            }
            RequestState::Granted(grant) => {
                self.over(number, Outcome::Timeout);
                let r = &mut self.random;
                let Some(worker) = self.workers.get_mut(&key(grant.worker)) else {
                    self.scheduler.finish(self.now, grant, Ending::Over);
                    return;
                };
                let at = worker.queue.iter().position(|queued| *queued == number);
                // Now and then it was not even sent: there was no room for it in the ring.
                if let Some(at) = at.filter(|_| r.below(8) == 0) {
                    worker.queue.remove(at);
                    self.give_back(number, grant, Ending::Over);
                } else {
                    let left = self.scheduler.end_open(self.now, grant);
                    let mut holders = worker.holders.iter_mut();
                    holders.find(|(holder, _)| *holder == number).unwrap().1 = left;
                    self.set(number, RequestState::Lingers(left));
                }
            }
        }
    }

    pub(super) fn attempt(&mut self, number: u64, grant: Grant, attempt: Attempt) {
        if self.requests[&number].state != RequestState::Granted(grant) {
            return;
        }
        self.leave_worker(number, grant);
        let request = self.requests.get_mut(&number).unwrap();
        let before = request.history;
        let history = &mut request.history;
        let verdict = self.scheduler.end_dead(self.now, grant, history, attempt);
        self.oracle.note_judged(before, request.history, attempt, verdict);
        match verdict {
            Verdict::Again => {
                if request.history.retries > before.retries {
                    self.oracle.note_retry(self.now);
                }
                self.set(number, RequestState::Returns);
                let left = self.requests[&number].deadline - self.now;
                let after = (self.random.below(3) * MS).min(left);
                self.schedule(after, Event::Again(number));
            }
            Verdict::Over(reason) => {
                self.oracle.note_verdict(self.now, reason, attempt);
                self.over(number, Outcome::Failed(reason));
            }
        }
    }

    /// A caller asks again.
    pub(super) fn again(&mut self, number: u64) {
        if self.requests[&number].state != RequestState::Returns {
            return;
        }
        // Now and then its caller has gone, or has cancelled it.
        if self.random.below(16) == 0 {
            self.over(number, Outcome::Cancelled);
            self.scheduler.give_up(self.now);
            return self.settle();
        }
        let request = &self.requests[&number];
        let (asked, history, deadline) = (request.asked, request.history, request.deadline);
        let admission = self.scheduler.admit_again(self.now, asked, &history, || number);
        self.admitted(number, admission);
        self.settle();
        if deadline <= self.now {
            self.deadline(number);
        }
    }
}
