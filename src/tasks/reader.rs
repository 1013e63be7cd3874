//! A long message that a task reads piece by piece, where the pieces lie in the ring.

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::channel::{MessageParts, OwnOrLent, PartSource, Place, Reply};
use crate::error::Result;
use crate::id::RequestId;
use crate::protocol::partly_read::{broken_off, wrong_length};

/// A reply, or one chunk of a stream, that a task reads while it comes: a
/// [`MessageReader`](crate::MessageReader) whose waits block no thread.
/// [`AsyncPending::wait_reader`](crate::tasks::AsyncPending::wait_reader) and
/// [`AsyncStream::next_reader`](crate::tasks::AsyncStream::next_reader) make it.
///
/// | to get | method |
/// |---|---|
/// | each piece where it lies | [`next_piece`](Self::next_piece) |
/// | all bytes in a slice of the message's length | [`copy_to`](Self::copy_to) |
/// | all bytes in a vector that is used again | [`append_to`](Self::append_to) |
/// | some bytes | [`read`](Self::read) |
///
/// All futures here are cancel-safe: one that is dropped before it is ready has taken nothing of the
/// message, and the next read begins where that one began. The timeout of a chunk counts only while a
/// piece of it is awaited; that of a call goes on.
///
/// A message that breaks off is always an error, and never taken for a whole one: the end is
/// reported only after the last piece. After an error the request has ended, and every further read
/// fails with the same error.
///
/// Dropping the reader before the end drops the rest of the message. The request of a call is
/// cancelled then; the chunks that follow in a stream can still be read. While other tasks, or
/// threads, read the channel, pieces of this message that come are copied, as if the message was
/// taken whole.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use slipring::tasks::AsyncChannel;
/// # use slipring::{Config, Kind, RoleConfig, testing, worker::Worker};
/// # const ECHO: Kind = Kind::named("echo");
/// # let make = || Worker::new(|_| Ok(())).on(ECHO, |(), request, responder| {
/// #     Ok(responder.send(&request.to_vec())?)
/// # });
/// # let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
/// # let timeout = std::time::Duration::from_secs(10);
/// # #[cfg(feature = "tokio")]
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let channel = AsyncChannel::new(channel)?;
/// let request = vec![7; 3_000_000];
/// let mut reader = channel.submit(ECHO, &request, timeout).await?.wait_reader().await?;
/// let mut sum = 0;
/// while let Some(piece) = reader.next_piece().await? {
///     // Dropped before the next one is awaited: the worker needs the room.
///     sum += piece.to_vec().iter().map(|byte| u64::from(*byte)).sum::<u64>();
/// }
/// assert_eq!(sum, 21_000_000);
/// # Ok::<(), slipring::Error>(())
/// # })?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a reader that is dropped drops the rest of its message"]
pub struct AsyncMessageReader<'a> {
    source: Source<'a>,
    parts: MessageParts,
}

/// The owner of a request, which gets the parts of its messages without blocking a thread.
pub(super) trait AsyncPartSource: fmt::Debug + Send + Sync {
    fn blocking(&mut self) -> &mut dyn PartSource;

    /// The next part, which may be a whole message; `None` if the stream has ended.
    fn poll_part(&mut self, context: &Context<'_>) -> Poll<Result<Option<(Reply, Place)>>>;

    /// Ends the wait for a part, if there is one.
    fn end_wait(&mut self);
}

type Source<'a> = OwnOrLent<'a, dyn AsyncPartSource + 'a>;

async fn next_part(source: &mut Source<'_>) -> Result<Option<(Reply, Place)>> {
    let awaited = Awaited(source.get_mut());
    poll_fn(|context| awaited.0.poll_part(context)).await
}

/// A message whose next part is awaited. Dropping this ends the wait.
struct Awaited<'a, 's>(&'a mut (dyn AsyncPartSource + 's));

impl Drop for Awaited<'_, '_> {
    fn drop(&mut self) {
        self.0.end_wait();
    }
}

impl AsyncMessageReader<'static> {
    /// Waits for the first part of the message of a call, whose pieces are given out one by one.
    pub(super) async fn of_reply(source: impl AsyncPartSource + 'static) -> Result<Self> {
        match Self::begin(Source::Own(Box::new(source))).await? {
            Some(reader) => Ok(reader),
            // Cannot happen: a call has no end without a reply.
            None => Err(broken_off("nothing came")),
        }
    }
}

impl<'a> AsyncMessageReader<'a> {
    /// Waits for the first part of the next chunk; `None` at the end of the stream.
    pub(super) async fn of_chunk(source: &'a mut dyn AsyncPartSource) -> Result<Option<Self>> {
        Self::begin(Source::Lent(source)).await
    }

    async fn begin(mut source: Source<'a>) -> Result<Option<Self>> {
        let parts = MessageParts::new(source.get_mut().blocking());
        // If this is dropped meanwhile, its owner knows that no part is taken any more.
        let mut reader = Self { source, parts };
        let part = next_part(&mut reader.source).await;
        let has_begun = reader.parts.begin(part, reader.source.get_mut().blocking())?;
        Ok(has_begun.then_some(reader))
    }

    /// Returns the request that the message answers.
    #[must_use]
    pub fn request(&self) -> RequestId {
        RequestId::new(self.parts.request())
    }

