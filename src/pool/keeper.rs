//! The thread that looks after one worker from its start to its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::attempt::is_killed_from_outside;
use super::crash_row;
use super::events::EventKind;
use super::role::RoleShared;
use super::scheduler::{Death, Ending, RecycleReason, WorkerId};
use super::settings::{WorkerSlot, nanos};
use super::worker::{LOOK, Worker};
use crate::channel::{Channel, Core, Question};
use crate::error::{Error, ErrorKind, Mark, Result};
use crate::id::RequestId;
use crate::process::service::start_thread;
use crate::protocol::Kind;
use crate::sys::clock::{Deadline, now_ns};

/// How long a worker may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a worker may take to end after code of the host's has panicked on its thread: as long as
/// it may take at a close.
const END_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest time between two looks whether a worker is done with a request that was given up.
const LONGEST_LOOK: Duration = Duration::from_millis(100);

/// Starts a worker's thread, which starts the worker.
pub(super) fn start(role: &Arc<RoleShared>, id: WorkerId, worker: Arc<Worker>) {
    let keeper = Keeper { role: Arc::clone(role), id, worker };
    let name = format!("slipring-{}-{}", role.name, id.slot);
    let role = Arc::clone(role);
    if let Err(error) = start_thread(&name, move || keeper.run()) {
        let error = Error::os("cannot start a thread for a worker", error);
        role.note_failure(id, None, EventKind::StartFailed(error), Death::Failed);
    }
}

/// The life of one worker.
struct Keeper {
    role: Arc<RoleShared>,
    id: WorkerId,
    worker: Arc<Worker>,
}

impl Keeper {
    fn run(self) {
        if self.role.guard(|| self.live()).is_none() {
            self.role.guard(|| self.end_after_panic());
        }
    }

    /// Ends the worker after code of the host's has panicked on its thread, such as a subscriber that
    /// is told of a close. The worker's place would otherwise be taken for ever.
    fn end_after_panic(&self) {
        if let Some(channel) = self.worker.channel() {
            self.worker.hasten();
            if let Some(exit) = channel.core().state.exit() {
                exit.process.wait(Deadline::after(END_TIMEOUT).instant());
            }
        }
        if !self.role.workers().iter().any(|(id, _)| *id == self.id) {
            // Its end is noted.
            return self.end_lingering();
        }
        if self.is_to_stop() {
            return self.note_stopped();
        }
        let message = "code of the host's has panicked on the thread of the worker";
        let error = Error::new(ErrorKind::Closed, message);
        let kind = match self.worker.is_ready() {
            true => EventKind::Died(error),
            false => EventKind::StartFailed(error),
        };
        self.role.note_failure(self.id, self.pid(), kind, Death::Failed);
        self.end_lingering();
    }

    fn live(&self) {
        let since = Instant::now();
        match self.start() {
            Ok(channel) => {
                self.worker.set_ready();
                let ready = EventKind::Ready(since.elapsed());
                self.role.tell(Some(self.id), Some(channel.pid()), ready);
                self.role.change(|scheduler| scheduler.note_ready(now_ns(), self.id));
                self.watch(channel);
            }
            Err(_) if self.is_to_stop() => self.note_stopped(),
            Err(error) => {
                let kind = EventKind::StartFailed(error);
                self.role.note_failure(self.id, self.pid(), kind, Death::Failed);
            }
        }
    }

