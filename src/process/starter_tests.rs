//! Tests of [`super`], of the supervisor and of [`Child`], with real programs.

use std::fs;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::error::ExitCause;
use crate::process::limits;
use crate::process::socket;
use crate::process::testing::{
    TempDir, alone, ask_for_orphans, belongings, eventually, forbid, fork, hold_as_debugger,
    ignore_signal, is_alive, is_interrupted_within, join_parents_group, kill_and_reap,
    names_of_threads_that_handled, note_threads_that_handle, null, parent_and_child, reap_any,
    report, shell, sleeps_of_threads, soon, state, ticks_of_threads, wants_figures,
};
use crate::process::watch::watch;
use crate::process::worker_process::WorkerProcess;

/// With a pidfd, and without.
const BOTH: [bool; 2] = [true, false];

/// Starts a program. The receiver gets its exit cause.
fn begin(program: Program, log: Option<Log>, uses_pidfd: bool) -> (Child, Receiver<ExitCause>) {
    let (tell, told) = channel();
    // Not every test listens until the end.
    let on_exit = Box::new(move |cause| {
        let _ = tell.send(cause);
    });
    let oom = Arc::default();
    let job = Job { program, stdin: null(), socket: None, log, on_exit, uses_pidfd, oom };
    (job.run().unwrap(), told)
}

fn run(script: &str, uses_pidfd: bool) -> ExitCause {
    let (child, told) = begin(shell(script), None, uses_pidfd);
    let cause = child.wait(soon()).unwrap();
    assert_eq!(told.recv().unwrap(), cause);
    assert!(!is_alive(child.pid()));
    cause
}

fn sleeper() -> Program {
    let args = vec!["1000".into()];
    Program { path: "/bin/sleep".into(), args, ..Program::default() }
}

#[test]
fn exit_codes_and_signals_reach_the_callback_the_cells_and_the_log() {
    for uses_pidfd in BOTH {
        for (script, expected, line) in [
            ("exit 0", ExitCause::Exited(0), "exited with code 0"),
            ("echo hello; exit 7", ExitCause::Exited(7), "exited with code 7"),
            ("kill -SEGV $$", ExitCause::Signaled(11), "killed by signal SIGSEGV (11)"),
            ("kill -KILL $$", ExitCause::Signaled(9), "killed by signal SIGKILL (9)"),
        ] {
            let dir = TempDir::new();
            let log = Log::open(dir.path(), "test", None).unwrap();
            let (child, told) = begin(shell(script), Some(log), uses_pidfd);
            let (status, oom) = (child.cause(), child.oom_suspected());
            assert_eq!(told.recv().unwrap(), expected);
            assert_eq!((child.status(), status.get()), (Some(expected), Some(&expected)));
            assert_eq!(child.wait(soon()), Some(expected));
            assert_eq!(oom.get(), Some(&false));
            child.wait_for_log(soon());
            let tail = child.log().unwrap().tail().unwrap();
            assert!(tail.ends_with(&format!("[supervisor] {line}\n")), "{tail}");
            assert_eq!(tail.contains("hello"), script.contains("hello"));
        }
    }
}

#[test]
fn a_program_that_cannot_start_is_an_error_without_a_callback() {
    let (tell, told) = channel();
    let program = Program { path: "/no/such/program".into(), ..Program::default() };
    let error = start(program, null(), None, None, Box::new(move |c| tell.send(c).unwrap()));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Spawn);
    assert!(told.recv().is_err());
}

#[test]
fn the_worker_gets_its_standard_input_and_no_other_copy_of_it_stays_open() {
    let (ours, theirs) = socket::pair().unwrap();
    let child = start(sleeper(), theirs, None, None, Box::new(|_| {})).unwrap();
    assert!(child.kill());
    // The end of the stream comes only once every copy of the other end is closed.
    assert_at_end(&ours);
    assert_eq!(child.wait(soon()), Some(ExitCause::Signaled(libc::SIGKILL)));
}

