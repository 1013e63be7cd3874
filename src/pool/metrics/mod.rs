//! What a role counts, and how hosts see it.
//!
//! The parent counts everything, so that no number is lost with a worker. A call adds to atomics,
//! without a lock and without a look at the clock of its own: [`Counters`]. What a worker's channel
//! has counted is added to the role's numbers when the worker has ended. A snapshot is plain data:
//! [`RoleMetrics`].

mod counters;
#[cfg(feature = "metrics")]
mod facade;
#[cfg(any(feature = "metrics", feature = "prometheus"))]
mod families;
mod histogram;
#[cfg(feature = "prometheus")]
mod prometheus;
mod requests;
mod snapshot;

/// What the gateway counts and exports with, as a pool does. Not for others: it changes at any time.
#[doc(hidden)]
pub mod export {
    #[cfg(feature = "metrics")]
    pub use super::facade::Publisher;
    #[cfg(any(feature = "metrics", feature = "prometheus"))]
    pub use super::families::{Family, FamilyKind, Sample, Value};
    pub use super::histogram::Times;
    #[cfg(feature = "prometheus")]
    pub use super::prometheus::encode;
    pub use super::requests::Outcomes;
}

pub(super) use counters::{Counters, Loss};
#[cfg(feature = "metrics")]
pub use facade::MetricsPublisher;
pub use histogram::Histogram;
#[cfg(feature = "prometheus")]
pub use prometheus::PoolCollector;
pub use requests::Outcome;
pub use snapshot::{ChannelTotals, PoolMetrics, RequestCount, RoleMetrics, WorkerCounts};
