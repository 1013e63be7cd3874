//! A document or an image, and how it is to be read.

use std::fmt;
use std::ops::RangeInclusive;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::super::{Payload, Source, SourceRange, check_slot, copy_from_slice, invalid};
use super::fields::{self, Field, FieldWriter, HEADER_LEN, for_each_field};
use crate::error::Result;

/// How a document is to be read. What an option means if it is not set is for the worker to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DocumentOptions {
    /// The pages that are wanted, counted from 1. All if there is no range.
    pub pages: Vec<RangeInclusive<u32>>,
    /// The resolution at which pages are made images, in dots per inch.
    pub dpi: Option<u32>,
    /// The language of the text, such as `en` or `pt-BR`.
    pub language: Option<String>,
    /// What the model is asked about the pages.
    pub prompt: Option<String>,
}

impl DocumentOptions {
    /// Makes options of which none is set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns whether page `number`, counted from 1, is wanted.
    #[must_use]
    pub fn has_page(&self, number: u32) -> bool {
        self.pages.is_empty() || self.pages.iter().any(|pages| pages.contains(&number))
    }

    fn put(&self, fields: &mut FieldWriter<'_>) -> Result<()> {
        let pages = self.pages.iter().map(|pages| {
            let (first, last) = check_pages(*pages.start(), *pages.end())?.into_inner();
            Ok([U32::new(first), U32::new(last)])
        });
        let pages = pages.collect::<Result<Vec<_>>>()?;
        if !pages.is_empty() {
            fields.bytes(2, pages.as_bytes())?;
        }
        fields.u32(3, self.dpi)?;
        fields.text(4, self.language.as_deref())?;
        fields.text(5, self.prompt.as_deref())
    }
}

/// A document or an image to be sent, borrowed from the caller: the request of
/// [`Kind::VISION`](crate::Kind::VISION), which is answered with a stream of
/// [`Page`](super::Page)s.
///
/// Its bytes are copied once, from where they lie into the ring. The worker reads them where they
/// lie there, with a [`DocumentReader`].
///
/// ```
/// use slipring::payload::roles::{Document, DocumentOptions, DocumentReader};
/// use slipring::payload::{Payload, PayloadReader, Source};
/// use std::io::BufRead;
///
/// let mut options = DocumentOptions::new();
/// options.pages = vec![1..=3, 7..=7];
/// options.language = Some("en".to_owned());
/// let document = Document::new("text/plain", b"first line\nsecond line", &options)?;
///
/// // In a host: `channel.stream(Kind::VISION, &document, timeouts)?`.
/// let mut slot = vec![0; document.encoded_len()];
/// document.encode(&mut slot)?;
///
/// // In a handler: `DocumentReader::new(request.payload())?`.
/// let reader = DocumentReader::new(&slot)?;
/// assert_eq!((reader.media_type(), reader.options()), ("text/plain", &options));
/// assert_eq!(reader.bytes().len(), 22);
/// let lines = PayloadReader::new(reader.bytes()).lines().count();
/// assert_eq!(lines, 2);
/// # Ok::<(), slipring::Error>(())
/// ```
///
/// # Layout
///
/// [Fields](super#layout):
///
/// | tag | value | field |
/// |---|---|---|
/// | 1 | UTF-8 | media type, such as `application/pdf` or `image/png` |
/// | 2 | (u32, u32) × n | ranges of pages that are wanted: the first and the last one, counted from 1 |
/// | 3 | u32 | `dpi` |
/// | 4 | UTF-8 | language |
/// | 5 | UTF-8 | prompt |
/// | 6 | bytes | the document |
///
/// There are a media type and a document. A range has at least one page. The library writes the
/// document last.
#[derive(Clone)]
pub struct Document<'a> {
    /// All fields before the document.
    head: Vec<u8>,
    /// Of the field of the document.
    header: [u8; HEADER_LEN],
    bytes: &'a [u8],
}

const WHAT: &str = "a document";