#[test]
fn signals_reach_the_worker_until_its_end_and_no_process_afterwards() {
    for uses_pidfd in BOTH {
        let (child, _told) = begin(sleeper(), None, uses_pidfd);
        assert_eq!(child.wait(Instant::now()), None);
        assert!(child.signal(libc::SIGSTOP) && child.signal(libc::SIGCONT));
        assert!(child.signal(libc::SIGTERM));
        assert_eq!(child.wait(soon()), Some(ExitCause::Signaled(libc::SIGTERM)));
        assert!(!child.signal(libc::SIGTERM) && !child.kill());
    }
}

#[test]
fn what_the_worker_started_ends_with_it() {
    for uses_pidfd in BOTH {
        for end in ["exit 3", "kill -9 $$"] {
            let dir = TempDir::new();
            let log = Log::open(dir.path(), "test", None).unwrap();
            let (child, told) =
                begin(shell(&format!("sleep 1000 & echo $!; {end}")), Some(log), uses_pidfd);
            told.recv().unwrap();
            let tail = child.log().unwrap().tail().unwrap();
            let grandchild = tail.lines().next().unwrap().parse().unwrap();
            eventually("the end of the grandchild", || !is_alive(grandchild));
        }
    }
}

#[test]
fn a_worker_that_has_left_its_group_is_killed_too() {
    parent_and_child(
        |program| {
            for uses_pidfd in BOTH {
                let (child, told) = begin(program.clone(), None, uses_pidfd);
                let group = || crate::sys::process::group_of(child.pid()).unwrap();
                eventually("it has left its group", || group() != child.pid());
                assert!(child.kill());
                assert_eq!(told.recv().unwrap(), ExitCause::Signaled(libc::SIGKILL));
            }
        },
        || {
            join_parents_group();
            thread::sleep(Duration::from_secs(1000));
        },
    );
}

fn assert_at_end(socket: &OwnedFd) {
    let end = socket::recv(socket.as_fd(), 0, 0, Some(soon())).unwrap();
    assert!(matches!(end, socket::Received::Eof));
}

#[test]
fn the_socket_of_a_worker_that_is_hung_up_on_or_has_ended_is_shut_down() {
    // Copies of both ends, as a fork of this process and a grandchild can have.
    let (ours, theirs) = socket::pair().unwrap();
    let copies = (ours.try_clone().unwrap(), theirs.try_clone().unwrap());
    let socket = Some(Arc::new(UnixStream::from(ours)));
    let child = start(sleeper(), theirs, socket, None, Box::new(|_| {})).unwrap();
    child.hang_up();
    assert_at_end(&copies.1);
    assert_eq!(child.wait(Instant::now()), None);
    child.kill();

    let (ours, theirs) = socket::pair().unwrap();
    let copies = (ours.try_clone().unwrap(), theirs.try_clone().unwrap());
    let socket = Some(Arc::new(UnixStream::from(ours)));
    let child = start(shell("exit 0"), theirs, socket, None, Box::new(|_| {})).unwrap();
    assert_at_end(&copies.0);
    assert_eq!(child.status(), Some(ExitCause::Exited(0)));
}

/// As the first process of a container would, with a child of its own that has ended.
fn check_orphans(both: [bool; 2]) {
    ask_for_orphans();
    let mut own = std::process::Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
    eventually("the end of the host's own child", || state(own.id()) == Some('Z'));
    for uses_pidfd in both {
        let script = "(sleep 1000 & sleep 1000 & wait) & sleep 1000 & kill -9 $$";
        let (child, told) = begin(shell(script), None, uses_pidfd);
        assert_eq!(told.recv().unwrap(), ExitCause::Signaled(libc::SIGKILL));
        let own = [own.id().to_string()];
        eventually("the end of the orphans", || belongings().1.iter().eq(&own));
        drop(child);
    }
    assert_eq!(own.wait().unwrap().code(), Some(7));
}

#[test]
fn orphans_of_a_worker_are_reaped_and_children_of_the_host_are_not() {
    alone(|| check_orphans(BOTH));
}

