//! A stream of chunks, read by a thread.

mod parts;

use std::iter::FusedIterator;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::channel::chunks::{Chunks, Source};
use crate::channel::core::Core;
use crate::channel::explain::{cancelled, stream_expired};
use crate::channel::item::{Body, Item, Place};
use crate::channel::message_reader::MessageReader;
use crate::channel::reactor_turn::take_for_host;
use crate::channel::reader::Want;
use crate::channel::reply::Reply;
use crate::channel::stream_buffer::StreamBuffer;
use crate::channel::stream_timeouts::StreamDeadlines;
use crate::channel::stream_waits::StreamWaits;
use crate::channel::wait::{WaitLimit, wait_for_item};
use crate::error::{Error, ErrorKind, Result};
use crate::id::RequestId;
use crate::ring::position::span;
#[cfg(feature = "async")]
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::as_usize;
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::fork;

/// The chunks of a stream, in order, each exactly once. Dropping it cancels the stream;
/// the next request is not affected.
///
/// An iterator: it ends after the last chunk, or after the first error.
///
/// ```
#[doc = include_str!("example.md")]
/// let mut stream = channel.stream(COUNT, "", timeout)?;
/// while let Some(chunk) = stream.next_chunk()? {
///     println!("{} bytes", chunk.len());
/// }
/// # channel.close(timeout)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a stream that is dropped is cancelled"]
pub struct Stream {
    pub(crate) core: Arc<Core>,
    pub(crate) request: u64,
    waits: StreamWaits,
    pub(crate) is_over: bool,
    buffer: StreamBuffer,
    /// The pending table gives the pieces of long chunks out one by one.
    is_in_pieces: bool,
    /// Where the part stands that came last; `None` unless a part is waited for.
    place: Option<Place>,
}

impl Stream {
    pub(crate) fn new(core: Arc<Core>, request: u64, deadlines: StreamDeadlines) -> Self {
        let buffer = StreamBuffer::new(core.buffers.chunk_buffer());
        let waits = StreamWaits::new(deadlines, &core);
        Self { core, request, waits, is_over: false, buffer, is_in_pieces: false, place: None }
    }

    /// Returns the request's id.
    #[must_use]
    pub fn id(&self) -> RequestId {
        RequestId::new(self.request)
    }

    /// Waits for the next chunk; `None` at the end.
    ///
    /// Blocks for at most the chunk timeout, or for the first chunk's own timeout before the first
    /// chunk. That time counts from this call, or from when the worker begins the request if that
    /// is later. If the worker does not begin the request, blocks until the queue timeout has
    /// passed. In any case the total timeout of the stream ends the wait. See
    /// [`StreamTimeouts`](crate::StreamTimeouts).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Stalled`] if nothing comes in that time, and [`ErrorKind::Timeout`] if
    /// the request is not begun in time or the stream not over in time:
    /// [`Error::stream_timeout`] tells which it was; [`ErrorKind::HandlerFailed`] if the handler
    /// fails, after the chunks that it sent before; [`ErrorKind::Cancelled`] after
    /// [`Stream::cancel`]; [`ErrorKind::Protocol`] if the worker sends one result;
    /// [`ErrorKind::Closed`], [`ErrorKind::PeerDied`], [`ErrorKind::PeerCorrupt`],
    /// [`ErrorKind::Forked`] if the channel is over; [`ErrorKind::Session`] if that is because the
    /// session could not be built. After each of these the stream is over.
    ///
    /// [`ErrorKind::Interrupted`] if a hook ends the wait, see
    /// [`Channel::on_interrupt`](crate::Channel::on_interrupt). The stream goes on after that.
    #[inline]
    pub fn next_chunk(&mut self) -> Result<Option<Reply>> {
        self.next().transpose()
    }

