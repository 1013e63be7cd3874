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
    /// How many bytes were taken out before these.
    taken: usize,
    /// Something was taken out, even if it was an empty piece.
    has_begun: bool,
}

impl Message {
    fn new(header: Header) -> Self {
        Self { header, bytes: Vec::new(), taken: 0, has_begun: false }
    }

    /// Whether nothing was taken out of it before.
    pub(crate) fn is_whole(&self) -> bool {
        !self.has_begun
    }

    /// Refuses so many bytes more if the message would get longer than the longest one.
    fn check_len(&self, more: usize, max_message: usize) -> Result<()> {
        let len = self.taken.saturating_add(self.bytes.len()).saturating_add(more);
        if len > max_message { Err(over_the_cap(self.header, max_message)) } else { Ok(()) }
    }
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

    /// Whether there are no bytes for [`Assembler::take_bytes`].
    pub(crate) fn has_no_bytes(&self) -> bool {
        self.partial.as_ref().is_none_or(|partial| partial.bytes.is_empty())
    }

    /// Takes what was collected of a message that is not whole yet, and says whether it begins
    /// the message. `None` if there are no bytes. What comes later is collected from there on.
    pub(crate) fn take_bytes(&mut self) -> Option<(Message, bool)> {
        let partial = self.partial.as_mut().filter(|partial| !partial.bytes.is_empty())?;
        let bytes = std::mem::take(&mut partial.bytes);
        partial.taken += bytes.len();
        let is_first = !std::mem::replace(&mut partial.has_begun, true);
        Some((Message { bytes, ..Message::new(partial.header) }, is_first))
    }

    /// Whether a message is being collected of which nothing was taken out.
    pub(crate) fn is_whole_so_far(&self) -> bool {
        self.partial.as_ref().is_some_and(Message::is_whole)
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
        let partial = self.partial_of(header)?;
        if header.flags & flags::ABANDONED != 0 {
            partial.header.flags |= flags::ABANDONED;
            partial.bytes.clear();
            return Ok(self.partial.take());
        }
        partial.check_len(payload.len(), max_message)?;
        if partial.bytes.capacity() == 0 {
            partial.bytes = buffer();
        }
        payload.append_to(&mut partial.bytes);
        Ok(if header.flags & flags::MORE == 0 { self.partial.take() } else { None })
    }

    /// Checks a piece as [`Assembler::add`] does, but collects nothing: its reader has it, or
    /// no reader wants it. Returns whether it begins the message. No bytes may be collected.
    ///
    /// # Errors
    ///
    /// As [`Assembler::add`].
    pub(crate) fn pass(&mut self, header: Header, len: usize, max_message: usize) -> Result<bool> {
        let partial = self.partial_of(header)?;
        partial.check_len(len, max_message)?;
        partial.taken += len;
        let is_first = !std::mem::replace(&mut partial.has_begun, true);
        if header.flags & flags::MORE == 0 {
            self.partial = None;
        }
        Ok(is_first)
    }

    /// Returns the message that a piece belongs to.
    fn partial_of(&mut self, header: Header) -> Result<&mut Message> {
        if !Self::is_continued(header) {
            return Ok(self.partial.insert(Message::new(header)));
        }
        let is_its_own = |partial: &&mut Message| {
            let first = partial.header;
            (first.request, first.kind) == (header.request, header.kind)
        };
        self.partial.as_mut().filter(is_its_own).ok_or_else(|| without_start(header))
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
            while let Some(piece) = splitter.next_piece([&message, &[], &[]], longest) {
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
    fn a_message_is_taken_out_in_parts_and_the_rest_says_so() {
        let mut assembler = Assembler::default();
        assert!(assembler.take_bytes().is_none() && assembler.has_no_bytes());
        add(&mut assembler, MORE, 1, b"ab").unwrap();
        let (first, is_first) = assembler.take_bytes().unwrap();
        assert!(is_first && first.bytes == b"ab" && assembler.request() == Some(1));
        assert!(assembler.take_bytes().is_none(), "once");
        add(&mut assembler, CONTINUED | MORE, 1, b"c").unwrap();
        let (second, is_first) = assembler.take_bytes().unwrap();
        assert!(!is_first && second.bytes == b"c");
        let rest = add(&mut assembler, CONTINUED, 1, b"d").unwrap().unwrap();
        assert!(!rest.is_whole() && rest.bytes == b"d" && assembler.is_empty());
        add(&mut assembler, MORE, 2, b"e").unwrap();
        assert!(add(&mut assembler, CONTINUED, 2, b"f").unwrap().unwrap().is_whole());
    }

    #[test]
    fn a_piece_that_is_passed_counts_as_one_that_is_collected() {
        let header = |flags| Header { kind: 5, flags, request: 1, ..Header::default() };
        let mut assembler = Assembler::default();
        assert!(assembler.pass(header(CONTINUED), 1, 5).is_err(), "no start");
        assert!(assembler.pass(header(MORE), 0, 5).unwrap(), "an empty first piece");
        assert!(!assembler.pass(header(MORE | CONTINUED), 3, 5).unwrap());
        assert!(!add(&mut assembler, CONTINUED, 1, b"de").unwrap().unwrap().is_whole());
        assembler.pass(header(MORE), 3, 5).unwrap();
        let error = assembler.pass(header(MORE | CONTINUED), 3, 5).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PeerCorrupt);
        assembler.pass(header(MORE), 3, 5).unwrap();
        assert_corrupt(add(&mut assembler, CONTINUED, 1, b"def"));
        assembler.pass(header(MORE), 3, 5).unwrap();
        assert!(!assembler.pass(header(CONTINUED), 2, 5).unwrap());
        assert!(assembler.is_empty());
        assert!(assembler.pass(header(MORE), 1, 5).unwrap(), "another message");
        assert!(assembler.pass(header(MORE), 1, 5).unwrap(), "in the place of the first");
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
