//! What a worker has read on a page of a document.

use std::borrow::Cow;

use super::super::{Source, invalid};
use super::fields::{Field, FieldWriter, for_each_field};
use crate::error::Result;

/// What was read on one page: a chunk of a stream of [`Kind::VISION`](crate::Kind::VISION).
///
/// A worker sends one chunk for each page that is wanted. The stream is whole when it ends. An image
/// has one page.
///
/// ```
/// use slipring::payload::Payload;
/// use slipring::payload::roles::Page;
///
/// // In a worker: `stream.send(&Page::new(2, text).of_total(9))?`.
/// let page = Page::new(2, "the text of the page").of_total(9);
/// let mut slot = vec![0; page.encoded_len()];
/// page.encode(&mut slot)?;
/// // In a host: `Page::decode(&chunk?)?`.
/// assert_eq!(Page::decode(&slot)?, page);
/// # Ok::<(), slipring::Error>(())
/// ```
///
/// # Layout
///
/// [Fields](super#layout):
///
/// | tag | value | field |
/// |---|---|---|
/// | 1 | u32 | number of the page, counted from 1 |
/// | 2 | u32 | number of pages of the whole document |
/// | 3 | UTF-8 | text; empty if it is missing |
///
/// There is a number. It is not over the number of pages, if that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<'a> {
    /// The number of the page, counted from 1.
    pub number: u32,
    /// How many pages the whole document has, if the worker knows it.
    pub total: Option<u32>,
    /// What was read. May be empty.
    pub text: Cow<'a, str>,
}

const WHAT: &str = "a page";

impl<'a> Page<'a> {
    /// Makes a page of a document whose number of pages is not known. Copies nothing.
    #[must_use]
    pub fn new(number: u32, text: impl Into<Cow<'a, str>>) -> Self {
        Self { number, total: None, text: text.into() }
    }

    /// Adds how many pages the whole document has.
    #[must_use]
    pub fn of_total(mut self, total: u32) -> Self {
        self.total = Some(total);
        self
    }

    fn check(&self) -> Result<()> {
        match (self.number, self.total) {
            (0, _) => Err(invalid(format!("{WHAT} has number 0: the first page is 1"))),
            (number, Some(total)) if number > total => {
                Err(invalid(format!("{WHAT} has number {number} of {total}")))
            }
            _ => Ok(()),
        }
    }

    fn put(&self, fields: &mut FieldWriter<'_>) -> Result<()> {
        self.check()?;
        fields.u32(1, Some(self.number))?;
        fields.u32(2, self.total)?;
        fields.text(3, Some(&self.text))
    }
}

impl Page<'static> {
    /// Decodes a page.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if the source is not a
    /// page: the message has the reason.
    pub fn decode<S: Source + ?Sized>(source: &S) -> Result<Self> {
        let (mut number, mut total, mut text) = (None, None, None);
        for_each_field(source, WHAT, |field| match field.tag {
            1 => field.once("number", &mut number, Field::u32),
            2 => field.once("total", &mut total, Field::u32),
            3 => field.once("text", &mut text, Field::text),
            _ => field.ignore(),
        })?;
        let Some(number) = number else { return Err(invalid(format!("{WHAT} without a number"))) };
        let text = Cow::Owned(text.unwrap_or_default());
        let page = Self { number, total, text };
        page.check().map(|()| page)
    }
}

payload_of_fields! { [] Page<'_> }
