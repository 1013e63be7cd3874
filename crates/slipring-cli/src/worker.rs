//! The workers of `embed`: processes that run this same program, one channel
//! each. This file has the parent's side and the sizes of the rings;
//! [`process`] runs in a worker.

mod process;

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use slipring::payload::{ElementType, MatrixReader, MatrixShape, Payload, TextBatch};
use slipring::{Channel, Config, ErrorKind, Kind, Pending, Spawner};

use crate::args::Options;
use crate::batch::{Batch, Limits, request_len};
use crate::error::Error;
use crate::pipeline::EmbedWorker;
use crate::stats::{Traffic, cpu_ns};

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

/// How long a worker may take to end when all its work is done, and when it is
/// aborted.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
const ABORT_GRACE: Duration = Duration::from_millis(300);
/// The longest wait for the exit status of a dead worker.
const STATUS_GRACE: Duration = Duration::from_secs(1);

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

/// Starts the workers and waits until all of them are ready. If one is not,
/// none is left.
pub(crate) fn start(options: &Options, config: &Config) -> Result<Vec<Worker>, Error> {
    let mut spawner = Spawner::current_exe()
        .map_err(|e| translate(&e))?
        .role(ROLE)
        .extra(DIM, options.dim.to_string())
        .config(config.clone());
    if let Some(directory) = &options.log_dir {
        spawner = spawner.log_dir(directory);
    }
    let mut workers = Vec::new();
    let started = (0..)
        .take(options.workers)
        .try_for_each(|number| {
            let spawner = spawner.clone();
            let spawner = if options.workers > 1 { spawner.instance(number) } else { spawner };
            workers.push(Worker::new(spawner.spawn()?, options));
            Ok(())
        })
        .and_then(|()| {
            workers.iter().try_for_each(|worker| worker.channel.wait_ready(options.timeout))
        });
    if let Err(error) = started {
        close(workers);
        return Err(translate(&error));
    }
    Ok(workers)
}

/// Ends the workers in good order. Blocks until their processes are gone.
pub(crate) fn close(workers: Vec<Worker>) {
    thread::scope(|scope| {
        for worker in &workers {
            // An end that cannot be awaited is no reason to fail: the results
            // are there, and the process ends with this one.
            scope.spawn(|| worker.channel.close(CLOSE_GRACE).is_ok());
        }
    });
}

/// The parent's handle on a worker process.
pub(crate) struct Worker {
    channel: Channel,
    dim: usize,
    timeout: Duration,
    request_bytes: AtomicU64,
    reply_bytes: AtomicU64,
}

impl Worker {
    fn new(channel: Channel, options: &Options) -> Self {
        Self {
            channel,
            dim: options.dim,
            timeout: options.timeout,
            request_bytes: AtomicU64::new(0),
            reply_bytes: AtomicU64::new(0),
        }
    }

    fn send(&self, batch: &Batch) -> slipring::Result<Pending> {
        let texts: Vec<&str> = batch.texts().collect();
        let request = TextBatch::new(&texts)?;
        let pending = self.channel.submit(Kind::EMBED, &request, self.timeout)?;
        count(&self.request_bytes, request.encoded_len());
        Ok(pending)
    }
}

impl EmbedWorker for Worker {
    type Pending = Pending;

    fn submit(&self, batch: &Batch) -> Result<Pending, Error> {
        self.send(batch).map_err(|e| translate(&e))
    }

    fn wait(&self, pending: Pending, out: &mut Vec<f32>) -> Result<(), Error> {
        let reply = pending.wait().map_err(|e| translate(&e))?;
        count(&self.reply_bytes, reply.len());
        let matrix = MatrixReader::new(&reply).map_err(|e| translate(&e))?;
        if matrix.cols() != self.dim {
            let (got, expected) = (matrix.cols(), self.dim);
            return Err(Error::failure(format!(
                "a worker answered with vectors of {got} numbers instead of {expected}"
            )));
        }
        matrix.copy_to_vec(out).map_err(|e| translate(&e))
    }

    fn check(&self) -> Result<(), Error> {
        if self.channel.is_alive() {
            return Ok(());
        }
        // Sends nothing, and fails at once with the reason.
        self.channel.wait_ready(Duration::ZERO).map_err(|e| translate(&e))
    }

    fn abort(&self) {
        // All operations in flight end at once; the process may take longer, and
        // is ended with this one if need be.
        let _ = self.channel.close(ABORT_GRACE);
    }

    fn traffic(&self) -> Traffic {
        Traffic {
            request_bytes: self.request_bytes.load(Ordering::Relaxed),
            reply_bytes: self.reply_bytes.load(Ordering::Relaxed),
        }
    }

    /// The sum over the worker's threads, which live as long as it does.
    fn cpu_time(&self) -> Option<Duration> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.channel.pid())).ok()?;
        tasks.map(|task| cpu_ns(&task.ok()?.path()).map(Duration::from_nanos)).sum()
    }
}

fn translate(error: &slipring::Error) -> Error {
    match error.kind() {
        ErrorKind::PeerDied => {
            if let Some(death) = error.death() {
                // The message is about to be written, and not again.
                let deadline = Instant::now() + STATUS_GRACE;
                while death.cause().is_none() && Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            died(error)
        }
        // One that ends before it can answer is dead as well.
        ErrorKind::Handshake => died(error),
        ErrorKind::Timeout => Error::failure(format!(
            "a worker did not answer in time: {error:#} (allow more with --timeout)"
        )),
        ErrorKind::Spawn | ErrorKind::Os => {
            Error::failure(format!("cannot start a worker: {error:#}"))
        }
        _ => Error::failure(format!("{error:#}")),
    }
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
