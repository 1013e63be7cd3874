//! The answer to a chat: whole, or in chunks of a stream.

use std::borrow::Cow;
use std::fmt;

use super::super::{Source, invalid};
use super::chat::named_codes;
use super::fields::{Field, FieldWriter, for_each_field};
use crate::error::Result;

/// Why a model has stopped.
///
/// ```
/// use slipring::payload::roles::FinishReason;
///
/// assert_eq!(FinishReason::Length.name(), "length");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// The answer is complete, or a stop sequence came.
    Stop,
    /// The answer has as many tokens as were allowed, or as the model can hold.
    Length,
    /// A filter left out the rest.
    ContentFilter,
    /// The model calls tools and waits for their results.
    ToolCalls,
}

named_codes! {
    FinishReason, "finish reason":
    Stop 1 "stop",
    Length 2 "length",
    ContentFilter 3 "content_filter",
    ToolCalls 4 "tool_calls",
}

/// How the answer to a chat has ended, and what it took.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChatEnd {
    /// Why the model has stopped.
    pub finish_reason: FinishReason,
    /// How many tokens the model has read.
    pub prompt_tokens: u32,
    /// How many tokens the model has written.
    pub completion_tokens: u32,
    /// The tools that the model calls, in a form that both sides agree on, such as JSON.
    pub tool_calls: Option<String>,
}

impl ChatEnd {
    /// Makes the end of an answer that calls no tools.
    #[must_use]
    pub fn new(finish_reason: FinishReason, prompt_tokens: u32, completion_tokens: u32) -> Self {
        Self { finish_reason, prompt_tokens, completion_tokens, tool_calls: None }
    }
}

/// The whole answer to a chat: the reply to a call of [`Kind::CHAT`](crate::Kind::CHAT).
///
/// ```
/// use slipring::payload::Payload;
/// use slipring::payload::roles::{ChatEnd, ChatReply, FinishReason};
///
/// let reply = ChatReply::new("a slip ring", ChatEnd::new(FinishReason::Stop, 12, 3));
/// let mut slot = vec![0; reply.encoded_len()];
/// reply.encode(&mut slot)?;
/// assert_eq!(ChatReply::decode(&slot)?, reply);
/// # Ok::<(), slipring::Error>(())
/// ```
///
/// # Layout
///
/// That of a last [`ChatChunk`] with all of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChatReply {
    /// What the model has written. May be empty.
    pub text: String,
    /// How it has ended.
    pub end: ChatEnd,
}

impl ChatReply {
    /// Makes an answer.
    #[must_use]
    pub fn new(text: impl Into<String>, end: ChatEnd) -> Self {
        Self { text: text.into(), end }
    }

    /// Decodes an answer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if the source is not the
    /// answer to a chat: the message has the reason.
    pub fn decode<S: Source + ?Sized>(source: &S) -> Result<Self> {
        let what = "the reply to a chat";
        match decode(source, what)? {
            (text, Some(end)) => Ok(Self { text: text.unwrap_or_default(), end }),
            (_, None) => Err(invalid(format!("{what} has no finish reason"))),
        }
    }

    fn put(&self, fields: &mut FieldWriter<'_>) -> Result<()> {
        put(&self.text, Some(&self.end), fields)
    }
}

