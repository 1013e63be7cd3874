//! Calls workers on other machines, over gRPC.

#[rustfmt::skip]
#[path = "generated/mod.rs"]
pub mod proto;
pub mod client;
#[cfg(slipring_fuzzing)]
#[doc(hidden)]
#[path = "../../../fuzz/gateway/mod.rs"]
pub mod fuzzing;
pub mod metrics;
pub mod server;
mod small_file;
pub mod tls;
mod trace;
mod wire;

pub use client::{Discovery, GatewayInfo, GatewayState, RemoteRole, RemoteRoleBuilder};
pub use wire::Limits;

/// Compiles what the documentation shows.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/NETWORK.md")]
struct Documentation;
