//! The form of every message that is not a payload of the application's: little-endian fields,
//! one after another.

use crate::error::{Error, ErrorKind, Result};

/// Writes fields.
#[derive(Debug, Default)]
pub(crate) struct FieldWriter(Vec<u8>);

impl FieldWriter {
    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Writes a length and the bytes.
    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads fields. Every length is checked against the bytes that are left.
#[derive(Debug)]
pub(crate) struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk().ok_or_else(short)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = usize::try_from(self.u32()?).map_err(|_| short())?;
        let (head, rest) = self.0.split_at_checked(len).ok_or_else(short)?;
        self.0 = rest;
        Ok(head)
    }

    /// Reads text that another process wrote. What is not UTF-8 is replaced.
    pub(crate) fn text(&mut self) -> Result<String> {
        self.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// Reads a count, and as many items.
    pub(crate) fn list<T>(&mut self, item: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        (0..self.u32()?).map(|_| item(self)).collect()
    }
}

/// Returns the front of the text that fits `most` bytes, in whole characters.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

#[cold]
fn short() -> Error {
    Error::new(ErrorKind::Protocol, "a message ends before its last field")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters_and_counted_in_bytes() {
        let text = "a\u{1F980}b";
        let cuts: Vec<&str> = (0..8).map(|most| cut(text, most)).collect();
        let crab = "a\u{1F980}";
        assert_eq!(cuts, ["", "a", "a", "a", "a", crab, text, text]);
    }

    #[test]
    fn fields_read_back_and_none_reaches_past_the_end() {
        let mut writer = FieldWriter::default();
        writer.u32(7).bytes(b"abc").u64(9);
        let bytes = writer.finish();
        let mut reader = FieldReader::new(&bytes);
        assert_eq!(reader.u32().unwrap(), 7);
        assert_eq!(reader.text().unwrap(), "abc");
        assert_eq!(reader.u64().unwrap(), 9);
        assert_eq!(reader.u32().unwrap_err().kind(), ErrorKind::Protocol);
        for cut in 0..bytes.len() {
            let mut reader = FieldReader::new(&bytes[..cut]);
            let all = reader.u32().and_then(|_| reader.bytes()).and_then(|_| reader.u64());
            assert!(all.is_err(), "{cut}");
        }
        assert!(FieldReader::new(&u32::MAX.to_le_bytes()).bytes().is_err());
    }
}
