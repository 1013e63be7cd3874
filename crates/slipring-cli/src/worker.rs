//! The workers of `embed`: processes that run this same program, in a pool that
//! replaces those that die. This file has the parent's side and the sizes of the
//! rings; [`process`] runs in a worker.

mod process;

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use slipring::payload::{ElementType, MatrixReader, MatrixShape, Payload, TextBatch};
use slipring::pool::{self, EventKind, Pool, Role, RoleHandle, WorkerSlot};
use slipring::{Config, ErrorKind, ExitCause, Kind, Reply, Spawner, WorkerDeath};

use crate::args::Options;
use crate::batch::{Batch, Limits, request_len};
use crate::error::Error;
use crate::pipeline::{Embed, Event};
use crate::stats::{Recovery, Traffic, cpu_ns};

pub(crate) use process::serve;

const ROLE: &str = "embed";
/// The extra that tells a worker how many numbers a vector has.
const DIM: &str = "dim";

/// The smallest size of a ring. A long line or a large `dim` makes it larger.
const MIN_RING: usize = 1 << 20;
/// A frame is at most half its ring, less its header.
const FRAME_HEADER: usize = 32;
/// The longest replies for which a ring is made larger. Longer batches are cut instead.
const LARGE_REPLY: usize = (1 << 20) - FRAME_HEADER;
/// The most bytes of a request with several texts. A longer line has a
/// request of its own.
const LARGE_REQUEST: usize = 1 << 18;

/// Batches that lie ready for a worker while it works on one, so that it never waits for the
/// reader, a thread that takes a reply, or the output.
const PREFETCH: usize = 2;
/// How long a worker may take to end when all its work is done.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// The longest wait for the exit status of a dead worker.
const STATUS_GRACE: Duration = Duration::from_secs(1);
/// Starts in a row that may fail.
const MOST_FAILURES: u32 = 5;
/// More deaths than can happen in a moment.
const FAR_OFF: usize = 1_000_000;
const MOMENT: Duration = Duration::from_secs(1);

/// Returns rings in which the longest line fits one request, and the rows of
/// a batch, or at least one row, fit one reply.
pub(crate) fn config(options: &Options) -> Result<Config, Error> {
    let one_row = reply_len(1, options.dim)?;
    let reply = reply_len(options.batch, options.dim)?.min(LARGE_REPLY).max(one_row);
    let (request_ring, max_request_frame) = ring_for(request_len(1, options.max_line));
    let (reply_ring, max_reply_frame) = ring_for(reply);
    let config = Config::builder()
        .request_ring(request_ring)
        .max_request_frame(max_request_frame)
        .reply_ring(reply_ring)
        .max_reply_frame(max_reply_frame)
        .max_message(max_request_frame.max(max_reply_frame))
        .build();
    config.map_err(|e| Error::failure(format!("{e:#}")))
}

/// Returns the smallest ring with frames of `len` bytes, and its longest frame.
fn ring_for(len: usize) -> (usize, usize) {
    let ring = (2 * (len + FRAME_HEADER)).next_power_of_two().max(MIN_RING);
    (ring, ring / 2 - FRAME_HEADER)
}

fn reply_len(rows: usize, dim: usize) -> Result<usize, Error> {
    let shape = MatrixShape::new(rows, dim, ElementType::F32);
    shape.map(|shape| shape.encoded_len()).map_err(|e| Error::failure(format!("{e:#}")))
}

/// Returns the limits of a batch that fits the rings.
pub(crate) fn limits(options: &Options, config: &Config) -> Limits {
    let row = options.dim * size_of::<f32>();
    Limits {
        texts: options.batch.min((config.max_reply_frame() - MatrixShape::HEADER_LEN) / row),
        request_bytes: config.max_request_frame().min(LARGE_REQUEST),
        max_line: options.max_line,
    }
}

