//! What a compiler made of `proto/slipring/v1/workers.proto`: `tests/generated.rs` writes it, and
//! fails if it is not up to date.

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "made by a compiler")]
mod code {
    include!("slipring.v1.rs");
}

pub use code::*;

/// The description of the service for reflection: a `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!("workers.bin");
