//! Requests and streams, compared with a small model: whatever the worker answers and whenever the
//! parent looks, each ends as in the model. The rings are not tampered with.

use std::time::Duration;

use super::model::{Model, Sent, Told};
use super::peer::{Input, Rig, origin, tiny};
use crate::channel::{Pending, Reply, Stream, StreamTimeouts};
use crate::error::Result;
use crate::protocol::kind::flags;
use crate::protocol::{Kind, failure};
use crate::ring::Header;

/// Long after any run.
const LONG: Duration = Duration::from_secs(3600);
const MOST_STEPS: usize = 512;
/// Timeouts of streams that never wait.
const NO_WAIT: StreamTimeouts = StreamTimeouts::new().chunk(Duration::ZERO).queue(Duration::ZERO);

struct Play {
    rig: Rig,
    model: Model,
    calls: Vec<Pending>,
    streams: Vec<Stream>,
}

/// Runs any sequence of events on both sides.
pub fn streams(data: &[u8]) {
    let mut input = Input(data);
    let how = input.u8();
    let slots = if how & 4 == 0 { 4 } else { 3 };
    let config = tiny(origin(how), slots);
    let model = Model::new(slots, config.stream_window, config.max_message);
    let rig = Rig::new(&config, false);
    let mut play = Play { rig, model, calls: Vec::new(), streams: Vec::new() };
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        play.step(&mut input);
        play.compare();
    }
    play.calls.clear();
    play.streams.clear();
    assert_eq!(play.rig.channel.in_flight(), 0);
}

