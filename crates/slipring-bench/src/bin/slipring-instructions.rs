//! Counts the instructions of the hot paths: the parent's, and those of a worker with serial
//! handlers. The counts do not depend on the load of the machine.
//!
//!     slipring-instructions            compare with the baseline
//!     slipring-instructions --update   write a new baseline
//!
//! Each path runs in a process of its own under callgrind, which counts only inside the
//! functions named `hot_…`. The other side does nothing meanwhile: the ring has room for all
//! frames, so that neither side waits or is woken. A worker is counted twice, with few and with
//! many requests that wait for it when it starts: the difference leaves out its start and its
//! end. Without valgrind the program prints `SKIPPED` and succeeds. The counts hold for one
//! compiler, with optimisation.
// Counts become floats, so `as` is allowed.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing))]

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use slipring::ring::Header;
use slipring::worker::{self, Worker};
use slipring::{Channel, ExitCause, Kind, Pending, RawLink, Spawner, Stream};

/// The paths, and the number of frames or requests of each.
const PATHS: [(&str, u64); 10] = [
    ("raw-commit", 8000),
    ("raw-commit-lazily", 8000),
    ("raw-commit-batch", 8000),
    ("raw-recv", 8000),
    ("raw-drain", 8000),
    ("channel-submit", 800),
    ("channel-wait", 800),
    ("channel-chunk", 800),
    ("worker-call", 800),
    ("worker-chunk", 800),
];
const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.txt");
/// How much more than its baseline a count may be.
const TOLERANCE: f64 = 0.05;

