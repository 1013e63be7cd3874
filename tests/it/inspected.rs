//! Channels whose memory other processes may look at: the descriptors of it that the host keeps.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use slipring::Channel;
use slipring::inspect::{self, ChannelMemory, Inspection, Options, Verdict};
use slipring::pool::{Pool, Role};

use crate::common::*;

/// The descriptors of this process that lead to regions of channels that may be looked at, by the names
/// of the files.
fn kept() -> Vec<(String, PathBuf)> {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten().map(|entry| entry.path());
    let named = links.filter_map(|path| {
        let target = std::fs::read_link(&path).ok()?.to_string_lossy().into_owned();
        let name = target.strip_prefix("/memfd:slipring-")?.strip_suffix(" (deleted)")?;
        name.contains('.').then(|| (name.to_owned(), path))
    });
    let mut found: Vec<_> = named.collect();
    found.sort();
    found
}

fn inspectable() -> Channel {
    small().inspectable(true).spawn().unwrap()
}

/// Maps a file; whether that worked.
fn map(file: &File, access: i32) -> Option<*mut libc::c_void> {
    let (len, fd) = (4096, file.as_raw_fd());
    // SAFETY: a new map, of which nothing is read or written.
    #[allow(unsafe_code, reason = "to try")]
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, fd, 0) };
    (start != libc::MAP_FAILED).then_some(start)
}

/// Tries to make a map writable, and to change a file by other means than writes; what the calls return.
#[allow(unsafe_code, reason = "to try")]
fn change(file: &File, start: *mut libc::c_void) -> [i32; 4] {
    let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the map of a page, of which nothing is read or written.
    let protected = unsafe { libc::mprotect(start, 4096, libc::PROT_READ | libc::PROT_WRITE) };
    // SAFETY: as above.
    let removed = unsafe { libc::madvise(start, 4096, libc::MADV_REMOVE) };
    // SAFETY: a system call on a descriptor that is open.
    let punched = unsafe { libc::fallocate(file.as_raw_fd(), hole, 0, 4096) };
    // SAFETY: as above.
    let sealed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) };
    [protected, removed, punched, sealed]
}

#[test]
fn what_is_kept_can_be_read_and_not_written_by_any_means() {
    if !in_a_process_of_its_own(name_of(what_is_kept_can_be_read_and_not_written_by_any_means)) {
        return;
    }
    let channel = inspectable();
    assert_usable(&channel);
    let kept = kept();
    let [down, up] = &kept[..] else { panic!("{kept:?}") };
    assert!(down.0.starts_with("down.") && up.0.starts_with("up."), "{kept:?}");
    assert_eq!(down.0["down.".len()..], up.0["up.".len()..], "the same id");
    for (name, path) in [down, up] {
        let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let written = file.write(b"x").unwrap_err();
        assert_eq!(written.raw_os_error(), Some(libc::EPERM), "{name}");
        assert!(file.set_len(0).is_err() && file.set_len(1 << 30).is_err(), "{name}");
        assert_eq!(map(&file, libc::PROT_READ | libc::PROT_WRITE), None, "{name}");
        assert_eq!(map(&file, libc::PROT_WRITE), None, "{name}");
        let start = map(&file, libc::PROT_READ).unwrap();
        assert_eq!(change(&file, start), [-1; 4], "{name}");
        let mut magic = [0; 8];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut magic, 0).unwrap();
        assert_eq!(&magic, b"SLIPRING", "{name}");
    }
    assert_usable(&channel);
    drop(channel);
    eventually("they are closed", || self::kept().is_empty());
}

#[test]
fn a_look_makes_no_page_of_the_memory() {
    if !in_a_process_of_its_own(name_of(a_look_makes_no_page_of_the_memory)) {
        return;
    }
    let channel = spawner().inspectable(true).spawn().unwrap();
    assert_usable(&channel);
    let blocks = || kept().iter().map(|(_, path)| path.metadata().unwrap().blocks()).sum::<u64>();
    let before = blocks();
    assert_eq!(found().channels.len(), 1);
    assert_eq!(blocks(), before);
}

#[test]
fn a_host_that_was_not_asked_keeps_no_descriptor() {
    if !in_a_process_of_its_own(name_of(a_host_that_was_not_asked_keeps_no_descriptor)) {
        return;
    }
    let channel = spawn(slipring::Config::small());
    assert_usable(&channel);
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = fds.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let of_regions = targets.filter(|target| {
        let name = target.to_string_lossy();
        name.contains("slipring-down") || name.contains("slipring-up")
    });
    assert_eq!(of_regions.count(), 0);
}

