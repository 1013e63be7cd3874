//! What workers do: they take requests, answer them, and end.

use super::super::*;
use super::actors::*;
use super::oracle::Outcome;
use super::state::World;

impl World {
    pub(super) fn send(&mut self, number: u64, grant: Grant) {
        self.set(number, RequestState::Granted(grant));
        let Some(worker) = self.workers.get_mut(&key(grant.worker)) else {
            panic!("request {number} was granted a worker that is gone");
        };
        assert!(worker.is_ready, "request {number} was granted a worker that is not ready");
        assert_eq!(grant.is_open_ended, self.requests[&number].asked.is_open_ended);
        let is_behind = worker.holders.len() >= self.limits.concurrency;
        assert!(
            !is_behind || worker.open_ended() < self.limits.concurrency,
            "it waits for callers"
        );
        worker.holders.push((number, grant));
        worker.granted += 1;
        let is_suspect = self.requests[&number].history.is_suspect;
        assert_eq!(grant.is_alone, is_suspect, "suspects alone are served alone");
        if worker.is_dead {
            self.schedule(0, Event::Attempt(number, grant, attempt(Some(false), grant, false)));
            return;
        }
        worker.queue.push_back(number);
        self.begin(grant.worker);
    }

    /// A request no longer holds a place of its worker.
    pub(super) fn give_back(&mut self, number: u64, grant: Grant, ending: Ending) {
        self.leave_worker(number, grant);
        self.scheduler.finish(self.now, grant, ending);
    }

    pub(super) fn leave_worker(&mut self, number: u64, grant: Grant) {
        if let Some(worker) = self.workers.get_mut(&key(grant.worker)) {
            worker.holders.retain(|(holder, _)| *holder != number);
            if worker.holders.is_empty() {
                worker.idle_since = self.now;
            }
        }
    }

    /// A worker begins what it can, and passes over what was given up.
    pub(super) fn begin(&mut self, id: WorkerId) {
        loop {
            let worker = self.workers.get_mut(&key(id)).unwrap();
            if worker.is_dead || worker.begun.len() >= self.limits.concurrency {
                return;
            }
            let Some(number) = worker.queue.pop_front() else { return };
            if let RequestState::Lingers(grant) = self.requests[&number].state {
                self.be_done(number, grant);
                continue;
            }
            worker.begun.push(number);
            self.oracle.note_begun(number);
            match self.requests[&number].effect {
                Effect::Answer(time) => self.schedule(time, Event::Answered(id, number)),
                Effect::Kill(time) => self.schedule(time, Event::Died(id, Cause::Crash)),
                Effect::Hang => {
                    let after = self.hang_timeout + self.random.below(self.hang_timeout / 4);
                    self.schedule(after, Event::Hung(id, number));
                }
            }
        }
    }

    pub(super) fn answered(&mut self, id: WorkerId, number: u64) {
        let Some(worker) = self.workers.get_mut(&key(id)).filter(|worker| !worker.is_dead) else {
            return;
        };
        let Some(at) = worker.begun.iter().position(|begun| *begun == number) else { return };
        worker.begun.remove(at);
        match self.requests[&number].state {
            RequestState::Granted(grant) => {
                self.give_back(number, grant, Ending::Over);
                self.over(number, Outcome::Answered);
            }
            RequestState::Lingers(grant) => self.be_done(number, grant),
            other => panic!("an answer for a request that is {other:?}"),
        }
        self.begin(id);
    }

    /// A worker is done with a request that was given up. The pool finds that out later.
    pub(super) fn be_done(&mut self, number: u64, grant: Grant) {
        let after = self.random.below(100) * MS;
        self.schedule(after, Event::Done(number, grant));
    }

    /// A process ends: callers and the pool learn of it one after another, in any order.
    pub(super) fn die(&mut self, id: WorkerId, cause: Cause) {
        let Some(worker) = self.workers.get_mut(&key(id)) else { return };
        if worker.is_dead || !worker.is_ready || (self.is_calm && cause == Cause::Kill) {
            return;
        }
        let is_by_request = |number: &u64| matches!(self.requests[number].effect, Effect::Kill(_));
        if cause == Cause::Crash
            && !worker.begun.is_empty()
            && !worker.begun.iter().any(is_by_request)
        {
            // It was to crash without a request.
            return;
        }
        worker.is_dead = true;
        let (begun, queued) =
            (std::mem::take(&mut worker.begun), std::mem::take(&mut worker.queue));
        let was_killed = cause == Cause::Kill;
        let death = match (begun.is_empty(), was_killed) {
            (false, _) => Death::Serving,
            (true, true) => Death::Killed,
            (true, false) => Death::Failed,
        };
        let after = self.random.below(5) * MS;
        self.schedule(after, Event::Reported(id, death));
        let all = begun.iter().map(|number| (*number, true));
        for (number, was_begun) in all.chain(queued.iter().map(|number| (*number, false))) {
            let RequestState::Granted(grant) = self.requests[&number].state else { continue };
            let is_known = self.random.below(20) != 0;
            let attempt = attempt(is_known.then_some(was_begun), grant, was_killed);
            let after = self.random.below(5) * MS;
            self.schedule(after, Event::Attempt(number, grant, attempt));
        }
    }

    pub(super) fn report(&mut self, id: WorkerId, death: Death) {
        if let Some(worker) = self.workers.remove(&key(id)) {
            self.oracle.note_death(self.now, &mut self.scheduler, id, death);
            self.end_lingering(worker);
        }
    }

    /// A worker's end is known: the places that linger at it are given back.
    pub(super) fn end_lingering(&mut self, worker: Worker) {
        for (number, grant) in worker.holders {
            if self.requests[&number].state == RequestState::Lingers(grant) {
                self.set(number, RequestState::Over);
                self.scheduler.finish(self.now, grant, Ending::Over);
            }
        }
    }

    /// The requests of a worker that is ended although it has some.
    pub(super) fn end_requests(&mut self, id: WorkerId) {
        let worker = self.workers.get_mut(&key(id)).unwrap();
        (worker.begun, worker.queue) = Default::default();
        for (number, grant) in worker.holders.clone() {
            if self.requests[&number].state == RequestState::Granted(grant) {
                self.give_back(number, grant, Ending::WorkerDied);
                self.over(number, Outcome::Refused(Refusal::Closed));
            }
        }
    }
}
