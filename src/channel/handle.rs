//! Channel: what a host holds of one worker, and how it sends requests.

mod reactor;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use crate::channel::core::Core;
use crate::channel::message_writer::MessageWriter;
use crate::channel::outgoing::{RequestSpec, send, send_call};
use crate::channel::pending_reply::{Awaited, Pending};
use crate::channel::reply::Reply;
use crate::channel::state::ChannelState;
use crate::channel::stats::Stats;
use crate::channel::stream::Stream;
use crate::channel::stream_timeouts::{StreamDeadlines, StreamTimeouts};
use crate::channel::warm_up::WarmUp;
use crate::channel::worker_handle::WorkerHandle;
use crate::channel::{recording, status_row};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::id::RequestId;
use crate::link::ParentLink;
use crate::payload::Payload;
use crate::process::external::ExternalWorker;
use crate::protocol::Kind;
use crate::recording::Recorder;
use crate::ring::doorbell::alarm::OnInterrupt;
use crate::sys::clock::TimeLimit;
use crate::sys::wake_fd::WakeFd;
use crate::trace::span;

/// The parent's handle on one worker.
///
/// Any number of threads may use a channel at the same time. By default the worker serves **one
/// request at a time**, in the order in which the requests were sent; the others wait. To serve
/// several at the same time, start more workers, or choose another
/// [way to serve](crate::worker).
///
/// A [`Spawner`](crate::Spawner) starts a worker and returns its channel. Dropping the channel does
/// not block: the worker is told to end, and is terminated and reaped in the background if it does
/// not. [`Channel::close`] waits for that and tells how the worker ended.
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
/// [`Spawner::exit_status_timeout`](crate::Spawner::exit_status_timeout) says, and never beyond its
/// own timeout.
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
    /// A channel whose worker the supervisor has started.
    pub(super) fn new(
        core: Arc<Core>,
        worker: WorkerHandle,
        warm_up: Option<WarmUp>,
        recorder: Option<Arc<Recorder>>,
    ) -> Self {
        Self { core, worker, warm_up, recorder }
    }

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
}

/// Requests, and what became of them.
impl Channel {
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
    /// Blocks only while the request ring is full, and, if the payload is longer than a frame,
    /// while another such payload is on its way: for at most `timeout`, which also bounds the wait
    /// for the reply. If the worker has died it also waits for the exit status, see
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
    /// [`DEFAULT_CHUNK_TIMEOUT`](crate::DEFAULT_CHUNK_TIMEOUT), 300 seconds, is a good value. The
    /// gap counts while the reader waits, and from when the worker has begun the request. Blocks as
    /// [`Channel::submit`] does, for at most the queue timeout or the total.
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
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.worker.fmt(f)
    }
}
