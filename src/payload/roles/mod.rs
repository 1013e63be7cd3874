//! Typed payloads of the roles that model servers have: embed, chat, rerank, and vision.
//!
//! | kind | request | to read it | answer | to read it |
//! |---|---|---|---|---|
//! | [`Kind::EMBED`] | [`TextBatch`] | [`Texts`] | [`Matrix`], [`MatrixWriter`]: row *i* is the vector of text *i* | [`MatrixReader`] |
//! | [`Kind::CHAT`], a call | [`ChatRequest`] | the same | [`ChatReply`] | the same |
//! | [`Kind::CHAT`], a stream | [`ChatRequest`] | the same | [`ChatChunk`]s, the last one with a [`ChatEnd`] | [`ChatStream`], [`ChatCollector`] |
//! | [`Kind::RERANK`] | [`RerankRequest`] | [`RerankQuery`] | [`RerankReply`] | the same |
//! | [`Kind::VISION`], a stream | [`Document`] | [`DocumentReader`] | one [`Page`] a chunk | the same |
//!
//! Each of them is a [`Payload`], and is decoded from any [`Source`]: a request in a worker, a
//! reply or a chunk in a host. A channel knows nothing of these types: both sides agree on a kind
//! and on what its payloads are. The example `role_worker` serves all four roles.
//!
//! Decoders copy each byte of the source at most once, and check the copy. Bytes that are not
//! such a payload are an error of kind [`InvalidPayload`](crate::ErrorKind::InvalidPayload), whose
//! message says what is wrong. A decoder allocates at most 40 times the length of the source: a
//! message of a chat takes more memory than its shortest encoding.
//!
//! [`Payload`]: super::Payload
//! [`Source`]: super::Source
//! [`Kind::EMBED`]: crate::Kind::EMBED
//! [`Kind::CHAT`]: crate::Kind::CHAT
//! [`Kind::RERANK`]: crate::Kind::RERANK
//! [`Kind::VISION`]: crate::Kind::VISION
//! [`TextBatch`]: super::TextBatch
//! [`Texts`]: super::Texts
//! [`Matrix`]: super::Matrix
//! [`MatrixWriter`]: super::MatrixWriter
//! [`MatrixReader`]: super::MatrixReader
//!
//! # Layout
//!
//! A payload of this module is a sequence of fields, one after another, without padding. It ends
//! where its last field does. Batches of texts and matrices have layouts of their own.
//!
//! ```text
//!   0         4            8                8 + length
//!   +---------+------------+----------------+---------+------------+---- …
//!   | tag u32 | length u32 | value …        | tag u32 | length u32 | value …
//!   +---------+------------+----------------+---------+------------+---- …
//! ```
//!
//! | offset | size | of a field |
//! |---|---|---|
//! | 0 | 4 | tag: which field of its payload it is |
//! | 4 | 4 | length of the value in bytes |
//! | 8 | length | the value: a little-endian number of this size, or UTF-8 |
//!
//! The type of each payload lists its fields. A field that is not called repeated stands in a
//! payload once at most. Fields may come in any order, unless the type says otherwise.
//!
//! # New fields
//!
//! Payloads grow by optional fields with new tags; the meaning of a tag never changes. A decoder
//! ignores a field whose tag it does not know. If the highest bit of that tag is set (from
//! `0x8000_0000` on), it must refuse the payload instead: such a field changes what the others
//! mean.
//!
//! # Payloads of your own
//!
//! A role of a program's own needs a kind ([`Kind::named`](crate::Kind::named)), and a type that
//! implements [`Payload`](super::Payload) and reads itself from a [`Source`](super::Source). It can
//! be built of the payloads of this library:
//!
//! ```
//! use slipring::Kind;
//! use slipring::payload::{Payload, Source, SourceRange, TextBatch, Texts};
//!
//! const TRANSLATE: Kind = Kind::named("translate");
//!
//! /// Texts to translate: two letters for the language, then a batch of texts.
//! struct Translation<'a> {
//!     language: [u8; 2],
//!     texts: TextBatch<'a, &'a str>,
//! }
//!
//! impl Payload for Translation<'_> {
//!     fn encoded_len(&self) -> usize {
//!         2 + self.texts.encoded_len()
//!     }
//!
//!     fn encode(&self, out: &mut [u8]) -> slipring::Result<()> {
//!         let Some((language, texts)) = out.split_first_chunk_mut() else {
//!             return Err(slipring::Error::invalid_payload("no room for the language"));
//!         };
//!         *language = self.language;
//!         self.texts.encode(texts)
//!     }
//! }
//!
//! /// In the worker: `decode(request)?`.
//! fn decode(source: &impl Source) -> slipring::Result<([u8; 2], Texts)> {
//!     let mut language = [0; 2];
//!     source.read_at(0, &mut language)?;
//!     Ok((language, Texts::decode(&SourceRange::new(source, 2..source.len())?)?))
//! }
//!
//! let texts = TextBatch::new(&["ring", "slip"])?;
//! let translation = Translation { language: *b"fr", texts };
//! let mut slot = vec![0; translation.encoded_len()];
//! translation.encode(&mut slot)?;
//! let (language, texts) = decode(&slot)?;
//! assert_eq!((&language, texts.get(0)), (b"fr", Some("ring")));
//! # Ok::<(), slipring::Error>(())
//! ```

#[macro_use]
mod fields;
mod chat;
mod chat_reply;
mod chat_stream;
mod document;
mod page;
mod rerank;
mod rerank_reply;
mod utf8_decoder;

#[cfg(all(test, not(loom)))]
mod tests;
#[cfg(test)]
mod vectors_tests;

pub use chat::{ChatMessage, ChatRequest, ChatRole};
pub use chat_reply::{ChatChunk, ChatEnd, ChatReply, FinishReason};
pub use chat_stream::{ChatCollector, ChatStream};
pub use document::{Document, DocumentOptions, DocumentReader};
pub use page::Page;
pub use rerank::{RerankQuery, RerankRequest};
pub use rerank_reply::{RerankReply, RerankResult};
pub use utf8_decoder::Utf8Decoder;
#[cfg(test)]
pub(super) use vectors_tests::has_vectors_of;
