//! The parent's side: a handle on one worker.
//!
//! Level 6. On a byte's trip this is where it begins, in [`Channel::call`], and where
//! it ends, in a [`Reply`].

mod ahead;
mod death;
mod dispatch;
mod engine;
mod follow;
#[cfg(all(test, feature = "tokio"))]
mod forked_tests;
mod handle;
mod handshake;
mod health;
mod life;
mod pump;
mod receive;
mod reply;
mod send;
mod spawn_checks;
mod spawner;
mod stream_timeouts;
mod timed;
mod wake_list;
mod wakers;
mod writer;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[cfg(any(feature = "testing", feature = "named"))]
use crate::channel::death::Deathbed;
#[cfg(not(feature = "async"))]
use crate::channel::engine::Engine;
use crate::channel::handle::WorkerHandle;
#[cfg(any(feature = "testing", feature = "named"))]
use crate::channel::health::HealthClient;
#[cfg(any(feature = "testing", feature = "named"))]
pub(crate) use crate::channel::life::Life;
use crate::config::Config;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{ExitCause, Result};
#[cfg(any(feature = "testing", feature = "named"))]
use crate::link::ParentLink;
use crate::payload::Payload;
#[cfg(any(feature = "testing", feature = "named"))]
use crate::process::thread::ThreadWorker;
use crate::protocol::{Health, Kind};
use crate::sys::clock::Deadline;
#[cfg(any(feature = "testing", feature = "named"))]
use crate::sys::wake_fd::WakeFd;
use crate::trace::span;

#[cfg(feature = "async")]
pub(crate) use engine::{Engine, Item};
#[cfg(feature = "async")]
pub(crate) use health::{no_answer, pong};
#[cfg(feature = "async")]
pub(crate) use life::{Phase, check_not_forked};
pub use reply::{Pending, Reply, Stream};
#[cfg(feature = "async")]
pub(crate) use send::{Pieces, Unsent};
pub use spawner::Spawner;
pub use stream_timeouts::{DEFAULT_CHUNK_TIMEOUT, DEFAULT_QUEUE_TIMEOUT, StreamTimeouts};
#[cfg(feature = "async")]
pub(crate) use timed::Loan;
#[cfg(feature = "async")]
pub(crate) use wakers::Place;
pub use writer::MessageWriter;

/// The parent's handle on one worker. Any number of threads may use it at a time;
/// requests are served in the order in which they were sent.
///
/// Dropping it does not block: the worker is told to end, and is terminated and
/// reaped in the background if it does not.
///
/// An operation that the worker's death ends returns [`ErrorKind::PeerDied`]. It may wait for
/// the worker's exit status before: for at most 50 milliseconds, or what
/// [`Spawner::exit_status_timeout`] says, and never beyond its own timeout.
pub struct Channel {
    engine: Arc<Engine>,
    worker: WorkerHandle,
}

/// Counters of a channel since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Frames that came for a request after it was given up; dropped.
    pub late_frames: u64,
    /// Frames for a request that was never made, or was long finished; dropped.
    pub unknown_frames: u64,
    /// Requests that the worker was told to give up.
    pub cancels: u64,
    /// Frames that were copied out of the ring because another thread than their
    /// owner's read them.
    pub copied_frames: u64,
    /// Waits that began by spinning.
    pub spins: u64,
    /// Waits that went to sleep.
    pub parks: u64,
    /// Times that a sleeping worker was woken for a request.
    pub wakes: u64,
    /// The most bytes that were in the request ring when it seemed full.
    pub request_ring_high_water: u64,
    /// Replies and chunks that still hold a slot. Short ones never do: see [`Reply`].
    pub leases_held: usize,
}

impl Channel {
    /// A channel whose worker was not started by the supervisor.
    #[cfg(any(feature = "testing", feature = "named"))]
    pub(crate) fn over_thread(
        link: ParentLink,
        config: &Config,
        role: String,
        thread: ThreadWorker,
        life: Arc<Life>,
        wake_fd: Option<Arc<WakeFd>>,
    ) -> Self {
        let ParentLink { data, health, words, .. } = link;
        let deathbed = Deathbed::new(role, death::Body::Thread(thread), death::PATIENCE);
        let health = HealthClient::new(health);
        let worker = WorkerHandle::new(Arc::clone(&life), health, deathbed, None);
        Self { engine: Engine::new(data, words, config, life, wake_fd), worker }
    }

