//! The figures of a soak of a pool.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::Error;
use crate::soak::render;
use crate::stdio::Stdout;

/// What was done, and what was wrong with it.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) requests: AtomicU64,
    pub(super) replies: AtomicU64,
    pub(super) streams: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) timeouts: AtomicU64,
    pub(super) overloaded: AtomicU64,
    pub(super) degraded: AtomicU64,
    /// Requests whose error said that their worker had died with them.
    pub(super) died: AtomicU64,
    pub(super) poison: AtomicU64,
    /// Requests that were alone on a worker when a signal made that crash, for the second time.
    pub(super) crashed_alone: AtomicU64,
    pub(super) kills: AtomicU64,
    pub(super) crashes: AtomicU64,
    pub(super) stops: AtomicU64,
    pub(super) reloads: AtomicU64,
    pub(super) deaths: AtomicU64,
    pub(super) recycled: AtomicU64,
    /// A request that was not answered although its worker had not begun it, or for no reason.
    pub(super) lost: AtomicU64,
    pub(super) begun: AtomicU64,
    pub(super) run_twice: AtomicU64,
    pub(super) innocent_poison: AtomicU64,
    pub(super) torn: AtomicU64,
    pub(super) misdelivered: AtomicU64,
    pub(super) hangs: AtomicU64,
    pub(super) places: AtomicU64,
}

impl Figures {
    /// Prints all; fails if something was wrong.
    pub(super) fn report(
        &self,
        [resent, retried]: [u64; 2],
        time: Duration,
        leaks: [usize; 4],
        json: bool,
        stdout: &Stdout,
    ) -> Result<(), Error> {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let f = self;
        let done = [
            ("requests", of(&f.requests)),
            ("replies", of(&f.replies)),
            ("streams", of(&f.streams)),
            ("streams_dropped", of(&f.dropped)),
            ("timeouts", of(&f.timeouts)),
            ("overloaded", of(&f.overloaded)),
            ("degraded", of(&f.degraded)),
            ("died_with_worker", of(&f.died)),
            ("not_begun_sent_again", resent),
            ("begun_sent_again", retried),
            ("poison", of(&f.poison)),
            ("crashed_alone", of(&f.crashed_alone)),
            ("kills", of(&f.kills)),
            ("crashes", of(&f.crashes)),
            ("stops", of(&f.stops)),
            ("reloads", of(&f.reloads)),
            ("deaths", of(&f.deaths)),
            ("recycled", of(&f.recycled)),
            ("begun", of(&f.begun)),
        ];
        let wrong = [
            ("lost", of(&f.lost)),
            ("run_twice", of(&f.run_twice)),
            ("innocent_poison", of(&f.innocent_poison)),
            ("torn", of(&f.torn)),
            ("misdelivered", of(&f.misdelivered)),
            ("hangs", of(&f.hangs)),
            ("places_kept", of(&f.places)),
        ];
        let [fds, maps, children, threads] = leaks;
        let left = [("fds", fds), ("maps", maps), ("children", children), ("threads", threads)];
        let printed = stdout.print(render(time, &[&done[..], &wrong].concat(), &left, json));
        // Faults count even if the reader of standard output has left early.
        if wrong.iter().all(|(_, count)| *count == 0) && leaks == [0; 4] {
            return printed;
        }
        Err(Error::failure("the soak found faults"))
    }
}