/// Starts the workers. Does not wait until they are ready: batches wait for
/// that. If they cannot be started, `events` hears of it.
pub(crate) fn start(
    options: &Options,
    config: &Config,
    events: Sender<Event>,
) -> Result<Workers, Error> {
    let restarts = Arc::new(AtomicU64::new(0));
    let is_watched = Arc::new(OnceLock::new());
    let spawner = spawner(options, config).map_err(|e| translate(&e))?;
    let (restarted, watched) = (Arc::clone(&restarts), Arc::clone(&is_watched));
    let has_numbers = options.workers > 1;
    let recipe = move |slot: &WorkerSlot| {
        // No start is to fail unseen.
        watched.wait();
        if slot.restarts > 0 {
            restarted.fetch_add(1, Ordering::Relaxed);
        }
        let number = u32::try_from(slot.index).unwrap_or(u32::MAX);
        let spawner = spawner.clone();
        Ok(if has_numbers { spawner.instance(number) } else { spawner })
    };
    let role = Role::new(recipe)
        .min_idle(options.workers)
        .max_size(options.workers)
        .max_starts(options.workers)
        // A worker keeps the number of the one that it replaces.
        .stop_first()
        .prefetch(PREFETCH)
        .max_waiting(options.workers * (PREFETCH + 1))
        .start_timeout(options.timeout)
        .stop_timeout(CLOSE_GRACE)
        .backoff(Duration::from_millis(10), Duration::from_secs(1), Duration::from_secs(10))
        // However often workers are killed, no batch is given up for that. Those that cannot
        // live are found by `watch`.
        .max_failures(FAR_OFF, MOMENT)
        .retry_budget(100, FAR_OFF, MOMENT)
        .max_attempts(u32::MAX);
    let pool = Pool::builder().max_starts(options.workers).role(ROLE, role).build();
    let pool = pool.map_err(|e| translate(&e))?;
    let happened = pool.events();
    let watching =
        thread::Builder::new().name("workers".into()).spawn(move || watch(happened, &events));
    watching.map_err(|e| Error::failure(format!("cannot start a thread: {e}")))?;
    let _ = is_watched.set(());
    let role = pool.role(ROLE).map_err(|e| translate(&e))?;
    Ok(Workers {
        pool,
        role,
        count: options.workers,
        dim: options.dim,
        timeout: options.timeout,
        restarts,
        request_bytes: AtomicU64::new(0),
        reply_bytes: AtomicU64::new(0),
    })
}

fn spawner(options: &Options, config: &Config) -> slipring::Result<Spawner> {
    let spawner = Spawner::current_exe()?
        .role(ROLE)
        .extra(DIM, options.dim.to_string())
        .config(config.clone());
    Ok(match &options.log_dir {
        Some(directory) => spawner.log_dir(directory),
        None => spawner,
    })
}

/// Ends the run if workers cannot be started: at once if none ever was and it is not a death that
/// may have come from outside, otherwise if that fails again and again. Those that were killed
/// do not count.
fn watch(happened: pool::Events, events: &Sender<Event>) {
    let (mut was_ready, mut failures) = (false, 0);
    for event in happened {
        match event.kind {
            EventKind::Ready(_) => (was_ready, failures) = (true, 0),
            EventKind::StartFailed(error) if !is_killed(&error) => {
                failures += 1;
                let is_hopeless = !was_ready && error.death().is_none();
                if is_hopeless || failures >= MOST_FAILURES {
                    // A main thread that has stopped listening has its reason already.
                    let _ = events.send(Event::Failed(translate(&error)));
                }
            }
            _ => {}
        }
    }
}

/// The worker processes.
pub(crate) struct Workers {
    pool: Pool,
    role: RoleHandle,
    count: usize,
    dim: usize,
    timeout: Duration,
    restarts: Arc<AtomicU64>,
    request_bytes: AtomicU64,
    reply_bytes: AtomicU64,
}

impl Workers {
    /// Ends the workers in good order. Blocks until their processes are gone.
    pub(crate) fn close(self) {
        // An end that cannot be awaited is no reason to fail: the results are there, and the
        // processes end with this one.
        let _ = self.pool.close(CLOSE_GRACE);
    }

    fn send(&self, batch: &Batch) -> slipring::Result<Reply> {
        let texts: Vec<&str> = batch.texts().collect();
        let request = TextBatch::new(&texts)?;
        let len = request.encoded_len();
        // Nothing is wrong with embedding a text twice.
        let reply = self.role.request(Kind::EMBED).idempotent(true).call(&request, self.timeout)?;
        count(&self.request_bytes, len);
        count(&self.reply_bytes, reply.len());
        Ok(reply)
    }
}

impl Embed for Workers {
    fn embed(&self, batch: &mut Batch) -> Result<(), Error> {
        let reply = self.send(batch).map_err(|error| match error.kind() {
            ErrorKind::Poison => poison(&batch.origin(), &error),
            _ => translate(&error),
        })?;
        let matrix = MatrixReader::new(&reply).map_err(|e| translate(&e))?;
        if matrix.cols() != self.dim {
            let (got, expected) = (matrix.cols(), self.dim);
            return Err(Error::failure(format!(
                "a worker answered with vectors of {got} numbers instead of {expected}"
            )));
        }
        matrix.copy_to_vec(&mut batch.vectors).map_err(|e| translate(&e))
    }

    fn callers(&self) -> usize {
        self.count * (PREFETCH + 1)
    }

    fn abort(&self) {
        let _ = self.pool.close(Duration::ZERO);
    }

    fn traffic(&self) -> Traffic {
        Traffic {
            request_bytes: self.request_bytes.load(Ordering::Relaxed),
            reply_bytes: self.reply_bytes.load(Ordering::Relaxed),
        }
    }

    fn recovery(&self) -> Recovery {
        let sent = self.role.metrics();
        Recovery {
            restarts: self.restarts.load(Ordering::Relaxed),
            sent_again: sent.resent_unbegun + sent.resent_begun,
        }
    }

