//! What the two sides say to each other: kinds of frames, request ids and what
//! becomes of each, and the messages that are not plain bytes.
//!
//! Level 4. Nothing here touches memory that is shared, or waits.

pub(crate) mod failure;
pub(crate) mod health;
pub(crate) mod hello;
pub(crate) mod kind;
pub(crate) mod table;
pub(crate) mod wire;

pub use health::{Health, WorkerState};
pub use kind::Kind;
