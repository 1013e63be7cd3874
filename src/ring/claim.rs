//! A slot that is claimed, filled and published.

use crate::ring::header::Header;
use crate::ring::slot_writer::SlotWriter;

/// A reserved slot: fill its payload, then commit it. Dropping it publishes nothing and gives
/// the slot back.
///
/// ```
/// # fn main() -> slipring::Result<()> {
/// # use std::time::Duration;
/// # use slipring::ring::Header;
/// # use slipring::{Config, RoleConfig};
/// # let echo = |link: slipring::RawLink, _| {
/// #     let (mut sender, mut receiver) = link.split();
/// #     while let Ok(frame) = receiver.recv(Duration::MAX) {
/// #         let mut claim = sender.claim(frame.payload().len(), Duration::MAX)?;
/// #         frame.payload().copy_to(claim.payload())?;
/// #         claim.commit(frame.header());
/// #     }
/// #     Ok(())
/// # };
/// # let mut link =
/// #     slipring::testing::spawn_raw_thread(&Config::small(), RoleConfig::default(), echo)?;
/// // The length that the message may have; it is known when the slot is filled.
/// let mut claim = link.claim(100, Duration::from_secs(1))?;
/// claim.payload()[..5].copy_from_slice(b"hello");
/// claim.truncate(5);
/// claim.commit(Header { kind: 1, ..Header::default() });
///
/// // A claim that is dropped was never there.
/// drop(link.claim(100, Duration::from_secs(1))?);
///
/// let frame = link.recv(Duration::from_secs(1))?;
/// assert_eq!((frame.header().kind, frame.header().len), (1, 5));
/// assert_eq!(frame.payload().to_vec(), b"hello");
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a claim that is dropped publishes nothing"]
pub struct Claim<'a> {
    writer: &'a mut SlotWriter,
}

impl<'a> Claim<'a> {
    /// Claims the slot that was reserved.
    #[inline]
    pub(super) fn of(writer: &'a mut SlotWriter) -> Self {
        writer.claim(1);
        Self { writer }
    }

    /// Returns the bytes of the payload, to be filled. At first they hold what is left of
    /// earlier frames.
    #[inline]
    pub fn payload(&mut self) -> &mut [u8] {
        self.writer.payload_mut(0)
    }

    /// Shortens the payload to its first `len` bytes. Does nothing if it is not longer than
    /// that.
    pub fn truncate(&mut self, len: usize) {
        if len < self.writer.len() {
            self.writer.truncate(len);
        }
    }

    /// Publishes the frame, and wakes the peer if it sleeps. Returns whether it had to be
    /// woken. The header's length is set to that of the payload. Never blocks.
    #[inline]
    pub fn commit(self, header: Header) -> bool {
        self.writer.publish(header);
        self.writer.notify()
    }

    /// Publishes the frame, but looks only once in 2 KiB whether the peer sleeps: for streams of
    /// small frames, most of which are then published without a memory fence. Never blocks.
    ///
    /// Call [`RawSender::flush`](crate::RawSender::flush) after the last of them: a peer that
    /// sleeps is not woken for it otherwise. A wait for room flushes by itself, and so does one
    /// for a frame by [`RawLink::recv`](crate::RawLink::recv).
    #[inline]
    pub fn commit_lazily(self, header: Header) {
        self.writer.publish(header);
        self.writer.notify_now_and_then();
    }

    /// Publishes the frame together with those that are committed so behind it, once 2 KiB have
    /// come, and looks then whether the peer sleeps. A flush publishes what there is, and has to
    /// come before another kind of commit. Never blocks.
    #[inline]
    pub(crate) fn commit_in_group(self, header: Header) {
        self.writer.publish_in_group(header);
    }
}
