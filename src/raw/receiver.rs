//! The half of a raw link that receives.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::config::CopyChoices;
use crate::error::{Error, ErrorKind, ExitCause, Result};
use crate::link::not_pollable;
use crate::raw::peer::RawPeer;
use crate::ring::doorbell::look_before_end;
use crate::ring::{Consumer, Frame, Header};
use crate::shm::bytes::PeerBytes;
use crate::shm::words::OwnU64;
use crate::sync::Ordering;
use crate::sys::clock::Deadline;
use crate::sys::wake_fd::WakeFd;

/// The receiving half of a [`RawLink`](crate::RawLink), for a thread of its own: see
/// [`RawLink::split`](crate::RawLink::split).
///
/// Dropping it releases no more slots and leaves the other half usable; the peer can send
/// until its ring is full. The link ends when both halves are dropped.
///
/// ```
/// # fn main() -> slipring::Result<()> {
/// use std::time::Duration;
///
/// use slipring::ring::Header;
/// use slipring::testing::spawn_raw_thread;
/// use slipring::{Config, RoleConfig};
///
/// let link = spawn_raw_thread(&Config::small(), RoleConfig::default(), |mut link, _| {
///     let mut claim = link.claim(5, Duration::MAX)?;
///     claim.payload().copy_from_slice(b"ready");
///     claim.commit(Header::default());
///     Ok(())
/// })?;
/// let (_sender, mut receiver) = link.split();
/// let frame = receiver.recv(Duration::from_secs(5))?;
/// assert_eq!(frame.payload().to_vec(), b"ready");
/// drop(frame);
///
/// // What the worker had sent came first; now its end is told.
/// assert!(receiver.recv(Duration::from_secs(5)).unwrap_err().is_peer_dead());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct RawReceiver {
    consumer: Consumer,
    peer: Arc<dyn RawPeer>,
    wake_fd: Option<Arc<WakeFd>>,
    /// Grows with what this side sends, whichever thread does.
    sent: OwnU64,
    /// Its value at the last wait.
    sent_before: u64,
}

impl RawReceiver {
    pub(super) fn new(
        consumer: Consumer,
        sent: OwnU64,
        wake_fd: Option<Arc<WakeFd>>,
        peer: Arc<dyn RawPeer>,
    ) -> Self {
        let sent_before = sent.load(Ordering::Relaxed);
        Self { consumer, peer, wake_fd, sent, sent_before }
    }

