//! A worker of many requests answers them in any order, piece by piece, and the parent reads each
//! of them when it likes: each request gets what its own responder has sent, and no more.
//!
//! The input decides everything that happens: replies and chunks are futures that are polled when
//! it says so, and so are their pieces interleaved. Nothing depends on the thread that takes
//! requests, except when an ending comes that found no room.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slipring::worker::{ChunkMerger, Incoming, OwnedResponder, OwnedSlot, TrySend, Worker};
use slipring::{
    Channel, Config, Error, ErrorKind, Kind, Pending, RequestId, RequestStage, Result, RoleConfig,
    Stream, StreamTimeouts, testing,
};

const WORK: Kind = Kind::named("work");
const LONG: Duration = Duration::from_secs(60);
const MOST_STEPS: usize = 400;
const RING: usize = 4096;
const MAX_FRAME: usize = RING / 2 - 32;
/// How much a stream may be ahead of its reader, in bytes of slots.
const WINDOW: usize = 2048;
const MAX_IN_FLIGHT: usize = 4;
const MAX_MESSAGE: usize = 9000;
/// The limit of what a merger keeps.
const MAX_UNSENT: usize = 700;

/// Takes numbers from the input. Beyond its end they are zero.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A length of at most `most`.
    fn len(&mut self, most: usize) -> usize {
        usize::from(u16::from_le_bytes([self.u8(), self.u8()])) % (most + 1)
    }
}

/// What the reader of a request is to get next.
enum Expected {
    Reply(Vec<u8>),
    Chunk(Vec<u8>),
    /// In chunks of any length.
    Merged(Vec<u8>),
    End,
    /// An error of the worker's, of this type.
    Failed(&'static str),
    Cancelled,
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply(bytes) => write!(f, "a reply of {} bytes", bytes.len()),
            Self::Chunk(bytes) => write!(f, "a chunk of {} bytes", bytes.len()),
            Self::Merged(bytes) => write!(f, "{} bytes of chunks", bytes.len()),
            Self::End => f.write_str("the end"),
            Self::Failed(type_name) => write!(f, "an error of the type {type_name}"),
            Self::Cancelled => f.write_str("the end of what is cancelled"),
        }
    }
}

type Task<T> = Pin<Box<dyn Future<Output = T>>>;

/// What the worker has of a request.
enum Answer {
    Idle(OwnedResponder),
    /// A reply that is being sent.
    Reply(Task<Result<()>>, Vec<u8>),
    /// A chunk that is being sent.
    Chunk(Task<(OwnedResponder, Result<()>)>, Vec<u8>),
    /// A slot that is being claimed.
    Claim(Task<Result<OwnedSlot>>),
    Slot(OwnedSlot),
    Merger(ChunkMerger),
    Over,
}

enum Reader {
    Call(Pending),
    Stream(Stream),
    Gone,
}

/// One request, with what both sides have of it.
struct Request {
    id: RequestId,
    answer: Answer,
    reader: Reader,
    /// What was sent and not read.
    sent: VecDeque<Expected>,
    is_cancelled: bool,
    is_begun: bool,
    progress: u64,
}

struct Play {
    channel: Channel,
    given: mpsc::Receiver<Incoming>,
    requests: Vec<Request>,
    /// The seed of the next payload.
    next: u8,
}

/// Runs any sequence of answers and looks.
///
/// # Panics
///
/// If a request gets what it was not sent, or does not get what it was sent.
pub fn interleaved(data: &[u8]) {
    let mut input = Input(data);
    let mut play = Play::new();
    for _ in 0..MOST_STEPS {
        if input.0.is_empty() {
            break;
        }
        play.step(&mut input);
        play.compare();
    }
    play.finish();
}

