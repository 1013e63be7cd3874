//! How a handler replies: once, or with a stream of chunks.
//!
//! What ends a request consumes its [`Responder`] and gives a [`Done`], which is what a handler
//! must return: replying twice or not at all does not compile.

use std::io;

use crate::error::Result;
use crate::payload::Payload;
use crate::protocol::Kind;
use crate::protocol::splitter::PieceBuffer;
use crate::worker::reply_sink::{ClaimedResult, ReplySink, ReplyState};

/// Proves that a request was answered. Only what ends a request gives it: see [`Responder`].
#[derive(Debug)]
#[must_use = "a handler returns it"]
pub struct Done(());

/// The means to answer one request.
///
/// | the reply is | method |
/// |---|---|
/// | a value | [`Responder::send`] |
/// | bytes that are computed in place | [`Responder::claim`] |
/// | written in parts, of unknown length | [`Responder::write`] |
/// | a stream of chunks, read one by one | [`Responder::stream`] |
///
/// Each of them ends with a [`Done`], which the handler returns. A handler that returns an
/// error instead ends the request with that error, also after some chunks of a stream.
///
/// ```
/// # fn main() -> slipring::Result<()> {
/// use std::time::Duration;
/// use slipring::worker::Worker;
/// use slipring::{Config, Kind, RoleConfig, testing};
///
/// const HALF: Kind = Kind::named("half");
/// let make = || {
///     Worker::new(|_role| Ok(())).on(HALF, |_, request, responder| {
///         let number: u32 = request.text()?.parse()?;
///         if number % 2 == 1 {
///             return Err("the number is odd".into());
///         }
///         Ok(responder.send(&(number / 2).to_string())?)
///     })
/// };
/// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
/// let timeout = Duration::from_secs(10);
/// assert_eq!(channel.call(HALF, "42", timeout)?.to_vec(), b"21");
/// let error = channel.call(HALF, "7", timeout).unwrap_err();
/// assert_eq!(error.handler_failure().unwrap().message, "the number is odd");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a request whose responder is dropped ends with an error"]
pub struct Responder<'a> {
    sink: &'a mut ReplySink,
    state: &'a mut ReplyState,
}

impl<'a> Responder<'a> {
    pub(super) fn new(sink: &'a mut ReplySink, state: &'a mut ReplyState) -> Self {
        Self { sink, state }
    }

    /// Answers with `payload`, which is encoded straight into shared memory. A payload that is
    /// longer than a frame goes in pieces; the caller gets it whole. Blocks while the parent
    /// has not made room for it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) if it is longer than the longest
    /// message; [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) if the request is cancelled,
    /// or the worker told to end, while there is no room;
    /// [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted) if a hook ends the wait for room,
    /// see [`Worker::on_interrupt`](crate::worker::Worker::on_interrupt);
    /// [`ErrorKind::PeerCorrupt`](crate::ErrorKind::PeerCorrupt) if the parent writes what cannot
    /// be; [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a forked child; what the payload's
    /// encoding returns.
    pub fn send<P: Payload + ?Sized>(self, payload: &P) -> Result<Done> {
        self.sink.send_message(self.state, Kind::RESULT, payload)?;
        Ok(Done(()))
    }