    /// Returns the length of the whole message in bytes, if it is known: as
    /// [`MessageReader::message_len`](crate::MessageReader::message_len).
    #[must_use]
    pub fn message_len(&self) -> Option<usize> {
        self.parts.message.message_len()
    }

    /// Waits for the next piece; `None` after the last one. If a part of a piece was read, by
    /// [`AsyncMessageReader::read`], the rest of that piece is the next one, as a copy.
    ///
    /// Dropping a piece gives its place in the ring back to the worker, which has to wait if too many
    /// are kept.
    ///
    /// Of a reply, waits for at most the timeout of the request, which counts from the call to the
    /// last piece. Of a chunk, waits as [`AsyncStream::next_chunk`] does for each piece.
    ///
    /// # Errors
    ///
    /// As [`AsyncPending`](crate::tasks::AsyncPending), or as [`AsyncStream::next_chunk`].
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol) if the message breaks off, or does not
    /// have the length that was announced.
    ///
    /// [`AsyncStream::next_chunk`]: crate::tasks::AsyncStream::next_chunk
    pub async fn next_piece(&mut self) -> Result<Option<Reply>> {
        if self.fill().await? { self.parts.take_piece() } else { Ok(None) }
    }

    /// Copies bytes that are there to the beginning of `out`, and returns how many: zero only at the
    /// end of the message, or if `out` is empty. Waits as [`AsyncMessageReader::next_piece`] does.
    ///
    /// # Errors
    ///
    /// As [`AsyncMessageReader::next_piece`].
    pub async fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        if out.is_empty() || !self.fill().await? {
            Ok(0)
        } else {
            self.parts.message.copy_some(out)
        }
    }

    /// Copies the rest of the message to `out`, which must have its length. Waits as
    /// [`AsyncMessageReader::next_piece`] does.
    ///
    /// If this is dropped before it is ready, `out` may hold a part of the message, which the next
    /// read returns again.
    ///
    /// # Errors
    ///
    /// As [`AsyncMessageReader::next_piece`].
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if `out` has another length:
    /// nothing is taken of the message then.
    pub async fn copy_to(&mut self, out: &mut [u8]) -> Result<()> {
        self.parts.message.check()?;
        let (len, wanted) = (self.parts.message.known_rest(), out.len());
        if len.is_none_or(|len| len == wanted) {
            let mut copied = Copied { reader: self, out, len: 0 };
            while copied.has_room() && copied.reader.fill().await? {
                copied.copy_some()?;
            }
            if !copied.has_room() && !copied.reader.fill().await? {
                copied.len = 0;
                return Ok(());
            }
        }
        Err(wrong_length(len, wanted))
    }

    /// Appends the rest of the message to `out`, and returns how many bytes that were. Waits as
    /// [`AsyncMessageReader::next_piece`] does.
    ///
    /// If this is dropped before it is ready, `out` is as it was before.
    ///
    /// # Errors
    ///
    /// As [`AsyncMessageReader::next_piece`]. `out` is then as it was before.
    pub async fn append_to(&mut self, out: &mut Vec<u8>) -> Result<usize> {
        let before = out.len();
        // Only a hint. If there is no memory now, it is asked for again when it is needed.
        let _ = out.try_reserve(self.parts.message.known_rest().unwrap_or(0));
        let mut appended = Appended { reader: self, out, before };
        while appended.reader.fill().await? {
            appended.reader.parts.message.append_piece(appended.out)?;
        }
        let len = appended.out.len() - before;
        appended.before = appended.out.len();
        Ok(len)
    }

    /// Waits until there are bytes to read in the piece. Returns false at the end of the message.
    async fn fill(&mut self) -> Result<bool> {
        let Self { source, parts } = self;
        loop {
            if let Some(has_bytes) = parts.message.look()? {
                return Ok(has_bytes);
            }
            let part = next_part(source).await;
            parts.take(part, source.get_mut().blocking())?;
        }
    }
}

impl Drop for AsyncMessageReader<'_> {
    fn drop(&mut self) {
        self.source.get_mut().blocking().end_reader(self.parts.is_untouched_or_complete());
    }
}

/// Bytes of a message that were copied to a slice, until all of it is there. If this is dropped
/// before, they are to be read again.
struct Copied<'r, 'a, 'o> {
    reader: &'r mut AsyncMessageReader<'a>,
    out: &'o mut [u8],
    len: usize,
}

impl Copied<'_, '_, '_> {
    fn has_room(&self) -> bool {
        self.len < self.out.len()
    }

    fn copy_some(&mut self) -> Result<()> {
        let out = self.out.get_mut(self.len..).unwrap_or_default();
        self.len += self.reader.parts.message.copy_some(out)?;
        Ok(())
    }
}

impl Drop for Copied<'_, '_, '_> {
    fn drop(&mut self) {
        if self.len != 0 {
            self.reader.parts.take_back(self.out.get(..self.len).unwrap_or_default().to_vec());
        }
    }
}

/// Bytes of a message that were appended to a vector, until all of it is there. If this is dropped
/// before, they are taken back, to be read again.
struct Appended<'r, 'a, 'o> {
    reader: &'r mut AsyncMessageReader<'a>,
    out: &'o mut Vec<u8>,
    before: usize,
}

impl Drop for Appended<'_, '_, '_> {
    fn drop(&mut self) {
        if self.out.len() > self.before {
            self.reader.parts.take_back(self.out.split_off(self.before));
        }
    }
}
