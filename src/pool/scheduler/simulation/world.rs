//! What happens, in order, on a clock that is a number; and what the scheduler has decided is done.

use std::collections::BTreeMap;

use super::super::*;
use super::actors::*;
use super::oracle::{Oracle, Outcome};
use super::state::World;
use super::{always, elsewhere};

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x51_1D_41_6E);
        let r = &mut random;
        let limits = limits(r);
        let mishaps = (r.below(3) * r.below(60), r.below(20), r.below(15));
        let left_to_ask = 10 + r.below(90);
        // So late that it stays stuck over most of the schedule, or soon.
        let hang_timeout = if r.below(2) == 0 { 60 * SECOND } else { (100 + r.below(1000)) * MS };
        let mut scheduler = Scheduler::new(limits.clone(), seed);
        let oracle = Oracle::new(&limits);
        let others = Others::new(r);
        scheduler.tick(0);
        let mut world = Self {
            now: 0,
            random,
            limits,
            scheduler,
            requests: BTreeMap::new(),
            workers: BTreeMap::new(),
            others,
            is_watched: false,
            had_room: false,
            oracle,
            events: BTreeMap::new(),
            sequence: 0,
            next_tick: None,
            hang_timeout,
            mishaps,
            is_calm: false,
            is_closed_now: false,
            left_to_ask,
        };
        world.settle();
        world.schedule(0, Event::Ask);
        world
    }

    /// Runs until all requests have come, and then on without mishaps until all are over.
    pub(super) fn run(&mut self) {
        while self.left_to_ask > 0 {
            self.step();
        }
        self.is_calm = true;
        for _ in 0..100_000 {
            if self.requests.values().all(|request| request.state == RequestState::Over) {
                return;
            }
            assert!(self.step(), "requests are left, and nothing will happen");
        }
        panic!("requests are left after 100,000 events");
    }

    /// An empty role keeps trying: now that nothing goes wrong, a request is served. Then the role
    /// is closed, in one of both ways.
    pub(super) fn end(&mut self) {
        let before = self.now;
        let longest = 2 * self.limits.backoff.most + 60 * SECOND;
        // The failures of before may refuse it until a worker has started again.
        let served = loop {
            let number =
                self.ask_with(Effect::Answer(MS), self.now + 200 * SECOND, Elsewhere::Never);
            while self.requests[&number].state != RequestState::Over {
                assert!(self.step(), "the role has given up");
            }
            match self.oracle.outcomes[&number] {
                Outcome::Answered => break true,
                Outcome::Refused(Refusal::Degraded) if self.now - before < longest => {
                    assert!(self.step(), "the role has given up");
                }
                _ => break false,
            }
        };
        assert!(served, "a healthy role did not serve: {:?}", self.oracle.outcomes);
        for _ in 0..self.random.below(6) {
            self.ask();
        }
        if self.random.below(2) == 0 {
            self.is_closed_now = true;
            self.scheduler.close_now(self.now);
        } else {
            self.scheduler.close(self.now);
        }
        if self.is_closed_now {
            // The pool cancels them.
            let is_away = |state| matches!(state, RequestState::Leaves(_) | RequestState::Away(_));
            let all = self.requests.iter().filter(|(_, request)| is_away(request.state));
            for number in all.map(|(number, _)| *number).collect::<Vec<_>>() {
                self.recall(number, Outcome::Refused(Refusal::Closed));
            }
        }
        self.settle();
        let late = self.ask_with(Effect::Answer(MS), self.now + SECOND, Elsewhere::Never);
        self.oracle.note_close(late, self.is_closed_now);
        assert_eq!(self.oracle.outcomes[&late], Outcome::Refused(Refusal::Closed));
        while !self.scheduler.is_over() {
            assert!(self.step(), "the role is closed and does not end");
        }
        while self.requests.values().any(|request| request.state != RequestState::Over) {
            assert!(self.step(), "the role is over, and a request is not");
        }
        assert!(self.workers.is_empty(), "all workers are gone");
        assert_eq!(self.scheduler.next_tick(self.now), None);
        assert_eq!(self.scheduler.in_flight, 0);
        assert_eq!(self.oracle.outcomes.len(), self.requests.len(), "an outcome for each");
    }

    /// What happened, to compare two runs.
    pub(super) fn trace(&self) -> String {
        format!("{} {} {:?}", self.now, self.sequence, self.oracle.outcomes)
    }

    pub(super) fn schedule(&mut self, after: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + after, self.sequence), event);
    }

    /// Lets the next thing happen. Returns whether there was one.
    fn step(&mut self) -> bool {
        let Some(((now, _), event)) = self.events.pop_first() else { return false };
        assert!(now >= self.now);
        self.now = now;
        self.happen(event);
        self.settle();
        true
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Ask => {
                if self.left_to_ask > 0 {
                    self.left_to_ask -= 1;
                    self.ask();
                    let rate = [1, 20, 200][pick(&mut self.random, 3)];
                    let pause = self.random.below(rate * MS);
                    self.schedule(pause, Event::Ask);
                    self.mishap();
                    self.change_others();
                }
            }
            Event::Deadline(number) => self.deadline(number),
            Event::Started(id) => {
                if let Some(worker) = self.workers.get_mut(&key(id)) {
                    worker.is_ready = true;
                    (worker.ready_at, worker.idle_since) = (now, now);
                    self.oracle.note_ready();
                    self.scheduler.note_ready(now, id);
                }
            }
            Event::StartFailed(id) => self.report(id, Death::Failed),
            Event::Answered(id, number) => self.answered(id, number),
            Event::Done(number, grant) => {
                if self.requests[&number].state == RequestState::Lingers(grant) {
                    self.give_back(number, grant, Ending::Over);
                    self.set(number, RequestState::Over);
                }
            }
            Event::Died(id, cause) => self.die(id, cause),
            Event::Hung(id, number) => {
                let is_at_it = |worker: &Worker| worker.begun.contains(&number);
                if self.workers.get(&key(id)).is_some_and(is_at_it) {
                    self.die(id, Cause::Hang);
                }
            }
            Event::Reported(id, death) => self.report(id, death),
            Event::Attempt(number, grant, attempt) => self.attempt(number, grant, attempt),
            Event::Again(number) => self.again(number),
            Event::Stopped(id) => {
                if let Some(worker) = self.workers.remove(&key(id)) {
                    self.scheduler.note_stopped(now, id);
                    self.end_lingering(worker);
                }
            }
            Event::Arrives(number) => self.arrives(number),
            Event::Back(number, is_refused) => self.back(number, is_refused),
            Event::Others => self.others_change(),
            Event::Tick if self.next_tick == Some(now) => self.tick(),
            // The thread was made to look sooner.
            Event::Tick => {}
            Event::Recycle(why) => {
                let ids: Vec<_> = self.ready().collect();
                if let Some(id) = ids.get(pick(&mut self.random, ids.len().max(1))) {
                    self.scheduler.recycle(now, *id, why);
                }
            }
            Event::Reload => self.scheduler.reload(now),
            Event::Reset => {
                self.oracle.note_reset();
                self.scheduler.reset(now);
            }
        }
    }

    /// The pool's thread looks, and sleeps again.
    fn tick(&mut self) {
        let now = self.now;
        if self.scheduler.next_tick(now).is_some_and(|next| next <= now) {
            self.scheduler.tick(now);
        }
        let next = self.scheduler.next_tick(now);
        assert!(next.is_none_or(|next| next > now), "a tick that is due changes nothing");
        self.next_tick = next;
        if let Some(next) = next {
            self.schedule(next - now, Event::Tick);
        }
    }

    /// Something that may go wrong, now and then.
    fn mishap(&mut self) {
        let (_, crashes, kills) = self.mishaps;
        let after = self.random.below(20) * MS;
        let ids: Vec<_> = self.ready().collect();
        let victim = ids.get(pick(&mut self.random, ids.len().max(1))).copied();
        let roll = self.random.below(100);
        match victim {
            Some(id) if roll < crashes && self.workers[&key(id)].begun.is_empty() => {
                self.schedule(0, Event::Died(id, Cause::Crash));
            }
            Some(id) if roll < crashes + kills => {
                self.schedule(after, Event::Died(id, Cause::Kill));
            }
            _ => {}
        }
        match self.random.below(100) {
            0 => self.schedule(after, Event::Reload),
            1 => self.schedule(after, Event::Reset),
            2 | 3 => self.schedule(after, Event::Recycle(RecycleReason::Memory)),
            _ => {}
        }
    }

    fn ready(&self) -> impl Iterator<Item = WorkerId> {
        let ready = self.workers.iter().filter(|(_, worker)| worker.is_ready && !worker.is_dead);
        ready.map(|((slot, incarnation), _)| WorkerId { slot: *slot, incarnation: *incarnation })
    }

    pub(super) fn set(&mut self, number: u64, state: RequestState) {
        self.requests.get_mut(&number).unwrap().state = state;
    }

    pub(super) fn over(&mut self, number: u64, outcome: Outcome) {
        self.set(number, RequestState::Over);
        self.oracle.note_outcome(self.now, number, &self.requests[&number], outcome);
    }

    /// Carries out what the scheduler wants as the pool does, and looks whether all is as it must
    /// be.
    pub(super) fn settle(&mut self) {
        while self.scheduler.take_has_planned() | self.scheduler.has_actions() {
            let actions = self.scheduler.take_actions();
            let next = self.scheduler.next_tick(self.now);
            if let Some(next) = next.filter(|next| self.next_tick.is_none_or(|at| *next < at)) {
                let next = next.max(self.now);
                self.next_tick = Some(next);
                self.schedule(next - self.now, Event::Tick);
            }
            for action in actions {
                self.act(action);
            }
        }
        always::check(self);
        elsewhere::check(self);
        self.check_watched();
        let waiting = self.requests.values().filter_map(|request| match request.state {
            RequestState::Waits(_, since) => Some(since),
            _ => None,
        });
        self.oracle.note_step(self.now, waiting.min(), self.scheduler.fleet.target);
    }

    fn act(&mut self, action: Action<u64>) {
        match action {
            Action::Grant { owner, grant } => {
                let state = self.requests[&owner].state;
                assert!(matches!(state, RequestState::Waits(..)), "{state:?}");
                self.send(owner, grant);
            }
            Action::Leave { owner } => {
                let RequestState::Waits(_, since) = self.requests[&owner].state else {
                    panic!("{owner} does not wait, and is told to leave");
                };
                elsewhere::check_leave(self, owner);
                self.leave(owner, Some(since));
            }
            Action::LookElsewhere => self.look_elsewhere(),
            Action::TellRoom => self.note_told_room(),
            Action::Refuse { owner, why } => {
                if why == Refusal::Degraded {
                    always::check_degraded(self);
                }
                self.over(owner, Outcome::Refused(why));
            }
            Action::Start(id) => {
                self.oracle.note_start(self.now, self.scheduler.is_degraded());
                self.workers.insert(key(id), Worker::default());
                let (fails, ..) = self.mishaps;
                let does_fail = !self.is_calm && self.random.below(100) < fails;
                let after = self.random.below(300) * MS;
                let event = if does_fail { Event::StartFailed(id) } else { Event::Started(id) };
                self.schedule(after, event);
            }
            Action::Stop(id) => {
                let worker = self.workers.get_mut(&key(id)).unwrap();
                let is_idle = worker.holders.is_empty() || worker.is_dead || self.is_closed_now;
                assert!(is_idle, "a worker was stopped that had something to do");
                assert!(!worker.is_stopping, "a worker was stopped twice");
                worker.is_stopping = true;
                if self.is_closed_now {
                    self.end_requests(id);
                }
                let after = self.random.below(50) * MS;
                self.schedule(after, Event::Stopped(id));
            }
            Action::Note(note) => {
                if let Note::Recycled { worker, why } = note {
                    always::check_recycled(self, worker, why);
                    self.workers.get_mut(&key(worker)).unwrap().is_recycled = true;
                }
                self.oracle.note(note);
            }
        }
    }
}
