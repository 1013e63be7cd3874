//! Cuts a message that is longer than a frame into pieces.
//!
//! Every piece is a frame with the header of its message. All but the last piece have the flag
//! MORE, all but the first one CONTINUED. A sender abandons a message with
//! an empty frame that has the flags CONTINUED and ABANDONED. Both directions use this code;
//! `assembler` has the other half.

use crate::error::{Error, Result};
use crate::protocol::kind::flags;
use crate::ring::Header;

/// One frame of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece<'m> {
    pub(crate) header: Header,
    pub(crate) bytes: &'m [u8],
}

/// Counts what was sent of one message, and makes the headers of its pieces.
#[derive(Debug)]
pub(crate) struct Splitter {
    header: Header,
    sent: usize,
    has_begun: bool,
}

impl Splitter {
    /// A message of which nothing is sent yet. All its frames get this header's kind, request
    /// and auxiliary word, and its flags besides those of the splitter.
    pub(crate) fn new(header: Header) -> Self {
        Self { header, sent: 0, has_begun: false }
    }

    pub(crate) fn request(&self) -> u64 {
        self.header.request
    }

    /// Returns how many bytes of the message were sent.
    pub(crate) fn sent(&self) -> usize {
        self.sent
    }

    /// Returns the header of the next piece.
    pub(crate) fn header(&self, is_last: bool) -> Header {
        let mut header = self.header;
        header.flags |= if is_last { 0 } else { flags::MORE };
        header.flags |= if self.has_begun { flags::CONTINUED } else { 0 };
        header
    }

    /// Returns the next piece of a message whose bytes are all there, in parts that follow each
    /// other; `None` after the last one. No piece has bytes of two parts, so that each is copied from
    /// where it lies. The same piece comes again until [`Splitter::piece_sent`] is called.
    pub(crate) fn next_piece<'m>(&self, parts: [&'m [u8]; 3], longest: usize) -> Option<Piece<'m>> {
        let mut skipped = self.sent;
        let mut rests = parts.into_iter().filter_map(|part| {
            let rest = part.get(skipped..).unwrap_or_default();
            skipped = skipped.saturating_sub(part.len());
            (!rest.is_empty()).then_some(rest)
        });
        let rest = match rests.next() {
            Some(rest) => rest,
            None if self.has_begun => return None,
            None => &[],
        };
        let (bytes, later) = rest.split_at_checked(longest).unwrap_or((rest, &[]));
        let is_last = later.is_empty() && rests.next().is_none();
        Some(Piece { header: self.header(is_last), bytes })
    }

    /// Notes that a piece of `len` bytes is in the ring.
    pub(crate) fn piece_sent(&mut self, len: usize) {
        self.has_begun = true;
        self.sent += len;
    }

    /// Returns the header of the empty frame that abandons the message; `None` if nothing
    /// was sent of it.
    pub(crate) fn abandon_header(&self) -> Option<Header> {
        let mut header = self.header;
        header.flags |= flags::CONTINUED | flags::ABANDONED;
        self.has_begun.then_some(header)
    }
}

/// Collects a message that is written in parts, and whose length is not known, into pieces
/// that fill a frame.
#[derive(Debug)]
pub(crate) struct PieceBuffer {
    splitter: Splitter,
    /// What does not fill a frame yet.
    bytes: Vec<u8>,
    max_frame: usize,
    max_message: usize,
}

impl PieceBuffer {
    pub(crate) fn new(header: Header, max_frame: usize, max_message: usize) -> Self {
        let bytes = Vec::with_capacity(max_frame);
        Self { splitter: Splitter::new(header), bytes, max_frame, max_message }
    }

