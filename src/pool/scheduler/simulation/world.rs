//! Workers, callers and mishaps, on a clock that is a number.

use std::collections::{BTreeMap, VecDeque};

use super::super::limits::RetryLimits;
use super::super::*;
use super::oracle::{Oracle, Outcome};

pub(super) const MS: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1000 * MS;

/// What a request does to its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It is answered, or its handler fails, after some time.
    Answer(u64),
    /// It kills its worker after some time.
    Kill(u64),
    /// It never ends by itself.
    Hang,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) effect: Effect,
    pub(super) deadline: u64,
    asked: Asked,
    history: History,
    state: RequestState,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum RequestState {
    Waits(Ticket),
    Granted(Grant),
    Over,
}

/// A worker's process.
#[derive(Debug, Default)]
pub(super) struct Worker {
    pub(super) is_ready: bool,
    pub(super) is_dead: bool,
    queue: VecDeque<u64>,
    pub(super) begun: Vec<u64>,
}

impl Worker {
    pub(super) fn has(&self) -> usize {
        self.queue.len() + self.begun.len()
    }
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Ask,
    Deadline(u64),
    Started(WorkerId),
    StartFailed(WorkerId),
    Answered(WorkerId, u64),
    Crashed(WorkerId),
    Killed(WorkerId),
    /// The pool learns of a death.
    Reported(WorkerId, Death),
    /// A caller learns of its worker's death.
    Attempt(u64, Grant, Attempt),
    Stopped(WorkerId),
    Tick,
    Recycle(RecycleReason),
    Reload,
    Reset,
}