    /// Waits for the next chunk, and returns a reader that takes it piece by piece where it lies;
    /// `None` at the end. For chunks that are longer than a frame, which
    /// [`Stream::next_chunk`] collects first. Blocks as that does, until the first piece is there.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// # use slipring::{Config, Kind, RoleConfig, testing, worker::Worker};
    /// # use std::time::Duration;
    /// # const FRAMES: Kind = Kind::named("frames");
    /// # let make = || Worker::new(|_| Ok(())).on(FRAMES, |(), _, responder| {
    /// #     let mut chunks = responder.stream();
    /// #     for frame in 0..3 { chunks.send(&vec![frame; 4 << 20])?; }
    /// #     Ok(chunks.end()?)
    /// # });
    /// # let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// # let timeout = Duration::from_secs(10);
    /// let mut frames = channel.stream(FRAMES, "", timeout)?;
    /// let mut frame = vec![0; 4 << 20];
    /// while let Some(mut reader) = frames.next_reader()? {
    ///     reader.copy_to(&mut frame)?;
    /// }
    /// assert_eq!(frame, vec![2; 4 << 20]);
    /// # channel.close(timeout)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Stream::next_chunk`].
    pub fn next_reader(&mut self) -> Result<Option<MessageReader<'_>>> {
        MessageReader::of_chunk(self)
    }

    /// Returns the next chunk if it is there, without waiting: `Poll::Ready(None)` at the end,
    /// `Poll::Pending` if nothing is there yet. For a reactor that has called
    /// [`Channel::read_ready`](crate::Channel::read_ready). Of the timeouts of the stream only the
    /// total counts.
    ///
    /// # Errors
    ///
    /// As [`Stream::next_chunk`], except for the other timeouts and [`ErrorKind::Interrupted`].
    pub fn try_next_chunk(&mut self) -> Result<Poll<Option<Reply>>> {
        self.next_chunk_timeout(Duration::ZERO)
    }

    /// Waits for the next chunk for at most `timeout`: `Poll::Ready(None)` at the end,
    /// `Poll::Pending` if nothing has come then; the stream goes on. Of the timeouts of the stream
    /// only the total counts. Blocks.
    ///
    /// ```
    #[doc = include_str!("example.md")]
    /// use std::task::Poll;
    ///
    /// let mut stream = channel.stream(WAIT, "", timeout)?;
    /// assert!(stream.next_chunk_timeout(Duration::from_millis(1))?.is_pending());
    /// stream.cancel();
    /// assert!(stream.next_chunk().unwrap_err().is_cancelled());
    /// # channel.close(timeout)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Stream::next_chunk`], except for the other timeouts.
    pub fn next_chunk_timeout(&mut self, timeout: Duration) -> Result<Poll<Option<Reply>>> {
        match self.next_buffered() {
            Some(chunk) => Ok(Poll::Ready(Some(chunk))),
            None => self.chunk_with(|stream| stream.look_for_item(timeout)),
        }
    }

    /// Waits for the next chunks, and returns all that are there, up to a share of the ring; `None`
    /// at the end. They stay where they are, and their slots with them, until the batch is dropped:
    /// so a stream of many chunks costs a fraction of what it costs to take them one by one.
    ///
    /// Blocks as [`Stream::next_chunk`] does. Both can be used for one stream.
    ///
    /// ```
    #[doc = include_str!("example.md")]
    /// let mut stream = channel.stream(COUNT, "", timeout)?;
    /// let mut text = String::new();
    /// while let Some(chunks) = stream.next_chunks()? {
    ///     for chunk in &chunks {
    ///         text += &chunk.text()?;
    ///     }
    /// }
    /// assert_eq!(text, "onetwothree");
    /// # channel.close(timeout)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Stream::next_chunk`].
    pub fn next_chunks(&mut self) -> Result<Option<Chunks<'_>>> {
        let source = self.next_source()?;
        Ok(source.map(|source| self.batch(source)))
    }

    /// The batch of chunks that were found.
    pub(crate) fn batch(&mut self, source: Source) -> Chunks<'_> {
        Chunks::new(&mut self.buffer, source)
    }

    fn next_source(&mut self) -> Result<Option<Source>> {
        if self.is_over {
            return Ok(None);
        }
        let mut found = Ok(None);
        if self.must_look() {
            self.buffer.take_runs(true, &self.core.config);
            found = self.await_item();
            self.buffer.take_runs(false, &self.core.config);
        }
        self.source_of(found)
    }

    /// The next chunks of what was found. With `Ok(None)` something is buffered.
    pub(crate) fn source_of(&mut self, found: Result<Option<Item>>) -> Result<Option<Source>> {
        if let Some(item) = found.transpose() {
            return Ok(self.chunk_of(item)?.map(Source::One));
        }
        self.waits.note_item();
        let cost = self.buffer.hand_out_items();
        if cost != 0 {
            self.waits.note_chunk(&self.core);
            self.add_consumed(cost);
            return Ok(Some(Source::Items));
        }
        if let Some(item) = self.buffer.items.pop_front() {
            return Ok(self.chunk_of(Ok(item))?.map(Source::One));
        }
        if self.buffer.run().is_some() {
            self.waits.note_chunk(&self.core);
            // Now, and not when the run is given back: the worker goes on while the run is read,
            // also if it is one chunk that is longer than half of the window.
            self.add_consumed(as_usize(self.buffer.cost()));
            return Ok(Some(Source::Run));
        }
        Ok(self.first_copied().map(Source::One))
    }

    /// The next item within this time, if nothing was buffered meanwhile. A reactor of
    /// the host's reads the ring itself.
    fn look_for_item(&mut self, longest: Duration) -> Result<Option<Item>> {
        self.check_total()?;
        let longest = longest.min(self.waits.end_by().remaining());
        if longest != Duration::ZERO || !self.core.reactor_state.has_host_reactor() {
            return self.wait(longest);
        }
        self.core.pending.credit_all_before_wait(self.request, &mut self.buffer);
        take_for_host(&self.core, self.request, true)
    }

    /// The next item within this time, if nothing was buffered meanwhile.
    fn wait(&mut self, longest: Duration) -> Result<Option<Item>> {
        let want = Want::Chunk(self.request, &mut self.buffer);
        wait_for_item(&self.core, want, WaitLimit::For(longest), &mut false)
    }

    #[inline(never)]
    fn next_chunk_slow(&mut self) -> Option<Result<Reply>> {
        match self.chunk_with(Self::await_item) {
            Ok(Poll::Ready(chunk)) => chunk.map(Ok),
            // Cannot happen: `await_item` returns an item, or with something buffered, or an error.
            Ok(Poll::Pending) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// The next chunk when none is buffered that can be handed out at once. `find` waits for an item
    /// and may buffer chunks.
    fn chunk_with(
        &mut self,
        find: impl FnOnce(&mut Self) -> Result<Option<Item>>,
    ) -> Result<Poll<Option<Reply>>> {
        if self.is_over {
            return Ok(Poll::Ready(None));
        }
        let found = if self.must_look() { find(self) } else { Ok(None) };
        if matches!(found, Ok(None)) && self.buffer.is_empty() {
            return Ok(Poll::Pending);
        }
        self.next_of(found).map(Poll::Ready)
    }

    /// Prepares for the next chunks, for a reader that has got what was taken together. Returns
    /// whether the reader has to look for more: nothing is buffered then.
    #[inline]
    pub(crate) fn must_look(&mut self) -> bool {
        // A batch that was forgotten, and not dropped.
        self.buffer.end_batch();
        let must_look = self.buffer.is_empty() || !self.core.is_readable();
        if must_look {
            self.buffer.clear();
        }
        must_look
    }

    /// The next chunk of what was found. With `Ok(None)` something is buffered.
    #[inline]
    pub(crate) fn next_of(&mut self, found: Result<Option<Item>>) -> Result<Option<Reply>> {
        match found {
            Ok(None) => self.waits.note_item(),
            Ok(Some(item)) => return self.chunk_of(Ok(item)),
            Err(error) => return self.chunk_of(Err(error)),
        }
        match self.buffer.items.pop_front() {
            Some(item) => self.chunk_of(Ok(item)),
            None => Ok(self.first_copied()),
        }
    }

    /// The next chunk of those that were copied out together. Small enough to become part of
    /// the reader's loop: to move a reply from hand to hand costs more than its copy.
    #[inline(always)]
    pub(crate) fn next_buffered(&mut self) -> Option<Reply> {
        if !self.buffer.items.is_empty() || !self.core.is_readable() {
            return None;
        }
        let chunk = self.buffer.copied.next_chunk()?;
        self.add_consumed(as_usize(span(chunk.len())));
        Some(Reply::new(self.request, Body::Slice(chunk)))
    }

    /// Gives out those that were copied out together, as long as `take` takes them.
    #[cfg(feature = "async")]
    pub(crate) fn take_buffered(&mut self, take: &mut dyn FnMut(PeerBytes<'_>) -> bool) {
        if !self.buffer.items.is_empty() || !self.core.is_readable() {
            return;
        }
        let StreamBuffer { copied, unflushed, .. } = &mut self.buffer;
        copied.take_while(take, |len| *unflushed += as_usize(span(len)));
        self.add_consumed(0);
    }

    /// The first chunk of those that were copied out together.
    #[inline]
    fn first_copied(&mut self) -> Option<Reply> {
        self.waits.note_chunk(&self.core);
        self.next_buffered()
    }

    /// Waits for the next item, or until something is buffered, for as long as is to be waited.
    fn await_item(&mut self) -> Result<Option<Item>> {
        self.check_total()?;
        let mut wait = self.first_wait();
        let mut since = None;
        loop {
            let found = self.wait(wait)?;
            if found.is_some() || !self.buffer.is_empty() {
                self.waits.note_item();
                return Ok(found);
            }
            // What is there already takes no look at the clock.
            let began = now_ns().saturating_sub(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX));
            wait = self.next_wait(*since.get_or_insert(began))?.remaining();
        }
    }

    /// Returns an error if the stream should be over.
    #[inline]
    pub(crate) fn check_total(&self) -> Result<()> {
        self.waits.check_total(&self.core, self.request)
    }

    /// How long to wait before a look at what the worker does.
    #[inline]
    pub(crate) fn first_wait(&self) -> Duration {
        self.waits.first_wait()
    }

    /// Returns until when a reader goes on waiting to which nothing has come so far, or the
    /// error that ends its wait. `since` is when it began to wait, in nanoseconds of the
    /// monotonic clock.
    #[cold]
    pub(crate) fn next_wait(&mut self, since: u64) -> Result<Deadline> {
        self.waits.next_wait(&self.core, self.request, since)
    }

    /// Counts what was consumed: see "Credit" in `docs/ARCHITECTURE.md`.
    #[inline]
    fn add_consumed(&mut self, cost: usize) {
        self.buffer.unflushed += cost;
        if self.buffer.unflushed >= self.core.config.stream_window / 8 {
            self.pass_on_consumed();
        }
    }

    /// What an item, or what ended the wait for it, means for the reader.
    fn chunk_of(&mut self, found: Result<Item>) -> Result<Option<Reply>> {
        let item = match found {
            Ok(item) => item,
            // The host's own hook ended the wait. The stream goes on.
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                return Err(self.core.counted(error));
            }
            Err(error) => return self.end_with(Err(error)),
        };
        self.waits.note_item();
        match item {
            Item::Chunk(body, cost) => {
                self.waits.note_chunk(&self.core);
                self.add_consumed(cost);
                Ok(Some(Reply::new(self.request, body)))
            }
            Item::Part(part) => self.part_of(*part),
            Item::End => self.end_with(Ok(None)),
            Item::Cancelled => self.end_with(Err(cancelled(self.request))),
            Item::Expired => self.end_with(Err(stream_expired(self.request, self.waits.total()))),
            Item::Failed(error) => self.end_with(Err(error)),
            Item::Result(_) => {
                let message =
                    format!("request {} wants a stream, the worker sent a result", self.request);
                self.end_with(Err(Error::new(ErrorKind::Protocol, message)))
            }
        }
    }

    /// The buffer, for a task that waits.
    pub(crate) fn buffer_for_task(&mut self, takes_runs: bool) -> &mut StreamBuffer {
        self.buffer.take_runs(takes_runs, &self.core.config);
        &mut self.buffer
    }

    #[inline(never)]
    fn pass_on_consumed(&mut self) {
        let consumed = std::mem::take(&mut self.buffer.unflushed);
        self.core.pending.update_credit(self.request, consumed, false);
    }

    /// Asks the worker to end the stream, without waiting. Chunks that are on their way
    /// still come, then [`ErrorKind::Cancelled`], or the end if that came first.
    pub fn cancel(&self) {
        if !self.is_over {
            self.core.pending.cancel(self.request);
        }
    }

    fn end_with<T>(&mut self, result: Result<Option<T>>) -> Result<Option<T>> {
        self.is_over = true;
        self.buffer.end_batch();
        self.buffer.clear();
        self.core.pending.drop_request(self.request);
        result.map_err(|error| self.core.counted(error))
    }
}

impl Iterator for Stream {
    type Item = Result<Reply>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self.next_buffered() {
            Some(chunk) => Some(Ok(chunk)),
            None => self.next_chunk_slow(),
        }
    }
}

impl FusedIterator for Stream {}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.is_over {
            self.core.pending.drop_request(self.request);
        }
        if !fork::is_forked_child() {
            self.core.buffers.give_chunk_buffer(self.buffer.take_buffer());
        }
    }
}
