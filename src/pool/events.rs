//! What happens to the workers of a pool, as a stream for the host.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use super::event_order::EventOrder;
use super::scheduler::{RecycleReason, WorkerId};
use crate::error::Error;
use crate::id::RequestId;
use crate::sync::Counter;
use crate::sync::Ordering;
use crate::sync::plain::{Mutex, MutexGuard};
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

/// The events of a pool from the moment on at which it was asked for, until it is closed or dropped and
/// its workers have ended. Dropping it ends it.
#[derive(Debug)]
pub struct Events(Option<Receiver<Event>>);

impl Events {
    /// Returns the next event; `None` once the pool is closed or dropped and its workers have ended, and
    /// in a forked child. Blocks until there is one.
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
    state: Mutex<State>,
    dropped: Counter,
    /// How often code of the host's has panicked.
    panics: Counter,
}

#[derive(Debug, Default)]
struct State {
    senders: Vec<Sender>,
    orders: BTreeMap<String, EventOrder<Event>>,
    /// Roles that have workers, or will have some.
    roles: usize,
    is_over: bool,
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
        let mut state = self.state.lock();
        if !state.is_over {
            state.senders.push(Sender(Some(sender)));
        }
        drop(state);
        Events(Some(receiver))
    }

    /// A role is made. [`Readers::note_role_over`] follows.
    pub(super) fn add_role(&self) {
        self.state.lock().roles += 1;
    }

    /// A role was closed and has no worker any more. After the last one the events end.
    pub(super) fn note_role_over(&self) {
        let mut state = self.state.lock();
        state.roles = state.roles.saturating_sub(1);
        let is_last = state.roles == 0;
        drop(state);
        if is_last {
            self.end();
        }
    }

    /// Ends the events: their readers get what they have, and then nothing more.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.is_over = true;
        let orders = std::mem::take(&mut state.orders);
        let held: Vec<_> = orders.into_values().flat_map(|mut order| order.take_all()).collect();
        held.iter().for_each(|event| self.send(&mut state, event));
        let senders = std::mem::take(&mut state.senders);
        drop(state);
        for event in held {
            self.guard(&event.role, || trace(&event));
        }
        drop(senders);
    }

    /// A request has found a worker of a role dead. Its end is told before what is told from now on of
    /// the role. [`Readers::note_end`] must follow.
    pub(super) fn note_dead(&self, role: &str, worker: WorkerId) {
        self.state.lock().orders.entry(role.to_owned()).or_default().note_dead(worker);
    }

    /// The end of a worker was told.
    pub(super) fn note_end(&self, role: &str, worker: WorkerId) {
        let mut state = self.state.lock();
        let order = state.orders.get_mut(role);
        let events = order.map_or_else(Vec::new, |order| order.note_end(worker));
        self.tell_now(state, events);
    }

    /// How many events were dropped because their reader did not keep up.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Tells the readers and the subscriber of `tracing`, in the order in which things have happened.
    /// Blocks no longer than the subscriber does.
    pub(super) fn tell(&self, worker: Option<WorkerId>, happened: Event) {
        let mut state = self.state.lock();
        let now = match state.orders.get_mut(&happened.role) {
            Some(order) => order.add(worker, happened),
            None => Some(happened),
        };
        self.tell_now(state, now.into_iter().collect());
    }

    fn tell_now(&self, mut state: MutexGuard<'_, State>, events: Vec<Event>) {
        events.iter().for_each(|event| self.send(&mut state, event));
        drop(state);
        for event in events {
            self.guard(&event.role, || trace(&event));
        }
    }

    /// Runs what may run code of the host's. `None`: that has panicked, which is told once.
    pub(super) fn guard<T>(&self, role: &str, body: impl FnOnce() -> T) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(body)).ok();
        if done.is_none() && self.panics.fetch_add(1, Ordering::Relaxed) == 0 {
            let (role, kind) = (role.to_owned(), EventKind::HostPanicked);
            self.send(&mut self.state.lock(), &Event { role, worker: None, pid: None, kind });
        }
        done
    }

    /// Never blocks.
    fn send(&self, state: &mut State, happened: &Event) {
        state.senders.retain(|Sender(sender)| {
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
