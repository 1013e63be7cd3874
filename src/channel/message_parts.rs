//! A message of a request that is taken part by part.
//!
//! The reader of a thread and that of a task wait for its parts, each in its own way. What they do with
//! these is the same.

use std::fmt;

use crate::channel::core::Core;
use crate::channel::item::{Body, Place};
use crate::channel::reply::Reply;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::partly_read::{MessagePiece, PartlyRead, broken_off};
use crate::shm::bytes::PeerBytes;
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

/// A message that is read part by part.
#[derive(Debug)]
pub(crate) struct MessageParts {
    request: u64,
    /// The longest message that an honest worker announces.
    longest: usize,
    has_begun: bool,
    pub(crate) message: PartlyRead<Reply>,
}

impl MessagePiece for Reply {
    fn payload(&self) -> PeerBytes<'_> {
        Self::payload(self)
    }
}

impl MessageParts {
    pub(crate) fn new(source: &dyn PartSource) -> Self {
        let config = &source.core().config;
        Self {
            request: source.request(),
            longest: config.max_message.max(config.up.max_frame),
            has_begun: false,
            message: PartlyRead::new(None),
        }
    }

    pub(crate) fn request(&self) -> u64 {
        self.request
    }

    /// Whether there is nothing to skip if its reader leaves: no part of it was taken, or all.
    pub(crate) fn is_untouched_or_complete(&self) -> bool {
        !self.has_begun || self.message.is_complete()
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
            Err(error) => return Err(self.message.fail(error)),
        };
        accepted.map_err(|error| self.message.fail(source.end_with(error)))
    }

    /// Takes a piece that the worker sent, if it can be the next one.
    fn accept(&mut self, piece: Reply, place: Place) -> Result<()> {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if place.is_first != is_first {
            return Err(broken_off("the worker began another one"));
        }
        if is_first {
            let announced = (place.announced != 0).then(|| as_usize(place.announced));
            self.message.announce(if place.is_last { Some(piece.len()) } else { announced });
        }
        self.message.accept(piece, place.is_last, self.longest)
    }

    /// Returns the piece; what is left of it, as a copy, if a part of it was read.
    pub(crate) fn take_piece(&mut self) -> Result<Option<Reply>> {
        self.message.take_piece(|rest| Reply::new(self.request, Body::Owned(rest)))
    }

    /// As [`PartlyRead::take_back`].
    #[cold]
    pub(crate) fn take_back(&mut self, bytes: Vec<u8>) {
        self.message.take_back(bytes, |bytes| Reply::new(self.request, Body::Owned(bytes)));
    }
}