    /// Starts the worker, and waits until it is ready.
    fn start(&self) -> Result<&Channel> {
        let slot = WorkerSlot {
            role: self.role.name.clone(),
            index: self.id.slot,
            restarts: self.id.incarnation,
        };
        let _turn = self.role.pool.starts.take(|| self.is_to_stop());
        self.check_to_stop()?;
        self.role.tell(Some(self.id), None, EventKind::Started);
        let settings = self.role.settings();
        // A host's code: its panic is a failed start, and must not leave the place taken.
        let recipe = AssertUnwindSafe(|| (settings.recipe)(&slot));
        let started = catch_unwind(recipe).unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Spawn, "the recipe of the role has panicked"))
        })?;
        #[cfg(feature = "tokio")]
        if let Some(runtime) = &settings.runtime {
            self.worker.read_on_tokio(runtime);
        }
        let channel = self.worker.set_channel(started);
        crash_row::add(channel, &self.role, self.id, &self.worker);
        let ready = self.check_to_stop().and_then(|()| channel.wait_ready(settings.start_timeout));
        let ready = ready.map_err(|error| self.reported(channel, error));
        if ready.is_err() {
            // It may be loading still, and a close of the pool waits for its end.
            let _ = channel.close(Duration::ZERO);
        }
        ready.map(|()| channel)
    }

    /// Has a crash report written of a worker that did not become ready, unless it is not needed any more.
    fn reported(&self, channel: &Channel, error: Error) -> Error {
        match channel.worker().reporter() {
            Some(reporter) if !self.is_to_stop() => reporter.note_failed_start(error),
            _ => error,
        }
    }

    fn check_to_stop(&self) -> Result<()> {
        match self.is_to_stop() {
            true => Err(Error::new(ErrorKind::Closed, "the worker is not needed any more")),
            false => Ok(()),
        }
    }

    fn pid(&self) -> Option<u32> {
        self.worker.channel().map(Channel::pid)
    }

    fn is_to_stop(&self) -> bool {
        self.worker.is_to_stop()
    }

    /// Looks after a worker that is ready, until it has ended.
    fn watch(&self, channel: &Channel) {
        let waker = self.worker.waker();
        let mut exit = channel.core().state.exit_waiters.register();
        let mut next_ping = Deadline::after(self.role.settings().ping_interval);
        let (mut ping, mut hang) = (None, Hang::default());
        let mut look = Duration::ZERO;
        loop {
            exit.wait(&waker);
            if channel.exit_cause().is_some() {
                return self.note_death(channel);
            }
            let settings = self.role.settings();
            if !channel.is_alive()
                && !channel.core().state.exit().is_some_and(|exit| exit.is_known())
            {
                // It wrote garbage, or is dead and not reaped: it ends in any case.
                let _ = channel.close(Duration::ZERO);
                return self.note_death(channel);
            }
            if next_ping.has_passed() {
                next_ping = Deadline::after(settings.ping_interval);
                self.look_at_memory(channel, settings.max_rss);
                ping.get_or_insert_with(|| Ping::new(channel));
            }
            let mut until = next_ping;
            if let Some(asked) = &mut ping {
                match asked.look(channel, &waker) {
                    Pong::Awaited(look) => until = until.at_most(look),
                    Pong::Answered => ping = None,
                    Pong::Missing => {
                        ping = None;
                        let pid = Some(channel.pid());
                        self.role.tell(Some(self.id), pid, EventKind::Unresponsive);
                    }
                    // The channel has failed.
                    Pong::Corrupt => continue,
                }
            }
            for grant in self.worker.take_done(channel.core()) {
                self.role.finish(now_ns(), grant, Ending::Over);
            }
            look = match self.worker.has_lingering() {
                true => (2 * look).clamp(LOOK, LONGEST_LOOK),
                false => Duration::ZERO,
            };
            if !look.is_zero() {
                until = until.at_most(look);
            }
            if let Some(timeout) = settings.hang_timeout.filter(|_| !self.worker.was_hung()) {
                if let Some((request, progress)) = hang.look(now_ns(), channel.core(), timeout) {
                    self.kill(channel, request, progress);
                }
                until = until.at_most(timeout / 4);
            }
            if self.worker.sleep(until) {
                let _ = channel.close(self.role.stop_timeout());
                // It may have died by itself just before.
                return match channel.core().state.why_over_now(None).is_peer_dead() {
                    true => self.note_death(channel),
                    false => self.note_stopped(),
                };
            }
        }
    }

    fn look_at_memory(&self, channel: &Channel, max_rss: Option<u64>) {
        let rss = max_rss.and_then(|most| Some((most, resident_bytes(channel.pid())?)));
        if rss.is_some_and(|(most, rss)| rss > most) {
            let why = RecycleReason::Memory;
            self.role.change(|scheduler| scheduler.recycle(now_ns(), self.id, why));
        }
    }

    /// Kills a worker one of whose requests makes no progress. Its end is then noticed as any.
    fn kill(&self, channel: &Channel, request: RequestId, progress: u64) {
        self.worker.note_hung();
        let what = EventKind::Hung { request, progress };
        self.role.tell(Some(self.id), Some(channel.pid()), what);
        if let Some(exit) = channel.core().state.exit() {
            exit.process.kill();
        }
    }

    fn note_death(&self, channel: &Channel) {
        // A process that is reaped has no thread left, so that its marks are final.
        self.worker.wait_until_known(Deadline::after(PING_TIMEOUT));
        let state = &channel.core().state;
        let has_begun =
            state.end_of_service.marks().is_some_and(|marks| marks.iter().any(Mark::is_begun));
        let error = state.why_over_now(None);
        let is_killed = error.death().is_some_and(is_killed_from_outside);
        let death = match (has_begun, is_killed && !self.worker.was_hung()) {
            (true, _) => Death::Serving,
            (false, true) => Death::Killed,
            (false, false) => Death::Failed,
        };
        self.role.note_failure(self.id, Some(channel.pid()), EventKind::Died(error), death);
        self.end_lingering();
    }

    fn note_stopped(&self) {
        self.role.tell(Some(self.id), self.pid(), EventKind::Stopped);
        self.role.forget(self.id, |scheduler| scheduler.note_stopped(now_ns(), self.id));
        self.end_lingering();
    }

    /// Gives back the places of requests that were given up. Their worker has ended, and is forgotten,
    /// so that none of them is granted again.
    fn end_lingering(&self) {
        for grant in self.worker.end_lingering() {
            self.role.finish(now_ns(), grant, Ending::Over);
        }
    }
}

