//! Descriptors and blobs that a worker is passed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::common::*;
use crate::limits::settled_footprint;
use slipring::worker::{HandlerError, Worker};
use slipring::{Channel, Config, ErrorKind, Kind, RoleConfig, Spawner, worker};

/// Reads the descriptor of the request's name to its end, and replies with the bytes.
const READ_ALL: Kind = Kind::named("read all");
/// Writes to the descriptor of the request's name, and closes it.
const WRITE: Kind = Kind::named("write");
/// Replies with the numbers and the close-on-exec flags of the descriptors that were taken.
const NUMBERS: Kind = Kind::named("numbers");
/// Replies with the length of the blob, and with a checksum unless it is very long.
const BLOB: Kind = Kind::named("blob");
/// Replies with the errors of names that cannot be taken.
const ERRORS: Kind = Kind::named("errors");

struct Taken {
    config: RoleConfig,
    fds: BTreeMap<String, OwnedFd>,
}

/// The session of these tests' worker, which takes all its descriptors unless the mode is
/// `none`.
fn take(role: &RoleConfig) -> Result<Taken, HandlerError> {
    let mut fds = BTreeMap::new();
    if role.mode.as_deref() != Some("none") {
        for name in role.fd_names() {
            fds.insert(name.clone(), role.take_fd(&name)?);
        }
    }
    Ok(Taken { config: role.clone(), fds })
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(bytes.len() as u64, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn test_worker() -> Worker<Taken> {
    Worker::new(take)
        .on(READ_ALL, |taken, request, responder| {
            let name = String::from_utf8_lossy(&request.to_vec()).into_owned();
            let mut file = File::from(taken.fds.remove(&name).unwrap());
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(responder.send(&bytes)?)
        })
        .on(WRITE, |taken, request, responder| {
            let name = String::from_utf8_lossy(&request.to_vec()).into_owned();
            let mut file = File::from(taken.fds.remove(&name).unwrap());
            write!(file, "written to {name}")?;
            Ok(responder.send(b"")?)
        })
        .on(NUMBERS, |taken, _, responder| {
            let describe = |fd: &OwnedFd| {
                // SAFETY: F_GETFD takes integers only.
                #[allow(unsafe_code, reason = "fcntl")]
                let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
                vec![fd.as_raw_fd() as u64, (flags & libc::FD_CLOEXEC) as u64]
            };
            let numbers: Vec<u64> = taken.fds.values().flat_map(describe).collect();
            Ok(responder.send(&encode(&numbers))?)
        })
        .on(BLOB, |taken, _, responder| {
            let blob = &taken.config.blob;
            let sum = if blob.len() > 8 << 20 { 0 } else { checksum(blob) };
            Ok(responder.send(&encode(&[blob.len() as u64, sum]))?)
        })
        .on(ERRORS, |taken, _, responder| {
            let errors = ["a", "wrong", ""].map(|name| {
                let error = taken.config.take_fd(name).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidConfig);
                error.to_string()
            });
            Ok(responder.send(errors.join("\n").as_str())?)
        })
}

/// Not a test of its own: what a worker runs.
#[test]
fn passing_entry() {
    if !worker::is_worker() {
        return;
    }
    if std::env::var_os("RAW").is_none() {
        test_worker().serve().unwrap();
        return;
    }
    let (link, config) = worker::attach_raw().unwrap();
    let mut file = File::from(config.take_fd("out").unwrap());
    write!(file, "a raw worker with a blob of {} bytes", config.blob.len()).unwrap();
    drop((file, config, link));
}

fn passing_spawner() -> Spawner {
    spawner_of(passing_entry).role("test").config(Config::small())
}

fn text(channel: &Channel, kind: Kind, request: &str) -> String {
    String::from_utf8(channel.call(kind, request, LONG).unwrap().to_vec()).unwrap()
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

#[test]
fn a_worker_uses_a_pipe_and_a_socket_that_it_is_passed() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let channel =
        passing_spawner().pass_fd("pipe", reader).pass_fd("socket", theirs).spawn().unwrap();
    writer.write_all(&pattern(1, 5000)).unwrap();
    drop(writer);
    let read = channel.call(READ_ALL, "pipe", LONG).unwrap();
    assert!(read.to_vec() == pattern(1, 5000));
    drop(read);
    text(&channel, WRITE, "socket");
    let mut got = String::new();
    ours.read_to_string(&mut got).unwrap();
    assert_eq!(got, "written to socket");
}

#[test]
fn every_worker_of_a_spawner_gets_its_descriptors() {
    let dir = temp_dir("passed");
    let path = dir.join("file");
    let file = File::options().create_new(true).append(true).open(&path).unwrap();
    let spawner = passing_spawner().pass_fd("file", file);
    for _ in 0..3 {
        let channel = spawner.clone().spawn().unwrap();
        text(&channel, WRITE, "file");
        within_long("close", || channel.close(LONG)).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), "written to file".repeat(3));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn sixteen_descriptors_and_a_blob_come_in_order_beside_the_librarys() {
    let pipes: Vec<_> = (0..16).map(|_| std::io::pipe().unwrap()).collect();
    let (readers, writers): (Vec<_>, Vec<_>) = pipes.into_iter().unzip();
    let mut spawner = passing_spawner().pollable().blob(pattern(2, 100));
    for (number, writer) in writers.into_iter().enumerate() {
        spawner = spawner.pass_fd(format!("fd{number}"), writer);
    }
    let channel = spawner.spawn().unwrap();
    drop(spawner);
    let numbers = numbers(&channel.call(NUMBERS, b"", LONG).unwrap().to_vec());
    assert_eq!(numbers.len(), 32);
    for pair in numbers.chunks(2) {
        assert!(pair[0] >= 3 && pair[1] == 1, "{pair:?}");
    }
    for (number, mut reader) in readers.into_iter().enumerate() {
        text(&channel, WRITE, &format!("fd{number}"));
        let mut got = String::new();
        reader.read_to_string(&mut got).unwrap();
        assert_eq!(got, format!("written to fd{number}"));
    }
    assert_blob(&channel, &pattern(2, 100));
}

fn assert_blob(channel: &Channel, blob: &[u8]) {
    let told = numbers(&channel.call(BLOB, b"", LONG).unwrap().to_vec());
    assert_eq!(told, [blob.len() as u64, checksum(blob)]);
}

#[test]
fn a_blob_of_any_length_up_to_the_limit_arrives_whole() {
    for len in [0, 1, 1 << 20] {
        let blob = pattern(3, len);
        let spawner = passing_spawner().blob(blob.clone());
        assert_blob(&spawner.spawn().unwrap(), &blob);
        assert_blob(&spawner.spawn().unwrap(), &blob);
    }
    let largest = vec![9; 64 << 20];
    let channel = passing_spawner().blob(largest.as_slice()).spawn().unwrap();
    assert_eq!(numbers(&channel.call(BLOB, b"", LONG).unwrap().to_vec())[0], 64 << 20);
    let error = refused(&passing_spawner().blob(vec![0; (64 << 20) + 1]));
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("67108865 bytes: at most 67108864"), "{error}");
}