    /// Reserves `len` bytes of shared memory for the reply, which are filled in place and sent
    /// with [`ReplySlot::send`]. Blocks while the parent has not made room.
    ///
    /// # Errors
    ///
    /// As [`Responder::send`]. [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) if `len` does
    /// not fit one frame: [`Config::max_reply_frame`](crate::Config::max_reply_frame), by default 1
    /// MiB.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::time::Duration;
    /// use slipring::worker::Worker;
    /// use slipring::{Config, Kind, RoleConfig, testing};
    ///
    /// const REVERSE: Kind = Kind::named("reverse");
    /// let make = || {
    ///     Worker::new(|_role| Ok(())).on(REVERSE, |_, request, responder| {
    ///         let mut slot = responder.claim(request.len())?;
    ///         request.payload().copy_to(slot.payload())?;
    ///         slot.payload().reverse();
    ///         Ok(slot.send())
    ///     })
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let reply = channel.call(REVERSE, "abc", Duration::from_secs(10))?;
    /// assert_eq!(reply.to_vec(), b"cba");
    /// # Ok(())
    /// # }
    /// ```
    pub fn claim(self, len: usize) -> Result<ReplySlot<'a>> {
        self.sink.claim(self.state, len).map(ReplySlot)
    }

    /// Answers with a payload that is written in parts and whose length need not be known. It
    /// goes out in frames as it is written; the caller gets it whole. Never blocks.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::io::Write;
    /// use std::time::Duration;
    /// use slipring::worker::Worker;
    /// use slipring::{Config, Kind, RoleConfig, testing};
    ///
    /// const SQUARES: Kind = Kind::named("squares");
    /// let make = || {
    ///     Worker::new(|_role| Ok(())).on(SQUARES, |_, request, responder| {
    ///         let count: u64 = request.text()?.parse()?;
    ///         let mut writer = responder.write();
    ///         for number in 1..=count {
    ///             writeln!(writer, "{}", number * number)?;
    ///         }
    ///         Ok(writer.finish()?)
    ///     })
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let reply = channel.call(SQUARES, "3", Duration::from_secs(10))?;
    /// assert_eq!(reply.to_vec(), b"1\n4\n9\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn write(self) -> ReplyWriter<'a> {
        let buffer = self.sink.piece_buffer(self.state);
        ReplyWriter { sink: self.sink, state: self.state, buffer }
    }

    /// Answers with a stream of chunks. The parent must have asked for a stream. Never blocks.
    pub fn stream(self) -> ReplyStream<'a> {
        ReplyStream { sink: self.sink, state: self.state }
    }
}

/// Shared memory that is reserved for a reply; [`Responder::claim`] makes it.
#[derive(Debug)]
#[must_use = "a request whose slot is dropped ends with an error"]
pub struct ReplySlot<'a>(ClaimedResult<'a>);

impl ReplySlot<'_> {
    /// Returns the bytes to fill. They hold what earlier replies left there, so that every one
    /// of them must be written. They start 32 bytes into a cache line.
    pub fn payload(&mut self) -> &mut [u8] {
        self.0.payload()
    }

    /// Answers with the bytes. Never blocks.
    pub fn send(self) -> Done {
        self.0.send();
        Done(())
    }
}

/// A reply that is being written; [`Responder::write`] makes it.
#[derive(Debug)]
#[must_use = "a request whose writer is not finished ends with an error"]
pub struct ReplyWriter<'a> {
    sink: &'a mut ReplySink,
    state: &'a mut ReplyState,
    buffer: PieceBuffer,
}

impl ReplyWriter<'_> {
    /// Adds to the payload. Blocks if a frame is full and the parent has not made room for it.
    ///
    /// # Errors
    ///
    /// As [`Responder::send`], but [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) as soon
    /// as a frame is full and the request cancelled. A payload that gets longer than the longest
    /// message is [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge), and nothing of `bytes` is
    /// added. As an [`io::Error`] the cancel is of the kind `ConnectionAborted`, after which
    /// `write_all` does not try again.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let Self { sink, state, buffer } = self;
        buffer.push(bytes, |piece| {
            sink.check_cancelled(state)?;
            sink.send_piece(state, piece)
        })
    }

    /// Sends the rest. Blocks while the parent has not made room for it.
    ///
    /// # Errors
    ///
    /// As [`Responder::send`].
    pub fn finish(self) -> Result<Done> {
        let Self { sink, state, buffer } = self;
        buffer.finish(|piece| sink.send_piece(state, piece))?;
        Ok(Done(()))
    }
}

