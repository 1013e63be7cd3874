//! The half of a raw link that sends.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, ExitCause, Result};
use crate::raw::peer::RawPeer;
use crate::ring::doorbell::look_before_end;
use crate::ring::{Batch, Claim, CopyChoices, Producer};
use crate::sys::clock::Deadline;

/// The sending half of a [`RawLink`](crate::RawLink), for a thread of its own: see
/// [`RawLink::split`](crate::RawLink::split).
///
/// Dropping it publishes no more frames and leaves the other half usable. The link ends when
/// both halves are dropped.
///
/// ```
/// # fn main() -> slipring::Result<()> {
/// use std::time::Duration;
///
/// use slipring::ring::Header;
/// use slipring::testing::spawn_raw_thread;
/// use slipring::{Config, RoleConfig};
///
/// // The worker reads numbers until the link ends, and returns their sum.
/// let link = spawn_raw_thread(&Config::small(), RoleConfig::default(), |link, _| {
///     let (mut sender, mut receiver) = link.split();
///     let mut sum = 0;
///     while let Ok(frame) = receiver.recv(Duration::MAX) {
///         sum += u64::from(frame.header().kind);
///         sender.claim(0, Duration::MAX)?.commit(Header { aux: sum, ..Header::default() });
///     }
///     Ok(())
/// })?;
/// let (mut sender, mut receiver) = link.split();
/// std::thread::spawn(move || {
///     for kind in 1..=1000 {
///         let claim = sender.claim(0, Duration::from_secs(1)).unwrap();
///         claim.commit_lazily(Header { kind, ..Header::default() });
///     }
///     sender.flush();
/// });
/// let mut last = 0;
/// for _ in 0..1000 {
///     last = receiver.recv(Duration::from_secs(1))?.header().aux;
/// }
/// assert_eq!(last, 1000 * 1001 / 2);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct RawSender {
    producer: Producer,
    peer: Arc<dyn RawPeer>,
}

impl RawSender {
    pub(super) fn new(producer: Producer, peer: Arc<dyn RawPeer>) -> Self {
        Self { producer, peer }
    }

