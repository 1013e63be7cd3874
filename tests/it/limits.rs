//! Limits of a process: no descriptor, no memory, no thread, a flood of text, a storm of signals.
//! Each test runs in a process of its own.
#![allow(unsafe_code, reason = "limits, filters and timers of processes of these tests' own")]

use std::time::{Duration, Instant};

use crate::common::*;
use slipring::{Config, ErrorKind, status_page};

fn limit(resource: libc::__rlimit_resource_t, value: u64) {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `before` has room for what the call writes.
    assert_eq!(unsafe { libc::getrlimit(resource, &raw mut before) }, 0);
    let limit = libc::rlimit { rlim_cur: value, rlim_max: before.rlim_max };
    // SAFETY: a live limit that is only read; it concerns this process alone.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
}

/// Returns the footprint once it no longer changes: threads that complete a log, or that could not
/// start, end soon.
pub(crate) fn settled_footprint() -> Footprint {
    let (mut before, mut now) = (None, footprint());
    while before.as_ref() != Some(&now) {
        std::thread::sleep(Duration::from_millis(20));
        before = Some(std::mem::replace(&mut now, footprint()));
    }
    now
}

#[test]
fn a_missing_descriptor_at_any_step_is_an_error_and_nothing_is_left() {
    let name = name_of(a_missing_descriptor_at_any_step_is_an_error_and_nothing_is_left);
    if !in_a_process_of_its_own(name) {
        return;
    }
    let dir = temp_dir("descriptors");
    let spawner = in_4_kib().log_dir(&dir).pollable();
    spawner.spawn().unwrap().close(LONG).unwrap();
    let mut refused = 0;
    let mut spawned = false;
    for free in 0..24 {
        let baseline = settled_footprint();
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
        baseline.assert_restored(&format!("{free} free descriptors"));
    }
    println!("{refused} steps without a descriptor");
    assert!(refused >= 5 && spawned, "{refused}");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn an_address_space_that_is_full_is_an_error_and_nothing_is_left_behind() {
    let name = name_of(an_address_space_that_is_full_is_an_error_and_nothing_is_left_behind);
    if !in_a_process_of_its_own(name) {
        return;
    }
    let spawner = in_4_kib();
    spawner.spawn().unwrap().close(LONG).unwrap();
    let baseline = settled_footprint();
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
        baseline.assert_restored("a full address space");
    }
    let channel = in_4_kib().spawn().unwrap();
    assert_usable(&channel);
}

#[test]
fn a_channel_starts_without_addresses_for_a_second_map_of_its_replies() {
    let name = name_of(a_channel_starts_without_addresses_for_a_second_map_of_its_replies);
    if !in_a_process_of_its_own(name) {
        return;
    }
    in_4_kib().spawn().unwrap().close(LONG).unwrap();
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().next().unwrap().parse().unwrap();
    let big = tiny(1 << 20).reply_ring(512 << 20).build().unwrap();
    // Enough for one map of the replies.
    limit(libc::RLIMIT_AS, pages * 4096 + (900 << 20));
    let channel = in_4_kib().config(big).spawn().unwrap();
    let kept = channel.call(ECHO, &[7; 1000], LONG).unwrap().keep();
    assert_eq!(kept.to_vec(), [7; 1000]);
}

/// Whether all threads but this one sleep: each has begun, and has the memory for that.
fn other_threads_sleep() -> bool {
    // SAFETY: a system call without pointers.
    let own = unsafe { libc::gettid() }.to_string();
    let threads = std::fs::read_dir("/proc/self/task").unwrap().map(Result::unwrap);
    let mut others = threads.filter(|thread| *thread.file_name() != *own);
    others.all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
    })
}

#[test]
fn a_kept_reply_leaves_the_ring_once_there_is_memory_for_it() {
    let name = name_of(a_kept_reply_leaves_the_ring_once_there_is_memory_for_it);
    if !in_a_process_of_its_own(name) {
        return;
    }
    let config = tiny(64 << 10).max_reply_frame(8 << 10).build().unwrap();
    let channel = in_4_kib().config(config).spawn().unwrap();
    let call = |timeout| channel.call(ECHO, &[8; 2000], timeout).map(drop);
    call(LONG).unwrap();
    let kept = channel.call(ECHO, &[7; 2000], LONG).unwrap().keep();
    let address = kept.payload().as_ptr();
    // The thread of the status page has the memory that it needs once it has written the channel's row.
    let rows = || status_page::host(std::process::id()).unwrap().map_or(0, |host| host.rows.len());
    eventually("the channel is on the page", || rows() == 1);
    eventually("the library's threads have begun", other_threads_sleep);
    // Pages cannot be made writable with it, and it binds nothing else that is done here.
    limit(libc::RLIMIT_DATA, 4096);
    let full = (0..100).find_map(|_| call(Duration::from_secs(1)).err());
    assert!(full.unwrap().is_timeout(), "the reply holds the ring");
    limit(libc::RLIMIT_DATA, libc::RLIM_INFINITY);
    for _ in 0..100 {
        call(LONG).unwrap();
    }
    assert_eq!((kept.to_vec(), kept.payload().as_ptr()), (vec![7; 2000], address));
}

