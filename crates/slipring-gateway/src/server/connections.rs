//! How many connections there are, and which one gives way to a new one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::ConnectionLimits;

/// The connections of a gateway.
#[derive(Debug)]
pub(super) struct Connections {
    limits: ConnectionLimits,
    state: Arc<Mutex<State>>,
    /// Counts beginnings and ends of requests, to know which connection was idle first.
    clock: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    handshaking: BTreeMap<u64, Arc<Place>>,
    established: BTreeMap<u64, Arc<Place>>,
}

/// A connection, as its own task and its requests see it.
#[derive(Debug, Default)]
struct Place {
    evicted: Notify,
    use_: Mutex<Use>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Use {
    requests: usize,
    /// The time of the last change, by the clock of the connections.
    since: u64,
}

/// The place of one connection. It is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    state: Arc<Mutex<State>>,
    clock: Arc<AtomicU64>,
    id: u64,
    place: Arc<Place>,
}

/// A request of a connection, which is not idle as long as this lives.
#[derive(Debug)]
pub(super) struct Used {
    place: Arc<Place>,
    clock: Arc<AtomicU64>,
}

impl Connections {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        Self { limits, state: Arc::default(), clock: Arc::default() }
    }

    pub(super) fn handshake_timeout(&self) -> Duration {
        self.limits.handshake_timeout
    }

    /// How many connections have passed their handshake.
    pub(super) fn count(&self) -> usize {
        lock(&self.state).established.len()
    }

    /// Takes a new connection. The oldest one whose handshake is not over gives way to it.
    pub(super) fn begin(&self) -> Seat {
        let mut state = lock(&self.state);
        while state.handshaking.len() >= self.limits.handshaking.max(1) {
            let Some((_, oldest)) = state.handshaking.pop_first() else { break };
            oldest.evicted.notify_one();
        }
        let (id, place) = (state.next, Arc::<Place>::default());
        state.next += 1;
        state.handshaking.insert(id, Arc::clone(&place));
        drop(state);
        Seat { state: Arc::clone(&self.state), clock: Arc::clone(&self.clock), id, place }
    }

    /// The handshake of a connection is over. Returns whether there is a place for it: the connection
    /// that has had no request for the longest gives way, if there is one.
    pub(super) fn establish(&self, seat: &Seat) -> bool {
        let mut state = lock(&self.state);
        if state.handshaking.remove(&seat.id).is_none() {
            return false;
        }
        if state.established.len() >= self.limits.established {
            let mut idle: Option<(u64, u64)> = None;
            for (id, place) in &state.established {
                let Use { requests, since } = *lock(&place.use_);
                if requests == 0 && idle.is_none_or(|(_, earliest)| since < earliest) {
                    idle = Some((*id, since));
                }
            }
            let Some((id, _)) = idle else { return false };
            if let Some(idle) = state.established.remove(&id) {
                idle.evicted.notify_one();
            }
        }
        lock(&seat.place.use_).since = tick(&self.clock);
        state.established.insert(seat.id, Arc::clone(&seat.place));
        true
    }
}

impl Seat {
    /// Waits until the connection is to give way.
    pub(super) async fn evicted(&self) {
        self.place.evicted.notified().await;
    }

    /// Notes a request.
    pub(super) fn begin_use(&self) -> Used {
        lock(&self.place.use_).requests += 1;
        Used { place: Arc::clone(&self.place), clock: Arc::clone(&self.clock) }
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        let mut r#use = lock(&self.place.use_);
        r#use.requests -= 1;
        r#use.since = tick(&self.clock);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.handshaking.remove(&self.id);
        state.established.remove(&self.id);
    }
}

fn tick(clock: &AtomicU64) -> u64 {
    clock.fetch_add(1, Ordering::Relaxed)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(handshaking: usize, established: usize) -> Connections {
        let handshake_timeout = Duration::from_secs(60);
        Connections::new(ConnectionLimits { handshaking, established, handshake_timeout })
    }

    #[tokio::test]
    async fn the_oldest_handshake_gives_way_to_a_new_one() {
        let connections = connections(2, 9);
        let (first, second, third) =
            (connections.begin(), connections.begin(), connections.begin());
        first.evicted().await;
        assert!(!connections.establish(&first), "its place is gone");
        assert!(connections.establish(&second) && connections.establish(&third));
    }

    #[tokio::test]
    async fn the_connection_that_was_idle_for_longest_gives_way() {
        let connections = connections(9, 2);
        let (first, second, third) =
            (connections.begin(), connections.begin(), connections.begin());
        assert!(connections.establish(&first) && connections.establish(&second));
        drop(first.begin_use());
        assert!(connections.establish(&third));
        second.evicted().await;
        let _used = (first.begin_use(), third.begin_use());
        assert!(!connections.establish(&connections.begin()), "all have requests");
        drop(third);
        assert!(connections.establish(&connections.begin()), "a place was given back");
    }
}