/// One chunk of the answer to a chat: of a stream of [`Kind::CHAT`](crate::Kind::CHAT).
///
/// The text of a chunk is what follows the text of the chunks before it. The last chunk has an
/// [`end`](Self::end), and no other one. A chunk has whole characters only: a worker whose tokens
/// cut characters joins them with a [`Utf8Decoder`](super::Utf8Decoder). A host reads a stream
/// with [`ChatStream`](super::ChatStream), which checks that the last chunk has come.
///
/// ```
/// use slipring::payload::Payload;
/// use slipring::payload::roles::{ChatChunk, ChatEnd, FinishReason};
///
/// // In a worker: `stream.send(&ChatChunk::delta(token))?`.
/// let chunk = ChatChunk::delta("ring");
/// let mut slot = vec![0; chunk.encoded_len()];
/// chunk.encode(&mut slot)?;
/// assert_eq!(ChatChunk::decode(&slot)?, chunk);
///
/// let last = ChatChunk::last(ChatEnd::new(FinishReason::Stop, 12, 3));
/// assert!(last.text.is_empty() && last.end.is_some());
/// # Ok::<(), slipring::Error>(())
/// ```
///
/// # Layout
///
/// [Fields](super#layout):
///
/// | tag | value | field |
/// |---|---|---|
/// | 1 | UTF-8 | text |
/// | 2 | 1 byte | finish reason: 1 `stop`, 2 `length`, 3 `content_filter`, 4 `tool_calls` |
/// | 3 | u32 | `prompt_tokens` |
/// | 4 | u32 | `completion_tokens` |
/// | 5 | UTF-8 | tool calls |
///
/// The last chunk has fields 2, 3 and 4, and may have the others. Other chunks have field 1 and
/// none of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChatChunk<'a> {
    /// What the model has written since the last chunk. May be empty.
    pub text: Cow<'a, str>,
    /// How the answer has ended, in the last chunk.
    pub end: Option<ChatEnd>,
}

impl<'a> ChatChunk<'a> {
    /// Makes a chunk after which others follow. Copies nothing.
    #[must_use]
    pub fn delta(text: impl Into<Cow<'a, str>>) -> Self {
        Self { text: text.into(), end: None }
    }

    /// Makes the last chunk, without text.
    #[must_use]
    pub fn last(end: ChatEnd) -> Self {
        Self { text: Cow::Borrowed(""), end: Some(end) }
    }

    fn put(&self, fields: &mut FieldWriter<'_>) -> Result<()> {
        put(&self.text, self.end.as_ref(), fields)
    }
}

impl ChatChunk<'static> {
    /// Decodes a chunk.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if the source is not a
    /// chunk of a chat: the message has the reason.
    pub fn decode<S: Source + ?Sized>(source: &S) -> Result<Self> {
        let what = "a chunk of a chat";
        match decode(source, what)? {
            (None, None) => Err(invalid(format!("{what} has neither text nor a finish reason"))),
            (text, end) => Ok(Self { text: text.unwrap_or_default().into(), end }),
        }
    }
}

fn decode<S: Source + ?Sized>(source: &S, what: &str) -> Result<(Option<String>, Option<ChatEnd>)> {
    let (mut text, mut finish_reason, mut tool_calls) = (None, None, None);
    let (mut prompt_tokens, mut completion_tokens) = (None, None);
    for_each_field(source, what, |field| match field.tag {
        1 => field.once("text", &mut text, Field::text),
        2 => field.once("finish_reason", &mut finish_reason, FinishReason::decode),
        3 => field.once("prompt_tokens", &mut prompt_tokens, Field::u32),
        4 => field.once("completion_tokens", &mut completion_tokens, Field::u32),
        5 => field.once("tool_calls", &mut tool_calls, Field::text),
        _ => field.ignore(),
    })?;
    match (finish_reason, prompt_tokens, completion_tokens) {
        (Some(finish_reason), Some(prompt_tokens), Some(completion_tokens)) => {
            let end = ChatEnd { finish_reason, prompt_tokens, completion_tokens, tool_calls };
            Ok((text, Some(end)))
        }
        (None, None, None) if tool_calls.is_none() => Ok((text, None)),
        (None, ..) => {
            Err(invalid(format!("{what} has token counts or calls, and no finish reason")))
        }
        (Some(_), ..) => {
            Err(invalid(format!("{what} has a finish reason, and not both token counts")))
        }
    }
}

fn put(text: &str, end: Option<&ChatEnd>, fields: &mut FieldWriter<'_>) -> Result<()> {
    if !text.is_empty() || end.is_none() {
        fields.text(1, Some(text))?;
    }
    let Some(end) = end else { return Ok(()) };
    fields.bytes(2, &[end.finish_reason.code()])?;
    fields.u32(3, Some(end.prompt_tokens))?;
    fields.u32(4, Some(end.completion_tokens))?;
    fields.text(5, end.tool_calls.as_deref())
}

payload_of_fields! { [] ChatReply, [] ChatChunk<'_> }
