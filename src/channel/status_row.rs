//! A channel's row of the status page.

use std::sync::{Arc, Weak};

use crate::channel::core::Core;
use crate::channel::state::Phase;
use crate::channel::stats::LatencyHistogram;
use crate::protocol::WorkerState;
use crate::shm::layout::as_u64;
use crate::status_page::{self, Block, ChannelNumbers, Source, checksum};
use crate::sync::Ordering;

/// Has the channel described as long as it is there.
pub(super) fn add(core: &Arc<Core>) {
    let weak: Weak<dyn Source> = Arc::<Core>::downgrade(core);
    status_page::add(weak);
}

impl Source for Core {
    fn look(&self, is_settled: bool) -> Option<u64> {
        let (next, in_flight, requests) = self.pending.words_soon()?;
        let sender = self.sender.stats_soon()?;
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
        let replies = [
            self.receiver.used(),
            self.receiver.high_water(),
            as_u64(self.receiver.leases_held()),
            spins,
            parks,
        ];
        let sent = [sender.bytes, sender.wakes, sender.high_water, sender.used];
        let words = of_channel.into_iter().chain(replies).chain(sent).chain(self.status.words());
        let requests = requests.into_iter().chain(self.recorded());
        Some(checksum(requests.chain(self.pending.counters.words()).chain(words)))
    }

    fn describe(&self, block: &mut Block, now: u64) -> Option<()> {
        let (exit, stats, worker) = (self.state.exit()?, self.stats_soon()?, self.status.summary());
        let phase = self.state.phase();
        let numbers = ChannelNumbers {
            pid_inside: exit.process.pid().into(),
            state: code(phase),
            worker_state: match worker.state {
                WorkerState::Unknown => 0,
                WorkerState::Starting => 1,
                WorkerState::Idle => 2,
                WorkerState::Busy => 3,
                WorkerState::AwaitingCredit => 4,
                WorkerState::Stopping => 5,
            },
            busy_for: worker.first.map_or(0, |first| now.saturating_sub(first.since).max(1)),
            progress: worker.first.map_or(0, |first| first.progress),
            taken: as_u64(worker.taken),
            begun: as_u64(worker.begun),
            served: worker.status.served,
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
        block.set_channel(&numbers, now);
        block.set_name(&exit.role);
        match (phase, exit.process.cause().get(), self.state.failure_ref()) {
            (Phase::Dead, Some(cause), _) => block.set_note(format_args!("{cause}")),
            (Phase::Dead, None, _) | (_, _, None) => {}
            (_, _, Some(failure)) => block.set_note(format_args!("{failure}")),
        }
        block.set_errors(stats.errors.iter().filter(|(_, count)| *count != 0));
        block.set_times([&stats.call_latency, &stats.first_chunk_latency].map(times));
        Some(())
    }

    fn release(self: Arc<Self>) {
        status_page::release(self);
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

fn times(histogram: &LatencyHistogram) -> (u64, [u64; LatencyHistogram::BUCKETS]) {
    let sum_ns = u64::try_from(histogram.sum().as_nanos()).unwrap_or(u64::MAX);
    (sum_ns, histogram.buckets())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::process::testing::{alone, eventually};
    use crate::worker::Worker;
    use crate::{Config, Kind, RoleConfig, status_page};

    #[test]
    fn a_channel_that_is_locked_keeps_no_other_from_the_page() {
        alone(|| {
            let echo = || {
                Worker::new(|_| Ok(())).on(Kind::named("echo"), |(), request, responder| {
                    Ok(responder.send(&request.to_vec())?)
                })
            };
            let spawn = || {
                let (config, role) = (Config::small(), RoleConfig::default());
                crate::testing::spawn_thread(&config, role, echo).unwrap()
            };
            status_page::turn_off();
            let held = spawn();
            status_page::turn_on();
            // A thread that has got no processor since it has taken the lock.
            let lock = held.core().pending.requests();
            super::add(held.core());
            let other = spawn();
            let rows = || status_page::host(std::process::id()).unwrap().map(|it| it.rows.len());
            eventually("the other channel is there", || rows() == Some(1));
            drop(lock);
            eventually("both are there", || rows() == Some(2));
            drop(other);
            held.close(Duration::from_secs(60)).unwrap();
        });
    }
}
