//! A batch of texts that was received.

use std::fmt;
use std::iter::FusedIterator;
use std::mem;
use std::slice;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::text_batch::{HEADER_LEN, OFFSET_LEN, TextBatchHeader, encode};
use super::{Payload, Source, invalid, widen};
use crate::error::Result;

/// A decoded batch of texts, in memory of its own.
///
/// A value can be used again: [`Texts::decode_from`] allocates nothing if the value has held a
/// batch of the size before. It is a [`Payload`], too, and encodes to the bytes that it was
/// decoded from. The layout is at [`TextBatch`](super::TextBatch).
///
/// ```
/// use slipring::payload::{Payload, TextBatch, Texts};
///
/// let batch = TextBatch::new(&["one", "two"])?;
/// let mut slot = vec![0; batch.encoded_len()];
/// batch.encode(&mut slot)?;
///
/// // In a handler: `texts.decode_from(request)?`, with `texts` in the session.
/// let mut texts = Texts::new();
/// texts.decode_from(&slot)?;
/// assert_eq!(texts.iter().map(str::len).sum::<usize>(), 6);
/// for text in &texts {
///     assert!(["one", "two"].contains(&text));
/// }
/// # Ok::<(), slipring::Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Texts {
    /// Of the other two, to be sent from here.
    header: TextBatchHeader,
    // Checked on every decode: ends never decrease, the last is `text.len()`,
    // and each is a char boundary of `text`.
    ends: Vec<U32>,
    text: String,
}

impl Texts {
    /// Makes an empty batch, without buffers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes a batch.
    ///
    /// # Errors
    ///
    /// As [`Texts::decode_from`].
    pub fn decode<S: Source + ?Sized>(source: &S) -> Result<Self> {
        let mut texts = Self::new();
        texts.decode_from(source)?;
        Ok(texts)
    }

    /// Decodes a batch in place of this one, in the same buffers. Allocates no more than the
    /// length of the source, whatever the payload says.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if the source is not
    /// exactly one batch: the message has the reason. This value is empty then.
    pub fn decode_from<S: Source + ?Sized>(&mut self, source: &S) -> Result<()> {
        // The batch leaves `self` until it is consistent again.
        let mut texts = mem::take(self);
        let mut bytes = mem::take(&mut texts.text).into_bytes();
        let fetched = texts.fetch(source, &mut bytes);
        if fetched.is_err() {
            bytes.clear();
        }
        let (text, valid) = into_text(bytes, &texts.ends);
        let bounded = check_boundaries(&texts.ends, &text);
        texts.text = text;
        let checked = fetched.and(valid).and(bounded);
        if checked.is_err() {
            texts.clear();
        }
        *self = texts;
        checked
    }

    /// Copies the parts out, after it has checked that their lengths add up; then checks the ends.
    fn fetch<S: Source + ?Sized>(&mut self, source: &S, bytes: &mut Vec<u8>) -> Result<()> {
        let (len, header) = (source.len(), &mut self.header);
        if len < HEADER_LEN {
            return Err(invalid(format!("{len} bytes are too few for a batch of texts")));
        }
        source.read_at(0, header.as_mut_bytes())?;
        let (count, text_bytes) = (widen(header.count.get()), widen(header.text_bytes.get()));
        if header.encoded_len() != len {
            return Err(invalid(format!(
                "a batch of {count} texts of {text_bytes} bytes in sum takes {} bytes, but has {len}",
                header.encoded_len()
            )));
        }
        // Not cleared before: the old elements are overwritten, not zeroed first.
        self.ends.resize(count, U32::ZERO);
        source.read_at(HEADER_LEN, self.ends.as_mut_bytes())?;
        bytes.resize(text_bytes, 0);
        source.read_at(HEADER_LEN + OFFSET_LEN * count, bytes)?;
        check_ends(&self.ends, header.text_bytes.get())
    }

