//! What a pool costs, and what a crash of one of its workers costs.
//!
//!     cargo run --release --bin pool
//!
//! `pool_bench.py` does the same with Python's `ProcessPoolExecutor` and with loky. A worker takes
//! 200 ms to load, as a small model does. Every answer is checked.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use slipring::pool::{Pool, Role, RoleHandle};
use slipring::worker::{self, Worker};
use slipring::{ErrorKind, Kind, RoleConfig, Spawner};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Replies with the request.
const ECHO: Kind = Kind::named("echo");
/// Replies with the request after as many milliseconds as its first byte says.
const WORK: Kind = Kind::named("work");

const TIMEOUT: Duration = Duration::from_secs(30);
const LOAD: Duration = Duration::from_millis(200);
const ROUNDS: usize = 25;

fn main() -> Result<()> {
    if worker::is_worker() {
        let load = |role: &RoleConfig| {
            if role.mode.as_deref() == Some("loads") {
                std::thread::sleep(LOAD);
            }
            Ok(())
        };
        let worker = Worker::new(load)
            .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?))
            .on(WORK, |(), request, responder| {
                let bytes = request.to_vec();
                std::thread::sleep(Duration::from_millis(bytes.first().copied().unwrap_or(0).into()));
                Ok(responder.send(&bytes)?)
            });
        return Ok(worker.serve()?);
    }
    cost_of_a_call()?;
    calls_per_second()?;
    for spares in [0, 1] {
        recovery(spares)?;
    }
    innocents()?;
    Ok(())
}

fn spawner() -> slipring::Result<Spawner> {
    Spawner::current_exe()
}

fn pool(role: Role) -> Result<(Pool, RoleHandle)> {
    let pool = Pool::builder().role("worker", role).build()?;
    let handle = pool.role("worker")?;
    check(handle.call(ECHO, b"first", TIMEOUT)?.to_vec() == b"first")?;
    Ok((pool, handle))
}

fn check(is_right: bool) -> Result<()> {
    if is_right { Ok(()) } else { Err("a wrong answer".into()) }
}

/// What a call through a pool takes longer than one through a channel, in turns.
fn cost_of_a_call() -> Result<()> {
    const CALLS: u32 = 20_000;
    let channel = spawner()?.pollable().spawn()?;
    channel.wait_ready(TIMEOUT)?;
    let (pool, handle) = pool(Role::new(|_| spawner()))?;
    let request = [1; 32];
    let mut times: [Vec<f64>; 3] = [vec![], vec![], vec![]];
    for round in 0..ROUNDS + 2 {
        let start = Instant::now();
        for _ in 0..CALLS {
            check(channel.call(ECHO, &request, TIMEOUT)?.to_vec() == request)?;
        }
        let through_channel = start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS);
        let start = Instant::now();
        for _ in 0..CALLS {
            check(handle.call(ECHO, &request, TIMEOUT)?.to_vec() == request)?;
        }
        let through_pool = start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS);
        // The first rounds make pages and learn.
        if round >= 2 {
            let difference = through_pool - through_channel;
            for (times, time) in times.iter_mut().zip([through_channel, through_pool, difference]) {
                times.push(time);
            }
        }
    }
    let [channel_ns, pool_ns, difference] = &mut times;
    println!(
        "a call of 32 bytes: channel {}, pool {}, difference {} ns",
        spread(channel_ns),
        spread(pool_ns),
        spread(difference)
    );
    channel.close(TIMEOUT)?;
    Ok(pool.close(TIMEOUT)?)
}

/// Calls of several threads over two workers.
fn calls_per_second() -> Result<()> {
    let (pool, handle) = pool(Role::new(|_| spawner()).min_idle(2).max_size(2))?;
    for threads in [1, 2, 8] {
        let mut rates: Vec<f64> = Vec::new();
        for _ in 0..ROUNDS {
            let (is_over, start) = (AtomicBool::new(false), Instant::now());
            let calls = std::thread::scope(|scope| {
                let callers: Vec<_> = (0..threads)
                    .map(|_| {
                        scope.spawn(|| -> Result<u32> {
                            let mut calls = 0;
                            while !is_over.load(Ordering::Relaxed) {
                                check(handle.call(ECHO, b"hello", TIMEOUT)?.to_vec() == b"hello")?;
                                calls += 1;
                            }
                            Ok(calls)
                        })
                    })
                    .collect();
                std::thread::sleep(Duration::from_millis(100));
                is_over.store(true, Ordering::Relaxed);
                callers.into_iter().map(join).sum::<Result<u32>>()
            })?;
            rates.push(f64::from(calls) / start.elapsed().as_secs_f64() / 1000.0);
        }
        println!("{threads} callers, 2 workers: {} thousand calls a second", spread(&mut rates));
    }
    Ok(pool.close(TIMEOUT)?)
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| "a caller panicked")?
}

