//! The attacks of the hostile worker, by name.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::memory::{attack_memory, poke, punch};
use super::worker::{Peer, failure, pong, pong_of, text};
use super::*;

const APP: u16 = 0x0100;
/// Lies about one byte from now on: see [`forgery`].
pub const FORGE: u16 = APP + 1;
/// Tells the truth again.
pub const RESTORE: u16 = APP + 2;
/// Runs the attack that the payload names.
pub const CASE: u16 = APP + 3;
/// Is never answered.
pub const HOLD: u16 = APP + 4;
pub const ECHO: u16 = APP + 5;
/// Streams: u64 count, u64 length.
pub const COUNT: u16 = APP + 6;

/// The duration of an attack that has no end of its own.
const ATTACK: Duration = Duration::from_millis(600);
/// Longer than the parent lets this process run.
const ENDLESS: Duration = Duration::from_secs(600);

/// The byte that a lie is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A byte of the region, counted from its start.
    Control(usize),
    /// A byte of the header of the next frame in the data ring.
    DataFrame(usize),
    /// A byte of the header of the next frame in the health ring.
    HealthFrame(usize),
}

pub fn forgery(place: Place, op: Op) -> Vec<u8> {
    let (which, offset) = match place {
        Place::Control(offset) => (0, offset),
        Place::DataFrame(offset) => (1, offset),
        Place::HealthFrame(offset) => (2, offset),
    };
    let (code, value) = match op {
        Op::Set(value) => (0, value),
        Op::Flip(bit) => (1, bit),
    };
    [&[which, code, value, 0][..], &(offset as u32).to_le_bytes()].concat()
}

/// Serves one request.
pub fn serve(peer: &mut Peer, came: &Came) {
    let Came { request, payload, .. } = came;
    match came.kind {
        FORGE => {
            let op = if payload[1] == 0 { Op::Set(payload[2]) } else { Op::Flip(payload[2]) };
            let offset = number(payload, 4, 4) as usize;
            peer.reply(*request, b"");
            match payload[0] {
                0 => peer.own.tell(offset, op),
                1 => peer.out.lie = Some((offset, op)),
                _ => peer.health_out.lie = Some((offset, op)),
            }
        }
        RESTORE => {
            for (offset, _) in std::mem::take(&mut peer.own.lies) {
                peer.own.map.write(offset & !7, &[0; 8]);
            }
            peer.out.lie = None;
            peer.health_out.lie = None;
            for (side, ring) in [(DATA, &peer.data), (HEALTH, &peer.health)] {
                peer.own.put64(side + SLEEP_AT, NEVER);
                peer.own.put64(side + SPACE_AT, NEVER);
                peer.own.put64(side + HEAD, ring.next);
            }
            peer.reply(*request, b"");
        }
        CASE => case(peer, &String::from_utf8_lossy(payload), *request),
        HOLD => {}
        COUNT => {
            let (count, len) = (number(payload, 0, 8), number(payload, 8, 8) as usize);
            for i in 0..count {
                peer.send(CHUNK, 0, *request, 0, &vec![i as u8; len]);
            }
            peer.send(END, 0, *request, 0, &[]);
        }
        _ => peer.reply(*request, payload),
    }
}

