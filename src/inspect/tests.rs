//! The examination of memory that both ends of a link have written, and of memory that no honest end writes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::cell::Cell;
use std::io;
use std::os::unix::fs::FileExt;

use super::channel::{Source, examine};
use super::memory::Memory;
use super::report::{ChannelMemory, Options, Verdict};
use crate::config::{Config, RingConfig};
use crate::link::{ParentLink, WorkerLink};
use crate::protocol::Kind;
use crate::protocol::kind::flags;
use crate::ring::Header;
use crate::shm::layout::{RegionHeader, as_usize, control, short_id};
use crate::shm::memfd::{self, RegionFiles};
use crate::trace_context::{CONTEXT_LEN, TraceContext};

const DOWN: usize = 0;
const UP: usize = 1;

/// A channel's memory with both its ends.
struct Rig {
    parent: ParentLink,
    worker: WorkerLink,
    files: RegionFiles,
    header: RegionHeader,
}

impl Rig {
    fn new(origin: u64) -> Self {
        let ring = RingConfig { capacity: 4096, max_frame: 1000 };
        let config = Config { down: ring, up: ring, origin, max_in_flight: 8, ..Config::small() };
        let (regions, files) = memfd::create_to_keep(&config).unwrap();
        let header = regions.header;
        let parent = ParentLink::over(regions, config.tuning(), None).unwrap();
        let copies = files.try_clone().unwrap();
        let attached = memfd::attach(copies.down.into(), copies.up.into()).unwrap();
        let worker = WorkerLink::over(attached, config.tuning(), None).unwrap();
        Self { parent, worker, files, header }
    }

    /// The host sends a request.
    fn request(&mut self, request: u64, len: usize) {
        let mut claim = self.parent.data.producer.try_claim(len).unwrap().unwrap();
        claim.payload().fill(0xAB);
        claim.commit(Header { kind: Kind::EMBED.code(), request, aux: 9, ..Header::default() });
    }

    /// The worker takes one, and gives its slot back.
    fn take(&mut self) {
        drop(self.worker.data.consumer.poll().unwrap().unwrap());
        assert!(self.worker.data.consumer.poll().unwrap().is_none());
    }

    /// The bytes of both regions.
    fn copies(&self) -> [Vec<u8>; 2] {
        [&self.files.down, &self.files.up].map(|file| {
            let mut bytes = vec![0; as_usize(file.metadata().unwrap().len())];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        })
    }

    fn examine(&self, [down, up]: &[Vec<u8>; 2]) -> ChannelMemory {
        let pid = Some(std::process::id());
        let source = Source { id: short_id(self.header.channel), down, up, pid };
        examine(&source, &Options { frames: 4, payload_bytes: 3 })
    }

    fn found(&self) -> ChannelMemory {
        self.examine(&self.copies())
    }
}

/// The names of the checks that were not passed, with the reasons.
fn not_ok(found: &ChannelMemory) -> Vec<(&str, Verdict, &str)> {
    let checks = found.checks.iter().filter(|check| check.verdict != Verdict::Ok);
    checks.map(|check| (check.name.as_str(), check.verdict, check.why.as_str())).collect()
}

#[test]
fn the_memory_of_an_idle_channel_passes_all_checks() {
    let found = Rig::new(0).found();
    assert_eq!(not_ok(&found), []);
    let names: Vec<_> = found.rings.iter().map(|ring| ring.name).collect();
    assert_eq!(names, ["requests", "replies", "pings", "answers"]);
    assert!(found.rings.iter().all(|ring| (ring.frame_count, ring.end) == (0, ring.head)));
    let layout = found.layout.unwrap();
    let pids = (layout.host_pid, layout.worker_pid);
    assert_eq!(pids, (std::process::id(), std::process::id()));
    assert_eq!((layout.max_in_flight, layout.version), (8, 2));
    assert!(layout.worker_library.starts_with("slipring "));
}

