//! A request on its way into the ring: in one frame, or in pieces.
//!
//! [`Outgoing`] never waits: a request that cannot go on says how much room it needs. A thread
//! waits for that in [`send`], and a task in `tasks/send.rs`.

use std::time::Duration;

use crate::channel::core::Core;
use crate::channel::explain::{no_turn, with_stage};
use crate::channel::timed_mutex::TimedGuard;
use crate::channel::turn::{check_open, read_for_others};
use crate::channel::wait::wait_for_room;
use crate::error::{Error, ErrorKind, Result};
use crate::payload::{Encoded, Payload};
use crate::protocol::Kind;
use crate::protocol::kind::flags;
use crate::protocol::splitter::Splitter;
use crate::ring::Header;
use crate::sys::clock::{Deadline, TimeLimit};
use crate::sys::copy::copy_from_slice;
use crate::sys::fork;
use crate::trace_context::{CONTEXT_LEN, TraceContext};

/// The longest payload of a call that is copied in less time than it takes to read the clock.
const SHORT: usize = 4 << 10;

/// What a request asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestSpec {
    kind: Kind,
    flags: u16,
    /// Travels with the request: the worker does not begin it later.
    deadline: Deadline,
}

impl RequestSpec {
    /// One reply. The worker does not begin the request after the deadline.
    #[inline]
    pub(crate) fn call(kind: Kind, deadline: Deadline) -> Self {
        Self { kind, flags: 0, deadline }
    }

    /// A stream of chunks that is to be over at the deadline.
    pub(crate) fn stream(kind: Kind, deadline: Deadline) -> Self {
        Self { kind, flags: flags::STREAM, deadline }
    }
}

/// Sends a request. Blocks while the ring is full or another long message is on its way, until
/// the deadline.
#[inline]
pub(super) fn send<P: Payload + ?Sized>(
    core: &Core,
    spec: RequestSpec,
    payload: &P,
    deadline: Deadline,
) -> Result<u64> {
    send_until(core, spec, payload, payload.encoded_len(), (deadline, || deadline))
}

/// Sends the request of a call as [`send`] does; its timeout begins now. A short request goes out
/// with a deadline by the coarse clock, so that the exact one is read while the worker serves it.
#[inline]
pub(super) fn send_call<P: Payload + ?Sized>(
    core: &Core,
    kind: Kind,
    payload: &P,
    timeout: Duration,
) -> Result<(u64, TimeLimit)> {
    let rough = TimeLimit::begin_roughly(timeout);
    let len = payload.encoded_len();
    let is_short = len <= SHORT && core.is_plain(len);
    let mut limit = if is_short { rough } else { rough.exact(timeout) };
    let first = limit.deadline();
    let exact = || {
        if is_short {
            limit = rough.exact(timeout);
        }
        limit.deadline()
    };
    let spec = RequestSpec::call(kind, first);
    let request = send_until(core, spec, payload, len, (first, exact))?;
    Ok((request, limit))
}

/// Sends a request whose payload has announced `len` bytes. The exact deadline is asked for when as
/// much is sent as there is room for; until then the other one holds.
#[inline(always)]
fn send_until<P: Payload + ?Sized>(
    core: &Core,
    spec: RequestSpec,
    payload: &P,
    len: usize,
    (deadline, exact): (Deadline, impl FnOnce() -> Deadline),
) -> Result<u64> {
    let send = || {
        let encoded = encode_as(core, payload, len)?;
        let turn = match core.is_plain(len) {
            true => None,
            false => turn_if_long(core, len, deadline)?,
        };
        let mut outgoing = Outgoing::open(core, spec, turn)?;
        let mut needed = outgoing.advance(&encoded, len, false)?;
        let deadline = exact();
        while let Some(room) = needed {
            wait_for_room(core, room, deadline).map_err(|error| outgoing.ended_by(error))?;
            needed = outgoing.advance(&encoded, len, false)?;
        }
        Ok(outgoing.request())
    };
    send().map_err(|error| failed(core, error, deadline))
}

