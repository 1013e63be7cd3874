//! One gateway, as its client sees it.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{FleetLimits, GatewayState, Report};
use crate::client::random::mix;

/// A full share; a gateway that has just come has an eighth of it.
const FULL: u64 = 1024;
const FIRST: u64 = FULL / 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    None,
    /// It has not told yet what it serves.
    Connected,
    Reported,
}

#[derive(Debug)]
pub(super) struct Gateway<A> {
    pub(super) address: A,
    hash: u64,
    pub(super) is_listed: bool,
    pub(super) link: Link,
    /// The number of its present or last connection.
    pub(super) connection: u64,
    pub(super) report: Report,
    /// The requests of others, when it reported last.
    others: usize,
    /// This client's requests that have not ended, over all connections.
    pub(super) in_flight: usize,
    /// Since when it gets requests.
    used_since: u64,
    /// Errors in a row.
    pub(super) errors: u32,
    pub(super) ejected_until: u64,
    /// Its pauses in a row.
    ejections: u32,
    pub(super) counts: Counts,
}

/// What has happened to a gateway since it was listed.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub(super) attempts: u64,
    pub(super) refusals: u64,
    pub(super) errors: u64,
    pub(super) disconnects: u64,
}

impl<A: Hash> Gateway<A> {
    pub(super) fn new(address: A) -> Self {
        let mut hasher = DefaultHasher::new();
        address.hash(&mut hasher);
        Self {
            address,
            hash: hasher.finish(),
            is_listed: true,
            link: Link::None,
            connection: 0,
            report: Report::default(),
            others: 0,
            in_flight: 0,
            used_since: 0,
            errors: 0,
            ejected_until: 0,
            ejections: 0,
            counts: Counts::default(),
        }
    }

    /// How well it fits a key: the highest of all gateways gets it. If one is added or taken away,
    /// only the keys of that one move.
    pub(super) fn rank_for(&self, key: u64) -> u64 {
        mix(mix(key) ^ self.hash)
    }
}

impl<A> Gateway<A> {
    pub(super) fn state(&self, now: u64) -> GatewayState {
        if !self.is_listed {
            GatewayState::Gone
        } else if self.link == Link::None {
            GatewayState::Connecting
        } else if self.is_draining() {
            GatewayState::Draining
        } else if self.link == Link::Connected || !self.report.is_ready {
            GatewayState::Starting
        } else if now < self.ejected_until {
            GatewayState::Ejected
        } else {
            GatewayState::Ready
        }
    }

    pub(super) fn is_usable(&self, now: u64) -> bool {
        self.state(now) == GatewayState::Ready
    }

    pub(super) fn is_draining(&self) -> bool {
        self.link == Link::Reported && self.report.is_draining
    }

    pub(super) fn note_report(&mut self, now: u64, report: Report) {
        let is_new = self.link != Link::Reported || !self.report.is_ready;
        if is_new && report.is_ready {
            self.used_since = now;
        }
        if report.is_draining {
            // What it has refused before it said so was no error.
            self.errors = 0;
            self.ejected_until = self.ejected_until.min(now);
        }
        self.link = Link::Reported;
        // Those of this client are known better here.
        self.others = report.requests.saturating_sub(self.in_flight).min(MOST_REQUESTS);
        self.report = report;
    }

    /// The requests that it has: its own clients' and this one's.
    pub(super) fn load(&self) -> usize {
        self.others.saturating_add(self.in_flight)
    }

    pub(super) fn load_wide(&self) -> u128 {
        u128::try_from(self.load()).unwrap_or(u128::MAX >> 64)
    }

    pub(super) fn places(&self) -> usize {
        self.report.places.clamp(1, MOST_PLACES)
    }

    /// What it can take, for a comparison with others: its places, less while it is new.
    pub(super) fn capacity(&self, now: u64, limits: &FleetLimits) -> u64 {
        let age = self.age(now);
        let share = if age >= limits.slow_start {
            FULL
        } else {
            let grown = u128::from(FULL - FIRST) * u128::from(age) / u128::from(limits.slow_start);
            FIRST + u64::try_from(grown).unwrap_or(FULL - FIRST)
        };
        share * u64::try_from(self.places()).unwrap_or(1)
    }

    /// For how long it has got requests.
    fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.used_since.max(self.ejected_until))
    }

    pub(super) fn is_in_slow_start(&self, now: u64, limits: &FleetLimits) -> bool {
        self.is_usable(now) && self.age(now) < limits.slow_start
    }

    /// Whether it would begin a request at once.
    pub(super) fn has_place(&self, now: u64, limits: &FleetLimits) -> bool {
        let capacity = u128::from(self.capacity(now, limits));
        self.load() == 0 || self.load_wide() * u128::from(FULL) < capacity
    }

    pub(super) fn eject(&mut self, now: u64, limits: &FleetLimits) {
        let is_clean = now.saturating_sub(self.ejected_until) >= limits.clean_period;
        let before = if is_clean { 0 } else { self.ejections };
        let factor = 1_u64.checked_shl(before).unwrap_or(u64::MAX);
        let pause = limits.first_pause.saturating_mul(factor).min(limits.longest_pause);
        self.ejections = before.saturating_add(1);
        self.ejected_until = now.saturating_add(pause);
        // When it returns, one more error is enough.
        self.errors = limits.errors.saturating_sub(1);
    }

    /// Forgets errors of long ago.
    pub(super) fn forgive_if_clean(&mut self, now: u64, clean_period: u64) {
        let since = self.used_since.max(self.ejected_until);
        if self.link == Link::Reported && now.saturating_sub(since) >= clean_period {
            self.errors = 0;
        }
    }

    /// Ends its pause early.
    pub(super) fn return_at(&mut self, now: u64) {
        self.ejected_until = now;
    }
}

/// More than any gateway has, so that no product of it overflows.
const MOST_PLACES: usize = 1 << 32;
/// More than any gateway has, so that no sum of it overflows.
const MOST_REQUESTS: usize = 1 << 40;
