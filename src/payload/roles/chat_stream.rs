//! Reading the stream of a chat, and that it is whole.

use std::fmt;

use super::super::Source;
use super::chat_reply::{ChatChunk, ChatEnd, ChatReply};
use crate::error::{Error, ErrorKind, Result};

/// Reads the answer to a chat out of a stream: an iterator over its [`ChatChunk`]s.
///
/// It takes any iterator over chunks, such as a [`Stream`](crate::Stream). An answer that ends
/// without its last chunk, or goes on after it, is an error of kind
/// [`Protocol`](ErrorKind::Protocol). The iterator ends after its first error. Iterate until it
/// ends, also after the last chunk: a stream that is dropped before it has ended is cancelled.
///
/// An async stream is read with a [`ChatCollector`].
///
/// ```
/// # fn main() -> slipring::Result<()> {
/// use slipring::payload::roles::*;
/// use slipring::worker::Worker;
/// use slipring::{Config, Kind, RoleConfig, StreamTimeouts, testing};
///
/// let make = || {
///     Worker::new(|_role| Ok(())).on(Kind::CHAT, |_, request, responder| {
///         let chat = ChatRequest::decode(request)?;
///         let mut stream = responder.stream();
///         for message in &chat.messages {
///             stream.send(&ChatChunk::delta(&*message.content))?;
///         }
///         let tokens = chat.messages.len() as u32;
///         stream.send(&ChatChunk::last(ChatEnd::new(FinishReason::Stop, tokens, tokens)))?;
///         Ok(stream.end()?)
///     })
/// };
/// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
/// let chat = ChatRequest::new([ChatMessage::user("turn "), ChatMessage::user("around")]);
///
/// let mut text = String::new();
/// for chunk in ChatStream::new(channel.stream(Kind::CHAT, &chat, StreamTimeouts::default())?) {
///     text += &chunk?.text;
/// }
/// assert_eq!(text, "turn around");
///
/// let stream = channel.stream(Kind::CHAT, &chat, StreamTimeouts::default())?;
/// let reply = ChatStream::new(stream).collect_reply()?;
/// assert_eq!((reply.text, reply.end.completion_tokens), (text, 2));
/// # Ok(())
/// # }
/// ```
#[must_use = "iterators are lazy"]
pub struct ChatStream<I> {
    /// `None` after the end and after an error.
    chunks: Option<I>,
    /// The last chunk has come.
    has_ended: bool,
}

impl<I, S> ChatStream<I>
where
    I: Iterator<Item = Result<S>>,
    S: Source,
{
    /// Reads these chunks.
    pub fn new(chunks: I) -> Self {
        Self { chunks: Some(chunks), has_ended: false }
    }

    /// Reads all chunks that are left, and returns their text and the end. Blocks as the stream
    /// does.
    ///
    /// # Errors
    ///
    /// The first error of the iterator.
    pub fn collect_reply(self) -> Result<ChatReply> {
        let mut collector = ChatCollector::new();
        for chunk in self {
            collector.add(chunk?)?;
        }
        collector.finish()
    }
}

impl<I, S> Iterator for ChatStream<I>
where
    I: Iterator<Item = Result<S>>,
    S: Source,
{
    type Item = Result<ChatChunk<'static>>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.chunks.as_mut()?.next().map(|chunk| ChatChunk::decode(&chunk?));
        let next = match next {
            Some(Ok(_)) if self.has_ended => Some(Err(goes_on())),
            None if !self.has_ended => Some(Err(no_last_chunk())),
            next => next,
        };
        match &next {
            Some(Ok(chunk)) => self.has_ended = chunk.end.is_some(),
            _ => self.chunks = None,
        }
        next
    }
}

impl<I, S> std::iter::FusedIterator for ChatStream<I>
where
    I: Iterator<Item = Result<S>>,
    S: Source,
{
}

impl<I> fmt::Debug for ChatStream<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatStream").field("has_ended", &self.has_ended).finish_non_exhaustive()
    }
}

/// Puts the chunks of a chat's answer together, however they are received.
///
/// ```
/// # use slipring::payload::Payload;
/// use slipring::payload::roles::{ChatChunk, ChatCollector, ChatEnd, FinishReason};
/// # let chunks = [
/// #     ChatChunk::delta("turn "),
/// #     ChatChunk::delta("around"),
/// #     ChatChunk::last(ChatEnd::new(FinishReason::Stop, 2, 2)),
/// # ]
/// # .map(|chunk| {
/// #     let mut slot = vec![0; chunk.encoded_len()];
/// #     chunk.encode(&mut slot).map(|()| slot)
/// # });
///
/// let mut collector = ChatCollector::new();
/// // With an `AsyncStream`: `while let Some(chunk) = stream.next().await`.
/// for chunk in chunks {
///     print!("{}", collector.push(&chunk?)?);
/// }
/// // An error if the last chunk has not come.
/// let reply = collector.finish()?;
/// assert_eq!(reply.text, "turn around");
/// # Ok::<(), slipring::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct ChatCollector {
    text: String,
    end: Option<ChatEnd>,
}

impl ChatCollector {
    /// Starts without chunks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes a chunk, and returns its text.
    ///
    /// # Errors
    ///
    /// Those of [`ChatChunk::decode`]. [`ErrorKind::Protocol`] if the last chunk has come before.
    pub fn push<S: Source + ?Sized>(&mut self, chunk: &S) -> Result<&str> {
        self.add(ChatChunk::decode(chunk)?)
    }

    fn add(&mut self, chunk: ChatChunk<'_>) -> Result<&str> {
        if self.end.is_some() {
            return Err(goes_on());
        }
        let before = self.text.len();
        self.text += &chunk.text;
        self.end = chunk.end;
        Ok(self.text.get(before..).unwrap_or_default())
    }

    /// Returns the text so far.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the whole answer, after the stream has ended.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Protocol`] if the last chunk has not come.
    pub fn finish(self) -> Result<ChatReply> {
        let end = self.end.ok_or_else(no_last_chunk)?;
        Ok(ChatReply { text: self.text, end })
    }
}

#[cold]
fn no_last_chunk() -> Error {
    let message = "the stream of a chat ended without its last chunk, which has a finish reason";
    Error::new(ErrorKind::Protocol, message)
}

#[cold]
fn goes_on() -> Error {
    Error::new(ErrorKind::Protocol, "the stream of a chat goes on after its last chunk")
}
