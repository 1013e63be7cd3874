//! Which gateway gets which request: the decisions for one role.
//!
//! Nothing here waits, reads a clock or opens a connection. The caller brings the time, in
//! nanoseconds, holds the lock, and carries out each [`Change`] afterwards. So a simulation can run
//! thousands of schedules against it: `fleet/simulation.rs`.
//!
//! ```text
//!   gateway:  Connect ---> note_connected ---> note_status ---> pick, finish
//!                ^                                  |
//!                +------------ note_lost <----------+        (listed no more: Leave)
//! ```

mod gateway;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;

use gateway::{Gateway, Link};

use super::random::Random;
use crate::metrics::RemoteGatewayMetrics;

/// What bounds the use of gateways, as plain numbers. Times are nanoseconds.
#[derive(Debug, Clone)]
pub(super) struct FleetLimits {
    /// How long it takes until a new or returned gateway gets its full share.
    pub(super) slow_start: u64,
    /// Errors in a row after which a gateway is not used for a while.
    pub(super) errors: u32,
    /// How long that is at first; it doubles each time.
    pub(super) first_pause: u64,
    pub(super) longest_pause: u64,
    /// A gateway that was used for so long since its last pause has its next one as the first.
    pub(super) clean_period: u64,
}

impl Default for FleetLimits {
    fn default() -> Self {
        const SECOND: u64 = 1_000_000_000;
        Self {
            slow_start: 3 * SECOND,
            errors: 5,
            first_pause: SECOND,
            longest_pause: 30 * SECOND,
            clean_period: 60 * SECOND,
        }
    }
}

/// One gateway: a slot, and how many gateways the slot had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct GatewayId {
    slot: usize,
    incarnation: u64,
}

/// One connection to a gateway. Nothing that is said of an earlier one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ConnectionId {
    pub(super) gateway: GatewayId,
    number: u64,
}

/// A gateway that was chosen for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Grant {
    pub(super) connection: ConnectionId,
    /// How many errors the gateway had in a row.
    errors: u32,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change<A> {
    /// Connect to this gateway, and stay connected.
    Connect(GatewayId, A),
    /// Connect to it no more; the requests that it has are finished.
    Leave(GatewayId),
}

/// What a gateway says of the role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Report {
    pub(super) places: usize,
    /// The requests of all clients: those that workers have, and those that wait.
    pub(super) requests: usize,
    pub(super) is_ready: bool,
    pub(super) is_draining: bool,
    /// Whether the gateway does not know the role.
    pub(super) lacks_role: bool,
    /// How often a request goes on from there until workers have it.
    pub(super) hops: u32,
}

/// How a request at a gateway ended, as far as that tells of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The gateway has done its work, also if the request failed.
    Answered,
    /// The gateway has failed, although it is connected.
    Failed,
    /// It tells nothing: the caller went away, or the connection, which counts by itself.
    Neutral,
}

/// What a gateway is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GatewayState {
    /// There is no connection.
    Connecting,
    /// It is connected, and its role takes no requests yet.
    Starting,
    /// It gets requests.
    Ready,
    /// It has said that it ends: it gets no requests, and serves those that it has.
    Draining,
    /// It has failed several times in a row, and gets no requests for a while.
    Ejected,
    /// It is listed no more, and serves the requests that it has.
    Gone,
}

impl GatewayState {
    /// Returns the state's name in lower case, such as `ready`, for a label of a metric.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Ejected => "ejected",
            Self::Gone => "gone",
        }
    }
}

impl fmt::Display for GatewayState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How full the gateways are that get requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    pub(super) ready: usize,
    pub(super) places: usize,
    pub(super) in_flight: usize,
    pub(super) queued: usize,
}

/// Which gateways a request may go to.
#[derive(Debug, Clone, Copy)]
struct Choice<'a> {
    not_these: &'a [GatewayId],
    /// How often it may go on from there.
    farthest: u32,
}

impl Choice<'_> {
    const ALL: Self = Self { not_these: &[], farthest: u32::MAX };
}

/// All gateways of one role.
#[derive(Debug)]
pub(super) struct Fleet<A> {
    limits: FleetLimits,
    random: Random,
    slots: Vec<Slot<A>>,
    in_flight: usize,
    has_grown: bool,
    is_other: bool,
}

#[derive(Debug)]
struct Slot<A> {
    incarnation: u64,
    gateway: Option<Gateway<A>>,
}

impl<A: Clone + Eq + Hash> Fleet<A> {
    pub(super) fn new(limits: FleetLimits, seed: u64) -> Self {
        Self {
            limits,
            random: Random::new(seed),
            slots: Vec::new(),
            in_flight: 0,
            has_grown: false,
            is_other: false,
        }
    }

