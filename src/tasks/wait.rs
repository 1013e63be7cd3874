//! Awaiting replies and chunks.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::channel::{
    Body, ChannelState, Chunks, Core, Item, PartSource, Pending, Place, Reply, Source, Stream,
    TaskFound, TaskWait, TaskWant,
};
use crate::error::{Error, Result};
use crate::id::RequestId;
#[cfg(feature = "async")]
use crate::shm::bytes::PeerBytes;
use crate::sys::clock::{Deadline, now_ns};
use crate::tasks::reader::{AsyncMessageReader, AsyncPartSource};
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
        let item_wait = ItemWait::new(&pending.awaited().core, pending.request(), spin);
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

    /// Waits until the reply begins to come, and returns a reader that takes it piece by piece where
    /// it lies: as [`Pending::wait_reader`]. For replies that are longer than a frame, which are
    /// collected first if this is awaited itself.
    ///
    /// Cancel-safe: dropped before it is ready, the request is cancelled.
    ///
    /// # Errors
    ///
    /// As [`Pending::wait_reader`], except for
    /// [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted).
    pub async fn wait_reader(self) -> Result<AsyncMessageReader<'static>> {
        self.pending.take_in_pieces();
        AsyncMessageReader::of_reply(self).await
    }
}

impl AsyncPartSource for AsyncPending {
    fn blocking(&mut self) -> &mut dyn PartSource {
        &mut self.pending
    }

    fn poll_part(&mut self, context: &Context<'_>) -> Poll<Result<Option<(Reply, Place)>>> {
        loop {
            let deadline = self.pending.awaited().limit.deadline();
            let found = match ready!(self.item_wait.poll(context, deadline, TaskWant::Part)) {
                Ok(Found::Item(item)) => Ok(Some(item)),
                Ok(Found::Buffered | Found::Expired) => Ok(None),
                Err(error) => Err(error),
            };
            // If there is nothing, the deadline has passed, and the next look says so.
            if let Some(part) = self.pending.part_of(found).transpose() {
                return Poll::Ready(part.map(Some));
            }
        }
    }

    fn end_wait(&mut self) {
        self.item_wait.end();
    }
}

impl Future for AsyncPending {
    type Output = Result<Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let deadline = this.pending.awaited().limit.deadline();
        let polled = match ready!(this.item_wait.poll(context, deadline, TaskWant::Reply)) {
            Ok(Found::Item(item)) => {
                let reply = this.pending.awaited().reply_of(item);
                if reply.is_ok() {
                    this.pending.awaited().note_answer(1);
                }
                reply
            }
            Ok(Found::Buffered | Found::Expired) => Err(this.pending.awaited().timed_out()),
            Err(error) => Err(this.pending.awaited().core.counted(error)),
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
        let item_wait = ItemWait::new(&stream.core, stream.request, spin);
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

    /// Returns the next chunk, `None` at the end: as [`Stream::next_chunk`]. The chunk is a copy
    /// outside of the ring, whatever its length: a task may keep any number of them. The future may
    /// be dropped while it is awaited without losing a chunk. The chunk timeout counts only while it
    /// is awaited.
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

    /// Returns the next chunks that are there, up to a share of the ring, `None` at the end: as
    /// [`Stream::next_chunks`]. They stay where they are, and their slots with them, until the batch
    /// is dropped: drop it before something else is awaited. If other tasks, or threads, wait on
    /// this channel at the same time, the chunks may be copies.
    ///
    /// Waits, and may be dropped, as [`AsyncStream::next_chunk`]. Both can be used for one stream.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use slipring::tasks::AsyncChannel;
    /// # use slipring::{Config, Kind, RoleConfig, testing, worker::Worker};
    /// # const COUNT: Kind = Kind::named("count");
    /// # let make = || Worker::new(|_| Ok(())).on(COUNT, |(), _, responder| {
    /// #     let mut chunks = responder.stream();
    /// #     chunks.send_all(["one", "two", "three"])?;
    /// #     Ok(chunks.end()?)
    /// # });
    /// # let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// # let timeout = std::time::Duration::from_secs(10);
    /// # #[cfg(feature = "tokio")]
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let channel = AsyncChannel::new(channel)?;
    /// let mut stream = channel.stream(COUNT, "", timeout).await?;
    /// let mut text = String::new();
    /// while let Some(chunks) = stream.next_chunks().await? {
    ///     for chunk in &chunks {
    ///         text += &chunk.text()?;
    ///     }
    /// }
    /// assert_eq!(text, "onetwothree");
    /// # Ok::<(), slipring::Error>(())
    /// # })?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`AsyncStream::next_chunk`].
    pub async fn next_chunks(&mut self) -> Result<Option<Chunks<'_>>> {
        let source = {
            let awaited = Awaited(self);
            poll_fn(|context| awaited.0.poll_source(context)).await?
        };
        Ok(source.map(|source| self.stream.batch(source)))
    }

