//! `slipring soak`: sends checked frames through real workers, which are killed, stopped and
//! started again meanwhile.
//!
//! [`checked`] makes and checks the frames, on both sides. [`drive`] sends them. [`faults`] kills
//! and stops workers. [`at_once`] is a worker that serves many requests at the same time. [`pool`]
//! lets a pool restart the workers instead. Before all that, [`raw`] sends very many frames without faults. No frame may be lost, duplicated, torn
//! or delivered to another caller; nothing may hang or be left behind.

mod at_once;
mod checked;
mod drive;
mod faults;
mod footprint;
mod pool;
mod raw;

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use slipring::{Config, Spawner};

use crate::args::number;
use crate::error::{Error, say};
use crate::stdio::Stdout;
use at_once::Account;
use faults::{Place, Random};
use footprint::Footprint;

pub(crate) use checked::serve_if_worker;

/// The threads that call and read streams, for each worker.
const CALLERS: usize = 2;
const STREAMERS: usize = 1;
/// An operation that takes longer counts as hanging.
const HANG: Duration = Duration::from_secs(30);

/// The options of `soak`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Seconds to run
    #[arg(long, value_name = "N", default_value = "10", allow_hyphen_values = true,
          value_parser = number("--seconds", 1, 10_000_000))]
    pub(crate) seconds: usize,
    /// Milliseconds between two faults, on average
    #[arg(long, value_name = "MS", default_value = "100", allow_hyphen_values = true,
          value_parser = number("--kill-every", 1, 10_000_000))]
    pub(crate) kill_every: usize,
    /// Worker processes
    #[arg(long, value_name = "N", default_value = "2", allow_hyphen_values = true,
          value_parser = number("--workers", 1, 128))]
    pub(crate) workers: usize,
    /// Requests in flight for each worker, which then serves them by several threads in any
    /// order; 0 for a worker that serves one at a time
    #[arg(long, value_name = "N", default_value = "0", allow_hyphen_values = true,
          value_parser = number("--concurrent", 0, 200))]
    pub(crate) concurrent: usize,
    /// Small frames to send through raw rings first
    #[arg(long, value_name = "N", default_value = "0", allow_hyphen_values = true,
          value_parser = number("--frames", 0, 1 << 50))]
    pub(crate) frames: usize,
    /// Have a pool of eight roles restart the workers. --workers and --concurrent then count for
    /// each role
    #[arg(long, conflicts_with = "frames")]
    pub(crate) pool: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Counts of operations, of faults that were made, and of errors that were found.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    frames: AtomicU64,
    bytes: AtomicU64,
    timeouts: AtomicU64,
    cancelled: AtomicU64,
    late: AtomicU64,
    kills: AtomicU64,
    stops: AtomicU64,
    deaths: AtomicU64,
    lost: AtomicU64,
    duplicated: AtomicU64,
    torn: AtomicU64,
    misdelivered: AtomicU64,
    hangs: AtomicU64,
    /// Requests that workers with threads have begun.
    begun: AtomicU64,
    /// Those of them that were said not to have been begun.
    denied: AtomicU64,
    detections: Mutex<Vec<Duration>>,
}

impl Counts {
    fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts an error and describes it.
    fn wrong(counter: &AtomicU64, what: impl std::fmt::Display) {
        counter.fetch_add(1, Ordering::Relaxed);
        say(what);
    }

    fn detected(&self, after: Duration) {
        self.detections.lock().unwrap_or_else(PoisonError::into_inner).push(after);
    }
}

/// The state that all threads share.
pub(crate) struct Soak {
    counts: Counts,
    is_over: AtomicBool,
    places: Vec<Place>,
    /// The drivers of each worker.
    per_place: usize,
    /// Counts of workers that serve many requests at the same time.
    account: Option<Account>,
    start: Instant,
    /// When each driver began what it is doing, in nanoseconds since the start plus one.
    busy_since: Vec<AtomicU64>,
}