impl io::Write for ReplyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes)?;
        Ok(bytes.len())
    }

    /// Does nothing: a frame goes out when it is full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream of chunks to the parent; [`Responder::stream`] makes it.
///
/// The stream may be ahead of its reader by the channel's `stream_window`; then sending
/// blocks until the reader has taken more.
///
/// ```
/// # fn main() -> slipring::Result<()> {
/// use std::time::Duration;
/// use slipring::worker::Worker;
/// use slipring::{Config, Kind, RoleConfig, StreamTimeouts, testing};
///
/// const WORDS: Kind = Kind::named("words");
/// let make = || {
///     Worker::new(|_role| Ok(())).on(WORDS, |_, request, responder| {
///         let mut stream = responder.stream();
///         for word in request.text()?.split_whitespace() {
///             stream.send(word)?;
///         }
///         Ok(stream.end()?)
///     })
/// };
/// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
/// let mut words = Vec::new();
/// for word in channel.stream(WORDS, "one two three", StreamTimeouts::default())? {
///     words.push(word?.to_vec());
/// }
/// assert_eq!(words, [&b"one"[..], b"two", b"three"]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a stream that is not ended is an error for its reader"]
pub struct ReplyStream<'a> {
    sink: &'a mut ReplySink,
    state: &'a mut ReplyState,
}

impl ReplyStream<'_> {
    /// Sends one chunk, encoded straight into shared memory. Blocks while the reader is a
    /// whole window behind, or the parent has not made room.
    ///
    /// # Errors
    ///
    /// As [`Responder::send`], but
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) as soon as the stream is cancelled or
    /// dropped by its reader, or the worker is told to end, also if there is room.
    pub fn send<P: Payload + ?Sized>(&mut self, payload: &P) -> Result<()> {
        self.sink.check_cancelled(self.state)?;
        self.sink.send_message(self.state, Kind::CHUNK, payload)
    }

    /// Sends chunks that are at hand, each as [`ReplyStream::send`] does, and stops at the first
    /// error. For less than a call of that costs for each: the parent may see them only when some
    /// KiB were sent, or all, or when this waits for credit or room, and if the worker dies before,
    /// it does not. So an iterator that takes its time should not be given to this, but its chunks to
    /// [`ReplyStream::send`].
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use slipring::worker::Worker;
    /// use slipring::{Config, Kind, RoleConfig, StreamTimeouts, testing};
    ///
    /// const LINES: Kind = Kind::named("lines");
    /// let make = || {
    ///     Worker::new(|_role| Ok(())).on(LINES, |_, request, responder| {
    ///         let text = request.text()?;
    ///         let mut stream = responder.stream();
    ///         stream.send_all(text.lines())?;
    ///         Ok(stream.end()?)
    ///     })
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let mut lines = channel.stream(LINES, "one\ntwo\nthree", StreamTimeouts::default())?;
    /// let mut count = 0;
    /// while let Some(chunks) = lines.next_chunks()? {
    ///     count += chunks.len();
    /// }
    /// assert_eq!(count, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`ReplyStream::send`]. The chunks before are sent.
    pub fn send_all<P: Payload>(&mut self, chunks: impl IntoIterator<Item = P>) -> Result<()> {
        self.sink.send_chunks(self.state, chunks.into_iter())
    }

    /// Sends one chunk of `len` bytes that `fill` writes in place. `len` must fit one frame.
    /// Blocks as [`ReplyStream::send`] does.
    ///
    /// # Errors
    ///
    /// As [`ReplyStream::send`]. [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) if `len` does
    /// not fit one frame.
    pub fn send_with(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        self.sink.check_cancelled(self.state)?;
        self.sink.send_chunk_in_place(self.state, len, fill)
    }

    /// Ends the stream. Blocks while the parent has not made room.
    ///
    /// # Errors
    ///
    /// As [`Responder::send`].
    pub fn end(self) -> Result<Done> {
        self.sink.end_stream(self.state)?;
        Ok(Done(()))
    }
}
