//! Of requests whose messages come in pieces: what has come of a message, and how its owner takes it.

use super::{Reading, Requests};
use crate::protocol::assembler::{Assembler, Message};
use crate::shm::layout::{as_u64, as_usize};

impl<T> Requests<T> {
    /// Returns how the owner takes long messages; `None` if there is no such request.
    pub(crate) fn reading(&mut self, request: u64) -> Option<&mut Reading> {
        let entry = self.entry(request)?;
        if entry.reading.request != request {
            // That of an earlier request of the entry.
            entry.reading = Reading { request, ..Reading::default() };
        }
        Some(&mut entry.reading)
    }

    /// Takes the part that was collected of a message which is not whole, for an owner that takes
    /// the pieces one by one; with whether the part begins the message, and the bytes of slots
    /// that were withheld.
    pub(crate) fn take_part(&mut self, request: u64) -> Option<(Message, bool, usize)> {
        self.reading(request).filter(|reading| reading.is_in_pieces && !reading.skips_rest)?;
        let entry = self.entry(request).filter(|entry| entry.queue.is_empty())?;
        let (part, is_first) = entry.assembler.take_bytes()?;
        Some((part, is_first, as_usize(entry.credit.take_withheld())))
    }

    /// Drops the rest of a message when it comes. Returns what has come of it.
    pub(crate) fn skip_rest(&mut self, request: u64) -> Option<Message> {
        self.reading(request)?.skips_rest = true;
        let (part, _) = self.entry(request)?.assembler.take_bytes()?;
        Some(part)
    }

    /// Whether the owner has dropped the rest of this message while the pieces of it were copied. A
    /// message that is whole is another one, of which it has got nothing.
    pub(crate) fn is_skipped(&mut self, request: u64, is_whole: bool) -> bool {
        let Some(reading) = self.reading(request) else { return false };
        reading.skips_rest &= !is_whole;
        reading.skips_rest
    }

    /// Takes what has come of a message that will not become whole.
    pub(crate) fn take_cut_off(&mut self, request: u64) -> Assembler {
        let entry = self.entry(request).filter(|entry| !entry.assembler.is_empty());
        let Some(entry) = entry else { return Assembler::default() };
        entry.reading.skips_rest = false;
        std::mem::take(&mut entry.assembler)
    }

    /// Takes what has come of a message in pieces.
    pub(crate) fn take_assembler(&mut self, request: u64) -> Assembler {
        self.entry(request).map(|entry| std::mem::take(&mut entry.assembler)).unwrap_or_default()
    }

    /// Keeps what has come of a message until there is more. Returns false if its owner has
    /// dropped the request.
    pub(crate) fn put_assembler(&mut self, request: u64, assembler: Assembler) -> bool {
        let entry = self.entry(request).filter(|entry| entry.is_owned);
        entry.map(|entry| entry.assembler = assembler).is_some()
    }

    /// Whether a piece of a chunk must not be credited yet. It has left the ring, but while
    /// its stream has something unread, whole messages would pile up behind that. It is
    /// credited with its message, or when the reader waits for more.
    pub(crate) fn withhold(&mut self, request: u64, bytes: usize) -> bool {
        let Some(entry) = self.entry(request).filter(|entry| !entry.queue.is_empty()) else {
            return false;
        };
        entry.credit.withhold(as_u64(bytes));
        true
    }

    /// What the pieces of a message that is whole add to its cost.
    pub(crate) fn take_withheld(&mut self, request: u64) -> usize {
        self.entry(request).map_or(0, |entry| as_usize(entry.credit.take_withheld()))
    }
}
