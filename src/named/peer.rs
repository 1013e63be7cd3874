//! Processes that are not children of this one: telling them apart, and seeing whether they live.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::named::segment::Segment;
use crate::process::proc_stat::ProcStat;
use crate::process::service::start_thread;
use crate::shm::layout::control;
use crate::shm::transport::{Backing, SharedEvent};
use crate::sys::clock::Deadline;

/// How often a thread looks whether the peer's process lives.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A process, distinguished from all others that ever had or will have its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// In clock ticks since the machine's start.
    pub(super) start_time: u64,
    /// The pid namespace in which the id means something.
    pub(super) namespace: u64,
}

impl Process {
    /// The calling process.
    pub(super) fn this() -> Result<Self> {
        let pid = std::process::id();
        let unknown = |source| {
            let message = "a named channel needs /proc, to tell processes apart";
            Error::with_source(ErrorKind::Unsupported, message, source)
        };
        let namespace = std::fs::metadata("/proc/self/ns/pid").map_err(unknown)?.ino();
        match ProcStat::of("self").map_err(unknown)? {
            Some(ProcStat { start_time, .. }) => Ok(Self { pid, start_time, namespace }),
            None => Err(unknown(io::ErrorKind::NotFound.into())),
        }
    }

    /// Whether the process lives. A zombie does not. If that cannot be seen, the process counts as
    /// alive.
    pub(super) fn is_alive(&self) -> bool {
        match ProcStat::of(&self.pid.to_string()) {
            Ok(Some(ProcStat { state, start_time })) => {
                start_time == self.start_time && !matches!(state, 'Z' | 'X')
            }
            Ok(None) => false,
            Err(_) => true,
        }
    }
}

/// Starts a thread that waits for the peer's end: until `is_over`, which is looked at whenever
/// `event` is set, or until its process is gone. In that case it rescues the segments, which are
/// those of the channel. Then it calls `at_end`.
pub(super) fn watch(
    thread: &str,
    peer: Process,
    event: SharedEvent,
    is_over: impl Fn() -> bool + Send + 'static,
    segments: [Arc<Segment>; 2],
    at_end: impl FnOnce() + Send + 'static,
) -> Result<()> {
    let watch = move || {
        let mut next_look = Deadline::after(LOOK_EVERY);
        while !is_over() {
            if next_look.has_passed() {
                // It may have left in an orderly way just before.
                if !peer.is_alive() && !is_over() {
                    segments.iter().for_each(|segment| segment.rescue());
                    break;
                }
                next_look = Deadline::after(LOOK_EVERY);
            }
            event.wait(&|| !is_over(), next_look);
        }
        at_end();
    };
    start_thread(thread, watch).map_err(|e| Error::os("cannot start the watch of a peer", e))
}

/// The events on which the side that does not write the segment sleeps.
pub(super) fn sleep_events(segment: &Segment) -> Vec<SharedEvent> {
    [control::DATA, control::HEALTH]
        .iter()
        .filter_map(|side| segment.event(side + control::BELL))
        .collect()
}

/// The event of the health side, which also wakes the watch.
pub(super) fn health_event(segment: &Segment) -> Result<SharedEvent> {
    let event = segment.event(control::HEALTH + control::BELL);
    event.ok_or_else(|| Error::mismatch("a segment without its events"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_id() {
        let this = Process::this().unwrap();
        assert!(this.is_alive());
        assert!(!Process { start_time: this.start_time + 1, ..this }.is_alive());
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(!Process { pid, ..this }.is_alive());
    }
}
