//! Awaiting replies and chunks.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::channel::{ChannelState, Core, Item, Pending, Reply, Stream, TaskWait};
use crate::error::{Error, Result};
use crate::id::RequestId;
use crate::sys::clock::{Deadline, now_ns};
use crate::tasks::timer::Timer;

/// A request whose reply can be awaited. Dropping it, before or while it is awaited,
/// cancels the request.
///
/// # Errors
///
/// It ends as [`Pending::wait`] does, except for [`ErrorKind::Interrupted`].
///
/// [`ErrorKind::Interrupted`]: crate::ErrorKind::Interrupted
#[derive(Debug)]
#[must_use = "a pending reply that is dropped cancels its request"]
pub struct AsyncPending {
    /// Dropped first: it takes its waker out of the table.
    item_wait: ItemWait,
    pending: Pending,
}

impl AsyncPending {
    pub(super) fn new(pending: Pending, spin: Duration) -> Self {
        let item_wait = ItemWait::new(&pending.awaited().core, pending.request(), false, spin);
        Self { item_wait, pending }
    }

    /// Returns the request's id.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.pending.id()
    }

    /// Cancels the request; see [`Pending::cancel`].
    pub fn cancel(&self) {
        self.pending.cancel();
    }

    /// Returns the same request, to be waited for by a thread.
    pub fn into_blocking(self) -> Pending {
        self.pending
    }
}

impl Future for AsyncPending {
    type Output = Result<Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let polled = match this.item_wait.poll(context, this.pending.awaited().limit.deadline()) {
            Poll::Ready(Ok(Some(item))) => {
                let reply = this.pending.awaited().reply_of(item);
                if reply.is_ok() {
                    this.pending.awaited().note_answer(1);
                }
                reply
            }
            Poll::Ready(Ok(None)) => Err(this.pending.awaited().timed_out()),
            Poll::Ready(Err(error)) => Err(this.pending.awaited().core.counted(error)),
            Poll::Pending => return Poll::Pending,
        };
        // An executor may keep a future for long after it was ready.
        this.pending.end();
        Poll::Ready(polled)
    }
}

/// The chunks of a stream, in order, each exactly once: a `Stream` of `futures`.
/// Dropping it cancels the stream; the next request is not affected.
#[derive(Debug)]
#[must_use = "a stream that is dropped is cancelled"]
pub struct AsyncStream {
    /// Dropped first, as for a reply.
    item_wait: ItemWait,
    stream: Stream,
    /// The wait for the next chunk, while there is one.
    chunk_wait: Option<ChunkWait>,
}

/// Between two looks at what is known of a worker that has just died. Its exit status wakes the
/// task, but that its threads have stopped does not.
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
        let item_wait = ItemWait::new(&stream.core, stream.request, true, spin);
        Self { item_wait, stream, chunk_wait: None }
    }

    /// Returns the request's id.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.stream.id()
    }

    /// Asks the worker to end the stream; see [`Stream::cancel`].
    pub fn cancel(&self) {
        self.stream.cancel();
    }

    /// Returns the next chunk, `None` at the end: as [`Stream::next_chunk`]. The future may be
    /// dropped while it is awaited without losing a chunk. The chunk timeout counts only while
    /// it is awaited.
    ///
    /// A `Stream` of `futures` is not told when its task stops waiting. So if this is polled as
    /// one, and the task looks more than 10 ms after the timeout has passed, the timeout begins
    /// anew, up to three times for a chunk.
    ///
    /// # Errors
    ///
    /// As [`Stream::next_chunk`], except for
    /// [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted).
    pub async fn next_chunk(&mut self) -> Result<Option<Reply>> {
        let awaited = Awaited(self);
        poll_fn(|context| awaited.0.poll_chunk(context)).await
    }

    /// As [`AsyncStream::next_chunk`]. The chunk timeout counts from the first look on, until
    /// [`AsyncStream::end_wait`] if the task goes away before a chunk comes.
    pub(crate) fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Reply>>> {
        if self.stream.is_over {
            return Poll::Ready(Ok(None));
        }
        let found = loop {
            if let Err(error) = self.stream.check_total() {
                break Err(error);
            }
            let wait = *self.chunk_wait.get_or_insert_with(|| ChunkWait::begin(&self.stream, 0));
            match self.item_wait.poll(context, wait.until) {
                Poll::Ready(Ok(Some(item))) => break Ok(item),
                Poll::Ready(Err(error)) => break Err(error),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(None)) => {}
            }
            let was_away = wait.until.later_by(LATE).has_passed();
            if was_away && wait.restarts < MOST_RESTARTS {
                self.chunk_wait = Some(ChunkWait::begin(&self.stream, wait.restarts + 1));
                continue;
            }
            match self.stream.next_wait(wait.since) {
                Ok(until) => self.chunk_wait = Some(ChunkWait { until, ..wait }),
                Err(error) => break Err(error),
            }
        };
        self.chunk_wait = None;
        let chunk = self.stream.chunk_of(found);
        self.stream.pass_on_consumed();
        Poll::Ready(chunk)
    }

    /// The task does not wait for a chunk any more.
    pub(crate) fn end_wait(&mut self) {
        self.chunk_wait = None;
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
        self.0.end_wait();
    }
}

