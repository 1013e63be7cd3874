//! Where all replies go out: the producer of the reply ring, and what its frames need.

use crate::error::{Error, HandlerFailure, Result};
use crate::payload::{Encoded, Payload};
use crate::protocol::failure;
use crate::protocol::kind::{EXPIRED, Kind, REFUSED, flags};
use crate::protocol::splitter::{Piece, PieceBuffer, Splitter};
use crate::ring::doorbell::{Sleeper, Step};
use crate::ring::position::span;
use crate::ring::{Claim, Header, Producer};
use crate::shm::layout::{RegionHeader, as_u64, as_usize};
use crate::sys::clock::Deadline;
use crate::sys::copy::copy_from_slice;
use crate::sys::fork;
use crate::worker::cancel::Signals;
use crate::worker::status::StatusWriter;

/// The worker's end of the reply ring, which all requests share.
#[derive(Debug)]
pub(super) struct ReplySink {
    producer: Producer,
    sleeper: Sleeper,
    signals: Signals,
    status: StatusWriter,
    /// How many bytes of slots a stream may be ahead of its reader.
    window: u64,
    max_message: usize,
    /// The pages of the ring are in the page table.
    is_prefaulted: bool,
}

/// What was sent for one request.
#[derive(Debug)]
pub(super) struct ReplyState {
    request: u64,
    /// A handler has got the request.
    is_begun: bool,
    is_finished: bool,
    /// Bytes of slots that were sent as chunks.
    streamed: u64,
    /// The credit that was last seen. It only grows.
    credit: u64,
}

impl ReplyState {
    pub(super) fn new(request: u64) -> Self {
        Self { request, is_begun: false, is_finished: false, streamed: 0, credit: 0 }
    }

    pub(super) fn request(&self) -> u64 {
        self.request
    }

    /// Returns the state for another owner, and marks this one as finished.
    pub(super) fn hand_over(&mut self) -> Self {
        let Self { request, is_begun, is_finished, streamed, credit } = *self;
        self.is_finished = true;
        Self { request, is_begun, is_finished, streamed, credit }
    }

    /// Notes that a handler gets the request.
    pub(super) fn begin(&mut self) {
        self.is_begun = true;
    }

    pub(super) fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// Notes that the last frame of the request is sent.
    pub(super) fn finish(&mut self) {
        self.is_finished = true;
    }

    /// Whether the last frame of the request was sent.
    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Counts the bytes of a slot that was sent as a chunk.
    pub(super) fn add_streamed(&mut self, bytes: u64) {
        self.streamed = self.streamed.wrapping_add(bytes);
    }

    /// The credit at which `bytes` more of slots can be sent, if the stream may be `window` bytes
    /// ahead of its reader. One chunk is always allowed when nothing is outstanding.
    pub(super) fn credit_for(&self, bytes: u64, window: u64) -> u64 {
        if bytes > window {
            return self.streamed;
        }
        self.streamed.wrapping_add(bytes).saturating_sub(window)
    }

    pub(super) fn header(&self, kind: Kind) -> Header {
        Header { kind: kind.code(), request: self.request, ..Header::default() }
    }
}

impl ReplySink {
    pub(super) fn new(
        producer: Producer,
        sleeper: Sleeper,
        signals: Signals,
        status: StatusWriter,
        header: &RegionHeader,
    ) -> Self {
        Self {
            producer,
            sleeper,
            signals,
            status,
            window: header.stream_window,
            max_message: as_usize(header.max_message),
            is_prefaulted: false,
        }
    }

    pub(super) fn signals(&self) -> Signals {
        self.signals.clone()
    }

    pub(super) fn status(&self) -> StatusWriter {
        self.status.clone()
    }

    /// Turns to another request.
    pub(super) fn begin(&mut self, request: u64) -> ReplyState {
        ReplyState::new(request)
    }

    pub(super) fn max_frame(&self) -> usize {
        self.producer.max_frame()
    }

    /// Wakes the parent if it sleeps for frames that were sent.
    pub(super) fn flush(&mut self) {
        self.producer.flush();
    }

    pub(super) fn check_cancelled(&self, state: &ReplyState) -> Result<()> {
        self.signals.check(state.request)
    }

    /// Returns a buffer for a result that is written in parts.
    pub(super) fn piece_buffer(&self, state: &ReplyState) -> PieceBuffer {
        PieceBuffer::new(state.header(Kind::RESULT), self.max_frame(), self.max_message)
    }

