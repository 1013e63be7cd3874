//! The descriptor for reactors is readable exactly while there is something to read. It is never
//! more than a hint.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use crate::common::*;
use slipring::ring::Header;
use slipring::tasks::AsyncChannel;
use slipring::worker::{Worker, attach_raw, is_worker};
use slipring::{Channel, Config, ErrorKind, Kind, RawLink, Spawner};

/// Makes all sockets of the worker, and so the parent's descriptor, readable this often.
const FLOOD: Kind = Kind::named("flood");
/// Takes every byte that was to wake the parent, until it is cancelled.
const STEAL: Kind = Kind::named("steal");

const MODE: &str = "SLIPRING_TEST_REACTOR";

/// Not a test of its own: what the special workers of these tests run.
#[test]
fn reactor_entry() {
    if !is_worker() {
        return;
    }
    match std::env::var(MODE).as_deref() {
        Ok("source") => source(),
        Ok("sink") => sink(),
        Ok("hostile") => hostile(),
        other => panic!("{other:?}"),
    }
}

fn as_mode(mode: &str) -> Spawner {
    spawner_of(reactor_entry).env(MODE, mode).pollable()
}

/// Whether the descriptor is readable, after at most so many milliseconds.
fn is_readable(fd: BorrowedFd<'_>, milliseconds: i32) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one live pollfd.
    #[allow(unsafe_code, reason = "poll")]
    let count = unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
    assert!(count >= 0);
    count == 1
}

/// A set of one descriptor, to see what an edge-triggered reactor sees.
struct Edge(i32);

impl Edge {
    fn of(fd: BorrowedFd<'_>) -> Self {
        // SAFETY: takes an integer.
        #[allow(unsafe_code, reason = "epoll")]
        let set = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        let mut event =
            libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 0 };
        let (fd, event) = (fd.as_raw_fd(), &raw mut event);
        // SAFETY: one live event.
        #[allow(unsafe_code, reason = "epoll")]
        let added = unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, event) };
        assert_eq!(added, 0);
        Self(set)
    }

    fn wait(&self, milliseconds: i32) -> bool {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for one event.
        #[allow(unsafe_code, reason = "epoll")]
        let wait = || unsafe { libc::epoll_wait(self.0, &raw mut event, 1, milliseconds) };
        let count = uninterrupted(wait);
        assert!(count >= 0);
        count == 1
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // SAFETY: its own descriptor, for the last time.
        #[allow(unsafe_code, reason = "close")]
        unsafe {
            libc::close(self.0)
        };
    }
}

/// A sequence that looks random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What a consumer that polls the descriptor has seen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Met {
    frames: u64,
    spurious: u64,
    missed: u64,
}

/// Takes `count` frames: polls the descriptor, takes one or a few frames, and polls again. Never
/// looks at the ring without a poll.
fn receive_by_polling(link: &mut RawLink, count: u64, seed: u64) -> slipring::Result<Met> {
    let (mut met, mut dice) = (Met::default(), Dice(seed));
    while met.frames < count {
        let says = link.rearm()?;
        let fd = link.poll_fd().unwrap();
        if says && !is_readable(fd, 0) {
            met.missed += 1;
        }
        if !is_readable(fd, 20_000) {
            met.missed += 1;
            return Ok(met);
        }
        let mut taken = 0;
        for _ in 0..=dice.below(4) * dice.below(2) {
            let Some(frame) = link.try_recv()? else { break };
            assert_eq!(numbers(&frame.payload().to_vec())[0], met.frames, "in order");
            met.frames += 1;
            taken += 1;
        }
        met.spurious += u64::from(taken == 0);
    }
    Ok(met)
}

/// Sends numbered frames in bursts of all sizes, with all kinds of pauses.
fn send_in_bursts(link: &mut RawLink, count: u64, seed: u64) -> slipring::Result<()> {
    let mut dice = Dice(seed);
    for i in 0..count {
        let mut claim = link.claim(8 + dice.below(200) as usize, LONG)?;
        claim.payload()[..8].copy_from_slice(&i.to_le_bytes());
        match dice.below(3) {
            0 => claim.commit_lazily(Header::default()),
            _ => drop(claim.commit(Header::default())),
        }
        match dice.below(64) {
            0 => std::thread::sleep(Duration::from_micros(dice.below(60))),
            1 => std::thread::yield_now(),
            2..8 => (0..dice.below(2000)).for_each(|_| std::hint::spin_loop()),
            _ => {}
        }
    }
    link.flush();
    Ok(())
}

