//! Awaiting replies and chunks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::channel::{Engine, Item, Pending, Phase, Place, Reply, Stream, check_not_forked};
use crate::error::Result;
use crate::shm::clock::Deadline;
use crate::tasks::timer::Timer;

/// A request whose reply can be awaited. Dropping it, before or while it is awaited,
/// gives the request up.
#[derive(Debug)]
#[must_use = "a pending reply that is dropped cancels its request"]
pub struct AsyncPending {
    /// Dropped first: it takes its waker out of the table.
    waiting: Waiting,
    pending: Pending,
}

impl AsyncPending {
    pub(super) fn new(pending: Pending, spin: Duration) -> Self {
        let waiting = Waiting::new(pending.engine(), pending.request(), spin);
        Self { waiting, pending }
    }

    /// The request's id.
    #[must_use]
    pub fn request(&self) -> u64 {
        self.pending.request()
    }

    /// Asks the worker to give up; see [`Pending::cancel`].
    pub fn cancel(&self) {
        self.pending.cancel();
    }

    /// The same request, to be waited for by a thread.
    pub fn into_blocking(self) -> Pending {
        self.pending
    }
}

impl Future for AsyncPending {
    type Output = Result<Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match this.waiting.poll(context, this.pending.deadline(), false) {
            Poll::Ready(Ok(Some(item))) => Poll::Ready(this.pending.reply_of(item)),
            Poll::Ready(Ok(None)) => Poll::Ready(Err(this.pending.timed_out())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The chunks of a stream, in order, each exactly once: a `Stream` of `futures`.
/// Dropping it cancels the stream; the next request is not affected.
#[derive(Debug)]
#[must_use = "a stream that is dropped is cancelled"]
pub struct AsyncStream {
    /// Dropped first, as for a reply.
    waiting: Waiting,
    stream: Stream,
    /// When the chunk that is being waited for counts as stalled.
    deadline: Option<Deadline>,
}

impl AsyncStream {
    pub(super) fn new(stream: Stream, spin: Duration) -> Self {
        let waiting = Waiting::new(stream.engine(), stream.request(), spin);
        Self { waiting, stream, deadline: None }
    }

    /// The request's id.
    #[must_use]
    pub fn request(&self) -> u64 {
        self.stream.request()
    }

    /// Asks the worker to end the stream; see [`Stream::cancel`].
    pub fn cancel(&self) {
        self.stream.cancel();
    }

    /// The next chunk, `None` at the end: as [`Stream::next_chunk`]. May be dropped while
    /// it is awaited without losing a chunk.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn next_chunk(&mut self) -> Result<Option<Reply>> {
        std::future::poll_fn(|context| self.poll_chunk(context)).await
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Reply>>> {
        if self.stream.is_over() {
            return Poll::Ready(Ok(None));
        }
        let timeout = self.stream.chunk_timeout();
        let deadline = *self.deadline.get_or_insert_with(|| Deadline::after(timeout));
        let found = match self.waiting.poll(context, deadline, true) {
            Poll::Ready(found) => found,
            Poll::Pending => return Poll::Pending,
        };
        self.deadline = None;
        let chunk = self.stream.chunk_of(found);
        self.stream.count_consumed();
        Poll::Ready(chunk)
    }
}

impl futures_core::Stream for AsyncStream {
    type Item = Result<Reply>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_chunk(context).map(Result::transpose)
    }
}

/// How long an error waits for the exit status to be known; as for threads.
const GRACE: Duration = Duration::from_millis(2);

/// A task's wait for the next item of a request.
#[derive(Debug)]
struct Waiting {
    engine: Arc<Engine>,
    request: u64,
    timer: Timer,
    spin: Duration,
    /// Until when an exit status is waited for.
    grace: Option<Deadline>,
    /// Among those who wait for it.
    at_end: Place,
    /// Counted among the channel's waiting tasks.
    is_counted: bool,
}

impl Waiting {
    fn new(engine: &Arc<Engine>, request: u64, spin: Duration) -> Self {
        let engine = Arc::clone(engine);
        let timer = Timer::default();
        let at_end = Place::default();
        Self { engine, request, timer, spin, grace: None, at_end, is_counted: false }
    }

    /// The next item; `Ok(None)` when the deadline has passed.
    fn poll(
        &mut self,
        context: &Context<'_>,
        deadline: Deadline,
        is_stream: bool,
    ) -> Poll<Result<Option<Item>>> {
        // A forked child has neither the rings nor the threads.
        check_not_forked()?;
        if !self.is_counted {
            // From here on every thread that stops reading arms the descriptor.
            self.is_counted = true;
            self.engine.add_task();
            self.spin(is_stream);
        }
        let found = self.look(context, deadline, is_stream);
        if found.is_ready() {
            self.stop();
        }
        found
    }

    fn look(
        &mut self,
        context: &Context<'_>,
        deadline: Deadline,
        is_stream: bool,
    ) -> Poll<Result<Option<Item>>> {
        let engine = &self.engine;
        if let Some(item) = engine.take_or_wake(self.request, context.waker()) {
            return Poll::Ready(Ok(Some(item)));
        }
        if is_stream {
            engine.consumed(self.request, 0, true);
        }
        // Read before the last look at the ring, as for threads.
        let phase = engine.life.phase();
        let has_looked = engine.pump();
        if let Some(item) = engine.take(self.request) {
            return Poll::Ready(Ok(Some(item)));
        }
        if phase == Phase::Dead && !has_looked {
            // Somebody else is having the last look, and is done in a moment.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if phase != Phase::Open {
            return self.why_over(context);
        }
        if self.timer.poll(deadline, context) {
            return Poll::Ready(Ok(None));
        }
        Poll::Pending
    }

    /// The error that ends the wait; a worker that has just died gets a moment for its
    /// exit status to be known.
    fn why_over(&mut self, context: &Context<'_>) -> Poll<Result<Option<Item>>> {
        let grace = *self.grace.get_or_insert_with(|| Deadline::after(GRACE));
        self.engine.wake_at_end(&mut self.at_end, context.waker());
        let life = &self.engine.life;
        if life.awaits_status() && !self.timer.poll(grace, context) {
            return Poll::Pending;
        }
        Poll::Ready(Err(life.why_over_now(Some(self.request))))
    }

    /// Looks for a while before the task gives its thread back, if it was asked to and if
    /// that can help.
    fn spin(&self, is_stream: bool) {
        let engine = &self.engine;
        if self.spin == Duration::ZERO || !engine.may_spin() {
            return;
        }
        if is_stream {
            engine.consumed(self.request, 0, true);
        }
        let until = Instant::now() + self.spin;
        while !engine.has_item(self.request) && engine.life.is_open() && Instant::now() < until {
            engine.read_for_tasks();
            std::hint::spin_loop();
        }
        // Whoever found the lock taken meanwhile, and whoever waits now.
        engine.end_spin();
    }

    fn stop(&mut self) {
        if std::mem::take(&mut self.is_counted) {
            self.engine.remove_task();
            self.engine.stop_waiting(self.request);
        }
        self.engine.leave_end(&mut self.at_end);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.stop();
    }
}
