//! Slots that are claimed, filled and published together.

use crate::ring::header::Header;
use crate::ring::slot_writer::SlotWriter;

/// Reserved slots of one length, one behind the other, which are published together: the peer
/// sees all of the frames or none. Dropping it publishes nothing and gives the slots back.
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
/// let numbers = [3_u64, 1, 4, 1, 5, 9, 2, 6];
/// let mut left = &numbers[..];
/// while !left.is_empty() {
///     // Maybe fewer than were asked for: as many as lie in a row before the ring's end.
///     let mut batch = link.claim_batch(8, left.len(), Duration::from_secs(1))?;
///     let (now, later) = left.split_at(batch.len());
///     for (index, number) in now.iter().enumerate() {
///         batch.payload(index).copy_from_slice(&number.to_le_bytes());
///     }
///     batch.commit(|_| Header::default());
///     left = later;
/// }
///
/// let mut sum = 0;
/// let mut count = 0;
/// while count < numbers.len() {
///     count += link.drain(100, Duration::from_secs(1), |_header, payload| {
///         let bytes = payload.to_vec().try_into().unwrap_or_default();
///         sum += u64::from_le_bytes(bytes);
///     })?;
/// }
/// assert_eq!(sum, 31);
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a batch that is dropped publishes nothing"]
pub struct Batch<'a> {
    writer: &'a mut SlotWriter,
    count: usize,
}

impl<'a> Batch<'a> {
    /// Claims `count` slots of the reserved length, for which there must be room.
    #[inline]
    pub(super) fn of(writer: &'a mut SlotWriter, count: usize) -> Self {
        if count != 0 {
            writer.claim(count);
        }
        Self { writer, count }
    }

    /// Returns the number of slots: at least one, unless none was asked for.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns whether there is no slot, because none was asked for.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the bytes of the payload in the slot with this index, to be filled; none if there
    /// is no such slot. At first they hold what is left of earlier frames.
    #[inline]
    pub fn payload(&mut self, index: usize) -> &mut [u8] {
        if index >= self.count {
            return &mut [];
        }
        self.writer.payload_mut(index)
    }

    /// Publishes all frames, each with the header that `header` makes for its index, and wakes
    /// the peer if it sleeps. Returns whether it had to be woken. The headers' lengths are set
    /// to those of the payloads. Never blocks.
    #[inline]
    pub fn commit(self, header: impl FnMut(usize) -> Header) -> bool {
        self.publish(header).notify()
    }

    /// Publishes all frames, but looks only once in 2 KiB whether the peer sleeps, as
    /// [`Claim::commit_lazily`](crate::ring::Claim::commit_lazily) does. Never blocks.
    #[inline]
    pub fn commit_lazily(self, header: impl FnMut(usize) -> Header) {
        self.publish(header).notify_now_and_then();
    }

    #[inline]
    fn publish(self, header: impl FnMut(usize) -> Header) -> &'a mut SlotWriter {
        if self.count != 0 {
            self.writer.publish_batch(self.count, header);
        }
        self.writer
    }
}
