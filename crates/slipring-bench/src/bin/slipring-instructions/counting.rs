//! The paths, how they are run, and the comparison with the baseline.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use slipring::ring::Header;
use slipring::worker::{self, Worker};
use slipring::{Channel, ExitCause, Kind, Pending, RawLink, Spawner, Stream};
use slipring_bench::counts::{self, Counts, mark};
use slipring_bench::limits::sys;

/// The paths, and the number of frames or requests of each.
const PATHS: [(&str, u64); 13] = [
    ("raw-commit", 640),
    ("raw-commit-lazily", 640),
    ("raw-commit-batch", 640),
    ("raw-recv", 640),
    ("raw-drain", 640),
    ("channel-submit", 400),
    ("channel-wait", 400),
    ("channel-chunk", 400),
    ("channel-short", 640),
    ("channel-batch", 640),
    ("worker-call", 400),
    ("worker-chunk", 400),
    ("worker-batch", 640),
];
const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.txt");
/// What a baseline is written with.
const HEAD: &str = "\
# Counts for one frame, request or chunk of 64 bytes; of channel-chunk and worker-chunk, for one chunk
# of 1 KiB. Of the parent, and of a worker with serial handlers. Written by `slipring-instructions
# --update`; holds for one compiler and processor family. Lines are those of shared memory that are
# written to.
";
/// How much more instructions than its baseline a path may take. What else is counted does not
/// change with the compiler, and may not become more at all.
const TOLERANCE: f64 = 0.05;
/// The most instructions of one path, with the start and the end of a worker.
const MOST: usize = 2_000_000;

const LEN: usize = 64;
/// Frames of a batch.
const BATCH: usize = 32;
/// The length of a chunk that is no short one.
const CHUNK: usize = 1024;
/// A multiple of the batch.
const WARM: u64 = 96;
/// Passes only if something hangs: each instruction stops the process, and others may have the processors.
const LONG: Duration = Duration::from_secs(600);
const ECHO: Kind = Kind::named("echo");
const NAP: Kind = Kind::named("nap");
const CHUNKS: Kind = Kind::named("chunks");
/// Short chunks, sent as a batch.
const BATCHES: Kind = Kind::named("batches");
/// Long enough for what the other side does meanwhile.
const NAP_TIME: Duration = Duration::from_millis(1500);

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match *args.as_slice() {
        _ if worker::is_worker() => serve(&args),
        ["path", path, file] => parent(path).and_then(|windows| save(&windows, file)),
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

/// The counts of a path for one frame, in the order of [`Counts::NAMES`].
type Row = [f64; Counts::NAMES.len()];

fn compare(is_update: bool) -> io::Result<()> {
    if !can_count()? {
        println!("SKIPPED: this system does not run single instructions; nothing was counted");
        return Ok(());
    }
    if cfg!(debug_assertions) {
        return Err(io::Error::other("build it with --release"));
    }
    let known = fs::read_to_string(BASELINE).unwrap_or_default();
    let mut text = HEAD.to_owned();
    let head = |first: &str| {
        let names = Counts::NAMES.iter();
        names.fold(format!("{first:18}"), |line, name| format!("{line} {name:>12}"))
    };
    let _ = writeln!(text, "{}", head("#"));
    println!("{}", head(""));
    let mut wrong = Vec::new();
    for (path, count) in PATHS {
        let file = output_file();
        let counted = if path.starts_with("worker") {
            count_worker(path, WARM + count, &file)
        } else {
            count_parent(path, &file)
        };
        let saved = fs::read_to_string(&file);
        let _ = fs::remove_file(&file);
        counted?;
        let found = row(saved?.trim())
            .ok_or_else(|| io::Error::other(format!("{path}: no counts were saved")))?;
        let shown = shown(&found);
        let _ = writeln!(text, "{path:18}{shown}");
        println!("{path:18}{shown}");
        let baseline = known.lines().find_map(|line| row(line.strip_prefix(path)?));
        let changes = changes(&found, baseline.as_ref());
        for change in &changes {
            println!("{:18} {}", "", change.text);
        }
        wrong.extend(changes.iter().any(|change| change.is_worse).then_some(path));
    }
    if is_update {
        fs::write(BASELINE, text)?;
    } else if !wrong.is_empty() {
        let message = format!(
            "{}: more than the baseline allows; if that is meant, run it with --update and commit it",
            wrong.join(", "),
        );
        return Err(io::Error::other(message));
    }
    Ok(())
}

/// Whether single instructions can be recorded here at all.
fn can_count() -> io::Result<bool> {
    counts::begin(1000)?;
    mark();
    mark();
    Ok(counts::end()?.len() == 1)
}

fn shown(row: &Row) -> String {
    row.iter().fold(String::new(), |line, value| format!("{line} {value:>12.2}"))
}

/// Reads what [`shown`] has written.
fn row(text: &str) -> Option<Row> {
    let values: Option<Vec<f64>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
    values?.try_into().ok()
}

/// A difference from the baseline.
struct Change {
    text: String,
    is_worse: bool,
}

fn changes(found: &Row, baseline: Option<&Row>) -> Vec<Change> {
    let Some(baseline) = baseline else {
        let text = "has no baseline: run it with --update".to_owned();
        return vec![Change { text, is_worse: true }];
    };
    let mut changes = Vec::new();
    for (name, (found, baseline)) in Counts::NAMES.iter().zip(found.iter().zip(baseline)) {
        // Both are rounded to hundredths.
        let allowed = 0.015 + if *name == "instructions" { TOLERANCE * baseline } else { 0.0 };
        let change = found - baseline;
        if change.abs() > allowed {
            let is_worse = change > 0.0;
            let hint = if is_worse { "" } else { ": run it with --update to keep that" };
            let text = format!("{name}: {baseline:.2} before, {found:.2} now{hint}");
            changes.push(Change { text, is_worse });
        }
    }
    changes
}

fn output_file() -> PathBuf {
    std::env::temp_dir().join(format!("slipring-counts-{}", std::process::id()))
}

/// Counts a path of the parent.
fn count_parent(path: &str, file: &Path) -> io::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    match command.args(["path", path]).arg(file).status()?.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{path} failed"))),
    }
}

