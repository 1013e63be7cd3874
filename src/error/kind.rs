//! What happened.

use std::io;

/// What happened, for code that must decide.
///
/// More kinds may be added, so a `match` needs a last arm for all others.
///
/// ```
/// use slipring::{Config, ErrorKind};
///
/// let error = Config::builder().request_ring(3).build().unwrap_err();
/// match error.kind() {
///     ErrorKind::InvalidConfig => assert!(error.to_string().contains("power of two")),
///     kind => panic!("{kind:?} is not what a configuration fails with"),
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A configuration value that cannot work. The message has the reason.
    InvalidConfig,
    /// The caller's mistake: it used a method in a way that is not allowed, such as a request of a
    /// kind that is not one of requests, or a second wait for a reply that was returned. Nothing
    /// was sent, and the channel is usable.
    InvalidInput,
    /// A payload is longer than allowed. Nothing was sent, and the channel is usable; see
    /// [`Error::length_and_limit`](crate::Error::length_and_limit).
    TooLarge,
    /// A typed payload cannot be encoded, or bytes do not decode as one.
    InvalidPayload,
    /// The deadline passed. The request is cancelled: a late reply is dropped. The channel is
    /// usable.
    Timeout,
    /// A stream delivered nothing within the timeout of its first chunk or of a further one, and is
    /// over: see [`StreamTimeouts`](crate::StreamTimeouts). Other requests are not affected, but a
    /// worker that is stuck in the handler of one request at a time serves none of them.
    Stalled,
    /// The request was cancelled, or the abort flag was set. The channel is usable.
    Cancelled,
    /// A signal has interrupted a wait, and a hook has ended it;
    /// [`source`](std::error::Error::source) is what the hook returned. The channel is usable.
    Interrupted,
    /// The channel is closed, or was closed during the operation.
    Closed,
    /// As many requests as the channel can hold are in flight; see
    /// [`ConfigBuilder::max_in_flight`](crate::ConfigBuilder::max_in_flight).
    TooManyInFlight,
    /// The worker process is gone; see [`Error::death`](crate::Error::death).
    PeerDied,
    /// The other process wrote something that no correct program writes. The channel is unusable
    /// for good.
    PeerCorrupt,
    /// The other side's mistake: it answered with something that is not allowed here, such as one
    /// result to a request for a stream. The channel is usable.
    Protocol,
    /// The handler in the worker failed or panicked; see
    /// [`Error::handler_failure`](crate::Error::handler_failure). The channel is usable.
    HandlerFailed,
    /// The worker could not build its session, so that it serves nothing and ends; see
    /// [`Error::handler_failure`](crate::Error::handler_failure).
    Session,
    /// The program could not be started.
    Spawn,
    /// The worker did not attach: it is not a slipring worker, it exited, or it took too long.
    Handshake,
    /// The two sides do not agree on layout, geometry, features or seals.
    Mismatch,
    /// Something that the parent process owns was used in a forked child that has not called
    /// exec. Such a child cannot start workers, either.
    Forked,
    /// As many requests as allowed wait for a worker of the pool. Nothing was sent; see
    /// [`Error::overload`](crate::Error::overload), which says when to try again.
    Overloaded,
    /// The deadline passed while the request waited for a worker of the pool: none had a place for
    /// it, or the one that it was sent to had not begun it.
    /// [`Error::was_begun`](crate::Error::was_begun) says whether another worker had begun it before.
    QueueTimeout,
    /// No worker of the pool's role serves, and those that were started have failed too often. The
    /// pool tries on; [`source`](std::error::Error::source) is why the last one failed.
    Degraded,
    /// The request has killed a worker of the pool that served it alone, after another one had died
    /// with it. It is not sent again; [`source`](std::error::Error::source) is the last death.
    Poison,
    /// The connection to another host was lost, or could not be made: from a `backend::Backend`
    /// that reaches one. [`Error::was_begun`](crate::Error::was_begun) is `Some(false)` if the
    /// request surely was not sent, `Some(true)` if a worker was seen to begin it, and `None` if that
    /// is not known. Other requests can be sent: the backend connects again.
    Disconnected,
    /// The kernel lacks something that is needed.
    Unsupported,
    /// A system call failed; see [`source`](std::error::Error::source).
    Os,
    /// What another host reported, which has a newer version of this library that knows more kinds.
    /// [`Error::was_begun`](crate::Error::was_begun) still says whether the request can be sent again.
    #[cfg_attr(feature = "serde", serde(other))]
    Unknown,
}

