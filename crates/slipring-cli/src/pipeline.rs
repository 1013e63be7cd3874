//! From lines to vectors: a reader, threads that ask for vectors, and an
//! output that keeps the order of the input.
//!
//! ```text
//! free ──> reader ──> jobs ──> callers ──> events ──> main thread
//!  ^       (detached)                         reorder, write
//!  └────────────────────────────────────────────────┘
//! ```
//!
//! A fixed number of batches goes round. The reader can only fill one that is
//! free, so nothing here grows with the input, and the output that waits for
//! its turn is bounded too. The batch with the lowest index is always with
//! a thread that makes progress on it.
//!
//! Each caller has one batch at a time in the hands of the workers. The main
//! thread does nothing that blocks except writing the output: all events,
//! signals included, reach it by one channel.
//!
//! This module does not know what a worker is, nor what an output is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::error::{Error, Exit};
use crate::queue::Queue;
use crate::stats::{Recovery, Summary, Traffic, cpu_ns};

/// Workers that embed batches.
pub(crate) trait Embed: Sync {
    /// Puts the vectors of a batch, row by row, into it. Blocks until a worker
    /// has answered. Called by any number of threads.
    fn embed(&self, batch: &mut Batch) -> Result<(), Error>;

    /// How many threads are to call `embed`, so that the workers always have
    /// something to do.
    fn callers(&self) -> usize;

    /// Makes all calls return at once, those that block now included, and ends
    /// the workers. May block for a moment itself.
    fn abort(&self);

    /// The bytes that requests and replies had so far.
    fn traffic(&self) -> Traffic;

    /// What was done so far because workers died.
    fn recovery(&self) -> Recovery;

    /// The processor time that the workers have used so far.
    fn cpu_time(&self) -> Option<Duration>;
}

/// How long the signal that killed a worker may take to reach this process.
const SIGNAL_GRACE: Duration = Duration::from_millis(100);

/// An event for the main thread.
#[derive(Debug)]
pub(crate) enum Event {
    /// A batch has its vectors.
    Embedded(Batch),
    /// The reader is done; it made this many batches.
    EndOfInput(u64),
    Failed(Error),
    Signal(i32),
}

/// Both ends of the channel to the main thread.
pub(crate) struct Events {
    pub(crate) sender: Sender<Event>,
    pub(crate) receiver: Receiver<Event>,
}

impl Events {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::channel();
        Self { sender, receiver }
    }

    /// Fails if a signal has come.
    pub(crate) fn check_signal(&self) -> Result<(), Error> {
        let signal = self.receiver.try_iter().find_map(|event| match event {
            Event::Signal(signal) => Some(signal),
            _ => None,
        });
        signal.map_or(Ok(()), |signal| Err(Error::signal(signal)))
    }
}

/// Where batches come from: `false` at the end of the input.
pub(crate) type Fill = Box<dyn FnMut(&mut Batch) -> Result<bool, Error> + Send>;

/// Where they go to, in order.
pub(crate) trait Sink {
    /// Takes the vectors of a batch.
    fn write(&mut self, batch: &Batch, so_far: &Summary) -> Result<(), Error>;
    /// Called now and then while nothing comes.
    fn idle(&mut self, so_far: &Summary);
    /// How often `idle` wants to be called.
    fn interval(&self) -> Duration;
}

/// Embeds all batches that `fill` yields. After a failure, the workers are
/// aborted, and the reader is left behind if it is blocked.
pub(crate) fn run(
    workers: &impl Embed,
    dim: usize,
    fill: Fill,
    sink: &mut impl Sink,
    events: &Events,
) -> Result<Summary, Error> {
    let started = Instant::now();
    let callers = workers.callers();
    // Some more, for the time that the reader and the output take.
    let batches = callers + callers / 2 + 2;
    let free = Arc::new(Queue::new((0..batches).map(|_| Batch::default())));
    let jobs = Arc::new(Queue::new([]));
    spawn_reader(fill, &free, &jobs, events.sender.clone())?;

    let mut summary = Summary::default();
    let in_slipring = &AtomicU64::new(0);
    let done = thread::scope(|scope| {
        for _ in 0..callers {
            let (jobs, to_main) = (&*jobs, events.sender.clone());
            scope.spawn(move || {
                if let Err(error) = embed_all(workers, dim, jobs, &to_main) {
                    send(&to_main, Event::Failed(error));
                }
                in_slipring.fetch_add(own_cpu_ns(), Ordering::Relaxed);
            });
        }
        let done = collect(sink, &free, &events.receiver, started, &mut summary);
        jobs.close();
        free.close();
        if done.is_err() {
            workers.abort();
        }
        done
    });
    done?;
    summary.traffic = workers.traffic();
    summary.recovery = workers.recovery();
    summary.worker_cpu = workers.cpu_time();
    summary.in_slipring = Duration::from_nanos(in_slipring.load(Ordering::Relaxed));
    summary.elapsed = started.elapsed();
    Ok(summary)
}

