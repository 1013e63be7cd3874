//! `--pool`: eight roles of a pool under load, whose workers are killed, made to crash, stopped,
//! recycled and replaced by others meanwhile; some requests end their workers themselves.
//!
//! The workers are those of [`at_once`](super::at_once): each appends the requests that it begins to
//! a file, which outlives it.

mod figures;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use slipring::pool::{self, EventKind, Pool, PoolRequest, Priority, Role, RoleHandle};
use slipring::{Error, ErrorKind, Spawner};

use super::at_once::Account;
use super::checked::{self, CALL, Fault, REPLY, STREAM};
use super::faults::{Random, signal_child};
use super::footprint::Footprint;
use super::{Counts, HANG, Options, left_behind};
use crate::error;
use crate::stdio::Stdout;
use figures::Figures;

const ROLES: usize = 8;
/// The role whose queue is short, so that it refuses requests.
const SHORT: usize = 6;
/// The role that is degraded by few deaths of idle workers.
const FRAIL: usize = 7;
/// The threads that send requests to one role, unless the options say so.
const DRIVERS: usize = 6;
/// The bit of a request's number that says that it is idempotent.
const IDEMPOTENT: u64 = 1;
/// The bit of a request's number that has the worker exit. No other soak counts that far.
pub(super) const ENDS_WORKER: u64 = 1 << 40;
/// The bit that has the worker take some milliseconds.
pub(super) const SLOW: u64 = 1 << 41;
/// How long the last requests may occupy their places after all drivers are done.
const PATIENCE: Duration = Duration::from_secs(20);

struct Soak {
    figures: Figures,
    is_over: AtomicBool,
    is_closed: AtomicBool,
    roles: Vec<RoleHandle>,
    start: Instant,
    /// When each driver began what it is doing, in nanoseconds since the start plus one.
    busy_since: Vec<AtomicU64>,
    /// The workers that were made to crash.
    crashed: Mutex<HashSet<u32>>,
}

pub(super) fn run(options: &Options) -> Result<(), error::Error> {
    let failed = |e: Error| error::Error::failure(format!("cannot start: {e:#}"));
    let stdout = Stdout::open()?;
    let account = Account::create();
    let account = account.map_err(|e| error::Error::failure(format!("cannot start: {e}")))?;
    let spawner = super::spawner(Some(&account)).map_err(failed)?;
    // The first worker starts threads and opens descriptors of the library, which stay.
    spawner.spawn().and_then(|first| first.close(HANG)).map_err(failed)?;
    let (baseline, threads) = (Footprint::now(), count_threads());

    let mut builder = Pool::builder();
    for number in 0..ROLES {
        builder = builder.role(name(number), role(number, &spawner, options.workers));
    }
    let pool = builder.build().map_err(failed)?;
    let happened = pool.events();
    let roles = (0..ROLES).map(|number| pool.role(&name(number))).collect::<Result<Vec<_>, _>>();
    let per_role = if options.concurrent == 0 { DRIVERS } else { options.concurrent };
    let soak = Arc::new(Soak {
        figures: Figures::default(),
        is_over: AtomicBool::new(false),
        is_closed: AtomicBool::new(false),
        roles: roles.map_err(failed)?,
        start: Instant::now(),
        busy_since: (0..ROLES * per_role).map(|_| AtomicU64::new(0)).collect(),
        crashed: Mutex::default(),
    });
    let mut running: Vec<_> = (0..ROLES * per_role)
        .map(|driver| {
            let soak = Arc::clone(&soak);
            thread::spawn(move || soak.drive(driver))
        })
        .collect();
    let every = Duration::from_millis(u64::try_from(options.kill_every).unwrap_or(u64::MAX));
    let (faulty, workers) = (Arc::clone(&soak), options.workers);
    running.push(thread::spawn(move || faulty.do_harm(&spawner, workers, every)));
    let listening = Arc::clone(&soak);
    let listener = thread::spawn(move || listening.listen(happened));

    let length = Duration::from_secs(u64::try_from(options.seconds).unwrap_or(u64::MAX));
    while soak.start.elapsed() < length && !soak.find_hangs() {
        thread::sleep(Duration::from_millis(20));
    }
    let seconds = soak.start.elapsed();
    soak.is_over.store(true, Ordering::Relaxed);
    if !soak.end(running) {
        // A thread that hangs keeps the rest.
        return soak.figures.report(soak.sent_again(), seconds, [0; 4], options.json, &stdout);
    }
    soak.check_places();
    if let Err(error) = pool.close(PATIENCE) {
        wrong(&soak.figures.hangs, format!("the pool does not close: {error:#}"));
    }
    soak.is_closed.store(true, Ordering::Relaxed);
    if listener.join().is_err() {
        wrong(&soak.figures.hangs, "a thread has panicked");
    }
    drop(pool);
    soak.settle(&account);
    let [fds, maps, children] = left_behind(&baseline);
    let leaks = [fds, maps, children, left_threads(threads)];
    soak.figures.report(soak.sent_again(), seconds, leaks, options.json, &stdout)
}

