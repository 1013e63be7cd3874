//! A hostile worker that does what the input says, against a channel that is in use.

use std::collections::{BTreeMap, VecDeque};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::peer::{Input, Rig, origin, tiny};
use crate::channel::{Channel, Pending, Reply, Stream, StreamTimeouts};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::Kind;
use crate::shm::layout::{as_usize, control};
use crate::trace_context::TraceContext;
use crate::worker::Worker;

const MOST_STEPS: usize = 256;
/// No step takes a thousandth of this if nothing hangs.
const HANGING: Duration = Duration::from_secs(5);
/// The errors of a channel that is over. A frame for request 0 says that the worker has no
/// session.
const OVER: [ErrorKind; 4] =
    [ErrorKind::Closed, ErrorKind::PeerDied, ErrorKind::PeerCorrupt, ErrorKind::Session];

/// Messages that were sent to a request through the honest producer.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) whole: VecDeque<Vec<u8>>,
    pub(super) pieces: Vec<u8>,
}

pub(super) struct Play {
    pub(super) rig: Rig,
    calls: Vec<Pending>,
    /// Each with whether it is over.
    streams: Vec<(Stream, bool)>,
    /// Replies that are kept, and their content.
    kept: Vec<(Reply, Vec<u8>)>,
    /// Requests that the worker took and has not answered.
    pub(super) taken: VecDeque<u64>,
    pub(super) newest: u64,
    /// By request; only those that were open when the message was sent.
    pub(super) sent: BTreeMap<u64, Sent>,
    /// Whether the worker has tampered with the ring up, and with the head of the ring down.
    pub(super) has_forged_up: bool,
    pub(super) has_forged_down: bool,
    is_corrupt: bool,
}

/// Runs a hostile worker while the parent uses its channel. Each operation must end soon, in one
/// outcome of a documented kind.
pub fn hostile_peer(data: &[u8]) {
    let mut input = Input(data);
    let how = input.u8();
    let rig = Rig::new(&tiny(origin(how), 4), how & 4 != 0);
    let mut play = Play {
        rig,
        calls: Vec::new(),
        streams: Vec::new(),
        kept: Vec::new(),
        taken: VecDeque::new(),
        newest: 0,
        sent: BTreeMap::new(),
        has_forged_up: false,
        has_forged_down: false,
        is_corrupt: false,
    };
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        let begun = Instant::now();
        play.step(&mut input);
        assert!(begun.elapsed() < HANGING, "a step took {:?}", begun.elapsed());
        play.check();
    }
    play.end();
    check_the_other_channel();
}

/// Checks that another channel of this process is not affected.
fn check_the_other_channel() {
    static HONEST: LazyLock<Channel> = LazyLock::new(|| {
        let worker = || {
            Worker::new(|_| Ok(()))
                .on(Kind::EMBED, |(), request, responder| Ok(responder.send(&request.to_vec())?))
        };
        crate::testing::spawn_thread(&Config::small(), Default::default(), worker).unwrap()
    });
    let reply = HONEST.call(Kind::EMBED, b"untouched", Duration::from_secs(60)).unwrap();
    assert_eq!(reply.to_vec(), b"untouched");
    assert_eq!(HONEST.stats().unknown_frames, 0);
}

fn timeout(choice: u8) -> Duration {
    Duration::from_micros(if choice % 8 == 7 { 100 } else { 0 })
}

