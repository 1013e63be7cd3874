//! How long a stream's reader waits, and for what.

use std::time::Duration;

use crate::error::{Error, StreamTimeout};
use crate::sys::clock::{Deadline, TimeLimit};

/// The gap between two chunks after which a stream counts as stalled, unless told
/// otherwise: 300 seconds.
pub const DEFAULT_CHUNK_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a stream may wait for the worker to begin it, unless told otherwise: 300 seconds.
pub const DEFAULT_QUEUE_TIMEOUT: Duration = Duration::from_secs(300);

/// The timeouts of a stream. A [`Duration`] in its place sets the chunk timeout alone.
///
/// | timeout | from | to | if it passes |
/// |---|---|---|---|
/// | [`queue`](Self::queue) | the call | the worker begins it | [`ErrorKind::Timeout`] |
/// | [`first_chunk`](Self::first_chunk) | the worker begins it | the first chunk | [`ErrorKind::Stalled`] |
/// | [`chunk`](Self::chunk) | a chunk | the next one, or the end | [`ErrorKind::Stalled`] |
/// | [`total`](Self::total) | the call | the end | [`ErrorKind::Timeout`] |
///
/// [`Error::stream_timeout`](crate::Error::stream_timeout) tells which one has passed. The stream
/// is over then, and the worker is told that it is cancelled.
///
/// ```
/// use std::time::Duration;
/// use slipring::StreamTimeouts;
///
/// let patient = StreamTimeouts::new().chunk(Duration::from_secs(5)).queue(Duration::MAX);
/// let usual = StreamTimeouts::from(Duration::from_secs(5));
/// assert_ne!(patient, usual);
/// let of_a_chat = StreamTimeouts::new()
///     .queue(Duration::from_secs(10))
///     .first_chunk(Duration::from_secs(30))
///     .chunk(Duration::from_secs(2))
///     .total(Duration::from_secs(300));
/// assert_eq!(of_a_chat.first_chunk_timeout(), Some(Duration::from_secs(30)));
/// ```
///
/// [`ErrorKind::Timeout`]: crate::ErrorKind::Timeout
/// [`ErrorKind::Stalled`]: crate::ErrorKind::Stalled
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct StreamTimeouts {
    pub(crate) chunk: Duration,
    pub(crate) queue: Duration,
    /// `None` for that of the other chunks.
    first_chunk: Option<Duration>,
    pub(crate) total: Duration,
}

impl StreamTimeouts {
    /// Makes the default timeouts: [`DEFAULT_CHUNK_TIMEOUT`] for each chunk, the first included,
    /// [`DEFAULT_QUEUE_TIMEOUT`] for the queue, and no limit for the whole stream.
    pub const fn new() -> Self {
        Self {
            chunk: DEFAULT_CHUNK_TIMEOUT,
            queue: DEFAULT_QUEUE_TIMEOUT,
            first_chunk: None,
            total: Duration::MAX,
        }
    }

    /// Sets the longest gap between two chunks, and before the end. The gap counts while the
    /// reader waits for the next chunk: a pause of the reader does not count. A worker that has no
    /// other request and does not begin this one in that time has stalled, too.
    pub const fn chunk(mut self, timeout: Duration) -> Self {
        self.chunk = timeout;
        self
    }

    /// Sets the longest wait for the first chunk; by default it is the longest gap between two
    /// chunks. It counts while the reader waits, and from when the worker has begun the request:
    /// neither a pause of the reader nor the requests before this one count. Of a worker that
    /// takes requests before it begins them, the time in its hands does not count either.
    pub const fn first_chunk(mut self, timeout: Duration) -> Self {
        self.first_chunk = Some(timeout);
        self
    }

    /// Sets how long the request may wait until the worker begins it, counted from the call
    /// that sends it: for room in the request ring, for the requests before it, and in the hands
    /// of a worker that takes requests before it begins them. The whole request must be in the ring
    /// by then, also if its handler reads it while it comes.
    pub const fn queue(mut self, timeout: Duration) -> Self {
        self.queue = timeout;
        self
    }

    /// Sets how long the whole stream may take, counted from the call that sends the request to
    /// the end of the stream; [`Duration::MAX`] by default. Pauses of the reader count. The
    /// deadline travels with the request: [`Request::time_left`](crate::worker::Request::time_left)
    /// tells it, and the worker does not begin a request whose deadline has passed. Chunks that
    /// have not been read by then are dropped.
    pub const fn total(mut self, timeout: Duration) -> Self {
        self.total = timeout;
        self
    }

    /// Returns what [`chunk`](Self::chunk) has set, or the default.
    #[must_use]
    pub const fn chunk_timeout(&self) -> Duration {
        self.chunk
    }

    /// Returns what [`first_chunk`](Self::first_chunk) has set; `None` for that of the other chunks.
    #[must_use]
    pub const fn first_chunk_timeout(&self) -> Option<Duration> {
        self.first_chunk
    }

    /// Returns what [`queue`](Self::queue) has set, or the default.
    #[must_use]
    pub const fn queue_timeout(&self) -> Duration {
        self.queue
    }

    /// Returns what [`total`](Self::total) has set, or the default.
    #[must_use]
    pub const fn total_timeout(&self) -> Duration {
        self.total
    }

    /// The longest wait for the first chunk.
    pub(crate) fn first(&self) -> Duration {
        self.first_chunk.unwrap_or(self.chunk)
    }

    /// The shorter of the gaps that can be the first to pass.
    pub(crate) fn shortest_gap(&self) -> Duration {
        self.first().min(self.chunk)
    }

    /// The deadlines of a stream whose call is now.
    pub(crate) fn start(self) -> StreamDeadlines {
        let queue = TimeLimit::begin(self.queue);
        StreamDeadlines { timeouts: self, queue, end_by: Deadline::after(self.total) }
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

/// The timeouts of a stream, and when those pass that count from its call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamDeadlines {
    pub(crate) timeouts: StreamTimeouts,
    pub(crate) queue: TimeLimit,
    pub(crate) end_by: Deadline,
}

impl StreamDeadlines {
    /// Until when its request may wait to be sent.
    pub(crate) fn send_by(&self) -> Deadline {
        self.queue.deadline().min(self.end_by)
    }

    /// What is left of the timeouts, for a request that another host's workers get.
    #[cfg(feature = "async")]
    pub(crate) fn left(&self) -> StreamTimeouts {
        let queue = self.queue.deadline().remaining();
        StreamTimeouts { queue, total: self.end_by.remaining(), ..self.timeouts }
    }

    /// The same deadlines with so many nanoseconds more for the queue: those in which a worker was
    /// at the request, which is to be sent again.
    pub(crate) fn put_off_queue(self, nanos: u64) -> Self {
        Self { queue: self.queue.put_off(Duration::from_nanos(nanos)), ..self }
    }

    /// The error of its sending, with the timeout that has passed.
    pub(crate) fn sending_failed(&self, error: Error) -> Error {
        if !error.is_timeout() {
            return error;
        }
        let is_total = self.end_by.has_passed();
        error.with_stream_timeout(if is_total {
            StreamTimeout::Total
        } else {
            StreamTimeout::Queue
        })
    }
}
