//! The ways in which a worker can die, and the error of each. How soon the error comes is in
//! `time_bounds.rs`.

use std::sync::Barrier;
use std::time::Duration;

use crate::common::*;
use slipring::{Channel, Error, ErrorKind, ExitCause};

fn assert_dead_for_good(channel: &Channel) {
    eventually("it is known to be dead", || !channel.is_alive());
    assert_eq!(channel.call(ECHO, b"x", LONG).unwrap_err().kind(), ErrorKind::PeerDied);
    assert_eq!(channel.stream(COUNT, b"x", LONG).unwrap_err().kind(), ErrorKind::PeerDied);
    assert_eq!(channel.ping(LONG).unwrap_err().kind(), ErrorKind::PeerDied);
    assert_eq!(channel.in_flight(), 0);
    eventually("its cause is known", || channel.exit_cause().is_some());
    let cause = channel.exit_cause().unwrap();
    assert_eq!(within_long("close", || channel.close(LONG)).unwrap(), cause);
    eventually("it is reaped", || !is_in_the_table(channel.pid()));
}

#[test]
fn a_signal_in_a_handler_is_named_with_request_log_and_last_lines() {
    let dir = temp_dir("signals");
    let signals = [
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGTERM, "SIGTERM"),
    ];
    for (signal, name) in signals {
        let channel = small().role(name).log_dir(&dir).spawn().unwrap();
        channel.call(PRINT, "last words", LONG).unwrap();
        let pending = channel.submit(RAISE, &[signal as u8], LONG).unwrap();
        let request = pending.id().get();
        let error = pending.wait().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PeerDied);
        assert!(error.is_peer_dead() && error.is_fatal());
        assert_eq!(cause_of(&error), ExitCause::Signaled(signal));
        let death = error.death().unwrap();
        assert_eq!((death.role(), death.pid()), (name, channel.pid()));
        assert_eq!(death.request().map(|id| id.get()), Some(request));
        assert_eq!(death.log_path(), channel.log_path());
        let tail = death.log_tail().unwrap();
        assert!(tail.contains("err: last words"), "{tail}");
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        assert_eq!(error.log_tail(), Some(tail));
        let text = format!("{error:#}");
        for part in [name, &channel.pid().to_string(), &format!("request {request}"), "last words"]
        {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
        let log = channel.log_path().unwrap().to_owned();
        assert_eq!(log, dir.join(format!("worker-{name}.log")));
        assert_dead_for_good(&channel);
        let log = std::fs::read_to_string(log).unwrap();
        let line = format!("[supervisor] killed by signal {name} ({signal})");
        assert_eq!(log.lines().last(), Some(line.as_str()));
        assert_eq!(log.matches("[supervisor]").count(), 1);
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_death_says_which_request_was_served_and_which_were_not_begun() {
    let channel = small().spawn().unwrap();
    let stay = Stay::new();
    let first = channel.submit(STAY, &stay.path(), LONG).unwrap();
    let second = channel.submit(RAISE, &[libc::SIGABRT as u8], LONG).unwrap();
    let others = [0, 1].map(|_| channel.submit(ECHO, b"x", LONG).unwrap());
    let long = channel.submit(SUM, &vec![1; 20_000], LONG).unwrap();
    let served = second.id().get();
    drop(stay);
    first.wait().unwrap();
    let error = second.wait().unwrap_err();
    cause_of(&error);
    let death = error.death().unwrap();
    assert_eq!((death.serving().map(|id| id.get()), death.was_begun()), (Some(served), Some(true)));
    assert_eq!(error.was_begun(), Some(true));
    assert!(error.to_string().contains(&format!("while it served request {served}")), "{error}");
    for pending in others.into_iter().chain([long]) {
        let request = pending.id().get();
        let error = pending.wait().unwrap_err();
        cause_of(&error);
        assert_eq!(error.death().unwrap().serving().map(|id| id.get()), Some(served));
        assert_eq!(error.was_begun(), Some(false));
        let text = error.to_string();
        let told = format!("served request {served}; request {request} had not been begun");
        assert!(text.contains(&told), "{text}");
    }
    eventually("it is known to be dead", || !channel.is_alive());
    let error = channel.call(ECHO, b"x", LONG).unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::PeerDied, Some(false)));
}

