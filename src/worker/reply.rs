//! How a handler replies: once, or with a stream of chunks.
//!
//! A [`Reply`] is consumed by whatever ends the request and gives a [`Done`], which is
//! what a handler must return: replying twice or not at all does not compile.

use std::io;
use std::sync::Arc;

use crate::error::{Error, Result, WorkerFailure};
use crate::link::WorkerWords;
use crate::payload::{Encoded, Payload};
use crate::protocol::failure;
use crate::protocol::health::{ANSWERED, WorkerState};
use crate::protocol::kind::{EXPIRED, Kind, flags};
use crate::ring::doorbell::{Sleeper, Step};
use crate::ring::position::span;
use crate::ring::{Claim, Header, Producer};
use crate::shm::layout::{RegionHeader, as_u64, as_usize};
use crate::sync::Ordering;
use crate::sys::clock::Deadline;
use crate::sys::copy::copy_from_slice;
use crate::worker::request::{cancelled, is_cancelled};
use crate::worker::stop::Stop;

/// Proof that a request was answered.
#[derive(Debug)]
#[must_use = "a handler returns it"]
pub struct Done(());

/// Where the frames of the current request go out.
#[derive(Debug)]
pub(crate) struct Outlet {
    producer: Producer,
    sleeper: Sleeper,
    words: Arc<WorkerWords>,
    stop: Arc<Stop>,
    window: u64,
    max_message: usize,
    request: u64,
    is_finished: bool,
    /// Bytes of slots that were sent as chunks of this stream.
    streamed: u64,
    bytes_out: u64,
    has_rung: bool,
    /// Bytes of the message that the next frame begins, if it comes in pieces.
    whole: u64,
}

/// The means to answer one request.
#[derive(Debug)]
#[must_use = "a reply that is dropped becomes an error for the caller"]
pub struct Reply<'a> {
    outlet: &'a mut Outlet,
}

impl<'a> Reply<'a> {
    /// Answers with `payload`, which is encoded straight into the ring. Blocks while the
    /// ring is full. A payload that is longer than a frame goes as a chain of frames.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) if it is longer than the longest message;
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) if the request is cancelled while the ring is full;
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) if the worker is told to end meanwhile; what the payload's
    /// encoding returns.
    pub fn send<P: Payload + ?Sized>(self, payload: &P) -> Result<Done> {
        self.outlet.message(Kind::RESULT, payload)?;
        Ok(Done(()))
    }

    /// Reserves `len` bytes in the ring, to be filled in place and sent with
    /// [`Slot::send`]. Blocks while the ring is full.
    ///
    /// # Errors
    ///
    /// As [`Reply::send`], but `len` must fit one frame.
    pub fn claim(self, len: usize) -> Result<Slot<'a>> {
        let Outlet { producer, words, stop, request, is_finished, bytes_out, has_rung, .. } =
            self.outlet;
        let claim = claim(producer, words, stop, *request, len)?;
        Ok(Slot { claim, request: *request, len, words, is_finished, bytes_out, has_rung })
    }

    /// Answers with a payload that is written bit by bit and whose length need not be
    /// known: it goes out in frames as it is written. The caller gets it whole.
    pub fn write(self) -> ReplyWriter<'a> {
        let buffer = Vec::with_capacity(self.outlet.producer.max_frame());
        ReplyWriter { outlet: self.outlet, buffer, sent: 0 }
    }

    /// Answers with a stream of chunks.
    pub fn stream(self) -> Chunks<'a> {
        Chunks { outlet: self.outlet }
    }
}

/// Bytes of the ring, reserved for a reply.
#[derive(Debug)]
#[must_use = "a slot that is dropped is given back and the caller gets an error"]
pub struct Slot<'a> {
    claim: Claim<'a>,
    request: u64,
    len: usize,
    words: &'a WorkerWords,
    is_finished: &'a mut bool,
    bytes_out: &'a mut u64,
    has_rung: &'a mut bool,
}

impl Slot<'_> {
    /// The bytes to fill. They hold what earlier frames left there. They start 32 bytes
    /// into a cache line.
    pub fn payload(&mut self) -> &mut [u8] {
        self.claim.payload()
    }

    /// Answers with the bytes.
    pub fn send(self) -> Done {
        *self.is_finished = true;
        *self.bytes_out += as_u64(self.len);
        report_end(self.words, *self.bytes_out);
        *self.has_rung = self.claim.commit(header(Kind::RESULT, self.request, 0));
        Done(())
    }
}

/// A reply that is being written.
#[derive(Debug)]
#[must_use = "a reply that is not finished becomes an error for the caller"]
pub struct ReplyWriter<'a> {
    outlet: &'a mut Outlet,
    /// What does not fill a frame yet.
    buffer: Vec<u8>,
    sent: usize,
}

