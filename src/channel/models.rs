//! Models of a channel: the pending table, which thread reads for which, and the channel's end.
//!
//! The core is the one that ships. The worker is a few lines that use the other ends of the rings.
//! As in the models of the ring, no thread wakes without a reason, and no backstop wakes a thread
//! that was forgotten: that is a deadlock. The time of a wait with a deadline is up as soon as
//! the thread would sleep. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p slipring --release --lib channel::models`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::core::Core;
use super::item::Item;
use super::outgoing::{RequestSpec, send};
use super::pending_reply::Pending;
use super::reactor_turn::{read_for_host, read_readable};
use super::reader::{ForOthers, Want, take_frames};
use super::stream::Stream;
use super::task_wait::{TaskFound, TaskWait, TaskWant};
use super::testing::{ChannelRig, LONGEST, rig, rig_with_wake_fds, submit};
use super::turn::hand_over;
use super::wait::{WaitLimit, wait_for_item};
use super::waiter::Waiter;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::Kind;
use crate::ring::Header;
use crate::ring::models::model_up_to;
use crate::sync::Ordering;
use crate::sys::clock::{Deadline, TimeLimit};
use crate::sys::wake_fd::WakeFd;

mod ending;
mod reactors;
mod reading;
mod streams;
mod table;
mod tasks;

/// As in the models of the ring.
const PREEMPTIONS: usize = 3;
/// The limit for three threads, each of which takes many more steps than an end of a ring does.
const FEWER: usize = 2;

/// A timeout that passes when its thread sleeps.
const SOON: Duration = Duration::from_millis(1);

/// Sends a request whose reply may come at any time.
fn send_call(core: &Core, payload: &[u8]) -> Result<u64> {
    send(core, RequestSpec::call(Kind::EMBED, Deadline::NEVER), payload, Deadline::NEVER)
}

/// Sends a request for a stream. Returns its number.
fn send_stream(core: &Core) -> u64 {
    send(core, RequestSpec::stream(Kind::EMBED, Deadline::NEVER), &(), Deadline::NEVER).unwrap()
}

/// The pending reply of a request that was sent.
fn pending(core: &Arc<Core>, request: u64) -> Pending {
    Pending::new(Arc::clone(core), request, TimeLimit::begin(Duration::MAX))
}

/// Sends a request of the longest kind; two of them do not fit the ring.
fn submit_longest(core: &Arc<Core>) -> Pending {
    let payload = [0; LONGEST];
    pending(core, send_call(core, &payload).unwrap())
}

/// Waits for a reply that must come.
fn wait(pending: Pending) {
    let request = pending.request();
    let reply = pending.wait().expect("a reply that was sent");
    assert_eq!(reply.to_vec(), [request.to_le_bytes()[0]]);
}

/// Reads what is there for requests that no thread waits for.
fn read(core: &Core) {
    if let Some(mut reader) = core.receiver.try_turn() {
        take_frames(core, &mut reader, &mut ForOthers).unwrap();
        drop(reader);
        hand_over(core);
    }
}

/// Checks that every request has ended: the table has room for as many requests as at first, and
/// no frame came for an unknown one.
fn check_over(core: &Core, requests: usize, late: u64) {
    assert_eq!(core.in_flight(), 0);
    let free = std::iter::from_fn(|| core.pending.open(false).ok()).count();
    assert_eq!(free, requests, "entries that are free again");
    let counted = |counter: &crate::sync::Counter| counter.load(Ordering::Relaxed);
    assert_eq!(counted(&core.pending.counters.unknown_frames), 0, "frames of no request");
    assert_eq!(counted(&core.pending.counters.late_frames), late, "frames that came late");
}
