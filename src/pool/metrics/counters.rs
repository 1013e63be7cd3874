//! The counters of a role.

use super::super::scheduler::RecycleReason;
use super::histogram::Times;
use super::requests::{Outcome, Requests};
use super::snapshot::{ChannelTotals, RequestCount, RoleMetrics, WorkerCounts};
use crate::channel::{LatencyHistogram, Stats};
use crate::config::Config;
use crate::error::{ErrorKind, Overload};
use crate::protocol::Kind;
use crate::status_page::checksum;
use crate::sync::plain::{Mutex, MutexGuard};
use crate::sync::{Counter, Ordering};

/// What a role counts. Numbers that only grow.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: Requests,
    queue: Times,
    service: Times,
    resent_unbegun: Counter,
    resent_begun: Counter,
    overflowed: Counter,
    overflowed_back: Counter,
    started: Counter,
    losses: [Counter; Loss::ALL.len()],
    hung: Counter,
    recycled: [Counter; RecycleReason::ALL.len()],
    /// What the channels of workers that have ended had counted. It is held while a worker passes
    /// from those that are there to those that have ended.
    ended: Mutex<ChannelTotals>,
    /// Odd while a worker passes so.
    passes: Counter,
}

/// How a worker was lost that was not told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    Start,
    Serving,
    Idle,
    Killed,
}

impl Loss {
    const ALL: [Self; 4] = [Self::Start, Self::Serving, Self::Idle, Self::Killed];
}

/// What became of the workers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Losses {
    pub(crate) started: u64,
    pub(crate) restarted: u64,
    pub(crate) failed_to_start: u64,
    pub(crate) died_serving: u64,
    pub(crate) died_idle: u64,
    pub(crate) killed_idle: u64,
    pub(crate) hung: u64,
    pub(crate) recycled: u64,
}

