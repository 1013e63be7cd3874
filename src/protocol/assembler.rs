//! Puts a message together that came in pieces: the other half of `splitter`.

use crate::error::{Error, Result};
use crate::protocol::kind::flags;
use crate::ring::Header;
use crate::shm::bytes::PeerBytes;

/// What came of one message.
#[derive(Debug)]
pub(crate) struct Message {
    /// The header of the first piece. Has the flag ABANDONED, which no first piece needs, if
    /// the sender abandoned the message.
    pub(crate) header: Header,
    pub(crate) bytes: Vec<u8>,
}

/// Collects the pieces of one message at a time.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    partial: Option<Message>,
}

impl Assembler {
    /// Whether a frame is a part of a message in pieces, and not a message of its own.
    #[inline]
    pub(crate) fn is_piece(header: Header) -> bool {
        header.flags & (flags::MORE | flags::CONTINUED) != 0
    }

    /// Whether a frame is a part of a message that an earlier frame has begun.
    #[inline]
    pub(crate) fn is_continued(header: Header) -> bool {
        header.flags & flags::CONTINUED != 0
    }

    /// Returns the request whose message is being collected.
    pub(crate) fn request(&self) -> Option<u64> {
        self.partial.as_ref().map(|partial| partial.header.request)
    }

    /// Whether no message is being collected.
    pub(crate) fn is_empty(&self) -> bool {
        self.partial.is_none()
    }

    /// Ends the collection of a message, and returns what came of it.
    pub(crate) fn take(&mut self) -> Option<Message> {
        self.partial.take()
    }

    /// Adds a piece, of which the peer wrote every field. Returns the message when this was its
    /// last piece, or abandoned it. A first piece takes the place of a message that is not
    /// whole: see [`Assembler::take`]. `buffer` gives the memory for a new message.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PeerCorrupt`](crate::ErrorKind::PeerCorrupt) for a further piece of a message
    /// that is not being collected, one that changes its kind, and a message that gets
    /// longer than `max_message`.
    pub(crate) fn add(
        &mut self,
        header: Header,
        payload: PeerBytes<'_>,
        max_message: usize,
        buffer: impl FnOnce() -> Vec<u8>,
    ) -> Result<Option<Message>> {
        let partial = if Self::is_continued(header) {
            let is_its_own = |partial: &&mut Message| {
                let first = partial.header;
                (first.request, first.kind) == (header.request, header.kind)
            };
            self.partial.as_mut().filter(is_its_own).ok_or_else(|| without_start(header))?
        } else {
            self.partial.insert(Message { header, bytes: buffer() })
        };
        if header.flags & flags::ABANDONED != 0 {
            partial.header.flags |= flags::ABANDONED;
            partial.bytes.clear();
            return Ok(self.partial.take());
        }
        if partial.bytes.len().saturating_add(payload.len()) > max_message {
            return Err(over_the_cap(header, max_message));
        }
        payload.append_to(&mut partial.bytes);
        Ok(if header.flags & flags::MORE == 0 { self.partial.take() } else { None })
    }
}

#[cold]
fn without_start(header: Header) -> Error {
    Error::corrupt(format!("a piece of request {} with no start", header.request))
}

#[cold]
fn over_the_cap(header: Header, max_message: usize) -> Error {
    let request = header.request;
    Error::corrupt(format!("a message of over {max_message} bytes for request {request}"))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::protocol::splitter::Splitter;

    const MORE: u16 = flags::MORE;
    const CONTINUED: u16 = flags::CONTINUED;

    fn add(
        assembler: &mut Assembler,
        flags: u16,
        request: u64,
        bytes: &[u8],
    ) -> Result<Option<Message>> {
        let header = Header { kind: 5, flags, request, ..Header::default() };
        assembler.add(header, PeerBytes::of(bytes), 5, Vec::new)
    }

    fn assert_corrupt(added: Result<Option<Message>>) {
        assert_eq!(added.err().map(|error| error.kind()), Some(ErrorKind::PeerCorrupt));
    }

    #[test]
    fn pieces_add_up_to_the_message_that_was_cut() {
        for (len, longest) in [(0, 1), (1, 1), (9, 1), (9, 4), (8, 4), (9, 9)] {
            let message: Vec<u8> = (0..len).collect();
            let first = Header { kind: 40, request: 7, aux: 9, ..Header::default() };
            let (mut splitter, mut assembler) = (Splitter::new(first), Assembler::default());
            let mut whole = None;
            while let Some(piece) = splitter.next_piece(&message, longest) {
                assert!(whole.is_none(), "there is more");
                let bytes = PeerBytes::of(piece.bytes);
                whole = assembler.add(piece.header, bytes, 9, Vec::new).unwrap();
                splitter.piece_sent(piece.bytes.len());
            }
            let whole = whole.unwrap();
            assert_eq!((whole.bytes, whole.header.aux), (message, 9));
            assert!(assembler.request().is_none());
        }
    }

    #[test]
    fn a_piece_without_a_start_is_refused() {
        let mut assembler = Assembler::default();
        assert_corrupt(add(&mut assembler, CONTINUED, 1, b"x"));
        assert_corrupt(add(&mut assembler, CONTINUED | MORE, 1, b"x"));
        add(&mut assembler, MORE, 1, b"x").unwrap();
        assert_corrupt(add(&mut assembler, CONTINUED, 2, b"x"));
        let other_kind = Header { kind: 6, flags: CONTINUED, request: 1, ..Header::default() };
        assert_corrupt(assembler.add(other_kind, PeerBytes::of(b""), 5, Vec::new));
        assert_eq!(add(&mut assembler, CONTINUED, 1, b"y").unwrap().unwrap().bytes, b"xy");
        assert_corrupt(add(&mut assembler, CONTINUED, 1, b"y"));
    }

    #[test]
    fn a_message_beyond_the_cap_is_refused_also_by_its_first_piece() {
        let mut assembler = Assembler::default();
        assert_corrupt(add(&mut assembler, MORE, 1, b"abcdef"));
        add(&mut assembler, MORE, 2, b"abc").unwrap();
        assert_corrupt(add(&mut assembler, CONTINUED, 2, b"def"));
    }

    #[test]
    fn a_message_that_is_abandoned_has_no_bytes_and_says_so() {
        let mut assembler = Assembler::default();
        add(&mut assembler, MORE, 3, b"abc").unwrap();
        let abandoned = add(&mut assembler, CONTINUED | flags::ABANDONED, 3, b"").unwrap().unwrap();
        assert!(abandoned.bytes.is_empty() && assembler.request().is_none());
        assert_eq!(abandoned.header.flags, MORE | flags::ABANDONED);
    }

    #[test]
    fn a_new_message_takes_the_place_of_one_that_is_not_whole() {
        let mut assembler = Assembler::default();
        add(&mut assembler, MORE, 1, b"abc").unwrap();
        assert_eq!(assembler.request(), Some(1));
        add(&mut assembler, MORE, 2, b"d").unwrap();
        assert_eq!(add(&mut assembler, CONTINUED, 2, b"e").unwrap().unwrap().bytes, b"de");
        add(&mut assembler, MORE, 3, b"f").unwrap();
        assert_eq!(assembler.take().unwrap().bytes, b"f");
        assert_corrupt(add(&mut assembler, CONTINUED, 3, b"g"));
    }
}
