//! `--concurrent`: a worker that takes many requests and answers them by several threads in any
//! order, and the account of what it has begun.
//!
//! The worker appends each request that it begins to a file, which outlives it. A request of which
//! the parent was told that the worker had not begun it must not be there, and none twice.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use slipring::worker::{HandlerError, Inbox, Incoming, Worker};
use slipring::{Error, Spawner};

use super::checked::{self, REPLY};
use super::faults::Random;
use super::pool::{ENDS_WORKER, SLOW};
use super::{Counts, HANG};
use crate::error::say;

/// The argument that makes this program such a worker.
pub(super) const WORKER: &str = "soak-concurrent-worker";
/// The extra that names the file of begun requests.
const BEGUN: &str = "begun";
/// The threads of a worker.
const THREADS: usize = 4;
/// The most requests that one of them takes at a time.
const MOST: u64 = 8;

/// What the parent was told of requests that had not ended when their worker died.
#[derive(Debug)]
pub(super) struct Account {
    path: PathBuf,
    /// Sender and number of the requests that had not been begun.
    not_begun: Mutex<Vec<(u64, u64)>>,
}

impl Account {
    /// Makes the file.
    pub(super) fn create() -> io::Result<Self> {
        let name = format!("slipring-soak-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        File::create(&path)?;
        Ok(Self { path, not_begun: Mutex::default() })
    }

    /// Has the workers write to the file.
    pub(super) fn tell(&self, spawner: Spawner) -> Spawner {
        spawner.extra(BEGUN, self.path.to_string_lossy())
    }

    /// Notes whether a request had been begun whose worker has died.
    pub(super) fn died(&self, request: (u64, u64), error: &Error, counts: &Counts) {
        let patience = Instant::now() + HANG;
        while error.was_begun().is_none() {
            if Instant::now() > patience {
                Counts::wrong(&counts.hangs, format!("was it begun? {error:#}"));
                return;
            }
            thread::sleep(Duration::from_micros(200));
        }
        if error.was_begun() == Some(false) {
            self.not_begun.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        }
    }

    /// Compares what the workers have written with what the parent was told. Removes the file.
    pub(super) fn settle(&self, counts: &Counts) {
        let mut begun = HashMap::<(u64, u64), u32>::new();
        for request in self.begun() {
            *begun.entry(request).or_default() += 1;
        }
        Counts::add(&counts.begun, begun.len());
        for (request, _) in begun.iter().filter(|(_, count)| **count > 1) {
            Counts::wrong(&counts.duplicated, format!("{request:?} was begun twice"));
        }
        let not_begun = self.not_begun.lock().unwrap_or_else(PoisonError::into_inner);
        for request in not_begun.iter().filter(|request| begun.contains_key(request)) {
            Counts::wrong(&counts.denied, format!("{request:?} was begun, and said not to be"));
        }
    }

    /// Sender and number of each request that a worker has begun, as often as it was. Removes the
    /// file.
    pub(super) fn begun(&self) -> impl Iterator<Item = (u64, u64)> {
        let file = File::open(&self.path);
        // What cannot be removed is left to the system.
        let _ = fs::remove_file(&self.path);
        let mut file = file.ok().map(BufReader::new);
        std::iter::from_fn(move || {
            let mut record = [0; 16];
            file.as_mut()?.read_exact(&mut record).ok()?;
            let (sender, number) = record.split_first_chunk()?;
            Some((u64::from_le_bytes(*sender), u64::from_le_bytes(*number.first_chunk()?)))
        })
    }
}

/// Runs the worker.
pub(super) fn serve() -> ExitCode {
    let worker = Worker::new(|role| {
        let path = role.extra(BEGUN).ok_or("no file of begun requests")?;
        Ok(OpenOptions::new().append(true).open(path)?)
    });
    let served = worker.inbox(|begun, inbox| {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| run(inbox, begun))).collect();
            // The first error is that of all: the worker is to end.
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| panicked()))
        })
    });
    match served.serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(error);
            ExitCode::FAILURE
        }
    }
}

fn panicked() -> Result<(), HandlerError> {
    Err("a thread of the worker panicked".into())
}

/// Takes some requests at a time, and serves them in random order.
fn run(inbox: &Arc<Inbox>, begun: &File) -> Result<(), HandlerError> {
    let mut random = Random::new();
    loop {
        let mut taken = vec![inbox.recv()?];
        let more = usize::try_from(random.below(MOST)).unwrap_or(0);
        inbox.try_recv_many(&mut taken, more)?;
        while !taken.is_empty() {
            let count = u64::try_from(taken.len()).unwrap_or(1);
            let next = taken.swap_remove(usize::try_from(random.below(count)).unwrap_or(0));
            serve_one(next, begun)?;
        }
    }
}

/// Serves a request. An error of its own ends it alone.
fn serve_one(incoming: Incoming, mut begun: &File) -> io::Result<()> {
    let Incoming { request, mut responder } = incoming;
    let bytes = request.get().to_vec();
    let Some((sender, number, _)) = checked::header(&bytes) else {
        responder.fail(checked::fault("torn", "without a header"));
        return Ok(());
    };
    responder.begin();
    begun.write_all([sender, number].map(u64::to_le_bytes).as_flattened())?;
    if number & ENDS_WORKER != 0 {
        std::process::exit(7);
    }
    if number & SLOW != 0 {
        thread::sleep(Duration::from_micros(checked::mix(number) % 5000));
    }
    if let Err(error) = checked::check(&bytes, sender, number) {
        responder.fail(checked::fault("torn", format!("{error:?}, {} bytes", bytes.len())));
        return Ok(());
    }
    // The caller may have cancelled, or may be gone, which is no fault.
    if !responder.is_stream() {
        let _ = responder.send(&checked::frame(sender | REPLY, number, bytes.len()));
        return Ok(());
    }
    for i in 0..checked::length_of(number) {
        let len = checked::chunk_len(number, i);
        let chunk = checked::frame(sender | REPLY, number << 20 | i, len);
        if let Err(error) = responder.send_chunk(&chunk) {
            responder.fail(error);
            return Ok(());
        }
    }
    let _ = responder.end();
    Ok(())
}