impl Play {
    fn new() -> Self {
        let config = Config::builder()
            .request_ring(RING)
            .reply_ring(RING)
            .max_request_frame(MAX_FRAME)
            .max_reply_frame(MAX_FRAME)
            .stream_window(WINDOW)
            .max_message(MAX_MESSAGE)
            .max_in_flight(MAX_IN_FLIGHT)
            .build()
            .expect("a valid configuration");
        let (give, given) = mpsc::channel();
        let make = move || {
            Worker::new(|_| Ok(())).inbox(move |(), inbox| {
                loop {
                    give.send(inbox.recv()?)?;
                }
            })
        };
        let channel = testing::spawn_thread(&config, RoleConfig::default(), make);
        let channel = channel.expect("memory and a thread");
        Self { channel, given, requests: Vec::new(), next: 0 }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let what = input.u8() % 24;
        if what < 3 {
            return self.ask(what > 0, input);
        }
        let Some(index) = usize::from(input.u8()).checked_rem(self.requests.len()) else { return };
        self.next = self.next.wrapping_add(1);
        let (seed, has_slots) = (self.next, self.has_slots());
        let Some(request) = self.requests.get_mut(index) else { return };
        match what {
            3 => request.begin(),
            4 => request.set_progress(input.u8()),
            5..=7 => request.try_answer(bytes(seed, input.len(MAX_FRAME))),
            8..=10 => request.answer(bytes(seed, input.len(MAX_MESSAGE))),
            11 | 12 => request.poll(),
            13 => request.give_up(),
            14 => request.claim(input.len(MAX_FRAME)),
            15 => request.fill(seed, input.u8().is_multiple_of(4)),
            16 => request.end(),
            17 => request.merge(&bytes(seed, input.len(900))),
            18 => request.leave_merger(),
            19..=21 => request.look(!has_slots),
            22 => request.cancel(),
            _ => request.leave(),
        }
        self.requests.retain(|request| !request.is_over());
    }

    /// Sends a request, which the worker takes at once.
    fn ask(&mut self, is_stream: bool, input: &mut Input<'_>) {
        self.next = self.next.wrapping_add(1);
        let payload = bytes(self.next, input.len(MAX_FRAME));
        let sent = match is_stream {
            true => self
                .channel
                .stream(WORK, &payload, StreamTimeouts::from(LONG))
                .map(|stream| (stream.id(), Reader::Stream(stream))),
            false => self
                .channel
                .submit(WORK, &payload, LONG)
                .map(|pending| (pending.id(), Reader::Call(pending))),
        };
        let (id, reader) = match sent {
            Ok(sent) => sent,
            // The last frames of earlier requests may be behind a slot that is not filled.
            Err(error) => return assert_eq!(error.kind(), ErrorKind::TooManyInFlight, "{error}"),
        };
        let Incoming { request, responder } =
            self.given.recv_timeout(LONG).expect("the worker takes requests");
        assert_eq!((request.id(), responder.request()), (id, id));
        assert_eq!(responder.is_stream(), is_stream);
        assert_eq!(request.get().to_vec(), payload);
        self.requests.push(Request {
            id,
            answer: Answer::Idle(responder),
            reader,
            sent: VecDeque::new(),
            is_cancelled: false,
            is_begun: false,
            progress: 0,
        });
    }

    /// Whether a slot is claimed, behind which the parent reads nothing.
    fn has_slots(&self) -> bool {
        self.requests.iter().any(|request| matches!(request.answer, Answer::Slot(_)))
    }

    /// Compares what the parent sees of all requests with what the worker did.
    fn compare(&self) {
        let health = self.channel.health();
        for request in self.requests.iter().filter(|r| !matches!(r.answer, Answer::Over)) {
            let found = health.requests.iter().find(|found| found.id == request.id);
            let found = found.expect("health shows each request without an answer");
            let is_begun = found.stage == RequestStage::Begun;
            assert_eq!((is_begun, found.progress), (request.is_begun, request.progress));
        }
        assert_eq!(self.channel.stats().unknown_frames, 0);
    }

    /// Answers and reads all that is left. Each request ends, and nothing is left behind.
    fn finish(mut self) {
        let start = Instant::now();
        while !self.requests.is_empty() {
            assert!(start.elapsed() < LONG, "requests that never end");
            for request in &mut self.requests {
                request.poll();
                request.fill(1, false);
                request.end();
            }
            let has_slots = self.has_slots();
            self.requests.iter_mut().for_each(|request| request.look(!has_slots));
            self.requests.retain(|request| !request.is_over());
        }
        let is_as_new = || {
            let health = self.channel.health();
            (health.taken, health.begun, self.channel.in_flight()) == (0, 0, 0)
        };
        // Endings of requests whose readers have left may wait for room until the parent reads.
        while !is_as_new() {
            assert!(start.elapsed() < LONG, "something is left: {:?}", self.channel.health());
            self.call();
        }
        // The places of all requests can be used again.
        let pending: Vec<_> = (0..MAX_IN_FLIGHT)
            .map(|_| self.channel.submit(WORK, "", LONG).expect("a place"))
            .collect();
        for _ in &pending {
            let incoming = self.given.recv_timeout(LONG).expect("the worker takes requests");
            incoming.responder.send("").expect("room");
        }
        for pending in pending {
            assert!(pending.wait().expect("a reply").to_vec().is_empty());
        }
        let stats = self.channel.stats();
        assert_eq!((stats.unknown_frames, stats.leases_held), (0, 0));
    }

