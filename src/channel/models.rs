//! Models of a channel: the pending table, who reads for whom, and how all of it ends.
//!
//! The engine is the one that ships; the worker is a few lines that use the other ends of
//! its rings. As in the models of the ring nobody wakes for no reason and no backstop wakes
//! who was forgotten, so that is a deadlock. A wait with a deadline ends by it. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p slipring --release --lib channel::models`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::engine::{Engine, Item};
use super::reply::{Pending, Stream};
use super::testing::{LONGEST, Rig, rig, rig_with_hints, submit};
use crate::error::{Error, ErrorKind};
use crate::protocol::Kind;
use crate::ring::models::model_up_to;
use crate::sync::Ordering;
use crate::sys::clock::Deadline;
use crate::sys::wake_fd::WakeFd;

mod ending;
mod reactors;
mod reading;
mod streams;
mod table;

/// As in the models of the ring.
const PREEMPTIONS: usize = 3;
/// For three threads: each takes many more steps than an end of a ring does.
const FEWER: usize = 2;

/// A deadline that passes when its thread sleeps.
const SOON: Duration = Duration::from_millis(1);

/// Sends a request of the longest kind; two of them do not fit the ring.
fn submit_longest(engine: &Arc<Engine>) -> Pending {
    let payload = [0; LONGEST];
    let sent = engine.send_call(Kind::EMBED, &payload[..], Deadline::NEVER);
    let (request, has_rung) = sent.unwrap();
    Pending::new(Arc::clone(engine), request, Duration::MAX, Deadline::NEVER, has_rung)
}

/// Waits for a reply that must come.
fn wait(pending: Pending) {
    let request = pending.request();
    let reply = pending.wait().expect("a reply that was sent");
    assert_eq!(reply.to_vec(), [request.to_le_bytes()[0]]);
}

/// Reads what is there for those who do not wait.
fn read(engine: &Engine) {
    if let Some(mut reader) = engine.reader.try_lock() {
        engine.read_all(&mut reader).unwrap();
        drop(reader);
        engine.hand_over();
    }
}

/// Every request has ended: the table has room for as many as it had before, and no frame
/// came for one that was not known.
fn check_over(engine: &Engine, requests: usize, late: u64) {
    let mut table = engine.table.lock();
    assert_eq!(table.in_flight(), 0);
    let free = std::iter::from_fn(|| table.open(false).ok()).count();
    drop(table);
    assert_eq!(free, requests, "slots that are free again");
    let counted = |counter: &crate::sync::Counter| counter.load(Ordering::Relaxed);
    assert_eq!(counted(&engine.counters.unknown_frames), 0, "frames of nobody");
    assert_eq!(counted(&engine.counters.late_frames), late, "frames that came late");
}
