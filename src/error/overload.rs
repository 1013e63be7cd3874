//! How full a role of a pool was when it refused a request.

use std::fmt;
use std::time::Duration;

/// How full a role of a pool was when it refused a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Overload {
    /// How many requests waited for a worker.
    pub queued: usize,
    /// How many may wait.
    pub limit: usize,
    /// How many the workers had.
    pub in_flight: usize,
    /// How long the oldest of those that waited had waited.
    pub oldest_wait: Duration,
    /// How long those that waited will take at the rate of the last eight seconds; one second if
    /// nothing was served in them.
    pub retry_after: Duration,
}

impl fmt::Display for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queued, limit, in_flight, oldest_wait, retry_after } = self;
        write!(
            f,
            "{queued} requests wait of at most {limit}, the oldest for {oldest_wait:.1?}, and \
             {in_flight} are with workers: try again in {retry_after:.1?}"
        )
    }
}
