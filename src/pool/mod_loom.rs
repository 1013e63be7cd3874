//! A pool under the model checker: what it decides, how requests are told, and when it looks again.

mod core;
#[cfg(test)]
mod models;
mod scheduler;
mod seat;
mod ticker;

pub use scheduler::{Priority, RecycleReason};
