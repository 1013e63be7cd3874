//! The worker's health thread. It answers pings and shutdowns whatever the handlers do, and
//! owns the word by which the parent learns of this process's end.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::error::{Error, ErrorKind, Result};
use crate::link::Duplex;
use crate::process::limits;
use crate::process::robust_futex::RobustFutex;
use crate::protocol::health::{Snapshot, encode};
use crate::protocol::kind::Kind;
use crate::ring::Header;
use crate::shm::words::OwnU32;
use crate::sys::clock::Deadline;
use crate::sys::fork;
use crate::worker::last_error::LastError;
use crate::worker::stop_token::StopToken;

/// Where the thread gets the numbers of a report from.
pub(crate) trait Report: Send + 'static {
    fn snapshot(&self) -> Snapshot;
}

/// The running thread.
#[derive(Debug)]
pub(crate) struct HealthThread {
    thread: JoinHandle<()>,
    /// Ends the thread itself, when the worker is done.
    finish: Arc<StopToken>,
}

impl HealthThread {
    /// Starts the thread, and waits until it owns the word, if it is given one.
    pub(crate) fn start(
        health: Duplex,
        owner: Option<OwnU32>,
        report: impl Report,
        last_error: Arc<LastError>,
        stop: Arc<StopToken>,
    ) -> Result<Self> {
        let finish = Arc::new(StopToken::beside(&stop));
        let (owned, is_owned) = sync_channel(1);
        let thread = {
            let finish = Arc::clone(&finish);
            std::thread::Builder::new().name("slipring-health".to_owned()).spawn(move || {
                // The program's signal handlers are for its own threads. If the signals cannot be
                // blocked the handlers run here as well, which is no reason not to serve.
                let _ = limits::block_all_signals();
                let Some(owner) = own(owner, &owned) else { return };
                let (stop, finish) = (&*stop, &*finish);
                let server = HealthServer { health, report, last_error, stop, finish };
                server.run();
                if let Some(owner) = owner {
                    owner.release();
                }
            })
        };
        let thread = thread.map_err(|e| Error::os("cannot start the health thread", e))?;
        match is_owned.recv() {
            Ok(Ok(())) => Ok(Self { thread, finish }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::os("the health thread ended", io::Error::other("at once"))),
        }
    }

    /// Ends the thread, which gives the word back, and waits for its end.
    pub(crate) fn finish(self) {
        if fork::is_forked_child() {
            // The child has no such thread to wait for.
            std::mem::forget(self.thread);
            return;
        }
        self.finish.set();
        // The thread does not panic, and if it did nothing could be done about it here.
        let _ = self.thread.join();
    }
}

/// Claims the word on this thread, and sends how that went to `told`.
#[expect(clippy::option_option, reason = "no owner is asked for in a worker thread of a test")]
fn own(word: Option<OwnU32>, told: &SyncSender<Result<()>>) -> Option<Option<RobustFutex>> {
    let owner = word.map(RobustFutex::claim).transpose();
    let (owner, result) = match owner {
        Ok(owner) => (Some(owner), Ok(())),
        // Some sandboxes have no robust futexes. The parent has a pidfd besides.
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            eprintln!("slipring worker: {error:#}; its death will be noticed later");
            (Some(None), Ok(()))
        }
        Err(error) => (None, Err(error)),
    };
    told.send(result).ok()?;
    owner
}

struct HealthServer<'a, R> {
    health: Duplex,
    report: R,
    last_error: Arc<LastError>,
    stop: &'a StopToken,
    finish: &'a StopToken,
}

impl<R: Report> HealthServer<'_, R> {
    fn run(mut self) {
        loop {
            let finish = self.finish;
            let polled = &mut self.health.consumer;
            let header = match polled.poll_until(&finish.alarm, Deadline::IDLE, || finish.check()) {
                Ok(Some(frame)) => frame.header(),
                Ok(None) => continue,
                Err(error) => {
                    // If the thread was not told to finish, the parent wrote what cannot
                    // be. Then the worker ends too.
                    if !finish.is_set() {
                        eprintln!("slipring worker: health ring: {error:#}");
                        self.stop.set();
                    }
                    return;
                }
            };
            let answered = match Kind::from_code(header.kind) {
                Kind::PING => {
                    crate::failpoint::failpoint!("before pong");
                    let last_error = self.last_error.get();
                    let pong = encode(
                        &self.report.snapshot(),
                        &last_error,
                        self.health.producer.max_frame(),
                    );
                    self.answer(Kind::PONG, header.request, &pong)
                }
                Kind::SHUTDOWN => {
                    let answered = self.answer(Kind::ACK, header.request, &[]);
                    self.stop.set();
                    answered
                }
                // A newer parent may know more kinds. It sees that no answer comes.
                _ => Ok(()),
            };
            if answered.is_err() {
                return;
            }
        }
    }

    fn answer(&mut self, kind: Kind, request: u64, payload: &[u8]) -> Result<()> {
        let finish = self.finish;
        let claim = self.health.producer.claim_until(
            payload.len(),
            &finish.alarm,
            Deadline::NEVER,
            || finish.check(),
        )?;
        if let Some(mut claim) = claim {
            claim.payload().copy_from_slice(payload);
            claim.commit(Header { kind: kind.code(), request, ..Header::default() });
        }
        Ok(())
    }
}
