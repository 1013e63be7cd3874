//! Calls workers on other machines, over gRPC.

#[rustfmt::skip]
#[path = "generated/mod.rs"]
pub mod proto;
pub mod client;
pub mod server;
pub mod tls;
mod wire;

pub use client::{Discovery, GatewayInfo, GatewayState, RemoteRole, RemoteRoleBuilder};
pub use wire::Limits;