/// As [`send`], of a request that is part of a trace. A worker that does not take that gets the request
/// without it.
pub(super) fn send_traced<P: Payload + ?Sized>(
    core: &Core,
    spec: RequestSpec,
    trace: &TraceContext,
    payload: &P,
    deadline: Deadline,
) -> Result<u64> {
    if !core.takes_traces() {
        return send(core, spec, payload, deadline);
    }
    let send = || {
        let (encoded, len) = encode(core, payload)?;
        let is_long = core.is_long_traced(len);
        let turn = is_long.then(|| long_message_turn(core, deadline)).transpose()?;
        let mut outgoing = Outgoing::open(core, spec, turn)?;
        while let Some(room) = outgoing.advance_traced(trace, &encoded, len)? {
            wait_for_room(core, room, deadline).map_err(|error| outgoing.ended_by(error))?;
        }
        Ok(outgoing.request())
    };
    send().map_err(|error| failed(core, error, deadline))
}

/// Counts an error that the host gets. If it tells of the worker's death, waits until the exit
/// status is known, but not beyond the deadline.
#[cold]
pub(super) fn failed(core: &Core, error: Error, deadline: Deadline) -> Error {
    core.counted(core.state.with_exit_status(error, deadline))
}

/// Encodes a payload, unless it lies in memory already, and returns its length, too. Before any
/// lock is taken: a host's encoder may take long, or use this channel.
#[inline]
pub(crate) fn encode<'a, P>(core: &Core, payload: &'a P) -> Result<(Encoded<'a>, usize)>
where
    P: Payload + ?Sized,
{
    let len = payload.encoded_len();
    Ok((encode_as(core, payload, len)?, len))
}

#[inline]
fn encode_as<'a, P>(core: &Core, payload: &'a P, len: usize) -> Result<Encoded<'a>>
where
    P: Payload + ?Sized,
{
    core.check_len(len)?;
    Encoded::of(payload, len).map_err(|error| error.with_begun(false))
}

/// The turn of long messages, for a payload that is one.
#[cold]
fn turn_if_long(core: &Core, len: usize, deadline: Deadline) -> Result<Option<TimedGuard<'_, ()>>> {
    core.is_long(len).then(|| long_message_turn(core, deadline)).transpose()
}

/// Blocks until no other long message is on its way, or until the deadline.
#[cold]
pub(super) fn long_message_turn(core: &Core, deadline: Deadline) -> Result<TimedGuard<'_, ()>> {
    check_open(core)?;
    let turns = &core.sender.long_messages;
    if let Some(turn) = turns.lock_until(deadline, || !core.state.is_open()) {
        return Ok(turn);
    }
    check_open(core)?;
    Err(no_turn())
}

/// A request on its way into the ring. Dropped before its last piece was sent, also as a part of a
/// future, it is abandoned, or discarded if no piece was.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    core: &'a Core,
    splitter: Splitter,
    is_sent: bool,
    /// The turn of long messages. Given back when this is dropped.
    _turn: Option<TimedGuard<'a, ()>>,
}

impl<'a> Outgoing<'a> {
    /// Opens a request, of which nothing is sent yet. One that may be longer than a frame needs
    /// the turn to send a long message.
    #[inline(always)]
    pub(crate) fn open(
        core: &'a Core,
        spec: RequestSpec,
        turn: Option<TimedGuard<'a, ()>>,
    ) -> Result<Self> {
        check_open(core)?;
        let RequestSpec { kind, flags, deadline } = spec;
        if !kind.is_request() {
            let message = format!("{kind} is not a kind of request");
            return Err(Error::new(ErrorKind::InvalidInput, message).with_begun(false));
        }
        core.buffers.age();
        let is_stream = flags & flags::STREAM != 0;
        let request = match core.pending.open(is_stream) {
            Ok(request) => request,
            Err(_) => open_after_reading(core, is_stream)?,
        };
        let (kind, aux) = (kind.code(), deadline.to_word());
        let splitter = Splitter::new(Header { kind, flags, request, aux, ..Header::default() });
        Ok(Self { core, splitter, is_sent: false, _turn: turn })
    }

