//! The worker thread that replaces the worker process in a host's own tests.
#![cfg(feature = "testing")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "tests"
)]

mod common;
worker_entry!();

// The conformance suite once more. What is about processes is skipped, and
// `what_is_skipped_is_said` says so.
#[path = "it/calls.rs"]
mod calls;
#[path = "it/concurrency.rs"]
mod concurrency;
#[path = "it/streams.rs"]
mod streams;

use std::time::Duration;

use common::*;

use slipring::worker::Worker;
use slipring::{Config, ErrorKind, Kind, RoleConfig};

const SHOUT: Kind = Kind::named("shout");
fn shouter() -> Worker<u32> {
    Worker::new(|_| Ok(0)).on(SHOUT, |count, request, reply| {
        *count += 1;
        let text = String::from_utf8(request.to_vec())?;
        Ok(reply.send(&format!("{} {count}", text.to_uppercase()))?)
    })
}

#[test]
fn calls_streams_pings_and_closing_work_over_a_worker_thread() {
    let channel =
        slipring::testing::spawn_thread(&Config::small(), RoleConfig::default(), shouter).unwrap();
    assert_eq!(channel.call(SHOUT, "a", LONG).unwrap().to_vec(), b"A 1");
    assert_eq!(channel.call(SHOUT, "b", LONG).unwrap().to_vec(), b"B 2");
    let failed = channel.call(SHOUT, &[0xff_u8][..], LONG).unwrap_err();
    assert!(failed.is_worker_error(), "{failed}");
    assert_eq!(channel.ping(LONG).unwrap().requests_served, 3);
    channel.close(LONG).unwrap();
    assert_eq!(channel.call(SHOUT, "c", LONG).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_worker_thread_that_panics_before_it_serves_is_a_death() {
    let make = || -> Worker<u32> { panic!("no worker today") };
    let role = RoleConfig::default();
    let channel = slipring::testing::spawn_thread(&Config::small(), role, make).unwrap();
    let error = channel.call(SHOUT, "a", Duration::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerDied, "{error}");
    assert!(!channel.is_alive());
    assert_eq!(channel.close(LONG).unwrap(), slipring::ExitCause::Exited(101));
}

#[test]
fn what_is_skipped_is_said() {
    for file in ["closing", "deaths", "health", "parents", "spawning"] {
        println!("skipped: {file}.rs, a thread cannot be killed, stopped or limited alone");
        assert!(std::path::Path::new("tests/it").join(file).with_extension("rs").exists());
    }
}
