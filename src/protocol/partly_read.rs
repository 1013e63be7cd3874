//! A message that is read piece by piece: which of its bytes are in hand, and whether the pieces make one
//! whole message. Nothing here waits for a piece.

use crate::error::{Error, ErrorKind, Result};
use crate::shm::bytes::PeerBytes;

/// A piece of a message. Its bytes may lie in the ring until it is dropped.
pub(crate) trait MessagePiece {
    fn payload(&self) -> PeerBytes<'_>;

    fn len(&self) -> usize {
        self.payload().len()
    }
}

/// What has come of a message, and how much of that was read.
#[derive(Debug)]
pub(crate) struct PartlyRead<P> {
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

impl<P: MessagePiece> PartlyRead<P> {
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

    /// Sets the length that the first piece has announced.
    pub(crate) fn announce(&mut self, len: Option<usize>) {
        self.len = len;
    }

    /// Whether the last piece has come.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Returns the error that ended the message, if one did.
    pub(crate) fn check(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Ends the message with this error, which is returned.
    pub(crate) fn fail(&mut self, error: Error) -> Error {
        self.failed.insert(error).clone()
    }

    /// Returns whether there are bytes to read in the piece, and false at the end of the message;
    /// `None` if the next piece must be waited for. Then no piece is held: the peer may need the room.
    pub(crate) fn look(&mut self) -> Result<Option<bool>> {
        self.check()?;
        if self.piece.as_ref().is_some_and(|piece| piece.len() > self.used) {
            return Ok(Some(true));
        }
        self.piece = None;
        self.used = 0;
        Ok(self.is_complete.then_some(false))
    }

    /// Takes a piece that the peer sent, if it can be the next one of a message of at most `longest`
    /// bytes.
    pub(crate) fn accept(&mut self, piece: P, is_last: bool, longest: usize) -> Result<()> {
        let piece_len = piece.len();
        self.received += piece_len;
        self.is_complete = is_last;
        let received = self.received;
        let len = self.len.unwrap_or(received);
        if piece_len == 0 && !is_last {
            // No honest peer sends one. Without end, they would hold up the reader for ever.
            return Err(broken_off("a piece without bytes came"));
        }
        if received > len || len > longest || (is_last && received < len) {
            return Err(broken_off(&format!("{len} bytes were announced, {received} came")));
        }
        self.piece = Some(piece);
        Ok(())
    }

    /// Returns the piece. If a part of it was read, `copied` makes one of what is left.
    pub(crate) fn take_piece(&mut self, copied: impl FnOnce(Vec<u8>) -> P) -> Result<Option<P>> {
        if self.used == 0 {
            return Ok(self.piece.take());
        }
        let mut rest = Vec::new();
        self.append_piece(&mut rest)?;
        Ok(Some(copied(rest)))
    }

    /// Appends what there is of the piece, and gives its place in the ring back.
    pub(crate) fn append_piece(&mut self, out: &mut Vec<u8>) -> Result<()> {
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

    /// Copies what there is of the piece and fits into `out`.
    pub(crate) fn copy_some(&mut self, out: &mut [u8]) -> Result<usize> {
        let Some(piece) = &self.piece else { return Ok(0) };
        let len = out.len().min(piece.len() - self.used);
        piece.payload().read_at(self.used, out.get_mut(..len).unwrap_or_default())?;
        self.used += len;
        Ok(len)
    }

    /// Makes bytes that were read before an error, or before a wait that was given up, the piece to
    /// be read next: if the message goes on, a reader that tries again must get them.
    #[cold]
    pub(crate) fn take_back(&mut self, mut bytes: Vec<u8>, copied: impl FnOnce(Vec<u8>) -> P) {
        if self.failed.is_some() || bytes.is_empty() {
            return;
        }
        // Nothing of the piece is left if the next one was waited for.
        match self.append_piece(&mut bytes) {
            Ok(()) => self.piece = Some(copied(bytes)),
            Err(error) => self.failed = Some(error),
        }
    }

    /// The bytes that are not read yet, if the length of the message is known.
    pub(crate) fn known_rest(&self) -> Option<usize> {
        let in_hand = self.piece.as_ref().map_or(0, |piece| piece.len() - self.used);
        Some(self.len?.saturating_sub(self.received - in_hand))
    }
}

/// The error of a slice that has another length than the rest of the message, if that is known.
#[cold]
pub(crate) fn wrong_length(known: Option<usize>, wanted: usize) -> Error {
    let what = match known {
        Some(len) => format!("{len} bytes are left of a message, not {wanted}"),
        None => format!("a message does not have {wanted} bytes left"),
    };
    Error::new(ErrorKind::InvalidPayload, what)
}

/// The error of a message that is not whole.
#[cold]
pub(crate) fn broken_off(why: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("a message broke off: {why}"))
}
