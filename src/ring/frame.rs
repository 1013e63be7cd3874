//! A frame that was taken.

use crate::ring::header::Header;
use crate::ring::lease::{Lease, LeasedSlot};
use crate::ring::slot_reader::SlotReader;
use crate::shm::bytes::PeerBytes;

/// A received frame, read where it lies. Dropping it releases its slot, which the peer then
/// fills with other frames. While it is held, no other frame can be received:
/// [`Frame::into_lease`] keeps it beside others.
///
/// ```
/// # fn main() -> slipring::Result<()> {
/// # use std::time::Duration;
/// # use slipring::ring::Header;
/// # use slipring::{Config, RoleConfig};
/// # let hello = |mut link: slipring::RawLink, _| {
/// #     let mut claim = link.claim(5, Duration::MAX)?;
/// #     claim.payload().copy_from_slice(b"hello");
/// #     claim.commit(Header { kind: 2, request: 9, ..Header::default() });
/// #     while link.recv(Duration::MAX).is_ok() {}
/// #     Ok(())
/// # };
/// # let mut link =
/// #     slipring::testing::spawn_raw_thread(&Config::small(), RoleConfig::default(), hello)?;
/// let frame = link.recv(Duration::from_secs(1))?;
/// assert_eq!((frame.header().kind, frame.header().request), (2, 9));
///
/// // Copied out, as the peer could change it in place.
/// let mut bytes = [0; 5];
/// frame.payload().copy_to(&mut bytes)?;
/// assert_eq!(&bytes, b"hello");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Frame<'a> {
    reader: &'a mut SlotReader,
}

impl<'a> Frame<'a> {
    /// The frame that was taken last.
    #[inline]
    pub(super) fn of(reader: &'a mut SlotReader) -> Self {
        Self { reader }
    }
}

impl Frame<'_> {
    /// Returns the frame's header: a copy that was checked and that the peer cannot change.
    #[must_use]
    #[inline]
    pub fn header(&self) -> Header {
        self.reader.header()
    }

    /// Returns the frame's payload, in memory that the peer can still write to.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> PeerBytes<'_> {
        self.reader.payload()
    }

    pub(crate) fn prefault(&self) {
        self.reader.prefault();
    }

    /// Asks for the frame's second cache line, to read it soon. For a reader that takes a lock
    /// before that: an atomic operation holds up the loads behind it, so that the two lines of a
    /// short frame would come from the producer's processor one after the other.
    #[inline]
    pub(crate) fn fetch_second_line(&self) {
        self.reader.fetch_second_line();
    }

    /// Tells the peer of every free slot before this frame. Useful before something long is
    /// done with the frame.
    pub fn publish_released(&mut self) {
        self.reader.publish_released();
    }

    /// Takes the last bytes off the payload, whose length is then what is left. `None` if it is
    /// shorter.
    #[cold]
    pub(crate) fn take_tail<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (payload, mut tail) = (self.payload(), [0; N]);
        let left = payload.len().checked_sub(N)?;
        payload.read_at(left, &mut tail).ok()?;
        self.reader.shorten_payload(left);
        Some(tail)
    }

    /// Keeps the frame while others are received. Takes a lock that is held for a few
    /// instructions only.
    #[must_use]
    pub fn into_lease(self) -> Lease {
        Lease::new(self.header(), self.into_slot())
    }

    /// Does what [`Frame::into_lease`] does, without the header.
    pub(crate) fn into_slot(self) -> LeasedSlot {
        // Not dropped: the lease releases the slot.
        std::mem::ManuallyDrop::new(self).reader.lease_taken()
    }
}

impl Drop for Frame<'_> {
    #[inline]
    fn drop(&mut self) {
        self.reader.release_taken();
    }
}