fn case(peer: &mut Peer, name: &str, request: u64) {
    let (name, argument) = name.split_once(": ").unwrap_or((name, "0"));
    let value: u64 = argument.parse().unwrap_or(0);
    let tail = peer.out.tail;
    let cap = peer.out.ring.max_frame;
    let result = |len: u64| [len & 0xffff_ffff | u64::from(RESULT) << 32, request, 0];
    match name {
        // The commit word.
        "commit" => {
            let forged = match argument {
                "last lap" => tail.wrapping_sub(peer.out.ring.capacity) | 1,
                "stale" => tail.wrapping_sub(2 * peer.out.ring.capacity) | 1,
                "torn" => tail & 0xffff_ffff_0000_0000 | 0xdead_0001,
                "both" => tail | 3,
                "ahead" => tail.wrapping_add(64) | 1,
                "padding" => tail | 2,
                "high bit" => tail | 1 | 1 << 63,
                "one" => 1 | 1 << 20,
                "all ones" => u64::MAX,
                other => panic!("{other}"),
            };
            peer.out.commit = Some(forged);
            peer.send_head(result(0), &[]);
        }
        "commit and do not ring" => {
            // Long enough that the parent sleeps.
            peer.stay(Duration::from_millis(50));
            peer.out.publish(&peer.own, head(RESULT, 0, request, 0, 1), b"x");
            peer.out.announced = peer.out.tail;
        }
        "commit again" => {
            peer.reply(request, b"once");
            let at = peer.out.at(peer.out.tail);
            peer.own.map.word(at).store(tail | 1, Ordering::Release);
            // The next reply would take its place before the parent has looked.
            peer.stay(ATTACK);
        }
        // The length.
        "length" => peer.send_head(result(value), b""),
        "length of a slot and one" => peer.send_head(result(cap as u64 + 1), &[]),
        "length that changes" => {
            let at = peer.out.at(tail) + 8;
            let map = peer.own.map;
            let flips = std::thread::spawn(move || {
                let end = Instant::now() + ATTACK;
                while Instant::now() < end {
                    for len in [8, u64::from(u32::MAX), 9, 1 << 20, 0] {
                        map.word(at).store(len | u64::from(RESULT) << 32, Ordering::Relaxed);
                    }
                }
            });
            std::thread::sleep(Duration::from_millis(1));
            let words = peer.own.map.word(peer.out.at(tail) + 16);
            words.store(request, Ordering::Relaxed);
            peer.own.map.word(peer.out.at(tail)).store(tail | 1, Ordering::Release);
            peer.out.tail = tail.wrapping_add(64);
            peer.out.ring_if_awaited(&peer.own, &peer.down);
            flips.join().unwrap();
        }
        "payload that changes" => {
            peer.reply(request, &[0; 512]);
            let (at, map) = (peer.out.at(tail) + 32, peer.own.map);
            peer.go_on(ATTACK / 2, |_| {
                map.write(at, &[1; 512]);
                map.write(at, &[2; 512]);
            });
        }
        "every header word changes" => {
            let (from, map) = (peer.out.ring.offset, peer.own.map);
            let len = peer.out.ring.capacity as usize;
            peer.reply(request, b"");
            let mut seed = 1_u64;
            peer.go_on(ATTACK, |_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                map.word(from + (seed >> 20) as usize % len / 8 * 8).store(seed, Ordering::Relaxed);
            });
        }
        // The head.
        "head" => {
            let head = peer.data.next;
            let forged = match argument {
                "back" => head.wrapping_sub(64),
                "far back" => head.wrapping_sub(1 << 20),
                "ahead" => head.wrapping_add(64),
                "beyond the ring" => head.wrapping_add(2 * peer.data.ring.capacity),
                "odd" => head.wrapping_add(1),
                "all ones" => u64::MAX,
                "half the circle" => head ^ 1 << 63,
                other => panic!("{other}"),
            };
            let side = DATA + HEAD;
            peer.reply(request, b"");
            let honest = peer.own.map.u64(side).to_le_bytes();
            // Written as bytes, so that the lie stays when the head is published again.
            for (i, byte) in forged.to_le_bytes().into_iter().enumerate() {
                if byte != honest[i] {
                    peer.own.tell(side + i, Op::Set(byte));
                }
            }
        }
        // Kinds, flags, requests.
        "kind" => {
            let kind = value << 32;
            peer.send_head([kind, request, 0], &[]);
        }
        "flags" => peer.send_head([u64::from(RESULT) << 32 | value << 48, request, 0], &[]),
        "flags of an end" => peer.send_head([u64::from(END) << 32 | value << 48, request, 0], &[]),
        "flags of an error" => {
            peer.send_head([u64::from(ERROR) << 32 | value << 48, request, 0], &[]);
        }
        "aux" => {
            peer.send(RESULT, 0, request, value, b"aux");
        }
        "request" => peer.reply(value, b"to no request"),
        "request that is finished" => {
            peer.reply(request - 1, b"again");
            peer.send(CHUNK, 0, request - 1, 0, b"again");
            peer.send(ERROR, 0, request - 1, 0, &failure(b"again", b"again"));
            peer.reply(request, b"once");
        }
        "reply twice" => {
            peer.reply(request, b"once");
            peer.reply(request, b"twice");
            peer.send(CANCEL, 0, request, 0, &[]);
            peer.send(END, 0, request, 0, &[]);
        }
        "request 0" => match argument {
            "result" => peer.reply(0, b""),
            "error" => peer.send(ERROR, 0, 0, 0, &failure(b"a::Type", b"no session")),
            "garbage" => peer.send(ERROR, 0, 0, 0, &[0xff; 64]),
            "cancel" => peer.send(CANCEL, 0, 0, 0, &[]),
            other => panic!("{other}"),
        },
        "another kind of answer" => {
            let kind = value as u16;
            peer.send(kind, 0, request, 0, b"");
        }
        "expired" => peer.send(CANCEL, 0, request, 1, &[]),
        // Errors.
        "error" => {
            let bytes = match argument {
                "empty" => Vec::new(),
                "long type" => [&u32::MAX.to_le_bytes()[..], b"x"].concat(),
                "long message" => [&text(b"t")[..], &u32::MAX.to_le_bytes()].concat(),
                "many sources" => {
                    let mut bytes = failure(b"t", b"m");
                    let at = bytes.len() - 4;
                    bytes[at..].fill(0xff);
                    bytes
                }
                "endless sources" => {
                    let mut bytes = failure(b"t", b"m");
                    let at = bytes.len() - 4;
                    bytes[at..].fill(0xff);
                    bytes.extend((0..300).flat_map(|_| text(b"s")));
                    bytes
                }
                "no text" => failure(&[0xff; 40], &[0x80; 40]),
                "longest" => vec![0xff; cap],
                other => panic!("{other}"),
            };
            peer.send(ERROR, 0, request, 0, &bytes);
        }
        // Without end.
        "pieces without end" => peer.go_on(ENDLESS, |peer| {
            peer.send(RESULT, MORE | CONTINUED, request, 0, &vec![7; cap]);
        }),
        "first pieces without end" => peer.go_on(ENDLESS, |peer| {
            peer.send(RESULT, MORE, request, 0, &vec![7; cap]);
        }),
        "empty pieces without end" => {
            peer.go_on(ENDLESS, |peer| peer.send(RESULT, MORE, request, 0, &[]));
        }
        "parts" => {
            let halves = |first: u64, second: u64| {
                [(RESULT, MORE, first, &b"ab"[..]), (RESULT, CONTINUED, second, b"cd")].to_vec()
            };
            let cut_by =
                |kind, flags| [(RESULT, MORE, 4, &b"ab"[..]), (kind, flags, 0, b"cd")].to_vec();
            let of_chunk =
                |kind, flags| [(CHUNK, MORE, 4, &b"ab"[..]), (kind, flags, 0, b"cd")].to_vec();
            let parts = match argument {
                "as announced" => halves(4, 4),
                "without a length" => halves(0, 0),
                "another length in the second" => halves(4, u64::MAX),
                "fewer than announced" => halves(5, 5),
                "more than announced" => halves(3, 3),
                "less than the first" => halves(1, 1),
                "an absurd length" => halves(u64::MAX, u64::MAX),
                "another first piece" => cut_by(RESULT, MORE),
                "a whole result" => cut_by(RESULT, 0),
                "a cancel" => cut_by(CANCEL, 0),
                "a chunk" => cut_by(CHUNK, 0),
                "another kind" => cut_by(CHUNK, CONTINUED),
                "an end" => of_chunk(END, 0),
                "a short chunk" => of_chunk(CHUNK, 0),
                "another first piece of a chunk" => of_chunk(CHUNK, MORE),
                "a result for a chunk" => of_chunk(RESULT, 0),
                "no start" => [(CHUNK, CONTINUED, 4, &b"ab"[..])].to_vec(),
                "one after the end" => {
                    let mut parts = of_chunk(CHUNK, CONTINUED);
                    parts.push((CHUNK, CONTINUED, 4, b"ef"));
                    parts
                }
                other => panic!("{other}"),
            };
            for (kind, flags, aux, payload) in parts {
                peer.send(kind, flags, request, aux, payload);
            }
        }
        "empty parts without end" => {
            let kind = if argument == "of a chunk" { CHUNK } else { RESULT };
            peer.send(kind, MORE, request, 0, b"ab");
            peer.go_on(ENDLESS, |peer| peer.send(kind, MORE | CONTINUED, request, 0, b""));
        }
        "a piece and an error" => {
            peer.send(RESULT, MORE, request, 0, b"half");
            peer.send(ERROR, 0, request, 0, &failure(b"t::Half", b"half way"));
        }
        "chunks without end" => {
            peer.go_on(ENDLESS, |peer| peer.send(CHUNK, 0, request, 0, &[7; 64]));
        }
        "a short chunk and a long one" => {
            peer.send(CHUNK, 0, request, 0, &[7; 8]);
            peer.send(CHUNK, 0, request, 0, &[7; 20 << 10]);
        }
        "a chunk and fifty strangers" => {
            peer.send(CHUNK, 0, request, 0, &[7; 8]);
            (0..50).for_each(|_| peer.send(RESULT, 0, request + 1_000_000, 0, b""));
        }
        "chunks in pieces without end" => peer.go_on(ENDLESS, |peer| {
            peer.send(CHUNK, MORE, request, 0, &vec![7; cap / 2]);
            peer.send(CHUNK, CONTINUED, request, 0, b"end");
        }),
        "chunks for the credit of results" => {
            for _ in 0..32 {
                peer.send(RESULT, MORE, request, 0, &vec![7; cap]);
            }
            peer.go_on(ENDLESS, |peer| peer.send(CHUNK, 0, request, 0, &vec![7; cap]));
        }
        "strangers without end" => peer.go_on(ENDLESS, |peer| {
            peer.send(RESULT, 0, request + 1_000_000, 0, &[7; 64]);
        }),
        "strangers without end and without room" => peer.go_on(ENDLESS, |peer| {
            peer.send_head([8 | u64::from(RESULT) << 32, request + 1_000_000, 0], &[7; 8]);
        }),
        "frames without end while the head stands still" => {
            peer.reply(request, b"");
            peer.is_serving = false;
            peer.go_on(ENDLESS, |peer| peer.send(RESULT, 0, request + 1_000_000, 0, &[7; 64]));
        }
        "void frames without end" => {
            peer.go_on(ENDLESS, |peer| peer.send(VOID, 0, request, 0, &[7; 64]));
        }
        "void frames around an answer" => {
            (0..20).for_each(|i| peer.send(VOID, 0, request + 7 * i, 0, &[7; 64]));
            peer.reply(request, b"");
            (0..20).for_each(|_| peer.send(VOID, 0, request, 0, b""));
        }
        "flags of a void frame" => {
            peer.send_head([u64::from(VOID) << 32 | value << 48, request, 0], &[]);
        }
        // What the worker says of requests.
        "marks" => {
            mark_all(peer, argument, request);
            peer.reply(request, b"");
        }
        "marks that change" => {
            let (map, count) = (peer.own.map, peer.marks as usize);
            let mut seed = request;
            std::thread::spawn(move || {
                let end = Instant::now() + ATTACK;
                while Instant::now() < end {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let at = MARKS + 8 * ((seed >> 20) as usize % (4 * count));
                    // Most often a mark of a request that may be.
                    let value = if seed & 7 == 0 { seed } else { (seed >> 40) & 0x3ff };
                    map.word(at).store(value, Ordering::Relaxed);
                }
            });
            peer.reply(request, b"");
        }
        "bell" => {
            peer.reply(request, b"");
            let side = if argument == "health" { HEALTH } else { DATA };
            let mut turns = 0_u32;
            peer.go_on(ENDLESS, |peer| {
                peer.out.side = side;
                peer.out.ring(&peer.own);
                peer.out.side = DATA;
                turns += 1;
                if turns.is_multiple_of(64) {
                    peer.serve_health();
                }
            });
        }
        // Health.
        "pong" => {
            peer.is_healthy = false;
            peer.reply(request, b"");
            let bytes = match argument {
                "short" => vec![1, 2, 3],
                "long text" => {
                    let mut bytes = pong(b"");
                    let at = bytes.len() - 4;
                    bytes[at..].fill(0xff);
                    bytes
                }
                "garbage" => vec![0xff; 200],
                "many requests" => pong_of([u32::MAX; 4], &[2; 28 * 20], b""),
                "fewer than announced" => pong_of([3, 3, 3, 3], &[2; 28], b""),
                "stages that are none" => pong_of([1, 1, 1, 2], &[0xff; 28 * 2], b"fine"),
                _ => pong(b"fine"),
            };
            let kind = match argument {
                "other kind" => RESULT,
                "unknown kind" => 0x7777,
                "acknowledgement" => ACK,
                _ => PONG,
            };
            peer.go_on(ENDLESS, |peer| {
                let came = peer.health.poll(&peer.own, &peer.down);
                let asked = came.map(|came| came.request);
                match argument {
                    "silence" => {}
                    "strangers without end" => peer.say(PONG, 1 << 40, &bytes),
                    "without room" => {
                        let words = head(PONG, 0, 1 << 40, 0, 0);
                        peer.health_out.publish(&peer.own, words, &[]);
                        peer.health_out.ring_if_awaited(&peer.own, &peer.down);
                    }
                    "commit" => {
                        let at = peer.health_out.at(peer.health_out.tail);
                        peer.own.map.word(at).store(u64::MAX, Ordering::Release);
                    }
                    _ if asked.is_some() => peer.say(kind, asked.unwrap(), &bytes),
                    _ => peer.stay(Duration::from_micros(50)),
                }
            });
        }
        "silence" => peer.is_serving = false,
        "silence of everything" => {
            peer.reply(request, b"");
            peer.is_serving = false;
            peer.is_healthy = false;
        }
        // The owner word.
        "owner died" => {
            peer.own.put32(OWNER, 0x4000_0000);
            wake(peer.own.map.half(OWNER));
        }
        "owner flaps" => {
            peer.reply(request, b"");
            let mut value = 0_u32;
            peer.go_on(ATTACK, |peer| {
                value = value.wrapping_add(1) & 0x3fff_ffff;
                peer.own.put32(OWNER, value);
                wake(peer.own.map.half(OWNER));
            });
        }
        "exit" => std::process::exit(value as i32),
        // The descriptors.
        "memory" => {
            let report = attack_memory(peer);
            peer.reply(request, report.as_bytes());
        }
        "holes" => {
            peer.reply(request, b"");
            peer.stay(Duration::from_millis(10));
            let fd = peer.fds[1].as_raw_fd();
            punch(fd, peer.own.map.len());
        }
        "hint" => {
            let own = peer.fds[2].as_raw_fd();
            let other = peer.fds[3].as_raw_fd();
            peer.reply(request, b"");
            match argument {
                "shut down" => [own, other].into_iter().for_each(|fd| {
                    // SAFETY: a system call without pointers.
                    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
                }),
                "blocking and full" => [own, other].into_iter().for_each(|fd| {
                    // SAFETY: a system call without pointers.
                    unsafe { libc::fcntl(fd, libc::F_SETFL, 0) };
                    while poke(fd) {}
                }),
                "lit without end" => peer.go_on(ATTACK, |peer| {
                    poke(own);
                    peer.serve_health();
                }),
                "drained without end" => peer.go_on(ATTACK, |peer| {
                    let mut bytes = [0; 256];
                    receive(other, &mut bytes, libc::MSG_DONTWAIT);
                    receive(own, &mut bytes, libc::MSG_DONTWAIT);
                    peer.serve_health();
                }),
                other => panic!("{other}"),
            }
        }
        other => panic!("no such case: {other}"),
    }
}

