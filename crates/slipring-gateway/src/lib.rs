//! Calls workers on other machines, over gRPC.

#[rustfmt::skip]
#[path = "generated/mod.rs"]
pub mod proto;