#[test]
fn a_blob_counts_against_the_memory_limit_of_its_worker() {
    let spawner = passing_spawner().blob(vec![1; 8 << 20]).memory_limit(8 << 20);
    let error = refused(&spawner);
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("of the channel and of the blob"), "{error}");
    // More than that, and too little for the worker to read it.
    let spawner = passing_spawner().blob(vec![1; 64 << 20]).memory_limit(68 << 20);
    let kinds = [ErrorKind::Handshake, ErrorKind::Spawn];
    assert!(kinds.contains(&refused(&spawner).kind()));
}

#[test]
fn a_wrong_name_and_one_that_was_taken_are_errors_that_say_so() {
    let channel = passing_spawner().pass_fd("a", null()).pass_fd("b", null()).spawn().unwrap();
    let errors = text(&channel, ERRORS, "");
    let lines: Vec<&str> = errors.lines().collect();
    assert_eq!(lines[0], "descriptor \"a\" was taken or closed before");
    assert_eq!(lines[1], "no descriptor \"wrong\" was passed, but a, b");
    assert!(lines[2].contains("no descriptor \"\""));
    let channel = passing_spawner().spawn().unwrap();
    let errors = text(&channel, ERRORS, "");
    assert!(errors.starts_with("no descriptor \"a\" was passed, but none at all"), "{errors}");
}