    /// Makes a call, if there is a place for it.
    fn call(&self) {
        let Ok(mut pending) = self.channel.submit(WORK, "", LONG) else { return };
        let incoming = self.given.recv_timeout(LONG).expect("the worker takes requests");
        let mut unsent = Some(incoming.responder);
        while let Some(responder) = unsent.take() {
            // Reads, so that there is room.
            assert!(pending.try_wait().expect("no error").is_none());
            if let TrySend::Full(responder) = responder.try_send("").expect("no error") {
                unsent = Some(responder);
            }
        }
        pending.wait().expect("a reply");
    }
}

impl Request {
    fn is_over(&self) -> bool {
        matches!((&self.answer, &self.reader), (Answer::Over, Reader::Gone))
    }

    fn is_stream(&self) -> bool {
        match (&self.reader, &self.answer) {
            (Reader::Stream(_), _) | (_, Answer::Chunk(..) | Answer::Merger(_)) => true,
            (_, Answer::Idle(responder)) => responder.is_stream(),
            _ => false,
        }
    }

    /// The responder, if nothing is being sent.
    fn take_idle(&mut self) -> Option<OwnedResponder> {
        match std::mem::replace(&mut self.answer, Answer::Over) {
            Answer::Idle(responder) => Some(responder),
            other => {
                self.answer = other;
                None
            }
        }
    }

    /// The last item is sent.
    fn ends_with(&mut self, last: Expected) {
        self.answer = Answer::Over;
        self.sent.push_back(last);
    }

    /// The responder was dropped.
    fn is_dropped(&mut self) {
        self.ends_with(match self.is_cancelled {
            true => Expected::Cancelled,
            false => Expected::Failed("slipring::NoReply"),
        });
    }

    fn begin(&mut self) {
        if let Answer::Idle(responder) = &mut self.answer {
            responder.begin();
            assert!(responder.is_begun());
            self.is_begun = true;
        }
    }

    fn set_progress(&mut self, progress: u8) {
        if let Answer::Idle(responder) = &self.answer {
            self.progress = progress.into();
            responder.set_progress(self.progress);
        }
    }

    /// Sends a reply or a chunk if there is room.
    fn try_answer(&mut self, payload: Vec<u8>) {
        let Some(mut responder) = self.take_idle() else { return };
        if !responder.is_stream() {
            self.is_begun = true;
            match responder.try_send(&payload).expect("it fits a frame") {
                TrySend::Full(responder) => self.answer = Answer::Idle(responder),
                TrySend::Sent => self.ends_with(Expected::Reply(payload)),
            }
            return;
        }
        self.is_begun |= !self.is_cancelled;
        match responder.try_send_chunk(&payload) {
            Ok(true) => {
                self.sent.push_back(Expected::Chunk(payload));
                self.check_window();
            }
            Ok(false) => {}
            Err(error) => self.check_cancel(&error),
        }
        self.answer = Answer::Idle(responder);
    }

    /// Checks that a stream is no more than its window ahead of its reader.
    fn check_window(&self) {
        let span = |sent: &Expected| match sent {
            Expected::Chunk(bytes) if bytes.len() <= MAX_FRAME => {
                (bytes.len() + 32).div_ceil(64) * 64
            }
            _ => 0,
        };
        let (unread, count) = (self.sent.iter().map(span).sum::<usize>(), self.sent.len());
        assert!(unread <= WINDOW || count == 1, "{unread} bytes are ahead of the reader");
    }

    fn check_cancel(&self, error: &Error) {
        assert!(self.is_cancelled && error.is_cancelled(), "{error}");
    }

    /// Begins to send a reply or a chunk, in pieces if it is long.
    fn answer(&mut self, payload: Vec<u8>) {
        let Some(mut responder) = self.take_idle() else { return };
        let bytes = payload.clone();
        self.answer = match responder.is_stream() {
            true => {
                let sending = async move {
                    let sent = responder.send_chunk_async(&bytes).await;
                    (responder, sent)
                };
                Answer::Chunk(Box::pin(sending), payload)
            }
            false => {
                let sending = async move { responder.send_async(&bytes).await };
                Answer::Reply(Box::pin(sending), payload)
            }
        };
        self.poll();
    }

