//! Long requests that handlers read piece by piece, whole and half, over all kinds of channels.

use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use crate::common::*;
use crate::pools::{close, is_empty, pool_of, role};
use slipring::pool::{Pool, Role, RoleHandle};
use slipring::{Channel, Config, Error, ErrorKind, Kind, StreamTimeouts};

conformance! {
    everywhere: [],
    one_at_a_time: [
        a_request_of_any_length_is_read_in_every_way,
        a_request_of_many_mebibytes_is_read_in_every_way,
        the_rest_of_a_request_is_skipped_when_its_handler_returns,
        long_and_short_requests_of_several_threads_keep_apart,
        a_writer_that_is_dropped_in_the_middle_leaves_the_worker_usable,
    ],
    processes: [],
}

/// The variable that names the file for the worker's id.
const NOTE: &str = "SLIPRING_TEST_NOTE";

/// Bytes that begin with their own length, if there is room for that.
fn request(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = pattern(seed, len);
    let place = bytes.len().min(8);
    bytes[..place].copy_from_slice(&encode(&[len as u64])[..place]);
    bytes
}

fn assert_read(channel: &Channel, kind: Kind, bytes: &[u8]) {
    let reply = channel.call(kind, bytes, LONG).unwrap().to_vec();
    assert_eq!(numbers(&reply), numbers(&fingerprint(bytes)), "{kind}, {} bytes", bytes.len());
}

fn a_request_of_any_length_is_read_in_every_way(backend: Backend) {
    for config in [tiny(4 << 10).build().unwrap(), Config::small(), Config::default()] {
        let channel = backend.spawn(config);
        let frame = channel.config().max_request_frame();
        let most = channel.config().max_message().min(3 << 20);
        for len in [0, 1, 7, 8, 64, 1000, frame, frame + 1, 2 * frame + 7, most] {
            for (kind, _) in READ_BY {
                assert_read(&channel, kind, &request(len as u64, len));
            }
        }
        assert_usable(&channel);
    }
}

fn a_request_of_many_mebibytes_is_read_in_every_way(backend: Backend) {
    let channel = backend.spawn(Config::default());
    for len in [4 << 20, 32 << 20] {
        let bytes = request(5, len);
        for (kind, _) in READ_BY {
            assert_read(&channel, kind, &bytes);
        }
    }
}

fn the_rest_of_a_request_is_skipped_when_its_handler_returns(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let frame = channel.config().max_request_frame();
    for len in [1, frame, frame + 1, 3 * frame, 1 << 20] {
        let first = channel.call(READ_FIRST, &pattern(1, len), LONG).unwrap().to_vec();
        let first = numbers(&first)[0] as usize;
        assert!(first > 0 && first <= frame && (len > frame || first == len), "{first} of {len}");
        for (kind, _) in READ_BY {
            assert_read(&channel, kind, &request(2, len));
        }
        assert_usable(&channel);
    }
}

fn long_and_short_requests_of_several_threads_keep_apart(backend: Backend) {
    let channel = backend.spawn(Config::small());
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let channel = &channel;
            scope.spawn(move || {
                for round in 0..40_usize {
                    let (kind, _) = READ_BY[round % 4];
                    let len = [100_000, 64, 20_000, 900_000][round / 4 % 4] + round;
                    match (round + seed) % 5 {
                        0 => drop(channel.call(READ_FIRST, &vec![1; len], LONG).unwrap()),
                        _ => assert_read(channel, kind, &request(seed as u64, len)),
                    }
                    let short = pattern(round as u64, 40);
                    assert_eq!(channel.call(ECHO, &short, LONG).unwrap().to_vec(), short);
                    let long = pattern(round as u64, 50_000);
                    assert!(channel.call(ECHO, &long, LONG).unwrap().to_vec() == long);
                }
            });
        }
    });
    assert_eq!(channel.in_flight(), 0);
}

fn a_writer_that_is_dropped_in_the_middle_leaves_the_worker_usable(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let frame = channel.config().max_request_frame();
    for (kind, _) in READ_BY {
        for len in [1, frame, frame + 1, 5 * frame] {
            let mut writer = channel.write(kind, LONG).unwrap();
            writer.push(&request(3, len)).unwrap();
            drop(writer);
            assert_usable(&channel);
            assert_read(&channel, kind, &request(4, len));
        }
    }
    eventually("all have ended", || channel.in_flight() == 0);
}

#[test]
fn a_worker_whose_handler_reads_ends_when_its_parent_is_killed() {
    let name = name_of(a_worker_whose_handler_reads_ends_when_its_parent_is_killed);
    let folder = temp_dir("request-readers");
    let pid = std::env::var_os(NOTE).map_or_else(|| folder.join("pid"), Into::into);
    if is_rerun(name) {
        let channel = spawn(Config::small());
        let (kind, _) = READ_BY[0];
        let mut writer = channel.write(kind, LONG).unwrap();
        writer.push(&vec![1; 100_000]).unwrap();
        eventually("the handler reads", || channel.health().begun == 1);
        std::fs::write(&pid, channel.pid().to_string()).unwrap();
        send_signal(std::process::id(), libc::SIGKILL);
        unreachable!("this process has ended");
    }
    let status = rerun_command(name).env(NOTE, &pid).status().unwrap();
    assert!(!status.success());
    let worker = std::fs::read_to_string(&pid).unwrap().parse().unwrap();
    eventually("the worker is gone", || !is_running(worker));
    std::fs::remove_dir_all(folder).unwrap();
}

/// The worker ends before this is in the ring.
const LONGER_THAN_THE_RING: usize = 1 << 20;