/// Processor time of the calling thread, in nanoseconds; zero if the kernel does not tell.
fn own_cpu_ns() -> u64 {
    cpu_ns(Path::new("/proc/thread-self")).unwrap_or(0)
}

fn embed_all(
    workers: &impl Embed,
    dim: usize,
    jobs: &Queue<Batch>,
    to_main: &Sender<Event>,
) -> Result<(), Error> {
    while let Some(mut batch) = jobs.pop() {
        let since = Instant::now();
        workers.embed(&mut batch)?;
        check_shape(&batch, dim)?;
        batch.latency = since.elapsed();
        send(to_main, Event::Embedded(batch));
    }
    Ok(())
}

/// Starts the thread that reads. It may block in a read for ever, so it is
/// not joined.
fn spawn_reader(
    mut fill: Fill,
    free: &Arc<Queue<Batch>>,
    jobs: &Arc<Queue<Batch>>,
    to_main: Sender<Event>,
) -> Result<(), Error> {
    let (free, jobs) = (Arc::clone(free), Arc::clone(jobs));
    let read = move || {
        let mut index = 0;
        while let Some(mut batch) = free.pop() {
            batch.clear();
            match fill(&mut batch) {
                Ok(true) => {
                    batch.index = index;
                    index += 1;
                    jobs.push(batch);
                }
                Ok(false) => {
                    jobs.close();
                    return send(&to_main, Event::EndOfInput(index));
                }
                Err(error) => return send(&to_main, Event::Failed(error)),
            }
        }
    };
    let spawned = thread::Builder::new().name("reader".into()).spawn(read);
    spawned.map(drop).map_err(|e| Error::failure(format!("cannot start a thread: {e}")))
}

/// Puts the batches back in order and writes them until the input is at its
/// end.
fn collect(
    sink: &mut impl Sink,
    free: &Queue<Batch>,
    events: &Receiver<Event>,
    started: Instant,
    summary: &mut Summary,
) -> Result<(), Error> {
    let mut early = BTreeMap::new();
    let mut total = None;
    while total != Some(summary.batches) {
        let asked = Instant::now();
        let event = events.recv_timeout(sink.interval());
        summary.waited += asked.elapsed();
        let batch = match event {
            Ok(Event::Embedded(batch)) => batch,
            Ok(Event::EndOfInput(batches)) => {
                total = Some(batches);
                continue;
            }
            Ok(Event::Failed(error)) => return Err(prefer_signal(error, events)),
            Ok(Event::Signal(signal)) => return Err(Error::signal(signal)),
            Err(RecvTimeoutError::Timeout) => {
                summary.elapsed = started.elapsed();
                sink.idle(summary);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::failure("all threads ended early"));
            }
        };
        early.insert(batch.index, batch);
        while let Some(batch) = early.remove(&summary.batches) {
            summary.batches += 1;
            summary.texts += u64::try_from(batch.rows()).unwrap_or(u64::MAX);
            summary.latency.record(batch.latency);
            summary.elapsed = started.elapsed();
            sink.write(&batch, summary)?;
            free.push(batch);
        }
    }
    Ok(())
}

/// A signal to several processes, as a service manager sends it, may have
/// ended workers before this process heard of it: then the signal is the
/// reason.
fn prefer_signal(error: Error, events: &Receiver<Event>) -> Error {
    if error.exit() != Exit::WorkerDied {
        return error;
    }
    let deadline = Instant::now() + SIGNAL_GRACE;
    while let Ok(event) = events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let Event::Signal(signal) = event {
            return Error::signal(signal);
        }
    }
    error
}

fn check_shape(batch: &Batch, dim: usize) -> Result<(), Error> {
    let (got, expected) = (batch.vectors.len(), batch.rows() * dim);
    if got == expected {
        return Ok(());
    }
    Err(Error::failure(format!(
        "a worker answered {} texts with {got} numbers instead of {expected}",
        batch.rows()
    )))
}

fn send(to_main: &Sender<Event>, event: Event) {
    // A main thread that has stopped listening has its reason already.
    let _ = to_main.send(event);
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
