//! What a remote may send.

use std::time::Duration;

/// What a remote may send and use at most. A gateway and its callers have limits of their own.
///
/// ```
/// use slipring_gateway::Limits;
///
/// let mut limits = Limits::default();
/// limits.max_message = 1 << 20;
/// assert!(limits.max_streams > 0);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The longest payload in bytes, over all its pieces: 256 MiB.
    pub max_message: usize,
    /// How many requests one connection has at the same time: 256.
    pub max_streams: u32,
    /// How many bytes of one request, or of one answer, are on their way before their reader takes
    /// them: 1 MiB. Those of a connection are together at most this times `max_streams`.
    pub window: u32,
    /// How many bytes the headers of a request or of an answer have: 32 KiB.
    pub max_headers: u32,
    /// The longest time for each 16 KiB of a request, and for its end: 10 s. A caller gives the chunks
    /// of a stream so much more time than its timeouts, to be on their way.
    pub piece_timeout: Duration,
    /// How long the reader of an answer may take no part of it: 300 s, as long as a stream may take
    /// by default for a chunk. The request is cancelled then. A part is what is on its way, unread:
    /// up to `window`.
    pub unread_timeout: Duration,
    /// The longest time for a call whose caller gives none: 300 s.
    pub call_timeout: Duration,
    /// After how long without a byte the other side is asked whether it is there: 500 ms.
    pub keep_alive_interval: Duration,
    /// How long it may take to answer that, once it has arrived there: 500 ms.
    pub keep_alive_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message: 256 << 20,
            max_streams: 256,
            window: 1 << 20,
            max_headers: 32 << 10,
            piece_timeout: Duration::from_secs(10),
            unread_timeout: Duration::from_secs(300),
            call_timeout: Duration::from_secs(300),
            keep_alive_interval: Duration::from_millis(500),
            keep_alive_timeout: Duration::from_millis(500),
        }
    }
}

impl Limits {
    /// The window of a whole connection. A reader that does not read uses up the window of its own
    /// request, and those of the others stay open.
    pub(crate) fn connection_window(&self) -> u32 {
        const LONGEST: u32 = (1 << 31) - 1;
        self.window.saturating_mul(self.max_streams.saturating_add(1)).min(LONGEST)
    }
}

/// The longest piece of a payload that is sent in one message.
pub(crate) const PIECE: usize = 128 << 10;

/// The longest frame of HTTP/2: a piece with all that is said beside it, so that it is received
/// in one part and need not be put together.
pub(crate) const MAX_FRAME: u32 = 132 << 10;