    /// Sends a result or a chunk in one frame, or in as many as it needs.
    pub(super) fn send_message<P: Payload + ?Sized>(
        &mut self,
        state: &mut ReplyState,
        kind: Kind,
        payload: &P,
    ) -> Result<()> {
        self.send_message_waking(state, kind, payload, Waking::Now)
    }

    /// Sends chunks. The parent may see them only when some KiB were sent, or all, or when this
    /// waits.
    pub(super) fn send_chunks<P: Payload>(
        &mut self,
        state: &mut ReplyState,
        chunks: impl Iterator<Item = P>,
    ) -> Result<()> {
        let Flushing(sink) = &mut Flushing(self);
        for chunk in chunks {
            sink.check_cancelled(state)?;
            sink.send_message_waking(state, Kind::CHUNK, &chunk, Waking::NowAndThen)?;
        }
        Ok(())
    }

    fn send_message_waking<P: Payload + ?Sized>(
        &mut self,
        state: &mut ReplyState,
        kind: Kind,
        payload: &P,
        waking: Waking,
    ) -> Result<()> {
        let (len, header) = (payload.encoded_len(), state.header(kind));
        if len <= self.max_frame() {
            return self.send_frame(state, header, len, waking, |slot| payload.encode(slot));
        }
        if len > self.max_message {
            return Err(Error::too_large(len, self.max_message, "raise max_message"));
        }
        let encoded = Encoded::of(payload, len)?;
        // Pieces are not published in groups.
        self.producer.flush();
        // The reader gets memory for the whole message at its first piece.
        let header = Header { aux: as_u64(len), ..state.header(kind) };
        let (mut splitter, longest) = (Splitter::new(header), self.producer.piece_len());
        while let Some(piece) = splitter.next_piece(encoded.parts(), longest) {
            self.send_piece(state, piece)?;
            splitter.piece_sent(piece.bytes.len());
        }
        Ok(())
    }

    /// Sends one frame of a message.
    pub(super) fn send_piece(&mut self, state: &mut ReplyState, piece: Piece<'_>) -> Result<()> {
        self.send_frame(state, piece.header, piece.bytes.len(), Waking::Now, |slot| {
            copy_from_slice(slot, piece.bytes);
            Ok(())
        })
    }

