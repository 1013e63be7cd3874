//! A forked child may do everything that is safe. The channels of its parent end for it, and
//! neither its own memory nor anything of its parent is damaged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::*;
use slipring::ring::Header;
use slipring::worker::{attach_raw, is_worker};
use slipring::{Channel, Config, ErrorKind, RawLink, Reply};

const SHORT: Duration = Duration::from_secs(5);
/// More than an allocator keeps in reserve, and less than the rings of one channel.
const BLOCK: usize = 1 << 20;

/// Not a test of its own: a raw worker that sends each frame back, and ends with the link.
#[test]
pub(super) fn raw_worker() {
    if !is_worker() {
        return;
    }
    let (mut link, _) = attach_raw().unwrap();
    loop {
        let (header, bytes) = match link.recv(LONG) {
            Ok(frame) => (frame.header(), frame.payload().to_vec()),
            Err(_) => return,
        };
        let Ok(mut claim) = link.claim(bytes.len(), LONG) else { return };
        claim.payload().copy_from_slice(&bytes);
        claim.commit(header);
    }
}

fn spawn_raw() -> RawLink {
    spawner_of(raw_worker).pollable().config(Config::small()).spawn_raw().unwrap()
}

/// Blocks of zeros that the allocator takes from the kernel, which chooses their addresses.
fn blocks() -> Vec<Vec<u8>> {
    (0..64).map(|_| vec![0; BLOCK]).collect()
}

fn are_zeros(blocks: &[Vec<u8>]) -> bool {
    blocks.iter().all(|block| block.iter().all(|byte| *byte == 0))
}

#[test]
fn memory_that_a_child_allocates_outlives_the_channels_that_it_drops() {
    if !in_a_process_of_its_own(name_of(
        memory_that_a_child_allocates_outlives_the_channels_that_it_drops,
    )) {
        return;
    }
    let mut channels: Vec<Channel> = (0..4).map(|_| spawn(Config::default())).collect();
    let mut link = Some(spawn_raw());
    in_fork(|| {
        let mut blocks = blocks();
        channels.clear();
        drop(link.take());
        blocks.iter_mut().for_each(|block| block.fill(1));
        blocks.iter().all(|block| block.iter().all(|byte| *byte == 1))
    });
    channels.iter().for_each(assert_usable);
    assert_echo(link.as_mut().unwrap());
}

fn assert_echo(link: &mut RawLink) {
    let mut claim = link.claim(100, LONG).unwrap();
    claim.payload().fill(0xab);
    claim.commit(Header { request: 9, ..Header::default() });
    let frame = link.recv(LONG).unwrap();
    assert_eq!((frame.header().request, frame.payload().to_vec()), (9, vec![0xab; 100]));
}

#[test]
fn a_child_can_neither_send_nor_receive_on_a_raw_link() {
    if !in_a_process_of_its_own(name_of(a_child_can_neither_send_nor_receive_on_a_raw_link)) {
        return;
    }
    let mut link = spawn_raw();
    assert_echo(&mut link);
    in_fork(|| {
        let blocks = blocks();
        let len = link.sender().max_frame();
        let mut are_forked = Vec::new();
        for _ in 0..100 {
            match link.claim(len, SHORT) {
                Ok(mut claim) => {
                    claim.payload().fill(0xee);
                    claim.commit(Header::default());
                    are_forked.push(false);
                }
                refused => are_forked.push(is_forked(refused.map(drop))),
            }
        }
        are_forked.extend([
            is_forked(link.claim_batch(10, 2, SHORT)),
            is_forked(link.try_claim(10)),
            is_forked(link.try_claim_batch(10, 2)),
            is_forked(link.halves().0.has_room_for(10)),
            is_forked(link.recv(SHORT)),
            is_forked(link.recv(Duration::ZERO)),
            is_forked(link.drain(1, SHORT, |_, _| ())),
            is_forked(link.try_recv()),
            is_forked(link.try_drain(1, |_, _| ())),
            is_forked(link.rearm()),
            is_forked(link.close(SHORT)),
        ]);
        link.flush();
        link.halves().1.publish_released();
        link.prefault();
        let _ = (link.sender().wakes(), link.receiver().leased(), link.poll_fd().is_some());
        let _ = format!("{link:?}");
        are_zeros(&blocks) && are_forked.iter().all(|is_forked| *is_forked)
    });
    // A frame that is there when the process forks is its parent's.
    let mut claim = link.claim(10, LONG).unwrap();
    claim.payload().fill(1);
    claim.commit(Header::default());
    eventually("it is answered", || link.rearm().unwrap());
    in_fork(|| is_forked(link.recv(SHORT)) && is_forked(link.drain(1, SHORT, |_, _| ())));
    assert_eq!(link.recv(LONG).unwrap().payload().len(), 10);
    assert_echo(&mut link);
    link.close(LONG).unwrap();
}

