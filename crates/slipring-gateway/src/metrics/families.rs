//! The metrics under the names that exporters give them.

use slipring::pool::export::{Family, FamilyKind, Sample, Value};

use super::{GatewayMetrics, GatewayRoleMetrics, RemoteGatewayMetrics, RemoteRoleMetrics};

/// The labels of a metric beside those that all of its table have, and its value.
type Entry<'a> = (Vec<(&'static str, String)>, Value<'a>);

/// The name and the help of a family, its type, and its metrics.
type Row<T> = (&'static str, &'static str, FamilyKind, for<'a> fn(&'a T) -> Vec<Entry<'a>>);

use FamilyKind::{Counter, Gauge};

const OF_GATEWAY: [Row<GatewayMetrics>; 7] = [
    (
        "slipring_gateway_connections",
        "Connections that have passed their handshake",
        Gauge,
        |gateway| size(gateway.connections),
    ),
    (
        "slipring_gateway_accepted_connections",
        "Connections that were accepted",
        Counter,
        |gateway| number(gateway.accepted_connections),
    ),
    (
        "slipring_gateway_refused_connections",
        "Connections that were closed since all others had requests",
        Counter,
        |gateway| number(gateway.refused_connections),
    ),
    (
        "slipring_gateway_failed_handshakes",
        "Handshakes that failed, took too long, or gave way to others",
        Counter,
        |gateway| number(gateway.failed_handshakes),
    ),
    (
        "slipring_gateway_silent_connections",
        "Connections whose caller did not answer any more",
        Counter,
        |gateway| number(gateway.silent_connections),
    ),
    (
        "slipring_gateway_paced_connections",
        "Connections that were slowed down, since their caller sent too many frames without content",
        Counter,
        |gateway| number(gateway.paced_connections),
    ),
    (
        "slipring_gateway_in_flight_requests",
        "Requests to workers that the gateway has",
        Gauge,
        |gateway| size(gateway.in_flight),
    ),
];

const OF_GATEWAY_ROLE: [Row<GatewayRoleMetrics>; 4] = [
    (
        "slipring_gateway_requests",
        "Requests of other machines that have ended, by outcome",
        Counter,
        |role| {
            let of_outcome = |outcome: &'static str| vec![("outcome", outcome.to_owned())];
            let counts = role.requests.iter();
            counts
                .map(|each| (of_outcome(each.outcome.name()), Value::Number(each.count)))
                .collect()
        },
    ),
    (
        "slipring_gateway_seconds",
        "How long requests took, from their headers to the end of their answer",
        FamilyKind::Histogram,
        |role| vec![(Vec::new(), Value::Times(&role.times))],
    ),
    ("slipring_gateway_received_bytes", "Bytes of the payloads of requests", Counter, |role| {
        number(role.bytes_received)
    }),
    (
        "slipring_gateway_sent_bytes",
        "Bytes of the payloads of replies and chunks",
        Counter,
        |role| number(role.bytes_sent),
    ),
];

const OF_REMOTE_ROLE: [Row<RemoteRoleMetrics>; 4] = [
    ("slipring_remote_requests", "Requests that were taken", Counter, |role| number(role.requests)),
    ("slipring_remote_in_flight_requests", "Requests that have not ended", Gauge, |role| {
        size(role.in_flight)
    }),
    ("slipring_remote_waiting_requests", "Requests that wait for a gateway", Gauge, |role| {
        size(role.waiting)
    }),
    (
        "slipring_remote_retries",
        "Requests that were sent again, by whether a worker may have begun them",
        Counter,
        |role| {
            let counts = [("false", role.resent_unbegun), ("true", role.resent_begun)];
            let entry = |(begun, count): (&str, _)| {
                (vec![("begun", begun.to_owned())], Value::Number(count))
            };
            counts.into_iter().map(entry).collect()
        },
    ),
];

const OF_REMOTE_GATEWAY: [Row<RemoteGatewayMetrics>; 9] = [
    ("slipring_remote_gateways", "Gateways, by what they are used for", Gauge, |gateway| {
        vec![(vec![("state", gateway.state_name().to_owned())], Value::Number(1))]
    }),
    (
        "slipring_remote_gateway_in_flight_requests",
        "Requests of this client that a gateway has",
        Gauge,
        |gateway| size(gateway.in_flight),
    ),
    (
        "slipring_remote_gateway_reported_requests",
        "Requests of all clients that a gateway has reported",
        Gauge,
        |gateway| size(gateway.reported_requests),
    ),
    (
        "slipring_remote_gateway_places",
        "Requests that the workers of a gateway serve at the same time",
        Gauge,
        |gateway| size(gateway.places),
    ),
    (
        "slipring_remote_gateway_attempts",
        "Requests that were sent to a gateway",
        Counter,
        |gateway| number(gateway.attempts),
    ),
    (
        "slipring_remote_gateway_refusals",
        "Requests that a gateway did not begin, and that went elsewhere",
        Counter,
        |gateway| number(gateway.refusals),
    ),
    ("slipring_remote_gateway_errors", "Errors of a gateway itself", Counter, |gateway| {
        number(gateway.errors)
    }),
    (
        "slipring_remote_gateway_connects",
        "Connections that were made to a gateway",
        Counter,
        |gateway| number(gateway.connects),
    ),
    (
        "slipring_remote_gateway_disconnects",
        "Connections to a gateway that were lost, or that it has closed",
        Counter,
        |gateway| number(gateway.disconnects),
    ),
];