    /// Sends what there is room for: of a payload of `len` bytes, or of a piece of a message that
    /// has more. Returns for how many bytes there is no room, or `None` when all is in the ring.
    /// The caller has found the channel open, also after it waited: in a forked child the lock may
    /// be held for ever.
    #[inline(always)]
    pub(crate) fn advance(
        &mut self,
        payload: &Encoded<'_>,
        len: usize,
        has_more: bool,
    ) -> Result<Option<usize>> {
        if !self.core.is_plain(len) {
            return self.advance_specially(payload, len, has_more);
        }
        let header = self.splitter.header(!has_more);
        let is_sent = self.try_send(header, len, |slot| payload.write_to(slot))?;
        Ok((!is_sent).then_some(len))
    }

    /// Sends what is longer than a frame, or is seen by a tap.
    #[cold]
    fn advance_specially(
        &mut self,
        payload: &Encoded<'_>,
        len: usize,
        has_more: bool,
    ) -> Result<Option<usize>> {
        if self.core.is_long(len) {
            return self.advance_in_pieces(payload.parts());
        }
        let header = self.splitter.header(!has_more);
        let is_sent = self.try_send_seen(header, len, |slot| payload.write_to(slot))?;
        Ok((!is_sent).then_some(len))
    }

    fn advance_in_pieces(&mut self, parts: [&[u8]; 3]) -> Result<Option<usize>> {
        let longest = self.core.config.down.piece_len();
        while let Some(piece) = self.splitter.next_piece(parts, longest) {
            let (bytes, len) = (piece.bytes, piece.bytes.len());
            if !self.try_send_seen(piece.header, len, |slot| copy_from_slice(slot, bytes))? {
                return Ok(Some(len));
            }
        }
        Ok(None)
    }