fn source() {
    let (mut link, _) = attach_raw().unwrap();
    let request = numbers(&link.recv(LONG).unwrap().payload().to_vec());
    if request[0] == 0 {
        send(&mut link, &encode(&[u64::from(std::process::id())]));
    }
    // The parent may close the link before all is sent.
    let _ = send_in_bursts(&mut link, request[0], request[1]);
    while link.recv(LONG).is_ok() {}
}

fn sink() {
    let (mut link, _) = attach_raw().unwrap();
    let request = numbers(&link.recv(LONG).unwrap().payload().to_vec());
    let met = receive_by_polling(&mut link, request[0], request[1]).unwrap();
    send(&mut link, &encode(&[met.frames, met.spurious, met.missed]));
    // From here on only the descriptor says that the parent wants it to end.
    while link.rearm().is_ok() && is_readable(link.poll_fd().unwrap(), -1) {
        match link.try_recv() {
            Ok(Some(_)) => {}
            _ => std::process::exit(7),
        }
    }
}

fn send(link: &mut RawLink, bytes: &[u8]) {
    let mut claim = link.claim(bytes.len(), LONG).unwrap();
    claim.payload().copy_from_slice(bytes);
    claim.commit(Header::default());
}

const FRAMES: u64 = 200_000;

#[test]
fn a_poller_of_a_raw_link_meets_every_frame_and_no_false_alarm() {
    let mut link = as_mode("source").spawn_raw().unwrap();
    send(&mut link, &encode(&[FRAMES, 0x5eed]));
    let met = receive_by_polling(&mut link, FRAMES, 0xd1ce).unwrap();
    assert_eq!(met, Met { frames: FRAMES, ..Met::default() });
    assert!(!link.rearm().unwrap());
    assert!(!is_readable(link.poll_fd().unwrap(), 50), "nothing is left");
    link.close(LONG).unwrap();
}

#[test]
fn a_worker_that_polls_meets_every_frame_and_the_end() {
    let mut link = as_mode("sink").spawn_raw().unwrap();
    send(&mut link, &encode(&[FRAMES, 0xd1ce]));
    send_in_bursts(&mut link, FRAMES, 0x5eed).unwrap();
    let met = numbers(&link.recv(LONG).unwrap().payload().to_vec());
    assert_eq!(met, [FRAMES, 0, 0], "frames, spurious, missed");
    // The worker ends with the code for a readable descriptor without a frame.
    assert_eq!(link.close(LONG).unwrap(), slipring::ExitCause::Exited(7));
}

#[test]
fn the_death_of_a_raw_worker_makes_the_descriptor_readable() {
    let mut link = as_mode("source").spawn_raw().unwrap();
    send(&mut link, &encode(&[0, 1]));
    let pid = numbers(&link.recv(LONG).unwrap().payload().to_vec())[0];
    assert!(!link.rearm().unwrap());
    assert!(!is_readable(link.poll_fd().unwrap(), 20));
    send_signal(pid as u32, libc::SIGKILL);
    assert!(is_readable(link.poll_fd().unwrap(), 20_000));
    assert!(link.rearm().unwrap(), "it stays readable");
    let error = link.recv(LONG).unwrap_err();
    assert!(error.is_peer_dead(), "{error}");
    assert_eq!(error.was_begun(), None, "what it was asked is not known");
}

/// One thread, one reactor: `read_ready` and `try_wait` after every wake-up.
fn call_by_polling(channel: &Channel, count: u64, wait: impl Fn() -> bool) -> Met {
    let (mut met, mut dice) = (Met::default(), Dice(0xfeed));
    let mut pending = VecDeque::new();
    let mut sent = 0;
    channel.read_ready().unwrap();
    while met.frames < count {
        for _ in 0..=dice.below(16) {
            if sent < count && pending.len() < 64 {
                pending.push_back((sent, channel.submit(ECHO, &encode(&[sent]), LONG).unwrap()));
                sent += 1;
            }
        }
        if !wait() {
            met.missed += 1;
            return met;
        }
        channel.read_ready().unwrap();
        let mut taken = 0;
        while let Some((i, mut waiting)) = pending.pop_front() {
            // Replies come in order, so that the first missing one ends the round.
            match waiting.try_wait().unwrap() {
                Some(reply) => assert_eq!(numbers(&reply.into_vec()), [i]),
                None => {
                    pending.push_front((i, waiting));
                    break;
                }
            }
            taken += 1;
        }
        met.frames += taken;
        met.spurious += u64::from(taken == 0);
    }
    met
}

