//! A request on its way into the ring: in one frame, or in pieces.
//!
//! [`Outgoing`] never waits: a request that cannot go on says what it needs. A thread waits for
//! that in [`send`], and a task in the async view.

use crate::channel::core::{Core, Sent};
use crate::channel::explain::{no_turn, ring_full};
use crate::channel::timed_mutex::TimedGuard;
use crate::channel::turn::{check_open, read_for_others};
use crate::channel::wait::await_room;
use crate::error::{Error, ErrorKind, Result};
use crate::payload::{self, Encoded, Payload};
use crate::protocol::Kind;
use crate::protocol::chunker::Chunker;
use crate::protocol::kind::flags;
use crate::ring::Header;
use crate::sys::clock::Deadline;
use crate::sys::copy::copy_from_slice;
use crate::sys::fork;

/// What a request asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    kind: Kind,
    flags: u16,
    /// Until when the worker may begin it.
    begin_by: Deadline,
}

impl Ask {
    /// One reply. The worker does not begin the request after the deadline.
    pub(crate) fn call(kind: Kind, deadline: Deadline) -> Self {
        Self { kind, flags: 0, begin_by: deadline }
    }

    /// A stream of chunks, which has no deadline.
    pub(crate) fn stream(kind: Kind) -> Self {
        Self { kind, flags: flags::STREAM, begin_by: Deadline::NEVER }
    }
}

/// What a request needs before it can go on.
#[derive(Debug)]
pub(crate) enum Needs {
    /// Nothing: it is in the ring.
    Nothing(Sent),
    /// Room for a payload of so many bytes.
    Room(usize),
    /// The turn to send a long message, for [`Outgoing::turn_came`].
    Turn,
}

/// Sends a request. Blocks while the ring is full or another long message is on its way, until
/// the deadline.
#[inline]
pub(super) fn send<P: Payload + ?Sized>(
    core: &Core,
    ask: Ask,
    payload: &P,
    deadline: Deadline,
) -> Result<Sent> {
    let len = payload.encoded_len();
    let sent = match payload::one_part(payload, len).filter(|_| is_short(core, len)) {
        Some(bytes) => send_in_place(core, ask, len, deadline, |slot| {
            copy_from_slice(slot, bytes);
            Ok(())
        }),
        None => send_encoded(core, ask, payload, deadline),
    };
    sent.map_err(|error| core.counted(core.state.with_status(error, deadline)))
}

/// Sends what most requests are: one slice that fits a frame.
#[inline]
fn send_in_place(
    core: &Core,
    ask: Ask,
    len: usize,
    deadline: Deadline,
    mut fill: impl FnMut(&mut [u8]) -> Result<()>,
) -> Result<Sent> {
    let header = open(core, ask)?;
    let request = header.request;
    let unsent = Unsent { core, request };
    let has_rung = loop {
        if let Some(has_rung) = try_send(core, header, len, &mut fill)? {
            break has_rung;
        }
        wait_for_room(core, len, deadline)?;
    };
    std::mem::forget(unsent);
    Ok(Sent { request, has_rung })
}

/// Takes a request back of which nothing was sent.
struct Unsent<'a> {
    core: &'a Core,
    request: u64,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        self.core.pending.discard(self.request);
    }
}

#[inline(never)]
fn send_encoded<P: Payload + ?Sized>(
    core: &Core,
    ask: Ask,
    payload: &P,
    deadline: Deadline,
) -> Result<Sent> {
    let mut outgoing = Outgoing::new(core, ask, payload)?;
    loop {
        match outgoing.advance()? {
            Needs::Nothing(sent) => return Ok(sent),
            Needs::Room(len) => wait_for_room(core, len, deadline)?,
            Needs::Turn => outgoing.turn_came(long_message_turn(core, deadline)?),
        }
    }
}

#[inline]
fn is_short(core: &Core, len: usize) -> bool {
    len <= core.config.down.max_frame
}

/// Blocks until there is room for a payload of `len` bytes, or until the deadline.
#[cold]
pub(super) fn wait_for_room(core: &Core, len: usize, deadline: Deadline) -> Result<()> {
    if await_room(core, len, deadline)? { Ok(()) } else { Err(ring_full(core, len)) }
}

/// Blocks until no other long message is on its way, or until the deadline.
pub(super) fn long_message_turn(core: &Core, deadline: Deadline) -> Result<TimedGuard<'_, ()>> {
    check_open(core)?;
    let turns = core.sender.long_messages();
    if let Some(turn) = turns.lock_until(deadline, || !core.state.is_open()) {
        return Ok(turn);
    }
    check_open(core)?;
    Err(no_turn())
}

/// A request that was opened. Dropping it before its last piece was sent takes it back, also
/// when a future is dropped.
#[derive(Debug)]
pub(crate) struct OpenRequest<'a> {
    core: &'a Core,
    pub(super) chunker: Chunker,
    has_rung: bool,
    is_sent: bool,
}

impl<'a> OpenRequest<'a> {
    #[inline]
    pub(super) fn new(core: &'a Core, ask: Ask) -> Result<Self> {
        let chunker = Chunker::new(open(core, ask)?);
        Ok(Self { core, chunker, has_rung: false, is_sent: false })
    }

