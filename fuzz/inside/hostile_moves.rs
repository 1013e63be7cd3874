//! The moves of a hostile worker, honest and other ones.

use super::hostile_peer::Play;
use super::peer::Input;
use crate::protocol::health::{Snapshot, encode};
use crate::protocol::kind::flags;
use crate::protocol::{Kind, failure};
use crate::ring::Header;
use crate::shm::layout::{as_usize, control};
use crate::trace_context::CONTEXT_LEN;

impl Play {
    pub(super) fn request(&self, choice: u8) -> u64 {
        match choice {
            0..=15 => u64::from(choice),
            // Up to the next one, which no request has yet.
            _ => (self.newest + 1).saturating_sub(u64::from(choice % 8)),
        }
    }

    pub(super) fn send_frame(&mut self, input: &mut Input<'_>) {
        let what = input.u8();
        let kind = match what % 8 {
            0..=2 => Kind::RESULT,
            3 | 4 => Kind::CHUNK,
            5 => Kind::END,
            6 => {
                if what & 8 == 0 {
                    Kind::ERROR
                } else {
                    Kind::CANCEL
                }
            }
            _ => Kind::from_code(input.u16()),
        };
        let flags = match what / 16 {
            0..=7 => 0,
            8..=10 => flags::MORE,
            11 | 12 => flags::CONTINUED,
            13 | 14 => flags::MORE | flags::CONTINUED,
            _ => input.u16(),
        };
        let (request, aux) = (self.request(input.u8()), u64::from(input.u8()));
        let header = Header { kind: kind.code(), flags, request, aux, ..Header::default() };
        let payload = match kind {
            Kind::ERROR if aux % 4 != 0 => failure::encode(&Default::default(), 200),
            _ => vec![input.u8(); input.len(1000)],
        };
        self.send(header, &payload, aux & 16 != 0);
    }

    pub(super) fn send(&mut self, header: Header, payload: &[u8], is_lazy: bool) {
        let claim = match self.rig.worker.data.producer.try_claim(payload.len()) {
            Ok(Some(claim)) => claim,
            Ok(None) => return,
            // The head is beyond the tail once the parent has read forged frames.
            Err(error) => return assert!(self.has_forged_up, "{error}"),
        };
        let mut claim = claim;
        claim.payload().copy_from_slice(payload);
        if is_lazy {
            claim.commit_lazily(header)
        } else {
            let _ = claim.commit(header);
        }
        // A frame for a request that does not exist yet can be delivered when it does.
        if header.request > self.newest {
            self.has_forged_up = true;
        }
        let sent = self.sent.entry(header.request).or_default();
        if header.flags & flags::CONTINUED == 0 {
            sent.pieces.clear();
        }
        sent.pieces.extend_from_slice(payload);
        if header.flags & flags::MORE == 0 {
            sent.whole.push_back(std::mem::take(&mut sent.pieces));
        }
    }

    /// Answers a request as an honest worker does.
    pub(super) fn answer(&mut self, input: &mut Input<'_>) {
        let Some(request) = self.taken.pop_front() else { return };
        let payload = vec![input.u8(); input.len(1000)];
        let kind = Kind::RESULT.code();
        self.send(Header { kind, request, ..Header::default() }, &payload, false);
    }

