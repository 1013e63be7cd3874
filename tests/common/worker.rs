//! The worker of most tests: what it does with each kind of request.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use slipring::worker::{Done, HandlerError, Threads, Worker};
use slipring::{Config, Kind, RoleConfig};

use super::answers::{Chunks, Reply, Serves, Slot};
use super::reading::{READ_AND_EXIT, READ_AND_STAY, READ_BY, READ_FIRST, fingerprint};
use super::{LONG, encode, numbers, pattern, patterns, spawner};

/// Replies with the request's bytes.
pub const ECHO: Kind = Kind::named("echo");
/// Replies with the request's bytes after as many milliseconds as its first 8 bytes say.
pub const SLOW_ECHO: Kind = Kind::named("slow echo");
/// Streams: u64 count, u64 length; chunk i is `length` bytes of [`pattern`] i.
pub const COUNT: Kind = Kind::named("count");
/// Streams as many chunks as the first u64 says, given away together. Each has the length of the next
/// of the other u64, again and again.
pub const COUNT_ALL: Kind = Kind::named("count all");
/// As `COUNT`, then fails.
pub const COUNT_AND_FAIL: Kind = Kind::named("count and fail");
/// Fails with an `io::Error` whose message is the request.
pub const FAIL: Kind = Kind::named("fail");
/// As `FAIL`, with the shortest name of a type.
pub const FAIL_SHORTLY: Kind = Kind::named("fail shortly");
/// Fails with an error that has two sources.
pub const FAIL_DEEP: Kind = Kind::named("fail deep");
/// Panics with the request as message.
pub const PANIC: Kind = Kind::named("panic");
/// Sends itself the signal in the first byte.
pub const RAISE: Kind = Kind::named("raise");
/// Exits with the code in the first byte.
pub const EXIT: Kind = Kind::named("exit");
/// Loops until it is cancelled, then fails as cancelled; counts its rounds as progress.
pub const UNTIL_CANCELLED: Kind = Kind::named("until cancelled");
/// As `UNTIL_CANCELLED`, but replies with the number of rounds.
pub const UNTIL_ABORTED: Kind = Kind::named("until aborted");
/// Never returns, even if it is cancelled.
pub const FOR_EVER: Kind = Kind::named("for ever");
/// Replies with a chunk and an end, even to a call.
pub const STREAM_ANYHOW: Kind = Kind::named("stream anyhow");
/// Sums the request's bytes, replies with the u64.
pub const SUM: Kind = Kind::named("sum");
/// Writes the request to standard output and standard error.
pub const PRINT: Kind = Kind::named("print");
/// Replies with the role configuration, as debug text.
pub const ROLE: Kind = Kind::named("role");
/// Replies with as many bytes of [`pattern`] 7 as the request's u64 says.
pub const BIG: Kind = Kind::named("big");
/// Replies with a listing of the worker's descriptors, groups, threads, environment.
pub const SELF: Kind = Kind::named("self");

/// Sleeps for as many microseconds as the request's first u64 says, then echoes it.
pub const NAP: Kind = Kind::named("nap");
/// Replies with how many `NAP`s were begun, how many replied, and the sum of their second u64.
pub const NAPS: Kind = Kind::named("naps");
/// Replies, keeps the proof of it, and fails.
pub const KEEP_PROOF: Kind = Kind::named("keep proof");
/// Does not reply, but returns the proof that `KEEP_PROOF` kept.
pub const USE_PROOF: Kind = Kind::named("use proof");
/// Streams: u64 pause in microseconds, then as `COUNT`.
pub const TRICKLE: Kind = Kind::named("trickle");
/// Touches as many MiB of memory as the request's u64 says and keeps them.
pub const HOLD_MIB: Kind = Kind::named("hold MiB");
/// Replies with the milliseconds that the caller still waits.
pub const TIME_LEFT: Kind = Kind::named("time left");
/// Sends a chunk, then fails with an error of its own, even if the chunk could not be sent.
pub const CHUNK_THEN_OTHER_ERROR: Kind = Kind::named("chunk, then another error");

/// Writes without end once it is cancelled, and fails with the error of the writer.
pub const WRITE_WHEN_CANCELLED: Kind = Kind::named("write when cancelled");
/// Writes a reply of so many bytes in parts of so many, without a length.
pub const WRITE: Kind = Kind::named("write");
/// Streams a chunk of 900 bytes, then asks for impossible slots, counts the refusals as progress,
/// and streams the kinds of the errors.
pub const ABSURD: Kind = Kind::named("absurd");
/// Reserves more than the address space for its reply, and fails with the error of that.
pub const ABSURD_CLAIM: Kind = Kind::named("absurd claim");
/// Starts a worker of its own, cancels a call to it, and fails with the error of that call.
pub const CANCEL_ANOTHER: Kind = Kind::named("cancel another");