/// Counts a worker that finds `count` requests, or a request for `count` chunks, in its ring when
/// it starts, and ends when it has answered them.
fn count_worker(path: &str, count: u64, file: &Path) -> io::Result<()> {
    let channel =
        spawner(path)?.args([&count.to_string()]).arg(file).handshake_timeout(LONG).spawn()?;
    // The replies stay in the ring until the worker has sent all of them.
    if path == "worker-call" {
        let submitted: io::Result<Vec<Pending>> =
            (0..count).map(|_| Ok(channel.submit(ECHO, &[7; LEN], LONG)?)).collect();
        wait_until(|| channel.health().requests_served == count);
        for pending in submitted? {
            pending.wait()?;
        }
    } else {
        let (kind, len) = stream_of(path);
        let chunks = channel.stream(kind, &[], LONG)?;
        wait_until(|| channel.health().bytes_sent == count * len);
        for chunk in chunks {
            chunk?;
        }
    }
    match channel.close(LONG)? {
        ExitCause::Exited(0) => Ok(()),
        exit => Err(io::Error::other(format!("{path}: the worker ended with {exit:?}"))),
    }
}

/// The kind of request that a path streams for, and the length of its chunks.
fn stream_of(path: &str) -> (Kind, u64) {
    match path {
        "channel-chunk" | "worker-chunk" => (CHUNKS, CHUNK as u64),
        _ => (BATCHES, LEN as u64),
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
    Ok(Spawner::current_exe()?.arg(side).role("instructions"))
}

/// What was counted, and the frames in which that was done.
struct Counted {
    windows: Vec<Counts>,
    frames: u64,
}

/// Writes the counts of one frame to a file.
fn save(counted: &Counted, file: &str) -> io::Result<()> {
    let mut sum = Counts::default();
    counted.windows.iter().for_each(|window| sum += *window);
    let row = sum.values().map(|value| value as f64 / counted.frames as f64);
    fs::write(file, shown(&row))
}

/// Records what this thread does for `count` frames, while the worker stands still.
fn recorded(worker: u32, count: u64, work: impl FnOnce() -> io::Result<()>) -> io::Result<Counted> {
    sys::set_stopped(worker, true);
    counts::begin(MOST)?;
    let done = work();
    let windows = counts::end();
    sys::set_stopped(worker, false);
    done?;
    Ok(Counted { windows: windows?, frames: count })
}

/// Runs a path of the parent, and counts.
fn parent(path: &str) -> io::Result<Counted> {
    let count = frames(path);
    match path {
        "raw-commit" | "raw-commit-lazily" | "raw-commit-batch" => {
            let mut link = spawner("idle")?.spawn_raw()?;
            // The worker sleeps by now, or soon: a frame before that rings its bell once.
            std::thread::sleep(NAP_TIME / 10);
            let send = match path {
                "raw-commit" => raw_commit,
                "raw-commit-lazily" => raw_commit_lazily,
                _ => raw_commit_batch,
            };
            send(&mut link, WARM)?;
            let counted = recorded(link.pid(), count, || send(&mut link, count))?;
            link.close(LONG)?;
            Ok(counted)
        }
        "raw-recv" | "raw-drain" => {
            let mut link = spawner("fill")?.spawn_raw()?;
            std::thread::sleep(NAP_TIME / 2);
            let receive = if path == "raw-recv" { raw_recv } else { raw_drain };
            receive(&mut link, WARM)?;
            let counted = recorded(link.pid(), count, || receive(&mut link, count))?;
            link.close(LONG)?;
            Ok(counted)
        }
        "channel-submit" | "channel-wait" => {
            let channel = spawner("channel")?.spawn()?;
            channel.wait_ready(LONG)?;
            let mut pending = Vec::with_capacity(2000);
            // The worker sleeps in its handler, and sees nothing of what follows.
            let nap = channel.submit(NAP, &[], LONG)?;
            std::thread::sleep(NAP_TIME / 10);
            submit(&channel, WARM, &mut pending)?;
            if path == "channel-submit" {
                let work = || submit(&channel, count, &mut pending);
                let counted = recorded(channel.pid(), count, work)?;
                channel.close(LONG)?;
                return Ok(counted);
            }
            submit(&channel, count, &mut pending)?;
            nap.wait()?;
            wait_until(|| channel.health().requests_served >= WARM + count + 2);
            let mut pending = pending.into_iter();
            wait(&mut pending, WARM)?;
            let counted = recorded(channel.pid(), count, || wait(&mut pending, count))?;
            channel.close(LONG)?;
            Ok(counted)
        }
        "channel-chunk" | "channel-short" | "channel-batch" => {
            let channel = spawner(path)?.spawn()?;
            channel.wait_ready(LONG)?;
            let (kind, len) = stream_of(path);
            let mut chunks = channel.stream(kind, &[], LONG)?;
            // By then all replies are in the ring.
            wait_until(|| channel.health().bytes_sent >= (WARM + count) * len);
            let read = if path == "channel-batch" { read_batches } else { read_chunks };
            read_chunks(&mut chunks, WARM)?;
            let counted = recorded(channel.pid(), count, || read(&mut chunks, count))?;
            drop(chunks);
            channel.close(LONG)?;
            Ok(counted)
        }
        _ => Err(io::Error::other(format!("no path is called {path}"))),
    }
}

#[inline(never)]
fn raw_commit(link: &mut RawLink, count: u64) -> io::Result<()> {
    for _ in 0..count {
        mark();
        let mut claim = link.claim(LEN, LONG)?;
        claim.payload().copy_from_slice(&[7; LEN]);
        claim.commit(Header::default());
    }
    mark();
    Ok(())
}

#[inline(never)]
fn raw_commit_lazily(link: &mut RawLink, count: u64) -> io::Result<()> {
    for _ in 0..count {
        mark();
        let mut claim = link.claim(LEN, LONG)?;
        claim.payload().copy_from_slice(&[7; LEN]);
        claim.commit_lazily(Header::default());
    }
    mark();
    Ok(())
}

#[inline(never)]
fn raw_commit_batch(link: &mut RawLink, count: u64) -> io::Result<()> {
    let mut left = count as usize;
    while left > 0 {
        mark();
        let mut batch = link.claim_batch(LEN, left.min(BATCH), LONG)?;
        for index in 0..batch.len() {
            batch.payload(index).copy_from_slice(&[7; LEN]);
        }
        left -= batch.len();
        batch.commit(|_| Header::default());
    }
    mark();
    Ok(())
}

#[inline(never)]
fn raw_drain(link: &mut RawLink, count: u64) -> io::Result<()> {
    let mut left = count as usize;
    while left > 0 {
        mark();
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
    mark();
    Ok(())
}

#[inline(never)]
fn raw_recv(link: &mut RawLink, count: u64) -> io::Result<()> {
    for _ in 0..count {
        mark();
        let frame = link.recv(LONG)?;
        let mut message = [0; LEN];
        frame.payload().copy_to(&mut message)?;
        std::hint::black_box(&message);
    }
    mark();
    Ok(())
}

#[inline(never)]
fn submit(channel: &Channel, count: u64, pending: &mut Vec<Pending>) -> io::Result<()> {
    for _ in 0..count {
        mark();
        pending.push(channel.submit(ECHO, &[7; LEN], LONG)?);
    }
    mark();
    Ok(())
}

#[inline(never)]
fn wait(pending: &mut impl Iterator<Item = Pending>, count: u64) -> io::Result<()> {
    for pending in pending.take(count as usize) {
        mark();
        let reply = pending.wait()?;
        let mut message = [0; LEN];
        reply.payload().copy_to(&mut message)?;
        std::hint::black_box(&message);
    }
    mark();
    Ok(())
}

#[inline(never)]
fn read_chunks(chunks: &mut Stream, count: u64) -> io::Result<()> {
    for _ in 0..count {
        mark();
        let Some(chunk) = chunks.next() else { break };
        std::hint::black_box(chunk?.payload());
    }
    mark();
    Ok(())
}

#[inline(never)]
fn read_batches(chunks: &mut Stream, count: u64) -> io::Result<()> {
    let mut left = count;
    while left > 0 {
        mark();
        let Some(batch) = chunks.next_chunks()? else { break };
        for chunk in &batch {
            std::hint::black_box(chunk);
            left -= 1;
        }
    }
    mark();
    Ok(())
}

/// Runs the other side, and a worker that is counted.
fn serve(args: &[&str]) -> io::Result<()> {
    match *args {
        ["channel"] => Ok(channel_worker(0, || Ok(())).serve()?),
        [path @ ("channel-chunk" | "channel-short" | "channel-batch")] => {
            Ok(channel_worker(WARM + frames(path), || Ok(())).serve()?)
        }
        ["worker-call" | "worker-chunk" | "worker-batch", count, file] => {
            let count: u64 = count.parse().map_err(io::Error::other)?;
            channel_worker(count, || {
                // The parent sends all of its requests meanwhile.
                std::thread::sleep(NAP_TIME);
                Ok(counts::begin(MOST)?)
            })
            .serve()?;
            let mut windows = counts::end()?;
            // From one request or chunk to the next, once there were some.
            windows.drain(..WARM as usize);
            let frames = windows.len() as u64;
            save(&Counted { windows, frames }, file)
        }
        _ => serve_raw(args),
    }
}

fn channel_worker(
    chunk_count: u64,
    load: impl Fn() -> Result<(), worker::HandlerError> + Send + Sync + 'static,
) -> Worker<()> {
    Worker::new(move |_| load())
        .on(ECHO, |(), request, responder| {
            mark();
            let mut slot = responder.claim(request.len())?;
            request.payload().copy_to(slot.payload())?;
            Ok(slot.send())
        })
        .on(CHUNKS, move |(), _, responder| {
            let mut chunks = responder.stream();
            for _ in 0..chunk_count {
                mark();
                chunks.send(&[7; CHUNK][..])?;
            }
            mark();
            std::thread::sleep(NAP_TIME);
            Ok(chunks.end()?)
        })
        .on(BATCHES, move |(), _, responder| {
            let mut chunks = responder.stream();
            chunks.send_all((0..chunk_count).map(|_| {
                mark();
                &[7; LEN][..]
            }))?;
            mark();
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

#[cfg(test)]
mod tests {
    use super::*;

    const BASELINE: Row = [100.0, 1.0, 0.0, 0.0, 2.0, 3.0];

    fn is_refused(found: Row) -> bool {
        changes(&found, Some(&BASELINE)).iter().any(|change| change.is_worse)
    }

    #[test]
    fn one_more_of_anything_but_some_instructions_is_refused() {
        assert!(!is_refused(BASELINE));
        for index in 0..BASELINE.len() {
            let mut found = BASELINE;
            found[index] += if index == 0 { 6.0 } else { 0.02 };
            assert!(is_refused(found), "{}", Counts::NAMES[index]);
            let mut found = BASELINE;
            found[index] -= if index == 0 { 6.0 } else { 0.02 };
            assert!(!is_refused(found), "{}", Counts::NAMES[index]);
            assert_eq!(changes(&found, Some(&BASELINE)).len(), 1, "it is said");
        }
        let mut found = BASELINE;
        found[0] += 4.0;
        assert!(!is_refused(found), "within the tolerance");
        assert!(changes(&BASELINE, None)[0].is_worse, "a path without a baseline");
    }

    #[test]
    fn what_is_written_is_read_again() {
        assert_eq!(row(&shown(&BASELINE)), Some(BASELINE));
        assert_eq!(row("100.0"), None);
        assert_eq!(row("1 2 3 4 5 x"), None);
    }
}