    /// Takes the set of addresses at which there are gateways now, each once or more often.
    pub(super) fn set_addresses(&mut self, now: u64, listed: &[A]) -> Vec<Change<A>> {
        let mut changes = Vec::new();
        let all: HashSet<_> = listed.iter().collect();
        for id in self.ids() {
            let Some(gateway) = self.get_mut(id) else { continue };
            if gateway.is_listed && !all.contains(&gateway.address) {
                gateway.is_listed = false;
                changes.push(Change::Leave(id));
                self.forget_if_unused(id);
            }
        }
        let mut known: HashSet<_> = self.listed().map(|gateway| gateway.address.clone()).collect();
        let mut first_free = 0;
        for address in listed {
            if known.insert(address.clone()) {
                let id = self.insert(first_free, Gateway::new(address.clone()));
                first_free = id.slot + 1;
                changes.push(Change::Connect(id, address.clone()));
            }
        }
        self.is_other = true;
        self.keep_half(now);
        changes
    }

    /// A connection to the gateway was made. `None`: it is listed no more.
    pub(super) fn note_connected(&mut self, id: GatewayId) -> Option<ConnectionId> {
        let gateway = self.get_mut(id).filter(|gateway| gateway.is_listed)?;
        gateway.connection += 1;
        gateway.link = Link::Connected;
        Some(ConnectionId { gateway: id, number: gateway.connection })
    }

    /// The gateway has told how full it is.
    pub(super) fn note_status(&mut self, now: u64, connection: ConnectionId, report: Report) {
        let Some(gateway) = self.connected(connection) else { return };
        let was_usable = gateway.is_usable(now);
        gateway.note_report(now, report);
        self.has_grown |= !was_usable && self.is_usable(now, connection.gateway);
        self.is_other = true;
        self.keep_half(now);
    }

    /// The connection is lost. That is an error of the gateway if it was used, and has not said that
    /// it would end.
    pub(super) fn note_lost(&mut self, now: u64, connection: ConnectionId) {
        let clean_period = self.limits.clean_period;
        let Some(gateway) = self.connected(connection) else { return };
        let was_used = gateway.link == Link::Reported && !gateway.is_draining();
        gateway.forgive_if_clean(now, clean_period);
        gateway.link = Link::None;
        gateway.counts.disconnects += 1;
        self.is_other = true;
        if was_used {
            self.note_error(now, connection.gateway);
        }
        self.keep_half(now);
    }

    /// Chooses a gateway for a request, except for these; [`Fleet::finish`] must follow.
    ///
    /// Among those that get requests it is one with the fewest requests for each of its places. With
    /// a key it is the same gateway for the same key while that has a place. `only_nearest`: it is one from
    /// which a request goes on least often.
    pub(super) fn pick(
        &mut self,
        now: u64,
        key: Option<u64>,
        only_nearest: bool,
        not_these: &[GatewayId],
    ) -> Option<Grant> {
        let choice = self.choice(now, only_nearest, not_these);
        let by_key = key.and_then(|key| self.place_of_key(now, key, choice));
        let id = by_key.or_else(|| self.least_loaded(now, choice))?;
        let gateway = self.get_mut(id)?;
        gateway.in_flight += 1;
        gateway.counts.attempts += 1;
        let connection = ConnectionId { gateway: id, number: gateway.connection };
        let grant = Grant { connection, errors: gateway.errors };
        self.in_flight += 1;
        Some(grant)
    }