/// Replies with the request's bytes once the file is gone whose path they are: see [`Stay`](super::Stay).
pub const STAY: Kind = Kind::named("stay");
/// Streams four chunks of 8 bytes once the file is gone whose path the request is.
pub const STAY_AND_COUNT: Kind = Kind::named("stay and count");
/// Streams a chunk of 8 bytes, and no more until it is cancelled.
pub const CHUNK_AND_STAY: Kind = Kind::named("chunk and stay");
/// Writes the first frames of a reply, and no more until it is cancelled.
pub const HALF_A_REPLY: Kind = Kind::named("half a reply");

/// Replies, and returns from the handler as many milliseconds later as the request's u64 says.
pub const ANSWER_AND_GO_ON: Kind = Kind::named("answer and go on");

pub struct Session {
    role: RoleConfig,
    naps_begun: AtomicU64,
    naps_done: AtomicU64,
    proof: Option<Done>,
    held: Mutex<Vec<Vec<u8>>>,
}

/// The worker that serves every kind above, one request at a time.
pub fn worker() -> Worker<Session> {
    let mut worker = serve_all(Worker::new(build));
    for (kind, read) in READ_BY {
        worker = worker.on_reader(kind, move |_, reader, responder| {
            let mut bytes = Vec::new();
            read(reader, &mut bytes)?;
            Ok(responder.send(&fingerprint(&bytes))?)
        });
    }
    worker
        .on_reader(READ_FIRST, |_, reader, responder| {
            let len = reader.next_piece()?.map_or(0, |piece| piece.len());
            Ok(responder.send(&encode(&[len as u64]))?)
        })
        .on_reader(READ_AND_EXIT, |_, reader, _| {
            reader.next_piece()?;
            std::process::exit(7)
        })
        .on_reader(READ_AND_STAY, |_, reader, _| {
            let first = reader.next_piece()?.map(|piece| piece.to_vec()).unwrap_or_default();
            stay(first.split(|byte| *byte == 0).next().unwrap_or_default());
            Err("left".into())
        })
        .on(HALF_A_REPLY, |_, request, responder| {
            let mut writer = responder.write();
            writer.push(&pattern(7, 10_000))?;
            while !request.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(request.check_cancelled().unwrap_err().into())
        })
        .on(KEEP_PROOF, |session, _, responder| {
            session.proof = Some(responder.send("kept")?);
            Err(HandlerError::new("test::Kept", "after the reply"))
        })
        .on(USE_PROOF, |session, _, _| Ok(session.proof.take().expect("a proof was kept")))
        .on(WRITE_WHEN_CANCELLED, |_, request, responder| {
            use std::io::Write;
            let mut writer = responder.write();
            while !request.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            loop {
                writer.write_all(&[0; 4096])?;
            }
        })
        .on(WRITE, |_, request, responder| {
            let &[len, part] = &numbers(&request.to_vec())[..] else { panic!("two numbers") };
            let mut writer = responder.write();
            for part in pattern(7, len as usize).chunks(part as usize) {
                writer.push(part)?;
            }
            Ok(writer.finish()?)
        })
        .on(ABSURD, |_, request, responder| {
            let mut chunks = responder.stream();
            chunks.send(&pattern(0, 900))?;
            let mut kinds = Vec::new();
            for len in [usize::MAX, usize::MAX - 31, usize::MAX / 2, 1 << 30, 100_000] {
                let refused = chunks.send_with(len, |_| panic!("there is no such slot"));
                kinds.push(refused.unwrap_err().kind());
            }
            kinds.push(chunks.send(&Endless).unwrap_err().kind());
            request.set_progress(kinds.len() as u64);
            chunks.send(&format!("{kinds:?}"))?;
            Ok(chunks.end()?)
        })
}

/// A worker with eight threads that serves every kind above but those that need what only a
/// [`Responder`](slipring::worker::Responder) has.
pub fn worker_with_threads() -> Worker<Session> {
    Worker::new(build).threads(serve_all(Threads::new(8)))
}

fn build(role: &RoleConfig) -> Result<Session, HandlerError> {
    match role.mode.as_deref() {
        Some("fail") => return Err(HandlerError::new("test::NoModel", "no such model")),
        Some("panic") => panic!("the model exploded"),
        Some("slow") => std::thread::sleep(Duration::from_millis(300)),
        Some("late fail") => {
            std::thread::sleep(Duration::from_millis(300));
            return Err(HandlerError::new("test::NoModel", "no such model, after a while"));
        }
        _ => {}
    }
    Ok(Session {
        role: role.clone(),
        naps_begun: AtomicU64::new(0),
        naps_done: AtomicU64::new(0),
        proof: None,
        held: Mutex::default(),
    })
}

