//! A query and the documents to be compared with it.

use std::fmt;

use super::super::{Source, TextBatch, Texts, invalid};
use super::fields::{Field, FieldWriter, for_each_field};
use crate::error::Result;

/// A query and documents to be sent, borrowed from the caller: the request of
/// [`Kind::RERANK`](crate::Kind::RERANK).
///
/// The worker decodes it as a [`RerankQuery`], and answers with a
/// [`RerankReply`](super::RerankReply): how well each document fits the query.
///
/// ```
/// use slipring::payload::Payload;
/// use slipring::payload::roles::{RerankQuery, RerankRequest};
///
/// let documents = ["a ring that slips", "a ring of a phone"];
/// let request = RerankRequest::new("slip ring", &documents)?.top_n(1);
///
/// // In a host: `channel.call(Kind::RERANK, &request, timeout)?`.
/// let mut slot = vec![0; request.encoded_len()];
/// request.encode(&mut slot)?;
/// // In a handler: `RerankQuery::decode(request)?`.
/// let query = RerankQuery::decode(&slot)?;
/// assert_eq!((&*query.query, query.top_n), ("slip ring", Some(1)));
/// assert_eq!(query.documents.get(1), Some("a ring of a phone"));
/// # Ok::<(), slipring::Error>(())
/// ```
///
/// # Layout
///
/// [Fields](super#layout):
///
/// | tag | value | field |
/// |---|---|---|
/// | 1 | UTF-8 | query |
/// | 2 | u32 | `top_n`: how many documents the answer has at most; all if it is missing |
/// | 3 | batch of texts | documents, in the layout of a [`TextBatch`] |
///
/// There are a query and documents, of which the batch may have none.
pub struct RerankRequest<'a, S> {
    query: &'a str,
    documents: TextBatch<'a, S>,
    top_n: Option<u32>,
}

const WHAT: &str = "a rerank request";

impl<'a, S: AsRef<str>> RerankRequest<'a, S> {
    /// Makes a request that is answered with a score for each document. Copies nothing.
    ///
    /// # Errors
    ///
    /// As [`TextBatch::new`].
    pub fn new(query: &'a str, documents: &'a [S]) -> Result<Self> {
        Ok(Self { query, documents: TextBatch::new(documents)?, top_n: None })
    }

    /// Asks for the `n` documents that fit the query best, and no others.
    #[must_use]
    pub fn top_n(mut self, n: u32) -> Self {
        self.top_n = Some(n);
        self
    }

    fn put(&self, fields: &mut FieldWriter<'_>) -> Result<()> {
        fields.text(1, Some(self.query))?;
        fields.u32(2, self.top_n)?;
        fields.payload(3, &self.documents)
    }
}

payload_of_fields! { [S: AsRef<str>] RerankRequest<'_, S> }

impl<S> Clone for RerankRequest<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for RerankRequest<'_, S> {}

impl<S> fmt::Debug for RerankRequest<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RerankRequest")
            .field("query", &self.query)
            .field("documents", &self.documents)
            .field("top_n", &self.top_n)
            .finish()
    }
}

/// A decoded [`RerankRequest`], in memory of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RerankQuery {
    /// What the documents are compared with.
    pub query: String,
    /// The documents.
    pub documents: Texts,
    /// How many documents the answer is to have at most; all if it is `None`.
    pub top_n: Option<u32>,
}

impl RerankQuery {
    /// Decodes a request.
    ///
    /// # Errors
    ///
    /// As [`RerankQuery::decode_from`].
    pub fn decode<S: Source + ?Sized>(source: &S) -> Result<Self> {
        let mut query = Self::default();
        query.decode_from(source)?;
        Ok(query)
    }

    /// Decodes a request in place of this one. The buffers of the documents are used again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if the source is not a
    /// rerank request: the message has the reason. This value is empty then.
    pub fn decode_from<S: Source + ?Sized>(&mut self, source: &S) -> Result<()> {
        let mut documents = std::mem::take(self).documents;
        documents.clear();
        let (mut query, mut top_n, mut found) = (None, None, None);
        for_each_field(source, WHAT, |field| match field.tag {
            1 => field.once("query", &mut query, Field::text),
            2 => field.once("top_n", &mut top_n, Field::u32),
            3 => field
                .once("documents", &mut found, |field, _| documents.decode_from(&field.value()?)),
            _ => field.ignore(),
        })?;
        match (query, found) {
            (Some(query), Some(())) => *self = Self { query, documents, top_n },
            (None, _) => return Err(invalid(format!("{WHAT} without a query"))),
            (_, None) => return Err(invalid(format!("{WHAT} without documents"))),
        }
        Ok(())
    }
}