    /// Returns the number of texts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the sum of the lengths of all texts, in bytes.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        self.text.len()
    }

    /// Returns text `index`, counted from 0, if there is one.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = widen(self.ends.get(index)?.get());
        let start = match index.checked_sub(1) {
            Some(previous) => widen(self.ends.get(previous)?.get()),
            None => 0,
        };
        self.text.get(start..end)
    }

    /// Returns the texts in order.
    #[must_use]
    pub fn iter(&self) -> TextsIter<'_> {
        TextsIter { ends: self.ends.iter(), text: &self.text, start: 0 }
    }

    /// Forgets the texts and keeps the buffers.
    pub fn clear(&mut self) {
        self.header = TextBatchHeader::default();
        self.ends.clear();
        self.text.clear();
    }
}

impl Payload for Texts {
    fn encoded_len(&self) -> usize {
        self.header.encoded_len()
    }

    fn encode(&self, out: &mut [u8]) -> Result<()> {
        encode(self.header, self.iter(), out)
    }

    fn as_parts(&self) -> Option<[&[u8]; 3]> {
        Some([self.header.as_bytes(), self.ends.as_bytes(), self.text.as_bytes()])
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<'a> IntoIterator for &'a Texts {
    type Item = &'a str;
    type IntoIter = TextsIter<'a>;

    fn into_iter(self) -> TextsIter<'a> {
        self.iter()
    }
}

/// The texts of a [`Texts`] in order.
#[derive(Clone)]
pub struct TextsIter<'a> {
    ends: slice::Iter<'a, U32>,
    text: &'a str,
    start: usize,
}

impl fmt::Debug for TextsIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

impl<'a> Iterator for TextsIter<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let end = widen(self.ends.next()?.get());
        let text = self.text.get(self.start..end)?;
        self.start = end;
        Some(text)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ends.size_hint()
    }
}

impl ExactSizeIterator for TextsIter<'_> {}
impl FusedIterator for TextsIter<'_> {}

fn check_ends(ends: &[U32], text_bytes: u32) -> Result<()> {
    let mut start = 0;
    for (index, end) in ends.iter().map(|end| end.get()).enumerate() {
        if end < start {
            return Err(invalid(format!("text {index} ends at {end}, before its start {start}")));
        }
        start = end;
    }
    if start != text_bytes {
        return Err(invalid(format!("the texts end at {start}, the text area at {text_bytes}")));
    }
    Ok(())
}

/// Returns the bytes as text in the same buffer, which is empty if they are not UTF-8.
fn into_text(bytes: Vec<u8>, ends: &[U32]) -> (String, Result<()>) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, Ok(())),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let index = ends.partition_point(|end| widen(end.get()) <= at);
            let mut bytes = error.into_bytes();
            bytes.clear();
            let text = String::from_utf8(bytes).unwrap_or_default();
            (text, Err(invalid(format!("text {index} is not UTF-8"))))
        }
    }
}

