//! A long request that is read piece by piece, where the pieces lie in the ring.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read};
use std::rc::Rc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::id::RequestId;
use crate::protocol::Kind;
use crate::protocol::partly_read::broken_off;
use crate::protocol::piece_reader::{PieceReader, PieceSource};
use crate::trace_context::TraceContext;
use crate::worker::cancel::CancelToken;
use crate::worker::handler_error::HandlerError;
use crate::worker::request::Request;
use crate::worker::request_pieces::{RequestPiece, RequestPieces};
use crate::worker::responder::{Done, Responder};

type HandlerResult = std::result::Result<Done, HandlerError>;

/// A handler that reads its requests piece by piece.
pub(super) struct ReadingHandler<S>(Rc<RefCell<Reading<S>>>);

type Reading<S> = dyn FnMut(&mut S, &mut RequestReader<'_>, Responder<'_>) -> HandlerResult;

impl<S> ReadingHandler<S> {
    pub(super) fn new(
        handler: impl FnMut(&mut S, &mut RequestReader<'_>, Responder<'_>) -> HandlerResult + 'static,
    ) -> Self {
        Self(Rc::new(RefCell::new(handler)))
    }

    /// Returns the same handler once more.
    pub(super) fn again(&self) -> Self {
        Self(Rc::clone(&self.0))
    }

    pub(super) fn call(
        &self,
        session: &mut S,
        mut reader: RequestReader<'_>,
        responder: Responder<'_>,
    ) -> HandlerResult {
        // Fails for a handler that is called within itself, which a server does not do.
        self.0.try_borrow_mut()?(session, &mut reader, responder)
    }
}

/// A request that is read while it comes. [`Worker::on_reader`](super::Worker::on_reader) gives it
/// to its handler, when the first piece is there.
///
/// A request that is longer than a frame comes in pieces. A handler of
/// [`Worker::on`](super::Worker::on) is called when they were all collected in a buffer; this reader
/// hands each of them out where it lies in shared memory. That saves a copy of the whole request,
/// and the memory for it, and the handler works while the parent still sends. A request of one frame
/// is one piece.
///
/// | to get | method |
/// |---|---|
/// | each piece where it lies | [`next_piece`](Self::next_piece) |
/// | all bytes in a slice of the request's length | [`copy_to`](Self::copy_to) |
/// | all bytes in a vector that is used again | [`append_to`](Self::append_to) |
/// | bytes as a stream of `std::io` | [`Read`], and [`io::BufReader`] for lines |
/// | the rows of a matrix | [`MatrixRows`](crate::payload::MatrixRows) |
///
/// A request that breaks off is always an error, and never taken for a whole one: the end is
/// reported only after the last piece. After an error other than
/// [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted) every further read fails with the same
/// error. The handler returns it, most often by `?`.
///
/// A handler may return, and may answer, before it has read everything. The rest of the request is
/// skipped then, and the parent still sends it. Short requests that come between the pieces are
/// served when the handler has returned, in the order in which they were sent. They are copied until
/// then: at most as many as the parent can have in flight.
///
/// # What waits while a request is read
///
/// * All other requests of the channel wait until the handler has returned, also while the host pauses
///   between two pieces, and while the handler does not read. While the request ring is full of pieces
///   that are not read, the host's other threads wait for room, until their own timeouts.
/// * Pings, [health reports](crate::Channel::health), the abort flag and the close do not wait. A
///   cancel, a close and the deadline of the request end each read.
/// * A reply of any length can be sent before the request is read: the host reads it while it sends.
/// * The host takes the chunks of a stream when it has sent the whole request. So a handler that sends
///   more chunks than [`Config::stream_window`](crate::Config::stream_window) before it has read the
///   request, and a host that waits for room, wait for each other until the host's total or queue
///   timeout: see [`StreamTimeouts`](crate::StreamTimeouts), whose queue timeout has a default. Such a
///   handler reads first.
/// * The host can use neither the place of a piece that is kept nor any behind it. A handler that keeps
///   one piece and reads on waits until the deadline, if the rest does not fit into the ring.
///
/// ```
/// # fn main() -> slipring::Result<()> {
/// use std::time::Duration;
/// use slipring::worker::Worker;
/// use slipring::{Config, Kind, RoleConfig, testing};
///
/// const SUM: Kind = Kind::named("sum");
/// let make = || {
///     Worker::new(|_role| Ok(())).on_reader(SUM, |_, reader, responder| {
///         let mut sum = 0;
///         while let Some(piece) = reader.next_piece()? {
///             // Dropped before the next one is waited for: the parent needs the room.
///             sum += piece.to_vec().iter().map(|byte| u64::from(*byte)).sum::<u64>();
///         }
///         Ok(responder.send(&sum.to_string())?)
///     })
/// };
/// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
/// let timeout = Duration::from_secs(10);
/// assert_eq!(channel.call(SUM, &[7; 3_000_000], timeout)?.to_vec(), b"21000000");
/// assert_eq!(channel.call(SUM, &[7; 3], timeout)?.to_vec(), b"21");
/// # Ok(())
/// # }
/// ```
pub struct RequestReader<'a> {
    source: ReaderSource<'a>,
    pieces: PieceReader<RequestPiece<'a>>,
}

/// Where the pieces come from.
struct ReaderSource<'a> {
    request: &'a Request<'a>,
    /// `None` if the request is one frame.
    ring: Option<&'a mut (dyn PieceSource<RequestPiece<'a>> + 'a)>,
}

impl<'a> RequestReader<'a> {
    /// Reads a request that is whole.
    pub(super) fn of_whole(request: &'a Request<'a>) -> Self {
        let pieces = PieceReader::whole(RequestPiece::of_frame(request.payload()));
        Self { source: ReaderSource { request, ring: None }, pieces }
    }

