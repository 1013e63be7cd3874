//! The connection to one gateway, made again whenever it is lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::address::Address;
use super::attempts::MOST_HOPS;
use super::fleet::{ConnectionId, GatewayId, Report};
use super::random::Random;
use super::shared::Shared;
use super::wire::{Connect, Statuses, Wire};
use crate::proto::GatewayStatus;

/// The pauses between attempts to connect. A gateway that starts is found within the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(600);

/// A gateway reports each second. One that is silent for so long is not used any more, although its
/// connection seems to be alive.
const LONGEST_SILENCE: Duration = Duration::from_secs(3);

/// Keeps a connection to a gateway, until it is listed no more.
pub(super) async fn keep<C: Connect>(
    shared: Arc<Shared<C>>,
    gateway: GatewayId,
    address: Address,
    seed: u64,
) {
    let mut pauses = Pauses { next: FIRST_PAUSE, random: Random::new(seed) };
    loop {
        let began = Instant::now();
        let connected = timeout(shared.connect_timeout, shared.connector.connect(&address)).await;
        let wire = match connected {
            Ok(Ok(wire)) => Arc::new(wire),
            Ok(Err(error)) => {
                shared.note_problem(&address, error.to_string());
                pauses.sleep().await;
                continue;
            }
            Err(_) => {
                let longest = shared.connect_timeout;
                shared.note_problem(&address, format!("no connection within {longest:?}"));
                pauses.sleep().await;
                continue;
            }
        };
        let Some(connection) = shared.note_connected(gateway, &wire) else { return };
        let lost = Lost { shared: &shared, connection };
        let (why, was_used) = follow(&shared, connection, &*wire).await;
        shared.note_problem(&address, why);
        drop(lost);
        // Requests that it still has keep it.
        drop(wire);
        if was_used && began.elapsed() >= LONGEST_PAUSE {
            pauses.next = FIRST_PAUSE;
        }
        pauses.sleep().await;
    }
}

/// Notes the reports of a gateway. Returns why no more come, and whether one came.
async fn follow<C: Connect>(
    shared: &Shared<C>,
    connection: ConnectionId,
    wire: &C::Wire,
) -> (String, bool) {
    let mut was_used = false;
    let silent = || format!("the gateway was silent for {LONGEST_SILENCE:?}");
    let mut statuses = match timeout(LONGEST_SILENCE, wire.watch()).await {
        Ok(Ok(statuses)) => statuses,
        Ok(Err(error)) => return (error.to_string(), was_used),
        Err(_) => return (silent(), was_used),
    };
    loop {
        match timeout(LONGEST_SILENCE, statuses.next()).await {
            Ok(Some(Ok(status))) => {
                was_used = true;
                shared.note_status(connection, report(&shared.role, &status));
            }
            Ok(Some(Err(error))) => return (error.to_string(), was_used),
            Ok(None) => return ("the gateway has ended".to_owned(), was_used),
            Err(_) => return (silent(), was_used),
        }
    }
}

/// What a gateway says of one role.
fn report(role: &str, status: &GatewayStatus) -> Report {
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let Some(of_role) = status.roles.iter().find(|at| at.role == role) else {
        let is_draining = status.is_draining;
        return Report { is_draining, lacks_role: true, ..Report::default() };
    };
    Report {
        places: count(of_role.places),
        requests: count(of_role.in_flight.saturating_add(of_role.queued)),
        // Gateways that have no workers, and find each other, say that they are further with each report.
        is_ready: of_role.is_ready && of_role.hops < MOST_HOPS,
        is_draining: status.is_draining || of_role.is_draining,
        lacks_role: false,
        hops: of_role.hops,
    }
}

/// Says that a connection is lost, also if its task is ended.
struct Lost<'a, C: Connect> {
    shared: &'a Shared<C>,
    connection: ConnectionId,
}

impl<C: Connect> Drop for Lost<'_, C> {
    fn drop(&mut self) {
        self.shared.note_lost(self.connection);
    }
}

/// Growing pauses, shortened by up to a fifth, so that hosts which lost a gateway together do not
/// come back together.
struct Pauses {
    next: Duration,
    random: Random,
}

impl Pauses {
    async fn sleep(&mut self) {
        let most = u64::try_from(self.next.as_micros()).unwrap_or(u64::MAX);
        let pause = most - self.random.below(most / 5 + 1);
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        sleep(Duration::from_micros(pause)).await;
    }
}