impl ReplyWriter<'_> {
    /// Adds to the payload. Blocks while the ring is full.
    ///
    /// # Errors
    ///
    /// As [`Reply::send`]; [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) as soon as a
    /// frame is full and the request cancelled. As an [`io::Error`] that is of the kind
    /// `ConnectionAborted`, after which `write_all` does not try again.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        let (frame, cap) = (self.outlet.producer.max_frame(), self.outlet.max_message);
        let len = (self.sent + self.buffer.len()).saturating_add(bytes.len());
        if len > cap {
            return Err(Error::too_large(len, cap, "raise max_message"));
        }
        while self.buffer.len() + bytes.len() > frame {
            let room = frame - self.buffer.len();
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.buffer.extend_from_slice(now);
            self.send(flags::MORE)?;
            bytes = later;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Sends the rest.
    ///
    /// # Errors
    ///
    /// As [`Reply::send`].
    pub fn finish(mut self) -> Result<Done> {
        self.send(0)?;
        Ok(Done(()))
    }

    fn send(&mut self, more: u16) -> Result<()> {
        if more != 0 {
            self.outlet.check_cancelled()?;
        }
        let continued = if self.sent == 0 { 0 } else { flags::CONTINUED };
        let bytes = &self.buffer;
        self.outlet.frame(Kind::RESULT, more | continued, bytes.len(), |slot| {
            copy_from_slice(slot, bytes);
            Ok(())
        })?;
        self.sent += self.buffer.len();
        self.buffer.clear();
        Ok(())
    }
}

impl io::Write for ReplyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes)?;
        Ok(bytes.len())
    }

    /// Does nothing: a frame goes out when it is full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream of chunks to the parent. The parent's credit bounds how far it may run
/// ahead of the reader.
#[derive(Debug)]
#[must_use = "a stream that is not ended becomes an error for the reader"]
pub struct Chunks<'a> {
    outlet: &'a mut Outlet,
}

impl Chunks<'_> {
    /// Sends one chunk, encoded straight into the ring. Blocks while the reader is a
    /// whole window behind or the ring is full.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) if it is longer than the longest message;
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) as soon as the stream is cancelled or dropped by its
    /// reader; [`ErrorKind::Closed`](crate::ErrorKind::Closed) if the worker is told to end.
    pub fn send<P: Payload + ?Sized>(&mut self, payload: &P) -> Result<()> {
        let outlet = &mut *self.outlet;
        outlet.check_cancelled()?;
        outlet.message(Kind::CHUNK, payload)
    }

    /// Sends one chunk of `len` bytes that `fill` writes in place. `len` must fit one
    /// frame.
    ///
    /// # Errors
    ///
    /// As [`Chunks::send`].
    pub fn send_with(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        let outlet = &mut *self.outlet;
        outlet.check_cancelled()?;
        let longest = outlet.producer.max_frame();
        if len > longest {
            // Before it waits for credit, which there never is for so much.
            return Err(Error::too_large(len, longest, "raise max_reply, or use `send`"));
        }
        outlet.await_credit(span(len))?;
        outlet.frame(Kind::CHUNK, 0, len, |bytes| {
            fill(bytes);
            Ok(())
        })
    }

    /// Ends the stream.
    ///
    /// # Errors
    ///
    /// As [`Chunks::send`].
    pub fn end(self) -> Result<Done> {
        self.outlet.frame(Kind::END, 0, 0, |_| Ok(()))?;
        Ok(Done(()))
    }
}

impl Outlet {
    pub(super) fn new(
        producer: Producer,
        sleeper: Sleeper,
        words: Arc<WorkerWords>,
        stop: Arc<Stop>,
        header: &RegionHeader,
    ) -> Self {
        Self {
            producer,
            sleeper,
            words,
            stop,
            window: header.stream_window,
            max_message: as_usize(header.max_message),
            request: 0,
            is_finished: false,
            streamed: 0,
            bytes_out: 0,
            has_rung: false,
            whole: 0,
        }
    }

    /// Turns to the next request.
    pub(super) fn begin(&mut self, request: u64) {
        self.request = request;
        self.is_finished = false;
        self.streamed = 0;
        self.has_rung = false;
        self.whole = 0;
    }

    /// The current request's handler gets this.
    pub(super) fn reply(&mut self) -> Reply<'_> {
        Reply { outlet: self }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Whether the parent slept when the last frame was sent.
    pub(super) fn has_rung(&self) -> bool {
        self.has_rung
    }

    pub(super) fn prefault(&self) {
        self.producer.prefault();
    }

    pub(super) fn flush(&mut self) {
        self.producer.flush();
    }

    fn check_cancelled(&self) -> Result<()> {
        if is_cancelled(&self.words, &self.stop, self.request) {
            return Err(cancelled(self.request));
        }
        Ok(())
    }

    /// Sends a message in one frame, or in as many as it needs.
    fn message<P: Payload + ?Sized>(&mut self, kind: Kind, payload: &P) -> Result<()> {
        let len = payload.encoded_len();
        if len <= self.producer.max_frame() {
            if kind == Kind::CHUNK {
                self.await_credit(span(len))?;
            }
            return self.frame(kind, 0, len, |bytes| payload.encode(bytes));
        }
        if len > self.max_message {
            return Err(Error::too_large(len, self.max_message, "raise max_message"));
        }
        let encoded = Encoded::of(payload, len)?;
        self.whole = as_u64(len);
        let mut pieces = encoded.bytes().chunks(self.producer.piece_len()).peekable();
        let mut flag = 0;
        while let Some(piece) = pieces.next() {
            let more = if pieces.peek().is_some() { flags::MORE } else { 0 };
            if kind == Kind::CHUNK {
                self.await_credit(span(piece.len()))?;
            }
            self.frame(kind, flag | more, piece.len(), |bytes| {
                copy_from_slice(bytes, piece);
                Ok(())
            })?;
            flag = flags::CONTINUED;
        }
        Ok(())
    }

