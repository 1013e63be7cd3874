//! Takes messages out of the bytes that come.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

use super::frame::PREFIX;

/// A message that is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Compressed,
    TooLong { len: usize, max_message: usize },
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compressed => f.write_str("compressed messages are not taken"),
            Self::TooLong { len, max_message } => {
                write!(f, "a message of {len} bytes is over the cap of {max_message} bytes")
            }
        }
    }
}

/// Takes messages out of the parts in which their bytes come. A message that lies in one part is
/// not copied.
#[derive(Debug)]
pub(crate) struct MessageReader {
    /// What came and was not taken yet. Empty while `open` is being filled.
    part: Bytes,
    /// The message that came in part.
    open: Option<Open>,
    max_message: usize,
}

#[derive(Debug)]
struct Open {
    bytes: BytesMut,
    /// `None` until the prefix is there.
    len: Option<usize>,
}

impl MessageReader {
    /// Makes a reader that refuses messages of more than `max_message` bytes.
    pub(crate) fn new(max_message: usize) -> Self {
        Self { part: Bytes::new(), open: None, max_message }
    }

    /// Forgets what came.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.max_message);
    }

    /// Adds what came. All messages of before must have been taken.
    pub(crate) fn push(&mut self, part: Bytes) {
        debug_assert!(self.part.is_empty(), "the messages of before were taken");
        self.part = part;
    }

    /// Whether the bytes so far end between two messages.
    pub(crate) fn is_at_end(&self) -> bool {
        self.part.is_empty() && self.open.is_none()
    }

    /// Returns the next message if it lies in the part that was added last.
    pub(crate) fn next_in_part(&mut self) -> Option<Bytes> {
        let prefix = self.part.first_chunk::<PREFIX>().filter(|_| self.open.is_none())?;
        let len = self.check(*prefix).ok().filter(|len| self.part.len() - PREFIX >= *len)?;
        self.part.advance(PREFIX);
        Some(self.part.split_to(len))
    }

    /// Uses the payload of the next message where it lies, if `find` finds one in the part that was added
    /// last: it returns the payload, and how many bytes to take.
    pub(crate) fn use_next<T>(
        &mut self,
        find: impl FnOnce(&[u8]) -> Option<(&[u8], usize)>,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        let (payload, len) = find(&self.part).filter(|_| self.open.is_none())?;
        let taken = take(payload);
        self.part.advance(len);
        Some(taken)
    }

    /// Returns the next message, `None` if it is not whole yet.
    ///
    /// # Errors
    ///
    /// If it is compressed or too long.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Unreadable> {
        if let Some(message) = self.next_in_part() {
            return Ok(Some(message));
        }
        if self.open.is_none() {
            if let Some(prefix) = self.part.first_chunk::<PREFIX>() {
                self.check(*prefix)?;
            }
            if self.part.is_empty() {
                return Ok(None);
            }
        }
        let mut open = self.open.take().unwrap_or(Open { bytes: BytesMut::new(), len: None });
        if open.len.is_none() {
            self.fill(&mut open.bytes, PREFIX);
            if let Some(prefix) = open.bytes.first_chunk::<PREFIX>() {
                open.len = Some(self.check(*prefix)?);
                open.bytes.clear();
            }
        }
        if let Some(len) = open.len {
            self.fill(&mut open.bytes, len);
            if open.bytes.len() == len {
                return Ok(Some(open.bytes.freeze()));
            }
        }
        self.open = Some(open);
        Ok(None)
    }

    /// Moves bytes until there are `len`. Memory is taken for what has come, and not for what was
    /// announced.
    fn fill(&mut self, bytes: &mut BytesMut, len: usize) {
        let taken = self.part.len().min(len - bytes.len());
        bytes.extend_from_slice(&self.part.split_to(taken));
    }

    fn check(&self, prefix: [u8; PREFIX]) -> Result<usize, Unreadable> {
        let [flag, len @ ..] = prefix;
        if flag != 0 {
            return Err(Unreadable::Compressed);
        }
        let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
        if len > self.max_message {
            return Err(Unreadable::TooLong { len, max_message: self.max_message });
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(messages: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            bytes.push(0);
            bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
            bytes.extend(*message);
        }
        bytes
    }

    #[test]
    fn messages_are_found_however_their_bytes_are_cut() {
        let messages: [&[u8]; 4] = [b"one", b"", &[7; 300], b"last"];
        let bytes = Bytes::from(framed(&messages));
        for cut in 1..bytes.len() {
            let mut reader = MessageReader::new(300);
            let mut found = Vec::new();
            for part in [bytes.slice(..cut), bytes.slice(cut..)] {
                for byte_wise in [part] {
                    reader.push(byte_wise);
                    while let Some(message) = reader.next().unwrap() {
                        found.push(message);
                    }
                }
            }
            assert!(reader.is_at_end());
            assert_eq!(found, messages, "cut at {cut}");
        }
        let mut reader = MessageReader::new(300);
        let mut found = Vec::new();
        for at in 0..bytes.len() {
            reader.push(bytes.slice(at..=at));
            found.extend(reader.next().unwrap());
        }
        assert_eq!(found, messages);
    }

    #[test]
    fn a_payload_is_used_where_it_lies_and_only_if_it_is_there() {
        fn find(bytes: &[u8]) -> Option<(&[u8], usize)> {
            Some((bytes.get(PREFIX..PREFIX + 3)?, PREFIX + 3))
        }
        let part = Bytes::from(framed(&[b"one", b"two"]));
        let mut reader = MessageReader::new(300);
        reader.push(part.slice(..PREFIX + 3));
        let place = reader.use_next(find, |payload| payload.as_ptr());
        assert_eq!(place, Some(part[PREFIX..].as_ptr()));
        assert!(reader.is_at_end());
        // Its beginning was put aside, and what looks like a message in the next part is none.
        reader.push(part.slice(..1));
        assert!(reader.next().unwrap().is_none());
        reader.push([&part[1..], &part[..]].concat().into());
        assert_eq!(reader.use_next(find, <[u8]>::to_vec), None);
        assert_eq!(reader.next().unwrap().unwrap(), b"one"[..]);
        assert_eq!(reader.use_next(find, <[u8]>::to_vec), Some(b"two".to_vec()));
    }

    #[test]
    fn a_message_in_one_part_is_not_copied() {
        let bytes = Bytes::from(framed(&[b"here"]));
        let mut reader = MessageReader::new(300);
        reader.push(bytes.clone());
        let message = reader.next().unwrap().unwrap();
        assert_eq!(message.as_ptr(), bytes[PREFIX..].as_ptr());
    }

    #[test]
    fn long_and_compressed_messages_are_refused_before_they_come() {
        let mut reader = MessageReader::new(300);
        reader.push(Bytes::from_static(&[0, 0, 0, 1, 45]));
        let too_long = Unreadable::TooLong { len: 301, max_message: 300 };
        assert_eq!(reader.next().unwrap_err(), too_long);
        let mut reader = MessageReader::new(300);
        reader.push(Bytes::from_static(&[1, 0, 0, 0, 1]));
        assert_eq!(reader.next().unwrap_err(), Unreadable::Compressed);
    }
}
