//! Checks of fuzz targets that need the inside of the library. Compiled into the library as its
//! module `fuzzing`, only with `--cfg slipring_fuzzing`; `fuzz/src/lib.rs` calls them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a check panics")]

mod forge;
mod hostile_moves;
mod hostile_peer;
mod inspected;
mod model;
mod peer;
mod status_page;
mod streams;

pub use hostile_peer::hostile_peer;
pub use inspected::inspect;
pub use status_page::status_page;
pub use streams::streams;
use zerocopy::IntoBytes;

use self::forge::Forge;
use crate::config::{Config, RingConfig, WaitStrategy};
use crate::error::ErrorKind;
use crate::link::{ParentLink, WorkerLink};
use crate::protocol::handshake::{AttachReply, WorkerSetup};
use crate::protocol::{failure, health};
use crate::ring::Consumer;
use crate::shm::layout::{RegionHeader, Side, as_u64, control};
use crate::shm::memfd;

/// Parses the input as the header of a region. The parts of an accepted header fit together,
/// and it has the same bytes when it is written again.
pub fn attach_header(data: &[u8]) {
    for side in [Side::Down, Side::Up] {
        // The length that the header states, so that the check of the length can pass.
        let said = data.get(40..48).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        for len in [said, as_u64(data.len()), said.wrapping_add(1)] {
            match RegionHeader::parse(data, side, len) {
                Ok(header) => check_header(&header, side, data, len),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Mismatch),
            }
        }
    }
}

fn check_header(header: &RegionHeader, side: Side, data: &[u8], len: u64) {
    assert_eq!(Some(header.as_bytes()), data.get(..size_of::<RegionHeader>()));
    let geometry = &header.own;
    assert_eq!(geometry.region_len, len);
    let entry = if side == Side::Down { 16 } else { 32 };
    let table_end = geometry.requests_offset + u64::from(geometry.request_count) * entry;
    assert!(geometry.data.offset >= table_end);
    assert!(geometry.health.offset >= geometry.data.offset + geometry.data.capacity);
    assert!(len >= geometry.health.offset + geometry.health.capacity);
    for ring in [&geometry.data, &geometry.health] {
        assert!(ring.capacity.is_power_of_two());
        assert!(2 * (u64::from(ring.max_frame) + 32) <= ring.capacity);
    }
    assert!(header.build_name().len() <= 3 * 64);
}

/// Fills a ring with the input, and stores its first eight bytes as the head of the other ring.
/// The consumer delivers frames within the limits until it is poisoned for good; so is the
/// producer if the head is impossible.
pub fn ring(data: &[u8]) {
    let (head, data) = data.split_at_checked(8).unwrap_or((&[0; 8], data));
    let head = head.try_into().map_or(0, u64::from_le_bytes);
    let ring = RingConfig { capacity: 4096, max_frame: 1000 };
    let wait = WaitStrategy::Park;
    let config = Config { down: ring, up: ring, wait, ..Config::small() };
    let tuning = config.tuning();
    let (regions, files) = memfd::create(&config).unwrap();
    let mut parent = ParentLink::over(regions, tuning, None).unwrap();
    let forge = Forge::new(&files.up);
    let regions = memfd::attach(files.down.into(), files.up.into()).unwrap();
    let worker = WorkerLink::over(regions, tuning, None).unwrap();
    forge.write_ring(&worker.header.peer.data, 0, data);
    drain(&mut parent.data.consumer);

    forge.set_head(control::DATA, head);
    let mut sent = 0;
    loop {
        match parent.data.producer.try_claim(sent % 1001) {
            Ok(Some(claim)) if sent < 64 => {
                claim.commit(crate::ring::Header::default());
                sent += 1;
            }
            Ok(_) => break,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::PeerCorrupt);
                assert!(parent.data.producer.try_claim(0).is_err(), "for good");
                break;
            }
        }
    }
}

fn drain(consumer: &mut Consumer) {
    let (mut frames, mut bytes) = (0_u64, 0);
    let end = loop {
        match consumer.poll() {
            Ok(Some(frame)) => {
                let len = frame.payload().len();
                assert!(len <= 1000);
                assert_eq!(frame.payload().to_vec().len(), len);
                frames += 1;
                bytes += len + 32;
                assert!(frames <= 64 && bytes <= 4096, "no slot is handed out twice");
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    if let Some(error) = end {
        assert_eq!(error.kind(), ErrorKind::PeerCorrupt);
        assert_eq!(consumer.poll().unwrap_err().kind(), ErrorKind::PeerCorrupt, "for good");
    }
}

/// Decodes the input as each message of the protocol. A message that decodes is encoded and
/// decoded again, to the same value.
pub fn messages(data: &[u8]) {
    if let Ok(failure) = failure::decode(data) {
        let again = failure::decode(&failure::encode(&failure, 1 << 20)).unwrap();
        assert_eq!(again.message, failure.message);
        assert!(failure::encode(&failure, 300).len() <= 300);
    }
    if let Ok(health) = health::decode(data) {
        assert_eq!(health.current_request.is_some(), health.busy_for.is_some());
    }
    if let Ok(setup) = WorkerSetup::decode(data)
        && let Ok(bytes) = setup.encode()
    {
        assert_eq!(WorkerSetup::decode(&bytes).unwrap(), setup);
    }
    if let Ok(reply) = AttachReply::decode(data) {
        assert_eq!(AttachReply::decode(&reply.encode()).unwrap(), reply);
    }
}