fn number(value: u64) -> Vec<Entry<'static>> {
    vec![(Vec::new(), Value::Number(value))]
}

fn size(value: usize) -> Vec<Entry<'static>> {
    number(u64::try_from(value).unwrap_or(u64::MAX))
}

/// The families of a table, each with the metrics of all of these.
fn families<'a, T: 'a>(
    table: &[Row<T>],
    all: &[(Vec<(&'static str, String)>, &'a T)],
) -> Vec<Family<'a>> {
    let family = |(name, help, kind, of): &Row<T>| {
        let samples = all.iter().flat_map(|(labels, each)| {
            of(each).into_iter().map(|(own, value)| {
                let labels = labels.iter().cloned().chain(own).collect();
                Sample { labels, value }
            })
        });
        Family { name, help, kind: *kind, samples: samples.collect() }
    };
    table.iter().map(family).collect()
}

/// Something whose metrics are exported.
pub(super) trait Export {
    fn families(&self) -> Vec<Family<'_>>;
}

impl Export for GatewayMetrics {
    fn families(&self) -> Vec<Family<'_>> {
        let role = |role: &'_ GatewayRoleMetrics| vec![("role", role.role.clone())];
        let roles: Vec<_> = self.roles.iter().map(|each| (role(each), each)).collect();
        let mut all = families(&OF_GATEWAY, &[(Vec::new(), self)]);
        all.extend(families(&OF_GATEWAY_ROLE, &roles));
        all
    }
}

impl Export for RemoteRoleMetrics {
    fn families(&self) -> Vec<Family<'_>> {
        let role = || vec![("role", self.role.clone())];
        let gateways = self.gateways.iter().map(|each| {
            let labels = role().into_iter().chain([("gateway", each.address.clone())]);
            (labels.collect(), each)
        });
        let gateways: Vec<_> = gateways.collect();
        let mut all = families(&OF_REMOTE_ROLE, &[(role(), self)]);
        all.extend(families(&OF_REMOTE_GATEWAY, &gateways));
        all
    }
}

#[cfg(test)]
mod tests {
    use slipring::pool::Outcome;

    use super::*;
    use crate::GatewayState;
    use crate::metrics::OutcomeCount;

    fn lines(metrics: &impl Export) -> Vec<String> {
        let line = |family: Family<'_>| {
            let kind = format!("{:?}", family.kind).to_lowercase();
            let labels = family.samples.first().map(|sample| {
                let labels = sample.labels.iter().map(|(label, _)| format!("`{label}`"));
                labels.collect::<Vec<_>>().join(", ")
            });
            let labels = format!(" {} ", labels.unwrap()).replace("  ", " ");
            format!("| `{}` | {kind} |{labels}| {} |", family.full_name(), family.unit())
        };
        metrics.families().into_iter().map(line).collect()
    }

    #[test]
    fn the_documentation_lists_what_is_exported() {
        let requests = vec![OutcomeCount { outcome: Outcome::Answered, count: 1 }];
        let role = GatewayRoleMetrics { requests, ..GatewayRoleMetrics::default() };
        let gateway = GatewayMetrics { roles: vec![role], ..GatewayMetrics::default() };
        let of_one = RemoteGatewayMetrics {
            address: "one:1".to_owned(),
            state: GatewayState::Ready,
            is_in_slow_start: false,
            in_flight: 0,
            reported_requests: 0,
            places: 0,
            attempts: 0,
            refusals: 0,
            errors: 0,
            connects: 0,
            disconnects: 0,
        };
        let remote = RemoteRoleMetrics { gateways: vec![of_one], ..RemoteRoleMetrics::default() };
        let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        if !docs.exists() {
            println!("skipped: a package has no documents");
            return;
        }
        let text = std::fs::read_to_string(docs.join("NETWORK.md")).unwrap();
        let documented: Vec<_> =
            text.lines().filter(|line| line.starts_with("| `slipring_")).collect();
        assert_eq!(documented, [lines(&gateway), lines(&remote)].concat());
    }
}
