//! One worker of a pool, and the thread that looks after it from its start to its end.

use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use super::attempt::is_killed_from_outside;
use super::events::EventKind;
use super::role::RoleShared;
use super::scheduler::{Death, Ending, Grant, RecycleReason, WorkerId};
use super::settings::{WorkerSlot, nanos};
use crate::channel::{Channel, Core};
use crate::error::{Error, ErrorKind, Mark, RequestStage, Result};
use crate::id::RequestId;
use crate::process::service::start_thread;
use crate::protocol::Health;
use crate::sync::plain::{Condvar, Mutex};
use crate::sys::clock::{Deadline, now_ns};
use crate::tasks::driver::{self, DriverRegistration};

/// How long a worker may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at a worker that is dead and whose exit status is not known.
const LOOK: Duration = Duration::from_millis(1);
/// The longest time between two looks whether a worker is done with a request that was given up.
const LONGEST_LOOK: Duration = Duration::from_millis(100);

/// A worker of a pool.
#[derive(Debug, Default)]
pub(super) struct Worker {
    /// Reads for tasks, from the first on. Ends before the channel does: its descriptor is taken
    /// out of the reactor while it is open.
    driver: Mutex<Option<DriverRegistration>>,
    channel: OnceLock<Channel>,
    is_ready: OnceLock<()>,
    bell: Arc<Bell>,
    was_hung: OnceLock<()>,
    /// Requests that nobody waits for any more, and that the worker may be at.
    lingering: Mutex<Vec<(RequestId, Grant)>>,
}

impl Worker {
    /// Its channel, once it is started. Requests get it when it is ready.
    pub(super) fn channel(&self) -> Option<&Channel> {
        self.channel.get()
    }

    /// What tasks use of its channel. The first time has the library's thread read for them.
    pub(super) fn core_for_tasks(&self) -> Result<&Arc<Core>> {
        let core = self.channel_in_use()?.core();
        let mut driver = self.driver.lock();
        if driver.is_none() {
            *driver = Some(driver::register(core)?);
        }
        Ok(core)
    }

    /// The channel of a worker that was granted. The scheduler grants only those that are ready.
    pub(super) fn channel_in_use(&self) -> Result<&Channel> {
        self.channel().ok_or_else(|| Error::new(ErrorKind::Closed, "the worker is gone"))
    }

    /// Has its thread end it. A start is not waited for. Never blocks.
    pub(super) fn stop(&self) {
        self.bell.ring(true);
        if self.is_ready.get().is_none()
            && let Some(channel) = self.channel()
        {
            // Ends the wait until it is ready.
            let _ = channel.worker().begin_close(Duration::ZERO);
        }
    }

    /// Has its thread look whether it is of any use still.
    pub(super) fn look(&self) {
        self.bell.ring(false);
    }

    /// Has its thread give a request's place back when the worker is done with the request.
    pub(super) fn linger(&self, request: RequestId, grant: Grant) {
        self.lingering.lock().push((request, grant));
        self.look();
    }

    fn has_lingering(&self) -> bool {
        !self.lingering.lock().is_empty()
    }

    /// The places of requests that the worker is done with.
    fn take_done(&self, health: impl Fn() -> Health) -> Vec<Grant> {
        let mut lingering = self.lingering.lock();
        if lingering.is_empty() {
            return Vec::new();
        }
        let health = health();
        let done = lingering.extract_if(.., |(request, _)| is_done(&health, *request));
        done.map(|(_, grant)| grant).collect()
    }

    /// Whether the pool has killed it because a request made no progress.
    pub(super) fn was_hung(&self) -> bool {
        self.was_hung.get().is_some()
    }

    /// Blocks until all that an error says of the worker's end is known, or until the deadline.
    pub(super) fn wait_until_known(&self, deadline: Deadline) {
        let Some(exit) = self.channel().and_then(|channel| channel.core().state.exit()) else {
            return;
        };
        let until = deadline.instant();
        exit.process.wait_for_cause(until);
        while !exit.is_known() && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
    }
}

/// Whether a worker is done with a request: it is at others that came later, or at none.
fn is_done(health: &Health, request: RequestId) -> bool {
    let requests = &health.requests;
    let is_idle = health.begun == 0 && health.taken == 0;
    // A report names only so many requests.
    let is_whole = requests.len() < Health::MOST_REQUESTS;
    let is_listed = requests.iter().any(|listed| listed.id == request);
    is_idle || is_whole && !is_listed && requests.iter().any(|listed| listed.id > request)
}

/// Wakes a worker's thread.
#[derive(Debug, Default)]
struct Bell {
    state: Mutex<BellState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct BellState {
    has_rung: bool,
    is_to_stop: bool,
}

impl Bell {
    fn ring(&self, is_to_stop: bool) {
        let mut state = self.state.lock();
        state.has_rung = true;
        state.is_to_stop |= is_to_stop;
        drop(state);
        self.changed.notify_all();
    }

