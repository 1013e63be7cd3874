//! Limits of a process and of the kernel: no descriptor, no memory, no process, no system
//! call, a flood of text, a storm of signals. Each in a process of its own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "tests"
)]
#![allow(unsafe_code, reason = "limits, filters and timers of processes of these tests' own")]

mod common;
worker_entry!();

use std::time::{Duration, Instant};

use common::*;
use slipring::{Config, ErrorKind, Kind, Spawner};

fn small() -> Spawner {
    spawner().config(tiny(4 << 10).max_in_flight(64).build().unwrap())
}

fn limit(resource: libc::__rlimit_resource_t, value: u64) {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `before` has room for what the call writes.
    assert_eq!(unsafe { libc::getrlimit(resource, &raw mut before) }, 0);
    let limit = libc::rlimit { rlim_cur: value, rlim_max: before.rlim_max };
    // SAFETY: a live limit that is only read; it concerns this process alone.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
}

fn assert_back_to(baseline: &Footprint, what: &str) {
    for _ in 0..1000 {
        if footprint() == *baseline {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(footprint(), *baseline, "{what}");
}

/// Runs the rest of the test in a process of its own; false in the process that only waits.
fn in_a_process_of_its_own(name: &str) -> bool {
    if is_rerun(name) {
        return true;
    }
    print!("{}", rerun(name));
    false
}

#[test]
fn a_descriptor_that_is_missing_at_any_step_is_an_error_and_nothing_is_left_behind() {
    let name = "a_descriptor_that_is_missing_at_any_step_is_an_error_and_nothing_is_left_behind";
    if !in_a_process_of_its_own(name) {
        return;
    }
    let dir = temp_dir("descriptors");
    let spawner = small().log_dir(&dir).pollable();
    spawner.spawn().unwrap().close(LONG).unwrap();
    let mut refused = 0;
    let mut spawned = false;
    for free in 0..24 {
        let baseline = footprint();
        limit(libc::RLIMIT_NOFILE, 128);
        let mut taken = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            taken.push(file);
        }
        taken.truncate(taken.len() - free);
        let result = spawner.spawn();
        limit(libc::RLIMIT_NOFILE, 1024);
        drop(taken);
        match result {
            Ok(channel) => {
                assert_usable(&channel);
                channel.close(LONG).unwrap();
                spawned = true;
            }
            Err(error) => {
                let kinds = [ErrorKind::Os, ErrorKind::Spawn, ErrorKind::Handshake];
                assert!(kinds.contains(&error.kind()), "{free}: {error:?}");
                assert!(!spawned, "{free}: it was enough before: {error}");
                refused += 1;
            }
        }
        assert_back_to(&baseline, &format!("{free} free descriptors"));
    }
    println!("{refused} steps without a descriptor");
    assert!(refused >= 5 && spawned, "{refused}");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn an_address_space_that_is_full_is_an_error_and_nothing_is_left_behind() {
    let name = "an_address_space_that_is_full_is_an_error_and_nothing_is_left_behind";
    if !in_a_process_of_its_own(name) {
        return;
    }
    let spawner = small();
    spawner.spawn().unwrap().close(LONG).unwrap();
    let baseline = footprint();
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().next().unwrap().parse().unwrap();
    let big = Config::builder().request_ring(64 << 20).reply_ring(64 << 20).build().unwrap();
    let big = spawner.config(big);
    for extra in [0, 1 << 20, 32 << 20, 80 << 20] {
        limit(libc::RLIMIT_AS, pages * 4096 + extra);
        let result = big.spawn().map(drop);
        limit(libc::RLIMIT_AS, libc::RLIM_INFINITY);
        let error = result.unwrap_err();
        let kinds = [ErrorKind::Os, ErrorKind::Spawn, ErrorKind::Handshake];
        assert!(kinds.contains(&error.kind()), "{extra}: {error:?}");
        assert_back_to(&baseline, "a full address space");
    }
    let channel = small().spawn().unwrap();
    assert_usable(&channel);
}

#[test]
fn a_limit_on_processes_is_an_error_and_nothing_is_left_behind() {
    let name = "a_limit_on_processes_is_an_error_and_nothing_is_left_behind";
    if !in_a_process_of_its_own(name) {
        return;
    }
    // SAFETY: a system call without pointers.
    if unsafe { libc::geteuid() } == 0 {
        // The limit does not bind root. Nobody else uses this id.
        // SAFETY: a system call without pointers; this process has no other thread that
        // depends on its identity.
        assert_eq!(unsafe { libc::setgid(64_999) }, 0);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::setuid(64_999) }, 0);
    }
    // Its executable may not be reachable for that user; then there is nothing to test.
    let spawner = small();
    let Ok(first) = spawner.spawn() else {
        println!("skipped: an unprivileged user cannot run this program");
        return;
    };
    first.close(LONG).unwrap();
    let baseline = footprint();
    limit(libc::RLIMIT_NPROC, 1);
    let error = spawner.spawn().map(drop).unwrap_err();
    limit(libc::RLIMIT_NPROC, 1000);
    assert!([ErrorKind::Spawn, ErrorKind::Handshake].contains(&error.kind()), "{error:?}");
    assert_back_to(&baseline, "a limit on processes");
    assert_usable(&spawner.spawn().unwrap());
}

