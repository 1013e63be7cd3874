//! A model of requests and streams, as the documentation describes them, in as little code as
//! possible.

use std::collections::{BTreeMap, VecDeque};

use crate::error::ErrorKind;
use crate::protocol::failure;
use crate::protocol::kind::{Kind, flags};
use crate::shm::layout::as_u64;

/// The longest chunk that a stream reads ahead, in bytes.
const COPIED: usize = 4096;
/// The most chunks, and bytes of chunks, that it reads ahead at a time.
const MOST_CHUNKS: usize = 128;
const MOST_BYTES: usize = 32_768;

/// A frame of the worker that has not been read.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) kind: Kind,
    pub(super) flags: u16,
    pub(super) request: u64,
    pub(super) aux: u64,
    pub(super) payload: Vec<u8>,
}

/// The meaning of a message for the owner of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Out {
    Result(Vec<u8>),
    /// With the credit that it uses.
    Chunk(Vec<u8>, usize),
    End,
    Error(ErrorKind),
}

/// The result of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    Bytes(Vec<u8>),
    /// The stream has ended.
    Over,
    /// Nothing has come yet.
    Nothing,
    Error(ErrorKind),
}

#[derive(Debug, Clone, Default)]
pub(super) struct State {
    is_stream: bool,
    is_owned: bool,
    is_finished: bool,
    /// Whether a chunk was delivered.
    has_begun: bool,
    pub(super) is_cancelled: bool,
    /// Items that another reader has read for the owner, and those that the owner has read ahead.
    mail: VecDeque<Out>,
    ready: VecDeque<Out>,
    pieces: Option<(Kind, Vec<u8>)>,
    /// Bytes of chunks that were received; of pieces that another reader has read; that the reader
    /// took and has not counted; that are counted; that the worker was told of.
    received: u64,
    withheld: u64,
    taken: u64,
    consumed: u64,
    pub(super) credited: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    slots: u64,
    window: u64,
    max_message: usize,
    /// The next id.
    pub(super) next: u64,
    pub(super) requests: BTreeMap<u64, State>,
    pub(super) ring: VecDeque<Sent>,
    pub(super) failed: Option<ErrorKind>,
    pub(super) late: u64,
    pub(super) unknown: u64,
    pub(super) cancels: u64,
}

fn cost_of(len: usize) -> usize {
    (len + 32).div_ceil(64) * 64
}

impl State {
    fn consume(&mut self, bytes: u64, least: u64) {
        self.consumed += bytes;
        if self.consumed - self.credited >= least {
            self.credited = self.consumed;
        }
    }
}

impl Model {
    pub(super) fn new(slots: usize, window: usize, max_message: usize) -> Self {
        let (slots, window) = (u64::try_from(slots).unwrap(), u64::try_from(window).unwrap());
        Self {
            slots,
            window,
            max_message,
            next: 1,
            requests: BTreeMap::new(),
            ring: VecDeque::new(),
            failed: None,
            late: 0,
            unknown: 0,
            cancels: 0,
        }
    }

