//! What the two sides say to each other: kinds of frames, requests and what becomes of each,
//! the messages that are not plain bytes, and how long messages are cut and put together.
//!
//! Nothing here waits, or writes shared memory.

pub(crate) mod assembler;
pub(crate) mod blob;
pub(crate) mod buffer_pool;
pub(crate) mod codec;
pub(crate) mod failure;
pub(crate) mod handshake;
pub(crate) mod health;
pub(crate) mod kind;
pub(crate) mod partly_read;
pub(crate) mod piece_reader;
pub(crate) mod role;
pub(crate) mod splitter;

pub use health::{Health, RequestHealth, WorkerState};
pub use kind::Kind;
pub use role::RoleConfig;