impl ErrorKind {
    /// All kinds.
    pub(crate) const ALL: [Self; 27] = [
        Self::InvalidConfig,
        Self::InvalidInput,
        Self::TooLarge,
        Self::InvalidPayload,
        Self::Timeout,
        Self::Stalled,
        Self::Cancelled,
        Self::Interrupted,
        Self::Closed,
        Self::TooManyInFlight,
        Self::PeerDied,
        Self::PeerCorrupt,
        Self::Protocol,
        Self::HandlerFailed,
        Self::Session,
        Self::Spawn,
        Self::Handshake,
        Self::Mismatch,
        Self::Forked,
        Self::Overloaded,
        Self::QueueTimeout,
        Self::Degraded,
        Self::Poison,
        Self::Disconnected,
        Self::Unsupported,
        Self::Os,
        Self::Unknown,
    ];

    /// Returns the kind's name in lower case, such as `too_large`, for a label of a metric. The
    /// feature `serde` writes the same.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidConfig => "invalid_config",
            Self::InvalidInput => "invalid_input",
            Self::TooLarge => "too_large",
            Self::InvalidPayload => "invalid_payload",
            Self::Timeout => "timeout",
            Self::Stalled => "stalled",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Closed => "closed",
            Self::TooManyInFlight => "too_many_in_flight",
            Self::PeerDied => "peer_died",
            Self::PeerCorrupt => "peer_corrupt",
            Self::Protocol => "protocol",
            Self::HandlerFailed => "handler_failed",
            Self::Session => "session",
            Self::Spawn => "spawn",
            Self::Handshake => "handshake",
            Self::Mismatch => "mismatch",
            Self::Forked => "forked",
            Self::Overloaded => "overloaded",
            Self::QueueTimeout => "queue_timeout",
            Self::Degraded => "degraded",
            Self::Poison => "poison",
            Self::Disconnected => "disconnected",
            Self::Unsupported => "unsupported",
            Self::Os => "os",
            Self::Unknown => "unknown",
        }
    }

    /// Returns the kind as which an `io::Error` passes this on. `None`: that of the source.
    pub(super) fn io_kind(self) -> Option<io::ErrorKind> {
        Some(match self {
            Self::InvalidConfig | Self::InvalidInput | Self::TooLarge => {
                io::ErrorKind::InvalidInput
            }
            Self::InvalidPayload | Self::PeerCorrupt | Self::Protocol | Self::Mismatch => {
                io::ErrorKind::InvalidData
            }
            Self::Timeout | Self::Stalled | Self::QueueTimeout => io::ErrorKind::TimedOut,
            // Not `Interrupted`, nor `WouldBlock`: after those, loops of std and of reactors try
            // again what will never succeed.
            Self::Cancelled => io::ErrorKind::ConnectionAborted,
            Self::Closed => io::ErrorKind::NotConnected,
            Self::TooManyInFlight | Self::Overloaded => io::ErrorKind::ResourceBusy,
            Self::PeerDied => io::ErrorKind::BrokenPipe,
            Self::Disconnected => io::ErrorKind::ConnectionReset,
            Self::Unsupported => io::ErrorKind::Unsupported,
            // As `Cancelled`.
            Self::HandlerFailed
            | Self::Session
            | Self::Handshake
            | Self::Forked
            | Self::Degraded
            | Self::Poison
            | Self::Interrupted
            | Self::Unknown => io::ErrorKind::Other,
            Self::Spawn | Self::Os => return None,
        })
    }
}
