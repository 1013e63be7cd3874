//! The interface of all that is measured: one end of a link between two processes.

use std::io;

/// One end of a two-way link. Both processes hold one.
pub trait End {
    /// Sends one message of `len` bytes, which `fill` writes in place.
    ///
    /// # Errors
    ///
    /// Fails if the link fails.
    fn send(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<()>;

    /// Waits for the next message and passes it to `read`, in place.
    ///
    /// # Errors
    ///
    /// Fails if the link fails.
    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> io::Result<R>;

    /// Sends a copy of `source` with its first word replaced, in the best way that the link has
    /// for bytes that are not in its memory.
    ///
    /// # Errors
    ///
    /// Fails if the link fails.
    #[inline]
    fn send_copy(&mut self, source: &[u8], stamp: u64) -> io::Result<()> {
        self.send(source.len(), |slot| {
            slot.copy_from_slice(source);
            put_stamp(slot, stamp);
        })
    }

    /// Sends copies of `count` messages of `len` bytes under these stamps, as a stream.
    ///
    /// # Errors
    ///
    /// Fails if the link fails.
    fn send_all<'m>(
        &mut self,
        _len: usize,
        count: u64,
        messages: impl Iterator<Item = (u64, &'m [u8])>,
    ) -> io::Result<()> {
        for (_, (stamp, message)) in (0..count).zip(messages) {
            self.send_copy(message, stamp)?;
        }
        Ok(())
    }

    /// Waits for `count` messages and passes each to `read`, in place.
    ///
    /// # Errors
    ///
    /// Fails if the link fails.
    fn recv_all(&mut self, count: u64, mut read: impl FnMut(&[u8])) -> io::Result<()> {
        for _ in 0..count {
            self.recv(&mut read)?;
        }
        Ok(())
    }

    /// Announces that the messages that follow are a stream, or that the stream is over. During a
    /// stream an end may postpone waking the other.
    ///
    /// # Errors
    ///
    /// Fails if the link fails.
    fn set_streaming(&mut self, _is_streaming: bool) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the first word of a message.
#[inline]
pub fn put_stamp(message: &mut [u8], stamp: u64) {
    if let Some(first) = message.first_chunk_mut::<8>() {
        *first = stamp.to_le_bytes();
    }
}

/// Returns the first word of a message, or zero if it has none.
#[inline]
#[must_use]
pub fn stamp(message: &[u8]) -> u64 {
    message.first_chunk::<8>().map_or(0, |first| u64::from_le_bytes(*first))
}
