//! Random schedules of a fleet, against an oracle that knows what each gateway is.
//!
//! A schedule follows from its seed. If one fails, the message names its seed.

use std::collections::HashMap;

use super::*;

const SCHEDULES: u64 = 1000;
const STEPS: usize = 300;
const ADDRESSES: u64 = 7;
const TICK: u64 = 50_000_000;

/// What a gateway is, as far as the world has told.
#[derive(Default)]
struct Truth {
    address: u64,
    is_listed: bool,
    connection: Option<ConnectionId>,
    report: Option<Report>,
    in_flight: usize,
}

struct World {
    seed: u64,
    random: Random,
    now: u64,
    fleet: Fleet<u64>,
    truths: HashMap<GatewayId, Truth>,
    /// The requests that have not ended, and connections that are over.
    granted: Vec<Grant>,
    over: Vec<ConnectionId>,
}

impl World {
    fn new(seed: u64) -> Self {
        let slow_start = if seed.is_multiple_of(2) { 0 } else { 20 * TICK };
        let limits = FleetLimits {
            slow_start,
            errors: 2,
            first_pause: 10 * TICK,
            longest_pause: 40 * TICK,
            clean_period: 60 * TICK,
        };
        Self {
            seed,
            random: Random::new(seed),
            now: 0,
            fleet: Fleet::new(limits, seed ^ 1),
            truths: HashMap::new(),
            granted: Vec::new(),
            over: Vec::new(),
        }
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0 => self.list(),
            1..=3 => self.connect(),
            4 => self.lose(),
            5 | 6 => self.report(),
            7 => self.tell_of_an_earlier_connection(),
            8..=11 => self.pick(),
            12..=14 => self.finish(),
            _ => self.now += TICK * self.random.below(5),
        }
        self.check();
    }

    fn list(&mut self) {
        let listed: Vec<u64> = (0..ADDRESSES).filter(|_| self.random.below(3) > 0).collect();
        for change in self.fleet.set_addresses(self.now, &listed) {
            match change {
                Change::Connect(id, address) => {
                    let new = Truth { address, is_listed: true, ..Truth::default() };
                    assert!(self.truths.insert(id, new).is_none(), "a used name");
                }
                Change::Leave(id) => self.truths.get_mut(&id).unwrap().is_listed = false,
            }
        }
        let mut known: Vec<_> =
            self.truths.values().filter(|at| at.is_listed).map(|at| at.address).collect();
        known.sort_unstable();
        assert_eq!(known, listed, "seed {}", self.seed);
    }

    /// A gateway for which this holds, if there is one.
    fn any(&mut self, holds: impl Fn(&Truth) -> bool) -> Option<GatewayId> {
        let mut fit: Vec<_> =
            self.truths.iter().filter(|(_, truth)| holds(truth)).map(|(id, _)| *id).collect();
        fit.sort_unstable_by_key(|id| (id.slot, id.incarnation));
        let at = self.random.below(fit.len().try_into().unwrap());
        fit.get(usize::try_from(at).unwrap()).copied()
    }

    fn connect(&mut self) {
        let Some(id) = self.any(|truth| truth.connection.is_none()) else { return };
        let connection = self.fleet.note_connected(id);
        let truth = self.truths.get_mut(&id).unwrap();
        assert_eq!(connection.is_some(), truth.is_listed, "seed {}", self.seed);
        (truth.connection, truth.report) = (connection, None);
    }

    fn lose(&mut self) {
        let Some(id) = self.any(|truth| truth.connection.is_some()) else { return };
        let connection = self.truths.get_mut(&id).unwrap().connection.take().unwrap();
        self.fleet.note_lost(self.now, connection);
        self.over.push(connection);
    }

    fn report(&mut self) {
        let Some(id) = self.any(|truth| truth.connection.is_some()) else { return };
        let report = Report {
            places: self.random.below(5) as usize,
            requests: self.random.below(9) as usize,
            is_ready: self.random.below(5) > 0,
            is_draining: self.random.below(8) == 0,
            lacks_role: false,
            hops: u32::try_from(self.random.below(3)).unwrap(),
        };
        let truth = self.truths.get_mut(&id).unwrap();
        self.fleet.note_status(self.now, truth.connection.unwrap(), report);
        truth.report = Some(report);
    }

    fn tell_of_an_earlier_connection(&mut self) {
        let Some(connection) = self.over.last().copied() else { return };
        let before = self.fleet.states(self.now);
        let report = Report { places: 9, is_ready: true, ..Report::default() };
        self.fleet.note_status(self.now, connection, report);
        self.fleet.note_lost(self.now, connection);
        assert_eq!(self.fleet.states(self.now), before, "seed {}", self.seed);
    }

    fn serves(&self, id: GatewayId) -> bool {
        let truth = &self.truths[&id];
        let is_open = truth.report.is_some_and(|report| report.is_ready && !report.is_draining);
        truth.is_listed && truth.connection.is_some() && is_open && !self.is_ejected(id)
    }

    fn is_ejected(&self, id: GatewayId) -> bool {
        let slot = &self.fleet.slots[id.slot];
        let gateway = slot.gateway.as_ref().filter(|_| slot.incarnation == id.incarnation);
        gateway.is_some_and(|gateway| self.now < gateway.ejected_until)
    }

    fn pick(&mut self) {
        let key = (self.random.below(2) == 0).then(|| self.random.below(50));
        let not_this: Vec<_> = if self.random.below(3) == 0 {
            self.any(|_| true).into_iter().collect()
        } else {
            vec![]
        };
        let fit: Vec<_> = self.truths.keys().copied().filter(|id| self.serves(*id)).collect();
        let only_nearest = self.random.below(2) == 0;
        let hops = |id: &GatewayId| self.truths[id].report.unwrap().hops;
        let nearest = fit.iter().map(hops).min();
        let fit = fit.iter().copied().filter(|id| !only_nearest || Some(hops(id)) == nearest);
        let fit: Vec<_> = fit.filter(|id| !not_this.contains(id)).collect();
        let picked = self.fleet.pick(self.now, key, only_nearest, &not_this);
        assert_eq!(picked.is_some(), !fit.is_empty(), "seed {}", self.seed);
        let Some(picked) = picked else { return };
        assert!(fit.contains(&picked.connection.gateway), "seed {}: {picked:?}", self.seed);
        let truth = self.truths.get_mut(&picked.connection.gateway).unwrap();
        assert_eq!(Some(picked.connection), truth.connection);
        truth.in_flight += 1;
        self.granted.push(picked);
    }

    fn finish(&mut self) {
        if self.granted.is_empty() {
            return;
        }
        let at = self.random.below(self.granted.len().try_into().unwrap());
        let grant = self.granted.swap_remove(usize::try_from(at).unwrap());
        let ending = match self.random.below(4) {
            0 => Ending::Answered,
            1 => Ending::Neutral,
            _ => Ending::Failed,
        };
        self.fleet.finish(self.now, grant, ending);
        self.truths.get_mut(&grant.connection.gateway).unwrap().in_flight -= 1;
    }

    fn check(&mut self) {
        self.truths.retain(|_, truth| truth.is_listed || truth.in_flight > 0);
        let mut expected: Vec<_> =
            self.truths.values().map(|truth| (truth.address, truth.in_flight)).collect();
        let states = self.fleet.states(self.now);
        let mut found: Vec<_> = states.iter().map(|(at, _, count, _)| (*at, *count)).collect();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected, "seed {}", self.seed);
        assert_eq!(self.fleet.in_flight(), self.granted.len(), "seed {}", self.seed);
        let count = |wanted| states.iter().filter(|(_, state, ..)| *state == wanted).count();
        let (ejected, ready) = (count(GatewayState::Ejected), count(GatewayState::Ready));
        assert!(ejected <= ready, "seed {}: {states:?}", self.seed);
        assert_eq!(self.fleet.totals(self.now, false).ready, ready);
    }
}

