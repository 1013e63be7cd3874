//! What is shown: a line for each worker and each role, with rates between two looks.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use slipring::status_page::{Host, Hosts, Numbers, Row, Times};

use super::PERIOD;

/// One look at all hosts.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) hosts: Hosts,
}

impl Look {
    /// When a host wrote its page.
    fn written(&self, host: &Host) -> Option<Instant> {
        self.at.checked_sub(host.heartbeat_age)
    }
}

/// A worker or a role, as it is shown.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Line {
    /// The host's process id and the row's id.
    pub(super) key: (u32, u64),
    pub(super) host: u32,
    /// The name of the role; for a worker with its process id.
    pub(super) name: String,
    pub(super) role: String,
    /// Whether it is a role of a pool, which has workers.
    pub(super) is_role: bool,
    /// How many workers a role has; the process id of a worker, or 0 if it is not known.
    pub(super) worker: u64,
    /// The command line of the host.
    pub(super) command: String,
    pub(super) state: &'static str,
    /// Requests that were answered, for each second since the look before; `None` at the first.
    pub(super) rate: Option<f64>,
    /// Bytes of payloads in both directions, likewise.
    pub(super) bytes: Option<f64>,
    /// Waits that went to sleep, likewise.
    pub(super) sleeps: Option<f64>,
    /// Requests that were answered.
    pub(super) done: u64,
    /// Workers of a role that have died.
    pub(super) died: Option<u64>,
    /// Requests that workers have.
    pub(super) in_flight: u64,
    /// Requests that wait for a worker.
    pub(super) queued: u64,
    /// How long the oldest request takes or waits.
    pub(super) oldest: Duration,
    /// The fuller of both rings, in percent.
    pub(super) ring: u64,
    /// The bound of the median of the same times; the longest time if it has none.
    pub(super) p50: Option<Duration>,
    /// The bound of the 99th percentile of calls, or of the time that requests had a worker.
    pub(super) p99: Option<Duration>,
    pub(super) errors: u64,
    pub(super) note: String,
}

/// By what the lines are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Host,
    Rate,
    InFlight,
    Oldest,
    Errors,
}

impl Order {
    pub(super) const ALL: [Self; 5] =
        [Self::Host, Self::Rate, Self::InFlight, Self::Oldest, Self::Errors];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Rate => "requests",
            Self::InFlight => "in flight",
            Self::Oldest => "oldest",
            Self::Errors => "errors",
        }
    }

    pub(super) fn next(self) -> Self {
        let place = Self::ALL.iter().position(|each| *each == self).unwrap_or(0);
        Self::ALL.iter().cycle().nth(place + 1).copied().unwrap_or(self)
    }
}

/// Keeps the workers and roles that have a line with this filter, and hosts that have any.
pub(super) fn keep(hosts: &mut Vec<Host>, filter: &str) {
    for host in hosts.iter_mut() {
        let mut rows = std::mem::take(&mut host.rows);
        rows.retain(|row| line(host, row, None).is_some_and(|line| matches(&line, host, filter)));
        host.rows = rows;
    }
    hosts.retain(|host| filter.is_empty() || !host.rows.is_empty());
}

/// The lines of a look. `filter` is part of a name, of a host's process id or of its command line.
pub(super) fn lines(look: &Look, before: Option<&Look>, order: Order, filter: &str) -> Vec<Line> {
    let mut earlier = HashMap::new();
    for (look, host) in before.iter().flat_map(|look| look.hosts.hosts.iter().map(|h| (*look, h))) {
        earlier.extend(host.rows.iter().map(|row| ((host.pid, row.id), (row, look.written(host)))));
    }
    let mut lines = Vec::new();
    for host in &look.hosts.hosts {
        for row in &host.rows {
            let before = earlier.get(&(host.pid, row.id)).and_then(|(before, written)| {
                Some((*before, elapsed((*written)?, look.written(host)?)))
            });
            lines.extend(line(host, row, before).filter(|line| matches(line, host, filter)));
        }
    }
    lines.sort_by(|a, b| {
        // The workers of a role come after it.
        let place = |line: &Line| (line.host, line.role.clone(), !line.is_role, line.key.1);
        let by_host = place(a).cmp(&place(b));
        let of = |line: &Line| line.rate.unwrap_or(0.0);
        match order {
            Order::Host => by_host,
            Order::Rate => of(b).total_cmp(&of(a)).then(by_host),
            Order::InFlight => {
                let of = |line: &Line| sum([line.in_flight, line.queued]);
                of(b).cmp(&of(a)).then(by_host)
            }
            Order::Oldest => b.oldest.cmp(&a.oldest).then(by_host),
            Order::Errors => b.errors.cmp(&a.errors).then(by_host),
        }
    });
    lines
}

/// The time between two pages. Of the same page, which is older at each look, it may come out as some
/// microseconds more or less than none.
fn elapsed(before: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(before)
}

