//! A chat: its messages, and how it is to be continued.

use std::fmt;

use super::super::{Source, invalid};
use super::fields::{Field, FieldWriter, for_each_field};
use crate::error::Result;

/// Implements what names and codes of an enumeration are converted by.
macro_rules! named_codes {
    ($type:ident, $what:literal: $($variant:ident $code:literal $name:literal),+ $(,)?) => {
        impl $type {
            /// Returns the name that the common HTTP interfaces of model servers have for it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Returns the value with this [`name`](Self::name), if there is one.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }

            /// Returns the number that stands for it in a payload. Never 0.
            #[must_use]
            pub const fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)+ }
            }

            /// Returns the value with this [`code`](Self::code), if there is one.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }

            pub(super) fn decode<S: Source + ?Sized>(
                field: &Field<'_, S>,
                name: &str,
            ) -> Result<Self> {
                let code = field.u8(name)?;
                let known = Self::from_code(code);
                known.ok_or_else(|| invalid(format!("{code} is no {}", $what)))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
pub(super) use named_codes;

/// The author of a message of a chat.
///
/// ```
/// use slipring::payload::roles::ChatRole;
///
/// assert_eq!(ChatRole::from_name("user"), Some(ChatRole::User));
/// assert_eq!(ChatRole::Assistant.to_string(), "assistant");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChatRole {
    /// The program, which says how the model is to behave.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// A tool that the model has called: the message is its result.
    Tool,
}

named_codes! {
    ChatRole, "role of a message":
    System 1 "system",
    User 2 "user",
    Assistant 3 "assistant",
    Tool 4 "tool",
}

/// A message of a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChatMessage {
    /// Its author.
    pub role: ChatRole,
    /// The text. May be empty.
    pub content: String,
    /// The name of its author, if several have the same role.
    pub name: Option<String>,
    /// In a message of a tool: which call it answers.
    pub tool_call_id: Option<String>,
    /// In a message of the model: the tools that it calls, in a form that both sides agree on,
    /// such as JSON.
    pub tool_calls: Option<String>,
}

impl ChatMessage {
    /// Makes a message without the optional parts.
    #[must_use]
    pub fn new(role: ChatRole, content: impl Into<String>) -> Self {
        let content = content.into();
        Self { role, content, name: None, tool_call_id: None, tool_calls: None }
    }

    /// Makes a message that says how the model is to behave.
    #[must_use]
    pub fn system(content: impl Into<String>) -> Self {
        Self::new(ChatRole::System, content)
    }

    /// Makes a message of the user.
    #[must_use]
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(ChatRole::User, content)
    }

    /// Makes a message of the model.
    #[must_use]
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new(ChatRole::Assistant, content)
    }

    /// Makes the result of the tool call `tool_call_id`.
    #[must_use]
    pub fn tool(tool_call_id: impl Into<String>, content: impl Into<String>) -> Self {
        let id = Some(tool_call_id.into());
        Self { tool_call_id: id, ..Self::new(ChatRole::Tool, content) }
    }
}

/// A chat to be continued: the request of [`Kind::CHAT`](crate::Kind::CHAT).
///
/// It is answered with a [`ChatReply`](super::ChatReply), or with a stream of
/// [`ChatChunk`](super::ChatChunk)s. What a parameter means if it is not set, and which values the
/// model can take, is for the worker to say. Numbers must be finite.
///
/// ```
/// use slipring::payload::Payload;
/// use slipring::payload::roles::{ChatMessage, ChatRequest};
///
/// let mut chat = ChatRequest::new([
///     ChatMessage::system("Answer in one word."),
///     ChatMessage::user("What turns and carries signals?"),
/// ]);
/// chat.max_tokens = Some(8);
/// chat.stop = vec!["\n".to_owned()];
///
/// // In a host: `channel.stream(Kind::CHAT, &chat, timeouts)?`.
/// let mut slot = vec![0; chat.encoded_len()];
/// chat.encode(&mut slot)?;
/// // In a handler: `ChatRequest::decode(request)?`.
/// assert_eq!(ChatRequest::decode(&slot)?, chat);
/// # Ok::<(), slipring::Error>(())
/// ```
///
/// # Layout
///
/// [Fields](super#layout):
///
/// | tag | value | field |
/// |---|---|---|
/// | 1 | 1 byte | repeated: a message begins, of the role: 1 `system`, 2 `user`, 3 `assistant`, 4 `tool` |
/// | 2 | UTF-8 | content of the message that began last; empty if it is missing |
/// | 3 | UTF-8 | name of its author |
/// | 4 | UTF-8 | id of the tool call that it answers |
/// | 5 | UTF-8 | tool calls that it makes |
/// | 16 | u32 | `max_tokens` |
/// | 17 | f32 | `temperature` |
/// | 18 | f32 | `top_p` |
/// | 19 | u32 | `top_k` |
/// | 20 | u64 | `seed` |
/// | 21 | UTF-8 | repeated: a `stop` sequence |
/// | 22 | f32 | `frequency_penalty` |
/// | 23 | f32 | `presence_penalty` |
/// | 24 | UTF-8 | `tools` |
///
/// Fields 2 to 5 follow the field 1 of their message, each once at most for a message. There is at
/// least one message.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ChatRequest {
    /// The chat so far, the oldest message first. At least one.
    pub messages: Vec<ChatMessage>,
    /// How many tokens the model may write at most.
    pub max_tokens: Option<u32>,
    /// How much chance has a say in the choice of tokens; 0 for none.
    pub temperature: Option<f32>,
    /// Chooses among the likeliest tokens that together have this probability.
    pub top_p: Option<f32>,
    /// Chooses among this many of the likeliest tokens.
    pub top_k: Option<u32>,
    /// Starts the generator of random numbers, so that the same request gets the same answer.
    pub seed: Option<u64>,
    /// Texts at which the model stops.
    pub stop: Vec<String>,
    /// Makes tokens less likely, the more often they have been used.
    pub frequency_penalty: Option<f32>,
    /// Makes tokens less likely that have been used.
    pub presence_penalty: Option<f32>,
    /// The tools that the model may call, in a form that both sides agree on, such as JSON.
    pub tools: Option<String>,
}