fn name(role: usize) -> String {
    format!("role-{role}")
}

/// Describes a role. No two are alike.
fn role(number: usize, spawner: &Spawner, workers: usize) -> Role {
    let (spawner, role) = (spawner.clone(), name(number));
    let ms = Duration::from_millis;
    let recipe = move |_: &pool::WorkerSlot| Ok(spawner.clone().role(role.clone()));
    let described = Role::new(recipe)
        .min_idle(workers)
        .max_size(workers)
        .backoff(ms(2), ms(100), ms(1000))
        .max_failures(1_000_000, ms(1000))
        .retry_budget(100, 1000, ms(1000))
        .max_attempts(20);
    match number {
        0 => described.concurrency(4).spares(1),
        1 => described.stop_first().max_requests(2000),
        2 => described.concurrency(4).prefetch(4).max_lifetime(ms(1500)),
        3 => described.prefetch(0).spares(1),
        4 => described.lazy().min_idle(0).idle_timeout(ms(50)).grow_after(ms(5)),
        5 => described.max_requests(500).ping_interval(ms(200)).max_attempts(3),
        SHORT => described.stop_first().max_waiting(1),
        _ => described.backoff(ms(2), ms(50), ms(1000)).max_failures(2, ms(5000)),
    }
}

impl Soak {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Sends requests to one role until the time is over.
    fn drive(&self, driver: usize) {
        let (Some(role), Some(busy)) =
            (self.roles.get(driver % ROLES), self.busy_since.get(driver))
        else {
            return;
        };
        let (mut random, mut count) = (Random::new(), 0);
        while !self.is_over() {
            count += 1;
            busy.store(self.now(), Ordering::Relaxed);
            self.send(role, driver, count, &mut random);
            busy.store(0, Ordering::Relaxed);
            if random.below(50) == 0 || driver % ROLES == SHORT {
                thread::sleep(Duration::from_micros(random.below(10_000)));
            }
        }
    }

    fn send(&self, role: &RoleHandle, driver: usize, count: u64, random: &mut Random) {
        let sender = u64::try_from(driver).unwrap_or(u64::MAX);
        let ends_worker = if random.below(200) == 0 { ENDS_WORKER } else { 0 };
        let slow = if random.below(4) == 0 { SLOW } else { 0 };
        let number = count << 1 | random.below(2) | ends_worker | slow;
        let len = usize::try_from(random.below(3000)).unwrap_or(0);
        let frame = checked::frame(sender, number, len);
        let is_short = random.below(20) == 0;
        let timeout = if is_short { Duration::from_millis(random.below(4)) } else { HANG };
        let is_stream = random.below(4) == 0;
        let mut request = role.request(if is_stream { STREAM } else { CALL });
        request = request.idempotent(number & IDEMPOTENT != 0).priority(match random.below(8) {
            0 => Priority::High,
            1 => Priority::Low,
            _ => Priority::default(),
        });
        if random.below(3) == 0 {
            request = request.key(random.below(10));
        }
        self.figures.requests.fetch_add(1, Ordering::Relaxed);
        let done = if is_stream {
            let most = if random.below(4) == 0 { random.below(20) } else { u64::MAX };
            self.stream(request, &frame, (sender, number), most, timeout)
        } else {
            request.call(&*frame, timeout).map(|reply| {
                self.check(&reply.to_vec(), sender, number);
                self.figures.replies.fetch_add(1, Ordering::Relaxed);
            })
        };
        match done {
            Ok(()) if ends_worker != 0 && !is_stream => {
                let what = format!("{number} of {sender} ended its worker, and has a reply");
                wrong(&self.figures.misdelivered, what);
            }
            Ok(()) => {}
            Err(error) => self.judge(driver % ROLES, number, is_short, &error),
        }
    }