#[test]
fn names_that_cannot_be_are_refused_before_anything_is_started() {
    let many = |count: usize| {
        (0..count).fold(passing_spawner(), |spawner, number| {
            spawner.pass_fd(format!("n{number}"), null())
        })
    };
    let cases = [
        (passing_spawner().pass_fd("", null()), "its name must be"),
        (passing_spawner().pass_fd(".x", null()), "its name must be"),
        (passing_spawner().pass_fd("a/b", null()), "its name must be"),
        (passing_spawner().pass_fd("x".repeat(33), null()), "its name must be"),
        (passing_spawner().pass_fd("a", null()).pass_fd("a", null()), "\"a\" is passed twice"),
        (many(17), "at most 16"),
    ];
    for (spawner, reason) in cases {
        let error = refused(&spawner);
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn what_a_worker_does_not_take_is_closed_when_its_session_is_built() {
    let name = name_of(what_a_worker_does_not_take_is_closed_when_its_session_is_built);
    if !in_a_process_of_its_own(name) {
        return;
    }
    passing_spawner().spawn().unwrap().close(LONG).unwrap();
    let before = settled_footprint();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let spawner = passing_spawner().mode("none").pass_fd("out", writer).pass_fd("other", null());
    let channel = spawner.spawn().unwrap();
    drop(spawner);
    // The end comes although the worker runs and keeps a clone of its configuration.
    let read = || reader.read(&mut [0]).unwrap();
    assert_eq!(within_long("the end of the pipe", read), 0);
    assert!(text(&channel, ERRORS, "").contains("no descriptor \"a\" was passed, but out, other"));
    channel.close(LONG).unwrap();
    drop(channel);
    drop(reader);
    before.assert_restored("descriptors that were not taken");
}

#[test]
fn a_spawn_that_fails_leaves_descriptors_and_blob_for_the_next() {
    let name = name_of(a_spawn_that_fails_leaves_descriptors_and_blob_for_the_next);
    if !in_a_process_of_its_own(name) {
        return;
    }
    passing_spawner().spawn().unwrap().close(LONG).unwrap();
    let before = settled_footprint();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut copy = writer.try_clone().unwrap();
    let passing = |spawner: Spawner, writer| spawner.pass_fd("pipe", writer).blob(vec![1; 1 << 20]);
    let timeout = Duration::from_millis(100);
    let failing = [
        Spawner::program("/no/such/program"),
        Spawner::program("/bin/false"),
        Spawner::program("/bin/sleep").arg("1000").handshake_timeout(timeout),
    ];
    for spawner in failing {
        refused(&passing(spawner.config(Config::small()), writer.try_clone().unwrap()));
        copy.write_all(b"x").unwrap();
        reader.read_exact(&mut [0]).unwrap();
    }
    let spawner = passing(passing_spawner(), writer);
    let broken = spawner.clone().current_dir("/no/such/directory");
    assert_eq!(refused(&broken).kind(), ErrorKind::Spawn);
    drop((broken, copy));
    let channel = spawner.spawn().unwrap();
    drop(spawner);
    text(&channel, WRITE, "pipe");
    let mut got = String::new();
    reader.read_to_string(&mut got).unwrap();
    assert_eq!(got, "written to pipe");
    assert_blob(&channel, &vec![1; 1 << 20]);
    channel.close(LONG).unwrap();
    drop((channel, reader));
    before.assert_restored("spawns that failed");
}

#[test]
fn a_raw_worker_gets_descriptors_and_a_blob() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let spawner = passing_spawner().env("RAW", "1").pass_fd("out", writer).blob(vec![0; 300 << 10]);
    let link = spawner.spawn_raw().unwrap();
    drop(spawner);
    let mut got = String::new();
    within_long("the end of the pipe", || reader.read_to_string(&mut got)).unwrap();
    assert_eq!(got, "a raw worker with a blob of 307200 bytes");
    drop(link);
}

#[cfg(feature = "testing")]
#[test]
fn a_worker_thread_takes_descriptors_as_a_process_does() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (mut closed, left) = std::io::pipe().unwrap();
    let mut config = RoleConfig::default();
    config.blob = pattern(4, 1000).into();
    config.pass_fd("out", writer).unwrap();
    config.pass_fd("left", left).unwrap();
    let make = || {
        Worker::new(|role: &RoleConfig| {
            let fds = BTreeMap::from([("out".to_owned(), role.take_fd("out")?)]);
            Ok(Taken { config: role.clone(), fds })
        })
        .on(BLOB, |taken, _, responder| {
            let blob = &taken.config.blob;
            write!(File::from(taken.fds.remove("out").unwrap()), "from a thread")?;
            Ok(responder.send(&encode(&[blob.len() as u64, checksum(blob)]))?)
        })
    };
    let channel = slipring::testing::spawn_thread(&Config::small(), config, make).unwrap();
    assert_blob(&channel, &pattern(4, 1000));
    let mut got = String::new();
    reader.read_to_string(&mut got).unwrap();
    assert_eq!((got.as_str(), closed.read(&mut [0]).unwrap()), ("from a thread", 0));
}
