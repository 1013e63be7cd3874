//! Calls gateways of other machines.

mod address;
mod attempts;
mod beats;
mod calls;
mod chunks;
mod connection;
mod connector;
mod control;
mod dial;
mod discovery;
mod entered;
mod errors;
mod exchange;
#[cfg(test)]
mod fake;
mod fleet;
#[cfg(test)]
mod hostile_tests;
mod link;
mod outcome;
mod patience;
mod random;
mod remote_role;
mod retry;
mod role;
mod runner;
mod shared;
#[cfg(test)]
mod tests;
mod wire;

use std::hash::{BuildHasher as _, RandomState};

pub use calls::Chunks;
pub use connection::Connection;
pub use control::Watching;
pub use discovery::Discovery;
pub use fleet::GatewayState;
pub use remote_role::{GatewayInfo, RemoteRole, RemoteRoleBuilder};

/// A number that differs from host to host, so that their choices do.
fn seed() -> u64 {
    RandomState::new().hash_one(0)
}
