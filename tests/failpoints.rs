//! A process that dies, stops or pauses at each step of the protocol. Compiled only with
//! `RUSTFLAGS="--cfg slipring_failpoints"`.
//!
//! These tests have a binary of their own and run one at a time, as they count what is left behind
//! in their process.
#![cfg(slipring_failpoints)]

#[path = "failpoints/at_once.rs"]
mod at_once;
mod common;
worker_entry!();

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::*;
use slipring::{Channel, Error, ErrorKind, ExitCause, Spawner};

const VARIABLE: &str = "SLIPRING_FAILPOINT";
const SHORT: Duration = Duration::from_millis(300);

/// Steps of a worker once it has attached.
const SERVING: [&str; 15] = [
    "claim",
    "half the header",
    "before commit",
    "after commit",
    "before wake",
    "before wait",
    "after wait",
    "after poll",
    "before head",
    "after head",
    "before release",
    "before handler",
    "after handler",
    "before pong",
    "after answer",
];

/// Steps of a worker before that.
const ATTACHING: [&str; 3] = ["before attach", "after attach", "before answer"];

/// Steps of a parent.
const PARENT: [&str; 16] = [
    "before spawn",
    "before setup",
    "after setup",
    "after handshake",
    "claim",
    "after copy",
    "half the header",
    "before commit",
    "after commit",
    "before wake",
    "before wait",
    "after wait",
    "after poll",
    "before head",
    "after head",
    "before release",
];

/// Lists every thread of a process with its name and its place in the kernel.
fn stacks(pid: u32) -> String {
    let mut text = String::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        text.push_str(&format!("-- {pid}, thread {}\n", task.file_name().to_string_lossy()));
        for file in ["comm", "wchan", "syscall", "stack"] {
            let read = std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
            text.push_str(&format!("   {file}: {}\n", read.trim()));
        }
    }
    let gdb = std::process::Command::new("gdb")
        .args(["-p", &pid.to_string(), "-batch", "-ex", "thread apply all bt"])
        .output();
    if let Ok(output) = gdb {
        text.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    text
}

/// Runs a case. If it hangs, prints the stacks of all threads of these processes.
fn watched<T: Send>(what: &str, pids: &[u32], run: impl FnOnce() -> T + Send) -> T {
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            use std::sync::mpsc::RecvTimeoutError;
            if is_done.recv_timeout(LONG) == Err(RecvTimeoutError::Timeout) {
                let own = [std::process::id()];
                let all = pids.iter().chain(&own);
                let stacks: String = all.map(|pid| stacks(*pid)).collect();
                eprintln!("{what} hangs\n{stacks}");
                std::process::abort();
            }
        });
        let result = run();
        drop(done);
        result
    })
}

fn at(point: &str, action: &str, nth: u32, logs: &Path) -> Spawner {
    let failpoint = format!("{point}:{action}:{nth}");
    in_4_kib().handshake_timeout(LONG).env(VARIABLE, failpoint).log_dir(logs).role("failpoint")
}

fn has_fired(logs: &Path) -> bool {
    let log = std::fs::read_to_string(logs.join("worker-failpoint.log")).unwrap_or_default();
    log.contains("failpoint ")
}

/// Makes calls, a stream and pings, and returns the first error. All replies must be right, and
/// chunks an exact prefix.
fn work(channel: &Channel, timeout: Duration) -> Result<(), Error> {
    for round in 0..4_u64 {
        let bytes = pattern(round, 900);
        assert_eq!(channel.call(ECHO, &bytes, timeout)?.to_vec(), bytes);
        // The worker sleeps by then, and must be woken.
        std::thread::sleep(Duration::from_millis(3));
        channel.ping(timeout)?;
        let mut count = 0;
        for chunk in channel.stream(COUNT, &encode(&[20, 300]), timeout)? {
            assert_eq!(chunk?.to_vec(), pattern(count, 300), "chunk {count}");
            count += 1;
        }
        assert_eq!(count, 20, "all chunks");
    }
    Ok(())
}

struct Cases {
    baseline: Footprint,
    fired: usize,
    times: Vec<Duration>,
}

impl Cases {
    fn new() -> Self {
        // It is there for up to a second after the last channel, and each case would wait for its end.
        slipring::status_page::turn_off();
        in_4_kib().handshake_timeout(LONG).spawn().unwrap().close(LONG).unwrap();
        // The thread that notes a worker's end may look at its memory for a moment after the close.
        eventually("the memory of the first one is gone", || footprint().maps == 0);
        Self { baseline: footprint(), fired: 0, times: Vec::new() }
    }

