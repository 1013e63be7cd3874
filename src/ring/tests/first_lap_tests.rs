//! Pages that are made while the ring is used for the first time.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use crate::error::ErrorKind;
use crate::ring::Header;
use crate::ring::testing::{claim_batch, pattern, receive, rig_without_pages, send};
use crate::sync::Ordering::Relaxed;

const CAPACITY: usize = 1 << 20;

/// Bytes of the file that have pages.
fn made(file: &File) -> u64 {
    file.metadata().unwrap().blocks() * 512
}

#[test]
fn a_ring_takes_memory_only_as_its_first_lap_comes_to_it() {
    let (mut rig, file) = rig_without_pages(CAPACITY, 64 << 10);
    for (frames, most) in [(1, 24 << 10), (10, 48 << 10), (100, 240 << 10)] {
        for seed in 0..frames {
            assert!(send(&mut rig.producer, seed, &pattern(seed, 1000)).unwrap());
            let (request, payload) = receive(&mut rig.consumer).unwrap().unwrap();
            assert!(request == seed && payload == pattern(seed, 1000));
        }
        assert!(made(&file) <= most, "{} bytes after {frames} frames", made(&file));
    }
    for seed in 0..5000 {
        assert!(send(&mut rig.producer, seed, &pattern(seed, 1000)).unwrap());
        assert_eq!(receive(&mut rig.consumer).unwrap().unwrap().1, pattern(seed, 1000));
    }
    assert!(made(&file) >= CAPACITY as u64);
}

#[test]
fn a_producer_is_told_of_a_lack_of_memory_and_may_try_again() {
    let (mut rig, file) = rig_without_pages(CAPACITY, 64 << 10);
    let len = file.metadata().unwrap().len();
    // What lies behind the end of a file cannot become a page, as where there is no memory.
    file.set_len(20 << 10).unwrap();
    let mut sent = 0;
    let error = loop {
        match send(&mut rig.producer, sent, b"payload") {
            Ok(is_sent) => assert!(is_sent),
            Err(error) => break error,
        }
        sent += 1;
    };
    assert_eq!(error.kind(), ErrorKind::Os);
    assert!(error.to_string().contains("no memory for"), "{error}");
    assert!(sent > 200, "the pages that there are can be used: {sent} frames");
    file.set_len(len).unwrap();
    for seed in sent..2000 {
        assert!(send(&mut rig.producer, seed, b"payload").unwrap());
    }
    for seed in 0..2000 {
        assert_eq!(receive(&mut rig.consumer).unwrap(), Some((seed, b"payload".to_vec())));
    }
}

#[test]
fn a_batch_is_as_long_in_the_first_lap_as_later() {
    let (mut rig, file) = rig_without_pages(CAPACITY, 64 << 10);
    for batches in 1..=3 {
        let batch = claim_batch(&mut rig.producer, (4 << 10) - 64, 64).unwrap().unwrap();
        assert_eq!(batch.len(), 64, "batch {batches}");
        batch.commit(|_| Header::default());
        assert!(made(&file) <= batches * (256 << 10) + (24 << 10), "{} bytes", made(&file));
    }
}

#[test]
fn without_memory_a_batch_has_the_slots_that_have_pages() {
    let (mut rig, file) = rig_without_pages(CAPACITY, 64 << 10);
    file.set_len(20 << 10).unwrap();
    let batch = claim_batch(&mut rig.producer, 64, usize::MAX).unwrap().unwrap();
    assert!(batch.len() > 100, "{} slots", batch.len());
    batch.commit(|_| Header::default());
    assert_eq!(claim_batch(&mut rig.producer, 64, 100).unwrap_err().kind(), ErrorKind::Os);
}

#[test]
fn a_consumer_does_not_read_where_no_page_can_be() {
    let (mut rig, file) = rig_without_pages(CAPACITY, 64 << 10);
    for seed in 0..2000 {
        assert!(send(&mut rig.producer, seed, b"payload").unwrap());
    }
    file.set_len(20 << 10).unwrap();
    let mut received = 0;
    let error = loop {
        match receive(&mut rig.consumer) {
            Ok(frame) => assert_eq!(frame.unwrap().0, received),
            Err(error) => break error,
        }
        received += 1;
    };
    assert!(received > 200, "{received} frames");
    assert_eq!(error.kind(), ErrorKind::Os);
    // For good, and with the same error.
    let again = receive(&mut rig.consumer).unwrap_err();
    assert_eq!(again.to_string(), error.to_string());
}

#[test]
fn a_forged_frame_gets_pages_for_its_length_if_that_can_be() {
    let (mut rig, file) = rig_without_pages(CAPACITY, 64 << 10);
    // Nothing of the frames is written but their lengths and commit words.
    let mut forge = |position: u64, len: u64| {
        rig.forge.slots.line(position).store(1, len, Relaxed);
        rig.forge.slots.line(position).store(0, position | 1, Relaxed);
        receive(&mut rig.consumer)
    };
    assert_eq!(forge(0, 64 << 10).unwrap().unwrap().1, vec![0; 64 << 10]);
    let before = made(&file);
    assert!(before <= 80 << 10, "{before} bytes");
    assert_eq!(forge((64 << 10) + 64, (64 << 10) + 1).unwrap_err().kind(), ErrorKind::PeerCorrupt);
    assert_eq!(made(&file), before);
}
