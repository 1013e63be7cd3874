//! A batch of texts to be sent, and its layout.

use std::fmt;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Payload, check_slot, invalid, widen};
use crate::error::Result;

/// The part in front of the offsets.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub(super) struct TextBatchHeader {
    pub(super) count: U32,
    pub(super) text_bytes: U32,
}

pub(super) const HEADER_LEN: usize = size_of::<TextBatchHeader>();
pub(super) const OFFSET_LEN: usize = size_of::<U32>();
const _: () = assert!(HEADER_LEN == 8 && OFFSET_LEN == 4);

impl TextBatchHeader {
    /// Returns the length of the whole encoding in bytes, which cannot overflow: it is at most
    /// 4 × 2^32 + 2^32 + 8.
    pub(super) fn encoded_len(self) -> usize {
        HEADER_LEN + OFFSET_LEN * widen(self.count.get()) + widen(self.text_bytes.get())
    }
}

/// A batch of texts to be sent, borrowed from the caller's slice. The other side decodes it as
/// [`Texts`](super::Texts).
///
/// ```
/// use slipring::payload::{Payload, TextBatch, Texts};
///
/// let batch = TextBatch::new(&["one", "", "three"])?;
/// let mut slot = vec![0; batch.encoded_len()];
/// batch.encode(&mut slot)?;
///
/// let texts = Texts::decode(&slot)?;
/// assert_eq!(texts.iter().collect::<Vec<_>>(), ["one", "", "three"]);
/// # Ok::<(), slipring::Error>(())
/// ```
///
/// # Layout
///
/// Little-endian, without padding. `n` is the count.
///
/// ```text
///   0           4           8                       8 + 4n
///   +-----------+-----------+-----------+-----------+------------------------+
///   | count u32 | bytes u32 | end 0 u32 | … end n-1 | texts, UTF-8 …         |
///   +-----------+-----------+-----------+-----------+------------------------+
///                     |                       |      <---- `bytes` bytes ---->
///                     +------- the same ------+
/// ```
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | number of texts, `n` |
/// | 4 | 4 | length of the text area in bytes |
/// | 8 + 4i | 4 | end of text `i` in bytes from the start of the text area |
/// | 8 + 4n | bytes | the texts, one after another, each valid UTF-8 by itself |
///
/// Text 0 starts at 0, and text `i` where text `i - 1` ends. Ends never decrease, and the last
/// one is the length of the text area. A batch of no texts has an empty text area. A payload
/// ends where its text area ends.
pub struct TextBatch<'a, S> {
    texts: &'a [S],
    header: TextBatchHeader,
}

impl<'a, S: AsRef<str>> TextBatch<'a, S> {
    /// Makes a batch of these texts. Copies nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if there are more than
    /// 4,294,967,295 texts, or more bytes of text.
    pub fn new(texts: &'a [S]) -> Result<Self> {
        // A sum of lengths overflows only when one text is counted many times.
        let bytes =
            texts.iter().try_fold(0_usize, |sum, text| sum.checked_add(text.as_ref().len()));
        Ok(Self { texts, header: header_for(texts.len(), bytes.unwrap_or(usize::MAX))? })
    }

    /// Returns the number of texts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Returns whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }
}

// Not generic, so that `TextBatch::encoded_len_for` needs no type arguments.
impl TextBatch<'_, &str> {
    /// Returns the encoded length, in bytes, of `count` texts of `text_bytes` bytes in sum.
    ///
    /// # Errors
    ///
    /// As [`TextBatch::new`].
    pub fn encoded_len_for(count: usize, text_bytes: usize) -> Result<usize> {
        header_for(count, text_bytes).map(TextBatchHeader::encoded_len)
    }
}

impl<S: AsRef<str>> Payload for TextBatch<'_, S> {
    fn encoded_len(&self) -> usize {
        self.header.encoded_len()
    }

    fn encode(&self, out: &mut [u8]) -> Result<()> {
        encode(self.header, self.texts.iter().map(AsRef::as_ref), out)
    }
}

