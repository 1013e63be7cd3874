//! The ends of channels over named segments: by a close, by a kill of either side, or never.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use slipring::worker::{HandlerError, Worker};
use slipring::{Channel, Config, ErrorKind, ExitCause, WaitStrategy, named};

use crate::common::named::{attach, fresh_name, start};
use crate::common::*;

const SOON: Duration = Duration::from_secs(5);

fn attached() -> (Channel, Child) {
    let (mut host, child) = start(&Config::small(), "worker_entry");
    let channel = host.accept(LONG).unwrap();
    assert_usable(&channel);
    (channel, child)
}

fn has_name(name: &str) -> bool {
    ["down", "up"]
        .iter()
        .any(|side| Path::new(&format!("/dev/shm/slipring.{name}.{side}")).exists())
}

fn assert_ends(mut child: Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > LONG {
            let _ = child.kill();
            panic!("the worker did not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_close_waits_until_the_worker_has_detached() {
    let (channel, child) = attached();
    let start = Instant::now();
    assert_eq!(channel.close(LONG).unwrap(), ExitCause::Unknown);
    println!("closed in {:?}", start.elapsed());
    assert!(start.elapsed() < SOON);
    assert!(channel.call(ECHO, b"x", LONG).unwrap_err().is_closed());
    assert_eq!(channel.close(LONG).unwrap(), ExitCause::Unknown);
    assert!(assert_ends(child).success());
    let name = channel.role().to_owned();
    drop(channel);
    assert!(!has_name(&name));
}

#[test]
fn a_close_of_a_stuck_worker_ends_and_kills_no_process() {
    let (channel, mut child) = attached();
    let pending = channel.submit(FOR_EVER, b"", LONG).unwrap();
    eventually("it runs", || channel.health().current_request.is_some());
    let start = Instant::now();
    let error = channel.close(Duration::from_millis(300)).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(error.to_string().contains(&child.id().to_string()), "{error}");
    assert!(start.elapsed() < SOON);
    assert!(pending.wait().unwrap_err().is_closed());
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_dropped_channel_takes_its_names_along_and_tells_the_worker_to_end() {
    let (channel, child) = attached();
    let kept = channel.call(ECHO, b"kept", LONG).unwrap();
    let name = channel.role().to_owned();
    assert!(has_name(&name));
    drop(channel);
    assert!(!has_name(&name), "a reply that is kept keeps no name");
    assert_eq!(kept.to_vec(), b"kept");
    assert!(assert_ends(child).success());
}

#[test]
fn a_host_waits_for_a_worker_and_takes_its_names_along_if_none_comes() {
    let name = fresh_name();
    let mut host = named::create(&name, &Config::small()).unwrap();
    let error = host.accept(Duration::from_millis(20)).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    // The host still accepts a worker that comes later.
    let child = attach(&name, "worker_entry");
    let channel = host.accept(LONG).unwrap();
    drop(host);
    assert!(has_name(&name), "the channel has the names now");
    assert_usable(&channel);
    drop(channel);
    assert!(assert_ends(child).success());

    let host = named::create(&name, &Config::small()).unwrap();
    assert!(has_name(&name));
    drop(host);
    assert!(!has_name(&name));
}

#[test]
fn a_killed_worker_ends_calls_and_streams_and_everything_after() {
    for round in 0..10 {
        let (channel, mut child) = attached();
        let stream = channel.stream(COUNT, &encode(&[1 << 40, 100]), LONG).unwrap();
        let waiting = channel.submit(ECHO, b"behind the stream", LONG).unwrap();
        let (errors, elapsed) = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| waiting.wait().unwrap_err());
            let reader = scope.spawn(|| {
                let mut stream = stream;
                stream.find_map(Result::err).expect("an endless stream is cut off")
            });
            std::thread::sleep(Duration::from_micros(20_000 + round * 137));
            child.kill().unwrap();
            let start = Instant::now();
            ([waiter.join().unwrap(), reader.join().unwrap()], start.elapsed())
        });
        println!("told {elapsed:?} after the kill");
        assert!(elapsed < SOON, "{elapsed:?}");
        for error in errors {
            assert!(error.is_peer_dead(), "{error}");
            assert_eq!(error.death().unwrap().pid(), child.id());
            assert_eq!(error.death().unwrap().cause(), Some(ExitCause::Unknown));
        }
        assert!(channel.call(ECHO, b"x", LONG).unwrap_err().is_peer_dead());
        assert!(channel.ping(LONG).unwrap_err().is_peer_dead());
        assert_eq!(channel.close(LONG).unwrap(), ExitCause::Unknown);
        child.wait().unwrap();
    }
}