    fn claim(&mut self, len: usize) {
        if self.is_stream() {
            return;
        }
        let Some(responder) = self.take_idle() else { return };
        self.answer = Answer::Claim(Box::pin(responder.claim_async(len)));
        self.poll();
    }

    /// Goes on with what is being sent.
    fn poll(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        match std::mem::replace(&mut self.answer, Answer::Over) {
            Answer::Reply(mut sending, payload) => {
                self.is_begun = true;
                match sending.as_mut().poll(&mut context) {
                    Poll::Pending => self.answer = Answer::Reply(sending, payload),
                    Poll::Ready(Ok(())) => self.ends_with(Expected::Reply(payload)),
                    Poll::Ready(Err(error)) => {
                        self.check_cancel(&error);
                        self.ends_with(Expected::Cancelled);
                    }
                }
            }
            Answer::Chunk(mut sending, payload) => match sending.as_mut().poll(&mut context) {
                Poll::Pending => {
                    self.is_begun = true;
                    self.answer = Answer::Chunk(sending, payload);
                }
                Poll::Ready((responder, sent)) => {
                    self.is_begun |= responder.is_begun();
                    match sent {
                        Ok(()) => self.sent.push_back(Expected::Chunk(payload)),
                        Err(error) => self.check_cancel(&error),
                    }
                    self.answer = Answer::Idle(responder);
                }
            },
            Answer::Claim(mut claiming) => {
                self.is_begun = true;
                match claiming.as_mut().poll(&mut context) {
                    Poll::Pending => self.answer = Answer::Claim(claiming),
                    Poll::Ready(Ok(slot)) => self.answer = Answer::Slot(slot),
                    Poll::Ready(Err(error)) => {
                        self.check_cancel(&error);
                        self.ends_with(Expected::Cancelled);
                    }
                }
            }
            other => self.answer = other,
        }
    }

    /// Drops what is being sent, or the responder.
    fn give_up(&mut self) {
        match std::mem::replace(&mut self.answer, Answer::Over) {
            Answer::Over => {}
            Answer::Merger(merger) => {
                self.forget_unsent(merger.unsent());
                let is_open = merger.responder().is_some();
                drop(merger);
                if is_open {
                    self.is_dropped();
                }
            }
            other => {
                drop(other);
                self.is_dropped();
            }
        }
    }

    /// Sends the slot, or gives it back.
    fn fill(&mut self, seed: u8, is_given_back: bool) {
        match std::mem::replace(&mut self.answer, Answer::Over) {
            Answer::Slot(slot) if is_given_back => {
                drop(slot);
                self.is_dropped();
            }
            Answer::Slot(mut slot) => {
                let payload = bytes(seed, slot.payload().len());
                slot.payload().copy_from_slice(&payload);
                slot.send().expect("this is no fork");
                self.ends_with(Expected::Reply(payload));
            }
            other => self.answer = other,
        }
    }

    /// Ends a stream, or fails a call.
    fn end(&mut self) {
        if let Answer::Merger(merger) = &mut self.answer {
            let (was_open, unsent) = (merger.responder().is_some(), merger.unsent());
            merger.finish();
            if was_open && merger.responder().is_none() {
                // What is cancelled sends nothing more than its end.
                let is_cut = self.is_cancelled && unsent > 0;
                if is_cut {
                    self.forget_unsent(unsent);
                }
                self.ends_with(if is_cut { Expected::Cancelled } else { Expected::End });
            }
            return;
        }
        let Some(responder) = self.take_idle() else { return };
        match responder.is_stream() {
            true => {
                responder.end().expect("this is no fork");
                self.ends_with(Expected::End);
            }
            false => {
                responder.fail("it has no answer");
                self.ends_with(Expected::Failed("error"));
            }
        }
    }

