//! The worker thread that replaces the worker process in a host's own tests. The tests of `calls`,
//! `concurrency`, `health` and `streams` run over it too, except those that stop the worker.

use std::time::Duration;

use crate::common::*;

use slipring::worker::Worker;
use slipring::{Config, ErrorKind, Kind, RoleConfig};

const SHOUT: Kind = Kind::named("shout");
fn shouter() -> Worker<u32> {
    Worker::new(|_| Ok(0)).on(SHOUT, |count, request, responder| {
        *count += 1;
        let text = String::from_utf8(request.to_vec())?;
        Ok(responder.send(&format!("{} {count}", text.to_uppercase()))?)
    })
}

#[test]
fn calls_streams_pings_and_closing_work_over_a_worker_thread() {
    let channel =
        slipring::testing::spawn_thread(&Config::small(), RoleConfig::default(), shouter).unwrap();
    assert_eq!(channel.call(SHOUT, "a", LONG).unwrap().to_vec(), b"A 1");
    assert_eq!(channel.call(SHOUT, "b", LONG).unwrap().to_vec(), b"B 2");
    let failed = channel.call(SHOUT, &[0xff_u8][..], LONG).unwrap_err();
    assert!(failed.is_handler_error(), "{failed}");
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