    pub(super) fn open(&mut self, is_stream: bool) -> Result<u64, ErrorKind> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        if let Some(request) = self.try_open(is_stream) {
            return Ok(request);
        }
        // The ring may hold the last frames of requests that were dropped.
        while let Some(sent) = self.ring.pop_front() {
            if let Err(kind) = self.read(sent, 0) {
                self.failed = Some(kind);
                return Err(kind);
            }
        }
        self.try_open(is_stream).ok_or(ErrorKind::TooManyInFlight)
    }

    fn try_open(&mut self, is_stream: bool) -> Option<u64> {
        // A refused request uses no id.
        while as_u64(self.requests.len()) < self.slots {
            let request = self.next;
            self.next += 1;
            if self.requests.keys().all(|other| other % self.slots != request % self.slots) {
                let state = State { is_stream, is_owned: true, ..State::default() };
                self.requests.insert(request, state);
                return Some(request);
            }
        }
        None
    }

    pub(super) fn in_flight(&self) -> usize {
        self.requests.values().filter(|state| state.is_owned).count()
    }

    /// The owner drops the request.
    pub(super) fn let_go(&mut self, request: u64) {
        let Some(state) = self.requests.get_mut(&request).filter(|s| s.is_owned) else { return };
        state.is_owned = false;
        state.mail.clear();
        if state.is_finished {
            self.requests.remove(&request);
        } else {
            let was_told = std::mem::replace(&mut state.is_cancelled, true);
            self.cancels += u64::from(!was_told);
        }
    }

    pub(super) fn cancel(&mut self, request: u64) {
        let Some(state) = self.requests.get_mut(&request) else { return };
        if state.is_owned && !state.is_finished {
            let was_told = std::mem::replace(&mut state.is_cancelled, true);
            self.cancels += u64::from(!was_told);
        }
    }

    pub(super) fn reply(&mut self, request: u64) -> Told {
        match self.await_item(request) {
            Ok(Some(Out::Result(bytes))) => Told::Bytes(bytes),
            Ok(Some(Out::Error(kind))) | Err(kind) => Told::Error(kind),
            Ok(Some(Out::Chunk(..) | Out::End)) => Told::Error(ErrorKind::Protocol),
            Ok(None) => Told::Nothing,
        }
    }

    pub(super) fn next_chunk(&mut self, request: u64) -> Told {
        let quarter = self.window / 4;
        // A stream that is over has dropped its request, and another may have the slot.
        let Some(state) = self.requests.get_mut(&request).filter(|s| s.is_owned) else {
            return Told::Over;
        };
        let item = match state.ready.pop_front() {
            Some(item) => Ok(Some(item)),
            None => {
                state.ready = std::mem::take(&mut state.mail);
                match state.ready.pop_front() {
                    Some(item) => Ok(Some(item)),
                    None => self.await_item(request),
                }
            }
        };
        let told = match item {
            Ok(Some(Out::Chunk(bytes, cost))) => {
                let eighth = self.window / 8;
                let state = self.requests.get_mut(&request).unwrap();
                state.has_begun = true;
                state.taken += u64::try_from(cost).unwrap();
                if state.taken >= eighth {
                    let taken = std::mem::take(&mut state.taken);
                    state.consume(taken, quarter);
                }
                return Told::Bytes(bytes);
            }
            Ok(Some(Out::End)) => Told::Over,
            Ok(Some(Out::Result(_))) => Told::Error(ErrorKind::Protocol),
            Ok(Some(Out::Error(kind))) | Err(kind) => Told::Error(kind),
            // The worker here does not publish what it serves: only a chunk tells that the request
            // is begun.
            Ok(None) if self.requests.get(&request).is_some_and(|state| state.has_begun) => {
                Told::Error(ErrorKind::Stalled)
            }
            Ok(None) => Told::Error(ErrorKind::Timeout),
        };
        self.let_go(request);
        told
    }

    /// The owner looks for an item of its own, and reads the ring for all until it has one.
    fn await_item(&mut self, request: u64) -> Result<Option<Out>, ErrorKind> {
        if let Some(item) = self.requests.get_mut(&request).and_then(|s| s.mail.pop_front()) {
            return Ok(Some(item));
        }
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        loop {
            if let Some(item) = self.take_run(request)? {
                return Ok(Some(item));
            }
            let Some(sent) = self.ring.pop_front() else { break };
            match self.read(sent, request) {
                Ok(None) => {}
                Ok(item) => return Ok(item),
                Err(kind) => {
                    self.failed = Some(kind);
                    return Err(kind);
                }
            }
        }
        if let Some(state) = self.requests.get_mut(&request).filter(|s| s.is_stream) {
            let uncounted = std::mem::take(&mut state.withheld) + std::mem::take(&mut state.taken);
            state.consume(uncounted, 1);
        }
        Ok(None)
    }

    /// Reads the short chunks of a stream that come next, and returns the first.
    fn take_run(&mut self, request: u64) -> Result<Option<Out>, ErrorKind> {
        if self.requests.get(&request).is_none_or(|state| !state.is_stream) {
            return Ok(None);
        }
        let (mut run, mut bytes) = (VecDeque::new(), 0);
        let mut failed = None;
        while run.len() < MOST_CHUNKS && bytes < MOST_BYTES && failed.is_none() {
            let room = COPIED.min(MOST_BYTES - bytes);
            let is_next = |sent: &Sent| {
                let is_own = sent.request == request && sent.kind == Kind::CHUNK && sent.flags == 0;
                is_own && sent.payload.len() <= room
            };
            if !self.ring.front().is_some_and(is_next) {
                break;
            }
            let Some(sent) = self.ring.pop_front() else { break };
            bytes += sent.payload.len();
            match self.read(sent, request) {
                Ok(item) => run.extend(item),
                Err(kind) => failed = Some(kind),
            }
        }
        if let Some(kind) = failed {
            // The first cause stays; the chunks before it are still delivered.
            let kind = *self.failed.get_or_insert(kind);
            if run.is_empty() {
                return Err(kind);
            }
        }
        let first = run.pop_front();
        if let Some(state) = self.requests.get_mut(&request).filter(|_| first.is_some()) {
            state.ready = run;
        }
        Ok(first)
    }

    /// Reads a frame for its request. Returns the item if that is `own`.
    fn read(&mut self, sent: Sent, own: u64) -> Result<Option<Out>, ErrorKind> {
        let Sent { kind, flags, request, aux, payload } = sent;
        let allowed = match kind {
            Kind::RESULT | Kind::CHUNK => flags::MORE | flags::CONTINUED,
            Kind::END | Kind::ERROR | Kind::CANCEL => 0,
            _ => return Err(ErrorKind::PeerCorrupt),
        };
        if flags & !allowed != 0 {
            return Err(ErrorKind::PeerCorrupt);
        }
        let is_failure = kind == Kind::ERROR && failure::decode(&payload).is_ok();
        if request == 0 {
            return Err(if is_failure { ErrorKind::Session } else { ErrorKind::PeerCorrupt });
        }
        let has_more = flags & flags::MORE != 0;
        let is_last = kind != Kind::CHUNK && !has_more;
        let Some(state) = self.requests.get_mut(&request).filter(|s| !s.is_finished) else {
            self.unknown += 1;
            return Ok(None);
        };
        state.is_finished = is_last;
        if !state.is_owned {
            self.late += 1;
            if is_last {
                self.requests.remove(&request);
            }
            return Ok(None);
        }
        let mut cost = cost_of(payload.len());
        if kind == Kind::CHUNK {
            // One window of chunks, or one longer chunk if no other is on its way.
            let before = state.received;
            state.received += u64::try_from(cost).unwrap();
            let is_alone = before <= state.credited;
            if state.received > state.credited + self.window && !is_alone {
                return Err(ErrorKind::PeerCorrupt);
            }
        }
        let is_continued = flags & flags::CONTINUED != 0;
        if !is_continued {
            state.pieces = has_more.then(|| (kind, Vec::new()));
        }
        let bytes = match has_more || is_continued {
            true => {
                let begun = state.pieces.as_mut().filter(|(first, _)| *first == kind);
                let (_, pieces) = begun.ok_or(ErrorKind::PeerCorrupt)?;
                pieces.extend_from_slice(&payload);
                if pieces.len() > self.max_message {
                    return Err(ErrorKind::PeerCorrupt);
                }
                if has_more {
                    if kind == Kind::CHUNK && state.mail.is_empty() {
                        let withheld = std::mem::take(&mut state.withheld);
                        state.consume(u64::try_from(cost).unwrap() + withheld, 1);
                    } else if kind == Kind::CHUNK {
                        state.withheld += u64::try_from(cost).unwrap();
                    }
                    return Ok(None);
                }
                if kind == Kind::CHUNK {
                    cost += usize::try_from(std::mem::take(&mut state.withheld)).unwrap();
                }
                state.pieces.take().map_or_else(Vec::new, |(_, bytes)| bytes)
            }
            false => payload,
        };
        let out = match kind {
            Kind::CHUNK if state.is_stream => Out::Chunk(bytes, cost),
            Kind::RESULT if !state.is_stream => Out::Result(bytes),
            Kind::END if state.is_stream => Out::End,
            Kind::CANCEL if aux == 1 => Out::Error(ErrorKind::Timeout),
            Kind::CANCEL => Out::Error(ErrorKind::Cancelled),
            Kind::ERROR if is_failure => Out::Error(ErrorKind::HandlerFailed),
            _ => Out::Error(ErrorKind::Protocol),
        };
        if request == own {
            return Ok(Some(out));
        }
        state.mail.push_back(out);
        Ok(None)
    }

    /// Checks that a stream without a reader keeps a bounded amount: one window and one message.
    pub(super) fn check_caps(&self) {
        for state in self.requests.values() {
            let len = |out: &Out| if let Out::Chunk(bytes, _) = out { bytes.len() } else { 0 };
            let mail: usize = state.mail.iter().map(len).sum();
            let window = usize::try_from(self.window).unwrap();
            let pieces = state.pieces.as_ref().map_or(0, |(_, bytes)| bytes.len());
            assert!(mail + pieces <= window + 2 * self.max_message);
        }
    }
}