#[test]
fn the_environment_asks_for_all_and_a_spawner_can_decline() {
    const NAME: &str = "SLIPRING_INSPECT";
    let name = name_of(the_environment_asks_for_all_and_a_spawner_can_decline);
    if std::env::var_os(NAME).is_none() {
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let ended = alone.args(only(name)).env(NAME, "1").output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        return;
    }
    let (one, other) = (small().spawn().unwrap(), small().inspectable(false).spawn().unwrap());
    assert_usable(&one);
    assert_usable(&other);
    assert_eq!(kept().len(), 2);
}

#[test]
fn all_goes_on_as_before_in_a_channel_that_may_be_looked_at() {
    let channel = inspectable();
    // Around both rings, with messages in pieces, streams, and replies that leave the ring.
    let mut replies = Vec::new();
    for seed in 0..300 {
        let bytes = pattern(seed, 9000);
        let reply = channel.call(ECHO, &bytes, LONG).unwrap().keep();
        assert_eq!(reply.to_vec(), bytes);
        replies.push((bytes, reply));
    }
    assert!(replies.iter().all(|(bytes, reply)| reply.to_vec() == *bytes));
    let long = pattern(7, 500_000);
    assert_eq!(channel.call(ECHO, &long, LONG).unwrap().to_vec(), long);
    channel.ping(LONG).unwrap();
    close(&channel, LONG);
}

#[test]
fn a_replaced_worker_has_descriptors_of_its_own() {
    if !in_a_process_of_its_own(name_of(a_replaced_worker_has_descriptors_of_its_own)) {
        return;
    }
    let role = Role::new(|_| Ok(small().inspectable(true))).min_idle(1).max_size(1);
    let pool = Pool::builder().role("seen", role).build().unwrap();
    let handle = pool.role("seen").unwrap();
    handle.call(ECHO, "x", LONG).unwrap();
    let before = kept();
    assert_eq!(before.len(), 2);
    handle.call(EXIT, &[7], LONG).unwrap_err();
    handle.call(ECHO, "x", LONG).unwrap();
    let is_new = |name: &str| before.iter().all(|(old, _)| old != name);
    eventually("those of the dead worker are closed", || {
        let now = kept();
        now.len() == 2 && now.iter().all(|(name, _)| is_new(name))
    });
    pool.close(LONG).unwrap();
}

#[test]
fn a_raw_link_may_be_looked_at_too() {
    if !in_a_process_of_its_own(name_of(a_raw_link_may_be_looked_at_too)) {
        return;
    }
    let spawner = spawner_of(super::forked::raw_worker).config(slipring::Config::small());
    let link = spawner.inspectable(true).spawn_raw().unwrap();
    assert_eq!(kept().len(), 2);
    drop(link);
    eventually("they are closed", || kept().is_empty());
}

#[test]
fn a_child_that_is_forked_cannot_write_what_it_inherits() {
    if !in_a_process_of_its_own(name_of(a_child_that_is_forked_cannot_write_what_it_inherits)) {
        return;
    }
    let channel = inspectable();
    in_fork(|| {
        let kept = kept();
        let can_write = |path: &PathBuf| {
            let file = OpenOptions::new().read(true).write(true).open(path);
            file.is_ok_and(|mut file| {
                file.write(b"x").is_ok() || map(&file, libc::PROT_WRITE).is_some()
            })
        };
        kept.len() == 2 && !kept.iter().any(|(_, path)| can_write(path))
    });
    assert_usable(&channel);
}

/// What is found of this process.
fn found() -> Inspection {
    let mut options = Options::default();
    options.payload_bytes = 4;
    inspect::process(std::process::id(), &options).unwrap()
}

/// The checks that were not passed.
fn not_ok(memory: &ChannelMemory) -> Vec<String> {
    let failed = memory.checks.iter().filter(|check| check.verdict != Verdict::Ok);
    failed.map(|check| format!("{}: {:?}: {}", check.name, check.verdict, check.why)).collect()
}

