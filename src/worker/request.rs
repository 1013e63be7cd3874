//! What a handler is asked.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::id::RequestId;
use crate::payload::{PayloadReader, Source};
use crate::protocol::Kind;
use crate::protocol::kind::flags;
use crate::shm::bytes::PeerBytes;
use crate::sys::clock::Deadline;
use crate::trace_context::TraceContext;
use crate::worker::cancel::{CancelToken, Signals};
use crate::worker::status::StatusWriter;

/// One request.
///
/// The payload stays where it came until the handler returns. It lies in memory that the parent
/// can write, so that it is read by copying: with [`Request::text`], [`Request::to_vec`],
/// [`Request::reader`], or with a decoder of [`payload`](crate::payload), for which a request is
/// a [`Source`].
///
/// ```
/// # fn main() -> slipring::Result<()> {
/// use std::time::Duration;
/// use slipring::payload::Texts;
/// use slipring::worker::Worker;
/// use slipring::{Config, Kind, RoleConfig, testing};
///
/// const COUNT: Kind = Kind::named("count");
/// let make = || {
///     Worker::new(|_role| Ok(Texts::new())).on(COUNT, |texts, request, responder| {
///         texts.decode_from(request)?;
///         Ok(responder.send(&format!("{} texts", texts.len()))?)
///     })
/// };
/// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
/// let batch = slipring::payload::TextBatch::new(&["one", "two"])?;
/// let reply = channel.call(COUNT, &batch, Duration::from_secs(10))?;
/// assert_eq!(reply.to_vec(), b"2 texts");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Request<'a> {
    pub(super) kind: Kind,
    pub(super) id: u64,
    /// Of its first frame.
    pub(super) flags: u16,
    pub(super) deadline: Deadline,
    pub(super) payload: PeerBytes<'a>,
    pub(super) signals: &'a Signals,
    pub(super) status: &'a StatusWriter,
}

impl<'a> Request<'a> {
    /// Returns what is asked for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the request's id, which is the same in the parent.
    #[must_use]
    pub fn id(&self) -> RequestId {
        RequestId::new(self.id)
    }

