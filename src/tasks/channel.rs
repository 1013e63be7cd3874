//! The async handle on one worker.

use std::any::Any;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::channel::{Channel, Reply, Spawner, StreamTimeouts, prefault};
use crate::error::{ExitCause, Result};
use crate::payload::Payload;
use crate::protocol::{Health, Kind};
use crate::sys::clock::{Deadline, TimeLimit};
use crate::sys::fork;
use crate::tasks::driver;
use crate::tasks::health;
use crate::tasks::requests;
use crate::tasks::spawn::spawn_channel;
use crate::tasks::timer::Timer;
#[cfg(feature = "tokio")]
use crate::tasks::tokio_driver::TokioDriver;
use crate::tasks::traced::AsyncTracedChannel;
use crate::tasks::wait::{AsyncPending, AsyncStream};
use crate::tasks::writer::AsyncMessageWriter;
use crate::trace_context::TraceContext;

/// Between two looks of a close that drains.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// A channel whose operations are awaited. Cheap to clone; the worker is told to end when
/// the last clone is dropped.
///
/// No operation ends with [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted): hooks of
/// [`Channel::on_interrupt`] run for waits of threads only.
#[derive(Debug, Clone)]
pub struct AsyncChannel {
    shared: Arc<SharedChannel>,
    spin: Duration,
}

#[derive(Debug)]
struct SharedChannel {
    /// The driver that reads the ring when its descriptor is readable. Ends before the channel
    /// does: the descriptor must be taken out of the reactor while it is open.
    _driver: Box<dyn Any + Send + Sync>,
    channel: Channel,
}

impl AsyncChannel {
    /// Makes the async view of a channel that was spawned with [`Spawner::pollable`]. The
    /// library's own thread reads for it, so that any executor works.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the channel has no descriptor;
    /// [`ErrorKind::Os`](crate::ErrorKind::Os) if the thread cannot be started;
    /// [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a forked child.
    pub fn new(channel: Channel) -> Result<Self> {
        let driver = driver::register(channel.core())?;
        Ok(Self::with_driver(driver, channel))
    }

    /// Makes the async view of a channel that was spawned with [`Spawner::pollable`]. A task
    /// of the tokio runtime in whose context this is called reads for it: as long as it is used
    /// by tasks of that runtime only, no other thread is involved. Once a task of another
    /// executor waits, the library's own thread reads, as for [`AsyncChannel::new`]; a task
    /// that another executor polls inside of that runtime's context counts as the runtime's.
    /// The runtime must have its I/O driver enabled.
    ///
    /// # Errors
    ///
    /// As [`AsyncChannel::new`], and [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported)
    /// outside of a runtime.
    #[cfg(feature = "tokio")]
    pub fn on_tokio(channel: Channel) -> Result<Self> {
        let driver = TokioDriver::start(channel.core())?;
        Ok(Self::with_driver(driver, channel))
    }

    fn with_driver(driver: impl Any + Send + Sync, channel: Channel) -> Self {
        let shared = SharedChannel { _driver: Box::new(driver), channel };
        Self { shared: Arc::new(shared), spin: Duration::ZERO }
    }

    /// Starts a worker, on a thread of the library's, and returns its channel. The channel is
    /// pollable even if [`Spawner::pollable`] was not called. Dropping the future does not stop
    /// the start: the worker is ended as soon as it is there.
    ///
    /// # Errors
    ///
    /// As [`Spawner::spawn`] and [`AsyncChannel::new`].
    pub async fn spawn(spawner: Spawner) -> Result<Self> {
        Self::new(spawn_channel(spawner).await?)
    }

    /// Starts a worker as [`AsyncChannel::spawn`] does, with the reader of
    /// [`AsyncChannel::on_tokio`].
    ///
    /// # Errors
    ///
    /// As [`Spawner::spawn`] and [`AsyncChannel::on_tokio`].
    #[cfg(feature = "tokio")]
    pub async fn spawn_on_tokio(spawner: Spawner) -> Result<Self> {
        Self::on_tokio(spawn_channel(spawner).await?)
    }

    /// Has a task look for its reply for up to `max_spin` before it gives its thread back. If the
    /// worker answers sooner, that saves a wake-up of about ten microseconds; it costs the runtime
    /// that thread meanwhile. A task does not look if other tasks wait on this channel too, or if
    /// the worker is not known to run on another processor. Zero by default.
    #[must_use]
    pub fn with_spin(mut self, max_spin: Duration) -> Self {
        self.spin = max_spin;
        self
    }

    /// Returns the same channel, for threads. All of its methods may be used while tasks use
    /// this one.
    #[must_use]
    pub fn blocking(&self) -> &Channel {
        &self.shared.channel
    }

