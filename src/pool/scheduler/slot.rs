//! The place of one worker.

use super::limits::Limits;
use super::random::Random;

/// Which worker a request may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) worker: WorkerId,
    /// Whether the worker serves nothing else meanwhile.
    pub(crate) is_alone: bool,
    /// Whether its caller still decides how long the request takes: see [`Asked`](super::Asked).
    pub(crate) is_open_ended: bool,
}

/// One worker: a slot, and how many workers it had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WorkerId {
    pub(crate) slot: usize,
    pub(crate) incarnation: u64,
}

/// Why a worker is ended that could go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecycleReason {
    /// It was as old as `max_lifetime` allows.
    Lifetime,
    /// It had served `max_requests`.
    Requests,
    /// It used more memory than `max_rss`.
    Memory,
    /// The role has another recipe now.
    Recipe,
}

impl RecycleReason {
    /// All reasons.
    pub(crate) const ALL: [Self; 4] = [Self::Lifetime, Self::Requests, Self::Memory, Self::Recipe];

    /// Returns the reason's name in lower case, such as `lifetime`, for a label of a metric.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lifetime => "lifetime",
            Self::Requests => "requests",
            Self::Memory => "memory",
            Self::Recipe => "recipe",
        }
    }
}

/// What a slot's worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Empty,
    Starting,
    /// It is ready, and gets nothing.
    Spare,
    Serving,
    /// It gets nothing more, and is stopped when it has nothing left.
    Draining,
    Stopping,
    /// A request has found it dead; the report of its end is to come.
    Dead,
}

/// Whether a worker is kept from requests that share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reserved {
    No,
    /// A request that is tried alone gets it when it has nothing left.
    Kept,
    /// It serves such a request.
    Alone,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: State,
    pub(super) incarnation: u64,
    /// Requests that were granted and have not finished.
    pub(super) in_flight: usize,
    /// Those of them that are open-ended.
    pub(super) open_ended: usize,
    pub(super) granted: u64,
    pub(super) recipe: u64,
    pub(super) reserved: Reserved,
    /// To be replaced.
    pub(super) due: Option<RecycleReason>,
    pub(super) idle_since: u64,
    pub(super) ends_at: Option<u64>,
    pub(super) most_requests: Option<u64>,
    /// Not started again before.
    pub(super) not_before: u64,
}

impl Slot {
    pub(super) fn new() -> Self {
        Self {
            state: State::Empty,
            incarnation: 0,
            in_flight: 0,
            open_ended: 0,
            granted: 0,
            recipe: 0,
            reserved: Reserved::No,
            due: None,
            idle_since: 0,
            ends_at: None,
            most_requests: None,
            not_before: 0,
        }
    }

    pub(super) fn start(&mut self, recipe: u64) {
        self.state = State::Starting;
        self.recipe = recipe;
    }

    pub(super) fn make_ready(&mut self, now: u64, limits: &Limits, random: &mut Random) {
        self.state = State::Spare;
        self.idle_since = now;
        let mut shortened = |limit: u64| {
            let most = u128::from(limit) * u128::from(limits.jitter.min(100)) / 100;
            limit - random.below(u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1))
        };
        self.ends_at = limits.max_lifetime.map(|limit| now.saturating_add(shortened(limit)));
        self.most_requests = limits.max_requests.map(|limit| shortened(limit).max(1));
    }

    /// The worker is gone, however it ended. What still names it means nothing any more.
    pub(super) fn empty(&mut self) {
        let incarnation = self.incarnation + 1;
        *self = Self { incarnation, not_before: self.not_before, ..Self::new() };
    }

    /// Whether it is a process that was not told to end.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self.state, State::Starting | State::Spare | State::Serving)
    }

    /// Whether it is ready, and was not told to end.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Spare | State::Serving)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state == State::Empty
    }

    /// Whether it serves, and has nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.state == State::Serving && self.in_flight == 0 && self.reserved == Reserved::No
    }

    /// Whether it can be given a request beside others.
    pub(super) fn has_place(&self, limits: &Limits) -> bool {
        self.state == State::Serving
            && self.reserved == Reserved::No
            && self.in_flight < limits.places_beside(self.open_ended)
    }
}
