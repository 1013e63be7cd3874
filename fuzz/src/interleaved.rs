//! A worker of many requests answers them in any order, piece by piece, and the parent reads each
//! of them when it likes: each request gets what its own responder has sent, and no more.
//!
//! The input decides everything that happens: replies and chunks are futures that are polled when
//! it says so, and so are their pieces interleaved. Nothing depends on the thread that takes
//! requests, except when an ending comes that found no room.

mod request;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use request::{Reader, Request};
use slipring::worker::{Incoming, TrySend, Worker};
use slipring::{Channel, Config, ErrorKind, Kind, RoleConfig, StreamTimeouts, testing};

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
                .map(|stream| (stream.id(), Reader::Stream(Box::new(stream)))),
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
        self.requests.push(Request::new(id, responder, reader));
    }

    /// Whether a slot is claimed, behind which the parent reads nothing.
    fn has_slots(&self) -> bool {
        self.requests.iter().any(Request::has_slot)
    }

    /// Compares what the parent sees of all requests with what the worker did.
    fn compare(&self) {
        let health = self.channel.health();
        self.requests.iter().for_each(|request| request.compare(&health));
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

/// A payload that no other is like.
fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|n| seed ^ n.to_le_bytes().iter().fold(0, |sum, byte| sum ^ byte)).collect()
}