    /// The sum over the workers' threads, which live as long as they do; nothing is known of
    /// workers that are gone.
    fn cpu_time(&self) -> Option<Duration> {
        if self.restarts.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let of_worker = |pid: u32| -> Option<Duration> {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
            tasks.map(|task| cpu_ns(&task.ok()?.path()).map(Duration::from_nanos)).sum()
        };
        let workers = self.role.health().workers;
        workers.iter().map(|worker| of_worker(worker.pid?)).sum()
    }
}

/// The error of a batch that kills its workers.
fn poison(origin: &str, error: &slipring::Error) -> Error {
    let last = std::error::Error::source(error).and_then(|last| last.downcast_ref());
    if let Some(last) = last {
        wait_for_cause(last);
    }
    let why = last.map_or_else(|| error.to_string(), slipring::Error::to_string);
    let tail = error.log_tail().or_else(|| last?.log_tail()).unwrap_or_default();
    Error::worker_died(format!("{origin}: the batch kills its workers: {why}"), tail)
}

fn translate(error: &slipring::Error) -> Error {
    match error.kind() {
        ErrorKind::PeerDied => {
            wait_for_cause(error);
            died(error)
        }
        // One that ends before it can answer is dead as well.
        ErrorKind::Handshake => died(error),
        ErrorKind::Timeout => Error::failure(format!(
            "a worker did not answer in time: {error:#} (allow more with --timeout)"
        )),
        ErrorKind::QueueTimeout => Error::failure(format!(
            "no worker was free in time: {error:#} (allow more with --timeout)"
        )),
        ErrorKind::Spawn | ErrorKind::Os => {
            Error::failure(format!("cannot start a worker: {error:#}"))
        }
        _ => Error::failure(format!("{error:#}")),
    }
}

/// Waits until the message can say why the worker died: it is about to be written, and not again.
fn wait_for_cause(error: &slipring::Error) {
    let Some(death) = error.death() else { return };
    let deadline = Instant::now() + STATUS_GRACE;
    while death.cause().is_none() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the worker was killed from outside; its own code does not end like that.
fn is_killed(error: &slipring::Error) -> bool {
    wait_for_cause(error);
    let cause = error.death().and_then(WorkerDeath::cause);
    matches!(
        cause,
        Some(ExitCause::Signaled(libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP))
    )
}

fn died(error: &slipring::Error) -> Error {
    Error::worker_died(error.to_string(), error.log_tail().unwrap_or_default())
}

fn count(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, Parsed, parse};

    fn sizes_of(args: &[&str]) -> (Limits, Config) {
        let args = std::iter::once(&"embed").chain(args);
        match parse(args.map(Into::into)).unwrap() {
            Parsed::Command(Command::Embed(options)) => {
                let config = config(&options).unwrap();
                (limits(&options, &config), config)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_batch_is_cut_so_that_its_reply_fits() {
        assert_eq!(sizes_of(&[]).0.texts, 64);
        assert_eq!(sizes_of(&["--batch", "5000"]).0.texts, 682);
        assert_eq!(sizes_of(&["--dim", "65536"]).0.texts, 3);
        for batch in ["1", "300", "65536"] {
            for dim in ["1", "384", "65536"] {
                let (limits, config) = sizes_of(&["--batch", batch, "--dim", dim]);
                assert!(limits.texts >= 1 && limits.texts <= batch.parse().unwrap());
                let reply = reply_len(limits.texts, dim.parse().unwrap()).unwrap();
                assert!(reply <= config.max_reply_frame(), "{batch} {dim}");
            }
        }
    }

    #[test]
    fn the_longest_line_fits_into_a_request_of_its_own() {
        for max_line in [1, 1 << 20, (1 << 20) + 1, 1 << 28] {
            let (limits, config) = sizes_of(&["--max-line", &max_line.to_string()]);
            assert!(request_len(1, limits.max_line) <= config.max_request_frame());
            assert!(limits.request_bytes <= config.max_request_frame());
        }
    }

    #[test]
    fn rings_grow_by_powers_of_two_and_not_beyond_need() {
        assert_eq!(ring_for(1), (MIN_RING, MIN_RING / 2 - 32));
        assert_eq!(ring_for(MIN_RING / 2 - 32).0, MIN_RING);
        assert_eq!(ring_for(MIN_RING / 2 - 31).0, 2 * MIN_RING);
        let (_, config) = sizes_of(&[]);
        assert_eq!(config.request_ring().capacity(), 4 << 20);
        assert_eq!(config.reply_ring().capacity(), 1 << 20);
        let (_, config) = sizes_of(&["--max-line", "1000", "--batch", "9999"]);
        assert_eq!(config.request_ring().capacity(), 1 << 20);
        assert_eq!(config.reply_ring().capacity(), 2 << 20);
    }
}
