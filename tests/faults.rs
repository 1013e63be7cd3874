//! Faults of hosts and of readers: a full ring and a consumer that stands still, leases that
//! are never given back, a host that reaps every child itself.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "tests"
)]

mod common;
worker_entry!();

use std::time::{Duration, Instant};

use common::*;
use slipring::{ErrorKind, ExitCause};

#[test]
fn a_full_ring_whose_consumer_is_stopped_ends_a_send_at_its_deadline_and_later_frees_it() {
    let channel = spawn(tiny(4 << 10).build().unwrap());
    channel.wait_ready(LONG).unwrap();
    stop(channel.pid());
    let mut sent = Vec::new();
    let timeout = Duration::from_millis(50);
    let error = loop {
        let start = Instant::now();
        match channel.submit(ECHO, &[7; 900], timeout) {
            Ok(pending) => sent.push(pending),
            Err(error) => {
                assert!(start.elapsed() >= timeout);
                println!("{:?} over the deadline", start.elapsed() - timeout);
                break error;
            }
        }
    };
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains("no room for 900 bytes"), "{error}");
    assert!(sent.len() >= 2 && channel.is_alive());
    drop(sent);
    // One that waits for room is woken when the consumer goes on.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| channel.call(ECHO, &[8; 900], LONG).unwrap().to_vec());
        std::thread::sleep(Duration::from_millis(20));
        send_signal(channel.pid(), libc::SIGCONT);
        assert_eq!(waiting.join().unwrap(), [8; 900]);
    });
    assert_usable(&channel);
}

#[test]
fn a_long_message_that_is_given_up_without_room_frees_its_slot() {
    // The ready request and three frames of the longest kind leave no room for another header.
    let config = tiny(4 << 10).max_request(1312).max_in_flight(1).build().unwrap();
    let channel = spawn(config);
    channel.wait_ready(LONG).unwrap();
    stop(channel.pid());
    let mut writer = channel.write(SUM, Duration::from_millis(30)).unwrap();
    let error = writer.push(&[1; 40_000]).unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Timeout, Some(false)));
    assert!(error.to_string().contains("4032 bytes are in flight"), "{error}");
    drop(writer);
    assert_eq!(channel.in_flight(), 0);
    send_signal(channel.pid(), libc::SIGCONT);
    // Without anything that is sent: the worker finds by itself that it was given up.
    eventually("its slot is free", || match channel.submit(ECHO, b"x", LONG) {
        Ok(pending) => pending.wait().unwrap().to_vec() == b"x",
        Err(error) => error.kind() != ErrorKind::TooManyInFlight,
    });
    assert_eq!(numbers(&channel.call(SUM, &vec![1; 9_000], LONG).unwrap().to_vec()), [9_000]);
}

#[test]
fn a_reply_that_is_forgotten_holds_its_ring_with_a_name_and_not_the_close() {
    let channel = spawn(tiny(4 << 10).build().unwrap());
    let reply = channel.call(ECHO, &[7; 900], LONG).unwrap();
    let request = reply.request();
    std::mem::forget(reply);
    let timeout = Duration::from_millis(100);
    let mut last = None;
    for _ in 0..10 {
        match channel.call(ECHO, &[8; 900], timeout) {
            Ok(reply) => assert_eq!(reply.to_vec(), [8; 900]),
            Err(error) => {
                last = Some(error);
                break;
            }
        }
    }
    let error = last.expect("the ring is held");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains(&format!("of requests {request}")), "{error}");
    assert_eq!(channel.stats().leases_held, 1);
    channel.ping(LONG).unwrap();
    within_long("close", || channel.close(Duration::from_millis(500))).unwrap();
}

#[test]
fn a_host_that_waits_for_every_child_takes_the_status_and_nothing_else() {
    let name = "a_host_that_waits_for_every_child_takes_the_status_and_nothing_else";
    if !is_rerun(name) {
        rerun(name);
        return;
    }
    std::thread::spawn(|| {
        loop {
            // SAFETY: no status is asked for.
            #[allow(unsafe_code, reason = "waitpid")]
            let pid = unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
            if pid < 0 {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    });
    for round in 0..30 {
        let channel = spawn(tiny(4 << 10).build().unwrap());
        assert_usable(&channel);
        let cause = if round % 2 == 0 {
            let error = channel.call(RAISE, &[libc::SIGKILL as u8], LONG).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PeerDied, "{error}");
            eventually("the cause is known", || error.death().unwrap().cause().is_some());
            error.death().unwrap().cause().unwrap()
        } else {
            within_long("close", || channel.close(LONG)).unwrap()
        };
        // Whoever comes first has the status.
        let honest = if round % 2 == 0 { ExitCause::Signaled(9) } else { ExitCause::Exited(0) };
        assert!(cause == honest || cause == ExitCause::Unknown, "{cause}");
    }
}