#[test]
fn frames_in_flight_are_shown_with_how_far_the_worker_is() {
    // At the wrap of all positions, too.
    for origin in [0, u64::MAX - 4095, (1 << 32) - 4096] {
        let mut rig = Rig::new(origin);
        for request in 1..=6 {
            rig.request(request, 100);
        }
        let marks = &rig.worker.words.report.marks;
        marks.begin(1, 0);
        marks.take(2, 0);
        marks.begin(11, 0); // The entry of 3, which has ended.
        rig.parent.words.requests.cancel(4);
        let found = rig.found();
        assert_eq!(not_ok(&found), [], "{origin}");
        let [requests, replies, ..] = &found.rings[..] else { panic!("{found:?}") };
        assert_eq!((requests.head, requests.frame_count), (origin, 6));
        assert_eq!(requests.end, origin.wrapping_add(6 * 192));
        assert_eq!(requests.notified, requests.end);
        let shown: Vec<_> =
            requests.frames.iter().map(|f| (f.request, f.len, f.stage.unwrap_or("-"))).collect();
        // No state was stored, but marks were.
        assert_eq!(
            shown,
            [(1, 100, "begun"), (2, 100, "taken"), (3, 100, "done"), (4, 100, "waiting")]
        );
        let first = &requests.frames[0];
        assert_eq!((first.position, first.aux, first.payload.as_str()), (origin, 9, "ababab"));
        assert_eq!(first.kind_name, "embed");
        assert_eq!(replies.frame_count, 0);
        let worker = found.worker.unwrap();
        assert_eq!((worker.mark_count, worker.cancelled), (3, 1));
        assert!(worker.marks.iter().all(|mark| mark.age_ns > 0));
    }
}

#[test]
fn the_context_of_a_trace_is_shown_and_is_no_payload() {
    let mut rig = Rig::new(0);
    let trace = TraceContext::new([7; 16], [9; 8], 1).unwrap();
    let mut send = |request, payload: &[u8]| {
        let mut claim = rig.parent.data.producer.try_claim(payload.len()).unwrap().unwrap();
        claim.payload().copy_from_slice(payload);
        let (kind, flags) = (Kind::EMBED.code(), flags::TRACED);
        claim.commit(Header { kind, flags, request, ..Header::default() });
    };
    send(1, &[b"ab", &trace.to_bytes()[..]].concat());
    send(2, &[b"ab", &[0xff; CONTEXT_LEN][..]].concat());
    send(3, &[0xcd; CONTEXT_LEN - 1]);
    let found = rig.found();
    let shown = found.rings[0].frames.iter().map(|it| (it.len, it.trace.clone(), &*it.payload));
    let expected = [(2, Some(trace.to_string()), "6162"), (2, None, "6162"), (31, None, "cdcdcd")];
    assert_eq!(shown.collect::<Vec<_>>(), expected, "a context, none, and no room for one");
}

#[test]
fn frames_around_the_rings_end_are_found_behind_the_padding() {
    let mut rig = Rig::new(0);
    for request in 1..=5 {
        rig.request(request, 900);
        if request <= 3 {
            rig.take();
        }
    }
    let found = rig.found();
    assert_eq!(not_ok(&found), []);
    let requests = &found.rings[0];
    assert_eq!(requests.frame_count, 2);
    assert_eq!((requests.padding, requests.end), (256, 4096 + 960));
    assert_eq!(requests.frames.iter().map(|f| f.request).collect::<Vec<_>>(), [4, 5]);
}

#[test]
fn all_that_is_left_of_an_empty_rings_lap_can_be_padding() {
    let mut rig = Rig::new(0);
    rig.request(1, 100);
    rig.take();
    let mut begun_anew = rig.copies();
    let ring = as_usize(rig.header.own.data.offset);
    let notified = control::DATA + control::CHECKED;
    // A frame without a payload, at the ring's first byte.
    let frame = [(ring, 4096 | 1), (ring + 8, 0), (ring + 64, 0)];
    let words = frame.into_iter().chain([(ring + 192, 192 | 2), (notified, 4096 + 64)]);
    for (offset, word) in words {
        begun_anew[DOWN][offset..offset + 8].copy_from_slice(&u64::to_le_bytes(word));
    }
    let found = rig.examine(&begun_anew);
    assert_eq!(not_ok(&found), []);
    let requests = &found.rings[0];
    assert_eq!((requests.head, requests.padding, requests.frame_count), (192, 4096 - 192, 1));
}

/// A word of a region that no honest program writes.
type Forged = (usize, usize, u64, &'static str, &'static str);

