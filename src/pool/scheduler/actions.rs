//! What is asked of a role's scheduler, and what it decides.

use super::queue::Ticket;
use super::slot::{Grant, RecycleReason, WorkerId};
use crate::priority::Priority;

/// What is to be done, in this order.
#[derive(Debug)]
pub(crate) enum Action<W> {
    /// The request may be sent.
    Grant {
        owner: W,
        grant: Grant,
    },
    /// The request is over.
    Refuse {
        owner: W,
        why: Refusal,
    },
    /// A worker is to be started.
    Start(WorkerId),
    /// A worker is to be ended; it has nothing in flight, unless the role was closed.
    Stop(WorkerId),
    Note(Note),
    /// The request is to go to workers that are not the role's own.
    Leave {
        owner: W,
    },
    /// Places of workers that are not the role's own are to be looked for, and offered.
    LookElsewhere,
    /// Those that watch for room are to be told that there is some.
    TellRoom,
}

/// What has changed, for events and counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Note {
    Recycled { worker: WorkerId, why: RecycleReason },
    Degraded,
    Healed,
}

/// Why a request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Overloaded(Overload),
    /// No worker can be started.
    Degraded,
    Closed,
}

/// How full a role was. Times are nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overload {
    pub(crate) queued: usize,
    pub(crate) limit: usize,
    pub(crate) in_flight: usize,
    pub(crate) oldest_wait: u64,
    pub(crate) retry_after: u64,
}

/// How much a role has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Load {
    /// Requests that are served at the same time if all workers are there.
    pub(crate) places: usize,
    pub(crate) in_flight: usize,
    pub(crate) queued: usize,
    pub(crate) is_ready: bool,
    /// It was closed.
    pub(crate) is_draining: bool,
}

/// A request that asks for a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// Its number, which is higher than that of each request before it.
    pub(crate) number: u64,
    pub(crate) priority: Priority,
    /// Requests with the same key go to the same worker while that has a place.
    pub(crate) key: Option<u64>,
    pub(crate) elsewhere: Elsewhere,
    /// Whether its caller decides how long it takes, and is none that waits for others of the role
    /// meanwhile: the reader of a backend's stream.
    pub(crate) is_open_ended: bool,
}

/// Whether workers that are not the role's own would take a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "async"), allow(dead_code, reason = "backends need `async`"))]
pub(crate) enum Elsewhere {
    Never,
    /// They take none now, and may take it while it waits here.
    Later,
    /// They have much to do: only if the role refuses it.
    IfRefused,
    /// They have a place: if it would have to wait here.
    IfFull,
}

/// What became of a request that asked.
#[derive(Debug)]
pub(crate) enum Admission {
    Granted(Grant),
    Waits(Ticket),
    Refused(Refusal),
    /// Workers that are not the role's own are to have it.
    Elsewhere,
}

/// How a request that was granted ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The worker has answered, or is told that no answer is awaited.
    Over,
    /// Its worker is dead.
    WorkerDied,
}

/// How a worker ended that was not told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// While it served: the requests are charged with it.
    Serving,
    /// At its start, or without a request, by itself.
    Failed,
    /// Without a request, by something else, such as an operator.
    Killed,
}
