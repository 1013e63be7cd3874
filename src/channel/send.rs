//! Sending requests: into one frame, or in pieces.

use crate::channel::engine::Engine;
use crate::channel::life::check_not_forked;
use crate::channel::timed::Loan;
use crate::error::{Error, ErrorKind, Result};
use crate::payload::{self, Encoded, Payload};
use crate::protocol::Kind;
use crate::protocol::kind::flags;
use crate::ring::Header;
use crate::sync::mutant::{Mutant, chosen};
use crate::sys::clock::Deadline;
use crate::sys::copy::copy_from_slice;
use crate::sys::fork;

impl Engine {
    /// Sends a request for one result. Blocks while the ring is full, until the deadline,
    /// which travels with it. Returns its id and whether the worker had to be woken.
    pub(crate) fn send_call<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        deadline: Deadline,
    ) -> Result<(u64, bool)> {
        self.send(kind, 0, payload, deadline, deadline)
    }

    /// Sends a request for a stream. Blocks while the ring is full, until the deadline;
    /// the stream itself has none.
    pub(crate) fn send_stream<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        deadline: Deadline,
    ) -> Result<u64> {
        self.send(kind, flags::STREAM, payload, deadline, Deadline::NEVER).map(|(id, _)| id)
    }

    fn send<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        stream: u16,
        payload: &P,
        deadline: Deadline,
        told_deadline: Deadline,
    ) -> Result<(u64, bool)> {
        self.send_or_fail(kind, stream, payload, deadline, told_deadline)
            .map_err(|error| self.life.with_status(error, deadline))
    }

    fn send_or_fail<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        stream: u16,
        payload: &P,
        deadline: Deadline,
        told_deadline: Deadline,
    ) -> Result<(u64, bool)> {
        let len = payload.encoded_len();
        self.check_len(len)?;
        let is_long = len > self.config.down.max_frame;
        if !is_long && payload::is_encoded_in_place(payload) {
            let fill = |slot: &mut [u8]| payload.encode(slot);
            return self.send_short(kind, stream, len, deadline, told_deadline, fill);
        }
        // Before any lock: a host's encoder may take long, or use this channel.
        let encoded = Encoded::of(payload, len)?;
        let bytes = encoded.bytes();
        if is_long {
            return self.send_long(kind, stream, bytes, deadline, told_deadline);
        }
        self.send_short(kind, stream, len, deadline, told_deadline, |slot| {
            copy_from_slice(slot, bytes);
            Ok(())
        })
    }

    #[inline]
    fn send_short(
        &self,
        kind: Kind,
        stream: u16,
        len: usize,
        deadline: Deadline,
        told_deadline: Deadline,
        fill: impl FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<(u64, bool)> {
        let header = self.open(kind, stream, told_deadline)?;
        let unsent = Unsent::new(self, header.request);
        let has_rung = self.send_frame(header, len, deadline, fill)?;
        unsent.keep();
        Ok((header.request, has_rung))
    }

    /// Refuses a message that is too long, before anything is touched.
    pub(crate) fn check_len(&self, len: usize) -> Result<()> {
        if len > self.config.max_message.max(self.config.down.max_frame) {
            let error = Error::too_large(len, self.config.max_message, "raise max_message");
            return Err(error.with_begun(false));
        }
        Ok(())
    }

    /// A request that nothing was sent of yet, and the header of its frames.
    pub(crate) fn open(&self, kind: Kind, flag: u16, deadline: Deadline) -> Result<Header> {
        self.check_open()?;
        if !kind.is_request() {
            let message = format!("{kind} is not a kind of request");
            return Err(Error::new(ErrorKind::Protocol, message));
        }
        self.spare_buffer.age();
        let is_stream = flag & flags::STREAM != 0;
        let mut table = self.table.lock();
        let mut opened = table.open(is_stream);
        if opened.is_err() && !chosen(Mutant::NotReadWhenFull) {
            // The worker may long be done with what was given up; nobody has read that it is.
            drop(table);
            self.read_for_nobody()?;
            table = self.table.lock();
            opened = table.open(is_stream);
        }
        let request = opened?;
        self.words.requests.reset_credit(table.slot_of(request));
        let (kind, aux) = (kind.code(), deadline.to_wire());
        Ok(Header { kind, flags: flag, request, aux, ..Header::default() })
    }

    /// Sends a message that is longer than a frame, in pieces.
    fn send_long(
        &self,
        kind: Kind,
        stream: u16,
        encoded: &[u8],
        deadline: Deadline,
        told_deadline: Deadline,
    ) -> Result<(u64, bool)> {
        let _turn = self.turn_to_write(deadline)?;
        let header = self.open(kind, stream, told_deadline)?;
        let mut pieces = Pieces::new(header);
        let sent = encoded.chunks(self.config.down.piece_len()).try_for_each(|piece| {
            let is_last = pieces.sent + piece.len() == encoded.len();
            pieces.send(self, piece, is_last, deadline)
        });
        match sent {
            Ok(()) => Ok((header.request, pieces.has_rung)),
            Err(error) => {
                pieces.abandon(self);
                Err(error)
            }
        }
    }

    /// One message in pieces is on its way at a time, so that the worker never collects
    /// more than one.
    pub(crate) fn turn_to_write(&self, deadline: Deadline) -> Result<Loan<'_, ()>> {
        self.check_open()?;
        if let Some(turn) = self.writing.lock_until(deadline, || !self.life.is_open()) {
            return Ok(turn);
        }
        self.check_open()?;
        Err(Self::no_turn())
    }

    #[cold]
    pub(crate) fn no_turn() -> Error {
        let message = "another long message was on its way during the whole timeout";
        Error::new(ErrorKind::Timeout, message).with_begun(false)
    }

    fn send_frame(
        &self,
        header: Header,
        len: usize,
        deadline: Deadline,
        mut fill: impl FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<bool> {
        loop {
            if let Some(has_rung) = self.try_send_frame(header, len, &mut fill)? {
                return Ok(has_rung);
            }
            if !self.await_room(len, deadline)? {
                return Err(self.ring_full(len));
            }
        }
    }

    /// Sends a frame if there is room. Returns whether the worker had to be woken.
    pub(crate) fn try_send_frame(
        &self,
        header: Header,
        len: usize,
        mut fill: impl FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<Option<bool>> {
        // Also for a message that was begun before the fork.
        check_not_forked()?;
        let mut producer = self.producer.lock();
        if !self.life.is_open() {
            // Without the lock: it may read the ring for the worker's last words.
            drop(producer);
            return self.check_open().map(|()| None);
        }
        match producer.try_claim(len) {
            Ok(Some(mut claim)) => {
                fill(claim.payload())?;
                crate::failpoint::failpoint!("after copy");
                Ok(Some(claim.commit(header)))
            }
            Ok(None) => Ok(None),
            // The length was checked: the worker's head is impossible.
            Err(error) => {
                drop(producer);
                Err(self.fail(error))
            }
        }
    }

    #[cold]
    pub(crate) fn ring_full(&self, len: usize) -> Error {
        let in_flight = self.producer.lock().in_flight();
        let busy = self.describe_worker(None);
        let message = format!(
            "no room for {len} bytes in the request ring within the timeout, {in_flight} bytes \
             are in flight; {busy}"
        );
        Error::new(ErrorKind::Timeout, message).with_begun(false)
    }
}

/// Takes a request back that did not reach the ring: also when its payload panics.
pub(crate) struct Unsent<'a> {
    engine: &'a Engine,
    request: u64,
}

