//! The parent's side: a handle on one worker.
//!
//! `docs/ARCHITECTURE.md` draws the files of this folder, says which of them owns which lock,
//! and in which order locks are taken.

mod chunks;
mod core;
mod counters;
mod crash_contents;
mod crash_frames;
mod crash_report;
mod crash_sent;
mod explain;
#[cfg(feature = "async")]
mod foreign;
#[cfg(all(test, feature = "tokio"))]
mod forked_tests;
mod handshake;
mod health;
mod item;
mod message_parts;
mod message_reader;
mod message_writer;
mod outgoing;
mod pending;
mod pending_reply;
#[cfg_attr(
    not(feature = "async"),
    allow(dead_code, unreachable_pub, reason = "backends need `async`")
)]
mod progress;
pub(crate) mod raw_end;
mod reactor_state;
mod reactor_turn;
mod reader;
mod receiver;
mod recording;
mod reply;
mod requests;
mod sender;
mod spawn_checks;
mod spawner;
mod start;
mod state;
mod stats;
mod status;
mod status_row;
mod stream;
mod stream_buffer;
mod stream_timeouts;
mod tap;
mod task_wait;
mod timed_mutex;
mod traced;
mod turn;
mod wait;
mod wait_list;
mod waiter;
mod warm_up;
mod worker_exit;
mod worker_handle;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::channel::outgoing::{send, send_call};
use crate::channel::pending_reply::Awaited;
use crate::channel::recording::LAST_FRAMES;
use crate::channel::warm_up::WarmUp;
use crate::channel::worker_handle::WorkerHandle;
use crate::config::Config;
use crate::error::{Error, ErrorKind, ExitCause, Result};
use crate::id::RequestId;
use crate::link::ParentLink;
use crate::payload::Payload;
use crate::process::external::ExternalWorker;
use crate::protocol::{Health, Kind};
use crate::recording::{Recorder, RecordingStats};
use crate::ring::doorbell::alarm::OnInterrupt;
use crate::sys::clock::{Deadline, TimeLimit};
use crate::sys::fork;
use crate::sys::wake_fd::WakeFd;
use crate::trace::span;
use crate::trace_context::TraceContext;

pub(crate) use self::core::Core;
pub(crate) use chunks::Source;
pub use chunks::{Chunks, ChunksIter};
pub(crate) use crash_contents::PoolRow;
pub(crate) use explain::{no_turn, ring_full};
pub(crate) use health::{Question, no_answer, pong};
pub(crate) use item::{Body, Item, Place};
pub(crate) use message_parts::{MessageParts, OwnOrLent, PartSource};
pub use message_reader::MessageReader;
pub use message_writer::MessageWriter;
pub(crate) use outgoing::{Outgoing, RequestSpec, encode};
pub use pending_reply::Pending;
pub(crate) use progress::Observer;
#[cfg(feature = "async")]
pub use progress::Progress;
pub(crate) use reactor_turn::{read_for_task, read_readable};
#[cfg(feature = "named")]
pub(crate) use recording::begin_external;
pub use reply::Reply;
pub use spawner::Spawner;
pub(crate) use state::ChannelState;
pub use stats::{ErrorCounts, LatencyHistogram, Stats};
pub use stream::Stream;
pub(crate) use stream_timeouts::StreamDeadlines;
pub use stream_timeouts::{DEFAULT_CHUNK_TIMEOUT, DEFAULT_QUEUE_TIMEOUT, StreamTimeouts};
pub(crate) use task_wait::{RoomWait, TaskFound, TaskWait, TaskWant};
pub(crate) use timed_mutex::TimedGuard;
pub use traced::TracedChannel;
pub(crate) use turn::{check_open, has_ended, prefault};
pub(crate) use wait_list::{Key as WaitKey, WaitList};