#[cfg(feature = "async")]
impl futures_core::Stream for AsyncStream {
    type Item = Result<Reply>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_chunk(context).map(Result::transpose)
    }
}

/// The outcome of `tried`. An error that tells of the worker's death comes once the exit status
/// is known: waits for that as a thread would, see `ChannelState::with_exit_status`, without
/// blocking one.
pub(super) async fn with_exit_status<T>(
    core: &Core,
    deadline: Deadline,
    tried: impl Future<Output = Result<T>>,
) -> Result<T> {
    let tried = tried.await;
    if tried.as_ref().is_err_and(Error::is_peer_dead) {
        let (state, mut timer) = (&core.state, Timer::default());
        let mut end = state.exit_waiters.register();
        poll_fn(|context| {
            // Before the look, so that what comes after it wakes the task.
            end.wait(context.waker());
            match awaits_exit_status(state, &mut timer, deadline, context) {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
    }
    tried
}

/// Whether an error that tells of the worker's death is to wait for the exit status. If so, the
/// task looks again soon.
fn awaits_exit_status(
    state: &ChannelState,
    timer: &mut Timer,
    deadline: Deadline,
    context: &Context<'_>,
) -> bool {
    state
        .exit_status_deadline()
        .is_some_and(|status_by| !timer.poll(deadline.min(status_by).at_most(LOOK), context))
}

/// A [`TaskWait`] with its timer, and what follows when the channel is over.
#[derive(Debug)]
struct ItemWait {
    task_wait: TaskWait,
    timer: Timer,
    spin: Duration,
}

impl ItemWait {
    fn new(core: &Arc<Core>, request: u64, is_stream: bool, spin: Duration) -> Self {
        Self { task_wait: TaskWait::new(core, request, is_stream), timer: Timer::default(), spin }
    }

    /// The next item; `Ok(None)` when the deadline has passed.
    fn poll(&mut self, context: &Context<'_>, deadline: Deadline) -> Poll<Result<Option<Item>>> {
        let found = match self.task_wait.poll(context.waker(), self.spin, deadline)? {
            Poll::Ready(Some(item)) => Ok(Some(item)),
            Poll::Ready(None) => {
                // A worker that has just died gets a moment for its exit status to be known.
                let TaskWait { core, request, exit_key, .. } = &mut self.task_wait;
                let state = &core.state;
                state.exit_waiters.wait(exit_key, context.waker());
                if awaits_exit_status(state, &mut self.timer, deadline, context) {
                    return Poll::Pending;
                }
                Err(state.why_over_now(Some(*request)))
            }
            Poll::Pending if self.timer.poll_for_peer(deadline, context) => Ok(None),
            Poll::Pending => return Poll::Pending,
        };
        self.task_wait.end();
        self.timer.begin_anew();
        Poll::Ready(found)
    }
}