/// A ping whose answer is looked for, not waited for: a worker that is stopped must not keep its
/// thread from what else happens.
#[derive(Debug)]
struct Ping<'a> {
    question: Question<'a>,
    until: Deadline,
    look: Duration,
}

/// What has become of a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pong {
    /// To be looked for again after this time.
    Awaited(Duration),
    Answered,
    Missing,
    Corrupt,
}

impl<'a> Ping<'a> {
    fn new(channel: &'a Channel) -> Self {
        let question = channel.worker().health().question(Kind::PING);
        Self { question, until: Deadline::after(PING_TIMEOUT), look: Duration::ZERO }
    }

    /// Sends the ping if there is room, and looks for its answer. Never blocks.
    fn look(&mut self, channel: &Channel, waker: &Waker) -> Pong {
        let was_sent = self.question.is_sent();
        let answer = self.question.poll(waker);
        if self.question.is_sent() != was_sent || matches!(answer, Ok(Some(_))) {
            // The worker rings the channel's descriptor for an answer: that is a reason to ring it.
            channel.core().reactor_state.reset_idle_turns();
        }
        match answer {
            Ok(Some(_)) => Pong::Answered,
            Ok(None) if self.until.has_passed() => Pong::Missing,
            Ok(None) => {
                self.look = (2 * self.look).clamp(LOOK, LONGEST_LOOK);
                Pong::Awaited(self.look)
            }
            Err(error) => {
                let _ = channel.worker().note(error);
                if channel.is_alive() { Pong::Answered } else { Pong::Corrupt }
            }
        }
    }
}

/// What a worker's requests had reported at the last look.
#[derive(Debug, Default)]
struct Hang {
    seen: Vec<Seen>,
}