    fn stream(
        &self,
        request: PoolRequest<'_>,
        frame: &[u8],
        (sender, number): (u64, u64),
        most: u64,
        timeout: Duration,
    ) -> slipring::Result<()> {
        let mut stream = request.stream(frame, timeout)?;
        let length = checked::length_of(number);
        for chunk in 0..most {
            let Some(reply) = stream.next_chunk()? else {
                if chunk != length {
                    let what = format!("{number} of {sender} ended after {chunk} of {length}");
                    wrong(&self.figures.lost, what);
                }
                self.figures.streams.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            };
            self.check(&reply.to_vec(), sender, number << 20 | chunk);
        }
        self.figures.dropped.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn check(&self, reply: &[u8], sender: u64, number: u64) {
        match checked::check(reply, sender | REPLY, number) {
            Ok(()) => {}
            Err(Fault::Torn) => wrong(&self.figures.torn, format!("{number} of {sender} is torn")),
            Err(other) => {
                wrong(&self.figures.misdelivered, format!("{number} of {sender}: {other:?}"));
            }
        }
    }

    /// Whether an error is one that the request could have.
    fn judge(&self, role: usize, number: u64, is_short: bool, error: &Error) {
        let figures = &self.figures;
        let is_idempotent = number & IDEMPOTENT != 0;
        let last = std::error::Error::source(error).and_then(|last| last.downcast_ref::<Error>());
        let pid = last.and_then(Error::death).map_or(0, |death| death.pid());
        let has_crashed =
            || self.crashed.lock().unwrap_or_else(PoisonError::into_inner).contains(&pid);
        let counter = match error.kind() {
            ErrorKind::Timeout | ErrorKind::Stalled | ErrorKind::QueueTimeout if is_short => {
                &figures.timeouts
            }
            ErrorKind::PeerDied if error.was_begun() != Some(false) => &figures.died,
            ErrorKind::Overloaded if role == SHORT => &figures.overloaded,
            ErrorKind::Degraded if role == FRAIL => &figures.degraded,
            ErrorKind::Poison if number & ENDS_WORKER != 0 && is_idempotent => &figures.poison,
            ErrorKind::Poison if is_idempotent && has_crashed() => &figures.crashed_alone,
            ErrorKind::Poison => {
                return wrong(&figures.innocent_poison, format!("role {role}: {error:#}"));
            }
            ErrorKind::HandlerFailed => {
                return wrong(&figures.torn, format!("role {role}: {error:#}"));
            }
            _ => return wrong(&figures.lost, format!("role {role}, {number}: {error:#}")),
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Does something to a worker again and again until the time is over.
    fn do_harm(&self, spawner: &Spawner, workers: usize, every: Duration) {
        let (mut random, figures) = (Random::new(), &self.figures);
        let every = u64::try_from(every.as_micros()).unwrap_or(u64::MAX);
        while !self.is_over() {
            let until =
                Instant::now() + Duration::from_micros(every / 2 + random.below(every.max(1)));
            while Instant::now() < until && !self.is_over() {
                let left = until.saturating_duration_since(Instant::now());
                thread::sleep(left.min(Duration::from_millis(20)));
            }
            let number = usize::try_from(random.below(8)).unwrap_or(0);
            let Some(role) = self.roles.get(number) else { return };
            // If all were hit while they start, none would ever serve.
            let is_any = random.below(8) == 0;
            let has_served = |worker: &pool::WorkerHealth| {
                worker.health.as_ref().is_some_and(|h| h.requests_served > 0 || h.begun > 0)
            };
            let all = role.health().workers.into_iter();
            let pids: Vec<u32> =
                all.filter(|it| is_any || has_served(it)).filter_map(|it| it.pid).collect();
            let count = u64::try_from(pids.len()).unwrap_or(1);
            let victim = pids.get(usize::try_from(random.below(count)).unwrap_or(0));
            let Some(&pid) = victim else { continue };
            let send = |signal| signal_child(pid, signal);
            let (harm, pause) = (random.below(20), Duration::from_micros(random.below(20_000)));
            let stop = || {
                if send(libc::SIGSTOP) {
                    figures.stops.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(pause);
            };
            let (has_hit, counter) = match harm {
                0..=2 => {
                    stop();
                    send(libc::SIGCONT);
                    continue;
                }
                3 => {
                    if role.reload(self::role(number, spawner, workers)).is_ok() {
                        figures.reloads.fetch_add(1, Ordering::Relaxed);
                    }
                    continue;
                }
                4..=7 => {
                    let mut crashed = self.crashed.lock().unwrap_or_else(PoisonError::into_inner);
                    crashed.insert(pid);
                    drop(crashed);
                    // The first only ends the runtime's own handler.
                    let has_hit = send(libc::SIGSEGV) && send(libc::SIGSEGV);
                    (has_hit, &figures.crashes)
                }
                8 | 9 => {
                    stop();
                    (send(libc::SIGKILL), &figures.kills)
                }
                _ => (send(libc::SIGKILL), &figures.kills),
            };
            if has_hit {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    /// Counts what happens to workers.
    fn listen(&self, happened: pool::Events) {
        while !self.is_closed.load(Ordering::Relaxed) {
            let Some(event) = happened.recv_timeout(Duration::from_millis(50)) else { continue };
            match event.kind {
                EventKind::Died(_) | EventKind::StartFailed(_) => {
                    self.figures.deaths.fetch_add(1, Ordering::Relaxed);
                }
                EventKind::Recycled(_) => {
                    self.figures.recycled.fetch_add(1, Ordering::Relaxed);
                }
                _ => {}
            }
        }
    }

    fn find_hangs(&self) -> bool {
        let now = self.now();
        let mut found = false;
        for (driver, since) in self.busy_since.iter().enumerate() {
            let since = since.load(Ordering::Relaxed);
            let busy = Duration::from_nanos(now.saturating_sub(since));
            if since != 0 && busy > 2 * HANG {
                wrong(&self.figures.hangs, format!("driver {driver} has waited for {busy:?}"));
                found = true;
            }
        }
        found
    }

    /// Waits for the threads; false if one of them hangs.
    fn end(&self, threads: Vec<thread::JoinHandle<()>>) -> bool {
        while threads.iter().any(|thread| !thread.is_finished()) {
            if self.find_hangs() {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        for thread in threads {
            if thread.join().is_err() {
                wrong(&self.figures.hangs, "a thread has panicked");
            }
        }
        true
    }

    /// All places are given back once the last requests that were given up are done.
    fn check_places(&self) {
        let patience = Instant::now() + PATIENCE;
        for role in &self.roles {
            loop {
                let load = role.health().load;
                if (load.queued, load.in_flight) == (0, 0) {
                    break;
                }
                if Instant::now() > patience {
                    wrong(&self.figures.places, format!("{}: {load:?}", role.name()));
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// How often requests were sent again that had not been begun, and that had been.
    fn sent_again(&self) -> [u64; 2] {
        let counters = self.roles.iter().map(RoleHandle::metrics);
        counters.fold([0; 2], |[resent, retried], counters| {
            [resent + counters.resent_unbegun, retried + counters.resent_begun]
        })
    }

    /// Looks which requests were begun more than once.
    fn settle(&self, account: &Account) {
        let mut begun = HashMap::<(u64, u64), u32>::new();
        for request in account.begun() {
            *begun.entry(request).or_default() += 1;
        }
        self.figures.begun.fetch_add(u64::try_from(begun.len()).unwrap_or(0), Ordering::Relaxed);
        for ((sender, number), count) in begun {
            if count > 1 && number & IDEMPOTENT == 0 {
                let what = format!("{number} of {sender} was begun {count} times");
                wrong(&self.figures.run_twice, what);
            }
        }
    }
}

/// Counts an error and describes it.
fn wrong(counter: &AtomicU64, what: impl std::fmt::Display) {
    Counts::wrong(counter, what);
}

fn count_threads() -> usize {
    fs::read_dir("/proc/self/task").into_iter().flatten().count()
}

/// Counts the threads that were added since the start. Waits a moment for those that end.
fn left_threads(before: usize) -> usize {
    let patience = Instant::now() + PATIENCE;
    loop {
        let left = count_threads().saturating_sub(before);
        if left == 0 || Instant::now() > patience {
            return left;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