impl Soak {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

pub(crate) fn run(options: &Options) -> Result<(), Error> {
    if options.pool {
        return pool::run(options);
    }
    let failed = |error: slipring::Error| Error::failure(format!("cannot start: {error:#}"));
    // Checked first: without standard output there would be no report.
    let stdout = Stdout::open()?;
    let account = match options.concurrent {
        0 => None,
        _ => Some(Account::create().map_err(|e| Error::failure(format!("cannot start: {e}")))?),
    };
    let spawner = spawner(account.as_ref()).map_err(failed)?;
    // The first worker starts threads and opens descriptors of the library, which stay.
    spawner.spawn().and_then(|first| first.close(HANG)).map_err(failed)?;
    let baseline = Footprint::now();
    let counts = Counts::default();
    let begun = Instant::now();
    if options.frames > 0 {
        let frames = u64::try_from(options.frames).unwrap_or(u64::MAX);
        raw::run(frames, &counts).map_err(failed)?;
    }

    let places = (0..options.workers).map(|_| Place::start(&spawner)).collect::<Result<_, _>>();
    let per_place = match options.concurrent {
        0 => CALLERS + STREAMERS,
        requests => requests,
    };
    let drivers = options.workers * per_place;
    let soak = Arc::new(Soak {
        counts,
        is_over: AtomicBool::new(false),
        places: places.map_err(failed)?,
        per_place,
        account,
        start: Instant::now(),
        busy_since: (0..drivers).map(|_| AtomicU64::new(0)).collect(),
    });
    let mut threads = Vec::new();
    for driver in 0..drivers {
        let soak = Arc::clone(&soak);
        threads.push(thread::spawn(move || drive::run(&soak, driver)));
    }
    let killer = {
        let soak = Arc::clone(&soak);
        let every = Duration::from_millis(u64::try_from(options.kill_every).unwrap_or(u64::MAX));
        thread::spawn(move || faults::run(&soak, &spawner, every, &mut Random::new()))
    };
    let length = Duration::from_secs(u64::try_from(options.seconds).unwrap_or(u64::MAX));
    watch(&soak, length);
    let seconds = begun.elapsed();
    soak.is_over.store(true, Ordering::Relaxed);
    threads.push(killer);
    let have_ended = end(&soak, threads);
    match Arc::try_unwrap(soak) {
        Ok(Soak { counts, places, account, .. }) if have_ended => {
            places.into_iter().for_each(Place::close);
            if let Some(account) = account {
                account.settle(&counts);
            }
            report(&counts, seconds, left_behind(&baseline), options.json, &stdout)
        }
        // A thread that hangs keeps the rest.
        Ok(soak) => report(&soak.counts, seconds, [0; 3], options.json, &stdout),
        Err(soak) => report(&soak.counts, seconds, [0; 3], options.json, &stdout),
    }
}

fn spawner(account: Option<&Account>) -> slipring::Result<Spawner> {
    let config = Config::builder()
        .request_ring(64 << 10)
        .reply_ring(64 << 10)
        .max_request_frame(16 << 10)
        .max_reply_frame(16 << 10)
        .max_message(256 << 10)
        .max_in_flight(256)
        .build()?;
    let spawner = Spawner::current_exe()?.role("soak").config(config);
    Ok(match account {
        None => spawner.arg(checked::WORKER),
        Some(account) => account.tell(spawner.arg(at_once::WORKER)),
    })
}

/// Watches the drivers until the time is over, or one hangs.
fn watch(soak: &Soak, length: Duration) {
    while soak.start.elapsed() < length && !find_hangs(soak) {
        thread::sleep(Duration::from_millis(20).min(length));
    }
}

fn find_hangs(soak: &Soak) -> bool {
    let now = soak.now();
    let mut found = false;
    for (driver, since) in soak.busy_since.iter().enumerate() {
        let since = since.load(Ordering::Relaxed);
        let busy = Duration::from_nanos(now.saturating_sub(since));
        if since != 0 && busy > HANG {
            let message = format!("driver {driver} has waited for {busy:?}");
            Counts::wrong(&soak.counts.hangs, message);
            found = true;
        }
    }
    found
}

/// Waits for the threads; false if one of them hangs.
fn end(soak: &Soak, threads: Vec<thread::JoinHandle<()>>) -> bool {
    while threads.iter().any(|thread| !thread.is_finished()) {
        if soak.counts.hangs.load(Ordering::Relaxed) != 0 || find_hangs(soak) {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    for thread in threads {
        if thread.join().is_err() {
            Counts::wrong(&soak.counts.hangs, "a thread has panicked");
        }
    }
    true
}

/// Counts the descriptors, mappings and children that were added since the start. Waits a moment,
/// because the last worker is reaped after its channel is closed.
fn left_behind(baseline: &Footprint) -> [usize; 3] {
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        let leaks = Footprint::now().beyond(baseline);
        if leaks == [0; 3] || Instant::now() > patience {
            return leaks;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn report(
    counts: &Counts,
    time: Duration,
    leaks: [usize; 3],
    json: bool,
    stdout: &Stdout,
) -> Result<(), Error> {
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut times = counts.detections.lock().unwrap_or_else(PoisonError::into_inner).clone();
    times.sort();
    let percentile = |p: usize| {
        let at = (times.len() * p / 100).min(times.len().saturating_sub(1));
        times.get(at).map_or(0, Duration::as_micros)
    };
    let [fds, maps, children] = leaks;
    let wrong = of(&counts.lost)
        + of(&counts.duplicated)
        + of(&counts.torn)
        + of(&counts.misdelivered)
        + of(&counts.hangs)
        + of(&counts.denied);
    let is_right = wrong == 0 && leaks == [0; 3];
    let numbers = [
        ("frames", of(&counts.frames)),
        ("bytes", of(&counts.bytes)),
        ("timeouts", of(&counts.timeouts)),
        ("cancelled", of(&counts.cancelled)),
        ("late_replies", of(&counts.late)),
        ("kills", of(&counts.kills)),
        ("stops", of(&counts.stops)),
        ("deaths_detected", of(&counts.deaths)),
        ("detection_p50_us", u64::try_from(percentile(50)).unwrap_or(u64::MAX)),
        ("detection_p99_us", u64::try_from(percentile(99)).unwrap_or(u64::MAX)),
        ("lost", of(&counts.lost)),
        ("duplicated", of(&counts.duplicated)),
        ("torn", of(&counts.torn)),
        ("misdelivered", of(&counts.misdelivered)),
        ("hangs", of(&counts.hangs)),
        ("begun", of(&counts.begun)),
        ("begun_denied", of(&counts.denied)),
    ];
    let leaks = [("fds", fds), ("maps", maps), ("children", children)];
    let printed = stdout.print(render(time, &numbers, &leaks, json));
    // Faults count even if the reader of standard output has left early.
    if is_right { printed } else { Err(Error::failure("the soak found faults")) }
}

/// Writes the figures as lines, or as JSON.
fn render(time: Duration, numbers: &[(&str, u64)], leaks: &[(&str, usize)], json: bool) -> String {
    let mut text = String::new();
    let seconds = format!("{:.3}", time.as_secs_f64());
    if json {
        let _ = write!(text, "{{\"seconds\":{seconds}");
        for (name, number) in numbers {
            let _ = write!(text, ",\"{name}\":{number}");
        }
        let leaks: Vec<_> =
            leaks.iter().map(|(name, count)| format!("\"{name}\":{count}")).collect();
        let _ = writeln!(text, ",\"leaks\":{{{}}}}}", leaks.join(","));
    } else {
        let _ = writeln!(text, "{:<18} {seconds}", "seconds");
        for (name, number) in numbers {
            let _ = writeln!(text, "{:<18} {number}", name.replace('_', " "));
        }
        let leaks: Vec<_> = leaks.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let _ = writeln!(text, "{:<18} {}", "leaks", leaks.join(", "));
    }
    text
}
