//! The metrics of a pool under the names that exporters give them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::histogram::Histogram;
use super::snapshot::{PoolMetrics, RoleMetrics};

/// Metrics of one name and type.
#[derive(Debug)]
pub struct Family<'a> {
    /// Without the `_total` of counters.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// Its type.
    pub kind: FamilyKind,
    /// The metrics.
    pub samples: Vec<Sample<'a>>,
}

/// The type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the field's own words")]
pub enum FamilyKind {
    Counter,
    Gauge,
    Histogram,
}

impl Family<'_> {
    /// The name with the end that counters have in texts.
    #[must_use]
    pub fn full_name(&self) -> String {
        let end = if self.kind == FamilyKind::Counter { "_total" } else { "" };
        format!("{}{end}", self.name)
    }

    /// What its numbers count: the last word of its name, unless [`COUNTED`] tells it.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        let told = COUNTED.iter().find(|(name, _)| *name == self.name).map(|(_, unit)| *unit);
        told.or_else(|| self.name.rsplit('_').next()).unwrap_or("")
    }
}

/// The units of the families whose names do not end in them.
const COUNTED: [(&str, &str); 11] = [
    ("slipring_retries", "requests"),
    ("slipring_overflows", "requests"),
    ("slipring_overflow_returns", "requests"),
    ("slipring_worker_starts", "workers"),
    ("slipring_worker_restarts", "workers"),
    ("slipring_worker_losses", "workers"),
    ("slipring_worker_hangs", "workers"),
    ("slipring_worker_recycles", "workers"),
    ("slipring_reply_leases", "replies"),
    ("slipring_spins", "waits"),
    ("slipring_parks", "waits"),
];

/// One metric.
#[derive(Debug)]
pub struct Sample<'a> {
    /// The role first.
    pub labels: Vec<(&'static str, String)>,
    /// Its value.
    pub value: Value<'a>,
}

/// The value of a metric.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "they say it all")]
pub enum Value<'a> {
    Number(u64),
    Seconds(Duration),
    Times(&'a Histogram),
}

/// A metric of a role: its labels besides the role, and its value.
type Entry<'a> = (Vec<(&'static str, String)>, Value<'a>);

/// The name and the help of a family, its type, and its metrics of a role.
type Row = (&'static str, &'static str, FamilyKind, for<'a> fn(&'a RoleMetrics) -> Vec<Entry<'a>>);

