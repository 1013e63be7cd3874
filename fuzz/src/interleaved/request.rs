//! One request: what the worker does with it, what its reader gets, and what that is compared with.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use slipring::worker::{ChunkMerger, OwnedResponder, OwnedSlot, TrySend};
use slipring::{Error, Health, Pending, RequestId, RequestStage, Result, Stream};

use super::{MAX_FRAME, MAX_UNSENT, WINDOW, bytes};

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

pub(super) enum Reader {
    Call(Pending),
    Stream(Box<Stream>),
    Gone,
}

/// One request, with what both sides have of it.
pub(super) struct Request {
    id: RequestId,
    answer: Answer,
    reader: Reader,
    /// What was sent and not read.
    sent: VecDeque<Expected>,
    is_cancelled: bool,
    is_begun: bool,
    progress: u64,
}

impl Request {
    pub(super) fn new(id: RequestId, responder: OwnedResponder, reader: Reader) -> Self {
        Self {
            id,
            answer: Answer::Idle(responder),
            reader,
            sent: VecDeque::new(),
            is_cancelled: false,
            is_begun: false,
            progress: 0,
        }
    }

    /// Whether a slot is claimed, behind which the parent reads nothing.
    pub(super) fn has_slot(&self) -> bool {
        matches!(self.answer, Answer::Slot(_))
    }

    /// Compares what the parent sees of the request with what the worker did.
    pub(super) fn compare(&self, health: &Health) {
        if matches!(self.answer, Answer::Over) {
            return;
        }
        let found = health.requests.iter().find(|found| found.id == self.id);
        let found = found.expect("health shows each request without an answer");
        let is_begun = found.stage == RequestStage::Begun;
        assert_eq!((is_begun, found.progress), (self.is_begun, self.progress));
    }

    pub(super) fn is_over(&self) -> bool {
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

    pub(super) fn begin(&mut self) {
        if let Answer::Idle(responder) = &mut self.answer {
            responder.begin();
            assert!(responder.is_begun());
            self.is_begun = true;
        }
    }

    pub(super) fn set_progress(&mut self, progress: u8) {
        if let Answer::Idle(responder) = &self.answer {
            self.progress = progress.into();
            responder.set_progress(self.progress);
        }
    }

    /// Sends a reply or a chunk if there is room.
    pub(super) fn try_answer(&mut self, payload: Vec<u8>) {
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
    pub(super) fn answer(&mut self, payload: Vec<u8>) {
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

    pub(super) fn claim(&mut self, len: usize) {
        if self.is_stream() {
            return;
        }
        let Some(responder) = self.take_idle() else { return };
        self.answer = Answer::Claim(Box::pin(responder.claim_async(len)));
        self.poll();
    }

    /// Goes on with what is being sent.
    pub(super) fn poll(&mut self) {
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
    pub(super) fn give_up(&mut self) {
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
    pub(super) fn fill(&mut self, seed: u8, is_given_back: bool) {
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
    pub(super) fn end(&mut self) {
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
    pub(super) fn merge(&mut self, bytes: &[u8]) {
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
    pub(super) fn leave_merger(&mut self) {
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
    pub(super) fn look(&mut self, is_readable: bool) {
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

    pub(super) fn cancel(&mut self) {
        match &self.reader {
            Reader::Gone => return,
            Reader::Call(pending) => pending.cancel(),
            Reader::Stream(stream) => stream.cancel(),
        }
        self.is_cancelled = true;
    }

    /// The reader leaves.
    pub(super) fn leave(&mut self) {
        if !matches!(self.reader, Reader::Gone) {
            self.reader = Reader::Gone;
            self.is_cancelled = true;
            self.sent.clear();
        }
    }
}
