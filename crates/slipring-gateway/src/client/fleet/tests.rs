use std::collections::HashMap;

use super::*;

const SECOND: u64 = 1_000_000_000;

/// Without a slow start, which would hide the order.
fn limits() -> FleetLimits {
    FleetLimits { slow_start: 0, ..FleetLimits::default() }
}

fn report(places: usize, requests: usize) -> Report {
    Report { places, requests, is_ready: true, ..Report::default() }
}

/// A fleet of gateways that have so many places, all ready since 0.
fn fleet(limits: FleetLimits, places: &[usize]) -> (Fleet<usize>, Vec<ConnectionId>) {
    let mut fleet = Fleet::new(limits, 5);
    let addresses: Vec<usize> = (0..places.len()).collect();
    let changes = fleet.set_addresses(0, &addresses);
    let connect = |(change, places): (Change<usize>, &usize)| {
        let Change::Connect(id, _) = change else { panic!("{change:?}") };
        let connection = fleet.note_connected(id).unwrap();
        fleet.note_status(0, connection, report(*places, 0));
        connection
    };
    let connections = changes.into_iter().zip(places).map(connect).collect();
    (fleet, connections)
}

fn state(fleet: &Fleet<usize>, now: u64, address: usize) -> GatewayState {
    let states = fleet.states(now);
    states.iter().find(|(at, ..)| *at == address).unwrap().1
}

/// Has so many requests fail, or fewer if it is ejected before.
fn fail(fleet: &mut Fleet<usize>, now: u64, connection: ConnectionId, times: usize) {
    let others: Vec<_> = fleet.ids().into_iter().filter(|id| *id != connection.gateway).collect();
    for _ in 0..times {
        let Some(picked) = fleet.pick(now, None, false, &others) else { return };
        fleet.finish(now, picked, Ending::Failed);
    }
}

#[test]
fn requests_spread_by_places_and_by_what_others_send() {
    let (mut fleet, connections) = fleet(limits(), &[1, 2, 5]);
    let mut counts = HashMap::new();
    for _ in 0..80 {
        *counts.entry(fleet.pick(0, None, false, &[]).unwrap().connection).or_insert(0) += 1;
    }
    assert_eq!(connections.iter().map(|at| counts[at]).collect::<Vec<_>>(), [10, 20, 50]);
    // The first reports 40 requests, 10 of them this client's: it is the fullest by far.
    fleet.note_status(0, connections[0], report(1, 40));
    for _ in 0..70 {
        assert_ne!(fleet.pick(0, None, false, &[]).unwrap().connection, connections[0]);
    }
    assert_eq!((fleet.in_flight(), fleet.totals(0, false).in_flight), (150, 8));
    assert_eq!(fleet.totals(0, false).queued, 150 + 30 - 8);
}

#[test]
fn equals_are_chosen_at_random_by_their_places() {
    let (mut fleet, connections) = fleet(limits(), &[1, 1, 2]);
    let mut counts = HashMap::new();
    for _ in 0..4000 {
        let picked = fleet.pick(0, None, false, &[]).unwrap();
        fleet.finish(0, picked, Ending::Answered);
        *counts.entry(picked.connection).or_insert(0_i32) += 1;
    }
    for (connection, expected) in connections.iter().zip([1000, 1000, 2000]) {
        assert!((counts[connection] - expected).abs() < 150, "{counts:?}");
    }
}

#[test]
fn a_new_gateway_gets_a_growing_share() {
    let limits = FleetLimits { slow_start: 8 * SECOND, ..limits() };
    let (mut fleet, connections) = fleet(limits, &[8, 8]);
    let first = fleet.set_addresses(10 * SECOND, &[0, 1, 2]);
    let [Change::Connect(id, 2)] = first[..] else { panic!("{first:?}") };
    let new = fleet.note_connected(id).unwrap();
    let share = |fleet: &mut Fleet<usize>, now| {
        fleet.note_status(now, new, report(8, 0));
        let picked: Vec<_> = (0..300).map(|_| fleet.pick(now, None, false, &[]).unwrap()).collect();
        let count = picked.iter().filter(|at| at.connection == new).count();
        picked.into_iter().for_each(|at| fleet.finish(now, at, Ending::Answered));
        count
    };
    let shares: Vec<_> = [10, 14, 18].map(|s| share(&mut fleet, s * SECOND)).into();
    assert!((15..=20).contains(&shares[0]), "{shares:?}");
    assert!((60..=70).contains(&shares[1]), "{shares:?}");
    assert_eq!(shares[2], 100);
    // One that was cut off comes back as a new one, and its requests do not count twice.
    fleet.note_lost(20 * SECOND, connections[0]);
    assert_eq!(state(&fleet, 20 * SECOND, 0), GatewayState::Connecting);
    let again = fleet.note_connected(connections[0].gateway).unwrap();
    fleet.note_status(20 * SECOND, again, report(8, 0));
    let picked: Vec<_> =
        (0..170).map(|_| fleet.pick(20 * SECOND, None, false, &[]).unwrap()).collect();
    assert_eq!(picked.iter().filter(|at| at.connection == again).count(), 10);
}