    /// Adds to the message. `send` gets every piece that is full, once more bytes are to follow
    /// it. If `send` fails, its piece is offered again by the next call.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) if the message gets longer than the
    /// longest one, and nothing is added then; what `send` fails with.
    pub(crate) fn push(
        &mut self,
        mut bytes: &[u8],
        mut send: impl FnMut(Piece<'_>) -> Result<()>,
    ) -> Result<()> {
        self.check_len(bytes.len())?;
        while let Some(piece) = self.next_piece(&mut bytes) {
            send(piece)?;
            self.piece_sent();
        }
        Ok(())
    }

    /// Refuses so many bytes more if the message would get longer than the longest one.
    pub(crate) fn check_len(&self, more: usize) -> Result<()> {
        let len = (self.splitter.sent + self.bytes.len()).saturating_add(more);
        if len > self.max_message {
            return Err(Error::too_large(len, self.max_message, "raise max_message"));
        }
        Ok(())
    }

    /// Moves bytes to the next piece, and returns it if it is full and more bytes are to follow.
    /// The same piece comes again until [`PieceBuffer::piece_sent`] is called.
    pub(crate) fn next_piece(&mut self, bytes: &mut &[u8]) -> Option<Piece<'_>> {
        let is_full = fill(&mut self.bytes, self.max_frame, bytes);
        is_full.then(|| Piece { header: self.splitter.header(false), bytes: &self.bytes })
    }

    /// Notes that the piece is in the ring.
    pub(crate) fn piece_sent(&mut self) {
        self.splitter.piece_sent(self.bytes.len());
        self.bytes.clear();
    }

    /// Returns the last piece.
    pub(crate) fn last_piece(&self) -> Piece<'_> {
        Piece { header: self.splitter.header(true), bytes: &self.bytes }
    }

    /// Sends the rest as the last piece.
    ///
    /// # Errors
    ///
    /// What `send` fails with.
    pub(crate) fn finish(self, send: impl FnOnce(Piece<'_>) -> Result<()>) -> Result<()> {
        send(self.last_piece())
    }
}