#[test]
fn an_orphan_that_a_debugger_holds_costs_no_processor_time() {
    alone(|| {
        ask_for_orphans();
        let dir = TempDir::new();
        let log = Log::open(dir.path(), "test", None).unwrap();
        let (child, told) = begin(shell("sleep 1000 & echo $!; wait"), Some(log), true);
        let tail = || child.log().unwrap().tail().unwrap();
        eventually("its number", || tail().ends_with('\n'));
        let orphan = tail().trim().parse().unwrap();
        let Some(debugger) = hold_as_debugger(orphan) else {
            child.kill();
            return println!("not run: no process may be debugged here");
        };
        child.kill();
        assert_eq!(told.recv().unwrap(), ExitCause::Signaled(libc::SIGKILL));
        eventually("its end", || state(orphan) == Some('Z'));
        let before = ticks_of_threads("slipring-super");
        thread::sleep(Duration::from_secs(1));
        let ticks = ticks_of_threads("slipring-super") - before;
        assert!(ticks < 30, "{ticks} hundredths of a second");
        kill_and_reap(debugger);
        eventually("it is reaped", || state(orphan).is_none());
    });
}

#[test]
fn orphans_of_a_worker_are_reaped_where_there_are_no_pidfds() {
    alone(|| {
        forbid([libc::SYS_pidfd_open, libc::SYS_futex_waitv], libc::ENOSYS);
        check_orphans(BOTH);
    });
}

#[test]
fn a_worker_that_is_ended_later_is_asked_first_and_then_killed() {
    for uses_pidfd in BOTH {
        let begin_trap = |trap: &str| {
            let dir = TempDir::new();
            let log = Log::open(dir.path(), "test", None).unwrap();
            let script = format!("trap {trap} TERM; echo set; while :; do sleep 0.01; done");
            let child = begin(shell(&script), Some(log), uses_pidfd).0;
            eventually("the trap", || child.log().unwrap().tail().unwrap().contains("set"));
            child
        };
        let child = begin_trap("'exit 5'");
        child.end_later(Duration::ZERO, Duration::from_secs(1000));
        assert_eq!(child.wait(soon()), Some(ExitCause::Exited(5)));

        let child = begin_trap("''");
        child.end_later(Duration::ZERO, Duration::from_millis(100));
        assert_eq!(child.wait(soon()), Some(ExitCause::Signaled(libc::SIGKILL)));
        assert_eq!(child.oom_suspected().get(), Some(&false));

        let (child, _told) = begin(shell("kill -STOP $$"), None, uses_pidfd);
        eventually("the stop", || state(child.pid()) == Some('T'));
        child.end_later(Duration::ZERO, Duration::ZERO);
        assert_eq!(child.wait(soon()), Some(ExitCause::Signaled(libc::SIGKILL)));
    }
}

#[test]
fn a_worker_that_ends_by_itself_is_not_killed_and_never_is_a_long_time() {
    let (child, _told) = begin(shell("sleep 0.05; exit 4"), None, true);
    child.end_later(Duration::MAX, Duration::MAX);
    child.end_later(Duration::from_secs(1000), Duration::MAX);
    assert_eq!(child.wait(soon()), Some(ExitCause::Exited(4)));
}

