//! Calls a gateway of another machine.

#[allow(dead_code, reason = "what calls gateways comes next")]
mod address;
mod calls;
mod connection;
mod control;
#[allow(dead_code, reason = "what calls gateways comes next")]
mod discovery;
mod exchange;
#[allow(dead_code, reason = "what calls gateways comes next")]
mod fleet;
mod outcome;
#[allow(dead_code, reason = "what calls gateways comes next")]
mod random;

pub use calls::Chunks;
pub use connection::Connection;
pub use control::Watching;
pub use discovery::Discovery;
pub use fleet::GatewayState;
