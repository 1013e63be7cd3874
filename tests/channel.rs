//! Calls, streams, pings and cancels against a real worker process.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "tests"
)]

mod common;
worker_entry!();

use std::sync::Arc;
use std::time::Duration;

use common::*;
use slipring::{Config, ErrorKind, Kind};

#[test]
fn a_call_is_answered_with_the_bytes_of_its_reply() {
    let channel = spawn(Config::default());
    let reply = channel.call(ECHO, b"hello", LONG).unwrap();
    assert_eq!(reply.to_vec(), b"hello");
    drop(reply);
    for i in 0..1000_u64 {
        let reply = channel.call(ECHO, &encode(&[i]), LONG).unwrap();
        assert_eq!(numbers(&reply.to_vec()), [i]);
    }
    assert_eq!(channel.in_flight(), 0);
    assert_eq!(channel.stats().leases_held, 0);
}
