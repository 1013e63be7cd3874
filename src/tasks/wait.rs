//! Awaiting replies and chunks.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::channel::{Engine, Item, Pending, Phase, Place, Reply, Stream, check_not_forked};
use crate::error::{Error, Result};
use crate::sys::clock::{Deadline, now_ns};
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
    /// The wait for the next chunk, while there is one.
    wait: Option<ChunkWait>,
}

/// Between two looks at what is known of a worker that has just died.
const LOOK: Duration = Duration::from_millis(1);

/// A task's wait for a chunk.
#[derive(Debug, Clone, Copy)]
struct ChunkWait {
    /// When it began, in nanoseconds of the monotonic clock.
    since: u64,
    /// When to look at why nothing has come.
    until: Deadline,
    /// How often it has begun anew because the task was away.
    restarts: u32,
}

/// How late a task may look after its deadline and count as having waited until then. One
/// that comes later was busy elsewhere: what it did not wait for does not count.
const LATE: Duration = Duration::from_millis(10);
/// How often a wait begins anew for that reason, without anything having come.
const MOST_RESTARTS: u32 = 3;

impl AsyncStream {
    pub(super) fn new(stream: Stream, spin: Duration) -> Self {
        let waiting = Waiting::new(stream.engine(), stream.request(), spin);
        Self { waiting, stream, wait: None }
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
    /// it is awaited without losing a chunk; the chunk timeout counts only while it is
    /// awaited. Polled as a `Stream` of `futures`, which does not tell when the task stops
    /// waiting, a task that looks more than 10 ms after the timeout has passed gets another
    /// one, up to three times for a chunk.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn next_chunk(&mut self) -> Result<Option<Reply>> {
        let awaited = Awaited(self);
        poll_fn(|context| awaited.0.poll_chunk(context)).await
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Reply>>> {
        if self.stream.is_over() {
            return Poll::Ready(Ok(None));
        }
        let found = loop {
            let wait = *self.wait.get_or_insert_with(|| ChunkWait::begin(&self.stream, 0));
            match self.waiting.poll(context, wait.until, true) {
                Poll::Ready(Ok(Some(item))) => break Ok(item),
                Poll::Ready(Err(error)) => break Err(error),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(None)) => {}
            }
            let was_away = wait.until.later_by(LATE).has_passed();
            if was_away && wait.restarts < MOST_RESTARTS {
                self.wait = Some(ChunkWait::begin(&self.stream, wait.restarts + 1));
                continue;
            }
            match self.stream.wait_on(wait.since) {
                Ok(until) => self.wait = Some(ChunkWait { until, ..wait }),
                Err(error) => break Err(error),
            }
        };
        self.wait = None;
        let chunk = self.stream.chunk_of(found);
        self.stream.count_consumed();
        Poll::Ready(chunk)
    }
}

impl ChunkWait {
    fn begin(stream: &Stream, restarts: u32) -> Self {
        let since = now_ns();
        Self { since, until: Deadline::from(since, stream.first_wait()), restarts }
    }
}

/// A stream whose next chunk is awaited. Dropping this ends the wait, and so what counts
/// towards the chunk timeout.
struct Awaited<'a>(&'a mut AsyncStream);

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.0.wait = None;
    }
}

impl futures_core::Stream for AsyncStream {
    type Item = Result<Reply>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_chunk(context).map(Result::transpose)
    }
}

/// The error, once the exit status is known if it tells of the worker's death: waits for that
/// as a thread would, see [`Life::with_status`], without blocking one.
pub(super) async fn with_status(engine: &Engine, error: Error, deadline: Deadline) -> Error {
    if error.is_peer_dead() {
        let (life, mut timer) = (&engine.life, Timer::default());
        let mut end = life.ended.seat();
        poll_fn(|context| {
            // Before the look, so that what comes after it wakes the task.
            end.wait(context.waker());
            match life.patience_ends() {
                Some(patience) if !timer.poll(deadline.min(patience), context) => Poll::Pending,
                _ => Poll::Ready(()),
            }
        })
        .await;
    }
    error
}

/// A task's wait for the next item of a request.
#[derive(Debug)]
struct Waiting {
    engine: Arc<Engine>,
    request: u64,
    timer: Timer,
    spin: Duration,
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
        Self { engine, request, timer, spin, at_end, is_counted: false }
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
            self.spin(is_stream, deadline);
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
        engine.attend();
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
            return self.why_over(context, deadline);
        }
        if self.timer.poll_for_peer(deadline, context) {
            return Poll::Ready(Ok(None));
        }
        Poll::Pending
    }

    /// The error that ends the wait; a worker that has just died gets a moment for its
    /// exit status to be known.
    fn why_over(
        &mut self,
        context: &Context<'_>,
        deadline: Deadline,
    ) -> Poll<Result<Option<Item>>> {
        self.engine.wake_at_end(&mut self.at_end, context.waker());
        let life = &self.engine.life;
        if let Some(patience) = life.patience_ends()
            && !self.timer.poll(deadline.min(patience).at_most(LOOK), context)
        {
            return Poll::Pending;
        }
        Poll::Ready(Err(life.why_over_now(Some(self.request))))
    }

    /// Looks for a while before the task gives its thread back, if it was asked to and if
    /// that can help.
    fn spin(&self, is_stream: bool, deadline: Deadline) {
        let engine = &self.engine;
        if self.spin == Duration::ZERO || !engine.may_spin() {
            return;
        }
        if is_stream {
            engine.consumed(self.request, 0, true);
        }
        let until = deadline.at_most(self.spin);
        while !engine.has_item(self.request) && engine.life.is_open() && !until.has_passed() {
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
        self.timer.begin_anew();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.stop();
    }
}
