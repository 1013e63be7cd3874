//! Channels over named segments, between processes that did not start each other. The
//! files of the first group are run once more over them.
#![cfg(feature = "named")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::duplicate_mod,
    reason = "tests"
)]

mod common;
worker_entry!();

#[path = "calls.rs"]
mod calls;
#[path = "concurrency.rs"]
mod concurrency;
#[path = "health.rs"]
mod health;
#[path = "streams.rs"]
mod streams;

#[path = "named/attaching.rs"]
mod attaching;
#[path = "named/ending.rs"]
mod ending;
#[path = "named/forking.rs"]
mod forking;
#[path = "named/leftovers.rs"]
mod leftovers;
#[path = "named/serving.rs"]
mod serving;

use common::*;
