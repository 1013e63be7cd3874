//! Raw links: the data rings without requests and replies.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{ExitCause, Result};
use crate::link::Duplex;
use crate::ring::{Batch, Claim, Frame, Header};
use crate::shm::bytes::PeerBytes;
use crate::sys::wake_fd::WakeFd;

pub(crate) mod peer;
mod receiver;
mod sender;

use peer::RawPeer;
pub use receiver::RawReceiver;
pub use sender::RawSender;

/// One end of a pair of rings: frames arrive in order, each exactly once, and that is all. What
/// a frame means, and which frames belong together, is up to the program.
///
/// The parent gets its end from [`Spawner::spawn_raw`](crate::Spawner::spawn_raw), the worker
/// from [`worker::attach_raw`](crate::worker::attach_raw):
///
/// ```no_run
/// use std::time::Duration;
///
/// use slipring::ring::Header;
/// use slipring::{Spawner, worker};
///
/// fn main() -> slipring::Result<()> {
///     if worker::is_worker() {
///         // Sends each frame back, until the parent closes the link or ends.
///         let (link, _role) = worker::attach_raw()?;
///         let (mut sender, mut receiver) = link.split();
///         while let Ok(frame) = receiver.recv(Duration::MAX) {
///             let mut claim = sender.claim(frame.payload().len(), Duration::MAX)?;
///             frame.payload().copy_to(claim.payload())?;
///             claim.commit(frame.header());
///         }
///         return Ok(());
///     }
///     let mut link = Spawner::current_exe()?.spawn_raw()?;
///     let mut claim = link.claim(5, Duration::from_secs(1))?;
///     claim.payload().copy_from_slice(b"hello");
///     claim.commit(Header::default());
///     let frame = link.recv(Duration::from_secs(1))?;
///     assert_eq!(frame.payload().to_vec(), b"hello");
///     drop(frame);
///     link.close(Duration::from_secs(1))?;
///     Ok(())
/// }
/// ```
///
/// A link is for one thread at a time. [`RawLink::split`] gives each direction to a thread of
/// its own; [`RawLink::halves`] lends the two directions, so that a frame can be read while a
/// slot is filled.
///
/// A thread that waits for room in the ring out reads nothing meanwhile. If the peer waits for
/// room as well, both wait until their timeouts: split the link, or read before the rings can
/// be full.
///
/// Dropping the link closes it without blocking. The parent's end then asks the worker to end,
/// and ends it if it does not.
#[derive(Debug)]
pub struct RawLink {
    sender: RawSender,
    receiver: RawReceiver,
}

impl RawLink {
    pub(crate) fn new(data: Duplex, wake_fd: Option<Arc<WakeFd>>, peer: Arc<dyn RawPeer>) -> Self {
        let Duplex { producer, consumer, sent, .. } = data;
        let sender = RawSender::new(producer, Arc::clone(&peer));
        Self { sender, receiver: RawReceiver::new(consumer, sent, wake_fd, peer) }
    }