    /// Reserves a slot for a payload of `len` bytes. If the ring is full, first flushes
    /// as [`RawSender::flush`] does, and blocks until the peer has released enough slots, but
    /// at most for `timeout`.
    ///
    /// The end of the link is noticed only when the ring is full: until then frames can still
    /// be committed, and are lost.
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::TooLarge`] if `len` is over [`RawSender::max_frame`]; nothing else has
    ///   been looked at then.
    /// * [`ErrorKind::Timeout`] if the ring stayed full.
    /// * [`ErrorKind::PeerDied`] or [`ErrorKind::Closed`] if the link has ended.
    /// * [`ErrorKind::PeerCorrupt`], from then on every time, if the peer wrote what it must
    ///   not.
    /// * [`ErrorKind::Os`] if there is no memory for pages that the ring needs in its first lap.
    /// * [`ErrorKind::Forked`] in a forked child.
    ///
    /// The link stays usable after [`ErrorKind::TooLarge`], [`ErrorKind::Timeout`] and
    /// [`ErrorKind::Os`].
    #[inline]
    pub fn claim(&mut self, len: usize, timeout: Duration) -> Result<Claim<'_>> {
        if !self.producer.reserve(len)? {
            self.await_room(len, timeout)?;
        }
        Ok(self.producer.claim_reserved())
    }

    /// Reserves a slot as [`RawSender::claim`] does, without blocking. Returns `None` while the
    /// ring is full; only the peer can change that.
    ///
    /// # Errors
    ///
    /// Those of [`RawSender::claim`], except for [`ErrorKind::Timeout`].
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// # use slipring::ring::Header;
    /// # use slipring::{Config, RoleConfig};
    /// # let mut link = slipring::testing::spawn_raw_thread(
    /// #     &Config::small(),
    /// #     RoleConfig::default(),
    /// #     |link, _| {
    /// #         while link.is_alive() {
    /// #             std::thread::sleep(std::time::Duration::from_millis(1));
    /// #         }
    /// #         Ok(())
    /// #     },
    /// # )?;
    /// // The peer takes nothing, so that the ring is full in the end.
    /// let mut sent = 0;
    /// while let Some(claim) = link.try_claim(100)? {
    ///     claim.commit(Header::default());
    ///     sent += 1;
    /// }
    /// assert!(sent > 0);
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn try_claim(&mut self, len: usize) -> Result<Option<Claim<'_>>> {
        let is_free = self.producer.reserve(len)? || self.look_for_room(len)?;
        Ok(is_free.then(|| self.producer.claim_reserved()))
    }

    /// Reserves slots for up to `count` payloads of `len` bytes each, which are published
    /// together: as many as are free and lie in a row, which are fewer before the ring's end.
    /// Blocks as [`RawSender::claim`] does until there is at least one. If `count` is zero, the
    /// batch is empty.
    ///
    /// # Errors
    ///
    /// Those of [`RawSender::claim`].
    #[inline]
    pub fn claim_batch(
        &mut self,
        len: usize,
        count: usize,
        timeout: Duration,
    ) -> Result<Batch<'_>> {
        if !self.producer.reserve(len)? && count != 0 {
            self.await_room(len, timeout)?;
        }
        Ok(self.producer.claim_batch_reserved(count))
    }

    /// Reserves slots as [`RawSender::claim_batch`] does, without blocking. Returns `None`
    /// while there is not even one.
    ///
    /// # Errors
    ///
    /// Those of [`RawSender::claim`], except for [`ErrorKind::Timeout`].
    #[inline]
    pub fn try_claim_batch(&mut self, len: usize, count: usize) -> Result<Option<Batch<'_>>> {
        let is_free = self.producer.reserve(len)? || count == 0 || self.look_for_room(len)?;
        Ok(is_free.then(|| self.producer.claim_batch_reserved(count)))
    }

    /// Returns whether [`RawSender::claim`] would find room for a payload of `len` bytes now, and
    /// so would not block. Never blocks.
    ///
    /// # Errors
    ///
    /// Those of [`RawSender::claim`], except for [`ErrorKind::Timeout`].
    #[inline]
    pub fn has_room_for(&mut self, len: usize) -> Result<bool> {
        Ok(self.producer.has_room_for(len)? || self.look_for_room(len)?)
    }

    #[cold]
    fn look_for_room(&mut self, len: usize) -> Result<bool> {
        let Self { producer, peer } = self;
        // A caller that tries again and again waits for the peer, which may still sleep.
        producer.flush();
        let look = || Ok(producer.reserve(len)?.then_some(()));
        Ok(look_before_end(|| peer.check(), look)?.is_some())
    }

    #[cold]
    fn await_room(&mut self, len: usize, timeout: Duration) -> Result<()> {
        let Self { producer, peer } = self;
        let deadline = Deadline::after(timeout);
        match producer.reserve_until(len, peer.alarm(), deadline, || peer.check()) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let message = format!("the ring had no room for {len} bytes within {timeout:?}");
                Err(Error::new(ErrorKind::Timeout, message))
            }
            Err(error) => Err(peer.explain(error, deadline)),
        }
    }

    /// Wakes the peer if it sleeps and has not been woken for a frame that was committed with
    /// [`Claim::commit_lazily`] or [`Batch::commit_lazily`]. Call it before this thread turns to
    /// something else. Never blocks.
    #[inline]
    pub fn flush(&mut self) {
        self.producer.flush();
    }

    /// Enters the pages of the ring into this process's page table, as
    /// [`RawLink::prefault`](crate::RawLink::prefault) does for both rings.
    pub fn prefault(&self) {
        self.producer.prefault();
    }

    /// Returns the length of the longest payload of one frame, in bytes.
    #[must_use]
    pub fn max_frame(&self) -> usize {
        self.producer.max_frame()
    }

    /// Returns the most bytes of slots that were found published and not yet released. The
    /// number is updated only when the ring seems to be full.
    #[must_use]
    pub fn high_water(&self) -> u64 {
        self.producer.high_water()
    }

    /// Returns how payloads are copied into the ring, as far as that is found out.
    #[must_use]
    pub fn copies(&self) -> CopyChoices {
        self.producer.copies()
    }

    /// Returns how often the peer slept and had to be woken, each time by a system call.
    #[must_use]
    pub fn wakes(&self) -> u64 {
        self.producer.wakes()
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
