//! Kernels and sandboxes that lack some system calls, and clocks that no wait may use. Each test
//! runs in a process of its own, under a filter.
#![allow(unsafe_code, reason = "filters of system calls")]

use std::process::Stdio;
use std::time::Duration;

use crate::common::*;
use slipring::status_page::{self, Numbers};
use slipring::{Config, ErrorKind, Kind};

/// A condition on the low 32 bits of an argument of a system call.
#[derive(Clone, Copy)]
enum Argument {
    HasBits(u32, u32),
    IsOver(u32, u32),
    Equals(u32, u32),
}

/// Makes system calls with these arguments have this result from now on, in this process and in all
/// that it starts.
fn filter(rules: &[(i64, &[Argument])], result: u32) {
    filter_or(rules, result, libc::SECCOMP_RET_ALLOW);
}

/// As [`filter`]; all other calls have the result `otherwise`.
fn filter_or(rules: &[(i64, &[Argument])], result: u32, otherwise: u32) {
    let statement =
        |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |at: u32| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0);
    let test = |code: u32, k: u32, miss: usize| {
        statement(libc::BPF_JMP | code | libc::BPF_K, k, 0, miss as u8)
    };
    let mut program = Vec::new();
    for (call, arguments) in rules {
        // The number of instructions to skip if a condition does not hold.
        let mut rest = 2 * arguments.len() + 1;
        program.extend([load(0), test(libc::BPF_JEQ, *call as u32, rest)]);
        for argument in *arguments {
            rest -= 2;
            let (which, code, value) = match *argument {
                Argument::HasBits(which, bits) => (which, libc::BPF_JSET, bits),
                Argument::IsOver(which, value) => (which, libc::BPF_JGT, value),
                Argument::Equals(which, value) => (which, libc::BPF_JEQ, value),
            };
            program.extend([load(16 + 8 * which), test(code, value, rest)]);
        }
        program.push(statement(libc::BPF_RET | libc::BPF_K, result, 0, 0));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, otherwise, 0, 0));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes integers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // The filter holds for all threads, as the harness has one more.
    let all = libc::SECCOMP_FILTER_FLAG_TSYNC;
    // SAFETY: a live program, which the kernel copies.
    let set = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, all, &raw const filter)
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// Makes these system calls fail as if the kernel did not know them.
fn without(calls: &[i64]) {
    let rules: Vec<_> = calls.iter().map(|call| (*call, &[][..])).collect();
    filter(&rules, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
}

fn assert_all_works() {
    let channel = in_4_kib().spawn().unwrap();
    channel.wait_ready(LONG).unwrap();
    for i in 0..200 {
        let bytes = pattern(i, 900);
        assert!(channel.call(ECHO, &bytes, LONG).unwrap().to_vec() == bytes);
    }
    let chunks = channel.stream(COUNT, &encode(&[300, 100]), LONG).unwrap();
    assert_eq!(chunks.map(Result::unwrap).count(), 300);
    channel.ping(LONG).unwrap();
    let timeout = Duration::from_millis(30);
    assert!(channel.call(UNTIL_CANCELLED, b"", timeout).unwrap_err().is_timeout());
    assert_usable(&channel);
    // A close wakes a waiting call.
    std::thread::scope(|scope| {
        let waiting = channel.submit(FOR_EVER, b"", Duration::MAX).unwrap();
        let waiter = scope.spawn(|| waiting.wait().unwrap_err().kind());
        std::thread::sleep(Duration::from_millis(20));
        within_long("close", || channel.close(Duration::from_millis(100))).unwrap();
        assert_eq!(waiter.join().unwrap(), ErrorKind::Closed);
    });
    let channel = in_4_kib().spawn().unwrap();
    let error = channel.call(RAISE, &[libc::SIGKILL as u8], LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerDied);
    let idle = in_4_kib().spawn().unwrap();
    idle.wait_ready(LONG).unwrap();
    send_signal(idle.pid(), libc::SIGKILL);
    eventually("it is noticed", || !idle.is_alive());
    eventually("it is reaped", || !is_in_the_table(idle.pid()));
    drop(channel);
    let error = in_4_kib().mode("fail").spawn().unwrap().call(Kind::app(1), b"", LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Session);
}

#[test]
fn without_futex_waitv_all_works() {
    if in_a_process_of_its_own(name_of(without_futex_waitv_all_works)) {
        without(&[libc::SYS_futex_waitv]);
        assert_all_works();
    }
}

#[test]
fn without_pidfds_all_works() {
    if in_a_process_of_its_own(name_of(without_pidfds_all_works)) {
        without(&[libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal]);
        assert_all_works();
    }
}

#[test]
fn without_robust_lists_all_works() {
    if in_a_process_of_its_own(name_of(without_robust_lists_all_works)) {
        without(&[libc::SYS_get_robust_list, libc::SYS_set_robust_list]);
        assert_all_works();
    }
}

#[test]
fn without_all_that_is_new_all_works() {
    if in_a_process_of_its_own(name_of(without_all_that_is_new_all_works)) {
        let calls = [libc::SYS_futex_waitv, libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal];
        without(&[&calls[..], &[libc::SYS_membarrier, libc::SYS_close_range]].concat());
        assert_all_works();
    }
}

/// Kills this process if it waits until a time of the wall clock.
fn kill_what_waits_for_the_wall_clock() {
    let realtime = libc::CLOCK_REALTIME as u32;
    let flag = libc::FUTEX_CLOCK_REALTIME as u32;
    filter(
        &[
            // Waits without a timeout name a clock as well.
            (libc::SYS_futex, &[Argument::HasBits(1, flag), Argument::IsOver(3, 0)]),
            (libc::SYS_futex_waitv, &[Argument::IsOver(3, 0), Argument::Equals(4, realtime)]),
            // Relative sleeps are allowed, as steps of the clock do not change them.
            (
                libc::SYS_clock_nanosleep,
                &[Argument::Equals(0, realtime), Argument::HasBits(1, libc::TIMER_ABSTIME as u32)],
            ),
            (libc::SYS_timerfd_create, &[Argument::Equals(0, realtime)]),
        ],
        libc::SECCOMP_RET_KILL_PROCESS,
    );
}

#[test]
fn nothing_waits_for_the_wall_clock() {
    if in_a_process_of_its_own(name_of(nothing_waits_for_the_wall_clock)) {
        kill_what_waits_for_the_wall_clock();
        assert_all_works();
    }
}

#[test]
fn nothing_waits_for_the_wall_clock_without_futex_waitv_either() {
    if in_a_process_of_its_own(name_of(nothing_waits_for_the_wall_clock_without_futex_waitv_either))
    {
        without(&[libc::SYS_futex_waitv, libc::SYS_pidfd_open]);
        kill_what_waits_for_the_wall_clock();
        assert_all_works();
    }
}

#[test]
fn a_thread_that_waits_for_the_wall_clock_is_killed() {
    let name = name_of(a_thread_that_waits_for_the_wall_clock_is_killed);
    if !is_rerun(name) {
        use std::os::unix::process::ExitStatusExt;
        let status = rerun_command(name).output().unwrap().status;
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{status}");
        return;
    }
    kill_what_waits_for_the_wall_clock();
    let until = libc::timespec { tv_sec: 1, tv_nsec: 0 };
    let (word, operation) = (0_u32, libc::FUTEX_WAIT_BITSET | libc::FUTEX_CLOCK_REALTIME);
    // SAFETY: a live word and a live time; it has long passed.
    unsafe {
        libc::syscall(libc::SYS_futex, &raw const word, operation, 0, &raw const until, 0, !0_u32)
    };
}

#[test]
fn no_deadline_is_read_from_the_wall_clock() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut directories = vec![root];
    let mut files = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            if entry.path().is_dir() {
                directories.push(entry.path());
                continue;
            }
            files += 1;
            // The events of named channels only know the wall clock. They sleep in slices that a
            // monotonic deadline bounds. The others write down at what time of day something was.
            if ["named/slices.rs", "named/stale.rs", "channel/start.rs"]
                .into_iter()
                .chain(["channel/crash_contents.rs", "channel/crash_report.rs"])
                .chain(["crash_report/file.rs", "crash_report/mod.rs", "crash_report/queue.rs"])
                .chain(["recording/files.rs", "recording/info.rs", "sys/utc.rs"])
                .any(|named| entry.path().ends_with(named))
            {
                continue;
            }
            let text = std::fs::read_to_string(entry.path()).unwrap();
            for word in ["SystemTime", "CLOCK_REALTIME", "FUTEX_CLOCK_REALTIME", "gettimeofday"] {
                assert!(!text.contains(word), "{}: {word}", entry.path().display());
            }
        }
    }
    assert!(files > 30);
}