    /// Returns whether the parent reads a stream of chunks, and not one reply.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.flags & flags::STREAM != 0
    }

    /// Returns the length of the payload in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.payload.len()
    }

    /// Returns whether the payload is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// Returns the payload, to be copied from.
    #[must_use]
    pub fn payload(&self) -> PeerBytes<'a> {
        self.payload
    }

    /// Returns a copy of the payload.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.payload.to_vec()
    }

    /// Returns a copy of the payload as text.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`] if the payload is not UTF-8. The message says where.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::time::Duration;
    /// use slipring::worker::Worker;
    /// use slipring::{Config, Kind, RoleConfig, testing};
    ///
    /// const SHOUT: Kind = Kind::named("shout");
    /// let make = || {
    ///     Worker::new(|_role| Ok(())).on(SHOUT, |_, request, responder| {
    ///         Ok(responder.send(&request.text()?.to_uppercase())?)
    ///     })
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let timeout = Duration::from_secs(10);
    /// assert_eq!(channel.call(SHOUT, "grüße", timeout)?.to_vec(), "GRÜSSE".as_bytes());
    /// let error = channel.call(SHOUT, &[b'a', 0xff][..], timeout).unwrap_err();
    /// assert!(error.to_string().contains("at byte 1"), "{error}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn text(&self) -> Result<String> {
        String::from_utf8(self.to_vec()).map_err(|error| {
            let place = error.utf8_error().valid_up_to();
            let message =
                format!("the payload of {} bytes is not UTF-8 at byte {place}", self.len());
            Error::with_source(ErrorKind::InvalidPayload, message, error.utf8_error())
        })
    }

    /// Returns a reader over the payload, from its first byte on. Reading never blocks: the
    /// whole payload is there.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::io::BufRead;
    /// use std::time::Duration;
    /// use slipring::worker::Worker;
    /// use slipring::{Config, Kind, RoleConfig, testing};
    ///
    /// const LINES: Kind = Kind::named("lines");
    /// let make = || {
    ///     Worker::new(|_role| Ok(())).on(LINES, |_, request, responder| {
    ///         let lines = request.reader().lines().count();
    ///         Ok(responder.send(&lines.to_string())?)
    ///     })
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let reply = channel.call(LINES, "a\nb\nc", Duration::from_secs(10))?;
    /// assert_eq!(reply.to_vec(), b"3");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn reader(&self) -> PayloadReader<PeerBytes<'a>> {
        PayloadReader::new(self.payload)
    }

    /// Returns how long the parent still waits; [`Duration::MAX`] if it waits without a limit. Of a call
    /// with a timeout of a second or more this may be 20 ms too long.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.deadline.remaining()
    }

    /// Returns whether the handler should return early: this request was cancelled, timed out or
    /// dropped, the channel's abort flag is set, or the worker is told to end. Costs a few
    /// nanoseconds and never blocks.
    ///
    /// Nothing ends a handler that does not look. If the worker serves one request at a time, all
    /// other requests wait until the handler returns.
    #[must_use]
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        self.signals.is_cancelled(self.id)
    }

    /// Returns an error if [`Request::is_cancelled`], for use with `?`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Cancelled`]. A handler that returns this error ends its request as cancelled.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::time::Duration;
    /// use slipring::worker::Worker;
    /// use slipring::{Config, Kind, RoleConfig, testing};
    ///
    /// const SEARCH: Kind = Kind::named("search");
    /// let make = || {
    ///     Worker::new(|_role| Ok(())).on(SEARCH, |_, request, responder| {
    ///         for step in 0..1_000_000 {
    ///             request.check_cancelled()?;
    ///             request.set_progress(step);
    ///             std::thread::sleep(Duration::from_millis(1));
    ///         }
    ///         Ok(responder.send("found")?)
    ///     })
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let late = channel.call(SEARCH, "", Duration::from_millis(20)).unwrap_err();
    /// assert!(late.is_timeout());
    /// // The handler has noticed it, and returned.
    /// channel.close(Duration::from_secs(10))?;
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn check_cancelled(&self) -> Result<()> {
        self.signals.check(self.id)
    }

    /// Returns a token that tells the same as [`Request::is_cancelled`] and does not borrow the
    /// request, for another thread or an object of another language.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::time::Duration;
    /// use slipring::worker::Worker;
    /// use slipring::{Config, Kind, RoleConfig, testing};
    ///
    /// const SUM: Kind = Kind::named("sum");
    /// let make = || {
    ///     Worker::new(|_role| Ok(())).on(SUM, |_, request, responder| {
    ///         let (token, bytes) = (request.cancel_token(), request.to_vec());
    ///         let sum = std::thread::spawn(move || {
    ///             let mut sum = 0_u64;
    ///             for byte in bytes {
    ///                 token.check()?;
    ///                 sum += u64::from(byte);
    ///             }
    ///             Ok::<u64, slipring::Error>(sum)
    ///         });
    ///         let sum = sum.join().map_err(|_| "the thread panicked")??;
    ///         Ok(responder.send(&sum.to_string())?)
    ///     })
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let reply = channel.call(SUM, &[1, 2, 3][..], Duration::from_secs(10))?;
    /// assert_eq!(reply.to_vec(), b"6");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn cancel_token(&self) -> CancelToken {
        CancelToken::new(self.signals, self.id)
    }

    /// Returns whether the channel's abort flag is set. [`AbortFlag`](crate::worker::AbortFlag)
    /// tells it without a request.
    #[must_use]
    #[inline]
    pub fn is_aborted(&self) -> bool {
        self.signals.is_aborted()
    }

    /// Returns the trace that the request is part of, and the caller's span in it, if the caller has
    /// said so: by [`Channel::traced`](crate::Channel::traced), by a pool's request, or through a
    /// gateway. It has no `tracestate`. `None` if that is not known any more, because the request was
    /// answered and a later one has its place.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::time::Duration;
    /// use slipring::worker::Worker;
    /// use slipring::{Config, Kind, RoleConfig, TraceContext, testing};
    ///
    /// const PARENT: Kind = Kind::named("parent");
    /// let make = || {
    ///     Worker::new(|_role| Ok(())).on(PARENT, |_, request, responder| {
    ///         let trace = request.trace_context();
    ///         Ok(responder.send(&trace.map(|it| it.to_string()).unwrap_or_default())?)
    ///     })
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    /// let trace = TraceContext::parse(text).expect("it is well formed");
    /// let timeout = Duration::from_secs(10);
    /// assert_eq!(channel.traced(&trace).call(PARENT, "", timeout)?.text()?, text);
    /// assert_eq!(channel.call(PARENT, "", timeout)?.text()?, "");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn trace_context(&self) -> Option<TraceContext> {
        if self.flags & flags::TRACED == 0 { None } else { self.signals.traces().of(self.id) }
    }

    /// Makes a span `serve`, at level `DEBUG` and target `slipring`, for a request that is part of a
    /// trace, and joins it as [`Worker::join_traces`](super::Worker::join_traces) says. A disabled one
    /// for any other request.
    ///
    /// Handlers that serve one request each run in this span anyway. It is for programs that take
    /// their requests out of an [`Inbox`](super::Inbox), and for batches and steps.
    #[cfg(feature = "tracing")]
    #[must_use]
    pub fn span(&self) -> tracing::Span {
        match self.flags & flags::TRACED {
            0 => tracing::Span::none(),
            _ => self.signals.traces().span(&self.kind, self.id),
        }
    }

    /// Publishes a number that the parent sees as [`Health::progress`](crate::Health::progress).
    /// What it counts is up to the handlers. Never blocks.
    pub fn set_progress(&self, progress: u64) {
        self.status.set_progress(self.id, progress);
    }
}

impl Source for Request<'_> {
    fn len(&self) -> usize {
        self.payload.len()
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        self.payload.read_at(offset, out)
    }
}
