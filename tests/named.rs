//! Channels over named segments, between processes that did not start each other. The
//! files of the first group are run once more over them.
#![cfg(feature = "named")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "tests"
)]

mod common;
worker_entry!();

#[path = "it/calls.rs"]
mod calls;
#[path = "it/concurrency.rs"]
mod concurrency;
#[path = "it/health.rs"]
mod health;
#[path = "it/streams.rs"]
mod streams;

#[path = "it/named/attaching.rs"]
mod attaching;
#[path = "it/named/ending.rs"]
mod ending;
#[path = "it/named/forking.rs"]
mod forking;
#[path = "it/named/leftovers.rs"]
mod leftovers;
#[path = "it/named/serving.rs"]
mod serving;

use common::*;