#[test]
fn a_thousand_schedules_pick_only_gateways_that_serve() {
    for seed in 0..SCHEDULES {
        let mut world = World::new(seed);
        (0..STEPS).for_each(|_| world.step());
        while !world.granted.is_empty() {
            world.finish();
        }
        world.check();
    }
}

/// Clients that know of each other only by what gateways report.
#[test]
fn gateways_of_several_clients_get_their_shares() {
    const PLACES: [usize; 3] = [2, 4, 8];
    let mut random = Random::new(9);
    let mut clients: Vec<_> = (0..4).map(|seed| Client::new(seed, &PLACES)).collect();
    let (mut served, mut loads) = ([0_usize; 3], [0_usize; 3]);
    for step in 0..40_000_u64 {
        let now = step * 1_000_000;
        if step.is_multiple_of(50) {
            for client in &mut clients {
                for (at, places) in PLACES.iter().enumerate() {
                    let report = Report {
                        places: *places,
                        requests: loads[at],
                        is_ready: true,
                        ..Report::default()
                    };
                    client.fleet.note_status(now, client.gateways[at], report);
                }
            }
        }
        let client = &mut clients[random.below(4) as usize];
        // A dozen requests of 14 places are in flight.
        if loads.iter().sum::<usize>() < 12 {
            let picked = client.fleet.pick(now, None, false, &[]).unwrap();
            let at =
                client.gateways.iter().position(|gateway| *gateway == picked.connection).unwrap();
            client.granted.push((at, picked));
            (served[at], loads[at]) = (served[at] + 1, loads[at] + 1);
        } else if !client.granted.is_empty() {
            let which = random.below(client.granted.len() as u64) as usize;
            let (at, grant) = client.granted.swap_remove(which);
            client.fleet.finish(now, grant, Ending::Answered);
            loads[at] -= 1;
        }
    }
    let all: usize = served.iter().sum();
    for (served, places) in served.iter().zip(PLACES) {
        let (found, fair) = (served * 1000 / all, places * 1000 / 14);
        // What they report is old by then; without it each would get a third.
        assert!(found.abs_diff(fair) < fair * 2 / 5, "{served} of {all}, {places} places");
    }
}

struct Client {
    fleet: Fleet<usize>,
    gateways: Vec<ConnectionId>,
    granted: Vec<(usize, Grant)>,
}

impl Client {
    fn new(seed: u64, places: &[usize]) -> Self {
        let mut fleet = Fleet::new(FleetLimits::default(), seed);
        let addresses: Vec<_> = (0..places.len()).collect();
        let ids = fleet.set_addresses(0, &addresses).into_iter().map(|change| match change {
            Change::Connect(id, _) => id,
            Change::Leave(_) => panic!("{change:?}"),
        });
        let ids: Vec<_> = ids.collect();
        let gateways = ids.into_iter().map(|id| fleet.note_connected(id).unwrap()).collect();
        Self { fleet, gateways, granted: Vec::new() }
    }
}