    pub(super) fn take_requests(&mut self, input: &mut Input<'_>) {
        for _ in 0..=input.u8() % 8 {
            let frame = match self.rig.worker.data.consumer.poll() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return assert!(self.has_forged_down, "{error}"),
            };
            let (header, payload) = (frame.header(), frame.payload().to_vec());
            drop(frame);
            if !self.has_forged_down {
                let is_traced = header.flags & flags::TRACED != 0;
                assert!(header.request != 0);
                assert_eq!(header.flags & !(flags::REQUEST | flags::TRACED), 0);
                let len = payload.len() - if is_traced { CONTEXT_LEN } else { 0 };
                let payload = &payload[..len];
                assert!(payload.windows(2).all(|pair| matches!(pair, [a, b] if a == b)));
            }
            if header.flags & flags::MORE == 0 {
                self.taken.push_back(header.request);
            }
        }
        if !input.u8().is_multiple_of(4) {
            self.rig.worker.data.consumer.publish_released();
        }
    }

    /// Writes any word of the region: header, control lines, status, owner, rings.
    pub(super) fn poke(&mut self, input: &mut Input<'_>) {
        (self.has_forged_up, self.has_forged_down) = (true, true);
        let place = input.u16();
        let value = if place & 1 == 0 { input.u64() } else { u64::from(input.u8()) };
        // Half of the writes go to the control lines.
        let offset = as_usize(u64::from(place / 4)) * 8;
        self.rig.forge.set_word(if place & 2 == 0 { offset } else { offset % control::END }, value);
    }

    /// Writes a forged frame at the position where the parent looks for the next one.
    pub(super) fn forge_frame(&mut self, input: &mut Input<'_>) {
        self.has_forged_up = true;
        let producer = &self.rig.worker.data.producer;
        let position = producer.tail().wrapping_add(u64::from(input.u8() % 4) * 64);
        let commit = position
            ^ match input.u8() {
                0..=127 => 1,
                128..=191 => 2,
                other => u64::from(other) << (other % 57),
            };
        let lie = input.u8();
        let len = u64::from(input.u16()) % if lie & 1 == 0 { 1001 } else { u64::from(u16::MAX) };
        let len = if lie & 6 == 6 { len << 16 } else { len };
        let kind = if lie & 8 == 0 { 5 + u64::from(lie / 16 % 5) } else { u64::from(input.u16()) };
        let flags = u64::from(input.u8() % 8);
        let request = self.request(input.u8());
        let words = [commit, len | kind << 32 | flags << 48, request, u64::from(lie & 64)];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.rig.forge.write_ring(&self.rig.worker.header.peer.data, position, &bytes);
    }

    pub(super) fn forge_bytes(&mut self, input: &mut Input<'_>) {
        self.has_forged_up = true;
        let is_health = input.u8().is_multiple_of(4);
        let worker = &self.rig.worker;
        let geometry = &worker.header.peer;
        let (producer, ring) = match is_health {
            true => (&worker.health.producer, &geometry.health),
            false => (&worker.data.producer, &geometry.data),
        };
        let from = producer.tail().wrapping_add(u64::from(input.u8() % 64) * 64);
        let bytes: Vec<u8> = (0..input.u8() % 64).map(|_| input.u8()).collect();
        self.rig.forge.write_ring(ring, from, &bytes);
    }

    pub(super) fn forge_head(&mut self, input: &mut Input<'_>) {
        self.has_forged_down = true;
        let choice = input.u8();
        let worker = &self.rig.worker;
        let (consumer, side) = match choice & 1 {
            0 => (&worker.data.consumer, control::DATA),
            _ => (&worker.health.consumer, control::HEALTH),
        };
        let head = match choice & 2 {
            0 => consumer.position().wrapping_add(u64::from(input.u8() % 72) * 64),
            _ => input.u64(),
        };
        self.rig.forge.set_head(side, head);
    }

    pub(super) fn ring_bell(&mut self, input: &mut Input<'_>) {
        let side = if input.u8().is_multiple_of(2) { control::DATA } else { control::HEALTH };
        self.rig.forge.ring_bell(side, u32::from(input.u16()));
    }

    pub(super) fn serve_health(&mut self, input: &mut Input<'_>) {
        let health = &mut self.rig.worker.health;
        let asked = match health.consumer.poll() {
            Ok(Some(frame)) => frame.header(),
            Ok(None) => Header::default(),
            Err(error) => return assert!(self.has_forged_down, "{error}"),
        };
        let what = input.u8();
        let kind = if what.is_multiple_of(4) { u16::from(input.u8()) } else { Kind::PONG.code() };
        let payload = match what & 8 {
            0 => encode(&Snapshot::default(), "nothing", 1 << 10),
            _ => vec![input.u8(); input.len(1024)],
        };
        let claim = match health.producer.try_claim(payload.len()) {
            Ok(Some(claim)) => claim,
            Ok(None) => return,
            Err(error) => return assert!(self.has_forged_up, "{error}"),
        };
        let mut claim = claim;
        claim.payload().copy_from_slice(&payload);
        let request = asked.request.wrapping_add(u64::from(what / 32 % 2));
        claim.commit(Header { kind, request, ..Header::default() });
    }

    pub(super) fn touch_wake_fd(&self, input: &mut Input<'_>) {
        let Some(wake_fd) = &self.rig.wake_fd else { return };
        match input.u8() % 3 {
            0 => wake_fd.wake_peer(),
            1 => wake_fd.wake_self(),
            _ => drop(wake_fd.drain()),
        }
    }
}