impl<S> Clone for TextBatch<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for TextBatch<'_, S> {}

impl<S> fmt::Debug for TextBatch<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextBatch")
            .field("texts", &self.texts.len())
            .field("encoded_len", &self.header.encoded_len())
            .finish()
    }
}

/// Counts how many texts fit one payload, to cut a long list into batches.
///
/// ```
/// use slipring::payload::{Payload, TextBatch, TextBatchSize};
///
/// let texts = ["alpha", "beta", "gamma", "delta"];
/// let mut size = TextBatchSize::new(28);
/// let fitting = texts.iter().take_while(|text| size.try_push(text)).count();
/// assert_eq!(fitting, 2);
/// assert_eq!(size.encoded_len(), TextBatch::new(&texts[..fitting])?.encoded_len());
/// # Ok::<(), slipring::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct TextBatchSize {
    limit: usize,
    header: TextBatchHeader,
}

impl TextBatchSize {
    /// Starts with an empty batch, whose encoding may be up to `max_bytes` long. A limit is
    /// [`Config::max_request_frame`](crate::Config::max_request_frame), for batches of one frame
    /// each.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { limit: max_bytes, header: TextBatchHeader::default() }
    }

    /// Counts a text, unless the batch would then be over the limit, or could not be encoded.
    /// Returns whether the text was counted.
    ///
    /// A text that does not fit an empty batch fits none: a loop that cuts a list must take
    /// `false` for an empty batch as an error.
    #[must_use]
    pub fn try_push(&mut self, text: &str) -> bool {
        let added = self
            .text_bytes()
            .checked_add(text.len())
            .and_then(|bytes| header_for(self.len() + 1, bytes).ok())
            .filter(|header| header.encoded_len() <= self.limit);
        self.header = added.unwrap_or(self.header);
        added.is_some()
    }

    /// Returns the number of texts that were counted.
    #[must_use]
    pub fn len(&self) -> usize {
        widen(self.header.count.get())
    }

    /// Returns whether no text was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the sum of the lengths of the texts that were counted, in bytes.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        widen(self.header.text_bytes.get())
    }

    /// Returns the encoded length of a batch of the texts that were counted, in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.header.encoded_len()
    }

    /// Starts again with an empty batch and the same limit.
    pub fn clear(&mut self) {
        self.header = TextBatchHeader::default();
    }
}

impl fmt::Debug for TextBatchSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextBatchSize")
            .field("texts", &self.len())
            .field("encoded_len", &self.encoded_len())
            .field("limit", &self.limit)
            .finish()
    }
}

fn header_for(count: usize, text_bytes: usize) -> Result<TextBatchHeader> {
    match (u32::try_from(count), u32::try_from(text_bytes)) {
        (Ok(count), Ok(bytes)) => {
            Ok(TextBatchHeader { count: count.into(), text_bytes: bytes.into() })
        }
        _ => Err(invalid(format!(
            "a batch of {count} texts of {text_bytes} bytes in sum cannot be encoded: \
             both numbers are limited to {}; send several batches",
            u32::MAX
        ))),
    }
}