#[test]
fn what_is_held_of_a_raw_link_at_a_fork_can_be_used_up_in_the_child() {
    if !in_a_process_of_its_own(name_of(
        what_is_held_of_a_raw_link_at_a_fork_can_be_used_up_in_the_child,
    )) {
        return;
    }
    let mut link = spawn_raw();
    let max = link.sender().max_frame();
    let mut claim = Some(link.claim(max, LONG).unwrap());
    in_fork(|| {
        let blocks = blocks();
        let mut claim = claim.take().unwrap();
        // The child writes to memory of its own.
        claim.payload().fill(0xee);
        let has_rung = claim.commit(Header::default());
        are_zeros(&blocks) && !has_rung
    });
    // The same holds for bytes that were borrowed before the fork.
    let mut claim = claim.unwrap();
    let payload = claim.payload();
    payload.fill(7);
    in_fork(|| {
        let blocks = blocks();
        payload.fill(0xee);
        are_zeros(&blocks)
    });
    assert!(payload.iter().all(|byte| *byte == 7), "the parent's slot");
    claim.commit(Header { request: 1, ..Header::default() });

    let mut batch = Some(link.claim_batch(8, 3, LONG).unwrap());
    in_fork(|| {
        let blocks = blocks();
        let mut batch = batch.take().unwrap();
        (0..3).for_each(|index| batch.payload(index).fill(0xee));
        batch.commit_lazily(|_| Header::default());
        are_zeros(&blocks)
    });
    let mut batch = batch.unwrap();
    (0..3).for_each(|index| batch.payload(index).fill(5));
    batch.commit(|_| Header { request: 2, ..Header::default() });

    let mut frame = Some(link.recv(LONG).unwrap());
    in_fork(|| {
        let mut frame = frame.take().unwrap();
        frame.publish_released();
        let is_there = frame.payload().to_vec() == vec![7; max];
        drop(frame);
        is_there
    });
    let frame = frame.unwrap();
    assert_eq!(frame.payload().to_vec(), vec![7; max]);
    drop(frame);
    let mut frame = Some(link.recv(LONG).unwrap());
    in_fork(|| {
        let lease = frame.take().unwrap().into_lease();
        lease.payload().to_vec() == [5; 8]
    });
    let mut lease = Some(frame.unwrap().into_lease());
    in_fork(|| {
        let lease = lease.take().unwrap();
        lease.header().request == 2 && lease.payload().to_vec() == [5; 8]
    });
    assert_eq!(lease.unwrap().payload().to_vec(), [5; 8]);
    for _ in 1..3 {
        assert_eq!(link.recv(LONG).unwrap().payload().to_vec(), [5; 8]);
    }
    assert_echo(&mut link);
    assert_eq!(link.receiver().leased(), 0);
    link.close(LONG).unwrap();
}

#[test]
fn a_reply_that_lies_in_the_ring_can_be_read_in_a_child() {
    if !in_a_process_of_its_own(name_of(a_reply_that_lies_in_the_ring_can_be_read_in_a_child)) {
        return;
    }
    let channel = spawn(Config::small());
    let bytes = pattern(1, 900);
    let mut reply = Some(channel.call(ECHO, &bytes, LONG).unwrap());
    assert_eq!(channel.stats().leases_held, 1);
    in_fork(|| {
        let blocks = blocks();
        let reply = reply.take().unwrap();
        let is_same = reply.len() == 900 && reply.to_vec() == bytes;
        is_same && reply.detach().into_vec() == bytes && are_zeros(&blocks)
    });
    assert_eq!(reply.unwrap().to_vec(), bytes);
    assert_eq!(channel.stats().leases_held, 0);
    assert_usable(&channel);
}

#[test]
fn replies_that_were_kept_can_be_read_and_dropped_in_a_child() {
    if !in_a_process_of_its_own(name_of(replies_that_were_kept_can_be_read_and_dropped_in_a_child))
    {
        return;
    }
    let channel = spawn(Config::small());
    let call = |seed| channel.call(ECHO, &pattern(seed, 3000), LONG).unwrap().keep();
    let are_right = |kept: &[Reply]| {
        (0_u64..).zip(kept).all(|(seed, reply)| reply.to_vec() == pattern(seed, 3000))
    };
    let mut kept: Vec<_> = (0..14).map(call).collect();
    // Some lie in the ring, some have left it, and some are copies.
    let held = channel.stats().leases_held;
    assert!((1..13).contains(&held), "{held}");
    in_fork(|| {
        let kept = std::mem::take(&mut kept);
        let is_right = are_right(&kept);
        drop(kept);
        is_right
    });
    assert!(are_right(&kept));
    for _ in 0..200 {
        assert_usable(&channel);
    }
    assert!(are_right(&kept));
    drop(kept);
    assert_eq!(channel.stats().leases_held, 0);
}

#[test]
fn a_payload_that_forks_writes_into_the_childs_own_memory() {
    if !in_a_process_of_its_own(name_of(a_payload_that_forks_writes_into_the_childs_own_memory)) {
        return;
    }
    /// Forks while it is being encoded.
    struct Forks;
    impl slipring::Payload for Forks {
        fn encoded_len(&self) -> usize {
            900
        }
        fn encode(&self, out: &mut [u8]) -> slipring::Result<()> {
            out.fill(3);
            in_fork(|| {
                let blocks = blocks();
                out.fill(0xee);
                are_zeros(&blocks)
            });
            Ok(())
        }
    }
    let channel = spawn(Config::small());
    assert_eq!(channel.call(ECHO, &Forks, LONG).unwrap().to_vec(), [3; 900]);
}

