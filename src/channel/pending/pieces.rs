//! Messages that are longer than a frame: they are collected piece by piece, handed out so, or skipped.

use std::sync::Arc;

use super::{PendingTable, ends_call};
use crate::channel::item::{Body, Item, ReplyHeader};
use crate::channel::requests::Requests;
use crate::channel::stream_buffer::StreamBuffer;
use crate::channel::waiter::Waiter;
use crate::error::Result;
use crate::protocol::Kind;
use crate::protocol::assembler::{Assembler, Message};
use crate::protocol::buffer_pool::{BufferPool, PooledBuffer};
use crate::protocol::kind::flags;
use crate::ring::Frame;
use crate::shm::layout::as_usize;
use crate::sync::{MutexGuard, Ordering};
use crate::sys::fork;

impl PendingTable {
    /// Sets whether the owner of a request takes long messages piece by piece.
    pub(in crate::channel) fn set_in_pieces(&self, request: u64, is_in_pieces: bool) {
        if !fork::is_forked_child()
            && let Some(reading) = self.requests.lock().reading(request)
        {
            reading.is_in_pieces = is_in_pieces;
        }
    }

    /// Drops the rest of the message whose first parts the owner of a stream has taken: what has
    /// come of it, and later what comes.
    pub(in crate::channel) fn skip_rest(&self, request: u64, buffer: &mut StreamBuffer) {
        if fork::is_forked_child() {
            return;
        }
        let buffered = buffer.items.pop_front_if(|item| item.is_continued());
        let mut requests = self.requests.lock();
        let queued = requests.take_if(request, Item::is_continued);
        let taken = [&buffered, &queued].map(|item| match item {
            Some(Item::Part(part)) => (part.place.is_last, part.cost),
            _ => (false, 0),
        });
        let has_ended = taken.iter().any(|(is_last, _)| *is_last);
        let skipped = if has_ended { None } else { requests.skip_rest(request) };
        let withheld = if has_ended { 0 } else { requests.take_withheld(request) };
        drop(requests);
        drop(skipped);
        buffer.unflushed += withheld + taken.iter().map(|(_, cost)| cost).sum::<usize>();
    }

    /// Adds a piece to its message. Returns the message, or what is left of it, if that was its
    /// last piece; a part of the message if the reader is its owner and takes the parts one by one.
    pub(super) fn add_piece(
        &self,
        mut requests: MutexGuard<'_, Requests<Item>>,
        frame: Frame<'_>,
        (reply, is_stream): (ReplyHeader, bool),
        own: u64,
        buffers: &Arc<BufferPool>,
    ) -> Result<Option<Item>> {
        let (header, request) = (reply.header, reply.header.request);
        let (len, is_last) = (frame.payload().len(), header.flags & flags::MORE == 0);
        let mut assembler = requests.take_assembler(request);
        let reading = requests.reading(request).map(|reading| {
            reading.skips_rest &= Assembler::is_continued(header);
            *reading
        });
        let reading = reading.unwrap_or_default();
        let is_passed = request == own && reading.is_in_pieces && assembler.has_no_bytes();
        if is_passed || reading.skips_rest {
            let is_first = assembler.pass(header, len, self.max_message)?;
            requests.put_assembler(request, assembler);
            if reading.skips_rest {
                drop(frame);
                return Ok(self.skipped(requests, reply, is_last));
            }
            if ends_call(reply, is_stream) {
                requests.drop_request(request);
            }
            drop(requests);
            let body = Body::keep(frame);
            return Ok(Some(reply.part(body, reply.cost(), is_stream, is_first)));
        }
        // Copied without the lock: a long piece would keep others from sending.
        drop(requests);
        let expected = as_usize(header.aux).min(self.max_message);
        let buffer = || buffers.buffer(expected);
        let message = assembler.add(header, frame.payload(), self.max_message, buffer)?;
        let mut requests = self.requests.lock();
        let Some(message) = message else {
            if requests.is_skipped(request, assembler.is_whole_so_far()) {
                requests.put_assembler(request, assembler);
                let skipped = requests.skip_rest(request);
                let none = self.skipped(requests, reply, false);
                drop(skipped);
                return Ok(none);
            }
            let is_owned = requests.put_assembler(request, assembler);
            // Only chunks take credit, so that nothing else gives any.
            let is_credited = reply.is_chunk() && !requests.withhold(request, reply.cost());
            let part = if request == own { requests.take_part(request) } else { None };
            drop(requests);
            if !is_owned {
                self.counters.late_frames.fetch_add(1, Ordering::Relaxed);
            } else if is_credited {
                // It has left the ring, and the cap on messages bounds what it adds to: the
                // worker may send the next piece.
                self.update_credit(request, reply.cost(), true);
            }
            if request != own {
                // From now on its owner looks here first.
                self.has_ever_pushed.store(1, Ordering::Relaxed);
            }
            return Ok(part.map(|part| part_of(part, is_stream, buffers)));
        };
        let withheld = if reply.is_chunk() { requests.take_withheld(request) } else { 0 };
        if request == own && ends_call(reply, is_stream) {
            requests.drop_request(request);
        }
        drop(requests);
        let (is_whole, cost) = (message.is_whole(), reply.cost() + withheld);
        let body = Body::Message(PooledBuffer::new(message.bytes, buffers));
        Ok(Some(match is_whole {
            true => reply.item(body, cost, is_stream),
            false => reply.part(body, cost, is_stream, false),
        }))
    }

    /// Counts a piece that no reader wants: the worker may send the next one.
    fn skipped(
        &self,
        mut requests: MutexGuard<'_, Requests<Item>>,
        reply: ReplyHeader,
        is_last: bool,
    ) -> Option<Item> {
        let request = reply.header.request;
        let cost = reply.is_chunk().then(|| reply.cost() + requests.take_withheld(request));
        if is_last && let Some(reading) = requests.reading(request) {
            reading.skips_rest = false;
        }
        drop(requests);
        if let Some(cost) = cost {
            self.update_credit(request, cost, true);
        }
        None
    }

    /// Takes the waiter of a request, if that takes messages piece by piece and one has come.
    #[cold]
    pub(super) fn take_waiter_for_part(&self, request: u64) -> Option<Waiter> {
        let mut requests = self.requests.lock();
        requests.reading(request).filter(|reading| reading.is_in_pieces)?;
        requests.take_waiter(request)
    }

    /// Takes the part that was collected of a message, if its owner takes the parts one by one.
    #[inline(never)]
    pub(super) fn part_in_table(
        mut requests: MutexGuard<'_, Requests<Item>>,
        request: u64,
        is_stream: bool,
        buffers: &Arc<BufferPool>,
    ) -> Option<Item> {
        let part = requests.take_part(request);
        drop(requests);
        part.map(|part| part_of(part, is_stream, buffers))
    }
}

/// The item for a part that was collected, with whether it begins its message and its cost.
fn part_of(
    (part, is_first, cost): (Message, bool, usize),
    is_stream: bool,
    buffers: &Arc<BufferPool>,
) -> Item {
    let reply = ReplyHeader { header: part.header, kind: Kind::from_code(part.header.kind) };
    reply.part(Body::Message(PooledBuffer::new(part.bytes, buffers)), cost, is_stream, is_first)
}