#[test]
fn a_reactor_meets_every_reply_and_no_false_alarm() {
    let channel = spawner().pollable().spawn().unwrap();
    let fd = channel.poll_fd().unwrap();
    let met = call_by_polling(&channel, FRAMES / 2, || is_readable(fd, 20_000));
    assert_eq!(met, Met { frames: FRAMES / 2, ..Met::default() });
    let edge = Edge::of(fd);
    let met = call_by_polling(&channel, FRAMES / 2, || edge.wait(20_000));
    assert_eq!(met, Met { frames: FRAMES / 2, ..Met::default() });
    // Reading an idle channel is no error, however often.
    (0..30_000).for_each(|_| drop(channel.read_ready().unwrap()));
    assert!(!is_readable(fd, 20));
    send_signal(channel.pid(), libc::SIGKILL);
    assert!(is_readable(fd, 20_000), "the death is news");
    let error = channel.read_ready().unwrap_err();
    assert!(error.is_peer_dead(), "{error}");
    assert!(is_readable(fd, 0), "and stays so");
}

#[test]
fn threads_that_call_on_a_driven_channel_take_no_reply_from_its_reactor() {
    let channel = spawner().pollable().spawn().unwrap();
    let edge = Edge::of(channel.poll_fd().unwrap());
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        for t in 0..2_u64 {
            let (channel, is_over) = (&channel, &is_over);
            scope.spawn(move || {
                let mut i = 0;
                while !is_over.load(relaxed) {
                    let bytes = encode(&[t, i]);
                    assert_eq!(channel.call(ECHO, &bytes, LONG).unwrap().to_vec(), bytes);
                    i += 1;
                }
            });
        }
        let _end = SetOnDrop(&is_over);
        let met = call_by_polling(&channel, 20_000, || edge.wait(20_000));
        // A thread can have read a reply before the descriptor was polled for it.
        assert_eq!((met.frames, met.missed), (20_000, 0));
    });
}

#[test]
fn a_channel_without_a_descriptor_says_how_to_get_one() {
    let channel = spawn(Config::small());
    assert!(channel.poll_fd().is_none());
    let error = channel.read_ready().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("Spawner::pollable"), "{error}");
    assert_eq!(AsyncChannel::new(channel).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_channel_can_only_be_read_by_a_runtime_from_within_one() {
    let channel = spawner().pollable().spawn().unwrap();
    assert_eq!(AsyncChannel::on_tokio(channel).unwrap_err().kind(), ErrorKind::Unsupported);
}

fn hostile() {
    let sockets = || -> Vec<i32> {
        let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let is_socket = |path: &std::path::PathBuf| {
            std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
        };
        let paths = entries.map(|entry| entry.path()).filter(is_socket);
        paths.filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect()
    };
    let flood = |sockets: &[i32]| {
        for fd in sockets {
            // SAFETY: one byte that is there.
            #[allow(unsafe_code, reason = "a hostile worker")]
            unsafe {
                libc::send(*fd, [1_u8].as_ptr().cast(), 1, libc::MSG_DONTWAIT)
            };
        }
    };
    let steal = |sockets: &[i32]| {
        let mut bytes = [0_u8; 64];
        for fd in sockets {
            // SAFETY: room for that many bytes.
            #[allow(unsafe_code, reason = "a hostile worker")]
            unsafe {
                libc::recv(*fd, bytes.as_mut_ptr().cast(), 64, libc::MSG_DONTWAIT)
            };
        }
    };
    let worker = Worker::new(|_| Ok(()))
        .on(FLOOD, move |(), request, responder| {
            let sockets = sockets();
            let mut left = numbers(&request.to_vec())[0];
            while left > 0 && !request.is_cancelled() {
                flood(&sockets);
                left -= 1;
            }
            Ok(responder.send("flooded")?)
        })
        .on(STEAL, move |(), request, responder| {
            let sockets = sockets();
            let mut chunks = responder.stream();
            while !request.is_cancelled() {
                chunks.send("stolen")?;
                steal(&sockets);
            }
            Ok(chunks.end()?)
        })
        .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?));
    let _ = worker.serve();
}