/// The parent's handle on one worker.
///
/// Any number of threads may use a channel at the same time. By default the worker serves **one
/// request at a time**, in the order in which the requests were sent; the others wait. To serve
/// several at the same time, start more workers, or choose another
/// [way to serve](crate::worker).
///
/// A [`Spawner`] starts a worker and returns its channel. Dropping the channel does not block:
/// the worker is told to end, and is terminated and reaped in the background if it does not.
/// [`Channel::close`] waits for that and tells how the worker ended.
///
/// | method | for |
/// |---|---|
/// | [`call`](Self::call) | one request, one reply |
/// | [`submit`](Self::submit) | many requests in flight from one thread |
/// | [`stream`](Self::stream) | a reply in many chunks, read as they come |
/// | [`write`](Self::write) | a request whose length is not known before |
/// | [`ping`](Self::ping), [`health`](Self::health) | what the worker does, also while it is busy |
/// | [`abort`](Self::abort) | asks all handlers of the worker to stop |
/// | [`wait_exit`](Self::wait_exit), [`close`](Self::close) | the worker's end |
/// | [`read_ready`](Self::read_ready), [`poll_fd`](Self::poll_fd) | a host with a reactor of its own |
///
/// # Errors of a worker that has died
///
/// An operation that the worker's death ends returns [`ErrorKind::PeerDied`]. Before it returns,
/// the operation waits for the worker's exit status: for at most 50 milliseconds, or as long as
/// [`Spawner::exit_status_timeout`] says, and never beyond its own timeout.
///
/// ```
#[doc = include_str!("example.md")]
/// let pending = channel.submit(ECHO, "the first", timeout)?;
/// assert_eq!(channel.call(ECHO, "the second", timeout)?.text()?, "the second");
/// assert_eq!(pending.wait()?.text()?, "the first");
/// assert!(channel.is_alive());
/// # channel.close(timeout).map(drop) }
/// ```
pub struct Channel {
    core: Arc<Core>,
    worker: WorkerHandle,
    warm_up: Option<WarmUp>,
    recorder: Option<Arc<Recorder>>,
}

impl Channel {
    /// A channel whose worker was not started by the supervisor.
    #[allow(dead_code, reason = "for the features `testing` and `named`")]
    pub(crate) fn over_thread(
        link: ParentLink,
        config: &Config,
        role: String,
        thread: ExternalWorker,
        state: Arc<ChannelState>,
        wake_fd: Option<Arc<WakeFd>>,
        recorder: Option<Arc<Recorder>>,
    ) -> Self {
        let ParentLink { data, health, words, .. } = link;
        let worker = WorkerHandle::external(&state, health, role, thread);
        let tap = recording::tap(recorder.as_ref(), &state);
        let core = Core::new(data, words, config, state, wake_fd, tap);
        status_row::add(&core);
        Self { core, worker, warm_up: None, recorder }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn worker(&self) -> &WorkerHandle {
        &self.worker
    }

    /// Sends a request and waits for its reply.
    ///
    /// Blocks until the reply comes or `timeout` passes; see [Timeouts](crate#timeouts). The
    /// deadline travels with the request: a worker does not begin a request whose deadline has
    /// passed. After a timeout the request is cancelled, and a late reply is dropped.
    ///
    /// ```
    #[doc = include_str!("example.md")]
    /// let reply = channel.call(ECHO, "hello", Duration::from_secs(1))?;
    /// assert_eq!(reply.to_vec(), b"hello");
    /// let late = channel.call(WAIT, "", Duration::from_millis(5)).unwrap_err();
    /// assert!(late.is_timeout());
    /// # channel.close(timeout).map(drop) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Channel::submit`] and [`Pending::wait`]. The channel stays usable after
    /// [`ErrorKind::Timeout`], [`ErrorKind::HandlerFailed`], [`ErrorKind::TooLarge`],
    /// [`ErrorKind::Cancelled`], [`ErrorKind::Protocol`], [`ErrorKind::InvalidInput`],
    /// [`ErrorKind::TooManyInFlight`] and [`ErrorKind::Interrupted`].
    pub fn call<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        timeout: Duration,
    ) -> Result<Reply> {
        self.call_numbered(kind, payload, timeout).1
    }

