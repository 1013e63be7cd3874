//! The data rings as they are: for programs that have a protocol of their own.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ExitCause, Result};
use crate::link::{Duplex, not_pollable};
use crate::ring::doorbell::Alarm;
use crate::ring::{Batch, Claim, Consumer, Frame, Header, Producer};
use crate::shm::bytes::PeerBytes;
use crate::sys::clock::Deadline;
use crate::sys::wake_fd::WakeFd;

/// One end of a pair of raw rings: frames in order, each exactly once, and nothing else.
/// What the frames mean, and which belong together, is the program's own business.
///
/// The producer and the consumer are public, so that they can be used without waiting
/// and in batches; the methods here wait.
#[derive(Debug)]
pub struct RawLink {
    /// The ring out.
    pub producer: Producer,
    /// The ring in.
    pub consumer: Consumer,
    wake_fd: Option<Arc<WakeFd>>,
    end: Box<dyn End>,
    /// Where the ring out stood at the last wait.
    sent: u64,
}

/// The process at the other end, as far as a raw link is concerned.
pub(crate) trait End: fmt::Debug + Send {
    /// An error if it, or this end, is over.
    fn check(&self) -> Result<()>;
    /// Raised when that changes.
    fn alarm(&self) -> &Alarm;
    /// The error of a check, with all that is known of it by the deadline.
    fn explain(&self, error: Error, deadline: Deadline) -> Error;
    fn close(&self, timeout: Duration) -> Result<ExitCause>;
}

impl RawLink {
    pub(crate) fn new(data: Duplex, wake_fd: Option<Arc<WakeFd>>, end: Box<dyn End>) -> Self {
        let Duplex { producer, consumer, .. } = data;
        let sent = producer.tail();
        Self { producer, consumer, wake_fd, end, sent }
    }

    /// Reserves a slot; `None` if the ring stayed full. Blocks for at most `timeout`. That the
    /// peer is gone or the link closed is noticed where there is no room: frames that are
    /// committed before reach nobody.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) before anything is touched;
    /// `PeerDied`, `PeerCorrupt`, `Closed`, `Forked`.
    #[inline]
    pub fn claim(&mut self, len: usize, timeout: Duration) -> Result<Option<Claim<'_>>> {
        let is_free = self.producer.reserve(len)? || self.await_room(len, timeout)?;
        Ok(is_free.then(|| self.producer.claim_reserved()))
    }

    /// Reserves slots for up to `count` payloads of `len` bytes each, which are published
    /// together: see [`Producer::try_claim_batch`]. Waits for the first as [`RawLink::claim`]
    /// does; `None` if the ring stayed full, or if `count` is zero.
    ///
    /// # Errors
    ///
    /// As [`RawLink::claim`].
    #[inline]
    pub fn claim_batch(
        &mut self,
        len: usize,
        count: usize,
        timeout: Duration,
    ) -> Result<Option<Batch<'_>>> {
        if count == 0 {
            return Ok(None);
        }
        let is_free = self.producer.reserve(len)? || self.await_room(len, timeout)?;
        Ok(is_free.then(|| self.producer.claim_batch_reserved(count)))
    }

    #[cold]
    fn await_room(&mut self, len: usize, timeout: Duration) -> Result<bool> {
        let Self { producer, end, .. } = self;
        let deadline = Deadline::after(timeout);
        let is_free = producer.reserve_until(len, end.alarm(), deadline, || end.check());
        is_free.map_err(|error| end.explain(error, deadline))
    }

    /// The next frame; `None` if none came. Blocks for at most `timeout`, after it has
    /// spun as the wait strategy says. Frames that were committed before the peer's end, or
    /// before it closed the link, come first.
    ///
    /// # Errors
    ///
    /// As [`RawLink::claim`].
    #[inline]
    pub fn recv(&mut self, timeout: Duration) -> Result<Option<Frame<'_>>> {
        let is_there =
            self.consumer.has_frame() || self.await_frame(timeout)? && self.consumer.find()?;
        if is_there { self.consumer.take().map(Some) } else { Ok(None) }
    }

    /// Waits for the next frame as [`RawLink::recv`] does, and shows it to `take`, and those
    /// that lie behind it, up to `most`: see [`Consumer::drain`]. Returns how many; none if
    /// none came, or if `most` is zero.
    ///
    /// # Errors
    ///
    /// As [`RawLink::claim`].
    #[inline]
    pub fn drain(
        &mut self,
        most: usize,
        timeout: Duration,
        take: impl FnMut(Header, PeerBytes<'_>),
    ) -> Result<usize> {
        if self.consumer.has_frame() || self.await_frame(timeout)? {
            return self.consumer.drain(most, take);
        }
        Ok(0)
    }

    #[inline(never)]
    fn await_frame(&mut self, timeout: Duration) -> Result<bool> {
        let Self { consumer, producer, end, sent, .. } = self;
        let has_rung = producer.take_has_rung();
        producer.flush();
        let is_answer = std::mem::replace(sent, producer.tail()) != *sent;
        // Who only looks is not to be held up.
        if !timeout.is_zero() {
            consumer.fall_behind(is_answer, has_rung);
            if consumer.glance(has_rung) {
                return Ok(true);
            }
        }
        consumer.end_run();
        // Nothing says whether the peer owes a frame: without a deadline this is an idle wait.
        let deadline = Deadline::idle_after(timeout);
        let is_there = consumer.wait_until(end.alarm(), deadline, has_rung, || end.check());
        is_there.map_err(|error| end.explain(error, deadline))
    }

    /// Enters the pages of both rings in this process's page table, which otherwise costs a
    /// page fault at the first use of each: about a microsecond for every 4 KiB, in the
    /// rings' first lap. Blocks as long as that takes in all.
    pub fn prefault(&self) {
        self.producer.prefault();
        self.consumer.prefault();
    }

    /// Makes the link's descriptor readable exactly if there is something to read: the
    /// next frame, or the news that the other side is gone. To be called before a reactor
    /// waits for it, after any number of frames were taken without waiting; frames that
    /// come later make it readable by themselves. Returns whether it is readable.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) without
    /// [`Spawner::pollable`](crate::Spawner::pollable);
    /// [`ErrorKind::PeerCorrupt`](crate::ErrorKind::PeerCorrupt) if the peer broke it.
    pub fn settle(&mut self) -> Result<bool> {
        let wake_fd = self.wake_fd.as_ref().ok_or_else(not_pollable)?;
        self.producer.flush();
        let settled = self.consumer.settle(wake_fd, self.end.check().is_err(), true)?;
        Ok(settled.is_readable)
    }

    /// The parent's end: ends the worker as [`Channel::close`](crate::Channel::close)
    /// does. The worker's end returns at once.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn close(&self, timeout: Duration) -> Result<ExitCause> {
        self.end.close(timeout)
    }
}

impl RawLink {
    /// The descriptor for reactors, if the link was spawned with
    /// [`Spawner::pollable`](crate::Spawner::pollable). Do not read from it or write to it.
    #[must_use]
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.wake_fd.as_ref().map(|wake_fd| wake_fd.as_fd())
    }
}
