//! Raw links between two processes: batches of frames, both ways, over rings that are soon full.
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use slipring::ring::Header;
use slipring::worker::{attach_raw, is_worker};
use slipring::{Config, ErrorKind, ExitCause, RawLink};

use crate::common::{LONG, eventually, is_running, send_signal, spawner_of};

const SHORT: Duration = Duration::from_millis(5);
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
            let Ok(mut batch) = link.claim_batch(8, answers.len(), LONG) else { return };
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

fn spawn_in_8_kib() -> RawLink {
    spawn_in_small_rings(worker_that_sums)
}

fn spawn_in_small_rings(entry: impl Fn()) -> RawLink {
    let config = Config::builder()
        .request_ring(8 << 10)
        .reply_ring(8 << 10)
        .max_request_frame(1000)
        .max_reply_frame(1000)
        .stream_window(4 << 10)
        .build()
        .unwrap();
    spawner_of(entry).config(config).spawn_raw().unwrap()
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
    let mut link = spawn_in_8_kib();
    let (mut sent, mut answered) = (0, 0);
    while sent < FRAMES {
        let most = ROW - sent % ROW;
        let Some(mut batch) = link.try_claim_batch(len_of(sent), most as usize).unwrap() else {
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
    let mut link = spawn_in_8_kib();
    assert_eq!(link.drain(0, Duration::ZERO, |_, _| ()).unwrap(), 0);
    assert!(link.drain(5, Duration::ZERO, |_, _| ()).unwrap_err().is_timeout());
    assert!(link.claim_batch(1001, 2, LONG).unwrap_err().is_too_large());
    assert!(link.claim_batch(1001, 0, LONG).unwrap_err().is_too_large());
    // One frame that is published, and one slot that was claimed and given back.
    link.claim(len_of(0), LONG).unwrap().commit(header(0));
    drop(link.claim(len_of(0), LONG).unwrap());
    let mut batch = link.claim_batch(10, 0, LONG).unwrap();
    assert!(batch.is_empty() && batch.payload(0).is_empty());
    batch.commit(|_| panic!("there is no frame"));
    link.try_claim_batch(10, 0).unwrap().unwrap().commit_lazily(|_| panic!("there is no frame"));
    // Nothing came of the batches: the first answer is that of the frame before them.
    assert_eq!(link.recv(LONG).unwrap().header().request, 0);
    assert!(link.recv(SHORT).unwrap_err().is_timeout());
    link.close(LONG).unwrap();
}

/// Not a test of its own: a worker that sends three frames as soon as it gets one, and aborts.
#[test]
fn worker_with_last_words() {
    if !is_worker() {
        return;
    }
    let (mut link, _) = attach_raw().unwrap();
    drop(link.recv(LONG).unwrap());
    for request in 1..=3 {
        link.claim(10, LONG).unwrap().commit_lazily(header(request));
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
    while link.recv(LONG).is_ok() {
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
        link.claim(0, LONG).unwrap().commit(header(0));
        for request in 1..=3 {
            let frame = link.recv(LONG);
            let frame = frame.unwrap_or_else(|error| panic!("round {round}: {error}"));
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
            link.claim(10, LONG).unwrap().commit(header(request));
        }
        let cause = link.close(LONG).unwrap();
        assert_eq!(cause, ExitCause::Exited(3), "round {round}");
    }
}

/// Not a test of its own: a worker of two threads. One takes frames, the other answers each frame
/// with the sum of its bytes.
#[test]
fn worker_in_two_halves() {
    if !is_worker() {
        return;
    }
    let (link, _) = attach_raw().unwrap();
    let (mut sender, mut receiver) = link.split();
    let (sums, taken) = channel();
    let reader = thread::spawn(move || {
        while let Ok(frame) = receiver.recv(Duration::MAX) {
            let answer = (frame.header().request, sum(&frame.payload().to_vec()));
            drop(frame);
            sums.send(answer).unwrap();
        }
    });
    for (request, sum) in taken {
        let Ok(mut claim) = sender.claim(8, Duration::MAX) else { break };
        claim.payload().copy_from_slice(&sum.to_le_bytes());
        claim.commit(header(request));
    }
    reader.join().unwrap();
}

#[test]
fn the_halves_of_a_link_send_and_receive_in_two_threads_at_once() {
    for link in [spawn_in_8_kib(), spawn_in_small_rings(worker_in_two_halves)] {
        let (mut sender, mut receiver) = link.split();
        thread::scope(|scope| {
            scope.spawn(|| {
                for request in 0..FRAMES {
                    let mut claim = sender.claim(len_of(request), LONG).unwrap();
                    for (index, to) in claim.payload().iter_mut().enumerate() {
                        *to = byte(request, index);
                    }
                    match request % 3 {
                        0 => drop(claim.commit(header(request))),
                        _ => claim.commit_lazily(header(request)),
                    }
                }
                sender.flush();
            });
            for request in 0..FRAMES {
                let frame = receiver.recv(LONG).unwrap();
                assert_eq!(frame.header().request, request, "in order, and each once");
                let sent: Vec<u8> =
                    (0..len_of(request)).map(|index| byte(request, index)).collect();
                assert_eq!(frame.payload().to_vec(), sum(&sent).to_le_bytes());
            }
        });
        assert!(receiver.try_recv().unwrap().is_none());
        assert_eq!(receiver.close(LONG).unwrap(), ExitCause::Exited(0));
        assert_eq!(sender.exit_cause(), Some(ExitCause::Exited(0)));
    }
}

/// Not a test of its own: a worker that takes no frame and sends none.
#[test]
fn silent_worker() {
    if !is_worker() {
        return;
    }
    let (link, _) = attach_raw().unwrap();
    while link.is_alive() {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_death_of_a_worker_ends_both_halves_while_they_wait() {
    let (mut sender, mut receiver) = spawn_in_small_rings(silent_worker).split();
    let pid = sender.pid();
    while sender.try_claim(500).unwrap().map(|claim| claim.commit(header(1))).is_some() {}
    let waiters = [
        thread::spawn(move || {
            let error = sender.claim(500, Duration::MAX).map(drop).unwrap_err();
            (error, sender.is_alive(), sender.try_claim(500).map(drop).unwrap_err())
        }),
        thread::spawn(move || {
            let error = receiver.recv(Duration::MAX).map(drop).unwrap_err();
            (error, receiver.is_alive(), receiver.try_recv().map(drop).unwrap_err())
        }),
    ];
    // So that they sleep, most often.
    thread::sleep(Duration::from_millis(20));
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    send_signal(pid, libc::SIGKILL);
    for waiter in waiters {
        let (error, is_alive, later) = waiter.join().unwrap();
        assert!(error.is_peer_dead() && later.is_peer_dead() && !is_alive, "{error}; {later}");
    }
}

#[test]
fn a_half_that_is_closed_ends_the_other_while_it_waits() {
    let (mut sender, receiver) = spawn_in_small_rings(silent_worker).split();
    while sender.try_claim(500).unwrap().map(|claim| claim.commit(header(1))).is_some() {}
    let waiter = thread::spawn(move || {
        let error = sender.claim(500, Duration::MAX).map(drop).unwrap_err();
        (error, sender.is_alive())
    });
    thread::sleep(Duration::from_millis(20));
    assert_eq!(receiver.close(LONG).unwrap(), ExitCause::Exited(0));
    let (error, is_alive) = waiter.join().unwrap();
    assert_eq!((error.kind(), is_alive), (ErrorKind::Closed, false), "{error}");

    let (sender, mut receiver) = spawn_in_small_rings(silent_worker).split();
    let waiter = thread::spawn(move || receiver.recv(Duration::MAX).map(drop).unwrap_err());
    thread::sleep(Duration::from_millis(20));
    assert_eq!(sender.close(LONG).unwrap(), ExitCause::Exited(0));
    assert_eq!(waiter.join().unwrap().kind(), ErrorKind::Closed);
}

#[test]
fn a_half_that_is_dropped_leaves_the_other_usable_and_both_end_the_worker() {
    let (mut sender, mut receiver) = spawn_in_8_kib().split();
    let pid = sender.pid();
    assert_eq!(receiver.pid(), pid);
    sender.claim(len_of(0), LONG).unwrap().commit_lazily(header(0));
    drop(sender);
    // It was told of the frame when the sender was dropped.
    assert_eq!(receiver.recv(LONG).unwrap().header().request, 0);
    assert!(receiver.recv(SHORT).unwrap_err().is_timeout());
    assert!(receiver.is_alive() && receiver.exit_cause().is_none() && is_running(pid));
    drop(receiver);
    eventually("the worker ends", || !is_running(pid));

    let (mut sender, receiver) = spawn_entry(worker_that_counts).split();
    drop(receiver);
    for request in 0..3 {
        sender.claim(10, LONG).unwrap().commit(header(request));
    }
    assert!(sender.is_alive());
    assert_eq!(sender.close(LONG).unwrap(), ExitCause::Exited(3));
}

/// Not a test of its own: a worker that looks, and waits, on the two sides of closing its own end.
#[test]
fn worker_that_closes() {
    if !is_worker() {
        return;
    }
    let (link, _) = attach_raw().unwrap();
    let (parent, exit_cause) = (link.pid(), link.exit_cause());
    let (mut sender, mut receiver) = link.split();
    let mut claim = sender.claim(4, LONG).unwrap();
    claim.payload().copy_from_slice(&parent.to_le_bytes());
    claim.commit(header(1));
    let waiter = thread::spawn(move || receiver.recv(Duration::MAX).map(drop).unwrap_err().kind());
    thread::sleep(Duration::from_millis(20));
    let is_open = sender.is_alive() && exit_cause.is_none();
    let cause = sender.close(LONG).unwrap();
    let has_ended = waiter.join().unwrap() == ErrorKind::Closed && !sender.is_alive();
    let is_right = is_open && has_ended && cause == ExitCause::Unknown;
    std::process::exit(if is_right { 5 } else { 1 });
}

#[test]
fn a_worker_that_closes_its_end_ends_its_own_waits() {
    let mut link = spawn_entry(worker_that_closes);
    assert_eq!(link.recv(LONG).unwrap().payload().to_vec(), std::process::id().to_le_bytes());
    assert!(link.recv(LONG).unwrap_err().is_peer_dead());
    eventually("it is reaped", || link.exit_cause().is_some());
    assert_eq!((link.exit_cause(), link.is_alive()), (Some(ExitCause::Exited(5)), false));
}

#[test]
fn looks_that_do_not_wait_find_nothing_and_then_the_end() {
    let mut link = spawn_in_small_rings(silent_worker);
    assert!(link.is_alive() && link.exit_cause().is_none());
    assert!(link.try_recv().unwrap().is_none());
    assert_eq!(link.try_drain(9, |_, _| ()).unwrap(), 0);
    while link.try_claim(500).unwrap().map(|claim| claim.commit(header(1))).is_some() {}
    assert!(link.try_claim_batch(500, 3).unwrap().is_none());
    let (sender, _) = link.halves();
    assert!(!sender.has_room_for(500).unwrap() && sender.high_water() > 0);
    assert!(sender.claim(500, SHORT).unwrap_err().is_timeout());
    assert!(sender.claim_batch(500, 3, SHORT).unwrap_err().is_timeout());
    assert!(link.recv(SHORT).unwrap_err().is_timeout());
    send_signal(link.pid(), libc::SIGKILL);
    eventually("its death is noticed", || !link.is_alive());
    assert!(link.try_recv().unwrap_err().is_peer_dead());
    assert!(link.try_drain(9, |_, _| ()).unwrap_err().is_peer_dead());
    assert!(link.try_claim(500).unwrap_err().is_peer_dead());
    assert!(link.try_claim_batch(500, 3).unwrap_err().is_peer_dead());
    assert!(link.halves().0.has_room_for(500).unwrap_err().is_peer_dead());
}

#[test]
fn a_frame_can_be_held_while_a_slot_is_filled() {
    let mut link = spawn_in_8_kib();
    link.claim(0, LONG).unwrap().commit(header(0));
    let (sender, receiver) = link.halves();
    let frame = receiver.recv(LONG).unwrap();
    let mut claim = sender.claim(8, LONG).unwrap();
    frame.payload().copy_to(claim.payload()).unwrap();
    claim.commit(header(1));
    drop(frame);
    assert_eq!(link.recv(LONG).unwrap().header().request, 1);
    link.close(LONG).unwrap();
}