/// The channel must be there: until the exit status is known, the error looks at its memory.
fn assert_begun(way: &str, error: &Error) {
    assert!(error.is_peer_dead(), "{way}: {error}");
    eventually("the exit status is known", || error.was_begun().is_some());
    assert_eq!(error.was_begun(), Some(true), "{way}: {error}");
    assert_eq!(error.begun_alone(), Some(true), "{way}: {error}");
    let death = error.death().unwrap();
    assert_eq!(death.request(), death.serving(), "{way}: {error}");
}

#[test]
fn a_death_while_a_request_is_sent_says_that_it_was_begun() {
    let bytes = vec![1; LONGER_THAN_THE_RING];
    let channel = spawn(Config::small());
    let call = channel.call(READ_AND_EXIT, &bytes, LONG);
    assert_begun("call", &call.unwrap_err());
    let channel = spawn(Config::small());
    let submit = channel.submit(READ_AND_EXIT, &bytes, LONG);
    assert_begun("submit", &submit.unwrap_err());
    let channel = spawn(Config::small());
    let mut writer = channel.write(READ_AND_EXIT, LONG).unwrap();
    let push = bytes.chunks(10_000).try_for_each(|part| writer.push(part));
    assert_begun("push", &push.unwrap_err());
    assert_begun("finish", &writer.finish().unwrap_err());
    let channel = spawn(Config::small());
    let stream = channel.stream(READ_AND_EXIT, &bytes, LONG).map(drop);
    assert_begun("stream", &stream.unwrap_err());
}

#[cfg(feature = "async")]
#[test]
fn the_death_says_so_to_tasks_too() {
    use slipring::tasks::AsyncChannel;

    let bytes = vec![1; LONGER_THAN_THE_RING];
    let spawn = || AsyncChannel::new(small().pollable().spawn().unwrap()).unwrap();
    let channel = spawn();
    let call = pollster::block_on(channel.call(READ_AND_EXIT, &bytes, LONG));
    assert_begun("call", &call.unwrap_err());
    let channel = spawn();
    let mut writer = pollster::block_on(channel.write(READ_AND_EXIT, LONG)).unwrap();
    let push = bytes.chunks(10_000).try_for_each(|part| pollster::block_on(writer.push(part)));
    assert_begun("push", &push.unwrap_err());
}

#[test]
fn a_pool_does_not_send_again_what_a_worker_began_to_read() {
    let role = Role::new(|_| Ok(small())).min_idle(1).max_size(1);
    let pool = Pool::builder().role("one", role).build().unwrap();
    let handle = pool.role("one").unwrap();
    let bytes = vec![1; LONGER_THAN_THE_RING];
    handle.call(ECHO, "ready", LONG).unwrap();
    let first = handle.health().workers[0].pid;
    let error = handle.call(READ_AND_EXIT, &bytes, LONG).unwrap_err();
    assert_begun("call", &error);
    assert_eq!(error.death().map(slipring::WorkerDeath::pid), first, "no other worker got it");
    within_long("close", || pool.close(LONG)).unwrap();
}

/// Gives up a request while its worker is at the first piece: the place must not look free until
/// the worker has left it.
fn assert_place_is_kept(handle: &RoleHandle, give_up: &dyn Fn(&[u8])) {
    let folder = temp_dir("request-readers-stay");
    let file = folder.join("stay");
    std::fs::write(&file, "").unwrap();
    let mut bytes = file.as_os_str().as_bytes().to_vec();
    bytes.resize(LONGER_THAN_THE_RING, 0);
    give_up(&bytes);
    assert_eq!(handle.health().load.in_flight, 1);
    std::fs::remove_dir_all(folder).unwrap();
    eventually("the place is free", || is_empty(handle));
    handle.call(ECHO, "usable", LONG).unwrap();
}

#[test]
fn a_worker_keeps_its_place_in_a_request_that_was_sent_in_part() {
    let short = Duration::from_millis(300);
    let (pool, handle) = pool_of(role().min_idle(1).max_size(1));
    assert_place_is_kept(&handle, &|bytes| {
        assert!(handle.call(READ_AND_STAY, bytes, short).unwrap_err().is_timeout());
    });
    assert_place_is_kept(&handle, &|bytes| {
        let stream = handle.stream(READ_AND_STAY, bytes, StreamTimeouts::new().queue(short));
        assert!(stream.unwrap_err().is_timeout());
    });
    assert_place_is_kept(&handle, &|bytes| {
        let pending = handle.submit(READ_AND_STAY, bytes, short).unwrap();
        assert!(pending.wait().unwrap_err().is_timeout());
    });
    assert_place_is_kept(&handle, &|bytes| {
        let written = handle.write(READ_AND_STAY, short, |message| message.push(bytes));
        assert!(written.unwrap_err().is_timeout());
    });
    assert_place_is_kept(&handle, &|bytes| {
        let written = handle.write(READ_AND_STAY, LONG, |message| {
            message.push(&bytes[..50_000])?;
            eventually("the handler reads", || crate::pools::is_begun(&handle));
            Err(Error::invalid_payload("the host's own"))
        });
        assert_eq!(written.unwrap_err().kind(), ErrorKind::InvalidPayload);
    });
    #[cfg(feature = "async")]
    assert_place_is_kept(&handle, &|bytes| {
        let tasks = handle.to_async();
        let write = tasks.write(READ_AND_STAY, short, async |message| message.push(bytes).await);
        assert!(pollster::block_on(write).unwrap_err().is_timeout());
    });
    close(&pool);
}