#[test]
fn the_error_of_a_killed_worker_says_at_once_what_was_begun() {
    for _ in 0..20 {
        // A busy machine can take longer than the default to reap the worker.
        let channel = small().exit_status_timeout(LONG).spawn().unwrap();
        let served = channel.submit(FOR_EVER, b"", LONG).unwrap();
        let queued = channel.submit(ECHO, b"x", LONG).unwrap();
        until_served(&channel, &served);
        send_signal(channel.pid(), libc::SIGKILL);
        let (served, queued) = (served.wait().unwrap_err(), queued.wait().unwrap_err());
        assert_eq!(served.was_begun(), Some(true), "{served}");
        assert_eq!(queued.was_begun(), Some(false), "{queued}");
    }
}

#[test]
fn the_death_of_an_idle_worker_leaves_no_request_begun() {
    let channel = small().spawn().unwrap();
    assert_usable(&channel);
    stop(channel.pid());
    let pending = channel.submit(ECHO, b"x", LONG).unwrap();
    send_signal(channel.pid(), libc::SIGKILL);
    let error = pending.wait().unwrap_err();
    cause_of(&error);
    assert_eq!((error.was_begun(), error.death().unwrap().serving()), (Some(false), None));
    assert!(error.to_string().contains("while it served no request"), "{error}");
}

#[test]
fn an_exit_in_a_handler_is_a_death_with_its_code_even_if_that_is_zero() {
    let dir = temp_dir("exits");
    for code in [0, 3, 101] {
        let channel = small().instance(u32::from(code)).log_dir(&dir).spawn().unwrap();
        let error = channel.call(EXIT, &[code], LONG).unwrap_err();
        assert_eq!(cause_of(&error), ExitCause::Exited(i32::from(code)));
        assert!(error.to_string().contains(&format!("exited with code {code}")), "{error}");
        let log = channel.log_path().unwrap().to_owned();
        assert_eq!(log, dir.join(format!("worker-test-{code}.log")));
        assert_dead_for_good(&channel);
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.ends_with(&format!("[supervisor] exited with code {code}\n")), "{log}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_death_without_a_log_has_neither_path_nor_lines() {
    let channel = small().spawn().unwrap();
    let error = channel.call(RAISE, &[libc::SIGSEGV as u8], LONG).unwrap_err();
    let death = error.death().unwrap();
    assert_eq!((death.log_path(), death.log_tail()), (None, None));
    assert_eq!(channel.log_path(), None);
    assert_dead_for_good(&channel);
}

#[test]
fn a_core_dump_is_not_written_unless_it_is_asked_for() {
    let limits = |channel: &Channel| {
        let text = channel.call(SELF, b"", LONG).unwrap().to_vec();
        let text = String::from_utf8(text).unwrap();
        text.lines().find(|line| line.contains("Max core file size")).unwrap().to_owned()
    };
    let limit = |channel: &Channel| -> Vec<String> {
        limits(channel).split_whitespace().skip(4).take(2).map(str::to_owned).collect()
    };
    let channel = small().spawn().unwrap();
    // The limit may be one byte: with zero the kernel still sends dumps to a program that collects
    // them.
    for limit in limit(&channel) {
        assert!(limit == "0" || limit == "1", "{limit}");
    }
    let channel = small().allow_core_dumps().spawn().unwrap();
    let own = std::fs::read_to_string("/proc/self/limits").unwrap();
    let own = own.lines().find(|line| line.contains("Max core file size")).unwrap();
    let own: Vec<&str> = own.split_whitespace().skip(4).take(2).collect();
    assert_eq!(limit(&channel), own);
}

#[test]
fn an_idle_worker_that_is_killed_is_noticed_without_a_call() {
    let channel = small().spawn().unwrap();
    channel.wait_ready(LONG).unwrap();
    assert!(channel.is_alive());
    assert_eq!(channel.exit_cause(), None);
    send_signal(channel.pid(), libc::SIGKILL);
    assert_dead_for_good(&channel);
    assert_eq!(channel.exit_cause(), Some(ExitCause::Signaled(libc::SIGKILL)));
}

#[test]
fn chunks_that_came_before_a_death_are_an_exact_prefix() {
    for round in 0..40_u64 {
        let channel = small().spawn().unwrap();
        channel.wait_ready(LONG).unwrap();
        let stream = channel.stream(COUNT, &encode(&[1 << 40, 100]), LONG).unwrap();
        let pid = channel.pid();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(300 * round));
            send_signal(pid, libc::SIGKILL);
        });
        let mut count = 0;
        let mut errors = Vec::new();
        for chunk in stream {
            match chunk {
                Ok(chunk) => {
                    assert!(chunk.to_vec() == pattern(count, 100), "chunk {count}");
                    count += 1;
                }
                Err(error) => errors.push(error),
            }
        }
        killer.join().unwrap();
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].kind(), ErrorKind::PeerDied);
        assert_eq!(cause_of(&errors[0]), ExitCause::Signaled(libc::SIGKILL));
    }
}

