//! Frames that are taken in a row.

use super::Consumer;
use crate::error::Result;
use crate::ring::frame::Header;
use crate::shm::bytes::PeerBytes;

impl Consumer {
    /// Shows `take` the frames that are there, one after the other but no more than `most`,
    /// without waiting, and returns how many. Each is released as soon as `take` returns. The
    /// payload lies in memory that the peer can write.
    ///
    /// # Errors
    ///
    /// As [`Consumer::poll`], if there was no frame before what cannot be one; otherwise the
    /// next call says so.
    #[inline]
    pub(crate) fn drain(
        &mut self,
        most: usize,
        mut take: impl FnMut(Header, PeerBytes<'_>),
    ) -> Result<usize> {
        let mut count = 0;
        while count < most {
            match self.poll() {
                Ok(Some(frame)) => take(frame.header(), frame.payload()),
                Ok(None) => break,
                // It stays corrupt for good.
                Err(_) if count > 0 => break,
                Err(error) => return Err(error),
            }
            count += 1;
        }
        Ok(count)
    }
}
