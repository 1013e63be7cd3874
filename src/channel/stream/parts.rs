//! A chunk of a stream that its reader takes piece by piece, where the pieces lie.

use super::Stream;
use crate::channel::core::Core;
use crate::channel::item::{Part, Place};
use crate::channel::message_parts::PartSource;
use crate::channel::reply::Reply;
use crate::error::{Error, ErrorKind, Result};

impl Stream {
    /// What a part of a chunk means, for which a message reader waits.
    #[cold]
    pub(super) fn part_of(&mut self, part: Part) -> Result<Option<Reply>> {
        let Some(place) = &mut self.place else {
            let message = "a part of a chunk that no reader waits for";
            return self.end_with(Err(Error::new(ErrorKind::Protocol, message)));
        };
        *place = part.place;
        self.waits.note_chunk(&self.core);
        self.add_consumed(part.cost);
        Ok(Some(Reply::new(self.request, part.body)))
    }

    /// Prepares for a part of a chunk, which is looked for as a chunk is.
    pub(crate) fn begin_part(&mut self) {
        if !self.is_over && !std::mem::replace(&mut self.is_in_pieces, true) {
            self.core.pending.set_in_pieces(self.request, true);
        }
        self.place = Some(Place::WHOLE);
    }

    /// Returns where the part stands that has come, if one has: no other is waited for.
    pub(crate) fn end_part(&mut self) -> Option<Place> {
        self.place.take()
    }
}

impl PartSource for Stream {
    fn request(&self) -> u64 {
        self.request
    }

    fn core(&self) -> &Core {
        &self.core
    }

    fn next_part(&mut self) -> Result<Option<(Reply, Place)>> {
        if let Some(chunk) = self.next_buffered() {
            return Ok(Some((chunk, Place::WHOLE)));
        }
        self.begin_part();
        let part = self.next_chunk_slow();
        let place = self.end_part();
        Ok(part.transpose()?.zip(place))
    }

    fn end_with(&mut self, error: Error) -> Error {
        match Self::end_with::<()>(self, Err(error)) {
            Err(error) => error,
            Ok(_) => Error::new(ErrorKind::Protocol, "the stream has ended"),
        }
    }

    fn end_reader(&mut self, is_complete: bool) {
        if self.is_over {
            return;
        }
        if std::mem::take(&mut self.is_in_pieces) {
            self.core.pending.set_in_pieces(self.request, false);
        }
        if !is_complete {
            self.core.pending.skip_rest(self.request, &mut self.buffer);
        }
    }
}