    /// Waits for the next chunk, and returns a reader that takes it piece by piece where it lies;
    /// `None` at the end: as [`Stream::next_reader`].
    ///
    /// Waits, and may be dropped, as [`AsyncStream::next_chunk`]. Dropped before it is ready, no part
    /// of the chunk was taken.
    ///
    /// # Errors
    ///
    /// As [`AsyncStream::next_chunk`].
    pub async fn next_reader(&mut self) -> Result<Option<AsyncMessageReader<'_>>> {
        AsyncMessageReader::of_chunk(self).await
    }

    /// Ends the wait for a chunk, if there is one, and so what counts towards its timeout.
    pub(crate) fn end_wait(&mut self) {
        self.chunk_wait = None;
        self.item_wait.end();
    }

    /// As [`AsyncStream::next_chunk`]. The chunk timeout counts from the first look on, until
    /// [`AsyncStream::end_wait`] if the task goes away before a chunk comes.
    pub(crate) fn poll_chunk(&mut self, context: &Context<'_>) -> Poll<Result<Option<Reply>>> {
        if let Some(chunk) = self.stream.next_buffered() {
            return Poll::Ready(Ok(Some(chunk)));
        }
        if self.stream.is_over {
            return Poll::Ready(Ok(None));
        }
        let found = ready!(self.poll_next_item(context, false)).map(|item| item.map(copied));
        Poll::Ready(self.stream.next_of(found))
    }

    /// Gives out chunks that lie ready outside of the ring, as long as `take` takes them.
    #[cfg(feature = "async")]
    pub(crate) fn take_ready(&mut self, take: &mut dyn FnMut(PeerBytes<'_>) -> bool) {
        self.stream.take_buffered(take);
    }

    fn poll_source(&mut self, context: &Context<'_>) -> Poll<Result<Option<Source>>> {
        if self.stream.is_over {
            return Poll::Ready(Ok(None));
        }
        let found = ready!(self.poll_next_item(context, true));
        Poll::Ready(self.stream.source_of(found))
    }

    /// The next item; `None` if something is buffered.
    fn poll_next_item(
        &mut self,
        context: &Context<'_>,
        takes_runs: bool,
    ) -> Poll<Result<Option<Item>>> {
        if !self.stream.must_look() {
            return Poll::Ready(Ok(None));
        }
        let found = loop {
            if let Err(error) = self.stream.check_total() {
                break Err(error);
            }
            let wait = *self.chunk_wait.get_or_insert_with(|| ChunkWait::begin(&self.stream, 0));
            let want = TaskWant::Chunks(self.stream.buffer_for_task(takes_runs));
            match ready!(self.item_wait.poll(context, wait.until, want)) {
                Ok(Found::Item(item)) => break Ok(Some(item)),
                Ok(Found::Buffered) => break Ok(None),
                Err(error) => break Err(error),
                Ok(Found::Expired) => {}
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
        Poll::Ready(found)
    }
}

impl AsyncPartSource for AsyncStream {
    fn blocking(&mut self) -> &mut dyn PartSource {
        &mut self.stream
    }

    fn poll_part(&mut self, context: &Context<'_>) -> Poll<Result<Option<(Reply, Place)>>> {
        if let Some(chunk) = self.stream.next_buffered() {
            return Poll::Ready(Ok(Some((chunk, Place::WHOLE))));
        }
        if self.stream.is_over {
            return Poll::Ready(Ok(None));
        }
        self.stream.begin_part();
        let part = self.poll_next_item(context, false).map(|found| self.stream.next_of(found));
        let place = self.stream.end_part();
        part.map(|part| Ok(part?.zip(place)))
    }

    fn end_wait(&mut self) {
        Self::end_wait(self);
    }
}

/// A chunk outside of the ring, of which a task may keep as many as it likes.
fn copied(item: Item) -> Item {
    match item {
        Item::Chunk(body @ Body::Lease(_), cost) => Item::Chunk(Body::Owned(body.into_vec()), cost),
        item => item,
    }
}

impl ChunkWait {
    fn begin(stream: &Stream, restarts: u32) -> Self {
        let since = now_ns();
        Self { since, until: Deadline::from(since, stream.first_wait()), restarts }
    }
}

/// A stream whose next chunk is awaited. Dropping this ends the wait.
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

/// What a task's wait has ended with.
enum Found {
    Item(Item),
    /// Chunks are in the stream's buffer.
    Buffered,
    /// The deadline has passed.
    Expired,
}

impl ItemWait {
    fn new(core: &Arc<Core>, request: u64, spin: Duration) -> Self {
        Self { task_wait: TaskWait::new(core, request), timer: Timer::default(), spin }
    }

    /// The next item.
    fn poll(
        &mut self,
        context: &Context<'_>,
        deadline: Deadline,
        want: TaskWant<'_>,
    ) -> Poll<Result<Found>> {
        let found = match self.task_wait.poll(context.waker(), self.spin, deadline, want)? {
            Poll::Ready(TaskFound::Item(item)) => Ok(Found::Item(item)),
            Poll::Ready(TaskFound::Buffered) => Ok(Found::Buffered),
            Poll::Ready(TaskFound::Over) => {
                // A worker that has just died gets a moment for its exit status to be known.
                let TaskWait { core, request, exit_key, .. } = &mut self.task_wait;
                let state = &core.state;
                state.exit_waiters.wait(exit_key, context.waker());
                if awaits_exit_status(state, &mut self.timer, deadline, context) {
                    return Poll::Pending;
                }
                Err(state.why_over_now(Some(*request)))
            }
            Poll::Pending if self.timer.poll_for_peer(deadline, context) => Ok(Found::Expired),
            Poll::Pending => return Poll::Pending,
        };
        self.end();
        Poll::Ready(found)
    }

    /// Ends the wait. The next [`ItemWait::poll`] begins another.
    fn end(&mut self) {
        self.task_wait.end();
        self.timer.begin_anew();
    }
}
