//! A long message that is read piece by piece, where the pieces lie in the ring.
//!
//! A message in pieces that is taken whole is copied into a buffer of its length, and from there
//! to where its owner wants it. The reader here saves the first of these copies, and the buffer.

use std::fmt;
use std::io::{self, Read};

use crate::channel::core::Core;
use crate::channel::item::{Body, Place};
use crate::channel::reply::Reply;
use crate::error::{Error, ErrorKind, Result};
use crate::id::RequestId;
use crate::shm::layout::as_usize;

/// A reply, or one chunk of a stream, that is read while it comes.
///
/// A message that is longer than a frame comes in pieces. [`Pending::wait`](crate::Pending::wait) and
/// [`Stream::next_chunk`](crate::Stream::next_chunk) collect them in a buffer; this reader hands each of them out where it lies
/// in shared memory. That saves a copy of the whole message, and the memory for it. A message of
/// one frame is one piece. [`Pending::wait_reader`](crate::Pending::wait_reader) and [`Stream::next_reader`](crate::Stream::next_reader) make the reader.
///
/// | to get | method |
/// |---|---|
/// | each piece where it lies | [`next_piece`](Self::next_piece) |
/// | all bytes in a slice of the message's length | [`copy_to`](Self::copy_to) |
/// | all bytes in a vector that is used again | [`append_to`](Self::append_to) |
/// | bytes as a stream of `std::io` | [`Read`], and [`io::BufReader`] for lines |
/// | the rows of a matrix | [`MatrixRows`](crate::payload::MatrixRows) |
///
/// A message that breaks off is always an error, and never taken for a whole one: the end is
/// reported only after the last piece. After an error other than [`ErrorKind::Interrupted`] the
/// request has ended, and every further read fails with the same error.
///
/// Dropping the reader before the end drops the rest of the message. The request of a call is
/// cancelled then; the chunks that follow in a stream can still be read. While another thread, or
/// a task, reads the channel, pieces of this message that come are copied, as if the message was
/// taken whole.
///
/// ```
#[doc = include_str!("example.md")]
/// let mut reader = channel.submit(ECHO, &[7; 3_000_000], timeout)?.wait_reader()?;
/// assert_eq!(reader.message_len(), Some(3_000_000));
/// let mut sum = 0;
/// while let Some(piece) = reader.next_piece()? {
///     // Dropped before the next one is waited for: the worker needs the room.
///     sum += piece.to_vec().iter().map(|byte| u64::from(*byte)).sum::<u64>();
/// }
/// assert_eq!(sum, 21_000_000);
/// # channel.close(timeout)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a reader that is dropped drops the rest of its message"]
pub struct MessageReader<'a> {
    source: Source<'a>,
    request: u64,
    /// The piece that came last.
    piece: Option<Reply>,
    /// How many of its bytes were read.
    used: usize,
    /// Bytes of all pieces that came.
    received: usize,
    /// The length of the whole message, if it is known.
    len: Option<usize>,
    /// The last piece has come.
    is_complete: bool,
    /// Why no more comes.
    failed: Option<Error>,
}

/// The owner of a request, which gets the parts of its messages.
pub(super) trait PartSource: fmt::Debug + Send + Sync {
    fn request(&self) -> u64;

    fn core(&self) -> &Core;

    /// Waits for the next part, which may be a whole message; `None` if the stream has ended.
    fn next_part(&mut self) -> Result<Option<(Reply, Place)>>;

    /// Ends the request because of an error of its message. Returns that error.
    fn end_with(&mut self, error: Error) -> Error;

    /// Notes that no reader takes parts any more; the whole message has come to it, or not.
    fn end_reader(&mut self, is_complete: bool);
}

#[derive(Debug)]
enum Source<'a> {
    Own(Box<dyn PartSource>),
    Lent(&'a mut dyn PartSource),
}

impl<'a> Source<'a> {
    fn get(&self) -> &dyn PartSource {
        match self {
            Self::Own(source) => &**source,
            Self::Lent(source) => &**source,
        }
    }

    fn get_mut(&mut self) -> &mut (dyn PartSource + 'a) {
        match self {
            Self::Own(source) => &mut **source,
            Self::Lent(source) => &mut **source,
        }
    }
}

impl MessageReader<'static> {
    /// Waits for the first part of the message of a call.
    pub(super) fn of_reply(source: impl PartSource + 'static) -> Result<Self> {
        match Self::begin(Source::Own(Box::new(source)))? {
            Some(reader) => Ok(reader),
            // Cannot happen: a call has no end without a reply.
            None => Err(broken_off("nothing came")),
        }
    }
}

impl<'a> MessageReader<'a> {
    /// Waits for the first part of the next chunk; `None` at the end of the stream.
    pub(super) fn of_chunk(source: &'a mut dyn PartSource) -> Result<Option<Self>> {
        Self::begin(Source::Lent(source))
    }