/// Adds the handlers that every kind of worker can have.
fn serve_all<W: Serves>(worker: W) -> W {
    worker
        .on(ECHO, |_, request, responder| {
            // Written in place if every configuration of these tests has room for it.
            let mut slot = match request.len() {
                len if len <= 1000 => responder.claim(len)?,
                _ => return Ok(responder.send(&request.to_vec())?),
            };
            request.payload().copy_to(slot.payload())?;
            Ok(slot.send()?)
        })
        .on(SLOW_ECHO, |_, request, responder| {
            let bytes = request.to_vec();
            std::thread::sleep(Duration::from_millis(numbers(&bytes)[0]));
            Ok(responder.send(&bytes)?)
        })
        .on(COUNT, |_, request, responder| {
            let [count, len] = numbers(&request.to_vec())[..] else { panic!("two numbers") };
            let mut chunks = responder.stream();
            for i in 0..count {
                chunks.send(&pattern(i, len as usize))?;
            }
            Ok(chunks.end()?)
        })
        .on(COUNT_ALL, |_, request, responder| {
            let mut chunks = responder.stream();
            chunks.send_all(patterns(&request.to_vec()))?;
            Ok(chunks.end()?)
        })
        .on(COUNT_AND_FAIL, |_, request, responder| {
            let [count, len] = numbers(&request.to_vec())[..] else { panic!("two numbers") };
            let mut chunks = responder.stream();
            for i in 0..count {
                chunks.send(&pattern(i, len as usize))?;
            }
            Err(HandlerError::new("test::Tired", "after all chunks"))
        })
        .on(FAIL, |_, request, _| {
            let text = String::from_utf8_lossy(&request.to_vec()).into_owned();
            Err(std::io::Error::other(text).into())
        })
        .on(FAIL_SHORTLY, |_, request, _| {
            let text = String::from_utf8_lossy(&request.to_vec()).into_owned();
            Err(HandlerError::new("E", text))
        })
        .on(FAIL_DEEP, |_, _, _| Err(fail_deep()))
        .on(PANIC, |_, request, _| panic!("{}", String::from_utf8_lossy(&request.to_vec())))
        .on(RAISE, |_, request, _| {
            let signal = i32::from(request.to_vec()[0]);
            // SAFETY: no handler is installed.
            #[allow(unsafe_code, reason = "the runtime catches some of them")]
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
            }
            // SAFETY: ends this process, which is what the test wants.
            #[allow(unsafe_code, reason = "raising a signal")]
            unsafe {
                libc::raise(signal);
            }
            std::thread::sleep(LONG);
            unreachable!("the signal ended the process")
        })
        .on(EXIT, |_, request, _| std::process::exit(i32::from(request.to_vec()[0])))
        .on(UNTIL_CANCELLED, |_, request, responder| {
            let mut looks = 0_u64;
            while !request.is_cancelled() {
                looks += 1;
                request.set_progress(looks);
                std::hint::spin_loop();
            }
            request.check_cancelled()?;
            Ok(responder.send(&encode(&[looks]))?)
        })
        .on(UNTIL_ABORTED, |_, request, responder| {
            let mut looks = 0_u64;
            while !request.is_cancelled() {
                looks += 1;
                std::thread::sleep(Duration::from_micros(50));
            }
            Ok(responder.send(&encode(&[looks]))?)
        })
        .on(FOR_EVER, |_, _, _| {
            loop {
                std::thread::sleep(LONG);
            }
        })
        .on(STREAM_ANYHOW, |_, _, responder| {
            let mut chunks = responder.stream();
            chunks.send(b"unasked")?;
            Ok(chunks.end()?)
        })
        .on(SUM, |_, request, responder| {
            let sum: u64 = request.to_vec().iter().map(|b| u64::from(*b)).sum();
            Ok(responder.send(&encode(&[sum]))?)
        })
        .on(PRINT, |_, request, responder| {
            let text = String::from_utf8_lossy(&request.to_vec()).into_owned();
            println!("out: {text}");
            eprintln!("err: {text}");
            Ok(responder.send(b"")?)
        })
        .on(ROLE, |session, _, responder| Ok(responder.send(&format!("{:?}", session.role))?))
        .on(BIG, |_, request, responder| {
            let len = numbers(&request.to_vec())[0] as usize;
            Ok(responder.send(&pattern(7, len))?)
        })
        .on(SELF, |_, _, responder| Ok(responder.send(&describe_self())?))
        .on(NAP, |session, request, responder| {
            session.naps_begun.fetch_add(1, Ordering::Relaxed);
            let bytes = request.to_vec();
            std::thread::sleep(Duration::from_micros(numbers(&bytes)[0]));
            let done = responder.send(&bytes)?;
            session.naps_done.fetch_add(1, Ordering::Relaxed);
            Ok(done)
        })
        .on(NAPS, |session, _, responder| {
            let counts = [&session.naps_begun, &session.naps_done];
            Ok(responder.send(&encode(&counts.map(|count| count.load(Ordering::Relaxed))))?)
        })
        .on(TRICKLE, |_, request, responder| {
            let [pause, count, len] = numbers(&request.to_vec())[..] else {
                panic!("three numbers")
            };
            let mut chunks = responder.stream();
            for i in 0..count {
                chunks.send(&pattern(i, len as usize))?;
                std::thread::sleep(Duration::from_micros(pause));
            }
            Ok(chunks.end()?)
        })
        .on(HOLD_MIB, |session, request, responder| {
            for _ in 0..numbers(&request.to_vec())[0] {
                session.held.lock().unwrap().push(vec![1; 1 << 20]);
            }
            Ok(responder.send("held")?)
        })
        .on(STAY, |_, request, responder| {
            let path = request.to_vec();
            stay(&path);
            Ok(responder.send(&path)?)
        })
        .on(STAY_AND_COUNT, |_, request, responder| {
            stay(&request.to_vec());
            let mut chunks = responder.stream();
            for i in 0..4 {
                chunks.send(&pattern(i, 8))?;
            }
            Ok(chunks.end()?)
        })
        .on(CHUNK_AND_STAY, |_, request, responder| {
            responder.stream().send(&pattern(0, 8))?;
            while !request.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(request.check_cancelled().unwrap_err().into())
        })
        .on(ANSWER_AND_GO_ON, |_, request, responder| {
            let pause = Duration::from_millis(numbers(&request.to_vec())[0]);
            let done = responder.send("")?;
            std::thread::sleep(pause);
            Ok(done)
        })
        .on(TIME_LEFT, |_, request, responder| {
            let left = u64::try_from(request.time_left().as_millis()).unwrap_or(u64::MAX);
            Ok(responder.send(&encode(&[left]))?)
        })
        .on(ABSURD_CLAIM, |_, _, responder| match responder.claim(usize::MAX) {
            Ok(slot) => Ok(slot.send()?),
            Err(error) => Err(error.into()),
        })
        .on(CANCEL_ANOTHER, |_, _, responder| {
            let spawner = spawner().config(Config::small());
            // This worker may have attached by name; the other worker must not.
            #[cfg(feature = "named")]
            let spawner = spawner.env_remove(super::named::NAME);
            let channel = spawner.spawn()?;
            let pending = channel.submit(UNTIL_CANCELLED, b"", LONG)?;
            pending.cancel();
            let other = pending.wait()?;
            Ok(responder.send(&other.to_vec())?)
        })
        .on(CHUNK_THEN_OTHER_ERROR, |_, request, responder| {
            let len = numbers(&request.to_vec())[0] as usize;
            match responder.stream().send(&pattern(0, len)) {
                Ok(()) => Err(HandlerError::new("test::Other", "after a chunk")),
                Err(_) => Err(HandlerError::new("test::Other", "instead of a chunk")),
            }
        })
}