impl<'a> Unsent<'a> {
    pub(crate) fn new(engine: &'a Engine, request: u64) -> Self {
        Self { engine, request }
    }

    /// It is in the ring.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if fork::is_forked_child() {
            return;
        }
        self.engine.table.lock().unsent(self.request);
    }
}

/// A message on its way in pieces.
#[derive(Debug)]
pub(crate) struct Pieces {
    header: Header,
    pub(crate) sent: usize,
    pub(crate) has_rung: bool,
    has_begun: bool,
}

impl Pieces {
    pub(crate) fn new(header: Header) -> Self {
        Self { header, sent: 0, has_rung: false, has_begun: false }
    }

    pub(crate) fn request(&self) -> u64 {
        self.header.request
    }

    pub(crate) fn send(
        &mut self,
        engine: &Engine,
        piece: &[u8],
        is_last: bool,
        deadline: Deadline,
    ) -> Result<()> {
        self.has_rung = engine.send_frame(self.header(is_last), piece.len(), deadline, |slot| {
            copy_from_slice(slot, piece);
            Ok(())
        })?;
        self.was_sent(piece.len(), self.has_rung);
        Ok(())
    }

    /// The header of the next piece.
    pub(crate) fn header(&self, is_last: bool) -> Header {
        let mut header = self.header;
        header.flags |= if is_last { 0 } else { flags::MORE };
        header.flags |= if self.has_begun { flags::CONTINUED } else { 0 };
        header
    }

    pub(crate) fn was_sent(&mut self, len: usize, has_rung: bool) {
        self.has_begun = true;
        self.sent += len;
        self.has_rung = has_rung;
    }

    /// Takes the message back, so that the worker forgets its pieces.
    pub(crate) fn abandon(&self, engine: &Engine) {
        if fork::is_forked_child() {
            return;
        }
        let request = self.header.request;
        if !self.has_begun {
            engine.table.lock().unsent(request);
            return;
        }
        let mut header = self.header;
        header.flags |= flags::CONTINUED | flags::ABANDONED;
        // If there is no room for this either, the worker finds the request cancelled.
        if let Ok(Some(claim)) = engine.producer.lock().try_claim(0) {
            claim.commit(header);
        }
        engine.let_go(request);
    }
}