#[test]
fn a_thread_or_process_that_cannot_start_is_an_error_and_nothing_is_left() {
    let name = name_of(a_thread_or_process_that_cannot_start_is_an_error_and_nothing_is_left);
    if !in_a_process_of_its_own(name) {
        return;
    }
    // SAFETY: a system call without pointers.
    if unsafe { libc::geteuid() } == 0 {
        // The limit does not bind root. No other process uses this id.
        // SAFETY: a system call without pointers; this process has no other thread that
        // depends on its identity.
        assert_eq!(unsafe { libc::setgid(64_999) }, 0);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::setuid(64_999) }, 0);
        // That user may be unable to read the executable. Then there is nothing to test.
        if std::fs::File::open(std::env::current_exe().unwrap()).is_err() {
            println!("skipped: an unprivileged user cannot run this program");
            return;
        }
    }
    let spawner = in_4_kib();
    let mut before = footprint();
    let mut refusals = std::collections::BTreeSet::new();
    // None of the library's three threads runs yet, nor the worker with its threads. Each is the
    // first that cannot start, at some limit.
    let limits = (1_u64..40).map(|most| {
        limit(libc::RLIMIT_NPROC, most);
        let result = spawner.spawn().and_then(|channel| {
            let ready = channel.wait_ready(LONG);
            ready.map(|_| channel)
        });
        limit(libc::RLIMIT_NPROC, 1000);
        match result {
            Ok(channel) => {
                assert_usable(&channel);
                channel.close(LONG).unwrap();
                true
            }
            Err(error) => {
                let kinds = [ErrorKind::Os, ErrorKind::Spawn, ErrorKind::Handshake];
                assert!(kinds.contains(&error.kind()), "{most}: {error:?}");
                let text = error.to_string();
                refusals.insert(text.split(':').next().unwrap_or_default().to_owned());
                // Once the supervisor and the starter run they stay, with an event.
                if settled_footprint().threads > before.threads {
                    before.threads += 2;
                    before.fds.push("anon_inode".to_owned());
                    before.fds.sort();
                }
                before.assert_restored(&format!("a limit of {most}: {text}"));
                false
            }
        }
    });
    let works: Vec<bool> = limits.collect();
    println!("{refusals:#?}");
    assert!(!works[0] && works[38] && works.is_sorted(), "{works:?}");
    assert!(refusals.len() >= 3, "a thread of this library, the worker, a thread of its own");
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_not_the_end_of_the_host() {
    let name = name_of(a_limit_on_the_size_of_files_is_an_error_and_not_the_end_of_the_host);
    if !in_a_process_of_its_own(name) {
        return;
    }
    let spawner = in_4_kib();
    spawner.spawn().unwrap().close(LONG).unwrap();
    let baseline = settled_footprint();
    limit(libc::RLIMIT_FSIZE, 1 << 20);
    let big = spawner.clone().config(Config::default());
    let error = big.spawn().map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Os, "{error}");
    assert!(error.to_string().contains("may have 1048576"), "{error}");
    baseline.assert_restored("a limit on the size of files");
    assert_usable(&spawner.spawn().unwrap());
}

#[test]
fn a_flood_of_text_never_blocks_a_worker_and_its_end_is_kept() {
    let dir = temp_dir("flood");
    let channel = in_4_kib().log_dir(&dir).spawn().unwrap();
    // Each call writes the text twice, on standard output and on standard error.
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
    let tail = error.death().unwrap().log_tail().unwrap();
    assert!(tail.len() <= 4096 + 200 && tail.contains("err: the very last line"), "{tail}");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_storm_of_signals_changes_no_result_and_ends_no_wait_early() {
    let name = name_of(a_storm_of_signals_changes_no_result_and_ends_no_wait_early);
    if !in_a_process_of_its_own(name) {
        return;
    }
    let channel = in_4_kib().spawn().unwrap();
    signal_every_100_microseconds();
    for i in 0..300_u64 {
        let bytes = pattern(i, 900);
        assert!(channel.call(ECHO, &bytes, LONG).unwrap().to_vec() == bytes);
        if i % 30 == 0 {
            channel.ping(LONG).unwrap();
            let start = Instant::now();
            let timeout = Duration::from_millis(20);
            let error = channel.call(UNTIL_CANCELLED, b"", timeout).unwrap_err();
            assert!(error.is_timeout(), "{error}");
            assert!(start.elapsed() >= timeout, "a signal is no deadline");
        }
    }
    // The same holds for spawns, deaths and closes.
    for _ in 0..10 {
        let channel = in_4_kib().spawn().unwrap();
        assert_usable(&channel);
        let error = channel.call(RAISE, &[libc::SIGKILL as u8], LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PeerDied);
        in_4_kib().spawn().unwrap().close(LONG).unwrap();
    }
}