/// Waits until a file is gone.
fn stay(path: &[u8]) {
    let (path, until) = (PathBuf::from(OsStr::from_bytes(path)), Instant::now() + LONG);
    while path.exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A payload whose length is the largest number.
pub struct Endless;

impl slipring::payload::Payload for Endless {
    fn encoded_len(&self) -> usize {
        usize::MAX
    }

    fn encode(&self, _: &mut [u8]) -> slipring::Result<()> {
        Err(slipring::Error::invalid_payload("it has no end"))
    }
}

/// An error with two sources.
pub fn fail_deep() -> HandlerError {
    Outer(Inner("x".parse::<u8>().unwrap_err())).into()
}

#[derive(Debug)]
struct Inner(std::num::ParseIntError);

#[derive(Debug)]
struct Outer(Inner);

impl std::fmt::Display for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the file is short")
    }
}

impl std::fmt::Display for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot load")
    }
}

impl std::error::Error for Inner {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// `key=value` lines about the worker process, for tests of how it was started.
fn describe_self() -> String {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let name = entry.file_name();
        lines.push(format!("fd={} {}", name.to_string_lossy(), target.display()));
    }
    for entry in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        lines.push(format!("thread={}", name.trim()));
    }
    // The status is this thread's: the main thread may still block signals, as it does while it
    // starts a thread.
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    lines.extend(status.lines().map(|line| format!("status={line}")));
    lines.push(format!("cwd={}", std::env::current_dir().unwrap().display()));
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    lines.extend(limits.lines().map(|line| format!("limit={line}")));
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    lines.push(format!("pgrp={}", fields[2]));
    // On Linux each thread has its own nice value, and the harness serves on a thread.
    let own = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let own: Vec<&str> = own.rsplit(')').next().unwrap().split_whitespace().collect();
    lines.push(format!("nice={}", own[16]));
    lines.push(format!("pid={}", std::process::id()));
    lines.join("\n")
}