#[test]
fn a_key_stays_with_its_gateway_while_that_has_a_place() {
    let (mut fleet, _) = fleet(limits(), &[2, 2, 2, 2]);
    let mut counts = HashMap::new();
    for key in 0..1000 {
        let grants = [(); 3].map(|()| fleet.pick(0, Some(key), false, &[]).unwrap());
        let [first, second, third] = grants.map(|grant| grant.connection);
        assert_eq!(first, second);
        assert_ne!(first, third, "it is full");
        grants.into_iter().for_each(|grant| fleet.finish(0, grant, Ending::Answered));
        *counts.entry(first).or_insert(0) += 1;
    }
    assert!(counts.len() == 4 && counts.values().all(|count| *count > 180), "{counts:?}");
}

#[test]
fn only_a_connected_gateway_whose_role_is_ready_is_chosen() {
    let mut fleet = Fleet::new(limits(), 1);
    let changes = fleet.set_addresses(0, &[0, 0]);
    let [Change::Connect(id, 0)] = changes[..] else { panic!("{changes:?}") };
    assert_eq!(
        (state(&fleet, 0, 0), fleet.pick(0, None, false, &[])),
        (GatewayState::Connecting, None)
    );
    let connection = fleet.note_connected(id).unwrap();
    assert_eq!(
        (state(&fleet, 0, 0), fleet.pick(0, None, false, &[])),
        (GatewayState::Starting, None)
    );
    let starting = Report { is_ready: false, ..report(1, 0) };
    fleet.note_status(0, connection, starting);
    assert_eq!(
        (state(&fleet, 0, 0), fleet.pick(0, None, false, &[])),
        (GatewayState::Starting, None)
    );
    assert!(!fleet.take_has_grown());
    fleet.note_status(0, connection, report(1, 0));
    assert!(fleet.take_has_grown() && !fleet.take_has_grown());
    assert_eq!(fleet.pick(0, None, false, &[]).unwrap().connection, connection);
    assert_eq!(fleet.pick(0, None, false, &[id]), None);
    fleet.note_status(0, connection, Report { is_draining: true, ..report(1, 0) });
    assert_eq!(
        (state(&fleet, 0, 0), fleet.pick(0, None, false, &[])),
        (GatewayState::Draining, None)
    );
    fleet.note_lost(0, connection);
    assert_eq!(state(&fleet, 0, 0), GatewayState::Connecting);
    assert_eq!(fleet.get_mut(id).unwrap().errors, 0, "it had said that it would end");
}

#[test]
fn what_a_gateway_refuses_before_it_says_that_it_ends_is_no_error() {
    let (mut fleet, connections) = fleet(limits(), &[1, 1]);
    fail(&mut fleet, 0, connections[0], 5);
    assert_eq!(state(&fleet, 0, 0), GatewayState::Ejected);
    fleet.note_status(0, connections[0], Report { is_draining: true, ..report(1, 0) });
    fleet.note_lost(0, connections[0]);
    let again = fleet.note_connected(connections[0].gateway).unwrap();
    fleet.note_status(0, again, report(1, 0));
    assert_eq!(state(&fleet, 0, 0), GatewayState::Ready);
}

#[test]
fn nothing_that_is_said_of_an_earlier_connection_counts() {
    let (mut fleet, connections) = fleet(limits(), &[1]);
    let early = fleet.pick(0, None, false, &[]).unwrap();
    fleet.note_lost(0, connections[0]);
    let again = fleet.note_connected(connections[0].gateway).unwrap();
    fleet.note_status(0, connections[0], report(1, 0));
    assert_eq!(state(&fleet, 0, 0), GatewayState::Starting, "a late status");
    fleet.note_status(0, again, report(1, 0));
    fleet.note_lost(0, connections[0]);
    fleet.finish(0, early, Ending::Failed);
    assert_eq!((state(&fleet, 0, 0), fleet.in_flight()), (GatewayState::Ready, 0));
    assert_eq!(fleet.get_mut(again.gateway).unwrap().errors, 1, "that of the lost connection");
}

#[test]
fn a_gateway_that_is_not_listed_finishes_and_is_forgotten() {
    let (mut fleet, connections) = fleet(limits(), &[1, 1]);
    let other = connections[1].gateway;
    let picked = fleet.pick(0, None, false, &[other]).unwrap();
    assert_eq!(fleet.set_addresses(0, &[1]), [Change::Leave(picked.connection.gateway)]);
    assert_eq!((state(&fleet, 0, 0), fleet.in_flight()), (GatewayState::Gone, 1));
    assert_eq!(fleet.pick(0, None, false, &[other]), None);
    assert_eq!(fleet.note_connected(picked.connection.gateway), None);
    // It comes back while the earlier one still serves: they have nothing in common.
    let changes = fleet.set_addresses(0, &[0, 1]);
    let [Change::Connect(id, 0)] = changes[..] else { panic!("{changes:?}") };
    assert_ne!(id, picked.connection.gateway);
    fleet.finish(0, picked, Ending::Answered);
    assert_eq!((fleet.states(0).len(), fleet.in_flight()), (2, 0));
    fleet.finish(0, picked, Ending::Answered);
    assert_eq!(fleet.in_flight(), 0);
}