    /// Sends bytes of a stream whose chunks may be merged.
    fn merge(&mut self, bytes: &[u8]) {
        if let Some(responder) = self.take_idle() {
            self.answer = match responder.is_stream() {
                true => Answer::Merger(ChunkMerger::new(responder, MAX_UNSENT)),
                false => Answer::Idle(responder),
            };
        }
        let Answer::Merger(merger) = &mut self.answer else { return };
        let before = merger.unsent();
        let is_pushed = merger.push(bytes);
        let most = if is_pushed { MAX_UNSENT.max(bytes.len()) } else { before };
        assert!(merger.unsent() <= most, "{} bytes are kept", merger.unsent());
        self.is_begun |= merger.responder().is_none_or(OwnedResponder::is_begun);
        if merger.responder().is_none() {
            assert!(self.is_cancelled, "only a cancel ends a stream");
            self.forget_unsent(before);
            return self.ends_with(Expected::Cancelled);
        }
        if is_pushed {
            match self.sent.back_mut() {
                Some(Expected::Merged(all)) => all.extend_from_slice(bytes),
                _ => self.sent.push_back(Expected::Merged(bytes.to_vec())),
            }
        }
    }

    /// Goes on with the responder of a merger, without what it keeps.
    fn leave_merger(&mut self) {
        match std::mem::replace(&mut self.answer, Answer::Over) {
            Answer::Merger(merger) => {
                self.forget_unsent(merger.unsent());
                self.answer = merger.into_responder().map_or(Answer::Over, Answer::Idle);
            }
            other => self.answer = other,
        }
    }

    fn forget_unsent(&mut self, unsent: usize) {
        if let Some(Expected::Merged(all)) = self.sent.back_mut() {
            all.truncate(all.len() - unsent);
        }
    }

    /// The parent looks for what comes next. `is_readable` says that nothing holds up what was sent.
    fn look(&mut self, is_readable: bool) {
        let found = match &mut self.reader {
            Reader::Gone => return,
            Reader::Call(pending) => match pending.try_wait() {
                Ok(Some(reply)) => Ok(Some(reply.into_vec())),
                Ok(None) => return self.check_nothing(is_readable),
                Err(error) => Err(error),
            },
            Reader::Stream(stream) => match stream.try_next_chunk() {
                Ok(Poll::Ready(chunk)) => Ok(chunk.map(|chunk| chunk.to_vec())),
                Ok(Poll::Pending) => return self.check_nothing(is_readable),
                Err(error) => Err(error),
            },
        };
        while matches!(self.sent.front(), Some(Expected::Merged(rest)) if rest.is_empty()) {
            self.sent.pop_front();
        }
        let expected = self.sent.pop_front();
        match (found, expected) {
            (Ok(Some(reply)), Some(Expected::Reply(expected))) => {
                assert!(reply == expected, "another reply");
                self.reader = Reader::Gone;
            }
            (Ok(Some(chunk)), Some(Expected::Chunk(expected))) => {
                assert!(chunk == expected, "another chunk");
            }
            (Ok(Some(chunk)), Some(Expected::Merged(mut expected))) => {
                assert!(!chunk.is_empty() && expected.starts_with(&chunk), "other bytes");
                self.sent.push_front(Expected::Merged(expected.split_off(chunk.len())));
            }
            (Ok(None), Some(Expected::End)) => self.reader = Reader::Gone,
            (Err(error), Some(Expected::Cancelled)) => {
                assert!(error.is_cancelled(), "{error}");
                self.reader = Reader::Gone;
            }
            (Err(error), Some(Expected::Failed(type_name))) => {
                let failure = error.handler_failure().expect("the handler has failed");
                assert_eq!(failure.type_name, type_name, "{error}");
                self.reader = Reader::Gone;
            }
            (found, expected) => {
                let found = found.map(|bytes| bytes.map(|bytes| bytes.len()));
                panic!("{expected:?} was sent, {found:?} bytes have come");
            }
        }
    }

    /// Nothing has come: nothing was sent, or it is held up.
    fn check_nothing(&self, is_readable: bool) {
        let is_there = matches!(self.sent.front(), Some(Expected::Reply(_) | Expected::Chunk(_)));
        assert!(!is_there || !is_readable, "{:?} was sent, nothing has come", self.sent.front());
    }

    fn cancel(&mut self) {
        match &self.reader {
            Reader::Gone => return,
            Reader::Call(pending) => pending.cancel(),
            Reader::Stream(stream) => stream.cancel(),
        }
        self.is_cancelled = true;
    }

    /// The reader leaves.
    fn leave(&mut self) {
        if !matches!(self.reader, Reader::Gone) {
            self.reader = Reader::Gone;
            self.is_cancelled = true;
            self.sent.clear();
        }
    }
}

/// A payload that no other is like.
fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|n| seed ^ n.to_le_bytes().iter().fold(0, |sum, byte| sum ^ byte)).collect()
}