/// Writes the encoding of the texts that `header` was made for.
pub(super) fn encode<'t>(
    header: TextBatchHeader,
    texts: impl Iterator<Item = &'t str>,
    out: &mut [u8],
) -> Result<()> {
    // An `AsRef` may return another text each time, so nothing relies on the lengths.
    let changed = || invalid("a text of the batch changed its length while it was encoded");
    check_slot(out, header.encoded_len())?;
    let ends_len = OFFSET_LEN * widen(header.count.get());
    let (head, rest) = out.split_at_mut_checked(HEADER_LEN).ok_or_else(changed)?;
    let (ends, mut area) = rest.split_at_mut_checked(ends_len).ok_or_else(changed)?;
    head.copy_from_slice(header.as_bytes());
    let (ends, _) = ends.as_chunks_mut::<OFFSET_LEN>();
    let mut left = header.text_bytes.get();
    for (text, end) in texts.zip(ends) {
        let (place, rest) = area.split_at_mut_checked(text.len()).ok_or_else(changed)?;
        place.copy_from_slice(text.as_bytes());
        area = rest;
        left -= u32::try_from(text.len()).map_err(|_| changed())?;
        *end = (header.text_bytes.get() - left).to_le_bytes();
    }
    if left == 0 { Ok(()) } else { Err(changed()) }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::tests::{assert_invalid, encoded};
    use super::*;

    const LIMIT: usize = 4_294_967_295;

    #[test]
    fn a_batch_is_counts_then_ends_then_text() {
        let batch = TextBatch::new(&["ab", "", "ü"]).unwrap();
        let expected =
            [&[3, 0, 0, 0, 4, 0, 0, 0][..], &[2, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0], b"ab\xc3\xbc"];
        assert_eq!(encoded(&batch), expected.concat());
    }

    #[test]
    fn a_batch_of_no_texts_is_eight_zero_bytes() {
        assert_eq!(encoded(&TextBatch::<&str>::new(&[]).unwrap()), [0; 8]);
    }

    #[test]
    fn owned_and_borrowed_texts_encode_alike() {
        let owned = [String::from("x"), String::from("yz")];
        let batch = TextBatch::new(&owned).unwrap();
        assert_eq!(encoded(&batch), encoded(&TextBatch::new(&["x", "yz"]).unwrap()));
        assert_eq!((batch.len(), batch.is_empty()), (2, false));
        assert_eq!(format!("{batch:?}"), "TextBatch { texts: 2, encoded_len: 19 }");
    }

    #[test]
    fn a_slot_of_the_wrong_length_is_refused() {
        let batch = TextBatch::new(&["abc"]).unwrap();
        assert_invalid(batch.encode(&mut [0; 14]), "payload of 15 bytes does not fit a slot of 14");
        assert_invalid(batch.encode(&mut [0; 16]), "payload of 15 bytes does not fit a slot of 16");
    }

    #[test]
    fn more_than_32_bits_of_texts_or_bytes_are_refused() {
        assert_eq!(TextBatch::encoded_len_for(LIMIT, LIMIT).unwrap(), 8 + 5 * LIMIT);
        assert_invalid(TextBatch::encoded_len_for(LIMIT + 1, 0), "4294967296 texts");
        assert_invalid(TextBatch::encoded_len_for(1, LIMIT + 1), "4294967296 bytes");
    }

    #[test]
    fn a_text_that_changes_its_length_meanwhile_is_an_error() {
        struct Moody(Cell<usize>, [&'static str; 2]);
        impl AsRef<str> for Moody {
            fn as_ref(&self) -> &str {
                self.1[self.0.replace(1)]
            }
        }
        for (first, second) in [("ab", "abc"), ("ab", "a"), ("ab", "")] {
            let texts = [Moody(Cell::new(0), [first, second])];
            let batch = TextBatch::new(&texts).unwrap();
            let mut slot = vec![0; batch.encoded_len()];
            assert_invalid(batch.encode(&mut slot), "changed its length");
        }
    }

    #[test]
    fn a_batch_is_cut_before_the_text_that_would_exceed_the_limit() {
        let mut size = TextBatchSize::new(8 + 2 * 4 + 3);
        assert!(size.try_push("ab"));
        assert!(!size.try_push("cd"));
        assert_eq!((size.len(), size.text_bytes(), size.encoded_len()), (1, 2, 14));
        assert!(size.try_push("c"));
        assert!(!size.try_push(""), "an empty text needs an offset too");
        assert_eq!(size.encoded_len(), 19);
        size.clear();
        assert!(size.is_empty());
        assert_eq!(format!("{size:?}"), "TextBatchSize { texts: 0, encoded_len: 8, limit: 19 }");
        assert!(!TextBatchSize::new(11).try_push(""));
        assert!(TextBatchSize::new(12).try_push(""));
    }
}
