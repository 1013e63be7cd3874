//! What happens to the workers of a pool, as a stream for the host.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use super::scheduler::RecycleReason;
use crate::error::Error;
use crate::id::RequestId;
use crate::sync::Counter;
use crate::sync::Ordering;
use crate::sync::plain::Mutex;
use crate::sys::fork;
use crate::trace::event;

/// Something that happened to a role or one of its workers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event {
    /// The role.
    pub role: String,
    /// The number of the worker's place; `None` for what concerns the whole role.
    pub worker: Option<usize>,
    /// The worker's process id, once it has one.
    pub pid: Option<u32>,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum EventKind {
    /// A worker is being started.
    Started,
    /// A worker is ready. The time is from the decision to start it, with its wait for a turn.
    Ready(Duration),
    /// A worker has ended that was not told to.
    Died(Error),
    /// A worker could not be started.
    StartFailed(Error),
    /// A worker gets no more requests, and is ended when it has served what it has.
    Recycled(RecycleReason),
    /// A worker has ended as it was told to.
    Stopped,
    /// A worker was killed because the request it served made no progress.
    Hung {
        /// The request's id on the worker's channel; not that of [`PoolPending::id`].
        ///
        /// [`PoolPending::id`]: super::PoolPending::id
        request: RequestId,
        /// What it had reported last.
        progress: u64,
    },
    /// A worker did not answer a ping within five seconds. It is not killed for that.
    Unresponsive,
    /// The role is degraded.
    Degraded,
    /// The role is not degraded any more.
    Healed,
    /// Code of the host's, such as a subscriber of `tracing`, has panicked where the pool ran it on a
    /// thread of its own. The pool goes on. Told once in the life of a pool; the panic hook shows each
    /// panic.
    HostPanicked,
}

/// How many events wait for one reader; more are dropped.
const MOST_WAITING: usize = 1024;

/// The events of a pool from the moment on at which it was asked for, until it is closed. Dropping it
/// ends it.
#[derive(Debug)]
pub struct Events(Option<Receiver<Event>>);

impl Events {
    /// Returns the next event; `None` once the pool is closed and its workers have ended, or
    /// once it was dropped with all handles of its roles; and in a forked child. Blocks until there is one.
    pub fn recv(&self) -> Option<Event> {
        self.receiver()?.recv().ok()
    }

    /// Returns the next event; `None` if there is none within `timeout`, or as [`Events::recv`].
    pub fn recv_timeout(&self, timeout: Duration) -> Option<Event> {
        self.receiver()?.recv_timeout(timeout).ok()
    }

    /// The events that have come; `None` in a forked child, in which the thread that holds their lock
    /// may not exist.
    fn receiver(&self) -> Option<&Receiver<Event>> {
        if fork::is_forked_child() { None } else { self.0.as_ref() }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if fork::is_forked_child() {
            std::mem::forget(self.0.take());
        }
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.recv()
    }
}

/// The readers of a pool's events.
#[derive(Debug, Default)]
pub(super) struct Readers {
    senders: Mutex<Vec<Sender>>,
    dropped: Counter,
    /// How often code of the host's has panicked.
    panics: Counter,
}

/// Sends events to one reader. In a forked child its drop does nothing: it would wake the reader,
/// which needs a lock.
#[derive(Debug)]
struct Sender(Option<SyncSender<Event>>);

impl Drop for Sender {
    fn drop(&mut self) {
        if fork::is_forked_child() {
            std::mem::forget(self.0.take());
        }
    }
}

impl Readers {
    pub(super) fn add(&self) -> Events {
        if fork::is_forked_child() {
            return Events(None);
        }
        let (sender, receiver) = sync_channel(MOST_WAITING);
        self.senders.lock().push(Sender(Some(sender)));
        Events(Some(receiver))
    }

    /// Ends the events: their readers get what they have, and then nothing more.
    pub(super) fn end(&self) {
        self.senders.lock().clear();
    }

    /// How many events were dropped because their reader did not keep up.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Tells the readers and the subscriber of `tracing`. Blocks no longer than that does.
    pub(super) fn tell(&self, happened: Event) {
        self.guard(&happened.role, || trace(&happened));
        self.send(&happened);
    }

    /// Runs what may run code of the host's. `None`: that has panicked, which is told once.
    pub(super) fn guard<T>(&self, role: &str, body: impl FnOnce() -> T) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(body)).ok();
        if done.is_none() && self.panics.fetch_add(1, Ordering::Relaxed) == 0 {
            let (role, kind) = (role.to_owned(), EventKind::HostPanicked);
            self.send(&Event { role, worker: None, pid: None, kind });
        }
        done
    }

    /// Never blocks.
    fn send(&self, happened: &Event) {
        self.senders.lock().retain(|Sender(sender)| {
            let sent = sender.as_ref().map(|sender| sender.try_send(happened.clone()));
            if matches!(sent, Some(Err(TrySendError::Full(_)))) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            matches!(sent, Some(Ok(()) | Err(TrySendError::Full(_))))
        });
    }
}

/// Tells the subscriber of `tracing`, which is the host's code.
fn trace(happened: &Event) {
    let Event { role, worker, kind, .. } = happened;
    match kind {
        EventKind::Died(error) | EventKind::StartFailed(error) => {
            event!(WARN, role = role.as_str(), worker, %error, "worker lost");
            let _ = (role, worker, error);
        }
        kind => {
            event!(INFO, role = role.as_str(), worker, ?kind, "pool");
            let _ = kind;
        }
    }
}