#[test]
fn a_gateway_that_fails_in_a_row_pauses_longer_each_time() {
    let (mut fleet, connections) = fleet(limits(), &[1, 1, 1]);
    let bad = connections[0];
    fail(&mut fleet, 0, bad, 4);
    let others = [connections[1].gateway, connections[2].gateway];
    let picked = fleet.pick(0, None, false, &others).unwrap();
    fleet.finish(0, picked, Ending::Answered);
    fail(&mut fleet, 0, bad, 4);
    assert_eq!(state(&fleet, 0, 0), GatewayState::Ready, "one has gone well between");
    fail(&mut fleet, 0, bad, 1);
    let mut now = 0;
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        assert_eq!(state(&fleet, now, 0), GatewayState::Ejected);
        assert_eq!(fleet.next_return(now), Some(now + pause * SECOND));
        assert_eq!(fleet.pick(now, None, false, &others), None);
        now += pause * SECOND;
        assert_eq!(state(&fleet, now, 0), GatewayState::Ready);
        fail(&mut fleet, now, bad, 1);
    }
    now += 30 * SECOND + limits().clean_period;
    fail(&mut fleet, now, bad, 1);
    assert_eq!(fleet.next_return(now), Some(now + SECOND), "it had been good for long");
}

#[test]
fn requests_that_fail_together_are_one_error() {
    let (mut fleet, connections) = fleet(limits(), &[1, 1]);
    let other = [connections[1].gateway];
    for round in 1..5 {
        let grants: Vec<_> = (0..9).map(|_| fleet.pick(0, None, false, &other).unwrap()).collect();
        grants.into_iter().for_each(|grant| fleet.finish(0, grant, Ending::Failed));
        assert_eq!(fleet.get_mut(connections[0].gateway).unwrap().errors, round);
    }
    assert_eq!(state(&fleet, 0, 0), GatewayState::Ready);
    fail(&mut fleet, 0, connections[0], 1);
    assert_eq!(state(&fleet, 0, 0), GatewayState::Ejected);
}

#[test]
fn half_of_the_gateways_are_used_however_bad_they_are() {
    let (mut fleet, connections) = fleet(limits(), &[1, 1, 1, 1, 1]);
    let ejected = |fleet: &Fleet<usize>, now| {
        let states = fleet.states(now);
        states.iter().filter(|(_, state, ..)| *state == GatewayState::Ejected).count()
    };
    for (at, connection) in (0..).zip(&connections) {
        fail(&mut fleet, at, *connection, 9);
    }
    assert_eq!(ejected(&fleet, 9), 2);
    // Two of the three that serve go: one that is ejected must come back.
    fleet.take_has_grown();
    fleet.note_lost(10, connections[4]);
    assert_eq!((ejected(&fleet, 10), fleet.take_has_grown()), (2, false));
    fleet.set_addresses(10, &[0, 1, 2, 4]);
    assert_eq!((ejected(&fleet, 10), fleet.take_has_grown()), (1, true));
    assert_eq!(state(&fleet, 10, 0), GatewayState::Ready, "its pause was the first to end");
    let (mut alone, connections) = self::fleet(limits(), &[1]);
    fail(&mut alone, 0, connections[0], 99);
    assert_eq!(state(&alone, 0, 0), GatewayState::Ready);
}

#[test]
fn a_gateway_whose_connection_never_holds_pauses_too() {
    let (mut fleet, connections) = fleet(limits(), &[1, 1]);
    let mut connection = connections[0];
    for _ in 0..5 {
        assert_eq!(state(&fleet, 0, 0), GatewayState::Ready);
        fleet.note_lost(0, connection);
        connection = fleet.note_connected(connection.gateway).unwrap();
        fleet.note_status(0, connection, report(1, 0));
    }
    assert_eq!(state(&fleet, 0, 0), GatewayState::Ejected);
    assert_eq!(state(&fleet, SECOND, 0), GatewayState::Ready);
    // An early error is forgotten by the time of the next one.
    let late = SECOND + limits().clean_period;
    fleet.note_lost(late, connection);
    connection = fleet.note_connected(connection.gateway).unwrap();
    fleet.note_status(late, connection, report(1, 0));
    assert_eq!(state(&fleet, late, 0), GatewayState::Ready);
}

#[test]
fn a_gateway_that_comes_late_is_used_at_once() {
    let (mut fleet, connections) = fleet(limits(), &[1, 1]);
    let mut connection = connections[0];
    // It is stopped: its machine takes connections, and no request reaches it.
    for _ in 0..100 {
        fleet.note_lost(0, connection);
        connection = fleet.note_connected(connection.gateway).unwrap();
    }
    fleet.note_status(0, connection, report(1, 0));
    assert_eq!(state(&fleet, 0, 0), GatewayState::Ready);
}