#[test]
fn each_of_many_waiting_threads_is_told_once_of_a_death() {
    let channel = small().spawn().unwrap();
    channel.wait_ready(LONG).unwrap();
    let barrier = Barrier::new(9);
    let errors: Vec<Error> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|i| {
                let (channel, barrier) = (&channel, &barrier);
                scope.spawn(move || {
                    let kind = if i % 2 == 0 { FOR_EVER } else { ECHO };
                    let pending = channel.submit(kind, b"x", Duration::MAX).unwrap();
                    barrier.wait();
                    // Half of them are behind the stuck handler. Those before it may be served.
                    pending.wait().map(drop).err()
                })
            })
            .collect();
        barrier.wait();
        std::thread::sleep(Duration::from_millis(20));
        send_signal(channel.pid(), libc::SIGKILL);
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(errors.len() >= 4, "{errors:?}");
    for error in &errors {
        assert_eq!(error.kind(), ErrorKind::PeerDied, "{error}");
        assert_eq!(cause_of(error), ExitCause::Signaled(libc::SIGKILL));
    }
    assert_dead_for_good(&channel);
}

#[test]
fn a_sender_that_waits_for_room_is_told_of_a_death() {
    let config = tiny(4 << 10).build().unwrap();
    let channel = spawner().config(config).spawn().unwrap();
    channel.wait_ready(LONG).unwrap();
    let _stuck = channel.submit(FOR_EVER, b"", LONG).unwrap();
    let pid = channel.pid();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        send_signal(pid, libc::SIGKILL);
    });
    let mut kept = Vec::new();
    let error = loop {
        match channel.submit(ECHO, &[0; 1000], LONG) {
            Ok(pending) => kept.push(pending),
            Err(error) => break error,
        }
    };
    killer.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::PeerDied, "{error}");
    for pending in kept {
        assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::PeerDied);
    }
}

#[test]
fn a_host_that_reaps_all_children_itself_is_told_that_the_status_is_lost() {
    let name = name_of(a_host_that_reaps_all_children_itself_is_told_that_the_status_is_lost);
    if !is_rerun(name) {
        rerun(name);
        return;
    }
    // SAFETY: no handler is installed.
    #[allow(unsafe_code, reason = "signal")]
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
    }
    let channel = small().spawn().unwrap();
    let error = channel.call(EXIT, &[0], LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerDied);
    assert_eq!(cause_of(&error), ExitCause::Unknown);
    assert!(error.to_string().contains("unknown"), "{error}");
    // A status that was seen before the reaping is not lost.
    let channel = small().spawn().unwrap();
    let error = channel.call(RAISE, &[libc::SIGKILL as u8], LONG).unwrap_err();
    assert!(matches!(cause_of(&error), ExitCause::Signaled(libc::SIGKILL) | ExitCause::Unknown));
    eventually("it is reaped", || channel.exit_cause().is_some());
    assert_eq!(channel.exit_cause(), Some(cause_of(&error)));
    let channel = small().spawn().unwrap();
    assert_usable(&channel);
    assert_eq!(within_long("close", || channel.close(LONG)).unwrap(), ExitCause::Unknown);
}