    /// Runs one case in a new directory. The case returns whether it passed the failpoint.
    fn run(&mut self, what: &str, case: impl FnOnce(&Path) -> bool + Send) {
        let logs = temp_dir("failpoints");
        let start = Instant::now();
        let fired = watched(what, &[], || case(&logs));
        self.times.push(start.elapsed());
        self.fired += usize::from(fired);
        if !fired {
            println!("{what}: was not passed");
        }
        std::fs::remove_dir_all(logs).unwrap();
        self.baseline.assert_restored(what);
    }
}

#[test]
fn a_worker_that_dies_at_any_step_of_serving_leaves_an_exact_prefix() {
    let _alone = one_at_a_time();
    let mut cases = Cases::new();
    for point in SERVING {
        for (action, expected) in [
            ("kill", ExitCause::Signaled(libc::SIGKILL)),
            ("abort", ExitCause::Signaled(libc::SIGABRT)),
            ("exit", ExitCause::Exited(0)),
        ] {
            for nth in [1, 2, 7, 30] {
                cases.run(&format!("{point}:{action}:{nth}"), |logs| {
                    let spawned = at(point, action, nth, logs).spawn();
                    let channel = match spawned {
                        Ok(channel) => channel,
                        // In the health thread, before the answer.
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Handshake, "{point}: {error}");
                            return has_fired(logs);
                        }
                    };
                    let worked = work(&channel, LONG);
                    let fired = has_fired(logs);
                    match worked {
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::PeerDied, "{point}: {error}");
                            assert_eq!(cause_of(&error), expected, "{point}: {error}");
                        }
                        Ok(()) => {
                            // This was the last step of the worker, or it did not come past as
                            // often.
                            assert!(!fired || eventually_dead(&channel), "{point}");
                        }
                    }
                    channel.close(LONG).unwrap();
                    fired
                });
            }
        }
    }
    println!("{} of {} points were passed", cases.fired, cases.times.len());
    assert!(cases.fired > cases.times.len() / 2);
}

fn eventually_dead(channel: &Channel) -> bool {
    eventually("it is dead", || !channel.is_alive());
    true
}

#[test]
fn a_frame_is_delivered_if_and_only_if_it_was_committed_before_the_death() {
    let _alone = one_at_a_time();
    let mut cases = Cases::new();
    // The worker's frames: ready, then the reply.
    for (point, nth, is_delivered) in [
        ("claim", 2, false),
        ("half the header", 2, false),
        ("before commit", 2, false),
        ("after commit", 2, true),
    ] {
        cases.run(point, |logs| {
            let channel = at(point, "kill", nth, logs).spawn().unwrap();
            channel.wait_ready(LONG).unwrap();
            let reply = channel.call(ECHO, b"the last one", LONG);
            match reply {
                Ok(reply) => assert!(is_delivered && reply.to_vec() == b"the last one", "{point}"),
                Err(error) => {
                    assert!(!is_delivered && error.kind() == ErrorKind::PeerDied, "{point}");
                    cause_of(&error);
                    assert_eq!(error.was_begun(), Some(true), "{point}");
                }
            }
            let error = channel.call(ECHO, b"after", LONG).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PeerDied, "{point}");
            has_fired(logs)
        });
    }
    assert_eq!(cases.fired, 4);
}

#[test]
fn a_worker_that_stops_at_any_step_times_out_and_loses_no_wake() {
    let _alone = one_at_a_time();
    let mut cases = Cases::new();
    for point in SERVING.into_iter().filter(|point| *point != "after answer") {
        for nth in [2, 9] {
            cases.run(&format!("{point}:stop:{nth}"), |logs| {
                let channel = at(point, "stop", nth, logs).spawn().unwrap();
                let worked = work(&channel, SHORT);
                let fired = has_fired(logs);
                if let Err(error) = worked {
                    let kinds = [ErrorKind::Timeout, ErrorKind::Stalled];
                    assert!(kinds.contains(&error.kind()), "{point}: {error}");
                    assert!(channel.is_alive() && !error.is_fatal(), "{point}: {error}");
                }
                if !fired {
                    // The worker may still stop as it ends.
                    channel.close(SHORT).unwrap();
                    return false;
                }
                send_signal(channel.pid(), libc::SIGCONT);
                work(&channel, LONG).unwrap_or_else(|error| panic!("{point}: {error}"));
                channel.close(LONG).unwrap();
                fired
            });
        }
    }
    assert!(cases.fired > cases.times.len() / 2);
}