    /// Sends the next piece, of `len` bytes, if there is room. Returns whether it was sent.
    #[inline]
    pub(super) fn try_send(
        &mut self,
        len: usize,
        is_last: bool,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<bool> {
        let Some(has_rung) = try_send(self.core, self.chunker.header(is_last), len, fill)? else {
            return Ok(false);
        };
        self.chunker.piece_sent(len);
        self.has_rung = has_rung;
        self.is_sent = is_last;
        Ok(true)
    }

    #[inline]
    pub(super) fn sent(&self) -> Sent {
        Sent { request: self.chunker.request(), has_rung: self.has_rung }
    }
}

impl Drop for OpenRequest<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_sent {
            take_back(self.core, &self.chunker);
        }
    }
}

#[cold]
pub(super) fn take_back(core: &Core, chunker: &Chunker) {
    if fork::is_forked_child() {
        return;
    }
    let request = chunker.request();
    let Some(withdrawal) = chunker.withdrawal() else { return core.pending.discard(request) };
    // So that the worker forgets the pieces. If there is no room for this either, it finds the
    // request cancelled.
    let _ = core.sender.try_send(withdrawal, 0, |_| Ok(()), |error| core.fail(error));
    core.pending.release(request);
}

/// A request on its way, and its payload.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    core: &'a Core,
    ask: Ask,
    /// Made before any lock is taken: a host's encoder may take long, or use this channel.
    encoded: Encoded<'a>,
    len: usize,
    /// Dropped before the turn is given back.
    request: Option<OpenRequest<'a>>,
    turn: Option<TimedGuard<'a, ()>>,
}

impl<'a> Outgoing<'a> {
    /// Encodes the payload, unless it lies in memory already. Nothing of the channel is touched.
    #[inline]
    pub(crate) fn new<P>(core: &'a Core, ask: Ask, payload: &'a P) -> Result<Self>
    where
        P: Payload + ?Sized,
    {
        let len = payload.encoded_len();
        core.check_len(len)?;
        let encoded = Encoded::of(payload, len)?;
        Ok(Self { core, ask, encoded, len, request: None, turn: None })
    }

    /// Sends what there is room for.
    #[inline]
    pub(crate) fn advance(&mut self) -> Result<Needs> {
        let frame = self.core.config.down.max_frame;
        if self.len > frame && self.turn.is_none() {
            return Ok(Needs::Turn);
        }
        let request = match &mut self.request {
            Some(request) => request,
            empty => empty.insert(OpenRequest::new(self.core, self.ask)?),
        };
        let encoded = &mut self.encoded;
        let no_room = if self.len > frame {
            send_pieces(request, encoded.bytes(), self.core.config.down.piece_len())?
        } else {
            let is_sent = request.try_send(self.len, true, |slot| {
                encoded.write_to(slot);
                Ok(())
            })?;
            (!is_sent).then_some(self.len)
        };
        Ok(match no_room {
            Some(len) => Needs::Room(len),
            None => Needs::Nothing(request.sent()),
        })
    }

    /// The turn to send a long message has come. It is given back when the request is sent, or
    /// dropped.
    pub(crate) fn turn_came(&mut self, turn: TimedGuard<'a, ()>) {
        self.turn = Some(turn);
    }
}

/// Sends the pieces that there is room for. Returns the length of the one that found none.
fn send_pieces(
    request: &mut OpenRequest<'_>,
    bytes: &[u8],
    longest: usize,
) -> Result<Option<usize>> {
    while let Some(piece) = request.chunker.next_piece(bytes, longest) {
        let (piece, len) = (piece.bytes, piece.bytes.len());
        let is_last = request.chunker.sent() + len == bytes.len();
        let fill = |slot: &mut [u8]| {
            copy_from_slice(slot, piece);
            Ok(())
        };
        if !request.try_send(len, is_last, fill)? {
            return Ok(Some(len));
        }
    }
    Ok(None)
}

/// Opens a request, of which nothing is sent yet. Returns the header of its frames.
#[inline]
pub(super) fn open(core: &Core, ask: Ask) -> Result<Header> {
    check_open(core)?;
    let Ask { kind, flags, begin_by } = ask;
    if !kind.is_request() {
        let message = format!("{kind} is not a kind of request");
        return Err(Error::new(ErrorKind::Protocol, message));
    }
    core.buffers.age();
    let is_stream = flags & flags::STREAM != 0;
    let request = match core.pending.open(is_stream) {
        Ok(request) => request,
        Err(_) => open_after_reading(core, is_stream)?,
    };
    Ok(Header { kind: kind.code(), flags, request, aux: begin_by.to_word(), ..Header::default() })
}

/// The worker may be done with requests that were given up. Their slots are free once their
/// last frames are read.
#[cold]
fn open_after_reading(core: &Core, is_stream: bool) -> Result<u64> {
    read_for_others(core)?;
    core.pending.open(is_stream)
}

/// Sends a frame if there is room. Returns whether the worker had to be woken, or `None` if the
/// ring is full. `fill` runs under the sender's lock.
#[inline]
pub(super) fn try_send(
    core: &Core,
    header: Header,
    len: usize,
    fill: impl FnOnce(&mut [u8]) -> Result<()>,
) -> Result<Option<bool>> {
    // A message may have been begun before a fork, or before the end.
    fork::check()?;
    if !core.state.is_open() {
        return check_open(core).map(|()| None);
    }
    core.sender.try_send(header, len, fill, |error| core.fail(error))
}