/// Text that is valid as a whole is valid in parts if it is cut between its characters.
fn check_boundaries(ends: &[U32], text: &str) -> Result<()> {
    match ends.iter().position(|end| !text.is_char_boundary(widen(end.get()))) {
        Some(index) => Err(invalid(format!("text {index} ends inside a character"))),
        None => Ok(()),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::super::TextBatch;
    use super::super::tests::{Counted, Rewritten, assert_invalid, encoded};
    use super::*;

    /// An encoding from its parts, whether they fit each other or not.
    fn raw(count: u32, text_bytes: u32, ends: &[u32], text: &[u8]) -> Vec<u8> {
        let ends = ends.iter().flat_map(|end| end.to_le_bytes());
        let header = count.to_le_bytes().into_iter().chain(text_bytes.to_le_bytes());
        header.chain(ends).chain(text.iter().copied()).collect()
    }

    fn batch(texts: &[&str]) -> Vec<u8> {
        encoded(&TextBatch::new(texts).unwrap())
    }

    fn assert_consistent(texts: &Texts) {
        assert_eq!(texts.iter().count(), texts.len());
        assert_eq!(texts.iter().map(str::len).sum::<usize>(), texts.text_bytes());
        assert!(texts.iter().enumerate().all(|(i, text)| texts.get(i) == Some(text)));
        assert_eq!(Texts::decode(&encoded(texts)).unwrap(), *texts);
    }

    #[test]
    fn texts_come_out_as_they_went_in() {
        let texts = Texts::decode(&batch(&["", "a", "", "grüße", "🦀", ""])).unwrap();
        assert_eq!(texts.iter().collect::<Vec<_>>(), ["", "a", "", "grüße", "🦀", ""]);
        assert_eq!((texts.len(), texts.get(3), texts.get(5)), (6, Some("grüße"), Some("")));
        assert_eq!((texts.get(6), texts.get(usize::MAX)), (None, None));
        assert_eq!(format!("{texts:?}"), r#"["", "a", "", "grüße", "🦀", ""]"#);
        let mut rest = texts.iter();
        assert_eq!((rest.nth(3), rest.len()), (Some("grüße"), 2));
        assert_eq!(format!("{rest:?}"), r#"["🦀", ""]"#);
        assert_consistent(&texts);
    }

    #[test]
    fn a_batch_of_no_texts_is_not_a_batch_of_one_empty_text() {
        assert_eq!(Texts::decode(&batch(&[])).unwrap().len(), 0);
        assert_eq!(Texts::decode(&batch(&[""])).unwrap().len(), 1);
        assert_invalid(Texts::decode(&raw(0, 1, &[], b"x")), "end at 0, the text area at 1");
    }

    #[test]
    fn a_batch_cut_anywhere_or_a_byte_too_long_is_refused() {
        let whole = batch(&["ab", "", "ü"]);
        for len in 0..whole.len() {
            assert_invalid(Texts::decode(&whole[..len]), "bytes");
        }
        assert_invalid(Texts::decode(&[&whole[..], b"x"].concat()), "takes 24 bytes, but has 25");
    }

    #[test]
    fn huge_counts_are_refused_before_anything_is_allocated() {
        let mut texts = Texts::new();
        for (count, text_bytes) in [(u32::MAX, 0), (0, u32::MAX), (u32::MAX, u32::MAX)] {
            assert_invalid(texts.decode_from(&raw(count, text_bytes, &[], b"")), "but has 8");
            assert_eq!((texts.ends.capacity(), texts.text.capacity()), (0, 0));
        }
    }

    #[test]
    fn ends_that_decrease_or_miss_the_end_are_refused() {
        let decode = |ends: &[u32]| Texts::decode(&raw(2, 4, ends, b"abcd"));
        assert!(decode(&[0, 4]).is_ok());
        assert_invalid(decode(&[4, 3]), "text 1 ends at 3, before its start 4");
        assert_invalid(decode(&[5, 4]), "text 1 ends at 4, before its start 5");
        assert_invalid(decode(&[u32::MAX, 4]), "before its start 4294967295");
        assert_invalid(decode(&[2, 3]), "end at 3, the text area at 4");
        assert_invalid(decode(&[2, 5]), "end at 5, the text area at 4");
    }

    #[test]
    fn text_that_is_not_utf_8_is_refused_and_named() {
        assert_invalid(Texts::decode(&raw(2, 3, &[1, 3], b"a\xff\xff")), "text 1 is not UTF-8");
        assert_invalid(Texts::decode(&raw(1, 3, &[3], b"\xed\xa0\x80")), "text 0 is not UTF-8");
        assert_invalid(Texts::decode(&raw(2, 2, &[1, 2], b"a\xc3")), "text 1 is not UTF-8");
    }

    #[test]
    fn two_texts_that_are_utf_8_only_together_are_refused() {
        let split = raw(2, 4, &[2, 4], "🦀".as_bytes());
        assert_invalid(Texts::decode(&split), "text 0 ends inside a character");
    }

    #[test]
    fn a_failed_decode_leaves_an_empty_batch_and_the_buffers() {
        for bad in [raw(1, 9, &[9], b"a"), raw(1, 1, &[2], b"a"), raw(1, 1, &[1], b"\xff")] {
            let mut texts = Texts::decode(&batch(&["some", "texts"])).unwrap();
            texts.decode_from(&bad).unwrap_err();
            assert_eq!(texts, Texts::new());
            assert!(texts.ends.capacity() >= 2 && texts.text.capacity() >= 9);
        }
    }

    #[test]
    fn a_warm_batch_decodes_into_the_buffers_that_it_has() {
        let mut texts = Texts::decode(&batch(&["a", "long", "batch"])).unwrap();
        let place = |texts: &Texts| (texts.ends.as_ptr(), texts.text.as_ptr());
        let before = place(&texts);
        for next in [&["b"][..], &[], &["x", "y", "batch"], &["other", "te"]] {
            texts.decode_from(&batch(next)).unwrap();
            assert_eq!(texts.iter().collect::<Vec<_>>(), next);
            assert_eq!(place(&texts), before);
        }
    }

    #[test]
    fn each_byte_of_the_source_is_fetched_once() {
        let source = Counted::new(batch(&["ab", "", "grüße"]));
        Texts::decode(&source).unwrap();
        source.assert_each_byte_was_fetched_once();
    }

    #[test]
    fn a_peer_that_swaps_the_ends_or_the_text_meanwhile_gains_nothing() {
        let good = raw(2, 4, &[1, 4], "aüb".as_bytes());
        for other in [
            raw(u32::MAX, u32::MAX, &[1, 4], "aüb".as_bytes()),
            raw(2, 4, &[2, 4], "aüb".as_bytes()),
            raw(2, 4, &[u32::MAX, 4], "aüb".as_bytes()),
            raw(2, 4, &[1, 4], "üüü".get(..4).unwrap().as_bytes()),
            raw(2, 4, &[1, 4], b"\xff\xff\xff\xff"),
        ] {
            for versions in [[&good, &other], [&other, &good]] {
                let source = Rewritten::new(versions.map(Clone::clone).to_vec());
                for _ in 0..4 {
                    Texts::decode(&source).iter().for_each(assert_consistent);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_texts_come_out_as_they_went_in(texts: Vec<String>) {
            let bytes = encoded(&TextBatch::new(&texts).unwrap());
            let decoded = Texts::decode(&bytes).unwrap();
            prop_assert_eq!(decoded.iter().collect::<Vec<_>>(), texts);
            prop_assert_eq!(encoded(&decoded), bytes);
        }

        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(
            ends in prop::collection::vec(0..12_u32, 0..6),
            text in prop::collection::vec(prop_oneof![Just(b'a'), any::<u8>()], 0..12),
            sorted: bool,
        ) {
            let mut ends = ends;
            let text_bytes = u32::try_from(text.len()).unwrap();
            if sorted {
                ends.sort_unstable();
                ends.push(text_bytes);
            }
            let bytes = raw(u32::try_from(ends.len()).unwrap(), text_bytes, &ends, &text);
            if let Ok(texts) = Texts::decode(&bytes) {
                prop_assert_eq!(encoded(&texts), bytes);
                assert_consistent(&texts);
            }
        }

        #[test]
        fn a_source_rewritten_at_random_never_gives_an_inconsistent_batch(
            texts in prop::collection::vec(".{0,4}", 0..5),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut versions = vec![encoded(&TextBatch::new(&texts).unwrap())];
            for (at, byte) in edits {
                let mut next = versions.last().unwrap().clone();
                *at.get_mut(&mut next) = byte;
                versions.push(next);
            }
            let source = Rewritten::new(versions);
            for _ in 0..4 {
                Texts::decode(&source).iter().for_each(assert_consistent);
            }
        }
    }
}