    #[cfg(feature = "async")]
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    #[cfg(feature = "async")]
    pub(crate) fn worker(&self) -> &WorkerHandle {
        &self.worker
    }

    /// Sends a request and waits for its reply.
    ///
    /// Blocks until the reply comes or `timeout` passes; [`Duration::MAX`] waits for
    /// ever. The deadline travels with the request: a worker does not begin what nobody
    /// waits for. After a timeout the request is given up, the worker is told, and a
    /// late reply is dropped; the channel stays usable. It also stays usable after
    /// [`ErrorKind::Worker`], [`ErrorKind::TooLarge`], [`ErrorKind::Cancelled`],
    /// [`ErrorKind::Protocol`] and [`ErrorKind::TooManyInFlight`].
    ///
    /// # Errors
    ///
    /// What [`Channel::submit`] and [`Pending::wait`] say.
    pub fn call<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        timeout: Duration,
    ) -> Result<Reply> {
        span!("call", %kind, bytes = payload.encoded_len());
        self.submit(kind, payload, timeout)?.wait()
    }

    /// Sends a request whose reply is awaited later. Many may be in flight, from any
    /// number of threads.
    ///
    /// The payload is encoded straight into the ring; one that is longer than a frame
    /// goes as a chain of frames. Blocks only while the request ring is full, for at
    /// most `timeout`, which also bounds the wait for the reply.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`], with length and cap, before anything is sent;
    /// [`ErrorKind::TooManyInFlight`]; [`ErrorKind::Timeout`] if the ring stays full; what
    /// the payload's encoding returns; [`ErrorKind::Protocol`] if `kind` is not a kind of
    /// request; [`ErrorKind::Closed`], [`ErrorKind::PeerDied`], [`ErrorKind::PeerCorrupt`],
    /// [`ErrorKind::Forked`] if the channel is over; [`ErrorKind::Session`] if that is because
    /// the session could not be built.
    pub fn submit<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        timeout: Duration,
    ) -> Result<Pending> {
        span!("submit", %kind, bytes = payload.encoded_len());
        let deadline = Deadline::after(timeout);
        let (request, has_rung) = self.engine.send_call(kind, payload, deadline)?;
        Ok(Pending::new(Arc::clone(&self.engine), request, timeout, deadline, has_rung))
    }

    /// Begins a request whose payload is written bit by bit, and whose length need not be
    /// known: it goes out in frames as it is written, in constant memory on this side,
    /// and the worker's handler gets it whole. [`MessageWriter::finish`] gives the pending
    /// reply. `timeout` bounds everything from here to the reply.
    ///
    /// One such message, or payload longer than a frame, is on its way at a time; short
    /// requests of other threads pass it. Blocks while another one is.
    ///
    /// # Errors
    ///
    /// As [`Channel::submit`].
    pub fn write(&self, kind: Kind, timeout: Duration) -> Result<MessageWriter<'_>> {
        MessageWriter::begin(&self.engine, kind, timeout)
    }

    /// Sends a request and returns the stream of its chunks.
    ///
    /// `timeouts` is the longest gap between two chunks, a [`Duration`], or
    /// [`StreamTimeouts`]. A longer gap, while the reader waits and after the worker has
    /// begun the request, ends the stream as [`ErrorKind::Stalled`], and so does a worker that
    /// has no other request and does not begin this one in that time;
    /// [`DEFAULT_CHUNK_TIMEOUT`] is a good value. A request that the worker has not begun
    /// within the queue timeout ends as [`ErrorKind::Timeout`]. A reader that does not read
    /// costs at most the configured stream window of memory, and its worker waits; other
    /// requests wait behind it and time out with an error that says so. Blocks as
    /// [`Channel::submit`] does, for at most the queue timeout.
    ///
    /// # Errors
    ///
    /// As [`Channel::submit`].
    pub fn stream<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        timeouts: impl Into<StreamTimeouts>,
    ) -> Result<Stream> {
        span!("stream", %kind, bytes = payload.encoded_len());
        let timeouts = timeouts.into();
        let begin_by = Deadline::after(timeouts.queue);
        let request = self.engine.send_stream(kind, payload, begin_by)?;
        Ok(Stream::new(Arc::clone(&self.engine), request, timeouts, begin_by))
    }

    /// Waits until the worker has built its session. Blocks for at most `timeout`. The first
    /// time, both sides meanwhile enter the rings' pages in their page tables, which otherwise
    /// costs a fault at the first use of each page.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Session`] if the session could not be built; as [`Channel::call`].
    pub fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let pending = self.submit(Kind::READY, &(), timeout)?;
        self.engine.prefault();
        pending.wait().map(drop)
    }

    /// Asks the worker's health thread how it is, over rings of their own: works while
    /// a handler runs or the data rings are full. Blocks for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] if the process does not answer: it is stopped, or starved;
    /// nothing is killed. [`ErrorKind::Protocol`] for a wrong answer. As for a call if
    /// the channel is over.
    pub fn ping(&self, timeout: Duration) -> Result<Health> {
        self.worker.ping(timeout)
    }

    /// The worker's status line, read without asking it. Never blocks. It stays as it
    /// was when the worker is gone.
    #[must_use]
    pub fn health(&self) -> Health {
        self.engine.status(None)
    }

    /// Reads all replies and chunks that are there into their requests, without waiting,
    /// for a reactor that has found the channel's descriptor readable; then look with
    /// [`Pending::try_wait`], which reads nothing more by itself from then on. Once this
    /// has been called the descriptor is readable exactly while there is something to
    /// read. Threads may use the same channel: when they find something that no thread
    /// waits for, they make the descriptor readable.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] without [`Spawner::pollable`]; as a call if the channel
    /// is over.
    pub fn drive(&self) -> Result<()> {
        self.engine.drive_reactor()
    }

    /// The descriptor for reactors, if the channel was spawned with [`Spawner::pollable`].
    /// Do not read from it or write to it.
    #[must_use]
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.engine.wake_fd.as_ref().map(|wake_fd| wake_fd.as_fd())
    }

    /// Sets the abort flag, which every handler of this worker sees until
    /// [`Channel::clear_abort`]. Lock-free, never blocks, from any thread.
    pub fn cancel(&self) {
        self.engine.set_abort(true);
    }

    /// Resets the abort flag. Lock-free, never blocks, from any thread.
    pub fn clear_abort(&self) {
        self.engine.set_abort(false);
    }

    /// The worker's role.
    #[must_use]
    pub fn role(&self) -> &str {
        self.worker.role()
    }

    /// The process id of the program that was started: the worker's, unless that program runs
    /// the worker and stays.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.worker.pid()
    }

    /// Whether requests can be sent: the worker lives and the channel is not closed.
    /// Never blocks.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.engine.is_open()
    }

    /// How the worker ended; `None` while it runs, and until it is reaped.
    #[must_use]
    pub fn exit_cause(&self) -> Option<ExitCause> {
        self.worker.exit_cause()
    }

    /// The worker's log, if it has one.
    #[must_use]
    pub fn log_path(&self) -> Option<&Path> {
        self.worker.log_path()
    }

    /// Calls and open streams whose owner has not let go of them; none in a forked child.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.engine.in_flight()
    }

    /// The channel's configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.engine.config
    }

    /// Counters; all zero in a forked child. Never blocks for long: takes the lock that a
    /// sender holds while it copies one frame into the ring.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// Ends the worker: operations in flight end with [`ErrorKind::Closed`] at once, and the
    /// worker is asked to end and given `timeout` to do so. Then it is hung up on and gets
    /// SIGTERM, and two seconds later SIGKILL, as does the process group that it was started
    /// in. A worker that may not be signalled, as one that runs as another user, ends by itself
    /// within a second of being hung up on, also while a handler is stuck. Blocks until the
    /// worker is reaped and, for at most one second more, until its log says how it ended. Any
    /// number of threads may call it, any number of times; all return the same.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Forked`] in a forked child; [`ErrorKind::Timeout`] if the kernel does
    /// not hand out the worker's exit status within ten seconds of the kill, as for a
    /// process that hangs in a device, or if the worker may not be signalled and has not ended
    /// two seconds after it was hung up on, as one that is stopped. It is reaped in the
    /// background then, if it ends.
    pub fn close(&self, timeout: Duration) -> Result<ExitCause> {
        self.worker.close(timeout)
    }

    /// As [`Channel::close`], but first waits, within `timeout`, until no call or stream
    /// is in flight.
    ///
    /// # Errors
    ///
    /// As [`Channel::close`].
    pub fn close_draining(&self, timeout: Duration) -> Result<ExitCause> {
        let deadline = Deadline::after(timeout);
        self.engine.drain(deadline);
        self.worker.close(deadline.remaining())
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.worker.fmt(f)
    }
}
