//! Raw links between two processes: batches of frames in both directions, over rings that are soon
//! full.

use std::time::Duration;

use slipring::ring::Header;
use slipring::worker::{attach_raw, is_worker};
use slipring::{Config, RawLink};

use crate::common::{LONG, spawner_of};

const FRAMES: u64 = 60_000;

/// The number of frames in a row that have the same length, as those of a batch must.
const ROW: u64 = 20;

fn len_of(request: u64) -> usize {
    let spread = (request / ROW).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    if spread.is_multiple_of(13) { 900 } else { (spread % 120) as usize }
}

fn byte(request: u64, index: usize) -> u8 {
    (request.wrapping_mul(31) + index as u64) as u8
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(bytes.len() as u64, |sum, byte| sum.rotate_left(5) ^ u64::from(*byte))
}

fn header(request: u64) -> Header {
    Header { request, aux: !request, ..Header::default() }
}

/// Not a test of its own: a worker that answers each frame with the sum of its bytes. It sends as
/// many answers at a time as it has taken frames.
#[test]
fn worker_that_sums() {
    if !is_worker() {
        return;
    }
    let (mut link, _) = attach_raw().unwrap();
    let mut taken: Vec<(u64, u64)> = Vec::new();
    loop {
        let drained = link.drain(25, LONG, |header, payload| {
            assert_eq!(header.aux, !header.request);
            taken.push((header.request, sum(&payload.to_vec())));
        });
        // The loop ends when the parent closes the link.
        let Ok(drained) = drained else { return };
        assert_eq!(drained, taken.len());
        let mut answers = taken.as_slice();
        while !answers.is_empty() {
            let Ok(batch) = link.claim_batch(8, answers.len(), LONG) else { return };
            let mut batch = batch.expect("room in a minute");
            let (now, later) = answers.split_at(batch.len());
            for (index, (_, sum)) in now.iter().enumerate() {
                batch.payload(index).copy_from_slice(&sum.to_le_bytes());
            }
            // The bell is rung before the next wait at the latest.
            batch.commit_lazily(|index| header(now[index].0));
            answers = later;
        }
        taken.clear();
    }
}

fn spawn() -> RawLink {
    let config = Config::builder()
        .request_ring(8 << 10)
        .reply_ring(8 << 10)
        .max_request(1000)
        .max_reply(1000)
        .stream_window(4 << 10)
        .build()
        .unwrap();
    spawner_of(worker_that_sums).config(config).spawn_raw().unwrap()
}

/// Takes the answers in the ring, or waits for some, and checks them.
fn take_answers(link: &mut RawLink, answered: &mut u64) {
    let before = *answered;
    let taken = link.drain(40, LONG, |header, payload| {
        let request = header.request;
        assert_eq!(request, *answered, "in order, and each once");
        let sent: Vec<u8> = (0..len_of(request)).map(|index| byte(request, index)).collect();
        assert_eq!(payload.to_vec(), sum(&sent).to_le_bytes(), "request {request}");
        *answered += 1;
    });
    let taken = taken.unwrap();
    assert!(taken > 0, "an answer in a minute");
    assert_eq!(before + taken as u64, *answered);
}

#[test]
fn batches_of_frames_arrive_whole_in_order_and_once() {
    let mut link = spawn();
    let (mut sent, mut answered) = (0, 0);
    while sent < FRAMES {
        let most = ROW - sent % ROW;
        let Some(mut batch) = link.producer.try_claim_batch(len_of(sent), most as usize).unwrap()
        else {
            // The worker may wait for room as well.
            take_answers(&mut link, &mut answered);
            continue;
        };
        for slot in 0..batch.len() {
            let request = sent + slot as u64;
            for (index, to) in batch.payload(slot).iter_mut().enumerate() {
                *to = byte(request, index);
            }
        }
        let (first, count) = (sent, batch.len());
        batch.commit(|slot| header(first + slot as u64));
        sent += count as u64;
    }
    while answered < FRAMES {
        take_answers(&mut link, &mut answered);
    }
    link.close(LONG).unwrap();
}

#[test]
fn a_batch_or_a_drain_of_nothing_does_nothing() {
    let mut link = spawn();
    assert!(link.claim_batch(10, 0, LONG).unwrap().is_none());
    assert_eq!(link.drain(0, Duration::ZERO, |_, _| ()).unwrap(), 0);
    assert_eq!(link.drain(5, Duration::ZERO, |_, _| ()).unwrap(), 0);
    assert!(link.claim_batch(1001, 2, LONG).unwrap_err().is_too_large());
    link.close(LONG).unwrap();
}

/// Not a test of its own: a worker that sends three frames as soon as it gets one, and aborts.
#[test]
fn worker_with_last_words() {
    if !is_worker() {
        return;
    }
    let (mut link, _) = attach_raw().unwrap();
    drop(link.recv(LONG).unwrap().unwrap());
    for request in 1..=3 {
        link.claim(10, LONG).unwrap().unwrap().commit_lazily(header(request));
    }
    std::process::abort();
}

/// Not a test of its own: a worker that counts its frames until the link ends, and exits with the
/// count.
#[test]
fn worker_that_counts() {
    if !is_worker() {
        return;
    }
    let (mut link, _) = attach_raw().unwrap();
    let mut count = 0;
    while link.recv(LONG).is_ok_and(|frame| frame.is_some()) {
        count += 1;
    }
    std::process::exit(count);
}

fn spawn_entry(entry: impl Fn()) -> RawLink {
    spawner_of(entry).config(Config::small()).spawn_raw().unwrap()
}

#[test]
fn what_a_worker_sent_before_it_died_comes_before_its_death() {
    for round in 0..100 {
        let mut link = spawn_entry(worker_with_last_words);
        link.claim(0, LONG).unwrap().unwrap().commit(header(0));
        for request in 1..=3 {
            let frame = link.recv(LONG);
            let frame = frame.unwrap_or_else(|error| panic!("round {round}: {error}")).unwrap();
            assert_eq!(frame.header().request, request);
        }
        assert!(link.recv(LONG).unwrap_err().is_peer_dead());
        assert!(link.drain(9, LONG, |_, _| ()).unwrap_err().is_peer_dead());
    }
}

#[test]
fn what_was_sent_before_a_link_was_closed_comes_before_the_end() {
    for round in 0..100 {
        let mut link = spawn_entry(worker_that_counts);
        for request in 0..3 {
            link.claim(10, LONG).unwrap().unwrap().commit(header(request));
        }
        let cause = link.close(LONG).unwrap();
        assert_eq!(cause, slipring::ExitCause::Exited(3), "round {round}");
    }
}