const WHAT: &str = "a chat request";

impl ChatRequest {
    /// Makes a request without parameters.
    #[must_use]
    pub fn new(messages: impl Into<Vec<ChatMessage>>) -> Self {
        Self { messages: messages.into(), ..Self::default() }
    }

    /// Decodes a request.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if the source is not a chat
    /// request: the message has the reason.
    pub fn decode<S: Source + ?Sized>(source: &S) -> Result<Self> {
        let mut chat = Self::default();
        // The content of the last message, to tell a second one from the first.
        let mut content = None;
        for_each_field(source, WHAT, |field| {
            let message = chat.messages.last_mut();
            match (field.tag, message) {
                (1, _) => {
                    let role = ChatRole::decode(&field, "role")?;
                    chat.finish_message(content.take());
                    chat.messages.push(ChatMessage::new(role, String::new()));
                    Ok(())
                }
                (2, Some(_)) => field.once("content", &mut content, Field::text),
                (3, Some(message)) => field.once("name", &mut message.name, Field::text),
                (4, Some(message)) => {
                    field.once("tool_call_id", &mut message.tool_call_id, Field::text)
                }
                (5, Some(message)) => {
                    field.once("tool_calls", &mut message.tool_calls, Field::text)
                }
                (2..=5, None) => Err(invalid("a part of a message before any message")),
                (16, _) => field.once("max_tokens", &mut chat.max_tokens, Field::u32),
                (17, _) => field.once("temperature", &mut chat.temperature, Field::f32),
                (18, _) => field.once("top_p", &mut chat.top_p, Field::f32),
                (19, _) => field.once("top_k", &mut chat.top_k, Field::u32),
                (20, _) => field.once("seed", &mut chat.seed, Field::u64),
                (21, _) => {
                    chat.stop.push(field.text("stop")?);
                    Ok(())
                }
                (22, _) => field.once("frequency_penalty", &mut chat.frequency_penalty, Field::f32),
                (23, _) => field.once("presence_penalty", &mut chat.presence_penalty, Field::f32),
                (24, _) => field.once("tools", &mut chat.tools, Field::text),
                _ => field.ignore(),
            }
        })?;
        chat.finish_message(content);
        chat.check().map(|()| chat)
    }

    fn finish_message(&mut self, content: Option<String>) {
        if let (Some(message), Some(content)) = (self.messages.last_mut(), content) {
            message.content = content;
        }
    }

    fn check(&self) -> Result<()> {
        match self.messages.is_empty() {
            true => Err(invalid(format!("{WHAT} without messages"))),
            false => Ok(()),
        }
    }

    fn put(&self, fields: &mut FieldWriter<'_>) -> Result<()> {
        self.check()?;
        for message in &self.messages {
            fields.bytes(1, &[message.role.code()])?;
            fields.text(2, Some(&message.content))?;
            fields.text(3, message.name.as_deref())?;
            fields.text(4, message.tool_call_id.as_deref())?;
            fields.text(5, message.tool_calls.as_deref())?;
        }
        fields.u32(16, self.max_tokens)?;
        fields.f32(17, "temperature", self.temperature)?;
        fields.f32(18, "top_p", self.top_p)?;
        fields.u32(19, self.top_k)?;
        fields.u64(20, self.seed)?;
        for stop in &self.stop {
            fields.text(21, Some(stop))?;
        }
        fields.f32(22, "frequency_penalty", self.frequency_penalty)?;
        fields.f32(23, "presence_penalty", self.presence_penalty)?;
        fields.text(24, self.tools.as_deref())
    }
}

payload_of_fields! { [] ChatRequest }
