//! Named channels between processes: their names, and their doorbell.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use slipring::{Channel, Config, ErrorKind, WaitStrategy, WorkerState};

use crate::common::named::{fresh_name, reap, start};
use crate::common::*;

fn channel(config: Config) -> Channel {
    let (mut host, child) = start(&config, "worker_entry");
    let channel = host.accept(LONG).unwrap();
    reap(child);
    channel
}

#[test]
fn a_process_of_its_own_serves_under_the_channels_name() {
    let (mut host, mut child) = start(&Config::small(), "worker_entry");
    let channel = host.accept(LONG).unwrap();
    assert_eq!((channel.role(), channel.pid()), (host.name(), child.id()));
    assert!(channel.poll_fd().is_none() && channel.log_path().is_none());
    let role = String::from_utf8(channel.call(ROLE, b"", LONG).unwrap().to_vec()).unwrap();
    assert!(role.contains(host.name()), "{role}");
    let listing = channel.call(SELF, b"", LONG).unwrap().to_vec();
    let listing = String::from_utf8(listing).unwrap();
    assert!(listing.contains(&format!("pid={}", child.id())), "{listing}");
    assert!(!listing.contains("socket:"), "no spawner had a hand in it: {listing}");
    assert_eq!(host.accept(LONG).unwrap_err().kind(), ErrorKind::Closed);
    channel.close(LONG).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn every_wait_strategy_serves() {
    let spin = WaitStrategy::SpinThenPark(Duration::from_micros(50));
    for wait in [WaitStrategy::Park, spin, WaitStrategy::Spin] {
        let channel = channel(Config::builder().wait_strategy(wait).build().unwrap());
        for i in 0..200_u64 {
            let reply = channel.call(ECHO, &encode(&[i]), LONG).unwrap();
            assert_eq!(numbers(&reply.to_vec()), [i], "{wait:?}");
        }
    }
}

#[test]
fn a_sleeping_side_is_woken_by_the_event_and_not_by_the_end_of_its_slice() {
    let channel = channel(Config::builder().wait_strategy(WaitStrategy::Park).build().unwrap());
    let mut times: Vec<Duration> = (0..400_u64)
        .map(|i| {
            // The naps cross every part of a second, as waits are cut at its end.
            std::thread::sleep(Duration::from_micros(i * 37 % 5000));
            let start = Instant::now();
            channel.call(ECHO, &encode(&[i]), LONG).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("p50 {:?}, p99 {:?}, max {:?}", times[200], times[396], times[399]);
    // A lost wake-up costs 100 ms or more. A busy machine can delay a few calls.
    assert!(percentile(&times, 90) < Duration::from_millis(100), "{:?}", percentile(&times, 90));
}

#[test]
fn many_threads_call_stream_ping_and_write_at_the_same_time() {
    let channel = channel(tiny(8 << 10).stream_window(2048).build().unwrap());
    within_long("threads", || {
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let channel = &channel;
                scope.spawn(move || {
                    for i in 0..100 {
                        let bytes = pattern(thread << 32 | i, (i as usize * 97) % 12_000);
                        let reply = channel.call(ECHO, &bytes, LONG).unwrap();
                        assert!(reply.to_vec() == bytes, "call {i} of thread {thread}");
                    }
                });
                scope.spawn(move || {
                    for _ in 0..5 {
                        let stream = channel.stream(COUNT, &encode(&[60, 200]), LONG).unwrap();
                        let chunks: Vec<Vec<u8>> = stream.map(|c| c.unwrap().to_vec()).collect();
                        assert_eq!(chunks.len(), 60);
                        assert!((0..60).all(|i| chunks[i] == pattern(i as u64, 200)));
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..20 {
                    channel.ping(LONG).unwrap();
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            scope.spawn(|| {
                for i in 0..20 {
                    let mut writer = channel.write(SUM, LONG).unwrap();
                    writer.write_all(&vec![1; 20_000 + i]).unwrap();
                    let sum = writer.finish().unwrap().wait().unwrap();
                    assert_eq!(numbers(&sum.to_vec()), [20_000 + i as u64]);
                }
            });
        });
    });
    assert_eq!((channel.in_flight(), channel.stats().unknown_frames), (0, 0));
}

#[test]
fn pings_are_answered_while_a_handler_runs_and_say_so() {
    let channel = channel(Config::small());
    let stay = Stay::new();
    let busy = channel.submit(STAY, &stay.path(), LONG).unwrap();
    eventually("it runs", || channel.health().current_request == Some(busy.id()));
    for _ in 0..5 {
        let health = channel.ping(LONG).unwrap();
        assert_eq!((health.state, health.current_request), (WorkerState::Busy, Some(busy.id())));
    }
    drop(stay);
    busy.wait().unwrap();
}

#[test]
fn the_segments_have_the_channels_name_and_only_their_owner_opens_them() {
    let name = fresh_name();
    let host = slipring::named::create(&name, &Config::small()).unwrap();
    for side in ["down", "up"] {
        let path = format!("/dev/shm/slipring.{name}.{side}");
        let found = std::fs::symlink_metadata(&path).unwrap();
        assert_eq!(found.mode() & 0o7777, 0o600);
        // All blocks are allocated, so that none can be missing later.
        assert!(found.blocks() * 512 >= found.len(), "{} of {}", found.blocks(), found.len());
    }
    let taken = slipring::named::create(&name, &Config::small()).unwrap_err();
    assert!(taken.to_string().contains(&format!("process {}", std::process::id())), "{taken}");
    assert_eq!(std::io::Error::from(taken).kind(), std::io::ErrorKind::AlreadyExists);
    drop(host);
    drop(slipring::named::create(&name, &Config::small()).unwrap());
    for bad in ["", "../x", "a/b", ".x", "a b"] {
        let refused = slipring::named::create(bad, &Config::small()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
        let refused = worker().serve_named(bad, Duration::ZERO).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
    }
}

#[test]
fn channels_of_different_names_do_not_meet() {
    let channels = [channel(Config::small()), channel(Config::default()), channel(Config::small())];
    for i in 0..100 {
        for (k, channel) in channels.iter().enumerate() {
            let bytes = encode(&[i, k as u64]);
            assert_eq!(channel.call(ECHO, &bytes, LONG).unwrap().to_vec(), bytes);
        }
    }
    assert!(channels[0].role() != channels[2].role() && channels[0].pid() != channels[2].pid());
}