#[test]
fn each_word_that_cannot_be_fails_its_own_check() {
    let mut rig = Rig::new(0);
    rig.request(1, 100);
    rig.request(2, 100);
    let copies = rig.copies();
    let ring = as_usize(rig.header.own.data.offset);
    let (marks, table) = (as_usize(rig.header.peer.requests_offset), control::END);
    let data = control::DATA;
    let cases: [Forged; 17] = [
        (UP, data + control::HEAD, 7, "requests: cursors", "head 7"),
        (UP, data + control::HEAD, 1 << 40, "requests: cursors", "in a ring of 4096 bytes"),
        (DOWN, data + control::CHECKED, 65, "requests: cursors", "notified 65"),
        (DOWN, data + control::CHECKED, 448, "requests: frames", "up to 448 were published"),
        (DOWN, ring, 3, "requests: frames", "commit word at 0 is 0x3"),
        (DOWN, ring, 2, "requests: frames", "4096 bytes of frames in a ring of 4096"),
        (DOWN, ring + 192, 192 | 2, "requests: frames", "where the longest frame fits"),
        (DOWN, ring, 0, "requests: frames", "and end at 0"),
        (DOWN, ring + 8, 1001, "requests: frames", "a frame of 1001 bytes at 0: the cap is 1000"),
        (DOWN, ring + 8, 0xFFFF_FFFF, "requests: frames", "a frame of 4294967295 bytes"),
        (UP, data + control::SLEEP_AT, 6, "requests: reader's wait", "6, no position"),
        (UP, data + control::SLEEP_AT, 1 << 30, "requests: reader's wait", "frames end at 384"),
        (DOWN, data + control::SPACE_AT, 3, "requests: writer's wait", "3, no position"),
        (DOWN, data + control::SPACE_AT, 448, "requests: writer's wait", "frames end at 384"),
        (UP, control::STATUS, 3, "worker's state", "state 3"),
        (UP, marks, 5, "worker's marks", "mark 0 is 0x5"),
        (DOWN, table + 16, 3, "cancelled requests", "entry 1 is of request 3"),
    ];
    for (side, offset, value, name, why) in cases {
        let mut forged = copies.clone();
        forged[side][offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        let found = rig.examine(&forged);
        let wrong = not_ok(&found);
        let is_found = wrong.iter().any(|(at, verdict, said)| {
            *at == name && *verdict == Verdict::Wrong && said.contains(why)
        });
        assert!(is_found, "{name} {value}: {wrong:?}");
        // What depends on the forged word may fail as well, and nothing else.
        let part = name.split(':').next().unwrap();
        assert!(wrong.iter().all(|(at, ..)| at.starts_with(part)), "{name} {value}: {wrong:?}");
    }
}

#[test]
fn more_frames_than_a_ring_holds_are_no_frames() {
    let mut rig = Rig::new(0);
    for request in 1..=3 {
        rig.request(request, 1000);
    }
    let mut forged = rig.copies();
    // One more, up to the ring's last byte.
    let ring = as_usize(rig.header.own.data.offset);
    let at = 3 * 1088;
    forged[DOWN][ring + at..][..8].copy_from_slice(&(at as u64 | 1).to_le_bytes());
    forged[DOWN][ring + at + 8..][..4].copy_from_slice(&800_u32.to_le_bytes());
    let found = rig.examine(&forged);
    let wrong = not_ok(&found);
    let [("requests: frames", Verdict::Wrong, why)] = wrong[..] else { panic!("{wrong:?}") };
    assert_eq!(why, "4096 bytes of frames in a ring of 4096");
}

#[test]
fn headers_that_lie_and_regions_that_are_cut_are_told_apart() {
    let rig = Rig::new(0);
    let copies = rig.copies();
    type Change = fn(&mut [Vec<u8>; 2]);
    let cases: [(&str, Change, &str); 7] = [
        ("host's header", |all| all[DOWN][0] = 0, "magic"),
        ("host's header", |all| all[DOWN][8] = 9, "layout version 9"),
        ("host's header", |all| all[DOWN].truncate(4096), "region of 4096 bytes"),
        ("host's header", |all| all[DOWN].truncate(10), "header of 10 bytes"),
        ("channel", |all| all[DOWN][16] ^= 1, "the header is of channel"),
        ("host's process", |all| all[DOWN][232] ^= 1, "by the header"),
        ("worker's region", |all| all[UP].truncate(8192), "8192 bytes, and the host's header"),
    ];
    for (name, change, why) in cases {
        let mut changed = copies.clone();
        change(&mut changed);
        let found = rig.examine(&changed);
        let wrong = not_ok(&found);
        let is_found = |(at, verdict, said): &(&str, Verdict, &str)| {
            *at == name && *verdict == Verdict::Wrong && said.contains(why)
        };
        assert!(wrong.iter().any(is_found), "{name}: {wrong:?}");
        assert_eq!(found.layout.is_none(), name == "host's header");
        assert_eq!(found.rings.is_empty(), found.layout.is_none() || name == "worker's region");
    }
    let mut changed = copies.clone();
    changed[UP][..384].fill(0);
    let found = rig.examine(&changed);
    assert_eq!(not_ok(&found), [("worker's header", Verdict::Skipped, "no worker has attached")]);
    changed[UP][..384].fill(1);
    let found = rig.examine(&changed);
    assert!(matches!(not_ok(&found)[..], [("worker's header", Verdict::Wrong, _)]));
    assert_eq!(found.rings.len(), 4, "the host's header says where they are");
}

/// A region whose owner gives slots back faster than they are read.
struct Moving<'a> {
    up: &'a Vec<u8>,
    head: Cell<u64>,
}