#[test]
fn a_worker_that_has_crashed_can_still_be_looked_into() {
    if !in_a_process_of_its_own(name_of(a_worker_that_has_crashed_can_still_be_looked_into)) {
        return;
    }
    let (channel, pending) = stuck(&small().inspectable(true));
    let waiting = channel.submit(ECHO, b"\x01\x02\x03\x04\x05", Duration::MAX).unwrap();
    let [memory] = &found().channels[..] else { panic!("one channel") };
    assert_eq!(not_ok(memory), [""; 0]);
    assert_eq!(memory.layout.as_ref().unwrap().worker_pid, channel.pid());
    let worker = memory.worker.as_ref().unwrap();
    let [mark] = &worker.marks[..] else { panic!("{worker:?}") };
    assert_eq!((mark.request, mark.stage), (pending.id().get(), "begun"));
    assert!(!worker.has_ended && worker.health_thread != 0);

    let pid = i32::try_from(channel.pid()).unwrap();
    #[allow(unsafe_code, reason = "std kills only its own children")]
    // SAFETY: a system call without pointers.
    let sent = unsafe { libc::kill(pid, libc::SIGKILL) };
    assert_eq!(sent, 0);
    pending.wait().unwrap_err();
    let [memory] = &found().channels[..] else { panic!("one channel") };
    assert_eq!(not_ok(memory), [""; 0]);
    assert!(memory.worker.as_ref().unwrap().has_ended);
    let requests = &memory.rings[0];
    let left = requests.frames.last().unwrap();
    assert_eq!((left.request, left.len, left.stage), (waiting.id().get(), 5, Some("waiting")));
    assert_eq!((left.payload.as_str(), left.position), ("01020304", requests.end - 64));
}

#[test]
fn nothing_looks_wrong_while_both_sides_are_busy() {
    if !in_a_process_of_its_own(name_of(nothing_looks_wrong_while_both_sides_are_busy)) {
        return;
    }
    let channel = in_4_kib().inspectable(true).spawn().unwrap();
    let link = spawner_of(super::forked::raw_worker).config(slipring::Config::small());
    let (mut sender, mut receiver) = link.inspectable(true).spawn_raw().unwrap().split();
    let is_over = AtomicBool::new(false);
    let goes_on = || !is_over.load(Ordering::Relaxed);
    let short = Duration::from_millis(20);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while goes_on() {
                (0..50).for_each(|_| assert_usable(&channel));
                let chunks = channel.stream(COUNT_ALL, &encode(&[20, 1, 700, 1500]), LONG).unwrap();
                assert_eq!(chunks.filter(|chunk| chunk.is_ok()).count(), 20);
                channel.ping(LONG).unwrap();
            }
        });
        scope.spawn(|| {
            while goes_on() {
                let _ = receiver.recv(short);
            }
        });
        scope.spawn(|| {
            for len in (0..16_000).step_by(333).cycle().take_while(|_| goes_on()) {
                if let Ok(claim) = sender.claim(len, short) {
                    claim.commit(slipring::ring::Header::default());
                }
            }
        });
        for _ in 0..300 {
            let found = found();
            assert_eq!(found.channels.len(), 2);
            let checks = found.channels.iter().flat_map(|memory| &memory.checks);
            let wrong: Vec<_> = checks.filter(|check| check.verdict == Verdict::Wrong).collect();
            assert!(wrong.is_empty(), "{wrong:?}");
            assert!(found.channels.iter().all(|memory| memory.rings.len() == 4));
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn files_that_only_have_the_name_of_a_region_are_refused() {
    let program = "import os, sys, fcntl\n\
        def make(name, length, seals):\n\
        \x20   fd = os.memfd_create(name, os.MFD_ALLOW_SEALING)\n\
        \x20   os.write(fd, bytes(range(256)) * (length // 256))\n\
        \x20   fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)\n\
        make('slipring-down.00000000000000aa', 8192, 6)\n\
        make('slipring-up.00000000000000aa', 8192, 0x17)\n\
        make('slipring-down.00000000000000bb', 8192, 0x17)\n\
        make('slipring-up.00000000000000bb', 0, 0x17)\n\
        make('slipring-up.00000000000000cc', 8192, 0x17)\n\
        print('ready', flush=True)\n\
        sys.stdin.read()";
    let mut child = std::process::Command::new("python3");
    let child = child.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut ready = [0; 5];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let found = inspect::process(child.id(), &Options::default()).unwrap();
    assert!(found.host.is_none() && !found.has_ended);
    let refused: Vec<_> = found.refused.iter().map(|each| each.what.as_str()).collect();
    assert_eq!(refused, ["slipring-down.00000000000000aa", "slipring-down.00000000000000cc"]);
    assert!(found.refused[0].why.contains("seals 0x6"), "{:?}", found.refused);
    assert!(found.refused[1].why.contains("there is no such file"), "{:?}", found.refused);
    let [memory] = &found.channels[..] else { panic!("{found:?}") };
    assert_eq!((memory.id, memory.layout.is_none(), memory.rings.len()), (0xBB, true, 0));
    assert!(memory.checks[0].why.contains("magic"), "{memory:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    let gone = inspect::process(child.id(), &Options::default()).unwrap_err();
    assert!(gone.to_string().contains("there is no process"), "{gone}");
}
