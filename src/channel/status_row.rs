//! A channel's row of the status page.

use std::sync::{Arc, Weak};

use crate::channel::core::Core;
use crate::channel::state::Phase;
use crate::channel::stats::{LatencyHistogram, Stats};
use crate::error::ErrorKind;
use crate::protocol::WorkerState;
use crate::shm::layout::as_u64;
use crate::status_page::{self, ChannelNumbers, Numbers, Row, Source, Times};

/// Has the channel described as long as it is there.
pub(super) fn add(core: &Arc<Core>) {
    let weak: Weak<dyn Source> = Arc::<Core>::downgrade(core);
    status_page::add(weak);
}

impl Source for Core {
    fn row(&self, id: u64) -> Option<Row> {
        let (exit, stats, health) = (self.state.exit()?, self.stats(), self.status.health());
        let phase = self.state.phase();
        let note = match phase {
            Phase::Dead => exit.process.cause().get().map(ToString::to_string),
            _ => self.state.failure().map(|error| error.to_string()),
        };
        let numbers = ChannelNumbers {
            pid: exit.process.pid().into(),
            state: match phase {
                Phase::Open => 1,
                Phase::Closing => 2,
                Phase::Closed => 3,
                Phase::Dead => 4,
                Phase::Failed => 5,
            },
            worker_state: match health.state {
                WorkerState::Unknown => 0,
                WorkerState::Starting => 1,
                WorkerState::Idle => 2,
                WorkerState::Busy => 3,
                WorkerState::AwaitingCredit => 4,
                WorkerState::Stopping => 5,
            },
            busy_for: health.busy_for.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(0)),
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

fn errors(stats: &Stats) -> Vec<(ErrorKind, u64)> {
    stats.errors.iter().filter(|(_, count)| *count != 0).collect()
}

fn times(histogram: &LatencyHistogram) -> Times {
    let sum_ns = u64::try_from(histogram.sum().as_nanos()).unwrap_or(u64::MAX);
    Times { sum_ns, buckets: histogram.buckets() }
}