impl Memory for Moving<'_> {
    fn len(&self) -> u64 {
        Memory::len(self.up)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.up.read_at(offset, out)?;
        if offset == control::DATA as u64 {
            self.head.set(self.head.get() + 192);
            out[control::HEAD..control::HEAD + 8].copy_from_slice(&self.head.get().to_le_bytes());
        }
        Ok(())
    }
}

#[test]
fn a_ring_that_moves_on_is_said_to_and_not_called_wrong() {
    let mut rig = Rig::new(0);
    rig.request(1, 100);
    rig.request(2, 100);
    let [mut down, up] = rig.copies();
    let ring = as_usize(rig.header.own.data.offset);
    // Where the head passes by at the first look.
    down[ring + 192..ring + 200].copy_from_slice(&77_u64.to_le_bytes());
    let source = |up| Source { id: short_id(rig.header.channel), down: &down, up, pid: None };
    let moving = Moving { up: &up, head: Cell::new(0) };
    let found = examine(&source(&moving), &Options::default());
    assert!(found.rings[0].is_moving);
    assert!(found.checks.iter().all(|check| check.verdict != Verdict::Wrong), "{found:?}");
    let still = examine(&source(&up), &Options::default());
    assert!(not_ok(&still).iter().any(|(_, verdict, _)| *verdict == Verdict::Wrong));
}

/// A region of which a word is torn at the first look.
struct Torn<'a>(&'a Vec<u8>, u64, Cell<bool>);

impl Memory for Torn<'_> {
    fn len(&self) -> u64 {
        Memory::len(self.0)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)?;
        if offset == self.1 && !self.2.replace(true) {
            out[0] ^= 8;
        }
        Ok(())
    }
}

#[test]
fn a_word_that_is_torn_once_is_read_again() {
    let mut rig = Rig::new(0);
    rig.request(1, 100);
    let [down, up] = rig.copies();
    let torn = Torn(&down, rig.header.own.data.offset, Cell::new(false));
    let id = short_id(rig.header.channel);
    let found = examine(&Source { id, down: &torn, up: &up, pid: None }, &Options::default());
    let skipped = ("host's process", Verdict::Skipped, "its own id is not known");
    assert_eq!(not_ok(&found), [skipped]);
    assert!(torn.2.get());
}

#[test]
fn what_is_returned_of_a_payload_is_bounded() {
    let mut rig = Rig::new(0);
    rig.request(1, 1000);
    let [down, up] = &rig.copies();
    let source = Source { id: 0, down, up, pid: None };
    let found = examine(&source, &Options { frames: 1, payload_bytes: usize::MAX });
    assert_eq!(found.rings[0].frames[0].payload.len(), 2000);
    assert!(examine(&source, &Options::default()).rings[0].frames[0].payload.is_empty());
}
