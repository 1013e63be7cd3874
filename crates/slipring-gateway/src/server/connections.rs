//! How many connections there are, and which one gives way to a new one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::ConnectionLimits;

/// More handshakes than these have no claim to the last descriptors of the program.
const FEW_HANDSHAKES: usize = 8;

/// The connections of a gateway.
#[derive(Debug)]
pub(super) struct Connections {
    limits: ConnectionLimits,
    state: Arc<Mutex<State>>,
    /// Counts beginnings and ends of requests, to know which connection was idle first.
    clock: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    next: u64,
    /// How many there may be that have passed their handshake.
    most: usize,
    handshaking: BTreeMap<u64, Arc<Place>>,
    established: BTreeMap<u64, Arc<Place>>,
}

/// Where a connection comes from: the address, or the network of 64 bits in which a host of IPv6 chooses its
/// addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Peer(IpAddr);

impl Peer {
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into()
            }
            version_4 => version_4,
        })
    }
}

/// A connection, as its own task and its requests see it.
#[derive(Debug)]
struct Place {
    peer: Peer,
    evicted: Notify,
    use_: Mutex<Use>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Use {
    requests: usize,
    /// Those of them that were handed to workers.
    at_workers: usize,
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

/// Counts the requests of one connection that workers have.
#[derive(Debug)]
pub(super) struct Workers(Arc<Place>);

/// A request that workers have. Its connection does not give way as long as this lives.
#[derive(Debug)]
pub(super) struct AtWorkers(Arc<Place>);

impl Connections {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        let (handshaking, established) = (BTreeMap::new(), BTreeMap::new());
        let state = State { next: 0, most: limits.established, handshaking, established };
        Self { limits, state: Arc::new(Mutex::new(state)), clock: Arc::default() }
    }

    pub(super) fn handshake_timeout(&self) -> Duration {
        self.limits.handshake_timeout
    }

    /// How many connections have passed their handshake.
    pub(super) fn count(&self) -> usize {
        lock(&self.state).established.len()
    }

    /// Takes a new connection. If there are too many whose handshake is not over, one of them gives way.
    pub(super) fn begin(&self, peer: Peer) -> Seat {
        let mut state = lock(&self.state);
        let (evicted, use_) = (Notify::new(), Mutex::default());
        let (id, place) = (state.next, Arc::new(Place { peer, evicted, use_ }));
        state.next += 1;
        state.handshaking.insert(id, Arc::clone(&place));
        state.leave_handshaking(self.limits.handshaking.max(1));
        drop(state);
        Seat { state: Arc::clone(&self.state), clock: Arc::clone(&self.clock), id, place }
    }

    /// The system has no descriptor for one more connection. Half of many handshakes give way. Otherwise there
    /// are to be fewer connections from now on, so that a new one is looked at, and may take the place of
    /// another.
    pub(super) fn descriptors_ran_out(&self) {
        let mut state = lock(&self.state);
        let handshakes = state.handshaking.len();
        if handshakes > FEW_HANDSHAKES {
            state.leave_handshaking(handshakes / 2);
            return;
        }
        let count = state.established.len();
        state.most = state.most.min(count - count.div_ceil(8)).max(1);
        while state.established.len() > state.most && state.make_way(None) {}
    }

    /// The handshake of a connection is over. Returns whether there is a place for it, for which another
    /// one may give way.
    pub(super) fn establish(&self, seat: &Seat) -> bool {
        let mut state = lock(&self.state);
        if state.handshaking.remove(&seat.id).is_none() {
            return false;
        }
        if state.established.len() >= state.most && !state.make_way(Some(seat.place.peer)) {
            return false;
        }
        lock(&seat.place.use_).since = tick(&self.clock);
        state.established.insert(seat.id, Arc::clone(&seat.place));
        true
    }
}

impl State {
    /// Has handshakes give way, until so many are left: each time the oldest one of the peer that has the
    /// most. So a peer that begins many of them takes its own places, and not that of a caller whose
    /// handshake takes longer because it is far away.
    fn leave_handshaking(&mut self, count: usize) {
        let mut counts = counts(&self.handshaking);
        while self.handshaking.len() > count {
            let most = counts.values().copied().max();
            let has_most = |place: &Place| counts.get(&place.peer).copied() == most;
            let oldest = self.handshaking.iter().find(|(_, place)| has_most(place));
            let oldest = oldest.map(|(id, _)| *id).and_then(|id| self.handshaking.remove(&id));
            let Some(oldest) = oldest else { return };
            counts.entry(oldest.peer).and_modify(|count| *count -= 1);
            oldest.evicted.notify_one();
        }
    }