    /// As [`Channel::call`], with the request's number, once it has one: after a timeout the worker
    /// may still be at it.
    #[inline]
    pub(crate) fn call_numbered<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        timeout: Duration,
    ) -> (Option<RequestId>, Result<Reply>) {
        span!("call", %kind, bytes = payload.encoded_len());
        match send_call(&self.core, kind, payload, timeout) {
            Ok((request, limit)) => {
                let reply = Awaited::new(&*self.core, request, limit).wait();
                (Some(RequestId::new(request)), reply)
            }
            Err(error) => (None, Err(error)),
        }
    }

    /// Sends a request whose reply is awaited later. Many requests may be in flight, from any
    /// number of threads.
    ///
    /// Blocks only while the request ring is full, and, if the payload is longer than a frame, while
    /// another such payload is on its way: for at most `timeout`, which also bounds the wait for the
    /// reply. If the worker has died it also waits for the exit status, see
    /// [above](Channel#errors-of-a-worker-that-has-died).
    ///
    /// ```
    #[doc = include_str!("example.md")]
    /// let pending: Vec<_> = (0..10_u8)
    ///     .map(|number| channel.submit(ECHO, &[number][..], timeout))
    ///     .collect::<Result<_, _>>()?;
    /// for (number, pending) in (0..10_u8).zip(pending) {
    ///     assert_eq!(pending.wait()?.to_vec(), [number]);
    /// }
    /// # channel.close(timeout).map(drop) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`], with length and cap, before anything is sent;
    /// [`ErrorKind::TooManyInFlight`]; [`ErrorKind::Timeout`] if the ring stays full; what
    /// the payload's encoding returns; [`ErrorKind::InvalidInput`] if `kind` is not a kind of
    /// request; [`ErrorKind::Interrupted`] if a hook ends the wait for room, see
    /// [`Channel::on_interrupt`]; [`ErrorKind::Closed`], [`ErrorKind::PeerDied`],
    /// [`ErrorKind::PeerCorrupt`], [`ErrorKind::Forked`] if the channel is over;
    /// [`ErrorKind::Session`] if that is because the session could not be built.
    pub fn submit<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        timeout: Duration,
    ) -> Result<Pending> {
        span!("submit", %kind, bytes = payload.encoded_len());
        let limit = TimeLimit::begin(timeout);
        let deadline = limit.deadline();
        let request = send(&self.core, RequestSpec::call(kind, deadline), payload, deadline)?;
        Ok(Pending::new(Arc::clone(&self.core), request, limit))
    }

    /// Starts a request whose payload is written in parts, and whose length need not be known.
    ///
    /// The payload goes out as it is written, with one frame of memory on this side. The
    /// worker's handler gets the payload whole. [`MessageWriter::finish`] returns the pending
    /// reply. `timeout` counts from this call to the reply.
    ///
    /// One such request, or payload longer than a frame, is on its way at a time; requests of
    /// one frame pass it. Blocks while another one is on its way, for at most `timeout`.
    ///
    /// ```
    #[doc = include_str!("example.md")]
    /// let mut writer = channel.write(ECHO, timeout)?;
    /// for word in ["no ", "length ", "is ", "known"] {
    ///     writer.push(word.as_bytes())?;
    /// }
    /// assert_eq!(writer.finish()?.wait()?.to_vec(), b"no length is known");
    /// # channel.close(timeout).map(drop) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Channel::submit`], without those of a payload. [`ErrorKind::Timeout`] if another long
    /// message stays on its way.
    pub fn write(&self, kind: Kind, timeout: Duration) -> Result<MessageWriter<'_>> {
        MessageWriter::begin(&self.core, kind, timeout)
    }

    /// Sends a request and returns the stream of its chunks.
    ///
    /// `timeouts` is the longest gap between two chunks, a [`Duration`], or [`StreamTimeouts`],
    /// which has the timeouts of the queue, of the first chunk and of the whole stream, too.
    /// [`DEFAULT_CHUNK_TIMEOUT`], 300 seconds, is a good value. The gap counts while the reader
    /// waits, and from when the worker has begun the request. Blocks as [`Channel::submit`] does,
    /// for at most the queue timeout or the total.
    ///
    /// A stream that is not read costs at most [`Config::stream_window`] bytes. Then a worker that
    /// serves one request at a time waits, and the requests behind it, too: they time out with an
    /// error that says so.
    ///
    /// ```
    #[doc = include_str!("example.md")]
    /// let stream = channel.stream(COUNT, "", Duration::from_secs(5))?;
    /// let chunks = stream.map(|chunk| chunk?.text()).collect::<Result<Vec<_>, _>>()?;
    /// assert_eq!(chunks, ["one", "two", "three"]);
    /// # channel.close(timeout).map(drop) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Channel::submit`]. [`ErrorKind::Timeout`] after the queue timeout.
    pub fn stream<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        timeouts: impl Into<StreamTimeouts>,
    ) -> Result<Stream> {
        span!("stream", %kind, bytes = payload.encoded_len());
        self.stream_by(kind, payload, timeouts.into().start())
    }

    /// As [`Channel::stream`], with deadlines that count already.
    pub(crate) fn stream_by<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        deadlines: StreamDeadlines,
    ) -> Result<Stream> {
        let spec = RequestSpec::stream(kind, deadlines.end_by);
        let request = send(&self.core, spec, payload, deadlines.send_by())
            .map_err(|error| deadlines.sending_failed(error))?;
        Ok(Stream::new(Arc::clone(&self.core), request, deadlines))
    }

    /// Returns the same channel for requests that are part of a trace. The worker is told of the trace,
    /// by [`Request::trace_context`](crate::worker::Request::trace_context), without its `tracestate`.
    /// A worker with a version of this library that does not take traces gets the requests without
    /// them, and so does one whose frames have under 32 bytes.
    ///
    /// A context takes 32 bytes of the ring, which do not count as payload: neither against
    /// [`Config::max_message`] nor in counters and recordings. A payload that fits a frame by less than
    /// that is sent in pieces, as a longer one is.
    ///
    /// ```
    #[doc = include_str!("example.md")]
    /// let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    /// let trace = slipring::TraceContext::parse(text).expect("it is well formed");
    /// let reply = channel.traced(&trace).call(ECHO, "hello", timeout)?;
    /// assert_eq!(reply.text()?, "hello");
    /// # channel.close(timeout).map(drop) }
    /// ```
    pub fn traced<'a>(&'a self, trace: &'a TraceContext) -> TracedChannel<'a> {
        TracedChannel::new(self, trace)
    }

    /// Waits until the worker has built its session, and then has it serve the warm-up request
    /// of the spawner, if there is one and it was not served before: see [`Spawner::warm_up`].
    /// Blocks for at most `timeout`. The first time, both sides meanwhile touch the memory of the
    /// rings, which otherwise costs a page fault at the first use of each page.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Session`] if the session could not be built; as [`Channel::call`], also for
    /// the warm-up, which the next call of `wait_ready` sends again.
    pub fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let deadline = Deadline::after(timeout);
        let pending = self.submit(Kind::READY, &(), timeout)?;
        prefault(&self.core);
        pending.wait()?;
        if let Some(warm_up) = &self.warm_up
            && let Some((kind, payload)) = warm_up.request()
        {
            self.call(kind, payload, deadline.remaining())?;
            warm_up.note_served();
        }
        Ok(())
    }

    /// The warm-up request, if there is one.
    #[allow(dead_code, reason = "the async view uses it")]
    pub(crate) fn warm_up(&self) -> Option<&WarmUp> {
        self.warm_up.as_ref()
    }

    /// Asks a thread of the worker's for a report. The thread answers while a handler runs and
    /// while the rings of requests are full. Blocks for at most `timeout`.
    ///
    /// ```
    #[doc = include_str!("example.md")]
    /// use slipring::WorkerState;
    ///
    /// let busy = channel.submit(WAIT, "", timeout)?;
    /// let report = loop {
    ///     let report = channel.ping(timeout)?;
    ///     if report.state == WorkerState::Busy { break report; }
    /// };
    /// assert_eq!(report.current_request, Some(busy.id()));
    /// # channel.close(timeout).map(drop) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] if the process does not answer: it is stopped, or gets no
    /// processor; nothing is killed. [`ErrorKind::Protocol`] for a wrong answer.
    /// [`ErrorKind::Interrupted`] if a hook ends the wait, see [`Channel::on_interrupt`]: a late
    /// answer is dropped, and the worker can be asked again. As [`Channel::call`] if the channel
    /// is over.
    pub fn ping(&self, timeout: Duration) -> Result<Health> {
        self.worker.ping(timeout)
    }

    /// Returns the worker's report as it stands in shared memory, without asking the worker.
    /// Never blocks. Stays as it was when the worker is gone.
    #[must_use]
    pub fn health(&self) -> Health {
        self.core.status.health()
    }

    /// Reads all replies and chunks that are there, without waiting, and returns the requests
    /// that have got something since the last call, each once. For a reactor of the host's that
    /// has found [`Channel::poll_fd`] readable, and once before it polls the descriptor for the
    /// first time. Never blocks.
    ///
    /// Look at each request with [`Pending::try_wait`] or [`Stream::try_next_chunk`], which read
    /// nothing more by themselves once this was called. From then on the descriptor is readable
    /// exactly while there is something to read. Threads may use the same channel: when they
    /// read something that no thread waits for, they make the descriptor readable.
    ///
    /// A timeout makes nothing readable. When the time of a request is up, a reactor calls
    /// [`Pending::try_wait`], which then returns [`ErrorKind::Timeout`].
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// # use slipring::{Config, Kind, RoleConfig, testing, worker::Worker};
    /// # use std::time::Duration;
    /// # const ECHO: Kind = Kind::named("echo");
    /// # const COUNT: Kind = Kind::named("count");
    /// # const WAIT: Kind = Kind::named("wait");
    /// # let make = || Worker::new(|_role| Ok(()))
    /// #     .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?))
    /// #     .on(COUNT, |(), _, responder| {
    /// #         let mut chunks = responder.stream();
    /// #         for chunk in ["one", "two", "three"] { chunks.send(chunk)?; }
    /// #         Ok(chunks.end()?)
    /// #     })
    /// #     .on(WAIT, |(), request, _| loop {
    /// #         request.check_cancelled()?;
    /// #         std::thread::sleep(Duration::from_millis(1));
    /// #     });
    /// # let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// # let timeout = Duration::from_secs(10);
    /// use std::collections::HashMap;
    /// use std::os::fd::{AsRawFd, BorrowedFd};
    ///
    /// /// The host's reactor, which has this one descriptor.
    /// fn wait_until_readable(fd: BorrowedFd<'_>) {
    ///     let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    ///     // SAFETY: a live array of one entry.
    ///     unsafe { libc::poll(&mut entry, 1, -1) };
    /// }
    ///
    /// let mut pending = HashMap::new();
    /// for number in 0..10_u8 {
    ///     let request = channel.submit(ECHO, &[number][..], timeout)?;
    ///     pending.insert(request.id(), request);
    /// }
    /// let mut replies = Vec::new();
    /// loop {
    ///     // Before the first wait, and after each wait.
    ///     for id in channel.read_ready()? {
    ///         let Some(request) = pending.get_mut(&id) else { continue };
    ///         if let Some(reply) = request.try_wait()? {
    ///             replies.push(reply.to_vec());
    ///             pending.remove(&id);
    ///         }
    ///     }
    ///     if pending.is_empty() {
    ///         break;
    ///     }
    ///     wait_until_readable(channel.poll_fd().expect("the channel is pollable"));
    /// }
    /// assert_eq!(replies.len(), 10);
    /// # channel.close(timeout)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] without [`Spawner::pollable`]; as [`Channel::call`] if the
    /// channel is over. Requests that have got something still have it.
    pub fn read_ready(&self) -> Result<Vec<RequestId>> {
        reactor_turn::read_for_host(&self.core)?;
        let ready = self.core.pending.requests().take_ready();
        Ok(ready.into_iter().map(RequestId::new).collect())
    }

    /// Returns the descriptor for reactors, if the channel was spawned with
    /// [`Spawner::pollable`]. Do not read from it or write to it: [`Channel::read_ready`] says
    /// when it is readable, and has an example.
    #[must_use]
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.core.reactor_state.wake_fd().map(|wake_fd| wake_fd.as_fd())
    }

    /// Calls `hook` when a signal has interrupted a wait of a thread on this channel: for a reply,
    /// a chunk, room or a ping. Without a hook, such a wait goes on. Only the first hook counts.
    ///
    /// If the hook returns an error, the wait ends with [`ErrorKind::Interrupted`], whose source is
    /// that error; the channel is not hurt. A request that is dropped then is cancelled; one
    /// that is waited for with [`Pending::wait_timeout`] goes on and can be waited for again.
    /// So does a stream. A ping is over, and can be asked again.
    ///
    /// The hook runs on the waiting thread, not in the signal handler, and must not use this
    /// channel. It is not called for a thread that waits behind another one that reads, in a wait
    /// of [`Channel::close`] or of a channel by name, after a signal handler that was installed
    /// with `SA_RESTART`, or if the signal arrives while the thread does not sleep.
    pub fn on_interrupt(
        &self,
        hook: impl Fn() -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>
        + Send
        + Sync
        + 'static,
    ) {
        self.core.state.alarm.on_interrupt(OnInterrupt(Box::new(move || {
            hook().map_err(|why| {
                let message = "a signal has interrupted the wait, and the host ended it";
                Error::with_source(ErrorKind::Interrupted, message, why)
            })
        })));
    }

    /// Cancels one request or stream by its id, without waiting, also while another thread waits
    /// for it: as [`Pending::cancel`] and [`Stream::cancel`] do. Does nothing if the request has
    /// ended.
    ///
    /// ```
    #[doc = include_str!("example.md")]
    /// let pending = channel.submit(WAIT, "", timeout)?;
    /// let id = pending.id();
    /// std::thread::scope(|scope| {
    ///     let waits = scope.spawn(|| pending.wait());
    ///     channel.cancel(id);
    ///     assert!(waits.join().expect("it waits").unwrap_err().is_cancelled());
    /// });
    /// # channel.close(timeout).map(drop) }
    /// ```
    pub fn cancel(&self, request: RequestId) {
        self.core.cancel(request);
    }

    /// Sets the worker's abort flag: every handler sees itself cancelled until
    /// [`Channel::clear_abort`]. To cancel one request use [`Pending::cancel`]. Never blocks.
    ///
    /// ```
    #[doc = include_str!("example.md")]
    /// let pending = channel.submit(WAIT, "", timeout)?;
    /// channel.abort();
    /// assert!(pending.wait().is_err());
    /// channel.clear_abort();
    /// assert!(channel.call(ECHO, "", timeout).is_ok());
    /// # channel.close(timeout).map(drop) }
    /// ```
    pub fn abort(&self) {
        self.core.pending.set_abort(true);
    }

    /// Resets the abort flag. Never blocks.
    pub fn clear_abort(&self) {
        self.core.pending.set_abort(false);
    }

    /// Returns the worker's role.
    #[must_use]
    pub fn role(&self) -> &str {
        self.worker.role()
    }

    /// Returns the process id of the program that was started: the worker's, unless that program
    /// runs the worker and stays.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.worker.pid()
    }

    /// Returns whether requests can be sent: the worker lives and the channel is not closed.
    /// Never blocks.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.core.is_open()
    }

    /// Returns how the worker ended; `None` while it runs, and until it is reaped. Never blocks.
    #[must_use]
    pub fn exit_cause(&self) -> Option<ExitCause> {
        self.worker.exit_cause()
    }

    /// Waits until the worker has ended, in any way, and returns how. Blocks for at most
    /// `timeout`. Does not end the worker, and uses no processor time while it waits.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] if it still runs; [`ErrorKind::Forked`] in a forked child.
    pub fn wait_exit(&self, timeout: Duration) -> Result<ExitCause> {
        self.worker.wait_exit(timeout)
    }

    /// Returns the path of the worker's log, if it has one.
    #[must_use]
    pub fn log_path(&self) -> Option<&Path> {
        self.worker.log_path()
    }

    /// Returns the path of the recording, if the channel is recorded: see
    /// [`Spawner::record`](crate::Spawner::record).
    #[must_use]
    pub fn recording_path(&self) -> Option<&Path> {
        self.recorder.as_ref().map(|recorder| recorder.path())
    }

    /// Returns how much of the channel was recorded so far, and how much was left out; `None` if it is
    /// not recorded, and in a forked child.
    #[must_use]
    pub fn recording_stats(&self) -> Option<RecordingStats> {
        let recorder = self.recorder.as_ref().filter(|_| !fork::is_forked_child());
        recorder.map(|recorder| recorder.stats())
    }

    /// Returns how many calls and streams are in flight: sent, and neither ended nor dropped.
    /// None in a forked child.
    ///
    /// A request that was dropped is not counted here, but takes one of the channel's
    /// [`max_in_flight`](Config::max_in_flight) places until the worker is done with it.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.core.in_flight()
    }

    /// Returns the channel's configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.core.config
    }

    /// Returns the channel's counters; all zero in a forked child. Blocks no longer than another
    /// thread takes to copy one frame into the ring. [`Stats`] shows how to export them.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Ends the worker, and returns how it ended. Operations in flight end with
    /// [`ErrorKind::Closed`] at once.
    ///
    /// The worker is asked to end and given `timeout` to do so. Then its connection is shut down
    /// and it gets SIGTERM, and two seconds later SIGKILL, as does the process group that it was
    /// started in. A worker that may not be signalled, because it runs as another user, ends
    /// within a second of the shutdown, also while a handler is stuck.
    ///
    /// Blocks until the worker is reaped and, for at most one second more each, until its log says how
    /// it ended and its recording is written. Any number of threads may call it, any number of times; all return the same.
    ///
    /// ```
    #[doc = include_str!("example.md")]
    /// let cause = channel.close(Duration::from_secs(1))?;
    /// assert_eq!(cause, slipring::ExitCause::Exited(0));
    /// assert!(channel.call(ECHO, "", timeout).unwrap_err().is_closed());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Forked`] in a forked child. [`ErrorKind::Timeout`] if the worker's exit status
    /// is not known ten seconds after the kill, as for a process that hangs in a device; or two
    /// seconds after the shutdown, for a stopped worker that may not be signalled. Such a worker
    /// is reaped in the background when it ends.
    pub fn close(&self, timeout: Duration) -> Result<ExitCause> {
        let cause = self.worker.close(timeout);
        if let (Ok(_), Some(recorder)) = (&cause, &self.recorder) {
            recorder.flush(Instant::now() + LAST_FRAMES);
        }
        cause
    }

    /// Waits until nothing is in flight, and then ends the worker as [`Channel::close`] does.
    /// `timeout` bounds the wait; what is left of it is the timeout of the close. Other threads
    /// can send requests meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Channel::close`].
    pub fn close_draining(&self, timeout: Duration) -> Result<ExitCause> {
        let deadline = Deadline::after(timeout);
        self.core.drain(deadline);
        self.close(deadline.remaining())
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.worker.fmt(f)
    }
}
