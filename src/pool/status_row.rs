//! A role's row of the status page.

use std::sync::{Arc, Weak};

use super::role::RoleShared;
use super::scheduler::Scheduler;
use crate::channel::{Channel, Core};
use crate::error::ErrorKind;
use crate::shm::layout::as_u64;
use crate::status_page::{self, Block, RoleNumbers, Source, checksum};

/// Has the role described as long as it is there.
pub(super) fn add(role: &Arc<RoleShared>) {
    let weak: Weak<dyn Source> = Arc::<RoleShared>::downgrade(role);
    status_page::add(weak);
}

impl Source for RoleShared {
    fn look(&self, is_settled: bool) -> Option<u64> {
        let (state, (queued, _, in_flight, _)) =
            self.look_soon(|scheduler, _| (state(scheduler), scheduler.requests()))?;
        let of_role = [state.0.into(), state.1.into(), self.metrics.checksum()];
        let of_requests = [as_u64(queued), as_u64(in_flight)];
        let mut sum = checksum(of_role.into_iter().chain(of_requests));
        each_channel(self, |channel| {
            sum = checksum([sum, channel.look(is_settled)?]);
            Some(())
        })?;
        Some(sum)
    }

    fn describe(&self, block: &mut Block, now: u64) -> Option<()> {
        let ((is_ready, is_degraded), (queued, limit, in_flight, oldest)) =
            self.look_soon(|scheduler, _| (state(scheduler), scheduler.requests()))?;
        let channels = self.metrics.totals_soon(|totals| {
            each_channel(self, |channel| {
                let stats = channel.stats_soon()?;
                totals.add(&stats);
                totals.add_present(&stats, &channel.config);
                Some(())
            })
        })?;
        let note = self.note_soon()?;
        let (answered, errors) = self.metrics.outcomes();
        let workers = self.metrics.losses();
        let ([resent_unbegun, resent_begun], [overflowed, overflowed_back]) =
            (self.metrics.resent(), self.metrics.overflowed());
        let numbers = RoleNumbers {
            is_ready: is_ready.into(),
            is_degraded: is_degraded.into(),
            workers: channels.workers,
            queued: as_u64(queued),
            queue_limit: as_u64(limit),
            in_flight: as_u64(in_flight),
            oldest_wait: oldest.map_or(0, |since| now.saturating_sub(since)),
            answered,
            failed: errors.iter().sum(),
            resent_unbegun,
            resent_begun,
            started: workers.started,
            restarted: workers.restarted,
            failed_to_start: workers.failed_to_start,
            died_serving: workers.died_serving,
            died_idle: workers.died_idle,
            killed_idle: workers.killed_idle,
            hung: workers.hung,
            recycled: workers.recycled,
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
            overflowed,
            overflowed_back,
            reply_ring_high_water: channels.reply_ring_high_water,
            recorded_frames: channels.recorded_frames,
            unrecorded_frames: channels.unrecorded_frames,
        };
        block.set_role(&numbers, now);
        block.set_name(&self.name);
        block.put_note(note);
        block.set_errors(ErrorKind::ALL.into_iter().zip(errors));
        block.set_times(self.metrics.times());
        Some(())
    }

    fn release(self: Arc<Self>) {
        status_page::release(self);
    }
}

/// Does something for the channel of each worker that is started. `None` if `each` returns that, or a lock is
/// held. A worker is not kept, as its last owner ends it.
fn each_channel(role: &RoleShared, mut each: impl FnMut(&Core) -> Option<()>) -> Option<()> {
    for slot in 0.. {
        let found = role.look_soon(|_, workers| {
            workers.get(slot).map(|worker| {
                let channel = worker.as_ref().and_then(|(_, worker)| worker.channel());
                channel.map(|channel| Arc::clone(Channel::core(channel)))
            })
        })?;
        let Some(channel) = found else { break };
        if let Some(channel) = channel {
            let done = each(&channel);
            channel.release();
            done?;
        }
    }
    Some(())
}

/// Whether requests can be served, and whether they fail because workers do not start.
fn state<O>(scheduler: &Scheduler<O>) -> (bool, bool) {
    (scheduler.is_ready(), scheduler.is_degraded())
}
