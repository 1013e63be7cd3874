//! Workers whose parent dies, forks, or ends the thread that spawned them.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use crate::common::*;
use slipring::{Channel, Config};

/// Starts a test once more, in a process that prints `worker <pid>` and does not end by itself.
fn start_parent(name: &str) -> (Child, BufReader<ChildStdout>, u32) {
    let mut parent = rerun_command(name).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(parent.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("worker ") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the parent names its worker");
    }
    let worker = line["worker ".len()..].trim().parse().unwrap();
    (parent, output, worker)
}

fn assert_worker_ends_with_its_parent(name: &str, signal: i32) {
    let (mut parent, _output, worker) = start_parent(name);
    assert!(is_running(worker));
    send_signal(parent.id(), signal);
    parent.wait().unwrap();
    eventually("the worker is gone", || !is_running(worker));
}

#[test]
fn an_idle_worker_ends_when_its_parent_is_killed() {
    let name = name_of(an_idle_worker_ends_when_its_parent_is_killed);
    if is_rerun(name) {
        let channel = spawn(Config::small());
        channel.wait_ready(LONG).unwrap();
        println!("\nworker {}", channel.pid());
        std::thread::sleep(LONG);
        unreachable!("the test has killed this process");
    }
    assert_worker_ends_with_its_parent(name, libc::SIGKILL);
}

#[test]
fn a_worker_with_a_stuck_handler_ends_when_its_parent_is_killed() {
    let name = name_of(a_worker_with_a_stuck_handler_ends_when_its_parent_is_killed);
    if is_rerun(name) {
        let channel = spawn(Config::small());
        let pending = channel.submit(FOR_EVER, b"", LONG).unwrap();
        until_served(&channel, &pending);
        println!("\nworker {}", channel.pid());
        std::thread::sleep(LONG);
        unreachable!("the test has killed this process");
    }
    assert_worker_ends_with_its_parent(name, libc::SIGKILL);
    assert_worker_ends_with_its_parent(name, libc::SIGTERM);
}

#[test]
fn a_worker_ends_when_its_parent_returns_from_main_without_closing() {
    let name = name_of(a_worker_ends_when_its_parent_returns_from_main_without_closing);
    if is_rerun(name) {
        let channel = spawn(Config::small());
        channel.wait_ready(LONG).unwrap();
        println!("\nworker {}", channel.pid());
        std::mem::forget(channel);
        return;
    }
    let (mut parent, _output, worker) = start_parent(name);
    parent.wait().unwrap();
    eventually("the worker is gone", || !is_running(worker));
}

#[test]
fn a_worker_outlives_the_thread_that_spawned_it() {
    let channel = std::thread::spawn(|| spawn(Config::small())).join().unwrap();
    let other = std::thread::spawn(|| spawn(Config::small())).join().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert_usable(&channel);
    assert_usable(&other);
    assert!(channel.exit_cause().is_none());
}

#[test]
fn a_forked_child_is_refused_and_its_parent_is_not_affected() {
    let name = name_of(a_forked_child_is_refused_and_its_parent_is_not_affected);
    if !is_rerun(name) {
        rerun(name);
        return;
    }
    let short = Duration::from_secs(5);
    let channel = spawn(Config::small());
    channel.wait_ready(LONG).unwrap();
    in_fork(|| is_forked(channel.call(ECHO, b"x", short)));
    in_fork(|| is_forked(channel.stream(COUNT, &encode(&[1, 1]), short)));
    in_fork(|| is_forked(channel.ping(short)));
    in_fork(|| is_forked(channel.close(short)));
    in_fork(|| is_forked(channel.close_draining(short)));
    in_fork(|| is_forked(channel.wait_ready(short)));
    in_fork(|| is_forked(spawner().spawn()));
    in_fork(|| !channel.is_alive() && channel.in_flight() == 0 && channel.stats().cancels == 0);
    // A message longer than a frame, begun before the fork.
    let mut writer = channel.write(SUM, LONG).unwrap();
    writer.push(&[1; 40_000]).unwrap();
    in_fork(|| is_forked(writer.push(&[1; 40_000])));
    let mut writer = Some(writer);
    in_fork(|| is_forked(writer.take().unwrap().finish()));
    in_fork(|| {
        drop(writer.take());
        true
    });
    let sum = writer.unwrap().finish().unwrap().wait().unwrap().to_vec();
    assert_eq!(numbers(&sum), [40_000]);
    in_fork(|| {
        channel.abort();
        channel.clear_abort();
        let _ = (channel.in_flight(), channel.exit_cause(), channel.stats(), channel.pid());
        true
    });
    assert_usable(&channel);

    let mut channel = Some(channel);
    in_fork(|| {
        drop(channel.take());
        true
    });
    let channel = channel.unwrap();
    assert_usable(&channel);
    assert!(is_running(channel.pid()));
    channel.close(LONG).unwrap();
}

#[test]
fn what_is_in_flight_when_a_process_forks_belongs_to_the_parent_alone() {
    let name = name_of(what_is_in_flight_when_a_process_forks_belongs_to_the_parent_alone);
    if !is_rerun(name) {
        rerun(name);
        return;
    }
    let channel = spawn(Config::small());
    let mut pending = Some(channel.submit(SLOW_ECHO, &encode(&[300]), LONG).unwrap());
    in_fork(|| is_forked(pending.take().unwrap().wait()));
    in_fork(|| {
        pending.as_ref().unwrap().cancel();
        drop(pending.take());
        true
    });
    assert_eq!(numbers(&pending.unwrap().wait().unwrap().to_vec()), [300]);

    let mut stream = Some(channel.stream(COUNT, &encode(&[100, 1000]), LONG).unwrap());
    let first = stream.as_mut().unwrap().next_chunk().unwrap().unwrap();
    in_fork(|| is_forked(stream.as_mut().unwrap().next_chunk()));
    in_fork(|| {
        drop(stream.take());
        true
    });
    assert_eq!(first.into_vec(), pattern(0, 1000));
    assert_eq!(stream.unwrap().map(Result::unwrap).count(), 99);
    assert_usable(&channel);
}

#[test]
fn a_reply_that_is_held_over_a_fork_can_be_dropped_on_both_sides() {
    let name = name_of(a_reply_that_is_held_over_a_fork_can_be_dropped_on_both_sides);
    if !is_rerun(name) {
        rerun(name);
        return;
    }
    let channel = spawn(Config::small());
    let mut reply = Some(channel.call(ECHO, b"kept", LONG).unwrap());
    in_fork(|| {
        drop(reply.take());
        true
    });
    in_fork(|| reply.as_ref().unwrap().to_vec() == b"kept");
    in_fork(|| {
        let _ = channel.health();
        true
    });
    assert_eq!(reply.unwrap().to_vec(), b"kept");
    assert_usable(&channel);
}

#[test]
fn a_child_that_execs_inherits_nothing_of_the_channel() {
    if !in_a_process_of_its_own(name_of(a_child_that_execs_inherits_nothing_of_the_channel)) {
        return;
    }
    let channel: Channel = spawn(Config::small());
    let mut child = std::process::Command::new("/bin/ls")
        .args(["-l", "/proc/self/fd"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    assert!(!text.contains("slipring") && !text.contains("memfd"), "{text}");
    assert!(!text.contains("pidfd") && !text.contains("eventpoll"), "{text}");
    assert_usable(&channel);
}