const LEN: usize = 64;
/// Frames of a batch.
const BATCH: usize = 32;
/// Longer than a chunk that is copied out of the ring together with others.
const CHUNK: usize = 1024;
const WARM: u64 = 100;
const LONG: Duration = Duration::from_secs(60);
const ECHO: Kind = Kind::named("echo");
const NAP: Kind = Kind::named("nap");
const CHUNKS: Kind = Kind::named("chunks");
/// Long enough for all that a parent under callgrind does meanwhile.
const NAP_TIME: Duration = Duration::from_millis(1500);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match *args.as_slice() {
        _ if worker::is_worker() => serve(&args),
        ["path", path] => measured(path),
        ["--update"] => compare(true),
        [] => compare(false),
        _ => Err(io::Error::other("usage: slipring-instructions [--update]")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slipring-instructions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(is_update: bool) -> io::Result<()> {
    let has_valgrind = Command::new("valgrind").arg("--version").output().is_ok();
    if !has_valgrind {
        println!("SKIPPED: valgrind is not installed; instructions were not counted");
        return Ok(());
    }
    if cfg!(debug_assertions) {
        return Err(io::Error::other("build it with --release"));
    }
    let known = fs::read_to_string(BASELINE).unwrap_or_default();
    let mut text = String::from(
        "# Instructions for one frame or request of 64 bytes, or one chunk of 1 KiB: of the parent, and of\n\
         # a worker with serial handlers. Written by `slipring-instructions --update`; holds for one\n\
         # compiler and processor family.\n",
    );
    let mut wrong = Vec::new();
    for (path, count) in PATHS {
        let found = if path.starts_with("worker") {
            let few = count_of_worker(path, WARM)?;
            (count_of_worker(path, WARM + count)? - few) / count as f64
        } else {
            count_of_parent(path)? / count as f64
        };
        let baseline = known.lines().find_map(|line| {
            let (name, value) = line.split_once(char::is_whitespace)?;
            (name == path).then(|| value.trim().parse::<f64>().ok())?
        });
        let _ = writeln!(text, "{path:20} {found:.1}");
        let change = baseline.map(|baseline| found / baseline - 1.0);
        let shown = change.map_or("new".to_owned(), |change| format!("{:+.1} %", 100.0 * change));
        println!("{path:20} {found:>8.1} instructions  {shown}");
        if change.is_none_or(|change| change > TOLERANCE) {
            wrong.push(path);
        } else if change.is_some_and(|change| change < -TOLERANCE) {
            println!("{:20} fewer than before: run it with --update to keep that", "");
        }
    }
    if is_update {
        fs::write(BASELINE, text)?;
    } else if !wrong.is_empty() {
        let message = format!(
            "{}: more than {:.0} % above the baseline; if that is meant, run it with --update \
             and commit it",
            wrong.join(", "),
            100.0 * TOLERANCE
        );
        return Err(io::Error::other(message));
    }
    Ok(())
}

/// Counts the instructions inside the hot function of a path of the parent.
fn count_of_parent(path: &str) -> io::Result<f64> {
    let status = under_callgrind(&path.replace('-', "_"))?.args(["path", path]).status()?;
    collected(path, status.success())
}

/// Counts the instructions of a worker that finds `count` requests, or a request for `count`
/// chunks, in its ring when it starts, and ends when it has answered them.
fn count_of_worker(path: &str, count: u64) -> io::Result<f64> {
    let callgrind = under_callgrind("worker")?;
    let channel = Spawner::program(callgrind.get_program())
        .args(callgrind.get_args())
        .args([path, &count.to_string()])
        .role("instructions")
        .handshake_timeout(LONG)
        .spawn()?;
    // The replies stay in the ring until the worker has sent all of them.
    if path == "worker-call" {
        let submitted: io::Result<Vec<Pending>> =
            (0..count).map(|_| Ok(channel.submit(ECHO, &[7; LEN], LONG)?)).collect();
        wait_until(|| channel.health().requests_served == count);
        for pending in submitted? {
            pending.wait()?;
        }
    } else {
        let chunks = channel.stream(CHUNKS, &[], LONG)?;
        wait_until(|| channel.health().bytes_sent == count * CHUNK as u64);
        for chunk in chunks {
            chunk?;
        }
    }
    let exit = channel.close(LONG)?;
    collected(path, exit == ExitCause::Exited(0))
}

/// A command that runs this program under callgrind, with arguments that are still to come, and
/// counts inside one hot function.
fn under_callgrind(hot: &str) -> io::Result<Command> {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--trace-children=no"])
        .arg(format!("--toggle-collect=*hot_{hot}*"))
        .arg(format!("--callgrind-out-file={}", output_file("out").display()))
        .arg(format!("--log-file={}", output_file("log").display()))
        .arg(std::env::current_exe()?);
    Ok(command)
}

fn output_file(suffix: &str) -> PathBuf {
    std::env::temp_dir().join(format!("slipring-callgrind-{}.{suffix}", std::process::id()))
}

/// Finds the total in what callgrind wrote.
fn collected(path: &str, is_success: bool) -> io::Result<f64> {
    let text = fs::read_to_string(output_file("log"))?;
    // Only the total is needed.
    for suffix in ["out", "log"] {
        let _ = fs::remove_file(output_file(suffix));
    }
    let total = text.lines().find_map(|line| line.split_once("Collected :"));
    let total = total.and_then(|(_, total)| total.trim().parse::<f64>().ok());
    match total {
        Some(total) if is_success => Ok(total),
        _ => Err(io::Error::other(format!("{path} under valgrind failed:\n{text}"))),
    }
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn frames(path: &str) -> u64 {
    PATHS.iter().find(|(name, _)| *name == path).map_or(0, |(_, count)| *count)
}

fn spawner(side: &str) -> io::Result<Spawner> {
    // Not by `/proc/self/exe`, which is valgrind in a process that valgrind runs.
    Ok(Spawner::program(std::env::current_exe()?).arg(side).role("instructions"))
}

/// Runs the side that is counted.
fn measured(path: &str) -> io::Result<()> {
    let count = frames(path);
    match path {
        "raw-commit" | "raw-commit-lazily" | "raw-commit-batch" => {
            let mut link = spawner("idle")?.spawn_raw()?;
            // The worker sleeps by now, or soon: a frame before that rings its bell once.
            std::thread::sleep(NAP_TIME / 10);
            match path {
                "raw-commit" => {
                    warm_raw_commit(&mut link, WARM)?;
                    hot_raw_commit(&mut link, count)?;
                }
                "raw-commit-lazily" => {
                    warm_raw_lazily(&mut link, WARM)?;
                    hot_raw_commit_lazily(&mut link, count)?;
                }
                _ => {
                    warm_raw_batch(&mut link, WARM)?;
                    hot_raw_commit_batch(&mut link, count)?;
                }
            }
            link.close(LONG)?;
        }
        "raw-recv" | "raw-drain" => {
            let mut link = spawner("fill")?.spawn_raw()?;
            std::thread::sleep(NAP_TIME / 2);
            if path == "raw-recv" {
                warm_raw_recv(&mut link, WARM)?;
                hot_raw_recv(&mut link, count)?;
            } else {
                warm_drain(&mut link, WARM)?;
                hot_raw_drain(&mut link, count)?;
            }
            link.close(LONG)?;
        }
        "channel-submit" | "channel-wait" => {
            let channel = spawner("channel")?.spawn()?;
            channel.wait_ready(LONG)?;
            let mut pending = Vec::with_capacity(2000);
            // The worker sleeps in its handler, and sees nothing of what follows.
            let nap = channel.submit(NAP, &[], LONG)?;
            warm_submit(&channel, WARM, &mut pending)?;
            hot_channel_submit(&channel, count, &mut pending)?;
            nap.wait()?;
            wait_until(|| channel.health().requests_served >= WARM + count + 2);
            let mut pending = pending.into_iter();
            warm_wait(&mut pending, WARM)?;
            hot_channel_wait(&mut pending, count)?;
            channel.close(LONG)?;
        }
        "channel-chunk" => {
            let channel = spawner("channel")?.spawn()?;
            channel.wait_ready(LONG)?;
            let mut chunks = channel.stream(CHUNKS, &[], LONG)?;
            // By then all replies are in the ring.
            wait_until(|| channel.health().bytes_sent >= (WARM + count) * CHUNK as u64);
            warm_chunk(&mut chunks, WARM)?;
            hot_channel_chunk(&mut chunks, count)?;
            drop(chunks);
            channel.close(LONG)?;
        }
        _ => return Err(io::Error::other(format!("no path is called {path}"))),
    }
    Ok(())
}

/// Makes a function that is counted, and one with the same body that is not.
macro_rules! hot_and_warm {
    ($hot:ident, $warm:ident, ($($name:ident: $kind:ty),*), $body:expr) => {
        #[inline(never)]
        fn $hot($($name: $kind),*) -> io::Result<()> {
            $body
        }

        #[inline(never)]
        fn $warm($($name: $kind),*) -> io::Result<()> {
            $body
        }
    };
}

hot_and_warm!(hot_raw_commit, warm_raw_commit, (link: &mut RawLink, count: u64), {
    for _ in 0..count {
        let mut claim = link.claim(LEN, LONG)?;
        claim.payload().copy_from_slice(&[7; LEN]);
        claim.commit(Header::default());
    }
    Ok(())
});

hot_and_warm!(hot_raw_commit_lazily, warm_raw_lazily, (link: &mut RawLink, count: u64), {
    for _ in 0..count {
        let mut claim = link.claim(LEN, LONG)?;
        claim.payload().copy_from_slice(&[7; LEN]);
        claim.commit_lazily(Header::default());
    }
    Ok(())
});

hot_and_warm!(hot_raw_commit_batch, warm_raw_batch, (link: &mut RawLink, count: u64), {
    let mut left = count as usize;
    while left > 0 {
        let mut batch = link.claim_batch(LEN, left.min(BATCH), LONG)?;
        for index in 0..batch.len() {
            batch.payload(index).copy_from_slice(&[7; LEN]);
        }
        left -= batch.len();
        batch.commit(|_| Header::default());
    }
    Ok(())
});

hot_and_warm!(hot_raw_drain, warm_drain, (link: &mut RawLink, count: u64), {
    let mut left = count as usize;
    while left > 0 {
        let mut copied = Ok(());
        left -= link.drain(left.min(BATCH), LONG, |_, payload| {
            let mut message = [0; LEN];
            if let Err(error) = payload.copy_to(&mut message) {
                copied = Err(error);
            }
            std::hint::black_box(&message);
        })?;
        copied?;
    }
    Ok(())
});

hot_and_warm!(hot_raw_recv, warm_raw_recv, (link: &mut RawLink, count: u64), {
    for _ in 0..count {
        let frame = link.recv(LONG)?;
        let mut message = [0; LEN];
        frame.payload().copy_to(&mut message)?;
        std::hint::black_box(&message);
    }
    Ok(())
});

hot_and_warm!(
    hot_channel_submit,
    warm_submit,
    (channel: &Channel, count: u64, pending: &mut Vec<Pending>),
    {
        for _ in 0..count {
            pending.push(channel.submit(ECHO, &[7; LEN], LONG)?);
        }
        Ok(())
    }
);

hot_and_warm!(
    hot_channel_wait,
    warm_wait,
    (pending: &mut impl Iterator<Item = Pending>, count: u64),
    {
        for pending in pending.take(count as usize) {
            let reply = pending.wait()?;
            let mut message = [0; LEN];
            reply.payload().copy_to(&mut message)?;
            std::hint::black_box(&message);
        }
        Ok(())
    }
);

hot_and_warm!(hot_channel_chunk, warm_chunk, (chunks: &mut Stream, count: u64), {
    for chunk in chunks.take(count as usize) {
        std::hint::black_box(chunk?.payload());
    }
    Ok(())
});

/// Runs the other side, and a worker that is counted.
fn serve(args: &[&str]) -> io::Result<()> {
    match *args {
        ["channel"] => Ok(channel_worker(Duration::ZERO, WARM + frames("channel-chunk")).serve()?),
        ["worker-call" | "worker-chunk", count] => {
            let count = count.parse().map_err(io::Error::other)?;
            // The parent sends all of its requests meanwhile.
            hot_worker(channel_worker(NAP_TIME, count))
        }
        _ => serve_raw(args),
    }
}

#[inline(never)]
fn hot_worker(worker: Worker<()>) -> io::Result<()> {
    Ok(worker.serve()?)
}

fn channel_worker(load_time: Duration, chunk_count: u64) -> Worker<()> {
    Worker::new(move |_| {
        std::thread::sleep(load_time);
        Ok(())
    })
    .on(ECHO, |(), request, responder| {
        let mut slot = responder.claim(request.len())?;
        request.payload().copy_to(slot.payload())?;
        Ok(slot.send())
    })
    .on(CHUNKS, move |(), _, responder| {
        let mut chunks = responder.stream();
        for _ in 0..chunk_count {
            chunks.send(&[7; CHUNK][..])?;
        }
        std::thread::sleep(NAP_TIME);
        Ok(chunks.end()?)
    })
    .on(NAP, |(), _, responder| {
        std::thread::sleep(NAP_TIME);
        Ok(responder.send(&())?)
    })
}

fn serve_raw(args: &[&str]) -> io::Result<()> {
    let (mut link, _) = worker::attach_raw()?;
    if args.first() == Some(&"fill") {
        for _ in 0..WARM + frames("raw-recv").max(frames("raw-drain")) {
            let claim = link.claim(LEN, LONG)?;
            claim.commit_lazily(Header::default());
        }
        link.flush();
    }
    // Until the parent closes the link, when it is done.
    std::thread::sleep(2 * NAP_TIME);
    while link.recv(LONG).is_ok() {}
    Ok(())
}