    /// Splits the link into two halves that block in two threads at the same time. The link
    /// ends when both are dropped, when either is closed, and when the peer ends; whatever
    /// either half waits for then ends with an error.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::time::Duration;
    ///
    /// use slipring::ring::Header;
    /// use slipring::testing::spawn_raw_thread;
    /// use slipring::{Config, RoleConfig};
    ///
    /// // The worker answers each frame with an empty one.
    /// let link = spawn_raw_thread(&Config::small(), RoleConfig::default(), |link, _| {
    ///     let (mut sender, mut receiver) = link.split();
    ///     while let Ok(frame) = receiver.recv(Duration::MAX) {
    ///         sender.claim(0, Duration::MAX)?.commit(frame.header());
    ///     }
    ///     Ok(())
    /// })?;
    /// let (mut sender, mut receiver) = link.split();
    /// let reader = std::thread::spawn(move || {
    ///     (0..10_000).filter(|_| receiver.recv(Duration::from_secs(5)).is_ok()).count()
    /// });
    /// // Far more frames than the rings have room for.
    /// for request in 0..10_000 {
    ///     let header = Header { request, ..Header::default() };
    ///     sender.claim(100, Duration::from_secs(5))?.commit(header);
    /// }
    /// assert_eq!(reader.join().unwrap(), 10_000);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn split(self) -> (RawSender, RawReceiver) {
        (self.sender, self.receiver)
    }

    /// Lends both halves, so that a slot can be filled while a frame is held.
    ///
    /// Unlike [`RawLink::recv`], a wait of the receiving half does not flush the sending one.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// # use std::time::Duration;
    /// # use slipring::ring::Header;
    /// # use slipring::testing::spawn_raw_thread;
    /// # use slipring::{Config, RoleConfig};
    /// let mut link = spawn_raw_thread(&Config::small(), RoleConfig::default(), |mut link, _| {
    ///     let (sender, receiver) = link.halves();
    ///     while let Ok(frame) = receiver.recv(Duration::MAX) {
    ///         // From one ring to the other, with no buffer in between.
    ///         let mut claim = sender.claim(frame.payload().len(), Duration::MAX)?;
    ///         frame.payload().copy_to(claim.payload())?;
    ///         claim.payload().make_ascii_uppercase();
    ///         claim.commit(frame.header());
    ///     }
    ///     Ok(())
    /// })?;
    /// let mut claim = link.claim(5, Duration::from_secs(1))?;
    /// claim.payload().copy_from_slice(b"hello");
    /// claim.commit(Header::default());
    /// assert_eq!(link.recv(Duration::from_secs(1))?.payload().to_vec(), b"HELLO");
    /// # Ok(()) }
    /// ```
    pub fn halves(&mut self) -> (&mut RawSender, &mut RawReceiver) {
        (&mut self.sender, &mut self.receiver)
    }

    /// Returns the sending half, for its limits and counters.
    #[must_use]
    pub fn sender(&self) -> &RawSender {
        &self.sender
    }

    /// Returns the receiving half, for its limits and counters.
    #[must_use]
    pub fn receiver(&self) -> &RawReceiver {
        &self.receiver
    }

    /// Reserves a slot to be filled and committed. Blocks for at most `timeout` if the ring is
    /// full: see [`RawSender::claim`].
    ///
    /// # Errors
    ///
    /// Those of [`RawSender::claim`].
    #[inline]
    pub fn claim(&mut self, len: usize, timeout: Duration) -> Result<Claim<'_>> {
        self.sender.claim(len, timeout)
    }

    /// Reserves a slot without blocking; `None` while the ring is full: see
    /// [`RawSender::try_claim`].
    ///
    /// # Errors
    ///
    /// Those of [`RawSender::try_claim`].
    #[inline]
    pub fn try_claim(&mut self, len: usize) -> Result<Option<Claim<'_>>> {
        self.sender.try_claim(len)
    }

    /// Reserves up to `count` slots, which are published together. Blocks for at most `timeout`
    /// until there is at least one: see [`RawSender::claim_batch`].
    ///
    /// # Errors
    ///
    /// Those of [`RawSender::claim_batch`].
    #[inline]
    pub fn claim_batch(
        &mut self,
        len: usize,
        count: usize,
        timeout: Duration,
    ) -> Result<Batch<'_>> {
        self.sender.claim_batch(len, count, timeout)
    }

    /// Reserves up to `count` slots without blocking; `None` while there is not even one: see
    /// [`RawSender::try_claim_batch`].
    ///
    /// # Errors
    ///
    /// Those of [`RawSender::try_claim_batch`].
    #[inline]
    pub fn try_claim_batch(&mut self, len: usize, count: usize) -> Result<Option<Batch<'_>>> {
        self.sender.try_claim_batch(len, count)
    }

    /// Wakes the peer for frames that were committed lazily: see [`RawSender::flush`].
    #[inline]
    pub fn flush(&mut self) {
        self.sender.flush();
    }

    /// Returns the next frame. If it has to wait, flushes first and blocks for at most `timeout`:
    /// see [`RawReceiver::recv`].
    ///
    /// # Errors
    ///
    /// Those of [`RawReceiver::recv`].
    #[inline]
    pub fn recv(&mut self, timeout: Duration) -> Result<Frame<'_>> {
        if !self.receiver.has_frame() {
            self.await_frame(timeout)?;
        }
        self.receiver.take()
    }

    /// Returns the next frame without blocking. If there is none, flushes and returns `None`: see
    /// [`RawReceiver::try_recv`].
    ///
    /// # Errors
    ///
    /// Those of [`RawReceiver::try_recv`].
    #[inline]
    pub fn try_recv(&mut self) -> Result<Option<Frame<'_>>> {
        let is_there = self.receiver.has_frame() || self.look_for_frame()?;
        if is_there { self.receiver.take().map(Some) } else { Ok(None) }
    }

    /// Calls `take` with each frame that is there, but with no more than `max_frames`, and returns
    /// how many. Blocks for at most `timeout` until there is at least one, and flushes before:
    /// see [`RawReceiver::drain`].
    ///
    /// # Errors
    ///
    /// Those of [`RawReceiver::drain`].
    #[inline]
    pub fn drain(
        &mut self,
        max_frames: usize,
        timeout: Duration,
        take: impl FnMut(Header, PeerBytes<'_>),
    ) -> Result<usize> {
        if !self.receiver.has_frame() && max_frames != 0 {
            self.await_frame(timeout)?;
        }
        self.receiver.take_all(max_frames, take)
    }

    /// Calls `take` with each frame that is there, but with no more than `max_frames`, without
    /// blocking, and returns how many. If there is none, flushes and returns zero: see
    /// [`RawReceiver::try_drain`].
    ///
    /// # Errors
    ///
    /// Those of [`RawReceiver::try_drain`].
    #[inline]
    pub fn try_drain(
        &mut self,
        max_frames: usize,
        take: impl FnMut(Header, PeerBytes<'_>),
    ) -> Result<usize> {
        if self.receiver.has_frame() || max_frames != 0 && self.look_for_frame()? {
            return self.receiver.take_all(max_frames, take);
        }
        Ok(0)
    }

    #[inline(never)]
    fn await_frame(&mut self, timeout: Duration) -> Result<()> {
        self.sender.flush();
        self.receiver.await_frame(timeout)
    }

    #[cold]
    fn look_for_frame(&mut self) -> Result<bool> {
        self.sender.flush();
        self.receiver.look_for_frame()
    }

    /// Makes the link's descriptor readable exactly if there is something to read, and flushes:
    /// see [`RawReceiver::rearm`].
    ///
    /// # Errors
    ///
    /// Those of [`RawReceiver::rearm`].
    pub fn rearm(&mut self) -> Result<bool> {
        self.sender.flush();
        self.receiver.rearm()
    }

    /// Returns the descriptor for reactors, if the link was spawned with
    /// [`Spawner::pollable`](crate::Spawner::pollable): see [`RawReceiver::poll_fd`].
    #[must_use]
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.receiver.poll_fd()
    }

    /// Makes the pages of both rings and enters them into this process's page table, which otherwise
    /// happens in steps in the rings' first lap: some tens of microseconds for every 128 KiB. Blocks
    /// for as long as that takes in all. A lack of memory is told by the claim that needs a page.
    pub fn prefault(&self) {
        self.sender.prefault();
        self.receiver.prefault();
    }

    /// Returns the id of the process at the other end: the worker's for the parent, the parent's
    /// for a worker. The id stays the same when that process has ended. A parent in another pid
    /// namespace has the id that it has there.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.sender.pid()
    }

    /// Returns whether the link is open: the peer lives, and neither side has closed the link.
    /// Frames may still be there to be read when it is not. Never blocks.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.sender.is_alive()
    }

    /// Returns how the worker ended; `None` while it runs, and until it is reaped. Always `None`
    /// in the worker. Never blocks.
    #[must_use]
    pub fn exit_cause(&self) -> Option<ExitCause> {
        self.sender.exit_cause()
    }

    /// Ends the link: everything that this side does or waits for on it ends with
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed), once what the peer had sent is read.
    ///
    /// The parent's end also ends the worker, as [`Channel::close`](crate::Channel::close)
    /// does: it blocks until the worker has ended, and after `timeout` ends it by force. The
    /// worker's end returns [`ExitCause::Unknown`] at once; the process should end then.
    ///
    /// # Errors
    ///
    /// Those of [`Channel::close`](crate::Channel::close).
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// # use std::time::Duration;
    /// # use slipring::testing::spawn_raw_thread;
    /// # use slipring::{Config, ErrorKind, ExitCause, RoleConfig};
    /// let mut link = spawn_raw_thread(&Config::small(), RoleConfig::default(), |mut link, _| {
    ///     let error = link.recv(Duration::MAX).unwrap_err();
    ///     assert_eq!(error.kind(), ErrorKind::Closed);
    ///     Ok(())
    /// })?;
    /// assert!(link.is_alive());
    /// assert_eq!(link.close(Duration::from_secs(5))?, ExitCause::Exited(0));
    /// assert_eq!(link.recv(Duration::MAX).unwrap_err().kind(), ErrorKind::Closed);
    /// # Ok(()) }
    /// ```
    pub fn close(&self, timeout: Duration) -> Result<ExitCause> {
        self.sender.close(timeout)
    }
}