const TABLE: [Row; 30] = [
    (
        "slipring_requests",
        "Requests that have ended, by kind and outcome",
        FamilyKind::Counter,
        |role| {
            // Two kinds can have one name.
            let mut counts = BTreeMap::<_, u64>::new();
            for each in &role.requests {
                *counts.entry((&each.kind_name, each.outcome.name())).or_default() += each.count;
            }
            let requests = counts.into_iter().map(|((kind, outcome), count)| {
                let labels = vec![("kind", kind.clone()), ("outcome", outcome.to_owned())];
                (labels, Value::Number(count))
            });
            requests.collect()
        },
    ),
    (
        "slipring_queue_seconds",
        "How long requests waited for a worker",
        FamilyKind::Histogram,
        |role| vec![(Vec::new(), Value::Times(&role.queue_times))],
    ),
    ("slipring_service_seconds", "How long requests had a worker", FamilyKind::Histogram, |role| {
        vec![(Vec::new(), Value::Times(&role.service_times))]
    }),
    (
        "slipring_retries",
        "Requests that were sent again, by whether their dead worker may have begun them",
        FamilyKind::Counter,
        |role| {
            let counts = [("false", role.resent_unbegun), ("true", role.resent_begun)];
            labelled("begun", &counts)
        },
    ),
    (
        "slipring_overflows",
        "Requests that went to the backend that the role overflows to",
        FamilyKind::Counter,
        |role| number(role.overflowed),
    ),
    (
        "slipring_overflow_returns",
        "Requests that came back from there, as they were not begun",
        FamilyKind::Counter,
        |role| number(role.overflowed_back),
    ),
    ("slipring_worker_starts", "Workers that were started", FamilyKind::Counter, |role| {
        number(role.workers.started)
    }),
    (
        "slipring_worker_restarts",
        "Workers that were started after one that was lost",
        FamilyKind::Counter,
        |role| number(role.workers.restarted),
    ),
    (
        "slipring_worker_losses",
        "Workers that ended without being told to, by what they did then",
        FamilyKind::Counter,
        |role| {
            let workers = &role.workers;
            let counts = [
                ("starting", workers.failed_to_start),
                ("serving", workers.died_serving),
                ("idle", workers.died_idle),
                ("killed_idle", workers.killed_idle),
            ];
            labelled("while", &counts)
        },
    ),
    (
        "slipring_worker_hangs",
        "Workers that were killed because a request made no progress",
        FamilyKind::Counter,
        |role| number(role.workers.hung),
    ),
    (
        "slipring_worker_recycles",
        "Workers that were replaced although they could go on, by reason",
        FamilyKind::Counter,
        |role| {
            let recycled = role.workers.recycled.iter();
            recycled
                .map(|(why, count)| {
                    (vec![("reason", why.name().to_owned())], Value::Number(*count))
                })
                .collect()
        },
    ),
    ("slipring_workers", "Workers that are there", FamilyKind::Gauge, |role| {
        number(role.channels.workers)
    }),
    ("slipring_queued_requests", "Requests that wait for a worker", FamilyKind::Gauge, |role| {
        size(role.load.queued)
    }),
    ("slipring_in_flight_requests", "Requests that workers have", FamilyKind::Gauge, |role| {
        size(role.load.in_flight)
    }),
    (
        "slipring_oldest_wait_seconds",
        "How long the oldest request that waits has waited",
        FamilyKind::Gauge,
        |role| vec![(Vec::new(), Value::Seconds(role.load.oldest_wait))],
    ),
    (
        "slipring_request_ring_used_bytes",
        "Bytes in the request rings of all workers",
        FamilyKind::Gauge,
        |role| number(role.channels.ring_used),
    ),
    (
        "slipring_request_ring_capacity_bytes",
        "Capacity of the request rings of all workers",
        FamilyKind::Gauge,
        |role| number(role.channels.ring_capacity),
    ),
    (
        "slipring_request_ring_high_water_bytes",
        "The most bytes that were in one request ring when it seemed full",
        FamilyKind::Gauge,
        |role| number(role.channels.ring_high_water),
    ),
    (
        "slipring_reply_ring_used_bytes",
        "Bytes in the reply rings of all workers that these cannot fill again yet",
        FamilyKind::Gauge,
        |role| number(role.channels.reply_ring_used),
    ),
    (
        "slipring_reply_ring_capacity_bytes",
        "Capacity of the reply rings of all workers",
        FamilyKind::Gauge,
        |role| number(role.channels.reply_ring_capacity),
    ),
    (
        "slipring_reply_ring_high_water_bytes",
        "The most bytes that were in one reply ring when it seemed full, as the workers say",
        FamilyKind::Gauge,
        |role| number(role.channels.reply_ring_high_water),
    ),
    (
        "slipring_reply_leases",
        "Replies and chunks that are held and keep room in a reply ring",
        FamilyKind::Gauge,
        |role| number(role.channels.reply_leases),
    ),
    ("slipring_spins", "Waits that began by spinning", FamilyKind::Counter, |role| {
        number(role.channels.spins)
    }),
    ("slipring_parks", "Waits that went to sleep", FamilyKind::Counter, |role| {
        number(role.channels.parks)
    }),
    (
        "slipring_wakes",
        "Times that a sleeping worker was woken for a request",
        FamilyKind::Counter,
        |role| number(role.channels.wakes),
    ),
    ("slipring_chunks", "Chunks that came for streams", FamilyKind::Counter, |role| {
        number(role.channels.chunks)
    }),
    ("slipring_sent_bytes", "Bytes of the payloads that were sent", FamilyKind::Counter, |role| {
        number(role.channels.bytes_sent)
    }),
    ("slipring_received_bytes", "Bytes of the payloads that came", FamilyKind::Counter, |role| {
        number(role.channels.bytes_received)
    }),
    ("slipring_recorded_frames", "Frames that were recorded", FamilyKind::Counter, |role| {
        number(role.channels.recorded_frames)
    }),
    (
        "slipring_unrecorded_frames",
        "Frames that recordings have left out, as a queue or the disk was full",
        FamilyKind::Counter,
        |role| number(role.channels.unrecorded_frames),
    ),
];