    /// Returns the next frame. Blocks until there is one, but at most for `timeout`; the thread
    /// spins for a while before it sleeps, as [`WaitStrategy`](crate::WaitStrategy) says.
    ///
    /// Frames that were committed before the link ended are returned first.
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::Timeout`] if no frame came; the link stays usable.
    /// * [`ErrorKind::PeerDied`] or [`ErrorKind::Closed`] if the link has ended and no frame is
    ///   left.
    /// * [`ErrorKind::PeerCorrupt`], from then on every time, if the peer wrote what it must
    ///   not.
    /// * [`ErrorKind::Forked`] in a forked child.
    #[inline]
    pub fn recv(&mut self, timeout: Duration) -> Result<Frame<'_>> {
        if !self.has_frame() {
            self.await_frame(timeout)?;
        }
        self.take()
    }

    /// Returns the next frame as [`RawReceiver::recv`] does, without blocking; `None` if there
    /// is none.
    ///
    /// # Errors
    ///
    /// Those of [`RawReceiver::recv`], except for [`ErrorKind::Timeout`].
    #[inline]
    pub fn try_recv(&mut self) -> Result<Option<Frame<'_>>> {
        if self.has_frame() || self.look_for_frame()? { self.take().map(Some) } else { Ok(None) }
    }

    /// Returns how the peer copies payloads into its ring, as far as it has found out, in its own
    /// words; `None` before its first of 4 KiB or more, or if it says what this version does not
    /// know.
    #[must_use]
    pub fn peer_copies(&self) -> Option<CopyChoices> {
        self.consumer.peer_copies().read()
    }

    /// Calls `take` with the header and the payload of each frame that is there, in order, but
    /// of no more than `max_frames`. Returns how many it was called with. Blocks as
    /// [`RawReceiver::recv`] does until there is at least one. Returns zero only if `max_frames` is
    /// zero.
    ///
    /// Each frame's slot is released as soon as `take` returns.
    ///
    /// # Errors
    ///
    /// Those of [`RawReceiver::recv`]. Frames that `take` has seen are never followed by an
    /// error: the next call returns it.
    #[inline]
    pub fn drain(
        &mut self,
        max_frames: usize,
        timeout: Duration,
        take: impl FnMut(Header, PeerBytes<'_>),
    ) -> Result<usize> {
        if !self.has_frame() && max_frames != 0 {
            self.await_frame(timeout)?;
        }
        self.consumer.drain(max_frames, take)
    }

    /// Does what [`RawReceiver::drain`] does, without blocking. Returns zero if no frame is
    /// there.
    ///
    /// # Errors
    ///
    /// Those of [`RawReceiver::recv`], except for [`ErrorKind::Timeout`].
    #[inline]
    pub fn try_drain(
        &mut self,
        max_frames: usize,
        take: impl FnMut(Header, PeerBytes<'_>),
    ) -> Result<usize> {
        if self.has_frame() || max_frames != 0 && self.look_for_frame()? {
            return self.consumer.drain(max_frames, take);
        }
        Ok(0)
    }

    #[inline]
    pub(super) fn has_frame(&self) -> bool {
        self.consumer.has_frame()
    }

    /// Takes the frame that was found.
    #[inline]
    pub(super) fn take(&mut self) -> Result<Frame<'_>> {
        self.consumer.take()
    }

    /// Takes the frames that are there, of which the first was found.
    #[inline]
    pub(super) fn take_all(
        &mut self,
        max_frames: usize,
        take: impl FnMut(Header, PeerBytes<'_>),
    ) -> Result<usize> {
        self.consumer.drain(max_frames, take)
    }

    #[cold]
    pub(super) fn look_for_frame(&mut self) -> Result<bool> {
        let Self { consumer, peer, .. } = self;
        let look = || Ok(consumer.find()?.then_some(()));
        Ok(look_before_end(|| peer.check(), look)?.is_some())
    }

    /// Waits until a frame lies at the consumer's position.
    #[inline(never)]
    pub(super) fn await_frame(&mut self, timeout: Duration) -> Result<()> {
        let Self { consumer, peer, sent, sent_before, .. } = self;
        // Relaxed: decides only how this thread passes its time.
        let sent = sent.load(Ordering::Relaxed);
        let is_answer = std::mem::replace(sent_before, sent) != sent;
        // A caller that does not want to wait must not be held up by the pacing.
        let is_seen = !timeout.is_zero() && {
            consumer.pace(is_answer);
            consumer.spin_briefly()
        };
        if !is_seen {
            consumer.restart_run();
            // Nothing says whether the peer owes a frame: without a deadline this is an idle
            // wait.
            let deadline = Deadline::idle_after(timeout);
            let waited = consumer.wait_until(peer.alarm(), deadline, || peer.check());
            waited.map_err(|error| peer.explain(error, deadline))?;
        }
        if consumer.find()? { Ok(()) } else { Err(no_frame(timeout)) }
    }

    /// Makes the descriptor readable exactly if there is something to read: a frame, or the
    /// news that the link has ended. Call it before a reactor waits for the descriptor, after
    /// any number of frames were taken; later frames make it readable by themselves. Returns
    /// whether it is readable. Waits for at most 200 µs for a peer that is about to write to
    /// the descriptor.
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::Unsupported`] without
    ///   [`Spawner::pollable`](crate::Spawner::pollable).
    /// * [`ErrorKind::PeerCorrupt`] if the peer has broken the descriptor.
    /// * [`ErrorKind::Forked`] in a forked child.
    pub fn rearm(&mut self) -> Result<bool> {
        let wake_fd = self.wake_fd.as_ref().ok_or_else(not_pollable)?;
        let is_over = self.peer.check().is_err();
        Ok(self.consumer.rearm(wake_fd, is_over, true)?.is_readable)
    }

    /// Returns the descriptor for reactors, if the link was spawned with
    /// [`Spawner::pollable`](crate::Spawner::pollable): see [`RawReceiver::rearm`]. Do not read
    /// from it or write to it.
    #[must_use]
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.wake_fd.as_ref().map(|wake_fd| wake_fd.as_fd())
    }

    /// Tells the peer of every slot that is free. That happens by itself at every eighth of
    /// the ring, when the ring is found empty and before this half sleeps. Needed only before
    /// the caller turns to something long.
    pub fn publish_released(&mut self) {
        self.consumer.publish_released();
    }

    /// Enters the pages of the ring into this process's page table, as
    /// [`RawLink::prefault`](crate::RawLink::prefault) does for both rings.
    pub fn prefault(&self) {
        self.consumer.prefault();
    }

    /// Returns the length of the longest payload of one frame, in bytes.
    #[must_use]
    pub fn max_frame(&self) -> usize {
        self.consumer.max_frame()
    }

    /// Returns how many [`Lease`](crate::ring::Lease)s of this ring are not dropped yet.
    #[must_use]
    pub fn leased(&self) -> usize {
        self.consumer.leased()
    }

    /// Returns the id of the process at the other end: see [`RawLink::pid`](crate::RawLink::pid).
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.peer.pid()
    }

    /// Returns whether the link is open: see [`RawLink::is_alive`](crate::RawLink::is_alive).
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.peer.check().is_ok()
    }

    /// Returns how the worker ended: see [`RawLink::exit_cause`](crate::RawLink::exit_cause).
    #[must_use]
    pub fn exit_cause(&self) -> Option<ExitCause> {
        self.peer.exit_cause()
    }

    /// Ends the link, and with it what the other half does or waits for: see
    /// [`RawLink::close`](crate::RawLink::close).
    ///
    /// # Errors
    ///
    /// Those of [`RawLink::close`](crate::RawLink::close).
    pub fn close(&self, timeout: Duration) -> Result<ExitCause> {
        self.peer.close(timeout)
    }
}

#[cold]
fn no_frame(timeout: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("no frame came within {timeout:?}"))
}
