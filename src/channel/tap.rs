//! What sees the frames of a channel pass, to record them.
//!
//! A channel without a tap does nothing for it: a request finds out that there is one by the length up to
//! which frames go out without a further look, and a reader of the ring by the word that says whether the
//! channel is open.

use std::fmt;

use crate::ring::Header;
use crate::shm::bytes::PeerBytes;

/// Sees frames. Each method returns at once, whatever becomes of them, and takes leaf locks only.
pub(crate) trait FrameTap: fmt::Debug + Send + Sync {
    /// A frame is about to be published. Called in the order of the ring, under the sender's lock.
    fn sent(&self, header: Header, payload: &[u8]);

    /// A frame was taken out of the ring, and was not delivered yet. Called by the reader that has the
    /// turn.
    fn received(&self, header: Header, payload: PeerBytes<'_>);

    /// The worker is told that a request is cancelled. Called under the lock of the requests.
    fn cancelled(&self, request: u64);

    /// The channel is over. Frames that were in the ring are still received.
    fn ended(&self);

    /// How many frames were kept of those that it has seen, and how many were not.
    fn counts(&self) -> [u64; 2];
}
