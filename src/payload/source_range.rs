//! A part of a source, read where it lies.

use std::fmt;
use std::ops::Range;

use super::{Source, out_of_range};
use crate::error::Result;

/// A part of a [`Source`], which is a source itself. Copies nothing until it is read.
///
/// ```
/// use slipring::payload::{Source, SourceRange};
///
/// let words = SourceRange::new(b"four words of text", 5..10)?;
/// let mut out = [0; 5];
/// words.read_at(0, &mut out)?;
/// assert_eq!(&out, b"words");
/// assert!(words.read_at(1, &mut out).is_err());
/// # Ok::<(), slipring::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct SourceRange<S> {
    source: S,
    start: usize,
    len: usize,
}

impl<S: Source> SourceRange<S> {
    /// Makes a source of the bytes in this range. A reference to a source is a source, too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if the range is not inside
    /// the source.
    pub fn new(source: S, range: Range<usize>) -> Result<Self> {
        let len = range.end.checked_sub(range.start).filter(|_| range.end <= source.len());
        match len {
            Some(len) => Ok(Self { source, start: range.start, len }),
            None => {
                let len = range.end.saturating_sub(range.start);
                Err(out_of_range(range.start, len, source.len()))
            }
        }
    }

    /// Returns a copy of all bytes.
    ///
    /// # Errors
    ///
    /// What the source's [`read_at`](Source::read_at) returns.
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        let mut copy = vec![0; self.len];
        self.read_at(0, &mut copy)?;
        Ok(copy)
    }

    /// Returns the whole source.
    pub fn into_source(self) -> S {
        self.source
    }
}

impl<S: Source> Source for SourceRange<S> {
    fn len(&self) -> usize {
        self.len
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        if offset.checked_add(out.len()).is_none_or(|end| end > self.len) {
            return Err(out_of_range(offset, out.len(), self.len));
        }
        // Inside the source, and so no overflow: `offset` is at most `len`.
        self.source.read_at(self.start + offset, out)
    }
}

impl<S> fmt::Debug for SourceRange<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceRange({} bytes from {} on)", self.len, self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_invalid;
    use super::*;

    #[test]
    fn a_part_is_read_from_its_start_to_its_end_and_no_further() {
        let part = SourceRange::new(b"0123456789", 3..7).unwrap();
        assert_eq!(
            (part.len(), part.is_empty(), part.to_vec().unwrap()),
            (4, false, b"3456".into())
        );
        let mut out = [9; 2];
        part.read_at(2, &mut out).unwrap();
        assert_eq!(&out, b"56");
        for offset in [3, 4, 5, usize::MAX] {
            assert_invalid(part.read_at(offset, &mut out), "not inside a payload of 4 bytes");
            assert_eq!(&out, b"56");
        }
        part.read_at(4, &mut []).unwrap();
        assert_eq!(format!("{part:?}"), "SourceRange(4 bytes from 3 on)");
        assert_eq!(part.into_source(), b"0123456789");
    }

    #[test]
    fn a_part_that_is_not_inside_the_source_is_refused() {
        for range in [0..11, 11..11, 10..11, usize::MAX - 1..usize::MAX] {
            assert_invalid(SourceRange::new(b"0123456789", range), "a payload of 10 bytes");
        }
        #[expect(clippy::reversed_empty_ranges, reason = "it must be refused")]
        let reversed = SourceRange::new(b"0123456789", 5..4);
        assert_invalid(reversed, "at offset 5");
        SourceRange::new(b"0123456789", 10..10).unwrap();
    }
}
