//! What gateways and remote roles count, as plain data.

#[cfg(any(feature = "metrics", feature = "prometheus"))]
mod export;
#[cfg(any(feature = "metrics", feature = "prometheus"))]
mod families;

use slipring::pool::{Histogram, Outcome};

#[cfg(feature = "prometheus")]
pub use export::RemoteCollector;
#[cfg(feature = "metrics")]
pub use export::RemotePublisher;

use crate::GatewayState;

/// What a gateway has counted, from [`Gateway::metrics`](crate::server::Gateway::metrics). Numbers only
/// grow, unless it says *now*.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct GatewayMetrics {
    /// Connections that have passed their handshake, now.
    pub connections: usize,
    /// Connections that were accepted.
    pub accepted_connections: u64,
    /// Connections that have passed their handshake and were closed, since all others had requests.
    pub refused_connections: u64,
    /// Handshakes that have failed, took too long, or gave way to others.
    pub failed_handshakes: u64,
    /// Connections whose caller did not answer any more.
    pub silent_connections: u64,
    /// Connections that were read more slowly, since their caller has sent too many frames of HTTP/2 that
    /// carry nothing.
    pub paced_connections: u64,
    /// Requests to workers that the gateway has, now.
    pub in_flight: usize,
    /// Those of each role, by name. Requests for no role are under an empty name, if there were any.
    pub roles: Vec<GatewayRoleMetrics>,
}

/// What a gateway has counted of the requests to one role.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct GatewayRoleMetrics {
    /// The role's name.
    pub role: String,
    /// Requests that have ended, by outcome: [`ErrorKind::Overloaded`](slipring::ErrorKind::Overloaded)
    /// and [`ErrorKind::Closed`](slipring::ErrorKind::Closed), for a gateway that drains, are refusals.
    /// Counts of zero are left out.
    pub requests: Vec<OutcomeCount>,
    /// How long requests took, from their headers to the end of their answer.
    pub times: Histogram,
    /// Bytes of the payloads of requests.
    pub bytes_received: u64,
    /// Bytes of the payloads of replies and chunks.
    pub bytes_sent: u64,
}

/// How many requests ended in a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutcomeCount {
    /// How they ended.
    pub outcome: Outcome,
    /// How many there were.
    pub count: u64,
}

/// What a remote role has counted, from [`RemoteRole::metrics`](crate::RemoteRole::metrics). Numbers
/// only grow, unless it says *now*.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RemoteRoleMetrics {
    /// The role's name.
    pub role: String,
    /// Requests that were taken.
    pub requests: u64,
    /// Requests that were taken and have not ended, now.
    pub in_flight: usize,
    /// Those of them that wait here for a gateway, now.
    pub waiting: usize,
    /// How often a request was sent again that no worker had begun.
    pub resent_unbegun: u64,
    /// How often a request was sent again that a worker had begun, or may have.
    pub resent_begun: u64,
    /// Each gateway that is listed, or has requests, in no order.
    pub gateways: Vec<RemoteGatewayMetrics>,
}

/// What a remote role has counted of one gateway, since it was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteGatewayMetrics {
    /// Its address, as in [`GatewayInfo`](crate::GatewayInfo).
    pub address: String,
    /// What it is used for, now.
    pub state: GatewayState,
    /// Whether it is ready, but new or back again, so that it does not get its full share, now.
    pub is_in_slow_start: bool,
    /// The requests that it has of this client, now.
    pub in_flight: usize,
    /// The requests that it has of all clients, as it has reported last.
    pub reported_requests: usize,
    /// How many requests its workers serve at the same time, as it has reported last.
    pub places: usize,
    /// Requests that were sent to it.
    pub attempts: u64,
    /// Those that it has refused, or has lost before they were begun: they went elsewhere.
    pub refusals: u64,
    /// Errors of the gateway itself, such as lead to its ejection.
    pub errors: u64,
    /// Connections that were made to it.
    pub connects: u64,
    /// Connections to it that were lost, or that it has closed.
    pub disconnects: u64,
}

impl RemoteGatewayMetrics {
    /// Returns the name of the state for a label of a metric: as [`GatewayState::name`], or
    /// `slow_start`.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        if self.is_in_slow_start { "slow_start" } else { self.state.name() }
    }
}
