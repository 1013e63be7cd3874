//! Hosts and readers with faults: a full ring whose consumer is stopped, leases that are never
//! given back, a host that reaps every child itself.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::*;
use slipring::{ErrorKind, ExitCause};

#[test]
fn a_full_ring_of_a_stopped_worker_ends_a_send_at_its_deadline() {
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
    // A sender that waits for room is woken when the consumer goes on.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| channel.call(ECHO, &[8; 900], LONG).unwrap().to_vec());
        std::thread::sleep(Duration::from_millis(20));
        send_signal(channel.pid(), libc::SIGCONT);
        assert_eq!(waiting.join().unwrap(), [8; 900]);
    });
    assert_usable(&channel);
}

#[test]
fn a_long_message_that_is_abandoned_without_room_frees_its_entry() {
    // Three frames of the longest kind leave no room for another header.
    let config = tiny(4 << 10).max_request_frame(1312).max_in_flight(1).build().unwrap();
    let channel = spawn(config);
    stop(channel.pid());
    let mut writer = channel.write(SUM, Duration::from_millis(30)).unwrap();
    let error = writer.push(&[1; 40_000]).unwrap_err();
    // Pieces are in the ring, which a worker that reads them could begin until it finds the cancel.
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Timeout, None));
    assert!(error.to_string().contains("4032 bytes are in flight"), "{error}");
    drop(writer);
    assert_eq!(channel.in_flight(), 0);
    send_signal(channel.pid(), libc::SIGCONT);
    // Nothing is sent: the worker finds by itself that the message was abandoned.
    eventually("its slot is free", || match channel.submit(ECHO, b"x", LONG) {
        Ok(pending) => pending.wait().unwrap().to_vec() == b"x",
        Err(error) => error.kind() != ErrorKind::TooManyInFlight,
    });
    assert_eq!(numbers(&channel.call(SUM, &vec![1; 9_000], LONG).unwrap().to_vec()), [9_000]);
}

#[test]
fn a_timeout_says_whether_the_worker_had_begun_the_request() {
    let channel = spawn(tiny(4 << 10).build().unwrap());
    assert_usable(&channel);
    let timeout = Duration::from_millis(20);
    stop(channel.pid());
    let error = channel.call(ECHO, b"x", timeout).unwrap_err();
    let text = error.to_string();
    assert!(error.is_timeout() && error.was_begun().is_none(), "{error}");
    for part in ["does not answer", "it may be stopped", "not been taken out of the request ring"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    send_signal(channel.pid(), libc::SIGCONT);
    let stay = Stay::new();
    let busy = channel.submit(STAY, &stay.path(), LONG).unwrap();
    let request = busy.id();
    eventually("it runs", || channel.health().current_request == Some(request));
    let error = channel.call(ECHO, b"x", timeout).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("busy with request {request}")), "{text}");
    assert!(text.contains("not been taken out of the request ring"), "{text}");
    drop(stay);
    busy.wait().unwrap();
    // A worker of a busy machine may find it too late to begin.
    let call = || channel.call(UNTIL_ABORTED, b"", timeout).unwrap_err();
    let mut error = call();
    eventually("it was begun", || {
        error.was_begun() == Some(true) || {
            error = call();
            false
        }
    });
    assert!(error.to_string().contains("the worker has been busy with it for"), "{error}");
    assert!(error.to_string().contains("and with no other"), "{error}");
}

#[test]
fn an_answer_that_was_held_up_with_its_caller_is_not_too_late() {
    let name = name_of(an_answer_that_was_held_up_with_its_caller_is_not_too_late);
    if is_rerun(name) {
        let channel = spawn(tiny(4 << 10).build().unwrap());
        let timeout = Duration::from_millis(300);
        let mut stream = channel.stream(TRICKLE, &encode(&[200_000, 2, 8]), timeout).unwrap();
        stream.next_chunk().unwrap().unwrap();
        println!("waits {}", channel.pid());
        stream.next_chunk().unwrap().unwrap();
        drop(stream);
        eventually("it is idle", || channel.health().current_request.is_none());
        let pending = channel.submit(SLOW_ECHO, &encode(&[200]), timeout).unwrap();
        eventually("it runs", || channel.health().current_request.is_some());
        println!("waits {}", channel.pid());
        assert_eq!(numbers(&pending.wait().unwrap().to_vec()), [200]);
        drop(channel);
        // A ping that the worker gets when it goes on.
        let channel = spawn(tiny(4 << 10).build().unwrap());
        channel.wait_ready(LONG).unwrap();
        stop(channel.pid());
        println!("waits {}", channel.pid());
        channel.ping(timeout).unwrap();
        #[cfg(feature = "async")]
        pollster::block_on(async {
            let channel = spawner().pollable().spawn().unwrap();
            let channel = slipring::tasks::AsyncChannel::new(channel).unwrap();
            let pending = channel.submit(SLOW_ECHO, &encode(&[200]), timeout).await.unwrap();
            let health = || channel.blocking().health();
            eventually("it runs", || health().current_request.is_some());
            println!("waits {}", channel.blocking().pid());
            assert_eq!(numbers(&pending.await.unwrap().to_vec()), [200]);
        });
        return;
    }
    let mut caller = rerun_command(name).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(caller.stdout.take().unwrap()).lines().map(Result::unwrap);
    for _ in 0..if cfg!(feature = "async") { 4 } else { 3 } {
        let line = lines.find(|line| line.contains("waits ")).unwrap();
        let worker = line.rsplit(' ').next().unwrap().parse().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        stop(caller.id());
        stop(worker);
        std::thread::sleep(Duration::from_millis(500));
        send_signal(caller.id(), libc::SIGCONT);
        // The caller sees that its deadline has passed before the worker can answer.
        std::thread::sleep(Duration::from_millis(10));
        send_signal(worker, libc::SIGCONT);
    }
    let rest: Vec<String> = lines.collect();
    assert!(caller.wait().unwrap().success(), "{rest:?}");
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
    let name = name_of(a_host_that_waits_for_every_child_takes_the_status_and_nothing_else);
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
        // The first of the two to wait gets the status.
        let honest = if round % 2 == 0 { ExitCause::Signaled(9) } else { ExitCause::Exited(0) };
        assert!(cause == honest || cause == ExitCause::Unknown, "{cause}");
    }
}
