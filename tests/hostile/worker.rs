//! The hostile worker: honest until a request tells it not to be.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use super::*;

/// Fields of messages.
pub fn text(bytes: &[u8]) -> Vec<u8> {
    framed(bytes)
}

/// Of a worker that serves, and says that it has taken and begun so many requests, and how many
/// it lists, with the bytes of these.
pub fn pong_of(counts: [u32; 4], listed: &[u8], last_error: &[u8]) -> Vec<u8> {
    let counts: Vec<u8> = counts.iter().flat_map(|count| count.to_le_bytes()).collect();
    [&1_u32.to_le_bytes()[..], &[0; 24], &counts, listed, &text(last_error)].concat()
}

pub fn pong(last_error: &[u8]) -> Vec<u8> {
    pong_of([0; 4], &[], last_error)
}

pub fn failure(type_name: &[u8], message: &[u8]) -> Vec<u8> {
    [text(type_name), text(message), text(b""), 0_u32.to_le_bytes().to_vec()].concat()
}

/// An attached worker.
pub struct Peer {
    pub socket: RawFd,
    pub fds: Vec<OwnedFd>,
    pub own: Own,
    pub down: Map,
    pub out: Out,
    pub data: In,
    pub health_out: Out,
    pub health: In,
    /// Whether pings are answered.
    pub is_healthy: bool,
    /// Whether requests are answered.
    pub is_serving: bool,
    pub window: u64,
    /// How many marks there are.
    pub marks: u64,
    pub max_message: usize,
    pieces: Vec<u8>,
}

/// Answers the handshake as `how` says, and serves. Never returns.
pub fn run() -> ! {
    let socket = 0;
    let Some((hello, fds)) = receive_message(socket) else { std::process::exit(7) };
    assert_eq!(&hello[..4], b"SLRG");
    assert_eq!(number(&hello, 4, 4), 2, "version of the handshake");
    let mode = mode_of(&hello);
    if handshake::answer_hello(&mode, socket, &fds) {
        serve(Peer::attach(socket, fds));
    }
    // After a hostile answer the worker waits until the parent ends it.
    let mut byte = [0];
    while receive(socket, &mut byte, 0).0 > 0 {}
    std::process::exit(0)
}

/// The field `mode` of the role, as drawn in the document.
fn mode_of(hello: &[u8]) -> String {
    let cpus = number(hello, 44, 4) as usize;
    let mut at = 48 + 4 * cpus;
    let mut field = || {
        let len = number(hello, at, 4) as usize;
        let bytes = &hello[at + 4..at + 4 + len];
        at += 4 + len;
        String::from_utf8_lossy(bytes).into_owned()
    };
    let (_role, _model) = (field(), field());
    field()
}

pub fn answer(code: u32, rest: &[u8]) -> Vec<u8> {
    framed(&[&b"SLRG"[..], &2_u32.to_le_bytes(), &code.to_le_bytes(), rest].concat())
}

impl Peer {
    pub fn attach(socket: RawFd, fds: Vec<OwnedFd>) -> Self {
        let file = |fd: &OwnedFd| std::fs::File::from(fd.try_clone().unwrap());
        let len = |fd| file(fd).metadata().unwrap().len() as usize;
        let read_only = libc::PROT_READ;
        let down = Map::new(fds[0].as_raw_fd(), len(&fds[0]), read_only).unwrap();
        let up = Map::new(fds[1].as_raw_fd(), len(&fds[1]), read_only | libc::PROT_WRITE).unwrap();
        let header = down.read(0, HEADER);
        assert_eq!((&header[..8], number(&header, 8, 4)), (&b"SLIPRING"[..], 2));
        let (theirs, ours) = (Geometry::read(&header, 40), Geometry::read(&header, 128));
        assert_eq!((theirs.region_len, ours.region_len), (down.len(), up.len()));
        let own = Own { map: up, lies: Vec::new() };
        let peer = Self {
            socket,
            fds,
            out: Out::new(&own, ours.data, DATA),
            data: In::new(&own, theirs.data, DATA),
            health_out: Out::new(&own, ours.health, HEALTH),
            health: In::new(&own, theirs.health, HEALTH),
            own,
            down,
            is_healthy: true,
            is_serving: true,
            window: number(&header, 216, 8),
            marks: ours.request_count,
            max_message: number(&header, 224, 8) as usize,
            pieces: Vec::new(),
        };
        peer.own.put32(STATUS, 1);
        peer.own.map.write(0, &answering_header(&header));
        super::send(socket, &answer(0, &std::process::id().to_le_bytes()), &[]).unwrap();
        peer
    }

    /// Waits for room, and sends.
    pub fn send(&mut self, kind: u16, flags: u16, request: u64, aux: u64, payload: &[u8]) {
        while !self.out.has_room(&self.down, payload.len()) {
            self.stay(Duration::from_micros(20));
        }
        let words = head(kind, flags, request, aux, payload.len());
        self.out.publish(&self.own, words, payload);
        self.out.ring_if_awaited(&self.own, &self.down);
    }

    pub fn reply(&mut self, request: u64, payload: &[u8]) {
        self.send(RESULT, 0, request, 0, payload);
    }

    /// Sends a frame with the header `head`.
    pub fn send_head(&mut self, head: [u64; 3], payload: &[u8]) {
        self.out.publish(&self.own, head, payload);
        self.out.ring_if_awaited(&self.own, &self.down);
    }

    pub fn say(&mut self, kind: u16, request: u64, payload: &[u8]) {
        while !self.health_out.has_room(&self.down, payload.len()) {
            self.stay(Duration::from_micros(20));
        }
        let words = head(kind, 0, request, 0, payload.len());
        self.health_out.publish(&self.own, words, payload);
        self.health_out.ring_if_awaited(&self.own, &self.down);
    }

    /// Sleeps. Ends this process if the parent is gone.
    pub fn stay(&self, time: Duration) {
        std::thread::sleep(time);
        let mut byte = [0];
        if receive(self.socket, &mut byte, libc::MSG_DONTWAIT).0 == 0 {
            std::process::exit(0);
        }
    }

    /// Repeats `what` until so much time has passed.
    pub fn go_on(&mut self, time: Duration, mut what: impl FnMut(&mut Self)) {
        let end = Instant::now() + time;
        let mut turns = 0_u32;
        while Instant::now() < end {
            what(self);
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(1024) {
                self.stay(Duration::ZERO);
            }
        }
    }

    pub fn serve_health(&mut self) -> bool {
        let Some(came) = self.health.poll(&self.own, &self.down) else { return false };
        if self.is_healthy {
            match came.kind {
                PING => self.say(PONG, came.request, &pong(b"")),
                SHUTDOWN => {
                    self.say(ACK, came.request, &[]);
                    std::process::exit(0);
                }
                other => panic!("health frame of kind {other}"),
            }
        }
        true
    }

    fn serve_data(&mut self) -> bool {
        let Some(mut came) = self.data.poll(&self.own, &self.down) else { return false };
        if came.flags & (MORE | CONTINUED) != 0 {
            self.pieces.extend_from_slice(&came.payload);
            if came.flags & MORE != 0 {
                return true;
            }
            came.payload = std::mem::take(&mut self.pieces);
        }
        if self.is_serving {
            script::serve(self, &came);
        }
        true
    }
}

fn serve(mut peer: Peer) -> ! {
    loop {
        let is_busy = peer.serve_health() | peer.serve_data();
        if !is_busy {
            peer.stay(Duration::from_micros(20));
        }
    }
}