    /// A request for which a gateway was chosen has ended there. Of several that fail at the same
    /// time one counts: the others were sent before it was known.
    pub(super) fn finish(&mut self, now: u64, grant: Grant, ending: Ending) {
        let Grant { connection, errors } = grant;
        let id = connection.gateway;
        let Some(gateway) = self.get_mut(id) else { return };
        gateway.in_flight = gateway.in_flight.saturating_sub(1);
        let is_of_now = gateway.connection == connection.number && gateway.link != Link::None;
        match ending {
            Ending::Answered => gateway.errors = 0,
            Ending::Failed if is_of_now && gateway.errors == errors => self.note_error(now, id),
            Ending::Failed | Ending::Neutral => {}
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        self.forget_if_unused(id);
    }

    /// A request is sent elsewhere that this gateway has not begun.
    pub(super) fn note_refusal(&mut self, id: GatewayId) {
        if let Some(gateway) = self.get_mut(id) {
            gateway.counts.refusals += 1;
        }
    }

    /// Whether a gateway gets requests that got none before, since the last call.
    pub(super) fn take_has_grown(&mut self) -> bool {
        std::mem::take(&mut self.has_grown)
    }

    /// Whether a gateway has come, gone or reported since the last call.
    pub(super) fn take_is_other(&mut self) -> bool {
        std::mem::take(&mut self.is_other)
    }

    /// When a gateway is used again that is not used now, if no request comes before.
    pub(super) fn next_return(&self, now: u64) -> Option<u64> {
        let ejected = self.listed().filter(|gateway| gateway.state(now) == GatewayState::Ejected);
        ejected.map(|gateway| gateway.ejected_until).min()
    }

    /// How many requests gateways have of this client, also those that are listed no more.
    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether there is a connection to any gateway.
    pub(super) fn is_connected(&self) -> bool {
        self.listed().any(|gateway| gateway.link != Link::None)
    }

    /// A gateway that has said that it does not know the role, if there is one.
    pub(super) fn without_role(&self) -> Option<&A> {
        let lacks =
            |gateway: &&Gateway<A>| gateway.link == Link::Reported && gateway.report.lacks_role;
        self.listed().find(lacks).map(|gateway| &gateway.address)
    }

    /// Whether a gateway could be chosen that is not among these.
    pub(super) fn has_usable(&self, now: u64, not_these: &[GatewayId]) -> bool {
        let choice = Choice { not_these, farthest: u32::MAX };
        self.usable(now, choice).next().is_some()
    }

    /// How often a request goes on from the nearest gateway; `None` if none gets requests.
    pub(super) fn nearest(&self, now: u64) -> Option<u32> {
        self.usable(now, Choice::ALL).map(|(_, gateway)| gateway.report.hops).min()
    }

    pub(super) fn totals(&self, now: u64, only_nearest: bool) -> Totals {
        let mut totals = Totals::default();
        for (_, gateway) in self.usable(now, self.choice(now, only_nearest, &[])) {
            let (places, load) = (gateway.places(), gateway.load());
            totals.ready += 1;
            totals.places += places;
            totals.in_flight += load.min(places);
            totals.queued += load.saturating_sub(places);
        }
        totals
    }

    /// Each gateway with its state, its own requests and its places.
    pub(super) fn states(&self, now: u64) -> Vec<(A, GatewayState, usize, usize)> {
        let gateways = self.slots.iter().filter_map(|slot| slot.gateway.as_ref());
        let state = |gateway: &Gateway<A>| {
            let (state, places) = (gateway.state(now), gateway.report.places);
            (gateway.address.clone(), state, gateway.in_flight, places)
        };
        gateways.map(state).collect()
    }

    /// Each gateway with what it is used for, and what has happened to it.
    pub(super) fn metrics(&self, now: u64) -> Vec<RemoteGatewayMetrics>
    where
        A: ToString,
    {
        let gateways = self.slots.iter().filter_map(|slot| slot.gateway.as_ref());
        let of_one = |gateway: &Gateway<A>| RemoteGatewayMetrics {
            address: gateway.address.to_string(),
            state: gateway.state(now),
            is_in_slow_start: gateway.is_in_slow_start(now, &self.limits),
            in_flight: gateway.in_flight,
            reported_requests: gateway.report.requests,
            places: gateway.report.places,
            attempts: gateway.counts.attempts,
            refusals: gateway.counts.refusals,
            errors: gateway.counts.errors,
            connects: gateway.connection,
            disconnects: gateway.counts.disconnects,
        };
        gateways.map(of_one).collect()
    }

    fn choice<'a>(&self, now: u64, only_nearest: bool, not_these: &'a [GatewayId]) -> Choice<'a> {
        let nearest = if only_nearest { self.nearest(now) } else { None };
        Choice { not_these, farthest: nearest.unwrap_or(u32::MAX) }
    }

    fn place_of_key(&self, now: u64, key: u64, choice: Choice<'_>) -> Option<GatewayId> {
        let usable = self.usable(now, choice);
        let (id, gateway) = usable.max_by_key(|(_, gateway)| gateway.rank_for(key))?;
        gateway.has_place(now, &self.limits).then_some(id)
    }

    fn least_loaded(&mut self, now: u64, choice: Choice<'_>) -> Option<GatewayId> {
        let mut random = self.random.clone();
        let mut best: Option<(GatewayId, u128, u64)> = None;
        let mut tied = 0;
        for (id, gateway) in self.usable(now, choice) {
            let (load, capacity) = (gateway.load_wide(), gateway.capacity(now, &self.limits));
            let order = match best {
                None => Ordering::Less,
                Some((_, least, of)) => {
                    (load * u128::from(of)).cmp(&(least * u128::from(capacity)))
                }
            };
            // Among equals each has the chance that its capacity gives it.
            tied = match order {
                Ordering::Less => capacity,
                Ordering::Equal => tied + capacity,
                Ordering::Greater => continue,
            };
            if order.is_lt() || random.below(tied) < capacity {
                best = Some((id, load, capacity));
            }
        }
        self.random = random;
        best.map(|(id, ..)| id)
    }

    fn usable<'a>(
        &'a self,
        now: u64,
        choice: Choice<'a>,
    ) -> impl Iterator<Item = (GatewayId, &'a Gateway<A>)> {
        let all = self.slots.iter().enumerate().filter_map(|(slot, at)| {
            Some((GatewayId { slot, incarnation: at.incarnation }, at.gateway.as_ref()?))
        });
        all.filter(move |(id, gateway)| {
            let is_near = gateway.report.hops <= choice.farthest;
            is_near && gateway.is_usable(now) && !choice.not_these.contains(id)
        })
    }

    fn listed(&self) -> impl Iterator<Item = &Gateway<A>> {
        let gateways = self.slots.iter().filter_map(|slot| slot.gateway.as_ref());
        gateways.filter(|gateway| gateway.is_listed)
    }

    fn ids(&self) -> Vec<GatewayId> {
        let id = |(slot, at): (usize, &Slot<A>)| GatewayId { slot, incarnation: at.incarnation };
        self.slots.iter().enumerate().map(id).collect()
    }

    fn is_usable(&self, now: u64, id: GatewayId) -> bool {
        let slot = self.slots.get(id.slot).filter(|slot| slot.incarnation == id.incarnation);
        slot.and_then(|slot| slot.gateway.as_ref()).is_some_and(|gateway| gateway.is_usable(now))
    }

    fn get_mut(&mut self, id: GatewayId) -> Option<&mut Gateway<A>> {
        let slot = self.slots.get_mut(id.slot)?;
        if slot.incarnation == id.incarnation { slot.gateway.as_mut() } else { None }
    }

    /// The gateway, if this is its present connection.
    fn connected(&mut self, connection: ConnectionId) -> Option<&mut Gateway<A>> {
        let gateway = self.get_mut(connection.gateway)?;
        let is_present = gateway.connection == connection.number && gateway.link != Link::None;
        is_present.then_some(gateway)
    }

    /// Adds a gateway, in a slot that is free; there is none below `from`.
    fn insert(&mut self, from: usize, gateway: Gateway<A>) -> GatewayId {
        let mut slots = self.slots.iter().enumerate().skip(from);
        let free = slots.find(|(_, slot)| slot.gateway.is_none()).map(|(slot, _)| slot);
        let slot = free.unwrap_or_else(|| {
            self.slots.push(Slot { incarnation: 0, gateway: None });
            self.slots.len() - 1
        });
        let mut incarnation = 0;
        if let Some(at) = self.slots.get_mut(slot) {
            at.gateway = Some(gateway);
            incarnation = at.incarnation;
        }
        GatewayId { slot, incarnation }
    }

    fn forget_if_unused(&mut self, id: GatewayId) {
        let Some(gateway) = self.get_mut(id) else { return };
        if gateway.is_listed || gateway.in_flight > 0 {
            return;
        }
        if let Some(slot) = self.slots.get_mut(id.slot) {
            slot.gateway = None;
            slot.incarnation += 1;
        }
    }

    /// The gateway has failed once more.
    fn note_error(&mut self, now: u64, id: GatewayId) {
        let limits = self.limits.clone();
        let (ejected, all) = self.count_ejected(now);
        // Half of those that serve must stay, however bad they are.
        let has_room = (ejected + 1) * 2 <= all;
        let Some(gateway) = self.get_mut(id) else { return };
        gateway.errors = gateway.errors.saturating_add(1);
        gateway.counts.errors += 1;
        let counts = gateway.state(now) == GatewayState::Ready || gateway.link == Link::None;
        let has_room = has_room || gateway.link == Link::None;
        if counts && has_room && gateway.errors >= limits.errors {
            gateway.eject(now, &limits);
        }
    }

    /// Uses gateways again if more than half of those that serve are ejected, since others are gone.
    fn keep_half(&mut self, now: u64) {
        loop {
            let (ejected, all) = self.count_ejected(now);
            if ejected * 2 <= all {
                return;
            }
            let slots = self.slots.iter_mut().filter_map(|slot| slot.gateway.as_mut());
            let ejected = slots.filter(|gateway| gateway.state(now) == GatewayState::Ejected);
            let Some(soonest) = ejected.min_by_key(|gateway| gateway.ejected_until) else { return };
            soonest.return_at(now);
            self.has_grown = true;
        }
    }

    /// How many gateways are ejected, and how many would serve if none were.
    fn count_ejected(&self, now: u64) -> (usize, usize) {
        let (mut ejected, mut all) = (0, 0);
        for gateway in self.listed() {
            match gateway.state(now) {
                GatewayState::Ejected => (ejected, all) = (ejected + 1, all + 1),
                GatewayState::Ready => all += 1,
                _ => {}
            }
        }
        (ejected, all)
    }
}