fn number(value: u64) -> Vec<Entry<'static>> {
    vec![(Vec::new(), Value::Number(value))]
}

fn size(value: usize) -> Vec<Entry<'static>> {
    number(u64::try_from(value).unwrap_or(u64::MAX))
}

fn labelled(key: &'static str, counts: &[(&'static str, u64)]) -> Vec<Entry<'static>> {
    let entry =
        |(label, count): &(&str, u64)| (vec![(key, (*label).to_owned())], Value::Number(*count));
    counts.iter().map(entry).collect()
}

impl PoolMetrics {
    pub(super) fn families(&self) -> Vec<Family<'_>> {
        let family = |(name, help, kind, of): Row| {
            let samples = self.roles.iter().flat_map(|role| {
                of(role).into_iter().map(|(own, value)| {
                    let labels = [("role", role.role.clone())].into_iter().chain(own).collect();
                    Sample { labels, value }
                })
            });
            Family { name, help, kind, samples: samples.collect() }
        };
        TABLE.into_iter().map(family).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{ChannelTotals, RequestCount, WorkerCounts};
    use super::*;
    use crate::error::{ErrorKind, Overload};
    use crate::pool::{Outcome, RecycleReason};

    #[test]
    fn kinds_of_the_same_name_are_one_metric() {
        let failed = Outcome::Failed(ErrorKind::Timeout);
        let requests = [(Outcome::Answered, 1), (failed, 2), (Outcome::Answered, 4), (failed, 8)];
        let metrics = metrics_with(requests.map(|(how, count)| request(how, count)).into());
        let families = metrics.families();
        let counts = families[0].samples.iter().map(|sample| match sample.value {
            Value::Number(count) => (sample.labels[2].1.as_str(), count),
            _ => panic!("no counter"),
        });
        assert_eq!(counts.collect::<Vec<_>>(), [("ok", 5), ("timeout", 10)]);
    }

    /// The table of the documentation, that of a family in each line.
    fn documented() -> Vec<String> {
        let text = include_str!("../../../docs/METRICS.md");
        text.lines().filter(|line| line.starts_with("| `slipring_")).map(str::to_owned).collect()
    }

    fn request(outcome: Outcome, count: u64) -> RequestCount {
        RequestCount { kind: None, kind_name: "echo".to_owned(), outcome, count }
    }

    fn metrics_with(requests: Vec<RequestCount>) -> PoolMetrics {
        let recycled = vec![(RecycleReason::Lifetime, 1)];
        let load = Overload {
            queued: 0,
            limit: 1,
            in_flight: 0,
            oldest_wait: Duration::ZERO,
            retry_after: Duration::ZERO,
        };
        let role = RoleMetrics {
            role: "one".to_owned(),
            requests,
            queue_times: Histogram::default(),
            service_times: Histogram::default(),
            resent_unbegun: 0,
            resent_begun: 0,
            overflowed: 0,
            overflowed_back: 0,
            workers: WorkerCounts { recycled, ..WorkerCounts::default() },
            load,
            channels: ChannelTotals::default(),
        };
        PoolMetrics { roles: vec![role] }
    }

    fn exported() -> Vec<String> {
        let metrics = metrics_with(vec![request(Outcome::Answered, 1)]);
        let line = |family: &Family<'_>| {
            let (name, unit) = (family.full_name(), family.unit());
            let kind = format!("{:?}", family.kind).to_lowercase();
            let labels = family.samples.first().map(|sample| {
                assert_eq!(sample.labels[0], ("role", "one".to_owned()));
                let own = sample.labels.iter().skip(1);
                own.map(|(label, _)| format!("`{label}`")).collect::<Vec<_>>().join(", ")
            });
            let labels = format!(" {} ", labels.unwrap()).replace("  ", " ");
            format!("| `{name}` | {kind} |{labels}| {unit} |")
        };
        metrics.families().iter().map(line).collect()
    }

    #[test]
    fn the_documentation_lists_what_is_exported() {
        assert_eq!(documented(), exported());
    }
}
