//! Measures what the thread of the status page costs a host with 200 channels: processor time, and how
//! often it looks. Takes a minute and a half, on a machine that does nothing else.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a program that measures"
)]

use std::fs;
use std::time::{Duration, Instant};

use slipring::worker::{self, Worker};
use slipring::{Channel, Kind, Spawner, status_page};

const ECHO: Kind = Kind::named("echo");
const STAY: Kind = Kind::named("stay");
const LONG: Duration = Duration::from_secs(60);

fn serve() {
    Worker::new(|_| Ok(()))
        .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?))
        .on(STAY, |(), request, responder| {
            while !request.is_cancelled() {
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(responder.send("")?)
        })
        .serve()
        .unwrap();
}

fn spawn() -> Channel {
    Spawner::current_exe().unwrap().role("status").spawn().unwrap()
}

/// The processor time of the thread, and how often it has looked.
fn spent() -> (Duration, u64) {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path());
    let is_it = |path: &std::path::PathBuf| {
        fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "slipring-status")
    };
    let thread = tasks.into_iter().find(is_it).unwrap();
    let times = fs::read_to_string(thread.join("schedstat")).unwrap();
    let nanos = times.split(' ').next().unwrap().parse().unwrap();
    let status = fs::read_to_string(thread.join("status")).unwrap();
    let sleeps = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    (Duration::from_nanos(nanos), sleeps.unwrap().trim().parse().unwrap())
}

fn measure(what: &str, work: impl FnOnce()) {
    let before = spent();
    work();
    let now = spent();
    println!("{what}: {:?}, {} sleeps", now.0 - before.0, now.1 - before.1);
}

fn main() {
    if worker::is_worker() {
        return serve();
    }
    let channels: Vec<_> = (0..200).map(|_| spawn()).collect();
    for channel in &channels {
        channel.call(ECHO, "x", LONG).unwrap();
    }
    let is_shown = || {
        let host = status_page::host(std::process::id()).unwrap();
        host.is_some_and(|host| host.rows.len() == channels.len())
    };
    while !is_shown() {
        std::thread::sleep(Duration::from_millis(10));
    }
    measure("idle, in the first 30 s after use", || std::thread::sleep(Duration::from_secs(30)));
    measure("one of them busy all the time, 10 s", || {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            channels[0].call(ECHO, "x", LONG).unwrap();
        }
    });
    let pending: Vec<_> =
        channels.iter().map(|channel| channel.submit(STAY, "", LONG).unwrap()).collect();
    measure("a request in flight on each, 20 s", || std::thread::sleep(Duration::from_secs(20)));
    drop(pending);
}
