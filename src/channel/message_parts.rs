//! A message that is taken part by part: what has come of it, and how much of that was read.
//!
//! The reader of a thread and that of a task wait for its parts, each in its own way. Whether these
//! make one whole message is decided here.

use std::fmt;

use crate::channel::core::Core;
use crate::channel::item::{Body, Place};
use crate::channel::reply::Reply;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::piece_reader::broken_off;
use crate::shm::layout::as_usize;

/// The owner of a request, which gets the parts of its messages.
pub(crate) trait PartSource: fmt::Debug + Send + Sync {
    fn request(&self) -> u64;

    fn core(&self) -> &Core;

    /// Waits for the next part, which may be a whole message; `None` if the stream has ended.
    fn next_part(&mut self) -> Result<Option<(Reply, Place)>>;

    /// Ends the request because of an error of its message. Returns that error.
    fn end_with(&mut self, error: Error) -> Error;

    /// Notes that no reader takes parts any more; the whole message has come to it, or none of it, or
    /// a part.
    fn end_reader(&mut self, is_complete: bool);
}

/// What a reader gets the parts from: its own request, or a stream that outlives it.
#[derive(Debug)]
pub(crate) enum OwnOrLent<'a, S: ?Sized> {
    Own(Box<S>),
    Lent(&'a mut S),
}

impl<S: ?Sized> OwnOrLent<'_, S> {
    pub(crate) fn get_mut(&mut self) -> &mut S {
        match self {
            Self::Own(source) => source,
            Self::Lent(source) => source,
        }
    }
}

/// What has come of a message that is read part by part.
#[derive(Debug)]
pub(crate) struct MessageParts {
    request: u64,
    /// The longest message that an honest worker announces.
    longest: usize,
    /// The piece that came last.
    piece: Option<Reply>,
    /// How many of its bytes were read.
    used: usize,
    /// Bytes of all pieces that came.
    received: usize,
    /// The length of the whole message, if it is known.
    len: Option<usize>,
    has_begun: bool,
    /// The last piece has come.
    is_complete: bool,
    /// Why no more comes.
    failed: Option<Error>,
}

impl MessageParts {
    pub(crate) fn new(source: &dyn PartSource) -> Self {
        let config = &source.core().config;
        Self {
            request: source.request(),
            longest: config.max_message.max(config.up.max_frame),
            piece: None,
            used: 0,
            received: 0,
            len: None,
            has_begun: false,
            is_complete: false,
            failed: None,
        }
    }

    pub(crate) fn request(&self) -> u64 {
        self.request
    }

    /// The length of the whole message, if it is known.
    pub(crate) fn len(&self) -> Option<usize> {
        self.len
    }

    /// Whether there is nothing to skip if its reader leaves: no part of it was taken, or all.
    pub(crate) fn is_untouched_or_complete(&self) -> bool {
        !self.has_begun || self.is_complete
    }

    /// Returns whether there are bytes to read in the piece, and false at the end of the message;
    /// `None` if the next part must be waited for. Then no piece is held: the worker may need the
    /// room.
    pub(crate) fn look(&mut self) -> Result<Option<bool>> {
        self.check()?;
        if self.piece.as_ref().is_some_and(|piece| piece.len() > self.used) {
            return Ok(Some(true));
        }
        self.piece = None;
        self.used = 0;
        Ok(self.is_complete.then_some(false))
    }

    /// Returns the error that ended the message, if one did.
    pub(crate) fn check(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Takes the first part that came, or what ended the wait for it. Returns false if there is no
    /// message.
    pub(crate) fn begin(
        &mut self,
        part: Result<Option<(Reply, Place)>>,
        source: &mut dyn PartSource,
    ) -> Result<bool> {
        match part? {
            Some(first) => self.take(Ok(Some(first)), source).map(|()| true),
            None => Ok(false),
        }
    }

    /// Takes what came when the next part was waited for. Ends the request if that cannot be.
    pub(crate) fn take(
        &mut self,
        part: Result<Option<(Reply, Place)>>,
        source: &mut dyn PartSource,
    ) -> Result<()> {
        let accepted = match part {
            Ok(Some((piece, place))) => self.accept(piece, place),
            Ok(None) => Err(broken_off("the stream ended within it")),
            // The host's own hook ended the wait. The message goes on.
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(self.failed.insert(error).clone()),
        };
        accepted.map_err(|error| self.failed.insert(source.end_with(error)).clone())
    }

    /// Takes a piece that the worker sent, if it can be the next one.
    fn accept(&mut self, piece: Reply, place: Place) -> Result<()> {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if place.is_first != is_first {
            return Err(broken_off("the worker began another one"));
        }
        if is_first {
            let announced = (place.announced != 0).then(|| as_usize(place.announced));
            self.len = if place.is_last { Some(piece.len()) } else { announced };
        }
        self.received += piece.len();
        self.is_complete = place.is_last;
        let len = self.len.unwrap_or(self.received);
        if piece.is_empty() && !place.is_last {
            // No honest worker sends one. Without end, they would hold up the reader for ever.
            return Err(broken_off("a piece without bytes came"));
        }
        let is_wrong =
            self.received > len || len > self.longest || (place.is_last && self.received < len);
        if is_wrong {
            let what = format!("{len} bytes were announced, {} came", self.received);
            return Err(broken_off(&what));
        }
        self.piece = Some(piece);
        Ok(())
    }

    /// Returns the piece; what is left of it, as a copy, if a part of it was read.
    pub(crate) fn take_piece(&mut self) -> Result<Option<Reply>> {
        if self.used == 0 {
            return Ok(self.piece.take());
        }
        let mut rest = Vec::new();
        self.append_piece(&mut rest)?;
        Ok(Some(Reply::new(self.request, Body::Owned(rest))))
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
    pub(crate) fn take_back(&mut self, mut bytes: Vec<u8>) {
        if self.failed.is_some() || bytes.is_empty() {
            return;
        }
        // Nothing of the piece is left if the next one was waited for.
        match self.append_piece(&mut bytes) {
            Ok(()) => self.piece = Some(Reply::new(self.request, Body::Owned(bytes))),
            Err(error) => self.failed = Some(error),
        }
    }

    /// The bytes that are not read yet, if the length of the message is known.
    pub(crate) fn known_rest(&self) -> Option<usize> {
        let in_hand = self.piece.as_ref().map_or(0, |piece| piece.len() - self.used);
        Some(self.len?.saturating_sub(self.received - in_hand))
    }

    /// The error of a slice that has another length than the rest of the message.
    #[cold]
    pub(crate) fn wrong_length(known: Option<usize>, wanted: usize) -> Error {
        let what = match known {
            Some(len) => format!("{len} bytes are left of a message, not {wanted}"),
            None => format!("a message does not have {wanted} bytes left"),
        };
        Error::new(ErrorKind::InvalidPayload, what)
    }
}