#[derive(Debug)]
struct Seen {
    id: RequestId,
    progress: u64,
    /// How much of its stream was consumed.
    consumed: u64,
    /// Since when both are the same.
    since: u64,
}

impl Hang {
    fn look(&mut self, now: u64, core: &Core, timeout: Duration) -> Option<(RequestId, u64)> {
        self.look_at(now, &core.marks(), |request| core.consumed(request), timeout)
    }

    /// Returns a request that has been served without progress for as long as `timeout`. One whose
    /// stream is read makes progress. One that waits for the reader of its stream is none: that is no
    /// fault of its worker's.
    fn look_at(
        &mut self,
        now: u64,
        marks: &[Mark],
        consumed: impl Fn(u64) -> u64,
        timeout: Duration,
    ) -> Option<(RequestId, u64)> {
        let mut seen = Vec::new();
        for mark in marks.iter().filter(|mark| mark.is_begun() && !mark.awaits_credit) {
            let (id, progress) = (RequestId::new(mark.request), mark.progress);
            let consumed = consumed(mark.request);
            let same = self.seen.iter().find(|seen| {
                seen.id == id && (seen.progress, seen.consumed) == (progress, consumed)
            });
            let since = same.map_or(now, |seen| seen.since);
            seen.push(Seen { id, progress, consumed, since });
        }
        self.seen = seen;
        let hung = |seen: &&Seen| now.saturating_sub(seen.since) >= nanos(timeout);
        self.seen.iter().find(hung).map(|seen| (seen.id, seen.progress))
    }
}

/// The memory of a process that is in use, in bytes.
fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Stage;

    #[test]
    fn a_request_is_hung_beside_one_that_waits_for_its_reader() {
        let mark = |request, progress, awaits_credit| Mark {
            request,
            stage: Stage::Begun,
            since: 0,
            progress,
            awaits_credit,
        };
        let timeout = Duration::from_nanos(100);
        let mut hang = Hang::default();
        // The second makes progress, and the first waits for its reader.
        for now in 0..300 {
            let marks = [mark(1, 0, true), mark(2, now, false)];
            assert_eq!(hang.look_at(now, &marks, |_| 0, timeout), None);
        }
        let looks = (300..500).map(|now| {
            let marks = [mark(1, 0, true), mark(2, 300, false)];
            (now, hang.look_at(now, &marks, |_| 0, timeout))
        });
        let (when, hung) = looks.into_iter().find(|(_, hung)| hung.is_some()).unwrap();
        assert_eq!((when, hung), (400, Some((RequestId::new(2), 300))));
    }

    #[test]
    fn a_stream_that_is_read_is_not_hung_until_no_more_is_read() {
        let mark =
            Mark { request: 1, stage: Stage::Begun, since: 0, progress: 0, awaits_credit: false };
        let (timeout, mut hang) = (Duration::from_nanos(100), Hang::default());
        // The reader takes something every 50 ns until 1000.
        let looks =
            (0..2000).map(|now| (now, hang.look_at(now, &[mark], |_| now.min(1000) / 50, timeout)));
        let (when, _) = looks.into_iter().find(|(_, hung)| hung.is_some()).unwrap();
        assert_eq!(when, 1100);
    }

    #[test]
    fn pings_of_an_idle_worker_do_not_make_it_corrupt() {
        let make = || crate::worker::Worker::new(|_| Ok(()));
        let (config, role) = (crate::Config::small(), crate::RoleConfig::default());
        let channel = crate::testing::spawn_thread(&config, role, make).unwrap();
        // As the driver does, after the first task. More often than a descriptor may be readable
        // for nothing.
        channel.read_ready().unwrap();
        for _ in 0..11_000 {
            let mut ping = Ping::new(&channel);
            loop {
                match ping.look(&channel, Waker::noop()) {
                    Pong::Answered => break,
                    Pong::Awaited(_) => std::thread::yield_now(),
                    pong => panic!("{pong:?}"),
                }
            }
            channel.read_ready().unwrap();
        }
    }
}