#[test]
fn the_thread_of_the_status_page_makes_no_call_but_to_sleep() {
    let name = name_of(the_thread_of_the_status_page_makes_no_call_but_to_sleep);
    let calls_of = |pid| {
        let host = status_page::host(pid).unwrap()?;
        host.rows.iter().find_map(|row| match row.numbers {
            Numbers::Channel(numbers) => Some(numbers.completed),
            _ => None,
        })
    };
    if !is_rerun(name) {
        let mut host = rerun_command(name);
        let mut host =
            host.env_remove("SLIPRING_STATUS_PAGE").stdout(Stdio::null()).spawn().unwrap();
        let mut last = 100;
        // Each of them is shown by another round.
        for _ in 0..3 {
            eventually("more calls are on the page", || {
                assert_eq!(host.try_wait().unwrap(), None);
                calls_of(host.id()).is_some_and(|calls| calls > last)
            });
            last = calls_of(host.id()).unwrap();
        }
        host.kill().unwrap();
        host.wait().unwrap();
        return;
    }
    let channel = spawn(Config::small());
    assert_usable(&channel);
    eventually("the channel is on the page", || calls_of(std::process::id()).is_some());
    // What calls need, in the first lap of a ring, too, and this thread to sleep.
    let rules: [(i64, &[Argument]); 5] = [
        (libc::SYS_futex, &[]),
        (libc::SYS_futex_waitv, &[]),
        (libc::SYS_madvise, &[]),
        (libc::SYS_clock_nanosleep, &[]),
        (libc::SYS_restart_syscall, &[]),
    ];
    filter_or(&rules, libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_KILL_PROCESS);
    loop {
        channel.call(ECHO, "x", LONG).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
}
