//! How long a stream's reader waits, and for what.

use std::time::Duration;

/// The gap between two chunks after which a stream counts as stalled, unless told
/// otherwise.
pub const DEFAULT_CHUNK_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a stream may wait for the worker to begin it, unless told otherwise.
pub const DEFAULT_QUEUE_TIMEOUT: Duration = Duration::from_secs(300);

/// The timeouts of a stream. A [`Duration`] in its place sets the chunk timeout alone.
///
/// ```
/// use std::time::Duration;
/// use slipring::StreamTimeouts;
///
/// let patient = StreamTimeouts::new().chunk(Duration::from_secs(5)).queue(Duration::MAX);
/// let usual = StreamTimeouts::from(Duration::from_secs(5));
/// assert_ne!(patient, usual);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct StreamTimeouts {
    pub(crate) chunk: Duration,
    pub(crate) queue: Duration,
}

impl StreamTimeouts {
    /// [`DEFAULT_CHUNK_TIMEOUT`] and [`DEFAULT_QUEUE_TIMEOUT`].
    pub const fn new() -> Self {
        Self { chunk: DEFAULT_CHUNK_TIMEOUT, queue: DEFAULT_QUEUE_TIMEOUT }
    }

    /// Sets the longest gap between two chunks. The gap counts while the reader waits for the
    /// next chunk, and from when the worker has begun the request: neither a pause of the
    /// reader nor the requests before this one count. A worker that has no other request and
    /// does not begin this one in that time has stalled, too.
    pub const fn chunk(mut self, timeout: Duration) -> Self {
        self.chunk = timeout;
        self
    }

    /// Sets how long the request may wait until the worker begins it, counted from the call
    /// that sends it: for room in the request ring, and for the requests before it. A worker
    /// serves one request at a time.
    pub const fn queue(mut self, timeout: Duration) -> Self {
        self.queue = timeout;
        self
    }
}

impl Default for StreamTimeouts {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Duration> for StreamTimeouts {
    fn from(chunk: Duration) -> Self {
        Self::new().chunk(chunk)
    }
}