    /// Blocks until it has rung since the last wait, or until the deadline. Returns whether the
    /// worker is to be stopped.
    fn wait(&self, deadline: Deadline) -> bool {
        let mut state = self.state.lock();
        while !state.has_rung {
            let left = deadline.remaining();
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left);
        }
        state.has_rung = false;
        state.is_to_stop
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring(false);
    }
}

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
        let since = Instant::now();
        match self.start() {
            Ok(channel) => {
                let _ = self.worker.is_ready.set(());
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
        let _turn = self.role.starts.take(|| self.is_to_stop());
        self.check_to_stop()?;
        self.role.tell(Some(self.id), None, EventKind::Started);
        let settings = self.role.settings();
        let started = (settings.recipe)(&slot)?;
        let channel = self.worker.channel.get_or_init(|| started);
        let ready = self.check_to_stop().and_then(|()| channel.wait_ready(settings.start_timeout));
        if ready.is_err() {
            // It may be loading still, and whoever closes the pool waits for its end.
            let _ = channel.close(Duration::ZERO);
        }
        ready.map(|()| channel)
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
        self.worker.bell.state.lock().is_to_stop
    }

    /// Looks after a worker that is ready, until it has ended.
    fn watch(&self, channel: &Channel) {
        let waker = Waker::from(Arc::clone(&self.worker.bell));
        let mut exit = channel.core().state.exit_waiters.register();
        let (mut ping, mut hang) =
            (Deadline::after(self.role.settings().ping_interval), Hang::default());
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
            if ping.has_passed() {
                ping = Deadline::after(settings.ping_interval);
                self.ask(channel, settings.max_rss);
            }
            let mut until = ping;
            for grant in self.worker.take_done(|| channel.health()) {
                self.role.finish(now_ns(), grant, Ending::Over);
            }
            look = match self.worker.has_lingering() {
                true => (2 * look).clamp(LOOK, LONGEST_LOOK),
                false => Duration::ZERO,
            };
            if !look.is_zero() {
                until = until.at_most(look);
            }
            if let Some(timeout) = settings.hang_timeout {
                if let Some((request, progress)) = hang.look(channel, timeout) {
                    self.kill(channel, request, progress);
                }
                until = until.at_most(timeout / 4);
            }
            if self.worker.bell.wait(until) {
                let _ = channel.close(self.role.stop_timeout());
                return self.note_stopped();
            }
        }
    }

    /// Asks the worker how it is, and looks at its memory.
    fn ask(&self, channel: &Channel, max_rss: Option<u64>) {
        if channel.ping(PING_TIMEOUT).is_err_and(|error| error.is_timeout()) {
            self.role.tell(Some(self.id), Some(channel.pid()), EventKind::Unresponsive);
        }
        let rss = max_rss.and_then(|most| Some((most, resident_bytes(channel.pid())?)));
        if rss.is_some_and(|(most, rss)| rss > most) {
            let why = RecycleReason::Memory;
            self.role.change(|scheduler| scheduler.recycle(now_ns(), self.id, why));
        }
    }

    /// Kills a worker one of whose requests makes no progress. Its end is then noticed as any.
    fn kill(&self, channel: &Channel, request: RequestId, progress: u64) {
        let _ = self.worker.was_hung.set(());
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
    }

    fn note_stopped(&self) {
        self.role.tell(Some(self.id), self.pid(), EventKind::Stopped);
        self.role.forget(self.id, |scheduler| scheduler.note_stopped(now_ns(), self.id));
    }
}

/// What a worker's requests had reported at the last look.
#[derive(Debug, Default)]
struct Hang {
    /// Each request with its progress, and since when that is the same.
    seen: Vec<(RequestId, u64, u64)>,
}

impl Hang {
    /// Returns a request that has been served without progress for as long as `timeout`.
    fn look(&mut self, channel: &Channel, timeout: Duration) -> Option<(RequestId, u64)> {
        let now = now_ns();
        let mut seen = Vec::new();
        for request in channel.health().requests {
            if request.stage != RequestStage::Begun {
                continue;
            }
            let before = self.seen.iter().find(|(id, ..)| *id == request.id);
            let since = match before {
                Some((_, progress, since)) if *progress == request.progress => *since,
                _ => now,
            };
            seen.push((request.id, request.progress, since));
        }
        self.seen = seen;
        let hung = |(_, _, since): &&(RequestId, u64, u64)| now - since >= nanos(timeout);
        self.seen.iter().find(hung).map(|(id, progress, _)| (*id, *progress))
    }
}

/// The memory of a process that is in use, in bytes.
fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