    fn frame(
        &mut self,
        kind: Kind,
        flag: u16,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let mut claim = claim(&mut self.producer, &self.words, &self.stop, self.request, len)?;
        fill(claim.payload())?;
        let aux = std::mem::take(&mut self.whole);
        let header = Header { aux, ..header(kind, self.request, flag) };
        self.bytes_out += as_u64(len);
        if kind == Kind::CHUNK {
            self.words.bytes_out.store(self.bytes_out, Ordering::Relaxed);
            claim.commit(header);
            self.streamed = self.streamed.wrapping_add(span(len));
        } else {
            self.is_finished = flag & flags::MORE == 0;
            if self.is_finished {
                report_end(&self.words, self.bytes_out);
            }
            self.has_rung = claim.commit(header);
        }
        Ok(())
    }

    /// Waits until the reader's credit allows `bytes` more of slots. One chunk is always
    /// allowed when nothing is outstanding.
    fn await_credit(&mut self, bytes: u64) -> Result<()> {
        let (words, stop, request) = (&*self.words, &*self.stop, self.request);
        let after = self.streamed.wrapping_add(bytes);
        let needed =
            if bytes > self.window { self.streamed } else { after.saturating_sub(self.window) };
        if words.requests.credit(request) >= needed {
            return Ok(());
        }
        self.producer.flush();
        let state = words.state.load(Ordering::Relaxed);
        words.state.store(WorkerState::AwaitingCredit.code(), Ordering::Relaxed);
        let waited = self.sleeper.wait_until(&stop.alarm, Deadline::NEVER, true, |step| {
            if is_cancelled(words, stop, request) {
                return Err(cancelled(request));
            }
            match step {
                Step::Announce => {
                    words.credit_need.store(needed, Ordering::Relaxed);
                    words.credit_request.store(request, Ordering::Relaxed);
                    Ok(None)
                }
                Step::Look => Ok((words.requests.credit(request) >= needed).then_some(())),
            }
        });
        words.state.store(state, Ordering::Relaxed);
        waited.map(drop)
    }

    /// Ends the request with an error frame.
    pub(super) fn fail(&mut self, failure: &WorkerFailure) -> Result<()> {
        let bytes = failure::encode(failure, self.producer.max_frame());
        self.last(Kind::ERROR, 0, &bytes)
    }

    /// Ends the request with a cancel frame.
    pub(super) fn cancel(&mut self) -> Result<()> {
        self.last(Kind::CANCEL, 0, &[])
    }

    /// Ends the request, whose deadline passed before it was begun.
    pub(super) fn expire(&mut self) -> Result<()> {
        self.last(Kind::CANCEL, EXPIRED, &[])
    }

    /// Ends the request with an empty result.
    pub(super) fn acknowledge(&mut self) -> Result<()> {
        self.last(Kind::RESULT, 0, &[])
    }

    /// A frame that must go out even if the request is cancelled, for the parent waits
    /// for it before it uses the request's slot again.
    fn last(&mut self, kind: Kind, aux: u64, bytes: &[u8]) -> Result<()> {
        let stop = &*self.stop;
        let claim = self
            .producer
            .claim_until(bytes.len(), &stop.alarm, Deadline::NEVER, || stop.check())?;
        let Some(mut claim) = claim else { return Err(no_space()) };
        copy_from_slice(claim.payload(), bytes);
        self.is_finished = true;
        report_end(&self.words, self.bytes_out);
        self.has_rung = claim.commit(Header { aux, ..header(kind, self.request, 0) });
        Ok(())
    }
}

fn claim<'p>(
    producer: &'p mut Producer,
    words: &WorkerWords,
    stop: &Stop,
    request: u64,
    len: usize,
) -> Result<Claim<'p>> {
    let claim = producer.claim_until(len, &stop.alarm, Deadline::NEVER, || {
        if is_cancelled(words, stop, request) { Err(cancelled(request)) } else { Ok(()) }
    })?;
    claim.ok_or_else(no_space)
}

#[cold]
fn no_space() -> Error {
    Error::corrupt("the parent's head promised space that is not there")
}

/// Brings the status line up to date just before a request's last frame is published:
/// who has seen that frame sees a status in which the request is done. The id of the request
/// stays: if the worker ends before the frame is published, it was begun all the same.
fn report_end(words: &WorkerWords, bytes_out: u64) {
    words.bytes_out.store(bytes_out, Ordering::Relaxed);
    words.served.store(words.served.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    words.state.store(ANSWERED, Ordering::Relaxed);
}

fn header(kind: Kind, request: u64, flags: u16) -> Header {
    Header { kind: kind.code(), flags, request, ..Header::default() }
}