    /// As [`Outgoing::try_send`]. The tap sees the frame before the worker does.
    fn try_send_seen(
        &mut self,
        header: Header,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<bool> {
        let core = self.core;
        self.try_send(header, len, |slot| {
            fill(slot);
            if let Some(tap) = &core.tap {
                tap.sent(header, slot);
            }
        })
    }

    /// Sends one frame. Returns false if there is no room for it. `fill` runs under the sender's
    /// lock.
    #[inline(always)]
    fn try_send(
        &mut self,
        header: Header,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<bool> {
        let sent = self.core.sender.try_send(header, len, fill);
        self.note_sent(header, len, sent)
    }

    #[inline(always)]
    fn note_sent(&mut self, header: Header, len: usize, sent: Result<bool>) -> Result<bool> {
        if !sent.map_err(|error| self.ended_by(not_sent(self.core, error)))? {
            return Ok(false);
        }
        self.splitter.piece_sent(len);
        self.is_sent = header.flags & flags::MORE == 0;
        Ok(true)
    }

    /// As [`Outgoing::advance`], of a whole payload that is part of a trace: of one frame with the
    /// context behind the payload, or of a piece that has the context alone, and others.
    #[cold]
    pub(crate) fn advance_traced(
        &mut self,
        trace: &TraceContext,
        payload: &Encoded<'_>,
        len: usize,
    ) -> Result<Option<usize>> {
        if self.core.is_long_traced(len) {
            if !self.is_sent_in_part()
                && let Some(room) = self.advance_context(trace)?
            {
                return Ok(Some(room));
            }
            return self.advance_in_pieces(payload.parts());
        }
        let header = self.splitter.header(true);
        let is_sent = self.try_send_context(header, trace, len, |slot| payload.write_to(slot))?;
        Ok((!is_sent).then_some(len + CONTEXT_LEN))
    }

    /// Sends the context of a message in pieces, as its first piece. Returns for how many bytes there
    /// is no room.
    #[cold]
    pub(crate) fn advance_context(&mut self, trace: &TraceContext) -> Result<Option<usize>> {
        let header = self.splitter.header(false);
        let is_sent = self.try_send_context(header, trace, 0, |_| {})?;
        Ok((!is_sent).then_some(CONTEXT_LEN))
    }

    /// Sends one frame with a context behind its payload, which no tap sees.
    fn try_send_context(
        &mut self,
        header: Header,
        trace: &TraceContext,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<bool> {
        let (core, context) = (self.core, trace.to_bytes());
        let traced = Header { flags: header.flags | flags::TRACED, ..header };
        let sent = core.sender.try_send_with(traced, (len, CONTEXT_LEN), |slot| {
            // A slot is as long as it was claimed.
            let Some((slot, tail)) = slot.split_last_chunk_mut::<CONTEXT_LEN>() else { return };
            fill(slot);
            *tail = context;
            if let Some(tap) = &core.tap {
                tap.sent(header, slot);
            }
        });
        self.note_sent(header, len, sent)
    }

    /// Adds to the error that ends the request whether the worker has begun it. A worker may begin
    /// a request whose first piece is in the ring, long before the last piece is.
    #[cold]
    pub(crate) fn ended_by(&self, error: Error) -> Error {
        let (has_pieces, request) = (self.is_sent_in_part(), self.request());
        let error = match error.kind() {
            ErrorKind::PeerDied if has_pieces => error.with_request(request),
            ErrorKind::Timeout | ErrorKind::Os if has_pieces => {
                with_stage(self.core, request, error)
            }
            ErrorKind::Timeout | ErrorKind::Os => error.with_begun(false),
            _ => error,
        };
        if has_pieces { error.with_part_sent(request) } else { error }
    }

    /// Returns whether pieces of the message are in the ring, and not the last one.
    pub(crate) fn is_sent_in_part(&self) -> bool {
        self.splitter.abandon_header().is_some()
    }

    /// Returns how many bytes of the payload are in the ring.
    pub(super) fn sent_len(&self) -> usize {
        self.splitter.sent()
    }

    #[inline]
    pub(crate) fn request(&self) -> u64 {
        self.splitter.request()
    }
}

impl Drop for Outgoing<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_sent {
            abandon_or_discard(self.core, self.splitter.request(), self.splitter.abandon_header());
        }
    }
}

/// Abandons a request of which pieces are in the ring, and discards any other.
#[cold]
fn abandon_or_discard(core: &Core, request: u64, abandon_header: Option<Header>) {
    if fork::is_forked_child() {
        return;
    }
    let Some(abandon_header) = abandon_header else {
        return core.pending.requests().discard(request);
    };
    // So that the worker forgets the pieces. If there is no room for this either, it finds the
    // request cancelled.
    let see = |slot: &mut [u8]| {
        if let Some(tap) = &core.tap {
            tap.sent(abandon_header, slot);
        }
    };
    if let Err(error) = core.sender.try_send(abandon_header, 0, see) {
        not_sent(core, error);
    }
    core.pending.drop_request(request);
}

/// What it means for a channel that a frame could not be sent. Returns the error of the request.
#[cold]
fn not_sent(core: &Core, error: Error) -> Error {
    match error.kind() {
        // There is no memory for more of the ring. The worker has nothing to do with that.
        ErrorKind::Os => error,
        _ => core.fail(error),
    }
}

/// The worker may be done with requests that were dropped. Their entries are free once their
/// last frames are read.
#[cold]
fn open_after_reading(core: &Core, is_stream: bool) -> Result<u64> {
    read_for_others(core)?;
    core.pending.open(is_stream)
}
