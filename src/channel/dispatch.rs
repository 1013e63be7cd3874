//! What a frame from the worker means, and whom it belongs to.

use crate::channel::engine::{Body, Engine, Item};
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::buffer_pool::PooledBuffer;
use crate::protocol::failure;
use crate::protocol::kind::{EXPIRED, Kind, flags};
use crate::protocol::table::{Owner, Table};
use crate::ring::position::span;
use crate::ring::{Frame, Header};
use crate::shm::layout::as_usize;
use crate::sync::mutant::{Mutant, chosen};
use crate::sync::{MutexGuard, Ordering};

impl Engine {
    /// Hands a frame to the owner of its request; returns it if that is `own`.
    #[inline]
    pub(super) fn dispatch(&self, frame: Frame<'_>, own: u64) -> Result<Option<Item>> {
        let header = frame.header();
        let (request, kind) = (header.request, Kind::from_code(header.kind));
        check_reply(header, kind)?;
        if request == 0 {
            return Err(channel_failure(&frame, kind));
        }
        let is_plain = kind == Kind::RESULT && header.flags == 0;
        if is_plain && request == own && self.table.lock().complete(request) {
            return Ok(Some(Item::Result(self.keep(frame))));
        }
        let has_more = header.flags & flags::MORE != 0;
        let is_last = !has_more && kind != Kind::CHUNK;
        let mut table = self.table.lock();
        let is_stream = match table.owner(request) {
            Owner::Open { is_stream } => is_stream,
            owner => {
                let counters = &self.counters;
                let dropped = match owner {
                    Owner::Retired => &counters.late_frames,
                    _ => &counters.unknown_frames,
                };
                dropped.fetch_add(1, Ordering::Relaxed);
                if is_last {
                    table.finish(request);
                }
                return Ok(None);
            }
        };
        if is_last {
            table.finish(request);
        }
        let cost = as_usize(span(frame.payload().len()));
        if kind == Kind::CHUNK && !table.spend_credit(request, cost) {
            return Err(ran_ahead(request));
        }
        // Its owner is told, and has nothing left to let go of. That of a stream may have yet
        // to read what was taken ahead: a close that drains waits for it.
        let ends_call = request == own && is_last && !is_stream;
        let is_continued = header.flags & flags::CONTINUED != 0;
        if !is_continued {
            // An error can cut a message off: what came of it is of no use.
            drop(table.take_pieces(request));
        }
        if has_more || is_continued {
            let max_message = self.config.max_message;
            let payload = frame.payload();
            let coming = table.pieces_len(request).saturating_add(payload.len());
            if coming > max_message {
                return Err(Error::corrupt(format!(
                    "a message of over {max_message} bytes for request {request}"
                )));
            }
            let mut message = table.take_pieces(request);
            // Not under the lock: a long piece would keep others from sending.
            drop(table);
            if !is_continued {
                message = self.spare_buffer.buffer(as_usize(header.aux).min(max_message));
            }
            payload.append_to(&mut message);
            table = self.table.lock();
            if !table.put_pieces(request, message) {
                // Its owner has let go meanwhile.
                self.counters.late_frames.fetch_add(1, Ordering::Relaxed);
                return Ok(None);
            }
            if has_more {
                // Only chunks take credit, so that nothing else gives any.
                let is_credited = kind == Kind::CHUNK && !table.withhold(request, cost);
                drop(table);
                if is_credited {
                    // It has left the ring, and the cap on messages bounds what it adds to:
                    // the worker may send the next piece.
                    self.consumed(request, cost, true);
                }
                return Ok(None);
            }
            let withheld = if kind == Kind::CHUNK { table.take_withheld(request) } else { 0 };
            let cost = cost + withheld;
            let body =
                Body::Whole(PooledBuffer::new(table.take_pieces(request), &self.spare_buffer));
            if ends_call {
                table.let_go(request);
            }
            let item = item_of(header, body, cost, is_stream);
            return Ok(self.give(table, request, item, own));
        }
        if request == own {
            if ends_call {
                table.let_go(request);
            }
            drop(table);
            return Ok(Some(self.own_item(frame, is_stream)));
        }
        // It stays in memory of this process, so that who reads late holds up nobody.
        self.counters.copied_frames.fetch_add(1, Ordering::Relaxed);
        let item = item_of(header, Body::Owned(frame.payload().to_vec()), cost, is_stream);
        Ok(self.give(table, request, item, own))
    }

    #[inline]
    fn own_item(&self, frame: Frame<'_>, is_stream: bool) -> Item {
        let header = frame.header();
        let cost = as_usize(span(frame.payload().len()));
        match Kind::from_code(header.kind) {
            Kind::RESULT if !is_stream => Item::Result(self.keep(frame)),
            Kind::CHUNK if is_stream => Item::Chunk(self.keep(frame), cost),
            _ => item_of(header, Body::Owned(frame.payload().to_vec()), cost, is_stream),
        }
    }

    fn give(
        &self,
        mut table: MutexGuard<'_, Table<Item>>,
        request: u64,
        item: Item,
        own: u64,
    ) -> Option<Item> {
        if request == own {
            return Some(item);
        }
        let waiter = table.push(request, item);
        self.pushes.fetch_add(1, Ordering::Relaxed);
        drop(table);
        match waiter {
            _ if chosen(Mutant::GivenWithoutWake) => {}
            Some(waiter) => self.wake_list.add(waiter),
            None => self.note_untold(),
        }
        None
    }
}

/// What a stream may have sent is all that can pile up here while nobody reads it.
#[cold]
pub(super) fn ran_ahead(request: u64) -> Error {
    Error::corrupt(format!("the stream of request {request} ran ahead of its credit"))
}

fn check_reply(header: Header, kind: Kind) -> Result<()> {
    let allowed = match kind {
        Kind::RESULT | Kind::CHUNK => flags::REPLY,
        Kind::ERROR | Kind::END | Kind::CANCEL => 0,
        _ => return Err(Error::corrupt(format!("a reply that is a {kind} frame"))),
    };
    if header.flags & !allowed != 0 {
        let flags = header.flags;
        return Err(Error::corrupt(format!("a {kind} frame with flags {flags:#x}")));
    }
    Ok(())
}

/// An error frame for request 0 speaks of the whole channel.
#[cold]
fn channel_failure(frame: &Frame<'_>, kind: Kind) -> Error {
    if kind != Kind::ERROR {
        return Error::corrupt(format!("a {kind} frame for request 0"));
    }
    match failure::decode(&frame.payload().to_vec()) {
        Ok(failure) => Error::session_failure(failure),
        Err(error) => Error::corrupt(format!("{error:#}")),
    }
}

fn item_of(header: Header, body: Body, cost: usize, is_stream: bool) -> Item {
    let request = header.request;
    match Kind::from_code(header.kind) {
        Kind::RESULT if !is_stream => Item::Result(body),
        Kind::CHUNK if is_stream => Item::Chunk(body, cost),
        Kind::END if is_stream => Item::End,
        Kind::CANCEL if header.aux == EXPIRED => Item::Expired,
        Kind::CANCEL => Item::Cancelled,
        Kind::ERROR => match failure::decode(&body.bytes().to_vec()) {
            Ok(failure) => Item::Failed(Error::worker_failure(failure)),
            Err(error) => Item::Failed(error),
        },
        other => {
            let wanted = if is_stream { "a stream" } else { "one result" };
            let message = format!("request {request} wants {wanted}, the worker sent a {other}");
            Item::Failed(Error::new(ErrorKind::Protocol, message))
        }
    }
}