fn get(counter: &Counter) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn add(counter: &Counter) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    /// A request has ended, over all its attempts.
    #[inline]
    pub(crate) fn note_outcome(&self, kind: Kind, outcome: Outcome) {
        self.requests.count(kind, outcome);
    }

    /// A request has waited for so many nanoseconds, whether it got a worker or not.
    #[inline]
    pub(crate) fn note_wait(&self, nanos: u64) {
        self.queue.add(nanos);
    }

    /// A request had a worker for so many nanoseconds.
    #[inline]
    pub(crate) fn note_service(&self, nanos: u64) {
        self.service.add(nanos);
    }

    /// A request is sent again.
    pub(crate) fn note_retry(&self, was_begun: bool) {
        add(if was_begun { &self.resent_begun } else { &self.resent_unbegun });
    }

    /// A request goes to workers that are not the role's own.
    #[cfg(feature = "async")]
    pub(crate) fn note_overflow(&self) {
        add(&self.overflowed);
    }

    /// It comes back, as these have not begun it.
    #[cfg(feature = "async")]
    pub(crate) fn note_overflow_back(&self) {
        add(&self.overflowed_back);
    }

    pub(crate) fn note_start(&self) {
        add(&self.started);
    }

    pub(crate) fn note_loss(&self, loss: Loss) {
        self.losses.iter().zip(Loss::ALL).filter(|(_, each)| *each == loss).for_each(|(it, _)| {
            add(it);
        });
    }

    pub(crate) fn note_hung(&self) {
        add(&self.hung);
    }

    pub(crate) fn note_recycled(&self, why: RecycleReason) {
        let reasons = self.recycled.iter().zip(RecycleReason::ALL);
        reasons.filter(|(_, each)| *each == why).for_each(|(it, _)| add(it));
    }

    /// What the channels of workers that have ended had counted. While it is held, no worker ends.
    pub(crate) fn ended(&self) -> MutexGuard<'_, ChannelTotals> {
        self.ended.lock()
    }

    /// As [`Counters::ended`], for one that adds a worker to them. [`Counters::end_pass`] is to be called
    /// before the end of the guard.
    pub(crate) fn begin_pass(&self) -> MutexGuard<'_, ChannelTotals> {
        let ended = self.ended();
        add(&self.passes);
        ended
    }

    pub(crate) fn end_pass(&self) {
        add(&self.passes);
    }

    /// What the channels of all workers have counted, those that have ended and those that `add_present`
    /// adds. `None` if a lock is held, or a worker passes from the ones to the others meanwhile.
    pub(crate) fn totals_soon(
        &self,
        add_present: impl FnOnce(&mut ChannelTotals) -> Option<()>,
    ) -> Option<ChannelTotals> {
        // Relaxed: the locks that are taken in between, here and by `add_present`, are those under which
        // a worker passes.
        let before = self.passes.load(Ordering::Relaxed);
        let mut totals = *self.ended.lock_soon()?;
        add_present(&mut totals)?;
        let is_whole = before.is_multiple_of(2) && self.passes.load(Ordering::Relaxed) == before;
        is_whole.then_some(totals)
    }

    /// Adds up how many requests have ended how, over all kinds.
    pub(crate) fn outcomes(&self) -> (u64, [u64; ErrorKind::ALL.len()]) {
        self.requests.outcomes()
    }

    /// How long requests waited and had a worker, in the wider buckets of the status page, each with the sum
    /// in nanoseconds.
    pub(crate) fn times(&self) -> [(u64, [u64; LatencyHistogram::BUCKETS]); 2] {
        [&self.queue, &self.service].map(Times::in_wide_buckets)
    }

    pub(crate) fn resent(&self) -> [u64; 2] {
        [&self.resent_unbegun, &self.resent_begun].map(get)
    }

    pub(crate) fn overflowed(&self) -> [u64; 2] {
        [&self.overflowed, &self.overflowed_back].map(get)
    }

    /// A checksum of the numbers that no channel has.
    pub(crate) fn checksum(&self) -> u64 {
        let resent = [&self.resent_unbegun, &self.resent_begun];
        let overflowed = [&self.overflowed, &self.overflowed_back];
        let started = [&self.started, &self.hung];
        let counters = resent.into_iter().chain(overflowed).chain(started);
        let counters = counters.chain(&self.losses).chain(&self.recycled).map(get);
        checksum(counters.chain(self.requests.each().map(|(.., count)| count)))
    }

    /// How many workers were started and lost, and how many replace one that was.
    pub(crate) fn losses(&self) -> Losses {
        let [failed_to_start, died_serving, died_idle, killed_idle] =
            self.losses.each_ref().map(get);
        let lost = failed_to_start + died_serving + died_idle + killed_idle;
        let started = get(&self.started);
        Losses {
            started,
            // The successor of a worker that a request finds dead may start before its death is noted.
            restarted: lost.min(started.saturating_sub(1)),
            failed_to_start,
            died_serving,
            died_idle,
            killed_idle,
            hung: get(&self.hung),
            recycled: self.recycled.iter().map(get).sum(),
        }
    }

    fn workers(&self) -> WorkerCounts {
        let losses = self.losses();
        let recycled = self.recycled.each_ref().map(get);
        WorkerCounts {
            started: losses.started,
            restarted: losses.restarted,
            failed_to_start: losses.failed_to_start,
            died_serving: losses.died_serving,
            died_idle: losses.died_idle,
            killed_idle: losses.killed_idle,
            hung: losses.hung,
            recycled: RecycleReason::ALL.into_iter().zip(recycled).collect(),
        }
    }

    /// All numbers. `channels` are those of the workers that have ended and of those that are
    /// there.
    pub(crate) fn snapshot(
        &self,
        role: String,
        load: Overload,
        channels: ChannelTotals,
        name_of: impl Fn(Kind) -> String,
    ) -> RoleMetrics {
        let requests = self.requests.each();
        let requests = requests.map(|(kind, outcome, count)| RequestCount {
            kind,
            kind_name: kind.map_or_else(|| "other".to_owned(), &name_of),
            outcome,
            count,
        });
        RoleMetrics {
            role,
            requests: requests.collect(),
            queue_times: self.queue.histogram(),
            service_times: self.service.histogram(),
            resent_unbegun: get(&self.resent_unbegun),
            resent_begun: get(&self.resent_begun),
            overflowed: get(&self.overflowed),
            overflowed_back: get(&self.overflowed_back),
            workers: self.workers(),
            load,
            channels,
        }
    }
}

impl ChannelTotals {
    /// Adds the numbers of a worker's channel, which only grow.
    pub(crate) fn add(&mut self, stats: &Stats) {
        self.bytes_sent += stats.bytes_sent;
        self.bytes_received += stats.bytes_received;
        self.chunks += stats.chunks;
        self.spins += stats.spins;
        self.parks += stats.parks;
        self.wakes += stats.wakes;
        self.recorded_frames += stats.recorded_frames;
        self.unrecorded_frames += stats.unrecorded_frames;
        self.ring_high_water = self.ring_high_water.max(stats.request_ring_high_water);
        self.reply_ring_high_water = self.reply_ring_high_water.max(stats.reply_ring_high_water);
    }

    /// Adds what the channel of a worker that is there has at the moment.
    pub(crate) fn add_present(&mut self, stats: &Stats, config: &Config) {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        self.workers += 1;
        self.ring_used += stats.request_ring_used;
        self.ring_capacity += number(config.request_ring().capacity());
        self.reply_ring_used += stats.reply_ring_used;
        self.reply_ring_capacity += number(config.reply_ring().capacity());
        self.reply_leases += number(stats.leases_held);
    }
}