impl Play {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 32 {
            0..=3 => self.send_frame(input),
            4 | 5 => self.answer(input),
            6 | 7 => self.take_requests(input),
            8 => self.poke(input),
            9 | 10 => self.forge_frame(input),
            11 => self.forge_bytes(input),
            12 => self.forge_head(input),
            13 => self.ring_bell(input),
            14 => self.serve_health(input),
            15 => self.touch_wake_fd(input),
            16 | 17 => self.submit(input),
            18 => self.open_stream(input),
            19 | 20 => self.wait(input),
            21 => self.try_wait(input),
            22..=24 => self.next_chunk(input),
            25 => self.drop_one(input),
            26 => self.cancel_one(input),
            27 => self.write_message(input),
            28 => self.look(input),
            29 => self.ping(input),
            30 => self.storm(input),
            _ => self.end_it(input),
        }
    }

    /// Checks that the counts and states of the channel are consistent.
    fn check(&mut self) {
        let open = self.streams.iter().filter(|(_, is_over)| !is_over).count();
        assert_eq!(self.rig.channel.in_flight(), self.calls.len() + open);
        if self.is_corrupt {
            assert!(!self.rig.channel.is_alive());
        }
        if !self.has_forged_up {
            for (reply, held) in &self.kept {
                assert_eq!(reply.to_vec(), *held, "a slot that is leased is not written");
            }
        }
    }

    fn end(mut self) {
        if self.is_corrupt {
            let error = self.rig.channel.submit(Kind::EMBED, b"", Duration::ZERO).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PeerCorrupt, "for good");
        }
        self.calls.clear();
        self.streams.clear();
        assert_eq!(self.rig.channel.in_flight(), 0);
        self.rig.channel.close(Duration::ZERO).unwrap();
        assert!(!self.rig.channel.is_alive());
    }

    /// Checks the error of an operation. `begins` says that the operation had just begun, so that
    /// no earlier event can be its outcome.
    fn failed(&mut self, error: &Error, allowed: &[ErrorKind], begins: bool) {
        let kind = error.kind();
        assert!(allowed.contains(&kind) || OVER.contains(&kind), "{kind:?}: {error}");
        assert!(!begins || !self.is_corrupt || kind == ErrorKind::PeerCorrupt, "{error}");
        self.is_corrupt |= kind == ErrorKind::PeerCorrupt;
    }

    fn delivered(&mut self, request: u64, reply: &Reply) -> Vec<u8> {
        assert!(reply.request().get() == request && reply.len() <= 3000);
        let bytes = reply.to_vec();
        if !self.has_forged_up {
            // In order. Messages before it may have ended in an error, or come without a request.
            let whole = &mut self.sent.get_mut(&request).expect("it was sent").whole;
            let at = whole.iter().position(|sent| *sent == bytes).expect("as it was sent");
            whole.drain(..=at);
        }
        bytes
    }

    fn submit(&mut self, input: &mut Input<'_>) {
        let what = input.u8();
        // One payload in eight is longer than a frame.
        let payload = vec![what; input.len(if what.is_multiple_of(8) { 3100 } else { 1000 })];
        let kind = if what == 255 { Kind::RESULT } else { Kind::EMBED };
        let (channel, timeout) = (&self.rig.channel, timeout(what / 8));
        // Half of them are part of a trace.
        let sent = match TraceContext::new([7; 16], [7; 8], 1).filter(|_| what & 16 != 0) {
            Some(trace) => channel.traced(&trace).submit(kind, &payload, timeout),
            None => channel.submit(kind, &payload, timeout),
        };
        self.opened(sent.map(|pending| (pending.request(), pending)), |play, pending| {
            play.calls.push(pending);
        });
    }

    fn open_stream(&mut self, input: &mut Input<'_>) {
        let what = input.u8();
        let payload = vec![what; input.len(200)];
        let mut timeouts = StreamTimeouts::from(timeout(what)).queue(timeout(what));
        if what >= 192 {
            timeouts = timeouts.total(timeout(what));
        }
        let sent = self.rig.channel.stream(Kind::CHAT, &payload, timeouts);
        self.opened(sent.map(|stream| (stream.request, stream)), |play, stream| {
            play.streams.push((stream, false));
        });
    }

    fn opened<T>(&mut self, sent: Result<(u64, T)>, keep: impl FnOnce(&mut Self, T)) {
        match sent {
            Ok((request, handle)) => {
                assert!(request > self.newest, "ids are never used twice");
                assert!(!self.is_corrupt, "for good");
                self.newest = request;
                keep(self, handle);
            }
            Err(error) => {
                let may = [
                    ErrorKind::Timeout,
                    ErrorKind::TooManyInFlight,
                    ErrorKind::TooLarge,
                    ErrorKind::InvalidInput,
                ];
                self.failed(&error, &may, error.kind() != ErrorKind::TooLarge);
            }
        }
    }

    fn replied(&mut self, request: u64, result: Result<Reply>) {
        match result {
            Ok(reply) => {
                let bytes = self.delivered(request, &reply);
                self.kept.push((reply, bytes));
            }
            Err(error) => {
                let may = [
                    ErrorKind::HandlerFailed,
                    ErrorKind::Timeout,
                    ErrorKind::Cancelled,
                    ErrorKind::Protocol,
                ];
                self.failed(&error, &may, false);
            }
        }
    }

    fn wait(&mut self, input: &mut Input<'_>) {
        let Some(index) = input.index(self.calls.len()) else { return };
        let pending = self.calls.swap_remove(index);
        let request = pending.request();
        let result = pending.wait();
        self.replied(request, result);
    }

    fn try_wait(&mut self, input: &mut Input<'_>) {
        let Some(index) = input.index(self.calls.len()) else { return };
        let mut pending = self.calls.swap_remove(index);
        let request = pending.request();
        match pending.try_wait() {
            Ok(Some(reply)) => self.replied(request, Ok(reply)),
            Ok(None) => self.calls.push(pending),
            Err(error) => self.replied(request, Err(error)),
        }
    }

    fn next_chunk(&mut self, input: &mut Input<'_>) {
        let Some(index) = input.index(self.streams.len()) else { return };
        let (stream, is_over) = self.streams.get_mut(index).unwrap();
        let (request, was_over) = (stream.request, *is_over);
        let result = stream.next_chunk();
        *is_over = !matches!(result, Ok(Some(_)));
        match result {
            Ok(None) => {}
            Ok(Some(chunk)) => {
                assert!(!was_over, "nothing comes after the end");
                let bytes = self.delivered(request, &chunk);
                self.kept.push((chunk, bytes));
            }
            Err(error) => {
                assert!(!was_over, "an error is told once");
                let may = [
                    ErrorKind::HandlerFailed,
                    ErrorKind::Stalled,
                    ErrorKind::Timeout,
                    ErrorKind::Cancelled,
                    ErrorKind::Protocol,
                ];
                self.failed(&error, &may, false);
            }
        }
    }

    fn drop_one(&mut self, input: &mut Input<'_>) {
        let choice = input.u8();
        let place = [choice / 4];
        let mut which = Input(&place);
        match choice % 4 {
            0 => drop(which.index(self.calls.len()).map(|i| self.calls.swap_remove(i))),
            1 => drop(which.index(self.streams.len()).map(|i| self.streams.swap_remove(i))),
            // Leases are returned in any order.
            _ => drop(which.index(self.kept.len()).map(|i| self.kept.swap_remove(i))),
        }
    }

    fn cancel_one(&mut self, input: &mut Input<'_>) {
        let choice = input.u8();
        match choice % 4 {
            0 => self.rig.channel.abort(),
            1 => self.rig.channel.clear_abort(),
            2 => self.calls.iter().for_each(Pending::cancel),
            _ => self.streams.iter().for_each(|(stream, _)| stream.cancel()),
        }
    }

    fn write_message(&mut self, input: &mut Input<'_>) {
        let what = input.u8();
        let begun = self.rig.channel.write(Kind::EMBED, timeout(what));
        let finished = begun.and_then(|mut writer| {
            for _ in 0..what % 4 {
                writer.push(&vec![what; input.len(1500)])?;
            }
            // One message in four is taken back.
            if what & 48 == 0 { Ok(None) } else { writer.finish().map(Some) }
        });
        match finished {
            Ok(None) => {}
            Ok(Some(pending)) => self.opened(Ok((pending.request(), pending)), |play, pending| {
                play.calls.push(pending);
            }),
            Err(error) => self.opened::<()>(Err(error), |_, ()| {}),
        }
    }

    fn look(&mut self, input: &mut Input<'_>) {
        let channel = &self.rig.channel;
        let _ = (channel.stats(), channel.health(), channel.exit_cause(), channel.is_alive());
        if input.u8().is_multiple_of(2) {
            return;
        }
        match self.rig.channel.read_ready() {
            Ok(_) => assert!(self.rig.wake_fd.is_some()),
            Err(error) => {
                self.failed(&error, &[ErrorKind::Unsupported], self.rig.wake_fd.is_some())
            }
        }
    }

    fn ping(&mut self, input: &mut Input<'_>) {
        if let Err(error) = self.rig.channel.ping(timeout(input.u8())) {
            self.failed(&error, &[ErrorKind::Timeout, ErrorKind::Protocol], true);
        }
    }

    /// Writes to the region while the parent waits.
    fn storm(&mut self, input: &mut Input<'_>) {
        (self.has_forged_up, self.has_forged_down) = (true, true);
        let forge = self.rig.forge.clone();
        let (first, words) = (input.u16(), input.u8() % 16);
        let ring = as_usize(self.rig.worker.header.peer.data.offset);
        let tail = self.rig.worker.data.producer.tail();
        // To the position where the parent looks, or to the control lines.
        let at = if first & 1 == 0 { ring + as_usize(tail % 4096) } else { control::DATA };
        let values: Vec<u64> = (0..words)
            .map(|_| match input.u8() {
                0 => tail | 1,
                1 => tail | 2,
                small @ 2..=127 => u64::from(small),
                _ => input.u64(),
            })
            .collect();
        std::thread::scope(|scope| {
            let storm = scope.spawn(move || {
                for (index, value) in values.iter().cycle().take(values.len() * 8).enumerate() {
                    forge.set_word(at + 8 * (index % values.len()), *value);
                }
            });
            let mut which = Input(&[7]);
            match first % 3 {
                0 => self.wait(&mut which),
                1 => self.next_chunk(&mut which),
                _ => self.ping(&mut which),
            }
            // The end of the scope waits for the closure, not for the thread. A count of leaks
            // between two runs would find what the thread has not freed yet.
            storm.join().unwrap();
        });
    }

    fn end_it(&mut self, input: &mut Input<'_>) {
        // Rarely, so that most runs do not end early.
        match input.u8() {
            0 => drop(self.rig.channel.close(Duration::ZERO).unwrap()),
            1 => drop(self.rig.channel.close_draining(timeout(7)).unwrap()),
            2..=4 => self.rig.die(),
            _ => {}
        }
    }
}