/// Marks all entries in such a way, for the requests that come next.
fn mark_all(peer: &Peer, how: &str, request: u64) {
    let (now, count) = (1_u64 << 40, peer.marks);
    for index in 0..count {
        // The next request that has this entry.
        let id = request + 1 + (index + count - (request + 1) % count) % count;
        let stage = |stage: u64| id << 3 | stage;
        let words = match how {
            "all ones" => [u64::MAX; 4],
            "zeros" => [0; 4],
            "taken" => [stage(1), now, 0, 0],
            "begun" => [stage(2), now, u64::MAX, 0],
            "begun at the end of time" => [stage(2), u64::MAX, 0, 0],
            "begun at the start of time" => [stage(2), 0, 0, 0],
            "answered" => [stage(3), now, 0, 0],
            "done" => [stage(4), now, 0, 0],
            "unknown stages" => [stage(5 + index % 3), now, 0, 0],
            "no stage" => [stage(0), now, 1, 1],
            "no request" => [2, now, 0, 0],
            "one request in all" => [(request + 1) << 3 | 2, now, 0, 0],
            "another lap" => [(id + count) << 3 | 2, now, 0, 0],
            "credit that cannot be" => [stage(2), now, 0, u64::MAX],
            "credit that is there" => [stage(2), now, 0, 1],
            "half a frame of credit" => [stage(1), now, 0, 63],
            other => panic!("{other}"),
        };
        for (word, value) in words.into_iter().enumerate() {
            peer.own.put64(MARKS + 8 * (4 * index as usize + word), value);
        }
    }
}
