//! One block as plain data: what a source writes, and what a reader gets.

use std::time::Duration;

use super::layout::BUCKETS;
use super::numbers::{ChannelNumbers, RoleNumbers};
use crate::error::ErrorKind;

/// The numbers of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Numbers {
    /// A channel, that is a worker.
    Channel(ChannelNumbers),
    /// A role of a pool.
    Role(RoleNumbers),
}

/// How long something took, how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Times {
    /// All times together, in nanoseconds.
    pub sum_ns: u64,
    /// How many times were at most a microsecond, two, four and so on; the last are all longer ones.
    pub buckets: [u64; BUCKETS],
}

impl Times {
    /// Returns how many times there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Returns the bound of the bucket in which this part of the times ends; `None` without a time, or if
    /// it is longer than the last bound. A part is between 0 and 1: 0.99 for the 99th percentile.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let count = self.count();
        let mut sum = 0_u64;
        for (index, each) in self.buckets.iter().take(BUCKETS - 1).enumerate() {
            sum = sum.saturating_add(*each);
            if sum > 0 && as_f64(sum) >= part * as_f64(count) {
                return Some(Duration::from_micros(1 << index));
            }
        }
        None
    }
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "for a part of a count")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

/// A channel, or a role of a pool, as its host last described it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Row {
    /// Tells it from all others that the host has or had.
    pub id: u64,
    /// The process id of a channel's worker. `None` if it was not found: the host runs in another pid
    /// namespace, such as in a container, and the worker has ended. `None` for a role.
    pub pid: Option<u32>,
    /// The name of the role.
    pub role: String,
    /// Words about its last failure; empty if there was none.
    pub note: String,
    /// What it is, and its numbers.
    pub numbers: Numbers,
    /// Errors by the code of their kind ([`ErrorKind::code`]).
    pub errors: Vec<(ErrorKind, u64)>,
    /// How long calls to a channel took; how long requests to a role waited.
    pub first_times: Times,
    /// How long streams of a channel took to their first chunk; how long requests had a worker.
    pub second_times: Times,
}

impl ChannelNumbers {
    /// Whether nothing of it changes before the host does something with the channel.
    pub(super) fn is_settled(&self) -> bool {
        let is_idle = self.in_flight == 0 && self.taken == 0 && self.begun == 0;
        // What a worker says that has ended does not change. One that starts is soon idle.
        let is_over = self.state > CLOSING;
        (is_idle && self.worker_state == IDLE && self.state != CLOSING || is_over)
            && self.leases == 0
    }
}

impl RoleNumbers {
    /// Whether nothing of it changes before the host does something with the role.
    pub(super) fn is_settled(&self) -> bool {
        let is_idle = self.in_flight == 0 && self.queued == 0 && self.leases == 0;
        is_idle && self.is_degraded == 0
    }
}

/// Values of a channel's `state` and `worker_state`.
const CLOSING: u64 = 2;
const IDLE: u64 = 2;
