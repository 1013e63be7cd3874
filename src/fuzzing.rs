//! Checks for the fuzz targets that need the inside of the library. Not an interface:
//! `fuzz/src/checks.rs` calls these, and `tests/fuzz_replay.rs` replays what was found.
#![allow(missing_docs, reason = "not an interface")]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a check panics")]

#[cfg(feature = "testing")]
mod hostile_moves;
#[cfg(feature = "testing")]
mod hostile_peer;
#[cfg(feature = "testing")]
mod model;
#[cfg(feature = "testing")]
mod peer;
#[cfg(feature = "testing")]
mod streams;

#[cfg(feature = "testing")]
pub use hostile_peer::hostile_peer;
#[cfg(feature = "testing")]
pub use streams::streams;
use zerocopy::IntoBytes;

use crate::config::{Config, RingConfig, WaitStrategy};
use crate::error::ErrorKind;
use crate::link::{ParentLink, WorkerLink};
use crate::protocol::handshake::{Answer, Hello};
use crate::protocol::{failure, health};
use crate::ring::Consumer;
use crate::shm::layout::{RegionHeader, Side, as_u64};

/// A region's header: what is accepted holds together, and reads back to the byte.
pub fn attach_header(data: &[u8]) {
    for side in [Side::Down, Side::Up] {
        // The region is as long as the header says, so that the check of that passes.
        let said = data.get(40..48).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        for len in [said, as_u64(data.len()), said.wrapping_add(1)] {
            match RegionHeader::parse(data, side, len) {
                Ok(header) => check_header(&header, data, len),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Mismatch),
            }
        }
    }
}

fn check_header(header: &RegionHeader, data: &[u8], len: u64) {
    assert_eq!(Some(header.as_bytes()), data.get(..size_of::<RegionHeader>()));
    let geometry = &header.own;
    assert_eq!(geometry.region_len, len);
    let table_end = geometry.requests_offset + u64::from(geometry.request_count) * 16;
    assert!(geometry.data.offset >= table_end);
    assert!(geometry.health.offset >= geometry.data.offset + geometry.data.capacity);
    assert!(len >= geometry.health.offset + geometry.health.capacity);
    for ring in [&geometry.data, &geometry.health] {
        assert!(ring.capacity.is_power_of_two());
        assert!(2 * (u64::from(ring.max_frame) + 32) <= ring.capacity);
    }
    assert!(header.build_name().len() <= 3 * 64);
}

/// A ring whose bytes, and a head, are whatever the peer likes: the consumer hands out
/// frames inside their caps or is poisoned for good, the producer likewise.
pub fn ring(data: &[u8]) {
    let (head, data) = data.split_at_checked(8).unwrap_or((&[0; 8], data));
    let head = head.try_into().map_or(0, u64::from_le_bytes);
    let ring = RingConfig { capacity: 4096, max_frame: 1000 };
    let wait = WaitStrategy::Park;
    let config = Config { down: ring, up: ring, wait, ..Config::small() };
    let (mut parent, files) = ParentLink::create(&config, None).unwrap();
    let worker = WorkerLink::attach(files.down.into(), files.up.into(), wait, None).unwrap();
    worker.data.producer.forge(0, data);
    drain(&mut parent.data.consumer);

    worker.data.consumer.forge_head(head);
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

/// Messages of the protocol: what decodes encodes to something that decodes to the same.
pub fn messages(data: &[u8]) {
    if let Ok(failure) = failure::decode(data) {
        let again = failure::decode(&failure::encode(&failure, 1 << 20)).unwrap();
        assert_eq!(again.message, failure.message);
        assert!(failure::encode(&failure, 300).len() <= 300);
    }
    if let Ok(health) = health::decode(data) {
        assert_eq!(health.current_request.is_some(), health.busy_for.is_some());
    }
    if let Ok(hello) = Hello::decode(data)
        && let Ok(bytes) = hello.encode()
    {
        assert_eq!(Hello::decode(&bytes).unwrap(), hello);
    }
    if let Ok(answer) = Answer::decode(data) {
        assert_eq!(Answer::decode(&answer.encode()).unwrap(), answer);
    }
}
