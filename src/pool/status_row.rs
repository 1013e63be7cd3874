//! A role's row of the status page.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use super::handle::metrics_at;
use super::metrics::{Histogram, Outcome};
use super::role::RoleShared;
use super::scheduler::Scheduler;
use crate::channel::LatencyHistogram;
use crate::shm::layout::as_u64;
use crate::status_page::{self, Numbers, RoleNumbers, Row, Source, Times, checksum};
use crate::sys::clock::now_ns;

/// Has the role described as long as it is there.
pub(super) fn add(role: &Arc<RoleShared>) {
    let weak: Weak<dyn Source> = Arc::<RoleShared>::downgrade(role);
    status_page::add(weak);
}

impl Source for RoleShared {
    fn look(&self, is_settled: bool) -> u64 {
        let ((is_ready, is_degraded), load) =
            self.change(|scheduler| (state(scheduler), scheduler.overload(now_ns())));
        let of_role = [is_ready.into(), is_degraded.into(), self.metrics.checksum()];
        let of_requests = [as_u64(load.queued), as_u64(load.in_flight)];
        let of_channels = self.on_channels(|channel| channel.core().look(is_settled));
        checksum(of_role.into_iter().chain(of_requests).chain(of_channels))
    }

    fn row(&self, id: u64, now: u64) -> Option<Row> {
        let ((is_ready, is_degraded), metrics) = (self.change(state), metrics_at(self, now));
        let (workers, channels, load) = (&metrics.workers, &metrics.channels, &metrics.load);
        let mut errors = BTreeMap::new();
        for each in &metrics.requests {
            if let Outcome::Failed(kind) = each.outcome {
                errors.entry(kind.code()).or_insert((kind, 0)).1 += each.count;
            }
        }
        let failed = errors.values().map(|(_, count)| count).sum();
        let numbers = RoleNumbers {
            is_ready: is_ready.into(),
            is_degraded: is_degraded.into(),
            workers: channels.workers,
            queued: as_u64(load.queued),
            queue_limit: as_u64(load.limit),
            in_flight: as_u64(load.in_flight),
            oldest_wait: u64::try_from(load.oldest_wait.as_nanos()).unwrap_or(u64::MAX),
            answered: metrics.requests_with(Outcome::Answered),
            failed,
            resent_unbegun: metrics.resent_unbegun,
            resent_begun: metrics.resent_begun,
            started: workers.started,
            restarted: workers.restarted,
            failed_to_start: workers.failed_to_start,
            died_serving: workers.died_serving,
            died_idle: workers.died_idle,
            killed_idle: workers.killed_idle,
            hung: workers.hung,
            recycled: workers.recycled.iter().map(|(_, count)| count).sum(),
            bytes_sent: channels.bytes_sent,
            bytes_received: channels.bytes_received,
            chunks: channels.chunks,
            spins: channels.spins,
            parks: channels.parks,
            wakes: channels.wakes,
            request_ring_used: channels.ring_used,
            request_ring_high_water: channels.ring_high_water,
            request_ring_capacity: channels.ring_capacity,
            reply_ring_used: channels.reply_ring_used,
            reply_ring_capacity: channels.reply_ring_capacity,
            leases: channels.reply_leases,
            overflowed: metrics.overflowed,
            overflowed_back: metrics.overflowed_back,
            reply_ring_high_water: channels.reply_ring_high_water,
            recorded_frames: channels.recorded_frames,
            unrecorded_frames: channels.unrecorded_frames,
        };
        Some(Row {
            id,
            role: self.name.clone(),
            note: self.last_failure().map(|error| error.to_string()).unwrap_or_default(),
            numbers: Numbers::Role(numbers),
            errors: errors.into_values().collect(),
            first_times: times(&metrics.queue_times),
            second_times: times(&metrics.service_times),
        })
    }
}

/// Whether requests can be served, and whether they fail because workers do not start.
fn state<O>(scheduler: &mut Scheduler<O>) -> (bool, bool) {
    (scheduler.is_ready(), scheduler.is_degraded())
}

/// In the wider buckets of the page. A time that is just below a bound may be counted beyond it, as the
/// histogram tells times only up to 3 %.
fn times(histogram: &Histogram) -> Times {
    let sum_ns = u64::try_from(histogram.sum().as_nanos()).unwrap_or(u64::MAX);
    let mut times = Times { sum_ns, ..Times::default() };
    for (bound, count) in histogram.buckets() {
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        if let Some(bucket) = times.buckets.get_mut(LatencyHistogram::bucket_of(nanos)) {
            *bucket += count;
        }
    }
    times
}
