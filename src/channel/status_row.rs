//! A channel's row of the status page.

use std::sync::{Arc, Weak};

use crate::channel::core::Core;
use crate::channel::state::Phase;
use crate::channel::stats::{LatencyHistogram, Stats};
use crate::error::ErrorKind;
use crate::protocol::WorkerState;
use crate::protocol::health::Health;
use crate::shm::layout::as_u64;
use crate::status_page::{self, ChannelNumbers, Numbers, Row, Source, Times, checksum};
use crate::sync::Ordering;

/// Has the channel described as long as it is there.
pub(super) fn add(core: &Arc<Core>) {
    let weak: Weak<dyn Source> = Arc::<Core>::downgrade(core);
    status_page::add(weak);
}

impl Source for Core {
    fn look(&self, is_settled: bool) -> u64 {
        let (next, in_flight, requests) = self.pending.requests().words();
        // A worker that has no request changes none of its marks.
        let marks = match is_settled && in_flight == 0 {
            true => 0,
            false => checksum(self.status.used_marks(next)),
        };
        let exit = self.state.exit();
        let is_reaped = exit.is_some_and(|exit| exit.process.cause().get().is_some());
        let of_channel = [code(self.state.phase()), is_reaped.into(), marks, next];
        let waits = [&self.sleeper.spins, &self.sleeper.parks];
        let [spins, parks] = waits.map(|count| count.load(Ordering::Relaxed));
        let (used, high_water) = (self.receiver.used(), self.receiver.high_water());
        let replies = [used, as_u64(self.receiver.leases_held()), spins, parks];
        let words = [of_channel, replies, self.sender.words(), self.status.words()].concat();
        let words = checksum(words.into_iter().chain([high_water]));
        let requests = requests.into_iter().chain(self.recorded());
        checksum(requests.chain(self.pending.counters.words()).chain([words]))
    }

    fn row(&self, id: u64, now: u64) -> Option<Row> {
        let (exit, stats, report) = (self.state.exit()?, self.stats(), self.status.report());
        let busy_since = report.busy_since();
        let health = Health::of(report, None);
        let phase = self.state.phase();
        let note = match phase {
            Phase::Dead => exit.process.cause().get().map(ToString::to_string),
            _ => self.state.failure().map(|error| error.to_string()),
        };
        let numbers = ChannelNumbers {
            pid: exit.process.pid().into(),
            state: code(phase),
            worker_state: match health.state {
                WorkerState::Unknown => 0,
                WorkerState::Starting => 1,
                WorkerState::Idle => 2,
                WorkerState::Busy => 3,
                WorkerState::AwaitingCredit => 4,
                WorkerState::Stopping => 5,
            },
            busy_for: busy_since.map_or(0, |since| now.saturating_sub(since).max(1)),
            progress: health.progress,
            taken: as_u64(health.taken),
            begun: as_u64(health.begun),
            served: health.requests_served,
            requests: stats.requests,
            completed: stats.completed,
            in_flight: stats.in_flight,
            streams: stats.streams,
            chunks: stats.chunks,
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
            late_frames: stats.late_frames,
            unknown_frames: stats.unknown_frames,
            cancels: stats.cancels,
            copied_frames: stats.copied_frames,
            spins: stats.spins,
            parks: stats.parks,
            wakes: stats.wakes,
            request_ring_used: stats.request_ring_used,
            request_ring_high_water: stats.request_ring_high_water,
            request_ring_capacity: as_u64(self.config.down.capacity),
            reply_ring_used: stats.reply_ring_used,
            reply_ring_capacity: as_u64(self.config.up.capacity),
            leases: as_u64(stats.leases_held),
            channel_id: self.id,
            max_in_flight: as_u64(self.config.max_in_flight),
            max_request_frame: as_u64(self.config.down.max_frame),
            max_reply_frame: as_u64(self.config.up.max_frame),
            max_message: as_u64(self.config.max_message),
            stream_window: as_u64(self.config.stream_window),
            health_ring_capacity: as_u64(self.config.health.capacity),
            reply_ring_high_water: stats.reply_ring_high_water,
            recorded_frames: stats.recorded_frames,
            unrecorded_frames: stats.unrecorded_frames,
            is_recorded: self.tap.is_some().into(),
        };
        Some(Row {
            id,
            role: exit.role.clone(),
            note: note.unwrap_or_default(),
            numbers: Numbers::Channel(numbers),
            errors: errors(&stats),
            first_times: times(&stats.call_latency),
            second_times: times(&stats.first_chunk_latency),
        })
    }
}

fn code(phase: Phase) -> u64 {
    match phase {
        Phase::Open => 1,
        Phase::Closing => 2,
        Phase::Closed => 3,
        Phase::Dead => 4,
        Phase::Failed => 5,
    }
}

fn errors(stats: &Stats) -> Vec<(ErrorKind, u64)> {
    stats.errors.iter().filter(|(_, count)| *count != 0).collect()
}

fn times(histogram: &LatencyHistogram) -> Times {
    let sum_ns = u64::try_from(histogram.sum().as_nanos()).unwrap_or(u64::MAX);
    Times { sum_ns, buckets: histogram.buckets() }
}