impl<'a> Document<'a> {
    /// Makes a request. Does not copy the bytes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if the document has more
    /// than 4,294,967,295 bytes, or a range of pages has no page, or begins at 0.
    pub fn new(media_type: &str, bytes: &'a [u8], options: &DocumentOptions) -> Result<Self> {
        let put = |fields: &mut FieldWriter<'_>| {
            fields.text(1, Some(media_type))?;
            options.put(fields)
        };
        let mut head = vec![0; fields::encoded_len(put)];
        fields::encode(put, &mut head)?;
        Ok(Self { head, header: fields::header(6, bytes.len())?, bytes })
    }
}

impl Payload for Document<'_> {
    fn encoded_len(&self) -> usize {
        self.head.len().saturating_add(HEADER_LEN).saturating_add(self.bytes.len())
    }

    fn encode(&self, out: &mut [u8]) -> Result<()> {
        check_slot(out, self.encoded_len())?;
        let mut rest = out;
        for part in [&self.head, self.header.as_slice(), self.bytes] {
            let Some((place, left)) = rest.split_at_mut_checked(part.len()) else { break };
            copy_from_slice(place, part);
            rest = left;
        }
        Ok(())
    }

    fn as_parts(&self) -> Option<[&[u8]; 3]> {
        Some([&self.head, &self.header, self.bytes])
    }
}

impl fmt::Debug for Document<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Document({} bytes)", self.bytes.len())
    }
}

/// A [`Document`] in a [`Source`], whose options were copied and checked, and whose bytes were not
/// read.
///
/// The bytes are what the source holds when they are copied: in memory that the other process can
/// write, they may change.
pub struct DocumentReader<S> {
    media_type: String,
    options: DocumentOptions,
    bytes: SourceRange<S>,
}

impl<S: Source> DocumentReader<S> {
    /// Reads all but the document's bytes. A reference to a source is a source, too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if the source is not a
    /// document: the message has the reason.
    pub fn new(source: S) -> Result<Self> {
        let (mut media_type, mut pages, mut bytes) = (None, None, None);
        let mut options = DocumentOptions::new();
        for_each_field(&source, WHAT, |field| match field.tag {
            1 => field.once("media_type", &mut media_type, Field::text),
            2 => field.once("pages", &mut pages, Field::elements::<[U32; 2]>),
            3 => field.once("dpi", &mut options.dpi, Field::u32),
            4 => field.once("language", &mut options.language, Field::text),
            5 => field.once("prompt", &mut options.prompt, Field::text),
            6 => field.once("document", &mut bytes, |field, _| Ok(field.range())),
            _ => field.ignore(),
        })?;
        let pages = pages.unwrap_or_default();
        let pages = pages.iter().map(|[first, last]| check_pages(first.get(), last.get()));
        options.pages = pages.collect::<Result<_>>()?;
        match (media_type, bytes) {
            (Some(media_type), Some(range)) => {
                Ok(Self { media_type, options, bytes: SourceRange::new(source, range)? })
            }
            (None, _) => Err(invalid(format!("{WHAT} without a media type"))),
            (_, None) => Err(invalid(format!("{WHAT} without bytes"))),
        }
    }

    /// Returns the media type, such as `application/pdf`.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// Returns how the document is to be read.
    pub fn options(&self) -> &DocumentOptions {
        &self.options
    }

    /// Returns the document's bytes where they lie. To read them in order, give this to a
    /// [`PayloadReader`](crate::payload::PayloadReader).
    pub fn bytes(&self) -> &SourceRange<S> {
        &self.bytes
    }
}

impl<S> fmt::Debug for DocumentReader<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DocumentReader")
            .field("media_type", &self.media_type)
            .field("options", &self.options)
            .field("bytes", &self.bytes)
            .finish()
    }
}

fn check_pages(first: u32, last: u32) -> Result<RangeInclusive<u32>> {
    match 1 <= first && first <= last {
        true => Ok(first..=last),
        false => {
            Err(invalid(format!("{WHAT} has no pages from {first} to {last}: the first page is 1")))
        }
    }
}