impl Play {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 16 {
            0 => self.call(input),
            1 => self.stream(input),
            2 => self.look_at_call(input),
            3 => self.wait_for_call(input),
            4..=6 => self.next_chunk(input),
            7 => self.drop_one(input),
            8 => self.cancel_one(input),
            _ => self.frame(input),
        }
    }

    fn call(&mut self, input: &mut Input<'_>) {
        let payload = vec![input.u8(); input.len(40)];
        let sent = self.rig.channel.submit(Kind::EMBED, &payload, LONG);
        match self.model.open(false) {
            Ok(request) => {
                self.check_request(request, 0, &payload);
                self.calls.push(sent.unwrap());
                assert_eq!(self.calls.last().unwrap().request(), request);
            }
            Err(kind) => assert_eq!(sent.unwrap_err().kind(), kind),
        }
    }

    fn stream(&mut self, input: &mut Input<'_>) {
        let payload = vec![input.u8(); input.len(40)];
        // No chunk comes while the reader waits, so it must not wait. A request waits only if the
        // ring is full, and the worker here empties it.
        let sent = self.rig.channel.stream(Kind::CHAT, &payload, NO_WAIT);
        match self.model.open(true) {
            Ok(request) => {
                self.check_request(request, flags::STREAM, &payload);
                self.streams.push(sent.unwrap());
                assert_eq!(self.streams.last().unwrap().request, request);
            }
            Err(kind) => assert_eq!(sent.unwrap_err().kind(), kind),
        }
    }

    /// Checks that the worker receives the request as it was sent, and no other.
    fn check_request(&mut self, request: u64, flags: u16, payload: &[u8]) {
        let consumer = &mut self.rig.worker.data.consumer;
        let frame = consumer.poll().unwrap().unwrap();
        let header = frame.header();
        assert_eq!((header.request, header.flags), (request, flags));
        assert_eq!(frame.payload().to_vec(), payload);
        drop(frame);
        assert!(consumer.poll().unwrap().is_none());
        consumer.publish_released();
    }

    fn look_at_call(&mut self, input: &mut Input<'_>) {
        let Some(index) = input.index(self.calls.len()) else { return };
        let mut pending = self.calls.swap_remove(index);
        let request = pending.request();
        let told = self.model.reply(request);
        match pending.try_wait() {
            Ok(Some(reply)) => assert_eq!(told, Told::Bytes(reply.into_vec())),
            Ok(None) => {
                assert_eq!(told, Told::Nothing);
                self.calls.push(pending);
                return;
            }
            Err(error) => assert_eq!(told, Told::Error(error.kind())),
        }
        self.model.let_go(request);
    }

    /// Waits for a reply if the model says that the wait ends at once.
    fn wait_for_call(&mut self, input: &mut Input<'_>) {
        let Some(index) = input.index(self.calls.len()) else { return };
        let request = self.calls.get(index).unwrap().request();
        if self.model.clone().reply(request) == Told::Nothing {
            return;
        }
        let told = self.model.reply(request);
        assert_eq!(told_of(self.calls.swap_remove(index).wait().map(Some)), told);
        self.model.let_go(request);
    }

    fn next_chunk(&mut self, input: &mut Input<'_>) {
        let Some(index) = input.index(self.streams.len()) else { return };
        let stream = self.streams.get_mut(index).unwrap();
        let told = self.model.next_chunk(stream.request);
        assert_eq!(told_of(stream.next_chunk().map(|chunk| chunk.map(|c| c.detach()))), told);
    }

    fn drop_one(&mut self, input: &mut Input<'_>) {
        let which = input.u8();
        let mut which = Input(&[which]).index(self.calls.len() + self.streams.len());
        if let Some(index) = which.take_if(|index| *index >= self.calls.len()) {
            let stream = self.streams.swap_remove(index - self.calls.len());
            self.model.let_go(stream.request);
        } else if let Some(index) = which {
            self.model.let_go(self.calls.swap_remove(index).request());
        }
    }

    fn cancel_one(&mut self, input: &mut Input<'_>) {
        let Some(index) = input.index(self.calls.len() + self.streams.len()) else { return };
        if let Some(pending) = self.calls.get(index) {
            pending.cancel();
            self.model.cancel(pending.request());
        } else {
            let stream = self.streams.get(index - self.calls.len()).unwrap();
            stream.cancel();
            self.model.cancel(stream.request);
        }
    }

    /// The worker sends a frame for a request that is open, over or unknown, or for none.
    fn frame(&mut self, input: &mut Input<'_>) {
        let what = input.u8();
        let kind = match what % 16 {
            0..=5 => Kind::CHUNK,
            6..=9 => Kind::RESULT,
            10 | 11 => Kind::END,
            12 => Kind::CANCEL,
            13 | 14 => Kind::ERROR,
            _ => Kind::from_code(input.u16()),
        };
        // Most frames have no flags, or valid ones.
        let flags = match what / 16 {
            0..=8 => 0,
            9..=11 => flags::MORE,
            12 => flags::CONTINUED,
            13 | 14 => flags::MORE | flags::CONTINUED,
            _ => input.u16(),
        };
        let back = u64::from(input.u8() % 12);
        // Zero is the channel itself; the next id belongs to no request yet.
        let request = (self.model.next + 1).saturating_sub(back);
        let aux = u64::from(input.u8() % 3);
        let payload = match kind {
            Kind::ERROR if aux != 0 => failure::encode(&Default::default(), 200),
            _ => vec![input.u8(); input.len(1000)],
        };
        let sent = Sent { kind, flags, request, aux, payload };
        let Ok(claim) = self.rig.worker.data.producer.try_claim(sent.payload.len()) else {
            unreachable!("the parent publishes only heads that can be")
        };
        // Without room the frame is not sent.
        let Some(mut claim) = claim else { return };
        claim.payload().copy_from_slice(&sent.payload);
        let kind = sent.kind.code();
        claim.commit(Header { kind, flags, request, aux, ..Header::default() });
        self.model.ring.push_back(sent);
    }

    /// Compares all that is visible from outside with the model.
    fn compare(&mut self) {
        let stats = self.rig.channel.stats();
        let counted = (stats.late_frames, stats.unknown_frames, stats.cancels);
        assert_eq!(counted, (self.model.late, self.model.unknown, self.model.cancels));
        assert_eq!(self.rig.channel.in_flight(), self.model.in_flight());
        assert_eq!(self.rig.channel.is_alive(), self.model.failed.is_none());
        let words = &self.rig.worker.words;
        for (request, state) in &self.model.requests {
            assert_eq!(words.requests.is_cancelled(*request), state.is_cancelled, "{request}");
            assert_eq!(words.requests.credit(*request), state.credited, "{request}");
        }
        self.model.check_caps();
    }
}

fn told_of(result: Result<Option<Reply>>) -> Told {
    match result {
        Ok(Some(reply)) => Told::Bytes(reply.into_vec()),
        Ok(None) => Told::Over,
        Err(error) => Told::Error(error.kind()),
    }
}