/// Moves bytes to a piece. Returns true if the piece is full and more bytes are to follow it:
/// then it must be sent first.
pub(crate) fn fill(piece: &mut Vec<u8>, max_frame: usize, bytes: &mut &[u8]) -> bool {
    let room = max_frame.saturating_sub(piece.len());
    let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
    piece.extend_from_slice(now);
    *bytes = later;
    !later.is_empty()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const MORE: u16 = flags::MORE;
    const CONTINUED: u16 = flags::CONTINUED;

    fn header() -> Header {
        Header { kind: 40, flags: flags::STREAM, request: 7, aux: 9, ..Header::default() }
    }

    /// Flags besides that of the message, and the bytes.
    type Sent = Vec<(u16, Vec<u8>)>;

    fn note(sent: &mut Sent, piece: Piece<'_>) -> Result<()> {
        let Header { kind, flags, request, aux, .. } = piece.header;
        assert_eq!((kind, request, aux), (40, 7, 9));
        assert_ne!(flags & flags::STREAM, 0, "the message's own flag");
        sent.push((flags & !flags::STREAM, piece.bytes.to_vec()));
        Ok(())
    }

    fn cut(message: &[u8], longest: usize) -> Sent {
        let (mut splitter, mut sent) = (Splitter::new(header()), Vec::new());
        while let Some(piece) = splitter.next_piece([message, &[], &[]], longest) {
            let _ = note(&mut sent, piece);
            splitter.piece_sent(piece.bytes.len());
        }
        assert_eq!(splitter.sent(), message.len());
        sent
    }

    #[test]
    fn a_message_is_cut_into_pieces_that_say_where_they_belong() {
        let of = |flags, bytes: &[u8]| (flags, bytes.to_vec());
        assert_eq!(
            cut(b"abcdefgh", 3),
            [of(MORE, b"abc"), of(MORE | CONTINUED, b"def"), of(CONTINUED, b"gh")]
        );
        assert_eq!(cut(b"abcd", 2), [of(MORE, b"ab"), of(CONTINUED, b"cd")]);
        assert_eq!(cut(b"abcd", 4), [of(0, b"abcd")]);
        assert_eq!(cut(b"", 4), [of(0, b"")], "one empty frame");
    }

    #[test]
    fn pieces_lie_in_one_part_each_and_add_up_to_all_parts() {
        let cut = |parts: [&'static [u8]; 3], longest| {
            let mut splitter = Splitter::new(header());
            let mut pieces = Vec::new();
            while let Some(piece) = splitter.next_piece(parts, longest) {
                splitter.piece_sent(piece.bytes.len());
                pieces.push((piece.header.flags & !flags::STREAM, piece.bytes));
            }
            pieces
        };
        let of = |flags, bytes: &'static [u8]| (flags, bytes);
        assert_eq!(
            cut([b"ab", b"cdefg", b"h"], 3),
            [
                of(MORE, b"ab"),
                of(MORE | CONTINUED, b"cde"),
                of(MORE | CONTINUED, b"fg"),
                of(CONTINUED, b"h")
            ]
        );
        assert_eq!(cut([b"", b"abc", b""], 2), [of(MORE, b"ab"), of(CONTINUED, b"c")]);
        assert_eq!(cut([b"a", b"", b"b"], 9), [of(MORE, b"a"), of(CONTINUED, b"b")]);
        assert_eq!(cut([b"", b"", b"ab"], 9), [of(0, b"ab")]);
        assert_eq!(cut([b"", b"", b""], 9), [of(0, b"")], "one empty frame");
    }

    #[test]
    fn a_piece_that_was_not_sent_comes_again() {
        let mut splitter = Splitter::new(header());
        assert_eq!(splitter.next_piece([b"abc", b"", b""], 2).unwrap().bytes, b"ab");
        assert_eq!(splitter.next_piece([b"abc", b"", b""], 2).unwrap().bytes, b"ab");
        splitter.piece_sent(2);
        assert_eq!(splitter.next_piece([b"abc", b"", b""], 2).unwrap().bytes, b"c");
    }

    #[test]
    fn only_a_message_that_was_begun_is_abandoned() {
        let mut splitter = Splitter::new(header());
        assert_eq!(splitter.abandon_header(), None);
        splitter.piece_sent(0);
        let flags = flags::STREAM | CONTINUED | flags::ABANDONED;
        assert_eq!(splitter.abandon_header(), Some(Header { flags, ..header() }));
    }

    #[test]
    fn what_is_written_bit_by_bit_goes_out_in_full_frames() {
        for step in 1..9 {
            let (mut buffer, mut sent) = (PieceBuffer::new(header(), 3, 8), Vec::new());
            for bytes in b"abcdefgh".chunks(step) {
                buffer.push(bytes, |piece| note(&mut sent, piece)).unwrap();
            }
            assert_eq!(sent.len(), 2, "full pieces");
            assert_eq!(buffer.splitter.sent(), 6);
            buffer.finish(|piece| note(&mut sent, piece)).unwrap();
            assert_eq!(sent, cut(b"abcdefgh", 3), "{step}");
        }
        let (mut buffer, mut sent) = (PieceBuffer::new(header(), 3, 8), Vec::new());
        buffer.push(b"abc", |_| panic!("it may be the last piece")).unwrap();
        buffer.finish(|piece| note(&mut sent, piece)).unwrap();
        assert_eq!(sent, [(0, b"abc".to_vec())], "one frame");
    }

    #[test]
    fn a_write_beyond_the_cap_adds_nothing() {
        let mut buffer = PieceBuffer::new(header(), 3, 5);
        buffer.push(b"ab", |_| Ok(())).unwrap();
        let error = buffer.push(b"cdef", |_| panic!("nothing is sent")).unwrap_err();
        assert_eq!((error.kind(), error.length_and_limit()), (ErrorKind::TooLarge, Some((6, 5))));
        let mut sent = Vec::new();
        buffer.finish(|piece| note(&mut sent, piece)).unwrap();
        assert_eq!(sent, [(0, b"ab".to_vec())]);
    }

    #[test]
    fn a_full_piece_that_was_not_sent_is_sent_by_the_next_write() {
        let mut buffer = PieceBuffer::new(header(), 2, 8);
        let failing = |_: Piece<'_>| Err(Error::new(ErrorKind::Timeout, ""));
        assert!(buffer.push(b"abc", failing).is_err());
        let mut sent = Vec::new();
        buffer.push(b"d", |piece| note(&mut sent, piece)).unwrap();
        buffer.finish(|piece| note(&mut sent, piece)).unwrap();
        // The byte that the failed write had left is not in it, as its error said.
        assert_eq!(sent, [(MORE, b"ab".to_vec()), (CONTINUED, b"d".to_vec())]);
    }
}