pub(super) struct World {
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) limits: Limits,
    pub(super) scheduler: Scheduler<u64>,
    pub(super) requests: BTreeMap<u64, Request>,
    pub(super) workers: BTreeMap<(usize, u64), Worker>,
    pub(super) oracle: Oracle,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    next_tick: Option<u64>,
    /// Percent of starts that fail; of idle workers that crash at a look; of looks that kill.
    mishaps: (u64, u64, u64),
    is_calm: bool,
    is_closed_now: bool,
    left_to_ask: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x51_1D_41_6E);
        let r = &mut random;
        let max_size = 1 + pick(r, 4);
        let limits = Limits {
            min_idle: pick(r, max_size + 1),
            max_size,
            spares: pick(r, 3).saturating_sub(1),
            is_lazy: r.below(3) == 0,
            max_starts: 1 + pick(r, 3),
            concurrency: 1 + pick(r, 3),
            prefetch: pick(r, 3),
            max_waiting: 1 + pick(r, 40),
            grow_after: r.below(100) * MS,
            idle_timeout: some(r, |r| (100 + r.below(3000)) * MS),
            max_lifetime: some(r, |r| (200 + r.below(5000)) * MS),
            max_requests: some(r, |r| 1 + r.below(30)),
            jitter: r.below(30),
            stop_first: r.below(3) == 0,
            failures_per_worker: 1 + pick(r, 5),
            failure_period: (1 + r.below(60)) * SECOND,
            retry: RetryLimits {
                percent: pick(r, 50),
                least: pick(r, 6),
                period: (1 + r.below(10)) * SECOND,
                max_attempts: 1 + u32::try_from(r.below(5)).unwrap(),
            },
            ..Limits::default()
        };
        let mishaps = (r.below(3) * r.below(60), r.below(20), r.below(15));
        let left_to_ask = 10 + r.below(90);
        let scheduler = Scheduler::new(limits.clone(), seed);
        let oracle = Oracle::new(&limits);
        let mut world = Self {
            now: 0,
            random,
            limits,
            scheduler,
            requests: BTreeMap::new(),
            workers: BTreeMap::new(),
            oracle,
            events: BTreeMap::new(),
            sequence: 0,
            next_tick: None,
            mishaps,
            is_calm: false,
            is_closed_now: false,
            left_to_ask,
        };
        world.schedule(0, Event::Ask);
        world.schedule(0, Event::Tick);
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
            let number = self.ask_with(Effect::Answer(MS), self.now + 200 * SECOND);
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
        self.settle();
        while !self.scheduler.is_over() {
            assert!(self.step(), "the role is closed and does not end");
        }
        while self.requests.values().any(|request| request.state != RequestState::Over) {
            assert!(self.step(), "the role is over, and a request is not");
        }
        assert!(self.workers.is_empty(), "all workers are gone");
        assert_eq!(self.scheduler.next_tick(self.now), None);
    }

    /// What happened, to compare two runs.
    pub(super) fn trace(&self) -> String {
        format!("{} {} {:?}", self.now, self.sequence, self.oracle.outcomes)
    }

    fn schedule(&mut self, after: u64, event: Event) {
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
                }
            }
            Event::Deadline(number) => self.deadline(number),
            Event::Started(id) => {
                if let Some(worker) = self.workers.get_mut(&key(id)) {
                    worker.is_ready = true;
                    self.scheduler.note_ready(now, id);
                }
            }
            Event::StartFailed(id) => self.report(id, Death::Failed),
            Event::Answered(id, number) => {
                let is_here = |worker: &mut Worker| {
                    let at = worker.begun.iter().position(|begun| *begun == number);
                    !worker.is_dead && at.map(|at| worker.begun.remove(at)).is_some()
                };
                if self.workers.get_mut(&key(id)).is_some_and(is_here) {
                    let RequestState::Granted(grant) = self.requests[&number].state else {
                        panic!("an answer for nobody")
                    };
                    self.scheduler.finish(now, grant, Ending::Over);
                    self.over(number, Outcome::Answered);
                    self.begin(id);
                }
            }
            Event::Crashed(id) => self.die(id, false),
            Event::Killed(id) if !self.is_calm => self.die(id, true),
            Event::Killed(_) => {}
            Event::Reported(id, death) => self.report(id, death),
            Event::Attempt(number, grant, attempt) => self.attempt(number, grant, attempt),
            Event::Stopped(id) => {
                if self.workers.remove(&key(id)).is_some() {
                    self.scheduler.note_stopped(now, id);
                }
            }
            Event::Tick => {
                self.next_tick = None;
                self.scheduler.tick(now);
                let next = self.scheduler.next_tick(self.now);
                assert!(next.is_none_or(|next| next > now), "a tick that is due changes nothing");
            }
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

    /// Something that may go wrong, now and then.
    fn mishap(&mut self) {
        let (_, crashes, kills) = self.mishaps;
        let after = self.random.below(20) * MS;
        let ids: Vec<_> = self.ready().collect();
        let victim = ids.get(pick(&mut self.random, ids.len().max(1))).copied();
        let roll = self.random.below(100);
        match victim {
            Some(id) if roll < crashes && self.workers[&key(id)].has() == 0 => {
                self.schedule(0, Event::Crashed(id));
            }
            Some(id) if roll < crashes + kills => self.schedule(after, Event::Killed(id)),
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

    fn ask(&mut self) {
        let r = &mut self.random;
        let time = r.below(60) * MS;
        let effect = match r.below(100) {
            0..8 => Effect::Kill(time / 4),
            8..11 => Effect::Hang,
            _ => Effect::Answer(time),
        };
        let deadline = self.now + (50 + r.below(4000)) * MS;
        self.ask_with(effect, deadline);
    }

    fn ask_with(&mut self, effect: Effect, deadline: u64) -> u64 {
        let number = u64::try_from(self.requests.len()).unwrap() + 1;
        let r = &mut self.random;
        let priority = Priority::ALL[pick(r, 3)];
        let asked = Asked { number, priority, key: some(r, |r| r.below(8)) };
        let history = History { is_idempotent: r.below(2) == 0, ..History::default() };
        let (effect, state) = (effect, RequestState::Over);
        self.requests.insert(number, Request { effect, deadline, asked, history, state });
        self.oracle.note_request(self.now, number, &self.requests[&number], history);
        let admission = self.scheduler.admit(self.now, asked, || number);
        if matches!(admission, Admission::Granted(_) | Admission::Waits(_)) {
            self.oracle.note_taken(self.now);
        }
        self.schedule(deadline - self.now, Event::Deadline(number));
        self.admitted(number, admission);
        self.settle();
        number
    }

    fn admitted(&mut self, number: u64, admission: Admission) {
        match admission {
            Admission::Granted(grant) => self.send(number, grant),
            Admission::Waits(ticket) => self.set(number, RequestState::Waits(ticket)),
            Admission::Refused(why) => self.over(number, Outcome::Refused(why)),
        }
    }

    fn set(&mut self, number: u64, state: RequestState) {
        self.requests.get_mut(&number).unwrap().state = state;
    }

    fn over(&mut self, number: u64, outcome: Outcome) {
        self.set(number, RequestState::Over);
        self.oracle.note_outcome(self.now, number, &self.requests[&number], outcome);
    }

    fn send(&mut self, number: u64, grant: Grant) {
        self.set(number, RequestState::Granted(grant));
        let Some(worker) = self.workers.get_mut(&key(grant.worker)) else {
            panic!("request {number} was granted a worker that is gone");
        };
        assert!(worker.is_ready, "request {number} was granted a worker that is not ready");
        let most = if grant.is_alone { 1 } else { self.limits.places() };
        if worker.is_dead {
            self.schedule(0, Event::Attempt(number, grant, attempt(Some(false), grant, false)));
            return;
        }
        worker.queue.push_back(number);
        assert!(worker.has() <= most, "worker {grant:?} has {}, limit {most}", worker.has());
        self.begin(grant.worker);
    }

    /// A worker begins what it can.
    fn begin(&mut self, id: WorkerId) {
        loop {
            let worker = self.workers.get_mut(&key(id)).unwrap();
            if worker.is_dead || worker.begun.len() >= self.limits.concurrency {
                return;
            }
            let Some(number) = worker.queue.pop_front() else { return };
            worker.begun.push(number);
            self.oracle.note_begun(number);
            match self.requests[&number].effect {
                Effect::Answer(time) => self.schedule(time, Event::Answered(id, number)),
                Effect::Kill(time) => self.schedule(time, Event::Crashed(id)),
                Effect::Hang => {}
            }
        }
    }

    fn deadline(&mut self, number: u64) {
        match self.requests[&number].state {
            RequestState::Over => {}
            RequestState::Waits(ticket) => {
                let left = self.scheduler.leave(self.now, ticket);
                assert_eq!(left, Some(number), "a request that waits is in the queue");
                self.over(number, Outcome::QueueTimeout);
            }
            RequestState::Granted(grant) => {
                if let Some(worker) = self.workers.get_mut(&key(grant.worker)) {
                    worker.queue.retain(|other| *other != number);
                    worker.begun.retain(|other| *other != number);
                }
                self.scheduler.finish(self.now, grant, Ending::Over);
                self.over(number, Outcome::Timeout);
                if self.workers.contains_key(&key(grant.worker)) {
                    self.begin(grant.worker);
                }
            }
        }
    }

    /// A process ends: callers and the pool learn of it one after another, in any order.
    fn die(&mut self, id: WorkerId, was_killed: bool) {
        let Some(worker) = self.workers.get_mut(&key(id)) else { return };
        if worker.is_dead || !worker.is_ready {
            return;
        }
        let is_by_request = |number: &u64| matches!(self.requests[number].effect, Effect::Kill(_));
        if !was_killed && !worker.begun.is_empty() && !worker.begun.iter().any(is_by_request) {
            // The request that was to kill it has left in time.
            return;
        }
        worker.is_dead = true;
        let (begun, queued) =
            (std::mem::take(&mut worker.begun), std::mem::take(&mut worker.queue));
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

    fn report(&mut self, id: WorkerId, death: Death) {
        let Some(_) = self.workers.remove(&key(id)) else { return };
        self.oracle.note_death(self.now, &mut self.scheduler, id, death);
    }

    fn attempt(&mut self, number: u64, grant: Grant, attempt: Attempt) {
        let request = self.requests.get_mut(&number).unwrap();
        if request.state != RequestState::Granted(grant) {
            return;
        }
        self.scheduler.finish(self.now, grant, Ending::WorkerDied);
        let retries = request.history.retries;
        let verdict = self.scheduler.judge(self.now, &mut request.history, attempt);
        match verdict {
            Verdict::Again => {
                if request.history.retries > retries {
                    self.oracle.note_retry(self.now);
                }
                let request = &self.requests[&number];
                let (asked, history) = (request.asked, request.history);
                let admission = self.scheduler.admit_again(self.now, asked, &history, || number);
                self.admitted(number, admission);
            }
            Verdict::Over(reason) => {
                self.oracle.note_verdict(self.now, reason, attempt);
                self.over(number, Outcome::Failed(reason));
            }
        }
    }

    /// Carries out what the scheduler wants, and looks whether all is as it must be.
    fn settle(&mut self) {
        while self.scheduler.has_actions() {
            for action in self.scheduler.take_actions() {
                self.act(action);
            }
        }
        super::oracle::check(self);
        let next = self.scheduler.next_tick(self.now);
        if let Some(next) = next.filter(|next| self.next_tick.is_none_or(|at| *next < at)) {
            self.next_tick = Some(next);
            self.schedule(next.saturating_sub(self.now), Event::Tick);
        }
    }

    fn act(&mut self, action: Action<u64>) {
        match action {
            Action::Grant { owner, grant } => {
                let state = self.requests[&owner].state;
                assert!(matches!(state, RequestState::Waits(_) | RequestState::Over), "{state:?}");
                self.send(owner, grant);
            }
            Action::Refuse { owner, why } => self.over(owner, Outcome::Refused(why)),
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
                let worker = &self.workers[&key(id)];
                let is_idle = worker.has() == 0 || worker.is_dead || self.is_closed_now;
                assert!(is_idle, "a worker was stopped that had something to do");
                if self.is_closed_now {
                    self.end_requests(id);
                }
                let after = self.random.below(50) * MS;
                self.schedule(after, Event::Stopped(id));
            }
            Action::Note(note) => self.oracle.note(self.now, note),
        }
    }

    /// The requests of a worker that is ended although it has some.
    fn end_requests(&mut self, id: WorkerId) {
        let worker = self.workers.get_mut(&key(id)).unwrap();
        let begun = std::mem::take(&mut worker.begun);
        let all = begun.into_iter().chain(std::mem::take(&mut worker.queue));
        for number in all.collect::<Vec<_>>() {
            if let RequestState::Granted(grant) = self.requests[&number].state {
                self.scheduler.finish(self.now, grant, Ending::WorkerDied);
                self.over(number, Outcome::Refused(Refusal::Closed));
            }
        }
    }

    /// Requests that were granted and are not over, as their callers count them.
    pub(super) fn in_flight(&self) -> usize {
        let granted = |request: &&Request| matches!(request.state, RequestState::Granted(_));
        self.requests.values().filter(granted).count()
    }
}

fn attempt(was_begun: Option<bool>, grant: Grant, was_killed: bool) -> Attempt {
    Attempt { was_begun, was_alone: grant.is_alone, was_killed, has_delivered: false }
}

fn key(id: WorkerId) -> (usize, u64) {
    (id.slot, id.incarnation)
}

fn pick(random: &mut Random, end: usize) -> usize {
    usize::try_from(random.below(u64::try_from(end).unwrap())).unwrap()
}

fn some<T>(random: &mut Random, make: impl FnOnce(&mut Random) -> T) -> Option<T> {
    (random.below(2) == 0).then(|| make(random))
}