fn matches(line: &Line, host: &Host, filter: &str) -> bool {
    line.name.contains(filter)
        || host.pid.to_string().contains(filter)
        || host.command.contains(filter)
        || line.state.contains(filter)
}

fn line(host: &Host, row: &Row, before: Option<(&Row, Duration)>) -> Option<Line> {
    let now = totals(row)?;
    // A host that has found nothing new sleeps for longer, until something happens.
    let is_at_rest = !host.is_stopped && !host.is_stale && host.heartbeat_period > PERIOD;
    let rate = |of: fn(&Totals) -> u64| {
        let (before, elapsed) = before?;
        let since = of(&now).saturating_sub(of(&totals(before)?));
        // Less than half a period is the difference of two ages of the same page.
        match elapsed > PERIOD / 2 {
            true => Some(as_f64(since) / elapsed.as_secs_f64()),
            false => is_at_rest.then_some(0.0),
        }
    };
    let errors = sum(row.errors.iter().map(|(_, count)| *count));
    let of_the_host = match (host.is_stopped, host.is_stale) {
        (true, _) => Some("stopped"),
        (false, true) => Some("stale"),
        (false, false) => None,
    };
    let shown = match &row.numbers {
        Numbers::Channel(n) => Line {
            name: format!("{} {}", row.role, row.pid.map_or("-".to_owned(), |pid| pid.to_string())),
            state: of_the_host.unwrap_or(match (n.state, n.worker_state) {
                (2 | 3, _) => "closed",
                (4, _) => "dead",
                (5, _) => "failed",
                (_, 1) => "starting",
                (_, 2) => "idle",
                (_, 3) => "busy",
                (_, 4) => "credit",
                (_, 5) => "stopping",
                _ => "unknown",
            }),
            in_flight: n.in_flight,
            queued: 0,
            oldest: Duration::from_nanos(n.busy_for),
            ring: percent(n.request_ring_used, n.request_ring_capacity)
                .max(percent(n.reply_ring_used, n.reply_ring_capacity)),
            worker: row.pid.map_or(0, u64::from),
            p50: quantile(&row.first_times, 0.5),
            p99: quantile(&row.first_times, 0.99),
            ..empty(host, row)
        },
        Numbers::Role(n) => Line {
            name: format!("{} ({} workers)", row.role, n.workers),
            state: of_the_host.unwrap_or(match (n.is_degraded, n.is_ready) {
                (1, _) => "degraded",
                (_, 1) => "ready",
                _ => "not ready",
            }),
            in_flight: n.in_flight,
            queued: n.queued,
            oldest: Duration::from_nanos(n.oldest_wait),
            ring: percent(n.request_ring_used, n.request_ring_capacity)
                .max(percent(n.reply_ring_used, n.reply_ring_capacity)),
            is_role: true,
            worker: n.workers,
            died: Some(sum([n.died_serving, n.died_idle, n.killed_idle, n.hung])),
            p50: quantile(&row.second_times, 0.5),
            p99: quantile(&row.second_times, 0.99),
            ..empty(host, row)
        },
        _ => return None,
    };
    Some(Line {
        rate: rate(|totals| totals.done),
        bytes: rate(|totals| totals.bytes),
        sleeps: rate(|totals| totals.sleeps),
        done: now.done,
        errors,
        ..shown
    })
}

fn empty(host: &Host, row: &Row) -> Line {
    Line {
        key: (host.pid, row.id),
        host: host.pid,
        role: row.role.clone(),
        command: host.command.clone(),
        note: row.note.clone(),
        ..Line::default()
    }
}

/// Counters of which rates are shown.
struct Totals {
    /// Requests that were answered.
    done: u64,
    /// Bytes in both directions.
    bytes: u64,
    /// Waits that went to sleep.
    sleeps: u64,
}

fn totals(row: &Row) -> Option<Totals> {
    let (done, sent, received, sleeps) = match &row.numbers {
        Numbers::Channel(n) => (n.completed, n.bytes_sent, n.bytes_received, n.parks),
        Numbers::Role(n) => (n.answered, n.bytes_sent, n.bytes_received, n.parks),
        _ => return None,
    };
    Some(Totals { done, bytes: sent.saturating_add(received), sleeps })
}

/// A page can hold any numbers.
fn sum(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(0, u64::saturating_add)
}

/// The bound of a part of the times; the longest time if they are longer than the last bound.
fn quantile(times: &Times, part: f64) -> Option<Duration> {
    times.quantile(part).or((times.count() > 0).then_some(Duration::MAX))
}

fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).checked_div(whole).unwrap_or(0)
}

#[expect(clippy::as_conversions, reason = "a rate need not be exact beyond 2^53")]
pub(super) fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_seems_older_at_the_second_look_is_the_same_one() {
        let before = Instant::now();
        assert_eq!(elapsed(before + Duration::from_micros(1), before), Duration::ZERO);
        assert_eq!(elapsed(before, before + PERIOD), PERIOD);
    }
}
