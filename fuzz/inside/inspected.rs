//! The look at the memory of another process's channel.

use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use crate::config::{Config, RingConfig};
use crate::inspect::{Memory, Options, Source, Verdict, examine};
use crate::link::{ParentLink, WorkerLink};
use crate::ring::Header;
use crate::shm::layout::{RegionHeader, as_usize, control, short_id};
use crate::shm::memfd;

const CAPACITY: usize = 4096;
/// Bytes of a change: the region, the part of it, where in that, and what is stored there.
const CHANGE: usize = 12;

/// An honest channel's memory, with frames in three of its rings, some of them behind padding.
fn honest() -> &'static (RegionHeader, [Vec<u8>; 2]) {
    static HONEST: OnceLock<(RegionHeader, [Vec<u8>; 2])> = OnceLock::new();
    HONEST.get_or_init(|| {
        let ring = RingConfig { capacity: CAPACITY, max_frame: 1000 };
        let config = Config { down: ring, up: ring, max_in_flight: 8, ..Config::small() };
        let (regions, files) = memfd::create(&config).unwrap();
        let header = regions.header;
        let read = [&files.down, &files.up].map(|file| file.try_clone().unwrap());
        let mut parent = ParentLink::over(regions, config.tuning(), None).unwrap();
        let regions = memfd::attach(files.down.into(), files.up.into()).unwrap();
        let mut worker = WorkerLink::over(regions, config.tuning(), None).unwrap();
        for request in 1..=5 {
            let claim = parent.data.producer.try_claim(900).unwrap().unwrap();
            claim.commit(Header { kind: 32, request, ..Header::default() });
            if request <= 3 {
                drop(worker.data.consumer.poll().unwrap());
            }
        }
        worker.words.report.marks.begin(4, 1);
        worker.data.producer.try_claim(70).unwrap().unwrap().commit(Header::default());
        parent.health.producer.try_claim(0).unwrap().unwrap().commit(Header::default());
        let copies = read.map(|file| {
            let mut bytes = vec![0; as_usize(file.metadata().unwrap().len())];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        });
        (header, copies)
    })
}

/// Makes the changes that the input says in a channel's memory, cuts a region if it says so, and looks
/// at the result: it ends, what it returns is bounded, and each check has a reason unless it is passed.
pub fn inspect(data: &[u8]) {
    let (header, regions) = honest();
    let mut regions = regions.clone();
    let (changes, rest) = data.as_chunks::<CHANGE>();
    for [side, part, low, high, value @ ..] in changes {
        let at = usize::from(u16::from_le_bytes([*low, *high]));
        let (geometry, Some(region)) = (
            if side % 2 == 0 { &header.own } else { &header.peer },
            regions.get_mut(usize::from(side % 2)),
        ) else {
            continue;
        };
        let (start, len) = match part % 5 {
            0 => (0, 384),
            1 => (control::DATA, control::END - control::DATA),
            2 => (as_usize(geometry.data.offset), CAPACITY),
            3 => (as_usize(geometry.health.offset), as_usize(geometry.health.capacity)),
            _ => (as_usize(geometry.requests_offset), 256),
        };
        let start = start + 8 * at % len;
        region.iter_mut().skip(start).zip(value).for_each(|(to, from)| *to = *from);
    }
    if let [side, low, high, ..] = rest {
        let len = usize::from(u16::from_le_bytes([*low, *high]));
        regions.get_mut(usize::from(side % 2)).unwrap().truncate(len);
    }
    let [down, up] = &regions;
    let mut options = Options::default();
    (options.frames, options.payload_bytes) = (3, 5);
    let pid = Some(std::process::id());
    let found = examine(&Source { id: short_id(header.channel), down, up, pid }, &options);
    if data.is_empty() {
        assert!(found.checks.iter().all(|check| check.verdict == Verdict::Ok), "{found:?}");
        assert_eq!(found.rings.iter().map(|ring| ring.frame_count).sum::<u64>(), 4);
    }
    assert!((4..=25).contains(&found.checks.len()));
    for check in &found.checks {
        assert_eq!(check.why.is_empty(), check.verdict == Verdict::Ok, "{check:?}");
        assert!(check.verdict != Verdict::Moved, "nothing moves: {check:?}");
        assert!(check.why.len() < 1000, "{check:?}");
    }
    assert!(found.rings.is_empty() || Memory::len(up) == header.peer.region_len);
    for ring in &found.rings {
        assert!(ring.frame_count <= ring.capacity / 64 && ring.frames.len() <= 3);
        assert!(ring.end.wrapping_sub(ring.head) <= 2 * ring.capacity);
        assert!(ring.frames.iter().all(|frame| frame.len <= ring.max_frame));
        assert!(ring.frames.iter().all(|frame| frame.payload.len() <= 10));
    }
    assert!(found.worker.is_none_or(|worker| worker.marks.len() <= 3 && worker.mark_count <= 8));
}