    fn begin(mut source: Source<'a>) -> Result<Option<Self>> {
        let first = source.get_mut().next_part();
        let (piece, place) = match first {
            Ok(Some(first)) => first,
            nothing => {
                source.get_mut().end_reader(true);
                return nothing.map(|_| None);
            }
        };
        let is_whole = place.is_first && place.is_last;
        let announced = (place.announced != 0).then(|| as_usize(place.announced));
        let mut reader = Self {
            request: source.get().request(),
            source,
            piece: None,
            used: 0,
            received: 0,
            len: if is_whole { Some(piece.len()) } else { announced },
            is_complete: false,
            failed: None,
        };
        reader.accept(piece, place, true)?;
        Ok(Some(reader))
    }

    /// Returns the request that the message answers.
    #[must_use]
    pub fn request(&self) -> RequestId {
        RequestId::new(self.request)
    }

    /// Returns the length of the whole message in bytes, if it is known: not if the worker writes
    /// the message without a length. The worker has said it, within the longest message of the
    /// channel; if the message has another length, reading it fails.
    #[must_use]
    pub fn message_len(&self) -> Option<usize> {
        self.len
    }

    /// Waits for the next piece; `None` after the last one. If a part of a piece was read, by
    /// [`Read`], the rest of that piece is the next one, as a copy.
    ///
    /// Dropping a piece gives its place in the ring back to the worker. As with other replies, a
    /// worker has to wait if too many are kept.
    ///
    /// Of a reply, blocks for at most the timeout of the request, which counts from the call to
    /// the last piece. Of a chunk, blocks as [`Stream::next_chunk`](crate::Stream::next_chunk) does for each piece.
    ///
    /// # Errors
    ///
    /// As [`Pending::wait`](crate::Pending::wait), or as [`Stream::next_chunk`](crate::Stream::next_chunk). [`ErrorKind::Protocol`] if the message
    /// breaks off, or does not have the length that was announced.
    pub fn next_piece(&mut self) -> Result<Option<Reply>> {
        if !self.fill()? {
            return Ok(None);
        }
        if self.used == 0 {
            return Ok(self.piece.take());
        }
        let mut rest = Vec::new();
        self.append_piece(&mut rest)?;
        Ok(Some(Reply::new(self.request, Body::Owned(rest))))
    }

    /// Copies the rest of the message to `out`, which must have its length. Blocks as
    /// [`MessageReader::next_piece`] does.
    ///
    /// ```
    #[doc = include_str!("example.md")]
    /// let mut frame = vec![0; 3_000_000];
    /// channel.submit(ECHO, &[7; 3_000_000], timeout)?.wait_reader()?.copy_to(&mut frame)?;
    /// assert_eq!(frame, [7; 3_000_000]);
    /// # channel.close(timeout)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`MessageReader::next_piece`]. [`ErrorKind::InvalidPayload`] if `out` has another length:
    /// nothing is read if the length of the message is known. After any other error `out` may hold a
    /// part of the message, which is read: also after [`ErrorKind::Interrupted`].
    pub fn copy_to(&mut self, out: &mut [u8]) -> Result<()> {
        self.check()?;
        let (len, wanted) = (self.known_rest(), out.len());
        let mut rest = out;
        if len.is_none_or(|len| len == wanted) {
            while !rest.is_empty() && self.fill()? {
                let copied = self.copy_some(rest)?;
                rest = rest.split_at_mut_checked(copied).map_or(&mut [][..], |(_, rest)| rest);
            }
            if rest.is_empty() && !self.fill()? {
                return Ok(());
            }
        }
        let what = match len {
            Some(len) => format!("{len} bytes are left of a message, not {wanted}"),
            None => format!("a message does not have {wanted} bytes left"),
        };
        Err(Error::new(ErrorKind::InvalidPayload, what))
    }

    /// Appends the rest of the message to `out`, and returns how many bytes that were. A vector that
    /// is cleared and used again takes no memory from the system after its first use, which would
    /// cost more than the copy. Blocks as [`MessageReader::next_piece`] does.
    ///
    /// ```
    #[doc = include_str!("example.md")]
    /// let mut bytes = Vec::new();
    /// for len in [3_000_000, 2_000_000] {
    ///     bytes.clear();
    ///     let mut reader = channel.submit(ECHO, &vec![7; len], timeout)?.wait_reader()?;
    ///     assert_eq!(reader.append_to(&mut bytes)?, len);
    /// }
    /// # channel.close(timeout)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`MessageReader::next_piece`]. `out` is then as it was before. After
    /// [`ErrorKind::Interrupted`] nothing of the message is lost: the next read begins where this one
    /// began.
    pub fn append_to(&mut self, out: &mut Vec<u8>) -> Result<usize> {
        let before = out.len();
        // Only a hint. If there is no memory now, it is asked for again when it is needed.
        let _ = out.try_reserve(self.known_rest().unwrap_or(0));
        loop {
            let appended = self.fill().and_then(|has_more| {
                self.append_piece(out)?;
                Ok(has_more)
            });
            match appended {
                Ok(true) => {}
                Ok(false) => return Ok(out.len() - before),
                Err(error) => {
                    self.take_back(out.split_off(before));
                    return Err(error);
                }
            }
        }
    }