#[test]
fn a_worker_that_pauses_at_any_step_loses_nothing() {
    let _alone = one_at_a_time();
    let mut cases = Cases::new();
    for point in SERVING.into_iter().chain(ATTACHING) {
        for nth in [1, 5] {
            cases.run(&format!("{point}:sleep:{nth}"), |logs| {
                let channel = at(point, "sleep", nth, logs).spawn().unwrap();
                work(&channel, LONG).unwrap_or_else(|error| panic!("{point}: {error}"));
                channel.close(LONG).unwrap();
                has_fired(logs)
            });
        }
    }
    assert!(cases.fired > cases.times.len() / 2);
}

#[test]
fn a_worker_that_dies_or_stops_in_the_handshake_fails_it_and_is_reaped() {
    let _alone = one_at_a_time();
    let mut cases = Cases::new();
    for point in ATTACHING {
        for action in ["kill", "abort", "exit", "stop"] {
            cases.run(&format!("{point}:{action}"), |logs| {
                let timeout = if action == "stop" { SHORT } else { LONG };
                let spawned = at(point, action, 1, logs).handshake_timeout(timeout).spawn();
                let error = spawned.map(drop).expect_err(&format!("{point}:{action}"));
                assert_eq!(error.kind(), ErrorKind::Handshake, "{point}: {error}");
                let part = match action {
                    "kill" => "SIGKILL",
                    "abort" => "SIGABRT",
                    "exit" => "exited with code 0",
                    _ => "before the deadline",
                };
                assert!(error.to_string().contains(part), "{point}:{action}: {error}");
                has_fired(logs)
            });
        }
    }
    assert_eq!(cases.fired, cases.times.len());
}

/// The parent of the cases below, which runs in a new process and prints its progress.
const PARENT_TEST: &str = "a_parent_that_ends_or_pauses_at_any_step_leaves_no_worker_behind";

fn be_the_parent() {
    let channel = in_4_kib().handshake_timeout(LONG).env_remove(VARIABLE).spawn().unwrap();
    println!("\nworker {}", channel.pid());
    work(&channel, LONG).unwrap();
    channel.close(LONG).unwrap();
    println!("\ndone");
}

/// Children of a process, of all its threads.
fn children_of(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

#[test]
fn a_parent_that_ends_or_pauses_at_any_step_leaves_no_worker_behind() {
    if is_rerun(PARENT_TEST) {
        be_the_parent();
        return;
    }
    let _alone = one_at_a_time();
    for point in PARENT {
        for action in ["kill", "abort", "exit", "stop", "sleep"] {
            for nth in [1, 4] {
                let what = format!("{point}:{action}:{nth}");
                let mut parent = rerun_command(PARENT_TEST)
                    .env(VARIABLE, &what)
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap();
                let pid = parent.id();
                let mut output = BufReader::new(parent.stdout.take().unwrap());
                let mut errors = parent.stderr.take().unwrap();
                let mut seen = Vec::new();
                let text = watched(&what, &[pid], || {
                    let mut text = String::new();
                    let mut line = String::new();
                    if action == "stop" {
                        // The parent has stopped, or has ended without passing the failpoint.
                        let start = Instant::now();
                        while !is_stopped(pid) && is_running(pid) && start.elapsed() < LONG {
                            std::thread::sleep(Duration::from_millis(2));
                        }
                        seen.extend(children_of(pid));
                        if is_stopped(pid) {
                            send_signal(pid, libc::SIGCONT);
                        }
                    }
                    while output.read_line(&mut line).unwrap() != 0 {
                        seen.extend(
                            line.strip_prefix("worker ").and_then(|n| n.trim().parse::<u32>().ok()),
                        );
                        text.push_str(&line);
                        line.clear();
                    }
                    text
                });
                let status = watched(&what, &[pid], || parent.wait()).unwrap();
                let mut said = String::new();
                errors.read_to_string(&mut said).unwrap();
                let fired = said.contains("failpoint ");
                if !fired || action == "stop" || action == "sleep" {
                    assert!(status.success() && text.contains("done"), "{what}: {status}\n{said}");
                } else {
                    assert!(!text.contains("done"), "{what}");
                }
                for worker in seen {
                    eventually(&format!("{what}: worker {worker} is gone"), || !is_running(worker));
                }
            }
        }
    }
}

fn is_stopped(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().unwrap_or_default().starts_with(" T"))
}
