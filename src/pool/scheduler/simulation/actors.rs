//! The actors of a schedule: requests with what they do, workers, and what happens to them.

use std::collections::VecDeque;

use super::super::limits::RetryLimits;
use super::super::*;

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
    pub(super) asked: Asked,
    pub(super) history: History,
    pub(super) state: RequestState,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum RequestState {
    /// With the moment since which it waits.
    Waits(Ticket, u64),
    Granted(Grant),
    /// Its worker has died, and its caller is about to ask again.
    Returns,
    /// Its caller has given it up, and its worker is not done with it.
    Lingers(Grant),
    /// It was told to leave for the others, whose load does not count it yet: with the moment since which it
    /// had waited here.
    Leaves(Option<u64>),
    /// The others have it.
    Away(Option<u64>),
    Over,
}

/// A worker's process.
#[derive(Debug, Default)]
pub(super) struct Worker {
    pub(super) is_ready: bool,
    pub(super) is_dead: bool,
    /// It was told to end.
    pub(super) is_stopping: bool,
    pub(super) is_recycled: bool,
    pub(super) ready_at: u64,
    /// Since when it has had no request.
    pub(super) idle_since: u64,
    pub(super) granted: u64,
    /// What was sent and not begun.
    pub(super) queue: VecDeque<u64>,
    pub(super) begun: Vec<u64>,
    /// The requests that hold a place of it, as the pool counts them.
    pub(super) holders: Vec<(u64, Grant)>,
}

impl Worker {
    /// How many of the places are held by open-ended requests.
    pub(super) fn open_ended(&self) -> usize {
        self.holders.iter().filter(|(_, grant)| grant.is_open_ended).count()
    }
}

/// Workers that are not the role's own.
#[derive(Debug)]
pub(super) struct Others {
    pub(super) is_ready: bool,
    pub(super) places: usize,
    /// Requests of the role.
    pub(super) ours: usize,
    /// Requests of other roles.
    pub(super) alien: usize,
    /// Of a hundred requests so many are refused.
    pub(super) refusals: u64,
    /// They tell when they have room that they had not.
    pub(super) tells: bool,
}

impl Others {
    pub(super) fn new(r: &mut Random) -> Self {
        let refusals = [0, 0, 20, 100][pick(r, 4)];
        let (tells, places) = (r.below(3) != 0, pick(r, 4));
        Self { is_ready: r.below(4) != 0, places, ours: 0, alien: 0, refusals, tells }
    }

    /// How many places are seen to be free.
    pub(super) fn free(&self) -> usize {
        match self.is_ready {
            true => self.places.saturating_sub(self.ours + self.alien),
            false => 0,
        }
    }

    pub(super) fn takes_requests(&self) -> Elsewhere {
        match (self.is_ready, self.free()) {
            (false, _) => Elsewhere::Later,
            (true, 0) => Elsewhere::IfRefused,
            (true, _) => Elsewhere::IfFull,
        }
    }
}

/// Why a process ends that was not told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// By its own code.
    Crash,
    /// By an operator.
    Kill,
    /// By the pool, as it makes no progress.
    Hang,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Ask,
    Deadline(u64),
    Started(WorkerId),
    StartFailed(WorkerId),
    Answered(WorkerId, u64),
    /// The pool finds that a worker is done with a request that was given up.
    Done(u64, Grant),
    Died(WorkerId, Cause),
    /// The pool finds that a request makes no progress.
    Hung(WorkerId, u64),
    /// The pool learns of a death.
    Reported(WorkerId, Death),
    /// A caller learns of its worker's death.
    Attempt(u64, Grant, Attempt),
    /// A caller asks again.
    Again(u64),
    Stopped(WorkerId),
    /// A request that was told to leave arrives at the others.
    Arrives(u64),
    /// The others are done with a request: they have answered it, or have refused it.
    Back(u64, bool),
    /// What others do changes the load of the others.
    Others,
    Tick,
    Recycle(RecycleReason),
    Reload,
    Reset,
}

pub(super) fn limits(r: &mut Random) -> Limits {
    let max_size = 1 + pick(r, 4);
    Limits {
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
    }
}

pub(super) fn attempt(was_begun: Option<bool>, grant: Grant, was_killed: bool) -> Attempt {
    Attempt { was_begun, was_alone: grant.is_alone, was_killed, has_delivered: false }
}

pub(super) fn key(id: WorkerId) -> (usize, u64) {
    (id.slot, id.incarnation)
}

pub(super) fn pick(random: &mut Random, end: usize) -> usize {
    usize::try_from(random.below(u64::try_from(end).unwrap())).unwrap()
}

pub(super) fn some<T>(random: &mut Random, make: impl FnOnce(&mut Random) -> T) -> Option<T> {
    (random.below(2) == 0).then(|| make(random))
}
