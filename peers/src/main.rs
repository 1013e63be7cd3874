//! The workloads of `slipring bench`, with slipring's peers among the contenders.
//!
//!     cargo run --release -- [--quick] [--json] [--only W1,W3]
//!
//! The loops on both sides, the checks of every byte, the probes and the ratios are
//! those of `slipring-bench`; here are only the ends. Each uses the fastest interface of
//! its library that loses nothing. In these runs the limit of a row is the best of its
//! limits and of the peers.

mod iceoryx;
mod ipc;
mod ringfires;
mod shmem;

use std::fmt::Debug;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use slipring_bench::end::End;
use slipring_bench::links::{self, WORKER};
use slipring_bench::measure::{Case, Contender, Role};
use slipring_bench::work::{EMBED_REPLY, Session, Work};
use slipring_bench::{Options, cases};

/// Bytes of messages that a ring should hold.
const RING: usize = 4 << 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == WORKER) {
        return worker(args.get(1..).unwrap_or_default());
    }
    let mut options = Options::default();
    let mut is_json = false;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--quick" => options.is_quick = true,
            "--json" => is_json = true,
            "--only" => {
                let names = rest.next().map(String::as_str).unwrap_or_default();
                options.only = names.split(',').map(str::to_owned).collect();
            }
            _ => {
                eprintln!("usage: slipring-peers [--quick] [--json] [--only W1,...]");
                return ExitCode::from(2);
            }
        }
    }
    let mut all = cases::all(options.is_quick);
    all.retain(|case| case.workload != "W6");
    for case in &mut all {
        case.contenders.extend(peers(case));
    }
    match slipring_bench::run(&options, all, |what| eprintln!("{what} ...")) {
        Ok(report) => {
            print!("{}", if is_json { report.json() } else { report.table() });
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("slipring-peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn worker(args: &[String]) -> ExitCode {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let served = match *words.as_slice() {
        ["ringfire", path, wait] => ringfires::serve_ring(path, wait == "block"),
        ["ringfire-blob", path, len] => ringfires::serve_blob(path, number(len)),
        ["shmem-ipc", fds, len, wait] => shmem::serve(fds, number(len), wait == "block"),
        ["iceoryx2", name, len, wait] => iceoryx::serve(name, number(len), wait == "block"),
        ["ipc-channel", name] => ipc::serve(name),
        _ => return slipring_bench::worker_main(args),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slipring-peers: worker {}: {error}", words.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or(0)
}

/// Returns the other contenders that can do the work of this case.
fn peers(case: &Case) -> Vec<Contender> {
    let peer = |name: &str, start: Box<dyn Fn() -> io::Result<Box<dyn Session>>>| {
        Contender::new(name, Role::Peer, start)
    };
    let is_blocking = case.work.sleeps() || !case.is_pinned;
    let len = match case.work {
        Work::Embed | Work::EmbedTyped => EMBED_REPLY,
        other => other.piece().max(64),
    };
    let mut peers = Vec::new();
    if len <= ringfires::SMALL {
        let start = move || ringfires::ring(is_blocking);
        peers.push(peer("ringfire", Box::new(start)));
    } else if !is_blocking {
        // Its blobs cannot be waited for.
        peers.push(peer("ringfire blob", Box::new(move || ringfires::blob(len))));
    }
    peers.push(peer("shmem-ipc", Box::new(move || shmem::start(len, is_blocking))));
    peers.push(peer("iceoryx2", Box::new(move || iceoryx::start(len, is_blocking))));
    peers.push(peer("ipc-channel", Box::new(ipc::start)));
    peers
}

/// An error of a library.
fn failed(error: impl Debug) -> io::Error {
    io::Error::other(format!("{error:?}"))
}

/// Tries until it works, for at most five seconds.
fn retry<T, E: Debug>(mut attempt: impl FnMut() -> Result<T, E>) -> io::Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(found) => return Ok(found),
            Err(error) if start.elapsed() > Duration::from_secs(5) => return Err(failed(error)),
            Err(_) => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

/// Looks until something is there; gives up after half a minute.
#[inline]
fn spin<T>(mut look: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    let mut looks = 0_u32;
    let mut start = None;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        std::hint::spin_loop();
        looks += 1;
        if looks.is_multiple_of(1 << 20)
            && start.get_or_insert_with(Instant::now).elapsed() > Duration::from_secs(30)
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// A name that no other session has.
fn unique(what: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("slipring-peers-{}-{next}-{what}", std::process::id())
}

fn serve<E: End>(end: io::Result<E>) -> io::Result<()> {
    links::serve_over(end)
}