    /// Has a connection give way to a new one. Returns false if none does.
    fn make_way(&mut self, new: Option<Peer>) -> bool {
        let place = self.gives_way_to(new).and_then(|id| self.established.remove(&id));
        place.inspect(|place| place.evicted.notify_one()).is_some()
    }

    /// Which connection gives way to a new one of this peer: the one that has had no request for the
    /// longest. If all have one, such as `Watch`, it is one of the peer that has the most, if those are at
    /// least two more than the new one's, and the workers have no request of it.
    ///
    /// So no peer keeps others out by connections that do nothing. The numbers of the two come closer each
    /// time: it comes to an end, also if those that gave way come back.
    fn gives_way_to(&self, new: Option<Peer>) -> Option<u64> {
        let counts = counts(&self.established);
        let own = new.and_then(|new| counts.get(&new)).copied().unwrap_or(0);
        let most = counts.values().copied().max().filter(|most| *most > own + 1);
        let candidates = self.established.iter().filter_map(|(id, place)| {
            let Use { requests, at_workers, since } = *lock(&place.use_);
            let has_most = counts.get(&place.peer).copied() == most;
            let gives_way = requests == 0 || (has_most && at_workers == 0);
            gives_way.then_some((requests > 0, since, *id))
        });
        candidates.min().map(|(_, _, id)| id)
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

    /// Returns what counts the requests that workers have.
    pub(super) fn workers(&self) -> Workers {
        Workers(Arc::clone(&self.place))
    }
}

impl Workers {
    /// Notes that workers have a request.
    pub(super) fn have_request(&self) -> AtWorkers {
        lock(&self.0.use_).at_workers += 1;
        AtWorkers(Arc::clone(&self.0))
    }
}

impl Drop for AtWorkers {
    fn drop(&mut self) {
        lock(&self.0.use_).at_workers -= 1;
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

/// How many connections each peer has.
fn counts(places: &BTreeMap<u64, Arc<Place>>) -> BTreeMap<Peer, usize> {
    let mut counts = BTreeMap::new();
    for place in places.values() {
        *counts.entry(place.peer).or_default() += 1;
    }
    counts
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

    const HERE: Peer = Peer(IpAddr::V6(Ipv6Addr::LOCALHOST));

    fn connections(handshaking: usize, established: usize) -> Connections {
        let handshake_timeout = Duration::from_secs(60);
        Connections::new(ConnectionLimits { handshaking, established, handshake_timeout })
    }

    #[tokio::test]
    async fn the_oldest_handshake_gives_way_to_a_new_one() {
        let connections = connections(2, 9);
        let (first, second, third) =
            (connections.begin(HERE), connections.begin(HERE), connections.begin(HERE));
        first.evicted().await;
        assert!(!connections.establish(&first), "its place is gone");
        assert!(connections.establish(&second) && connections.establish(&third));
    }

    #[tokio::test]
    async fn many_handshakes_of_one_peer_leave_that_of_another() {
        let connections = connections(4, 9);
        let slow = connections.begin(peer(1));
        let many = [(); 9].map(|()| connections.begin(peer(2)));
        many[0].evicted().await;
        assert!(connections.establish(&slow));
        assert!(!connections.establish(&many[5]) && connections.establish(&many[6]));
    }

    #[tokio::test]
    async fn the_connection_that_was_idle_for_longest_gives_way() {
        let connections = connections(9, 2);
        let (first, second, third) =
            (connections.begin(HERE), connections.begin(HERE), connections.begin(HERE));
        assert!(connections.establish(&first) && connections.establish(&second));
        drop(first.begin_use());
        assert!(connections.establish(&third));
        second.evicted().await;
        let _used = (first.begin_use(), third.begin_use());
        assert!(!connections.establish(&connections.begin(HERE)), "all have requests");
        drop(third);
        assert!(connections.establish(&connections.begin(HERE)), "a place was given back");
    }

    fn peer(number: u8) -> Peer {
        Peer::of(IpAddr::from([10, 0, 0, number]))
    }

    /// A connection with a place, and with a request such as `Watch`.
    fn watching(connections: &Connections, peer: Peer) -> Option<(Seat, Used)> {
        let seat = connections.begin(peer);
        connections.establish(&seat).then(|| {
            let used = seat.begin_use();
            (seat, used)
        })
    }

    #[tokio::test]
    async fn a_peer_that_has_the_most_connections_gives_way_to_another() {
        let connections = connections(9, 4);
        let [first, second, third, fourth] =
            [(); 4].map(|()| watching(&connections, peer(1)).unwrap());
        let _busy = first.0.workers().have_request();
        assert!(watching(&connections, peer(1)).is_none(), "its own do not");
        let other = watching(&connections, peer(2)).unwrap();
        second.0.evicted().await;
        drop(second);
        // The numbers are 3 and 1, then 2 and 2.
        let _more = watching(&connections, peer(2)).unwrap();
        third.0.evicted().await;
        drop(third);
        for number in 1..=3 {
            let has_place = watching(&connections, peer(number)).is_some();
            assert_eq!(has_place, number == 3, "{number}");
        }
        drop((other, fourth));
    }

    #[test]
    fn requests_that_workers_have_do_not_give_way() {
        let connections = connections(9, 2);
        let both = [(); 2].map(|()| watching(&connections, peer(1)).unwrap());
        let busy = both.each_ref().map(|(seat, _)| seat.workers().have_request());
        assert!(watching(&connections, peer(2)).is_none());
        drop(busy);
        assert!(watching(&connections, peer(2)).is_some());
    }

    #[tokio::test]
    async fn connections_give_way_when_descriptors_run_out() {
        let connections = connections(64, 1024);
        let held: Vec<_> = (0..16).map(|_| watching(&connections, peer(1)).unwrap()).collect();
        let handshakes: Vec<_> = (0..16).map(|_| connections.begin(peer(2))).collect();
        connections.descriptors_ran_out();
        handshakes[7].evicted().await;
        assert_eq!(connections.count(), 16, "handshakes have given way");
        drop(handshakes);
        connections.descriptors_ran_out();
        held[1].0.evicted().await;
        assert_eq!(connections.count(), 14);
        // There is room for the next one, which takes the place of another.
        let other = watching(&connections, peer(2)).unwrap();
        held[2].0.evicted().await;
        assert_eq!(connections.count(), 14);
        drop((held, other));
        let one_each: Vec<_> =
            (0..14).map(|number| watching(&connections, peer(number)).unwrap()).collect();
        connections.descriptors_ran_out();
        assert_eq!(connections.count(), one_each.len(), "none has more than others");
        assert!(watching(&connections, peer(99)).is_none());
    }

    #[test]
    fn addresses_that_one_host_chooses_are_of_one_peer() {
        let of = |text: &str| Peer::of(text.parse().unwrap());
        assert_eq!(of("fd00::1"), of("fd00::2:0:0:1"));
        assert_eq!(of("::ffff:10.0.0.1"), peer(1));
        assert!(of("fd00::1") != of("fd00:0:0:1::1") && peer(1) != peer(2));
    }
}
