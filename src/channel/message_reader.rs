//! A long message that is read piece by piece, where the pieces lie in the ring.
//!
//! A message in pieces that is taken whole is copied into a buffer of its length, and from there
//! to where its owner wants it. The reader here saves the first of these copies, and the buffer.

use std::io::{self, Read};

use crate::channel::message_parts::{MessageParts, OwnOrLent, PartSource};
use crate::channel::reply::Reply;
use crate::error::Result;
use crate::id::RequestId;
use crate::protocol::partly_read::{broken_off, wrong_length};

/// A reply, or one chunk of a stream, that is read while it comes.
///
/// A message that is longer than a frame comes in pieces. [`Pending::wait`] and
/// [`Stream::next_chunk`] collect them in a buffer; this reader hands each of them out where it lies
/// in shared memory. That saves a copy of the whole message, and the memory for it. A message of
/// one frame is one piece. [`Pending::wait_reader`] and [`Stream::next_reader`] make the reader.
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
///
/// [`ErrorKind::Interrupted`]: crate::ErrorKind::Interrupted
/// [`Pending::wait`]: crate::Pending::wait
/// [`Pending::wait_reader`]: crate::Pending::wait_reader
/// [`Stream::next_chunk`]: crate::Stream::next_chunk
/// [`Stream::next_reader`]: crate::Stream::next_reader
#[derive(Debug)]
#[must_use = "a reader that is dropped drops the rest of its message"]
pub struct MessageReader<'a> {
    source: OwnOrLent<'a, dyn PartSource + 'a>,
    parts: MessageParts,
}

impl MessageReader<'static> {
    /// Waits for the first part of the message of a call.
    pub(super) fn of_reply(source: impl PartSource + 'static) -> Result<Self> {
        match Self::begin(OwnOrLent::Own(Box::new(source)))? {
            Some(reader) => Ok(reader),
            // Cannot happen: a call has no end without a reply.
            None => Err(broken_off("nothing came")),
        }
    }
}

impl<'a> MessageReader<'a> {
    /// Waits for the first part of the next chunk; `None` at the end of the stream.
    pub(super) fn of_chunk(source: &'a mut dyn PartSource) -> Result<Option<Self>> {
        Self::begin(OwnOrLent::Lent(source))
    }

    fn begin(mut source: OwnOrLent<'a, dyn PartSource + 'a>) -> Result<Option<Self>> {
        let parts = MessageParts::new(source.get_mut());
        let mut reader = Self { source, parts };
        let source = reader.source.get_mut();
        let part = source.next_part();
        Ok(reader.parts.begin(part, source)?.then_some(reader))
    }

    /// Returns the request that the message answers.
    #[must_use]
    pub fn request(&self) -> RequestId {
        RequestId::new(self.parts.request())
    }

    /// Returns the length of the whole message in bytes, if it is known: not if the worker writes
    /// the message without a length. The worker has said it, within the longest message of the
    /// channel; if the message has another length, reading it fails.
    #[must_use]
    pub fn message_len(&self) -> Option<usize> {
        self.parts.message.message_len()
    }

    /// Waits for the next piece; `None` after the last one. If a part of a piece was read, by
    /// [`Read`], the rest of that piece is the next one, as a copy.
    ///
    /// Dropping a piece gives its place in the ring back to the worker. As with other replies, a
    /// worker has to wait if too many are kept.
    ///
    /// Of a reply, blocks for at most the timeout of the request, which counts from the call to
    /// the last piece. Of a chunk, blocks as [`Stream::next_chunk`] does for each piece.
    ///
    /// # Errors
    ///
    /// As [`Pending::wait`], or as [`Stream::next_chunk`]. [`ErrorKind::Protocol`] if the message
    /// breaks off, or does not have the length that was announced.
    ///
    /// [`ErrorKind::Protocol`]: crate::ErrorKind::Protocol
    /// [`Pending::wait`]: crate::Pending::wait
    /// [`Stream::next_chunk`]: crate::Stream::next_chunk
    pub fn next_piece(&mut self) -> Result<Option<Reply>> {
        if self.fill()? { self.parts.take_piece() } else { Ok(None) }
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
    ///
    /// [`ErrorKind::InvalidPayload`]: crate::ErrorKind::InvalidPayload
    /// [`ErrorKind::Interrupted`]: crate::ErrorKind::Interrupted
    pub fn copy_to(&mut self, out: &mut [u8]) -> Result<()> {
        self.parts.message.check()?;
        let (len, wanted) = (self.parts.message.known_rest(), out.len());
        let mut rest = out;
        if len.is_none_or(|len| len == wanted) {
            while !rest.is_empty() && self.fill()? {
                let copied = self.parts.message.copy_some(rest)?;
                rest = rest.split_at_mut_checked(copied).map_or(&mut [][..], |(_, rest)| rest);
            }
            if rest.is_empty() && !self.fill()? {
                return Ok(());
            }
        }
        Err(wrong_length(len, wanted))
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
    ///
    /// [`ErrorKind::Interrupted`]: crate::ErrorKind::Interrupted
    pub fn append_to(&mut self, out: &mut Vec<u8>) -> Result<usize> {
        let before = out.len();
        // Only a hint. If there is no memory now, it is asked for again when it is needed.
        let _ = out.try_reserve(self.parts.message.known_rest().unwrap_or(0));
        loop {
            let appended = self.fill().and_then(|has_more| {
                self.parts.message.append_piece(out)?;
                Ok(has_more)
            });
            match appended {
                Ok(true) => {}
                Ok(false) => return Ok(out.len() - before),
                Err(error) => {
                    self.parts.take_back(out.split_off(before));
                    return Err(error);
                }
            }
        }
    }

    /// Waits until there are bytes to read in the piece. Returns false at the end of the message.
    fn fill(&mut self) -> Result<bool> {
        loop {
            if let Some(has_bytes) = self.parts.message.look()? {
                return Ok(has_bytes);
            }
            let source = self.source.get_mut();
            let part = source.next_part();
            self.parts.take(part, source)?;
        }
    }
}

/// Copies straight out of the pieces. Returns zero bytes only at the end of the message. Blocks as
/// [`MessageReader::next_piece`] does.
impl Read for MessageReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() || !self.fill()? {
            return Ok(0);
        }
        Ok(self.parts.message.copy_some(out)?)
    }

    fn read_to_end(&mut self, out: &mut Vec<u8>) -> io::Result<usize> {
        Ok(self.append_to(out)?)
    }
}

impl Drop for MessageReader<'_> {
    fn drop(&mut self) {
        self.source.get_mut().end_reader(self.parts.is_untouched_or_complete());
    }
}
