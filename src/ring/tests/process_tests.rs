//! Frames between two real processes: this test program starts itself once more.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::config::{Config, RingConfig, Tuning, WaitStrategy};
use crate::link::{Duplex, ParentLink, WorkerLink};
use crate::ring::testing::{alarm, pattern};
use crate::ring::{Consumer, Header, Producer};
use crate::shm::layout::as_usize;
use crate::shm::memfd;
use crate::sync::Ordering;
use crate::sys::clock::Deadline;

const FRAMES: u64 = 30_000;
const MAX_FRAME: usize = 2016;
/// Tells the second process what to attach to.
const VARIABLE: &str = "SLIPRING_TEST_RING";

/// Long enough for any machine: it only ends a test whose other process has died.
fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(120))
}

fn tuning(wait: WaitStrategy) -> Tuning {
    Tuning { wait, copy: None }
}

fn config(wait: WaitStrategy, origin: u64) -> Config {
    let ring = RingConfig { capacity: 4096, max_frame: MAX_FRAME };
    Config { down: ring, up: ring, wait, origin, ..Config::small() }
}

fn start(name: &str, down: &File, up: &File) -> Child {
    let pid = std::process::id();
    let paths = [down, up].map(|file| format!("/proc/{pid}/fd/{}", file.as_raw_fd()));
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", &format!("ring::tests::process_tests::{name}")])
        .env(VARIABLE, paths.join(" "))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// What the second process attaches to; nothing in the first.
fn attached() -> Option<WorkerLink> {
    let paths = std::env::var(VARIABLE).ok()?;
    let (down, up) = paths.split_once(' ').unwrap();
    let down = File::open(down).unwrap();
    let up = File::options().read(true).write(true).open(up).unwrap();
    let regions = memfd::attach(down.into(), up.into()).unwrap();
    Some(WorkerLink::over(regions, tuning(WaitStrategy::Park), None).unwrap())
}

/// Mostly short, sometimes the longest, for either direction.
fn len_of(request: u64) -> usize {
    let spread = request.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    match spread % 16 {
        0 => as_usize(spread >> 4) % (MAX_FRAME + 1),
        _ => as_usize(spread >> 4) % 200,
    }
}

fn nap(request: u64, salt: u64) {
    let dice = (request ^ salt).wrapping_mul(0xd134_2543_de82_ef95) >> 54;
    match dice {
        0 => std::thread::sleep(Duration::from_micros(200)),
        1..40 => std::thread::yield_now(),
        _ => {}
    }
}

fn send(producer: &mut Producer, request: u64) {
    let payload = pattern(request, len_of(request));
    let claim = producer.claim_until(payload.len(), &alarm(), deadline(), || Ok(()));
    let mut claim = claim.unwrap().expect("room before the deadline");
    claim.payload().copy_from_slice(&payload);
    let header = Header { request, ..Header::default() };
    if request.is_multiple_of(7) { claim.commit_lazily(header) } else { _ = claim.commit(header) }
}

fn expect(consumer: &mut Consumer, request: u64) {
    let frame = consumer.poll_until(&alarm(), deadline(), || Ok(()));
    let frame = frame.unwrap().expect("a frame before the deadline");
    assert_eq!(frame.header().request, request);
    assert_eq!(frame.payload().to_vec(), pattern(request, len_of(request)));
}

#[test]
fn an_echo_of_every_frame() {
    let Some(link) = attached() else { return };
    let Duplex { mut producer, mut consumer, .. } = link.data;
    for request in 0..FRAMES {
        expect(&mut consumer, request);
        send(&mut producer, request);
        producer.flush();
        nap(request, 1);
    }
}

#[test]
fn both_directions_at_once() {
    let Some(link) = attached() else { return };
    let Duplex { mut producer, mut consumer, .. } = link.data;
    stream_both_ways(&mut producer, &mut consumer, 2);
}

fn stream_both_ways(producer: &mut Producer, consumer: &mut Consumer, salt: u64) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for request in 0..FRAMES {
                send(producer, request);
                nap(request, salt);
            }
            producer.flush();
        });
        for request in 0..FRAMES {
            expect(consumer, request);
            nap(request, salt + 1);
        }
    });
}

#[test]
fn every_frame_that_is_sent_to_another_process_comes_back() {
    let spin = WaitStrategy::SpinThenPark(Duration::from_micros(20));
    // Positions that go past both of their wraps, and a bell that does.
    let below_u64 = u64::MAX - (1 << 20) + 1;
    let below_u32 = (1 << 32) - (1 << 20);
    let park = WaitStrategy::Park;
    for (wait, origin) in [(park, below_u64), (park, below_u32), (spin, below_u64), (spin, 0)] {
        let (regions, files) = memfd::create(&config(wait, origin)).unwrap();
        let link = ParentLink::over(regions, tuning(wait), None).unwrap();
        // As if it had been rung so often, before the peer has seen it.
        link.words.data_bell.word.store(u32::MAX - 50, Ordering::Release);
        let mut child = start("an_echo_of_every_frame", &files.down, &files.up);
        let Duplex { mut producer, mut consumer, .. } = link.data;
        // The head is not the origin's before the other process has attached.
        send(&mut producer, 0);
        producer.flush();
        expect(&mut consumer, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for request in 1..FRAMES {
                    send(&mut producer, request);
                    nap(request, 4);
                }
                producer.flush();
            });
            for request in 1..FRAMES {
                expect(&mut consumer, request);
                nap(request, 5);
            }
        });
        assert!(child.wait().unwrap().success());
        assert!(consumer.poll().unwrap().is_none());
        let (sent, received) = (producer.tail(), consumer.position());
        let has_wrapped = |to: u64| to < origin || (origin < 1 << 32 && to > 1 << 32);
        assert!(origin == 0 || (has_wrapped(sent) && has_wrapped(received)));
        if wait == park {
            let rung = link.words.data_bell.word.load(Ordering::Relaxed);
            assert!(rung < u32::MAX / 2, "the bell has wrapped: {rung}");
        }
        let status = &link.words.report.status;
        assert_eq!(status.served.load(Ordering::Relaxed), 0, "nothing else was written");
    }
}

#[test]
fn two_processes_stream_to_each_other_with_random_sleeps() {
    let (regions, files) = memfd::create(&config(WaitStrategy::Park, 0)).unwrap();
    let link = ParentLink::over(regions, tuning(WaitStrategy::Park), None).unwrap();
    let mut child = start("both_directions_at_once", &files.down, &files.up);
    let Duplex { mut producer, mut consumer, .. } = link.data;
    stream_both_ways(&mut producer, &mut consumer, 6);
    assert!(child.wait().unwrap().success());
}
