//! A request that a worker serves before it counts as ready.

use crate::common::*;
use slipring::{ErrorKind, Kind};

const NOTHING: Kind = Kind::named("nothing that is served");

#[test]
fn a_worker_is_ready_once_it_has_served_the_warm_up() {
    let channel = small().warm_up(SLOW_ECHO, &50_u64.to_le_bytes()).spawn().unwrap();
    assert_eq!(channel.stats().completed, 0, "it waits for `wait_ready`");
    channel.wait_ready(LONG).unwrap();
    assert_eq!(channel.stats().completed, 2, "readiness and warm-up");
    channel.wait_ready(LONG).unwrap();
    assert_eq!(channel.stats().completed, 3, "the warm-up is served once");
}

#[test]
fn a_failed_warm_up_is_told_and_tried_again() {
    let channel = small().warm_up(NOTHING, "").spawn().unwrap();
    for _ in 0..2 {
        let error = channel.wait_ready(LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HandlerFailed, "{error}");
        assert_usable(&channel);
    }
}

#[test]
fn a_worker_that_dies_of_its_warm_up_is_not_ready() {
    let channel = small().warm_up(EXIT, &[3]).spawn().unwrap();
    let error = channel.wait_ready(LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerDied, "{error}");
    eventually("the exit status is known", || error.was_begun().is_some());
    assert_eq!(error.was_begun(), Some(true));
}

#[cfg(feature = "async")]
#[test]
fn a_task_waits_for_the_warm_up_too() {
    let spawner = small().warm_up(ECHO, "warm");
    let channel = slipring::tasks::AsyncChannel::new(spawner.pollable().spawn().unwrap()).unwrap();
    pollster::block_on(channel.wait_ready(LONG)).unwrap();
    assert_eq!(channel.blocking().stats().completed, 2);
}