    /// Sends a request and awaits its reply: as [`Channel::call`].
    ///
    /// Cancel-safe: dropped at any await, the request is cancelled.
    ///
    /// # Errors
    ///
    /// As [`Channel::call`].
    pub async fn call<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        timeout: Duration,
    ) -> Result<Reply> {
        self.submit(kind, payload, timeout).await?.await
    }

    /// Sends a request whose reply is awaited later: as [`Channel::submit`]. This future waits
    /// only for room in the request ring.
    ///
    /// Cancel-safe: dropped before it is ready, nothing was sent, or what was sent of a
    /// long message is cancelled.
    ///
    /// # Errors
    ///
    /// As [`Channel::submit`].
    pub async fn submit<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        timeout: Duration,
    ) -> Result<AsyncPending> {
        let (core, limit) = (self.shared.channel.core(), TimeLimit::begin(timeout));
        requests::submit(core, (kind, None), payload, limit, self.spin, |_| {}).await
    }

    /// Sends a request and returns the stream of its chunks: as [`Channel::stream`].
    ///
    /// Cancel-safe, as [`AsyncChannel::submit`].
    ///
    /// # Errors
    ///
    /// As [`Channel::stream`].
    pub async fn stream<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        timeouts: impl Into<StreamTimeouts>,
    ) -> Result<AsyncStream> {
        let (core, deadlines) = (self.shared.channel.core(), timeouts.into().start());
        requests::stream(core, (kind, None), payload, deadlines, self.spin, |_| {}).await
    }

    /// Starts a request whose payload is written in parts: as [`Channel::write`]. Waits while
    /// another long message is on its way.
    ///
    /// Cancel-safe: dropped before it is ready, nothing was sent.
    ///
    /// # Errors
    ///
    /// As [`Channel::write`].
    pub async fn write(&self, kind: Kind, timeout: Duration) -> Result<AsyncMessageWriter<'_>> {
        AsyncMessageWriter::begin(self.shared.channel.core(), kind, timeout, self.spin).await
    }

    /// Returns the same channel for requests that are part of a trace: as [`Channel::traced`].
    pub fn traced<'a>(&'a self, trace: &'a TraceContext) -> AsyncTracedChannel<'a> {
        AsyncTracedChannel::new(self.shared.channel.core(), self.spin, trace)
    }

    /// Waits until the worker has built its session: as [`Channel::wait_ready`].
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`Channel::wait_ready`].
    pub async fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let deadline = Deadline::after(timeout);
        let pending = self.submit(Kind::READY, &(), timeout).await?;
        prefault(self.shared.channel.core());
        pending.await?;
        if let Some(warm_up) = self.shared.channel.warm_up()
            && let Some((kind, payload)) = warm_up.request()
        {
            self.call(kind, payload, deadline.remaining()).await?;
            warm_up.note_served();
        }
        Ok(())
    }

    /// Asks the worker for a report: as [`Channel::ping`].
    ///
    /// Cancel-safe: an answer that comes later is dropped.
    ///
    /// # Errors
    ///
    /// As [`Channel::ping`].
    pub async fn ping(&self, timeout: Duration) -> Result<Health> {
        health::ping(&self.shared.channel, timeout).await
    }

    /// Ends the worker: as [`Channel::close`], without blocking.
    ///
    /// Cancel-safe: once it has been polled the channel is closed, and the worker is ended
    /// in the background if the future is dropped.
    ///
    /// # Errors
    ///
    /// As [`Channel::close`].
    pub async fn close(&self, timeout: Duration) -> Result<ExitCause> {
        health::close(&self.shared.channel, timeout).await
    }

    /// Waits until no call or stream is in flight, and then ends the worker as
    /// [`AsyncChannel::close`] does. `timeout` bounds the wait; what is left of it is the
    /// timeout of the close.
    ///
    /// Cancel-safe: dropped while requests are in flight, nothing was closed.
    ///
    /// # Errors
    ///
    /// As [`AsyncChannel::close`].
    pub async fn close_draining(&self, timeout: Duration) -> Result<ExitCause> {
        let deadline = Deadline::after(timeout);
        let channel = &self.shared.channel;
        let mut timer = Timer::default();
        poll_fn(|context| {
            let is_drained = channel.in_flight() == 0 || !channel.is_alive();
            // Looks again soon: that a request is dropped wakes no other task.
            if is_drained || timer.poll(deadline, context) {
                return Poll::Ready(());
            }
            if timer.poll(deadline.at_most(DRAIN_LOOK), context) {
                context.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
        self.close(deadline.remaining()).await
    }

    /// Waits until the worker has ended, in any way, and returns how: as
    /// [`Channel::wait_exit`], but without a timeout. Neither ends the worker nor closes the
    /// channel. Only the worker's end wakes the task.
    ///
    /// To wait for a limited time, drop the future when the time is up.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a forked child.
    pub async fn closed(&self) -> Result<ExitCause> {
        fork::check()?;
        health::wait_exit(&self.shared.channel, Deadline::NEVER).await
    }
}
