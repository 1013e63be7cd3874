//! One direction of a channel: a lock-free single-producer/single-consumer ring
//! of frames, and the doorbell that wakes its ends.
//!
//! Level 2. [`Producer::try_claim`] reserves a slot, the caller fills it in place,
//! [`Claim::commit`] publishes it; [`Consumer::poll`] finds it, validates a private
//! copy of its header and hands out a [`Frame`], whose release gives the slot
//! back. This folder knows nothing of requests, processes or kinds of frames.

pub(crate) mod consumer;
pub(crate) mod doorbell;
pub(crate) mod frame;
pub(crate) mod position;
pub(crate) mod producer;
pub(crate) mod reclaim;

#[cfg(all(test, not(loom)))]
mod hostile_tests;
#[cfg(all(test, not(loom)))]
mod lease_tests;
#[cfg(all(test, not(loom)))]
mod model_tests;
#[cfg(all(test, loom))]
pub(crate) mod models;
#[cfg(all(test, loom))]
pub(crate) mod mutants;
#[cfg(all(test, not(loom)))]
mod process_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(all(test, not(loom)))]
mod tests;

pub(crate) use consumer::Consumer;
pub use consumer::Frame;
pub use frame::Header;
pub(crate) use producer::Producer;
pub use producer::{Batch, Claim};
pub use reclaim::Lease;
