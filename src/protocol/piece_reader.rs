//! Reads a message piece by piece, and blocks while the next piece is not there.
//!
//! The worker's side. The readers of the channel, of which some are tasks, cannot block for a piece
//! here: see `channel::message_parts`.

use crate::error::{Error, ErrorKind, Result};
use crate::protocol::partly_read::{MessagePiece, PartlyRead, wrong_length};

/// Waits for the pieces of one message, from the first one to the last one.
pub(crate) trait PieceSource<P> {
    /// Waits for the next piece, and says whether it is the last one. An error other than
    /// [`ErrorKind::Interrupted`] is the end of the message.
    fn wait_for_piece(&mut self) -> Result<(P, bool)>;

    /// Makes a piece of bytes that were read before.
    fn copied(&self, bytes: Vec<u8>) -> P;

    /// Returns the length of the longest message that an honest peer sends.
    fn longest(&self) -> usize;

    /// Ends the request because of an error of its message. Returns that error.
    fn end_with(&mut self, error: Error) -> Error;
}

/// A message that is read from its first piece to its last one.
#[derive(Debug)]
pub(crate) struct PieceReader<P>(PartlyRead<P>);

impl<P: MessagePiece> PieceReader<P> {
    /// Begins a message of which no piece has come.
    pub(crate) fn new(len: Option<usize>) -> Self {
        Self(PartlyRead::new(len))
    }

    /// Begins a message of one piece.
    pub(crate) fn whole(piece: P) -> Self {
        Self(PartlyRead::whole(piece))
    }

    /// Returns the length of the whole message, if it is known.
    pub(crate) fn message_len(&self) -> Option<usize> {
        self.0.message_len()
    }

    /// Waits for the next piece; `None` after the last one. What is left of a piece of which a part
    /// was read is the next one, as a copy.
    pub(crate) fn next_piece(&mut self, source: &mut dyn PieceSource<P>) -> Result<Option<P>> {
        if self.fill(source)? { self.0.take_piece(|rest| source.copied(rest)) } else { Ok(None) }
    }

    /// Copies the rest of the message to `out`, which must have its length.
    pub(crate) fn copy_to(
        &mut self,
        source: &mut dyn PieceSource<P>,
        out: &mut [u8],
    ) -> Result<()> {
        self.0.check()?;
        let (len, wanted) = (self.0.known_rest(), out.len());
        let mut rest = out;
        if len.is_none_or(|len| len == wanted) {
            while !rest.is_empty() && self.fill(source)? {
                let copied = self.0.copy_some(rest)?;
                rest = rest.split_at_mut_checked(copied).map_or(&mut [][..], |(_, rest)| rest);
            }
            if rest.is_empty() && !self.fill(source)? {
                return Ok(());
            }
        }
        Err(wrong_length(len, wanted))
    }

    /// Appends the rest of the message to `out`, and returns how many bytes that were. After an
    /// error `out` is as it was.
    pub(crate) fn append_to(
        &mut self,
        source: &mut dyn PieceSource<P>,
        out: &mut Vec<u8>,
    ) -> Result<usize> {
        let before = out.len();
        // Only a hint. If there is no memory now, it is asked for again when it is needed.
        let _ = out.try_reserve(self.0.known_rest().unwrap_or(0));
        loop {
            let appended = self.fill(source).and_then(|has_more| {
                self.0.append_piece(out)?;
                Ok(has_more)
            });
            match appended {
                Ok(true) => {}
                Ok(false) => return Ok(out.len() - before),
                Err(error) => {
                    self.0.take_back(out.split_off(before), |bytes| source.copied(bytes));
                    return Err(error);
                }
            }
        }
    }

    /// Copies bytes to `out`. Returns zero only at the end of the message, or if `out` is empty.
    pub(crate) fn read(
        &mut self,
        source: &mut dyn PieceSource<P>,
        out: &mut [u8],
    ) -> Result<usize> {
        if out.is_empty() || !self.fill(source)? { Ok(0) } else { self.0.copy_some(out) }
    }

    /// Waits until there are bytes to read. Returns false at the end of the message.
    fn fill(&mut self, source: &mut dyn PieceSource<P>) -> Result<bool> {
        loop {
            if let Some(has_bytes) = self.0.look()? {
                return Ok(has_bytes);
            }
            match source.wait_for_piece() {
                Ok((piece, is_last)) => self.accept(source, piece, is_last)?,
                // The host's own hook ended the wait. The message goes on.
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => return Err(self.0.fail(error)),
            }
        }
    }

    /// Takes a piece that the peer sent. Ends the request if that cannot be.
    fn accept(&mut self, source: &mut dyn PieceSource<P>, piece: P, is_last: bool) -> Result<()> {
        let accepted = self.0.accept(piece, is_last, source.longest());
        accepted.map_err(|error| self.0.fail(source.end_with(error)))
    }
}
