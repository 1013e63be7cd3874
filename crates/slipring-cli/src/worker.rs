//! The workers of `embed`, and the sizes of their rings.
//!
//! A worker is a thread of this process that runs the built-in embedder.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use crate::args::Options;
use crate::batch::{Batch, Limits, REQUEST_OVERHEAD, TEXT_OVERHEAD};
use crate::embedder::Embedder;
use crate::error::Error;
use crate::pipeline::EmbedWorker;
use crate::stats::Traffic;

/// The usual caps of one request and one reply; a long line or a large `dim`
/// raises them.
const REQUEST_CAP: usize = 1 << 18;
const REPLY_CAP: usize = 1 << 20;
const REPLY_OVERHEAD: usize = 64;
/// Requests that wait for the worker.
const RING: usize = 2;

/// What fits into a request, and its reply into a reply.
pub(crate) fn limits(options: &Options) -> Limits {
    let row = options.dim * size_of::<f32>();
    let reply_cap = REPLY_CAP.max(REPLY_OVERHEAD + row);
    Limits {
        texts: options.batch.min((reply_cap - REPLY_OVERHEAD) / row),
        request_bytes: REQUEST_CAP.max(REQUEST_OVERHEAD + TEXT_OVERHEAD + options.max_line),
        max_line: options.max_line,
    }
}

/// Starts the workers.
pub(crate) fn start(options: &Options) -> Result<Vec<Worker>, Error> {
    (0..options.workers).map(|_| Worker::start(options.dim, options.timeout)).collect()
}

/// Ends the workers in good order.
pub(crate) fn close(workers: Vec<Worker>) {
    drop(workers);
}

pub(crate) struct Worker {
    requests: SyncSender<Request>,
    aborted: Arc<AtomicBool>,
    timeout: Duration,
    request_bytes: AtomicU64,
    reply_bytes: AtomicU64,
}

struct Request {
    texts: Vec<String>,
    reply: SyncSender<Vec<f32>>,
}

impl Worker {
    fn start(dim: usize, timeout: Duration) -> Result<Self, Error> {
        let (requests, incoming) = mpsc::sync_channel(RING);
        let aborted = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&aborted);
        thread::Builder::new()
            .name("embed".into())
            .spawn(move || serve(dim, &incoming, &stop))
            .map_err(|e| Error::failure(format!("cannot start a worker: {e}")))?;
        Ok(Self {
            requests,
            aborted,
            timeout,
            request_bytes: AtomicU64::new(0),
            reply_bytes: AtomicU64::new(0),
        })
    }
}

impl EmbedWorker for Worker {
    type Pending<'a> = Receiver<Vec<f32>>;

    fn submit(&self, batch: &Batch) -> Result<Receiver<Vec<f32>>, Error> {
        let (reply, pending) = mpsc::sync_channel(1);
        let texts = batch.texts().map(String::from).collect();
        let bytes = REQUEST_OVERHEAD + batch.bytes() + batch.rows() * TEXT_OVERHEAD;
        count(&self.request_bytes, bytes);
        let sent = self.requests.send(Request { texts, reply });
        sent.map(|()| pending).map_err(|_| ended())
    }

    fn wait(&self, pending: Receiver<Vec<f32>>, out: &mut Vec<f32>) -> Result<(), Error> {
        *out = pending.recv_timeout(self.timeout).map_err(|e| match e {
            RecvTimeoutError::Timeout => Error::failure(format!(
                "a worker did not answer within {} s (allow more with --timeout)",
                self.timeout.as_secs_f64()
            )),
            RecvTimeoutError::Disconnected => ended(),
        })?;
        count(&self.reply_bytes, REPLY_OVERHEAD + size_of_val(out.as_slice()));
        Ok(())
    }

    fn abort(&self) {
        self.aborted.store(true, Ordering::Relaxed);
    }

    fn traffic(&self) -> Traffic {
        Traffic {
            request_bytes: self.request_bytes.load(Ordering::Relaxed),
            reply_bytes: self.reply_bytes.load(Ordering::Relaxed),
        }
    }
}

fn serve(dim: usize, requests: &Receiver<Request>, stop: &AtomicBool) {
    let mut embedder = Embedder::new(dim);
    for request in requests {
        let mut vectors = vec![0.0; request.texts.len() * dim];
        for (text, row) in request.texts.iter().zip(vectors.chunks_exact_mut(dim)) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            embedder.embed_into(text, row);
        }
        // A caller that has given up wants no reply.
        let _ = request.reply.send(vectors);
    }
}

fn ended() -> Error {
    Error::failure("a worker has ended")
}

fn count(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, parse};

    fn limits_of(args: &[&str]) -> Limits {
        let args = std::iter::once(&"embed").chain(args);
        match parse(args.map(Into::into)).unwrap() {
            Command::Embed(options) => limits(&options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_batch_is_cut_so_that_its_reply_fits() {
        assert_eq!(limits_of(&[]).texts, 64);
        let limits = limits_of(&["--batch", "5000"]);
        assert_eq!(limits.texts, (REPLY_CAP - REPLY_OVERHEAD) / (384 * 4));
        assert_eq!(limits_of(&["--dim", "65536"]).texts, 3);
    }

    #[test]
    fn the_longest_line_fits_into_a_request_of_its_own() {
        for max_line in ["1", "1048576", "268435456"] {
            let limits = limits_of(&["--max-line", max_line]);
            let alone = REQUEST_OVERHEAD + TEXT_OVERHEAD + limits.max_line;
            assert!(alone <= limits.request_bytes);
        }
    }
}