#[test]
fn a_peer_that_floods_the_descriptor_breaks_its_own_channel_or_nothing() {
    crate::executors::on_each(
        || as_mode("hostile"),
        |channel| async move {
            // A few false alarms are tolerated.
            let reply = channel.call(FLOOD, &encode(&[3000]), LONG).await.unwrap();
            assert_eq!(reply.to_vec(), b"flooded");
            assert_eq!(channel.call(ECHO, b"x", LONG).await.unwrap().to_vec(), b"x");
            // False alarms without end are corruption of that channel.
            let flooded = channel.call(FLOOD, &encode(&[u64::MAX]), LONG).await;
            assert_eq!(flooded.unwrap_err().kind(), ErrorKind::PeerCorrupt);
            assert_eq!(
                channel.call(ECHO, b"x", LONG).await.unwrap_err().kind(),
                ErrorKind::PeerCorrupt
            );
            channel.close(LONG).await.unwrap();
        },
    );
}

#[test]
fn a_thread_that_waits_is_no_reason_to_let_a_flood_pass() {
    let channel = AsyncChannel::new(as_mode("hostile").spawn().unwrap()).unwrap();
    let flooded = channel.blocking().call(FLOOD, &encode(&[u64::MAX]), LONG);
    assert_eq!(flooded.unwrap_err().kind(), ErrorKind::PeerCorrupt);
}

#[test]
fn a_peer_that_drains_the_descriptor_costs_its_tasks_a_timeout() {
    crate::executors::on_each(
        || as_mode("hostile"),
        |channel| async move {
            let mut stream = channel.stream(STEAL, b"", Duration::from_millis(200)).await.unwrap();
            for _ in 0..2000 {
                match stream.next_chunk().await {
                    Ok(chunk) => assert_eq!(chunk.unwrap().to_vec(), b"stolen"),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Stalled);
                        break;
                    }
                }
            }
            drop(stream);
            assert_eq!(channel.call(ECHO, b"x", LONG).await.unwrap().to_vec(), b"x");
        },
    );
}

#[test]
fn a_reactor_is_told_of_each_request_that_has_got_something() {
    use std::task::Poll;

    let channel = spawner().pollable().spawn().unwrap();
    let fd = channel.poll_fd().unwrap();
    assert_eq!(channel.read_ready().unwrap(), []);
    let mut calls: Vec<_> =
        (0..20_u64).map(|i| (i, channel.submit(ECHO, &encode(&[i]), LONG).unwrap())).collect();
    let mut stream = channel.stream(COUNT, &encode(&[50, 100]), LONG).unwrap();
    let mut chunks = 0;
    let mut is_over = false;
    while !(calls.is_empty() && is_over) {
        assert!(is_readable(fd, 20_000));
        let ready = channel.read_ready().unwrap();
        let mut seen = std::collections::HashSet::new();
        assert!(ready.iter().all(|id| seen.insert(*id)), "each once: {ready:?}");
        calls.retain_mut(|(i, call)| {
            let reply = call.try_wait().unwrap();
            assert_eq!(reply.is_some(), seen.contains(&call.id()), "request {}", call.id());
            if let Some(reply) = &reply {
                assert_eq!(numbers(&reply.to_vec()), [*i]);
            }
            reply.is_none()
        });
        if !seen.contains(&stream.id()) {
            assert!(is_over || stream.try_next_chunk().unwrap().is_pending());
            continue;
        }
        loop {
            match stream.try_next_chunk().unwrap() {
                Poll::Ready(Some(chunk)) => {
                    assert_eq!(chunk.to_vec(), pattern(chunks, 100));
                    chunks += 1;
                }
                Poll::Ready(None) => is_over = true,
                Poll::Pending => break,
            }
            if is_over {
                break;
            }
        }
    }
    assert_eq!(chunks, 50);
    assert!(matches!(stream.try_next_chunk(), Ok(Poll::Ready(None))), "it stays at its end");
}