    pub(super) fn of_pieces(request: &'a Request<'a>, pieces: &'a mut RequestPieces<'_>) -> Self {
        let source = ReaderSource { request, ring: Some(pieces) };
        Self { source, pieces: PieceReader::new(None) }
    }

    /// Returns what is asked for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.source.request.kind()
    }

    /// Returns the request's id, which is the same in the parent.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.source.request.id()
    }

    /// Returns whether the parent reads a stream of chunks, and not one reply.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.source.request.is_stream()
    }

    /// Returns the length of the whole request in bytes if it is one frame. The length of a longer
    /// one is known at its end.
    #[must_use]
    pub fn message_len(&self) -> Option<usize> {
        self.pieces.message_len()
    }

    /// Returns how long the parent still waits: see [`Request::time_left`].
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.source.request.time_left()
    }

    /// Returns whether the handler should return early: see [`Request::is_cancelled`]. A read says
    /// so by itself, also if pieces are there.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.source.request.is_cancelled()
    }

    /// Returns an error if [`RequestReader::is_cancelled`], for use with `?`.
    ///
    /// # Errors
    ///
    /// As [`Request::check_cancelled`].
    pub fn check_cancelled(&self) -> Result<()> {
        self.source.request.check_cancelled()
    }

    /// Returns a token that tells the same as [`RequestReader::is_cancelled`] and does not borrow
    /// the reader: see [`Request::cancel_token`].
    #[must_use]
    pub fn cancel_token(&self) -> CancelToken {
        self.source.request.cancel_token()
    }

    /// Returns whether the channel's abort flag is set: see [`Request::is_aborted`].
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.source.request.is_aborted()
    }

    /// Returns the trace that the request is part of: see [`Request::trace_context`].
    #[must_use]
    pub fn trace_context(&self) -> Option<TraceContext> {
        self.source.request.trace_context()
    }

    /// Publishes a number that the parent sees: see [`Request::set_progress`].
    pub fn set_progress(&self, progress: u64) {
        self.source.request.set_progress(progress);
    }

    /// Waits for the next piece; `None` after the last one. If a part of a piece was read, by
    /// [`Read`], the rest of that piece is the next one, as a copy.
    ///
    /// Dropping a piece gives its place in the ring back to the parent, which has to wait if too many
    /// are kept. Blocks until the request is cancelled, or for at most
    /// [`RequestReader::time_left`].
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled): the parent has cancelled the request,
    ///   given it up in the middle, or set the abort flag; or the worker is told to end, or its
    ///   parent is gone. Also if pieces are there.
    /// * [`ErrorKind::Timeout`](crate::ErrorKind::Timeout): the parent's timeout has passed.
    /// * [`ErrorKind::PeerCorrupt`](crate::ErrorKind::PeerCorrupt): the parent wrote what cannot be.
    ///   The worker ends when the handler returns.
    /// * [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted): a hook ended the wait, see
    ///   [`Worker::on_interrupt`](super::Worker::on_interrupt). The next read goes on.
    /// * [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a forked child.
    pub fn next_piece(&mut self) -> Result<Option<RequestPiece<'a>>> {
        self.pieces.next_piece(&mut self.source)
    }

    /// Copies the rest of the request to `out`, which must have its length. Blocks as
    /// [`RequestReader::next_piece`] does.
    ///
    /// # Errors
    ///
    /// As [`RequestReader::next_piece`].
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if the request has another
    /// length. After any error `out` may hold a part of the request, which is read: also after
    /// [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted).
    pub fn copy_to(&mut self, out: &mut [u8]) -> Result<()> {
        self.pieces.copy_to(&mut self.source, out)
    }

    /// Appends the rest of the request to `out`, and returns how many bytes that were. A vector that
    /// is cleared and used again takes no memory from the system after its first use, which would
    /// cost more than the copy. Blocks as [`RequestReader::next_piece`] does.
    ///
    /// # Errors
    ///
    /// As [`RequestReader::next_piece`]. `out` is then as it was before. After
    /// [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted) nothing of the request is lost: the
    /// next read begins where this one began.
    pub fn append_to(&mut self, out: &mut Vec<u8>) -> Result<usize> {
        self.pieces.append_to(&mut self.source, out)
    }
}

/// Copies straight out of the pieces. Returns zero bytes only at the end of the request. Blocks as
/// [`RequestReader::next_piece`] does.
impl Read for RequestReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        Ok(self.pieces.read(&mut self.source, out)?)
    }

    fn read_to_end(&mut self, out: &mut Vec<u8>) -> io::Result<usize> {
        Ok(self.append_to(out)?)
    }
}

impl fmt::Debug for RequestReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestReader")
            .field("id", &self.id())
            .field("kind", &self.kind())
            .field("pieces", &self.pieces)
            .finish_non_exhaustive()
    }
}

impl<'a> PieceSource<RequestPiece<'a>> for ReaderSource<'a> {
    fn wait_for_piece(&mut self) -> Result<(RequestPiece<'a>, bool)> {
        let Some(ring) = &mut self.ring else {
            // Cannot happen: a request of one frame is complete.
            return Err(broken_off("nothing came"));
        };
        let (piece, is_last) = ring.wait_for_piece()?;
        self.request.status.received(piece.len());
        Ok((piece, is_last))
    }

    fn copied(&self, bytes: Vec<u8>) -> RequestPiece<'a> {
        RequestPiece::copied(bytes)
    }

    fn longest(&self) -> usize {
        self.ring.as_ref().map_or(usize::MAX, |ring| ring.longest())
    }

    fn end_with(&mut self, error: Error) -> Error {
        match &mut self.ring {
            Some(ring) => ring.end_with(error),
            None => error,
        }
    }
}
