//! How far a worker is with a request.

/// How far a worker was with a request.
///
/// A worker that serves one request at a time begins each request as soon as it has taken it. A
/// worker that serves many takes requests, and begins them when a thread, a batch or a step is
/// ready: it says so with [`OwnedResponder::begin`](crate::worker::OwnedResponder::begin), or by
/// calling a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum RequestStage {
    /// The worker had not taken the request: it waited in shared memory, was not sent, or the worker
    /// refused it, because it came too late or there is no handler for its kind.
    Queued,
    /// The worker had taken the request, and had begun nothing of it. The request can be sent
    /// again, like one that was not taken.
    Taken,
    /// The request had been begun: it may have had any part of its effects.
    Begun,
}

/// What a worker has marked of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Taken,
    Begun,
    /// Its last frame is about to be sent, or was sent and its handler still runs.
    Answered,
    /// Its last frame was sent, and its handler has returned.
    Done,
}

impl Stage {
    pub(crate) fn code(self) -> u64 {
        match self {
            Self::Taken => 1,
            Self::Begun => 2,
            Self::Answered => 3,
            Self::Done => 4,
        }
    }

    pub(crate) fn from_code(code: u64) -> Option<Self> {
        [Self::Taken, Self::Begun, Self::Answered, Self::Done]
            .into_iter()
            .find(|stage| stage.code() == code)
    }
}

/// A request with what its worker has marked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) request: u64,
    pub(crate) stage: Stage,
    /// When it was taken or begun, in nanoseconds of the monotonic clock.
    pub(crate) since: u64,
    pub(crate) progress: u64,
    /// Its stream waits until its reader has taken more.
    pub(crate) awaits_credit: bool,
}

impl Mark {
    /// Whether a handler works on the request.
    pub(crate) fn is_begun(&self) -> bool {
        self.stage == Stage::Begun
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.stage == Stage::Taken
    }

    /// Whether a handler has ever seen the request.
    pub(crate) fn was_begun(&self) -> bool {
        self.stage != Stage::Taken
    }
}