#[test]
fn a_callback_may_start_the_next_worker_and_may_panic() {
    let (tell, told) = channel();
    let again = Box::new(move |_| {
        let tell_end = Box::new(move |cause| tell.send(cause).unwrap());
        start(shell("exit 9"), null(), None, None, tell_end).unwrap();
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    start(shell("exit 8"), null(), None, None, again).unwrap();
    assert_eq!(told.recv().unwrap(), ExitCause::Exited(9));
    assert_eq!(run("exit 1", true), ExitCause::Exited(1));
}

#[test]
fn a_worker_outlives_the_thread_that_asked_for_it() {
    parent_and_child(
        |program| {
            let asked = thread::spawn(|| begin(program, None, true)).join().unwrap();
            assert_eq!(asked.0.wait(Instant::now() + Duration::from_millis(300)), None);
            asked.0.kill();
            assert!(asked.1.recv().is_ok());
        },
        || {
            limits::die_with_parent(std::os::unix::process::parent_id()).unwrap();
            thread::sleep(Duration::from_secs(1000));
        },
    );
}

#[test]
fn the_end_of_a_worker_interrupts_no_system_call_of_the_host() {
    alone(|| {
        // In a process whose main thread waits in that call: the kernel prefers it.
        let code = fork(|| {
            let ends = thread::spawn(|| {
                for uses_pidfd in BOTH.repeat(20) {
                    let (child, told) = begin(sleeper(), None, uses_pidfd);
                    child.kill();
                    told.recv().unwrap();
                }
            });
            let mut is_interrupted = false;
            while !ends.is_finished() {
                is_interrupted |= is_interrupted_within(20);
            }
            ends.join().map_or(2, |()| i32::from(is_interrupted))
        });
        assert_eq!(code, 0);
    });
}

#[test]
fn a_hosts_handler_of_the_signal_of_an_end_runs_on_a_thread_of_the_hosts() {
    alone(|| {
        note_threads_that_handle(libc::SIGCHLD);
        for uses_pidfd in BOTH {
            run("exit 3", uses_pidfd);
        }
        eventually("the handler runs", || !names_of_threads_that_handled().is_empty());
        for name in names_of_threads_that_handled() {
            assert_ne!(name, "slipring-start\n");
        }
    });
}

#[test]
fn where_the_host_ignores_sigchld_the_status_is_unknown_and_nothing_hangs() {
    alone(|| {
        ignore_signal(libc::SIGCHLD);
        for uses_pidfd in BOTH {
            for _ in 0..20 {
                assert_eq!(run("exit 3", uses_pidfd), ExitCause::Unknown);
            }
            let (child, told) = begin(sleeper(), None, uses_pidfd);
            assert!(child.kill());
            assert_eq!(told.recv().unwrap(), ExitCause::Unknown);
            assert!(!child.signal(libc::SIGTERM) && !child.kill());
        }
        // With a pidfd, which takes that it was not gone at once, even the group is found.
        let dir = TempDir::new();
        let log = Log::open(dir.path(), "test", None).unwrap();
        let (child, told) = begin(shell("sleep 1000 & echo $!; sleep 0.2"), Some(log), true);
        told.recv().unwrap();
        child.wait_for_log(soon());
        let tail = child.log().unwrap().tail().unwrap();
        assert!(tail.ends_with("[supervisor] ended, status unknown\n"));
        let grandchild = tail.lines().next().unwrap().parse().unwrap();
        eventually("the end of the grandchild", || !is_alive(grandchild));
    });
}

#[test]
fn a_host_that_reaps_all_children_itself_makes_nothing_hang() {
    alone(|| {
        thread::spawn(|| {
            loop {
                if reap_any() <= 0 {
                    thread::sleep(Duration::from_micros(50));
                }
            }
        });
        for uses_pidfd in BOTH {
            for _ in 0..50 {
                let cause = run("exit 3", uses_pidfd);
                assert!(matches!(cause, ExitCause::Unknown | ExitCause::Exited(3)), "{cause}");
            }
        }
    });
}

#[test]
fn a_fork_of_the_host_can_start_nothing_and_harm_nothing() {
    alone(|| {
        let (child, _told) = begin(sleeper(), None, true);
        let code = fork(|| {
            let refused = start(shell("true"), null(), None, None, Box::new(|_| {}));
            let is_refused = refused.is_err_and(|e| e.kind() == ErrorKind::Forked);
            child.end_later(Duration::ZERO, Duration::ZERO);
            let is_harmless = !child.signal(libc::SIGTERM) && !child.kill();
            i32::from(is_refused && is_harmless && child.wait(soon()).is_none())
        });
        assert_eq!(code, 1);
        assert_eq!(child.wait(Instant::now() + Duration::from_millis(100)), None);
        assert!(child.kill());
        assert!(child.wait(soon()).is_some());
    });
}

#[test]
fn an_idle_supervisor_never_wakes_up() {
    alone(|| {
        let (child, _told) = begin(sleeper(), None, true);
        thread::sleep(Duration::from_millis(50));
        let before = sleeps_of_threads("slipring-super");
        thread::sleep(Duration::from_millis(500));
        assert_eq!(sleeps_of_threads("slipring-super"), before);
        child.kill();
        child.wait(soon());
    });
}

#[test]
fn nothing_is_left_of_ended_workers_whose_handles_are_kept() {
    alone(|| {
        run("exit 0", true);
        let dir = TempDir::new();
        let before = belongings();
        let mut kept = Vec::new();
        for round in 0..100 {
            let log = Log::open(dir.path(), "test", None).unwrap();
            let script = if round % 2 == 0 { "sleep 1000 & exit 1" } else { "kill -9 $$" };
            kept.push(begin(shell(script), Some(log), BOTH[round % 4 / 2]));
            let absent = Program { path: "/no/such".into(), ..Program::default() };
            let log = Log::open(dir.path(), "test", None).unwrap();
            assert!(start(absent, null(), None, Some(log), Box::new(|_| {})).is_err());
        }
        for (child, _told) in &kept {
            assert!(child.wait(soon()).is_some());
            child.wait_for_log(soon());
        }
        assert_eq!(belongings(), before);
    });
}

fn check_under_a_filter(error: i32) {
    forbid([libc::SYS_pidfd_open, libc::SYS_futex_waitv], error);
    let word = Arc::new(AtomicU32::new(0));
    let _watched = watch(Arc::clone(&word), Box::new(|| {}));
    assert_eq!(Arc::strong_count(&word), 1, "the word is not watched");
    assert_eq!(run("exit 3", true), ExitCause::Exited(3));
    let (child, told) = begin(shell("sleep 1000 & wait"), None, true);
    assert!(child.kill());
    assert_eq!(told.recv().unwrap(), ExitCause::Signaled(libc::SIGKILL));
}

#[test]
fn on_a_kernel_without_pidfds_and_futex_waitv_workers_are_polled() {
    alone(|| check_under_a_filter(libc::ENOSYS));
}

#[test]
fn where_a_filter_forbids_pidfds_and_futex_waitv_workers_are_polled() {
    alone(|| check_under_a_filter(libc::EPERM));
}

#[test]
fn a_full_descriptor_table_is_an_error_before_anything_is_started() {
    alone(|| {
        run("exit 0", true);
        let before = belongings();
        let mut inputs: Vec<_> = (0..20).map(|_| null()).collect();
        limits::set_rlimit(libc::RLIMIT_NOFILE, 64).unwrap();
        let mut fillers = Vec::new();
        while let Ok(file) = fs::File::open("/dev/null") {
            fillers.push(file);
        }
        // From none free up to as many as it takes; each failure gives one back.
        let mut failures = 0;
        let child = loop {
            match start(sleeper(), inputs.pop().unwrap(), None, None, Box::new(|_| {})) {
                Ok(child) => break child,
                Err(e) => assert!(matches!(e.kind(), ErrorKind::Os | ErrorKind::Spawn), "{e}"),
            }
            assert_eq!(belongings().1, before.1);
            failures += 1;
        };
        assert!(failures > 0);
        drop((fillers, inputs));
        assert!(child.kill());
        assert!(child.wait(soon()).is_some());
        assert_eq!(belongings(), before);
    });
}

#[test]
fn figures_of_start_and_end() {
    alone(|| {
        let true_program = || Program { path: "/bin/true".into(), ..Program::default() };
        let (mut starts, mut lives, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..if wants_figures() { 200 } else { 5 } {
            let (tell, told) = channel();
            let begun = Instant::now();
            let on_exit = Box::new(move |_| tell.send(Instant::now()).unwrap());
            start(true_program(), null(), None, None, on_exit).unwrap();
            starts.push(begun.elapsed());
            lives.push(told.recv().unwrap() - begun);
            let (tell, told) = channel();
            let on_exit = Box::new(move |_| tell.send(Instant::now()).unwrap());
            let child = start(sleeper(), null(), None, None, on_exit).unwrap();
            thread::sleep(Duration::from_millis(2));
            let killed = Instant::now();
            child.kill();
            ends.push(told.recv().unwrap() - killed);
        }
        report("start of /bin/true until start() returns", starts);
        report("start of /bin/true until on_exit", lives);
        report("SIGKILL until on_exit, by pidfd", ends);
    });
}