#[test]
fn a_worker_that_is_killed_between_two_rings_leaves_no_caller_waiting() {
    let config = Config::builder().wait_strategy(WaitStrategy::Park).build().unwrap();
    for round in 0..20 {
        let (mut host, mut child) = start(&config, "worker_entry");
        let channel = host.accept(LONG).unwrap();
        assert_usable(&channel);
        let error = std::thread::scope(|scope| {
            // Each call has a wake-up and a wait on both sides.
            let caller = scope.spawn(|| {
                (0..u64::MAX)
                    .find_map(|i| channel.call(ECHO, &encode(&[i]), LONG).err())
                    .expect("the worker is killed")
            });
            std::thread::sleep(Duration::from_micros(5_000 + round * 311));
            child.kill().unwrap();
            within_long("caller", || caller.join().unwrap())
        });
        assert!(error.is_peer_dead(), "{error}");
        child.wait().unwrap();
    }
}

#[test]
fn a_worker_that_is_killed_while_nothing_is_in_flight_is_noticed() {
    let (channel, mut child) = attached();
    child.kill().unwrap();
    let start = Instant::now();
    eventually("it is noticed", || !channel.is_alive());
    assert!(start.elapsed() < SOON);
    child.wait().unwrap();
}

#[test]
fn a_worker_that_exits_in_a_handler_is_dead() {
    let (channel, mut child) = attached();
    let error = channel.call(EXIT, b"\x07", LONG).unwrap_err();
    assert!(error.is_peer_dead(), "{error}");
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[test]
fn a_worker_without_a_session_says_why_and_detaches() {
    let name = fresh_name();
    let mut host = named::create(&name, &Config::small()).unwrap();
    let serving = std::thread::spawn(move || {
        Worker::<()>::new(|_| Err(HandlerError::new("test::NoModel", "no such model")))
            .serve_named(&name, LONG)
    });
    let channel = host.accept(LONG).unwrap();
    let error = channel.wait_ready(LONG).unwrap_err();
    assert_eq!(error.handler_failure().unwrap().type_name, "test::NoModel", "{error}");
    assert!(serving.join().unwrap().unwrap_err().is_fatal());
    assert_eq!(channel.call(ECHO, b"", LONG).unwrap_err().kind(), ErrorKind::Session);
}

/// Not a test of its own: a process that makes a channel, and prints its name and when a handler
/// runs.
#[test]
fn parent_that_will_be_killed() {
    if !is_rerun(name_of(parent_that_will_be_killed)) {
        return;
    }
    let name = fresh_name();
    let mut host = named::create(&name, &Config::small()).unwrap();
    println!("\nname={name}");
    let channel = host.accept(LONG).unwrap();
    let _pending = channel.submit(UNTIL_ABORTED, b"", LONG).unwrap();
    eventually("it runs", || channel.health().current_request.is_some());
    println!("\nbusy");
    std::thread::sleep(LONG);
}

#[test]
fn a_killed_parent_ends_its_worker_and_leaves_what_can_be_removed() {
    let mut command = rerun_command(name_of(parent_that_will_be_killed));
    let mut parent = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines().map(Result::unwrap);
    let name = lines.find_map(|line| Some(line.strip_prefix("name=")?.to_owned())).unwrap();
    let worker = attach(&name, "worker_entry");
    lines.find(|line| line == "busy").unwrap();
    let is_listed = || named::stale().unwrap().iter().any(|stale| stale.name() == name);
    assert!(!is_listed(), "a live channel is no left-over");

    let start = Instant::now();
    parent.kill().unwrap();
    assert!(assert_ends(worker).success());
    println!("the worker ended {:?} after its parent", start.elapsed());
    assert!(start.elapsed() < SOON);
    let pid = parent.id();
    parent.wait().unwrap();

    let all = named::stale().unwrap();
    let stale = all.iter().find(|stale| stale.name() == name).unwrap();
    assert_eq!(stale.pid(), Some(pid));
    assert!(stale.bytes() > 100_000);
    let taken = named::create(&name, &Config::small()).unwrap_err().to_string();
    assert!(taken.contains(&pid.to_string()) && taken.contains("stale"), "{taken}");
    let orphan = crate::common::worker().serve_named(&name, Duration::from_millis(50)).unwrap_err();
    assert_eq!(orphan.kind(), ErrorKind::Handshake);
    assert!(orphan.to_string().contains(&format!("process {pid}, which made it, is gone")));
    stale.remove().unwrap();
    stale.remove().unwrap();
    assert!(!is_listed() && !has_name(&name));
    drop(named::create(&name, &Config::small()).unwrap());
}

#[test]
fn long_waits_end_on_time_whatever_part_of_a_second_they_cross() {
    let (channel, mut child) = attached();
    let _blocking = channel.submit(FOR_EVER, b"", LONG).unwrap();
    for millis in [1, 30, 600, 600, 950, 1100] {
        let timeout = Duration::from_millis(millis);
        let start = Instant::now();
        let error = channel.call(ECHO, b"x", timeout).unwrap_err();
        assert!(error.is_timeout(), "{error}");
        let late = start.elapsed().checked_sub(timeout).expect("not before its time");
        assert!(late < Duration::from_secs(2), "{late:?} late");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