/// From the kill of a worker to the answer of the idempotent request that it served.
fn recovery(spares: usize) -> Result<()> {
    let role = Role::new(|_| Ok(spawner()?.mode("loads"))).spares(spares).idempotent(WORK);
    let (pool, handle) = pool(role.max_attempts(3).retry_budget(100, 100, TIMEOUT))?;
    let mut times: Vec<f64> = Vec::new();
    for _ in 0..ROUNDS {
        until(|| handle.health().workers.iter().filter(|worker| worker.is_alive).count() > spares)?;
        // A spare is ready only a while after it lives.
        std::thread::sleep(2 * LOAD);
        let milliseconds = std::thread::scope(|scope| -> Result<f64> {
            let call = scope.spawn(|| -> Result<Instant> {
                check(handle.call(WORK, &[20], TIMEOUT)?.to_vec() == [20])?;
                Ok(Instant::now())
            });
            let victim = || {
                let workers = handle.health().workers;
                workers.iter().find_map(|worker| {
                    worker.pid.filter(|_| worker.health.as_ref().is_some_and(|h| h.begun > 0))
                })
            };
            until(|| victim().is_some())?;
            let killed = Instant::now();
            kill(victim().ok_or("it has ended")?)?;
            Ok(join(call)?.duration_since(killed).as_secs_f64() * 1e3)
        })?;
        // The work itself is done again.
        times.push(milliseconds - 20.0);
    }
    println!("a kill to the answer, {spares} spares: {} ms", spread(&mut times));
    Ok(pool.close(TIMEOUT)?)
}

/// What requests of 5 ms notice of a worker that is killed beside theirs.
fn innocents() -> Result<()> {
    const CALLS: u32 = 2_000;
    let role = Role::new(|_| spawner()).min_idle(2).max_size(2).spares(1).idempotent(WORK);
    let (pool, handle) = pool(role.retry_budget(100, 100, TIMEOUT))?;
    let is_over = AtomicBool::new(false);
    let (mut failed, mut longest, mut kills) = (0, Duration::ZERO, 0);
    std::thread::scope(|scope| -> Result<()> {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| -> Result<(u32, Duration)> {
                    let (mut failed, mut longest) = (0, Duration::ZERO);
                    for _ in 0..CALLS / 4 {
                        let start = Instant::now();
                        match handle.call(WORK, &[5], TIMEOUT) {
                            Ok(reply) => check(reply.to_vec() == [5])?,
                            Err(error) if error.kind() == ErrorKind::PeerDied => failed += 1,
                            Err(error) => return Err(error.into()),
                        }
                        longest = longest.max(start.elapsed());
                    }
                    Ok((failed, longest))
                })
            })
            .collect();
        let killer = scope.spawn(|| {
            let mut kills = 0;
            while !is_over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(250));
                let workers = handle.health().workers;
                let busy = |h: &slipring::Health| h.begun > 0;
                let victim = workers.iter().find(|w| w.health.as_ref().is_some_and(busy));
                if let Some(pid) = victim.and_then(|worker| worker.pid)
                    && kill(pid).is_ok()
                {
                    kills += 1;
                }
            }
            kills
        });
        for caller in callers {
            let (its_failed, its_longest) = join(caller)?;
            failed += its_failed;
            longest = longest.max(its_longest);
        }
        is_over.store(true, Ordering::Relaxed);
        kills = killer.join().map_err(|_| "the killer panicked")?;
        Ok(())
    })?;
    println!(
        "{CALLS} calls of 5 ms, 2 workers, {kills} kills: {failed} failed, the longest took {:.1} ms",
        longest.as_secs_f64() * 1e3
    );
    Ok(pool.close(TIMEOUT)?)
}

fn kill(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid)?;
    // SAFETY: a system call without memory.
    match unsafe { libc::kill(pid, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

fn until(mut is_true: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !is_true() {
        if start.elapsed() > TIMEOUT {
            return Err("it never came true".into());
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// The median, and the quartiles.
fn spread(values: &mut [f64]) -> String {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values.get(values.len() * part / 4).copied().unwrap_or(f64::NAN);
    format!("{} [{}, {}]", Short(at(2)), Short(at(1)), Short(at(3)))
}

/// A number with three digits.
struct Short(f64);

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            large if large >= 100.0 => write!(f, "{large:.0}"),
            middle if middle >= 10.0 => write!(f, "{middle:.1}"),
            small => write!(f, "{small:.2}"),
        }
    }
}