    /// Sends a chunk of one frame that `fill` writes in place.
    pub(super) fn send_chunk_in_place(
        &mut self,
        state: &mut ReplyState,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<()> {
        let longest = self.max_frame();
        if len > longest {
            // Before the wait for credit: there is never credit for so much.
            return Err(Error::too_large(len, longest, "raise max_reply_frame, or use `send`"));
        }
        self.send_frame(state, state.header(Kind::CHUNK), len, Waking::Now, |slot| {
            fill(slot);
            Ok(())
        })
    }

    /// Ends a stream.
    pub(super) fn end_stream(&mut self, state: &mut ReplyState) -> Result<()> {
        self.send_frame(state, state.header(Kind::END), 0, Waking::Now, |_| Ok(()))
    }

    /// Sends a frame. Waits for room, and with a chunk for credit, until the request is
    /// cancelled.
    fn send_frame(
        &mut self,
        state: &mut ReplyState,
        header: Header,
        len: usize,
        waking: Waking,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let is_chunk = header.kind == Kind::CHUNK.code();
        if is_chunk {
            let needed = state.credit_for(span(len), self.window);
            if state.credit < needed {
                self.await_credit(state, needed)?;
            }
        }
        let mut claim = claim(&mut self.producer, &self.signals, state.request, len)?;
        fill(claim.payload())?;
        self.status.sent(len);
        if is_chunk {
            match waking {
                Waking::Now => drop(claim.commit(header)),
                Waking::NowAndThen => claim.commit_in_group(header),
            }
            state.add_streamed(span(len));
            return Ok(());
        }
        if header.flags & flags::MORE == 0 {
            state.is_finished = true;
            self.status.answered(state.request, state.is_begun);
        }
        claim.commit(header);
        Ok(())
    }

    /// Reserves a slot for a result of one frame.
    pub(super) fn claim<'a>(
        &'a mut self,
        state: &'a mut ReplyState,
        len: usize,
    ) -> Result<ClaimedResult<'a>> {
        let Self { producer, signals, status, .. } = self;
        let claim = claim(producer, signals, state.request, len)?;
        Ok(ClaimedResult { claim, len, state, status })
    }

    /// Waits until the reader's credit is as much as is needed.
    #[cold]
    fn await_credit(&mut self, state: &mut ReplyState, needed: u64) -> Result<()> {
        let request = state.request;
        state.credit = self.signals.credit(request);
        if state.credit >= needed {
            return Ok(());
        }
        self.producer.flush();
        self.producer.note_full();
        let Self { sleeper, signals, .. } = self;
        let look = |step| {
            signals.check(request)?;
            match step {
                Step::Announce => {
                    signals.announce_credit(request, needed);
                    Ok(None)
                }
                Step::Look => Ok(Some(signals.credit(request)).filter(|credit| *credit >= needed)),
            }
        };
        let waited = sleeper.wait_until(signals.alarm(), Deadline::NEVER, look);
        signals.announce_credit(request, 0);
        state.credit = waited?.unwrap_or(needed);
        Ok(())
    }

    /// Ends the request with an error frame.
    pub(super) fn fail(&mut self, state: &mut ReplyState, failure: &HandlerFailure) -> Result<()> {
        let bytes = failure::encode(failure, self.max_frame());
        self.send_last(state, state.header(Kind::ERROR), &bytes)
    }

    /// Ends the request, which no handler has seen, with an error frame.
    pub(super) fn refuse(
        &mut self,
        state: &mut ReplyState,
        failure: &HandlerFailure,
    ) -> Result<()> {
        let bytes = failure::encode(failure, self.max_frame());
        self.send_last(state, Header { aux: REFUSED, ..state.header(Kind::ERROR) }, &bytes)
    }

    /// Ends the request with a cancel frame.
    pub(super) fn cancel(&mut self, state: &mut ReplyState) -> Result<()> {
        self.send_last(state, state.header(Kind::CANCEL), &[])
    }

    /// Ends the request, whose deadline passed before it was begun.
    pub(super) fn expire(&mut self, state: &mut ReplyState) -> Result<()> {
        self.send_last(state, Header { aux: EXPIRED, ..state.header(Kind::CANCEL) }, &[])
    }

    /// Ends a request for [`Kind::READY`] with an empty result.
    pub(super) fn acknowledge(&mut self, state: &mut ReplyState) -> Result<()> {
        if !std::mem::replace(&mut self.is_prefaulted, true) {
            // The parent waits for this answer alone, and does the same on its side.
            self.producer.prefault();
        }
        self.send_last(state, state.header(Kind::RESULT), &[])
    }

    /// Sends a frame that must go out even if the request is cancelled: the parent waits for
    /// it before it uses the request's entry again.
    fn send_last(&mut self, state: &mut ReplyState, header: Header, bytes: &[u8]) -> Result<()> {
        let signals = &self.signals;
        let claim =
            self.producer.claim_until(bytes.len(), signals.alarm(), Deadline::NEVER, || {
                signals.check_stop()
            })?;
        let mut claim = claim.ok_or_else(no_space)?;
        copy_from_slice(claim.payload(), bytes);
        state.is_finished = true;
        self.status.answered(state.request, state.is_begun);
        claim.commit(header);
        Ok(())
    }
}

/// When a parent that sleeps is woken for a chunk, and at the latest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waking {
    /// As soon as the chunk is sent.
    Now,
    /// When some KiB were sent since the last time, and before a wait.
    NowAndThen,
}

/// Publishes what was sent when this is dropped, also if the program's code panics in between.
struct Flushing<'a>(&'a mut ReplySink);

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        if !fork::is_forked_child() {
            self.0.flush();
        }
    }
}

/// A slot that was reserved for a result.
#[derive(Debug)]
pub(super) struct ClaimedResult<'a> {
    claim: Claim<'a>,
    len: usize,
    state: &'a mut ReplyState,
    status: &'a StatusWriter,
}

impl ClaimedResult<'_> {
    pub(super) fn payload(&mut self) -> &mut [u8] {
        self.claim.payload()
    }

    pub(super) fn send(self) {
        self.status.sent(self.len);
        self.state.is_finished = true;
        self.status.answered(self.state.request, self.state.is_begun);
        self.claim.commit(self.state.header(Kind::RESULT));
    }
}

/// Reserves a slot. Waits for room until the request is cancelled.
fn claim<'p>(
    producer: &'p mut Producer,
    signals: &Signals,
    request: u64,
    len: usize,
) -> Result<Claim<'p>> {
    let check = || signals.check(request);
    let claim = producer.claim_until(len, signals.alarm(), Deadline::NEVER, check)?;
    claim.ok_or_else(no_space)
}

#[cold]
pub(super) fn no_space() -> Error {
    Error::corrupt("the parent's head promised space that is not there")
}