    /// Makes bytes that were read before an error the piece to be read next: if the message goes on,
    /// a reader that tries again must get them.
    #[cold]
    fn take_back(&mut self, bytes: Vec<u8>) {
        if self.failed.is_none() && !bytes.is_empty() {
            self.piece = Some(Reply::new(self.request, Body::Owned(bytes)));
        }
    }

    /// Appends what there is of the piece, and gives its place in the ring back.
    fn append_piece(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let (piece, used) = (self.piece.take(), std::mem::take(&mut self.used));
        let Some(piece) = piece else { return Ok(()) };
        let payload = piece.payload();
        if used == 0 {
            payload.append_to(out);
            return Ok(());
        }
        let before = out.len();
        out.resize(before + payload.len().saturating_sub(used), 0);
        payload.read_at(used, out.get_mut(before..).unwrap_or_default())
    }

    /// The bytes that are not read yet, if the length of the message is known.
    fn known_rest(&self) -> Option<usize> {
        let in_hand = self.piece.as_ref().map_or(0, |piece| piece.len() - self.used);
        Some(self.len?.saturating_sub(self.received - in_hand))
    }

    /// Returns the error that ended the message, if one did.
    fn check(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Waits until there are bytes to read in `piece`. Returns false at the end of the message.
    fn fill(&mut self) -> Result<bool> {
        loop {
            self.check()?;
            if self.piece.as_ref().is_some_and(|piece| piece.len() > self.used) {
                return Ok(true);
            }
            // Before the wait: the worker may need the room.
            self.piece = None;
            self.used = 0;
            if self.is_complete {
                return Ok(false);
            }
            match self.source.get_mut().next_part() {
                Ok(Some((piece, place))) => self.accept(piece, place, false)?,
                Ok(None) => return Err(self.fail(broken_off("the stream ended within it"))),
                // The host's own hook ended the wait. The message goes on.
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => {
                    self.failed = Some(error.clone());
                    return Err(error);
                }
            }
        }
    }

    /// Takes a piece that the worker sent, if it can be the next one.
    fn accept(&mut self, piece: Reply, place: Place, is_first: bool) -> Result<()> {
        if place.is_first != is_first {
            return Err(self.fail(broken_off("the worker began another one")));
        }
        self.received += piece.len();
        self.is_complete = place.is_last;
        let most = self.longest();
        let len = self.len.unwrap_or(self.received);
        if piece.is_empty() && !place.is_last {
            // No honest worker sends one. Without end, they would hold up the reader for ever.
            return Err(self.fail(broken_off("a piece without bytes came")));
        }
        let is_wrong = self.received > len || len > most || (place.is_last && self.received < len);
        if is_wrong {
            let what = format!("{len} bytes were announced, {} came", self.received);
            return Err(self.fail(broken_off(&what)));
        }
        self.piece = Some(piece);
        Ok(())
    }

    /// The longest message that an honest worker announces.
    fn longest(&self) -> usize {
        let config = &self.source.get().core().config;
        config.max_message.max(config.up.max_frame)
    }

    fn fail(&mut self, error: Error) -> Error {
        let error = self.source.get_mut().end_with(error);
        self.failed.insert(error).clone()
    }

    /// Copies what there is of the piece and fits into `out`.
    fn copy_some(&mut self, out: &mut [u8]) -> Result<usize> {
        let Some(piece) = &self.piece else { return Ok(0) };
        let len = out.len().min(piece.len() - self.used);
        piece.payload().read_at(self.used, out.get_mut(..len).unwrap_or_default())?;
        self.used += len;
        Ok(len)
    }
}

/// Copies straight out of the pieces. Returns zero bytes only at the end of the message. Blocks as
/// [`MessageReader::next_piece`] does.
impl Read for MessageReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() || !self.fill()? {
            return Ok(0);
        }
        Ok(self.copy_some(out)?)
    }

    fn read_to_end(&mut self, out: &mut Vec<u8>) -> io::Result<usize> {
        Ok(self.append_to(out)?)
    }
}

impl Drop for MessageReader<'_> {
    fn drop(&mut self) {
        self.source.get_mut().end_reader(self.is_complete);
    }
}

#[cold]
fn broken_off(why: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("a message broke off: {why}"))
}
