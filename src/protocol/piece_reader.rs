//! Reads a message piece by piece, and decides whether the pieces make one whole message.
//!
//! The worker's side. The readers of the channel, of which some are tasks, cannot block for a piece
//! here: see `channel::message_parts`.

use crate::error::{Error, ErrorKind, Result};
use crate::shm::bytes::PeerBytes;

/// A piece of a message. Its bytes may lie in the ring until it is dropped.
pub(crate) trait MessagePiece {
    fn payload(&self) -> PeerBytes<'_>;

    fn len(&self) -> usize {
        self.payload().len()
    }
}

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

/// How far a message was read.
#[derive(Debug)]
pub(crate) struct PieceReader<P> {
    /// The piece that came last.
    piece: Option<P>,
    /// How many of its bytes were read.
    used: usize,
    /// Bytes of all pieces that came.
    received: usize,
    /// The length of the whole message, if it is known.
    len: Option<usize>,
    /// The last piece has come.
    is_complete: bool,
    /// Why no more comes.
    failed: Option<Error>,
}

impl<P: MessagePiece> PieceReader<P> {
    /// Begins a message of which no piece has come.
    pub(crate) fn new(len: Option<usize>) -> Self {
        Self { piece: None, used: 0, received: 0, len, is_complete: false, failed: None }
    }

    /// Begins a message of one piece.
    pub(crate) fn whole(piece: P) -> Self {
        let (received, len) = (piece.len(), Some(piece.len()));
        Self { piece: Some(piece), used: 0, received, len, is_complete: true, failed: None }
    }

    /// Returns the length of the whole message, if it is known.
    pub(crate) fn message_len(&self) -> Option<usize> {
        self.len
    }

    /// Waits for the next piece; `None` after the last one. What is left of a piece of which a part
    /// was read is the next one, as a copy.
    pub(crate) fn next_piece(&mut self, source: &mut dyn PieceSource<P>) -> Result<Option<P>> {
        if !self.fill(source)? {
            return Ok(None);
        }
        if self.used == 0 {
            return Ok(self.piece.take());
        }
        let mut rest = Vec::new();
        self.append_piece(&mut rest)?;
        Ok(Some(source.copied(rest)))
    }

    /// Copies the rest of the message to `out`, which must have its length.
    pub(crate) fn copy_to(
        &mut self,
        source: &mut dyn PieceSource<P>,
        out: &mut [u8],
    ) -> Result<()> {
        self.check()?;
        let (len, wanted) = (self.known_rest(), out.len());
        let mut rest = out;
        if len.is_none_or(|len| len == wanted) {
            while !rest.is_empty() && self.fill(source)? {
                let copied = self.copy_some(rest)?;
                rest = rest.split_at_mut_checked(copied).map_or(&mut [][..], |(_, rest)| rest);
            }
            if rest.is_empty() && !self.fill(source)? {
                return Ok(());
            }
        }
        let what = match len {
            Some(len) => format!("{len} bytes are left of a message, not {wanted}"),
            None => format!("a message does not have {wanted} bytes left"),
        };
        Err(Error::new(ErrorKind::InvalidPayload, what))
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
        let _ = out.try_reserve(self.known_rest().unwrap_or(0));
        loop {
            let appended = self.fill(source).and_then(|has_more| {
                self.append_piece(out)?;
                Ok(has_more)
            });
            match appended {
                Ok(true) => {}
                Ok(false) => return Ok(out.len() - before),
                Err(error) => {
                    self.take_back(source, out.split_off(before));
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
        if out.is_empty() || !self.fill(source)? { Ok(0) } else { self.copy_some(out) }
    }

    /// Makes bytes that were read before an error the piece to be read next: if the message goes on,
    /// a reader that tries again must get them.
    #[cold]
    fn take_back(&mut self, source: &dyn PieceSource<P>, bytes: Vec<u8>) {
        if self.failed.is_none() && !bytes.is_empty() {
            self.piece = Some(source.copied(bytes));
        }
    }

    /// Appends what there is of the piece, and gives its place in the ring back.
    fn append_piece(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let (piece, used) = (self.piece.take(), std::mem::take(&mut self.used));
        let Some(piece) = piece else { return Ok(()) };
        let payload = piece.payload();
        if used == 0 {
            payload.append_to(out);
            return Ok(());
        }
        let before = out.len();
        out.resize(before + payload.len().saturating_sub(used), 0);
        payload.read_at(used, out.get_mut(before..).unwrap_or_default())
    }

    /// The bytes that are not read yet, if the length of the message is known.
    fn known_rest(&self) -> Option<usize> {
        let in_hand = self.piece.as_ref().map_or(0, |piece| piece.len() - self.used);
        Some(self.len?.saturating_sub(self.received - in_hand))
    }

    /// Returns the error that ended the message, if one did.
    fn check(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Waits until there are bytes to read in `piece`. Returns false at the end of the message.
    fn fill(&mut self, source: &mut dyn PieceSource<P>) -> Result<bool> {
        loop {
            self.check()?;
            if self.piece.as_ref().is_some_and(|piece| piece.len() > self.used) {
                return Ok(true);
            }
            // Before the wait: the peer may need the room.
            self.piece = None;
            self.used = 0;
            if self.is_complete {
                return Ok(false);
            }
            match source.wait_for_piece() {
                Ok((piece, is_last)) => self.accept(source, piece, is_last)?,
                // The host's own hook ended the wait. The message goes on.
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => {
                    self.failed = Some(error.clone());
                    return Err(error);
                }
            }
        }
    }

    /// Takes a piece that the peer sent, if it can be the next one.
    pub(crate) fn accept(
        &mut self,
        source: &mut dyn PieceSource<P>,
        piece: P,
        is_last: bool,
    ) -> Result<()> {
        let piece_len = piece.len();
        self.received += piece_len;
        self.is_complete = is_last;
        let (received, most) = (self.received, source.longest());
        let len = self.len.unwrap_or(received);
        let is_wrong = received > len || len > most || (is_last && received < len);
        let why = if piece_len == 0 && !is_last {
            // No honest peer sends one. Without end, they would hold up the reader for ever.
            "a piece without bytes came".to_owned()
        } else if is_wrong {
            format!("{len} bytes were announced, {received} came")
        } else {
            self.piece = Some(piece);
            return Ok(());
        };
        let error = source.end_with(broken_off(&why));
        Err(self.failed.insert(error).clone())
    }

    /// Copies what there is of the piece and fits into `out`.
    fn copy_some(&mut self, out: &mut [u8]) -> Result<usize> {
        let Some(piece) = &self.piece else { return Ok(0) };
        let len = out.len().min(piece.len() - self.used);
        piece.payload().read_at(self.used, out.get_mut(..len).unwrap_or_default())?;
        self.used += len;
        Ok(len)
    }
}

/// The error of a message that is not whole.
#[cold]
pub(crate) fn broken_off(why: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("a message broke off: {why}"))
}
