//! Which of a stream's timeouts has passed.

use super::ErrorKind;

/// One of the timeouts of a stream, see [`StreamTimeouts`](crate::StreamTimeouts);
/// [`Error::stream_timeout`](crate::Error::stream_timeout) returns the one that has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum StreamTimeout {
    /// The worker did not begin the request in time: [`ErrorKind::Timeout`], or of a pool, where no
    /// worker had a place for it, [`ErrorKind::QueueTimeout`].
    Queue,
    /// The worker began the request, and no first chunk came in time: [`ErrorKind::Stalled`].
    FirstChunk,
    /// No further chunk came in time, or the worker had no other request and did not begin this one
    /// in that time: [`ErrorKind::Stalled`].
    Chunk,
    /// The stream was not over in time: [`ErrorKind::Timeout`], or [`ErrorKind::QueueTimeout`] if it
    /// still waited for a worker of a pool.
    Total,
}

impl StreamTimeout {
    /// The kind of the error that tells of it.
    pub(crate) fn kind(self) -> ErrorKind {
        match self {
            Self::Queue | Self::Total => ErrorKind::Timeout,
            Self::FirstChunk | Self::Chunk => ErrorKind::Stalled,
        }
    }
}