#[test]
fn a_child_can_drop_what_is_in_flight_while_other_threads_call() {
    if !in_a_process_of_its_own(name_of(
        a_child_can_drop_what_is_in_flight_while_other_threads_call,
    )) {
        return;
    }
    let channel = spawn(Config::default());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    drop(channel.call(ECHO, b"x", LONG).unwrap());
                    drop(channel.submit(ECHO, b"dropped", LONG).unwrap());
                    drop(channel.stream(COUNT, &encode(&[3, 10]), LONG).unwrap());
                }
            });
        }
        let _end = SetOnDrop(&is_over);
        for _ in 0..repetitions("SLIPRING_FORKS", 200) {
            let mut pending = Some(channel.submit(ECHO, b"kept", LONG).unwrap());
            let mut stream = Some(channel.stream(COUNT, &encode(&[1, 10]), LONG).unwrap());
            in_fork(|| {
                pending.as_ref().unwrap().cancel();
                stream.as_ref().unwrap().cancel();
                drop(pending.take());
                drop(stream.take());
                is_forked(channel.close_draining(SHORT))
            });
            assert_eq!(pending.unwrap().wait().unwrap().to_vec(), b"kept");
            assert_eq!(stream.unwrap().map(Result::unwrap).count(), 1);
        }
    });
    assert_usable(&channel);
}

#[test]
fn a_child_is_refused_workers_of_its_own_even_while_another_thread_spawns() {
    if !in_a_process_of_its_own(name_of(
        a_child_is_refused_workers_of_its_own_even_while_another_thread_spawns,
    )) {
        return;
    }
    let is_over = AtomicBool::new(false);
    let mut refused = 0;
    std::thread::scope(|scope| {
        // The first workers of the process start the threads that start and watch workers.
        let spawning = scope.spawn(|| {
            let channels: Vec<Channel> = (0..4).map(|_| spawn(Config::small())).collect();
            is_over.store(true, Ordering::Relaxed);
            channels
        });
        let is_used = || std::fs::read_to_string("/proc/self/maps").unwrap().contains("memfd:slip");
        eventually("the first regions are there", || is_used() || is_over.load(Ordering::Relaxed));
        while !is_over.load(Ordering::Relaxed) && refused < 200 {
            in_fork(|| {
                let error = spawner().spawn().err().unwrap();
                let text = error.to_string();
                error.kind() == ErrorKind::Forked && text.contains("must exec")
            });
            refused += 1;
        }
        spawning.join().unwrap().iter().for_each(assert_usable);
    });
    in_fork(|| is_forked(spawner().spawn_raw()) && is_forked(spawner().spawn()));
}

#[test]
fn a_worker_that_forks_keeps_its_channel_to_itself() {
    if is_worker() {
        serve_and_fork();
        return;
    }
    let channel = spawner_of(a_worker_that_forks_keeps_its_channel_to_itself).spawn().unwrap();
    for kind in [ECHO, COUNT] {
        let reply = channel.call(kind, &pattern(1, 500), LONG).unwrap();
        assert_eq!(reply.to_vec(), pattern(1, 500));
    }
    channel.close(LONG).unwrap();
}

/// Serves, and uses the means to reply of each request in a forked child too.
fn serve_and_fork() {
    slipring::worker::Worker::new(|_| Ok(()))
        .on(ECHO, |(), request, responder| {
            let mut responder = Some(responder);
            in_fork(|| {
                let blocks = blocks();
                request.set_progress(7);
                let is_same = request.to_vec() == pattern(1, 500) && !request.is_cancelled();
                is_same && is_forked(responder.take().unwrap().send(b"mine")) && are_zeros(&blocks)
            });
            let mut slot = Some(responder.unwrap().claim(request.len())?);
            in_fork(|| {
                let blocks = blocks();
                let mut slot = slot.take().unwrap();
                slot.payload().fill(0xee);
                let _ = slot.send();
                are_zeros(&blocks)
            });
            let mut slot = slot.unwrap();
            request.payload().copy_to(slot.payload())?;
            Ok(slot.send())
        })
        .on(COUNT, |(), request, responder| {
            // The child returns from `serve`, which must not wait for threads that the child does
            // not have.
            // SAFETY: the child does only what a child may, and ends below.
            #[allow(unsafe_code, reason = "fork")]
            let pid = unsafe { libc::fork() };
            if pid != 0 {
                let mut status = 0;
                // SAFETY: waits for the child that was just started.
                #[allow(unsafe_code, reason = "waitpid")]
                let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
                assert_eq!((waited, libc::WEXITSTATUS(status)), (pid, 41));
            }
            Ok(responder.send(&request.to_vec())?)
        })
        .serve()
        .unwrap_or_else(|error| {
            std::process::exit(if error.kind() == ErrorKind::Forked { 41 } else { 42 })
        });
}