#[test]
fn a_flood_of_text_never_blocks_a_worker_and_its_end_is_kept() {
    let dir = temp_dir("flood");
    let channel = small().log_dir(&dir).spawn().unwrap();
    // Twice the text for each call, on standard output and on standard error.
    let mib = match std::env::var("SLIPRING_FLOOD_MIB") {
        Ok(mib) => mib.parse::<usize>().unwrap(),
        Err(_) => {
            println!("100 MiB only; SLIPRING_FLOOD_MIB=1024 for all");
            100
        }
    };
    let text = "x".repeat(512 << 10);
    for _ in 0..mib {
        channel.call(PRINT, text.as_str(), LONG).unwrap();
    }
    channel.call(PRINT, "the very last line", LONG).unwrap();
    let written = std::fs::metadata(channel.log_path().unwrap()).unwrap().len();
    assert!(written >= (mib as u64) << 20, "{written} bytes");
    let error = channel.call(RAISE, &[libc::SIGKILL as u8], LONG).unwrap_err();
    let tail = error.death().unwrap().log_tail.as_deref().unwrap();
    assert!(tail.len() <= 4096 + 200 && tail.contains("err: the very last line"), "{tail}");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_signal_every_100_microseconds_changes_no_result_and_no_deadline() {
    let name = "a_signal_every_100_microseconds_changes_no_result_and_no_deadline";
    if !in_a_process_of_its_own(name) {
        return;
    }
    extern "C" fn nothing(_: i32) {}
    // SAFETY: a handler that does nothing.
    unsafe { libc::signal(libc::SIGALRM, nothing as *const () as libc::sighandler_t) };
    let every = libc::timeval { tv_sec: 0, tv_usec: 100 };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    let channel = small().spawn().unwrap();
    // SAFETY: a live timer that is only read.
    let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    let mut over = Vec::new();
    for i in 0..300_u64 {
        let bytes = pattern(i, 900);
        assert!(channel.call(ECHO, &bytes, LONG).unwrap().to_vec() == bytes);
        if i % 30 == 0 {
            channel.ping(LONG).unwrap();
            let start = Instant::now();
            let timeout = Duration::from_millis(20);
            let error = channel.call(SLOW_ECHO, &encode(&[40]), timeout).unwrap_err();
            assert!(error.is_timeout(), "{error}");
            assert!(start.elapsed() >= timeout, "a signal is no deadline");
            over.push(start.elapsed() - timeout);
        }
    }
    // Spawning, death and close in the storm as well.
    for _ in 0..10 {
        let channel = small().spawn().unwrap();
        assert_usable(&channel);
        let error = channel.call(RAISE, &[libc::SIGKILL as u8], LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PeerDied);
        small().spawn().unwrap().close(LONG).unwrap();
    }
    println!("at most {:?} over a deadline", over.iter().max().unwrap());
}

/// Makes these system calls fail as if the kernel did not know them, for this process and
/// all that it starts.
fn without(calls: &[i64]) {
    let statement =
        |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for call in calls {
        program.push(statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, *call as u32, 0, 1));
        let refuse = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        program.push(statement(libc::BPF_RET | libc::BPF_K, refuse, 0, 0));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes integers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // All threads: the harness has one more.
    let all = libc::SECCOMP_FILTER_FLAG_TSYNC;
    // SAFETY: a live program, which the kernel copies.
    let set = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, all, &raw const filter)
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

fn assert_all_works() {
    let channel = small().spawn().unwrap();
    channel.wait_ready(LONG).unwrap();
    for i in 0..200 {
        let bytes = pattern(i, 900);
        assert!(channel.call(ECHO, &bytes, LONG).unwrap().to_vec() == bytes);
    }
    let chunks = channel.stream(COUNT, &encode(&[300, 100]), LONG).unwrap();
    assert_eq!(chunks.map(Result::unwrap).count(), 300);
    channel.ping(LONG).unwrap();
    let timeout = Duration::from_millis(30);
    assert!(channel.call(SLOW_ECHO, &encode(&[100]), timeout).unwrap_err().is_timeout());
    assert_usable(&channel);
    // A close wakes who waits.
    std::thread::scope(|scope| {
        let waiting = channel.submit(FOR_EVER, b"", Duration::MAX).unwrap();
        let waiter = scope.spawn(|| waiting.wait().unwrap_err().kind());
        std::thread::sleep(Duration::from_millis(20));
        within_long("close", || channel.close(Duration::from_millis(100))).unwrap();
        assert_eq!(waiter.join().unwrap(), ErrorKind::Closed);
    });
    let channel = small().spawn().unwrap();
    let error = channel.call(RAISE, &[libc::SIGKILL as u8], LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerDied);
    let idle = small().spawn().unwrap();
    idle.wait_ready(LONG).unwrap();
    send_signal(idle.pid(), libc::SIGKILL);
    eventually("it is noticed", || !idle.is_alive());
    eventually("it is reaped", || !is_in_the_table(idle.pid()));
    drop(channel);
    let error = small().mode("fail").spawn().unwrap().call(Kind::app(1), b"", LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Worker);
}

#[test]
fn without_futex_waitv_all_works() {
    if in_a_process_of_its_own("without_futex_waitv_all_works") {
        without(&[libc::SYS_futex_waitv]);
        assert_all_works();
    }
}

#[test]
fn without_pidfds_all_works() {
    if in_a_process_of_its_own("without_pidfds_all_works") {
        without(&[libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal]);
        assert_all_works();
    }
}

#[test]
fn without_robust_lists_all_works() {
    if in_a_process_of_its_own("without_robust_lists_all_works") {
        without(&[libc::SYS_get_robust_list, libc::SYS_set_robust_list]);
        assert_all_works();
    }
}

#[test]
fn without_all_that_is_new_all_works() {
    if in_a_process_of_its_own("without_all_that_is_new_all_works") {
        let calls = [libc::SYS_futex_waitv, libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal];
        without(&[&calls[..], &[libc::SYS_membarrier, libc::SYS_close_range]].concat());
        assert_all_works();
    }
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
            // Named channels sleep in events that only know the wall clock, in slices that
            // are bounded by a monotonic deadline; and they date what is left over.
            if ["shm/slices.rs", "named/stale.rs"].iter().any(|named| entry.path().ends_with(named))
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
