//! Spawners, channels in the states that tests start from, and questions to a channel.

use std::time::Duration;

use slipring::{
    Channel, Config, ConfigBuilder, Error, ErrorKind, ExitCause, Kind, Pending, RequestHealth,
    RequestStage, Spawner,
};

use super::*;

/// A spawner of workers that serve every kind of [`worker`], with default rings.
pub fn spawner() -> Spawner {
    Spawner::current_exe().unwrap().args(only("worker_entry")).role("test")
}

/// A spawner of workers that run the test `entry` of this binary, with default rings and role.
pub fn spawner_of(entry: impl Fn()) -> Spawner {
    Spawner::current_exe().unwrap().args(only(name_of(entry)))
}

/// As [`spawner`], with [`Config::small`].
pub fn small() -> Spawner {
    spawner().config(Config::small())
}

/// As [`spawner`], with rings of 4 KiB, which are soon full.
pub fn in_4_kib() -> Spawner {
    spawner().config(tiny(4 << 10).build().unwrap())
}

/// Rings of so many bytes, with frames as long as they can be.
pub fn tiny(ring: usize) -> ConfigBuilder {
    let frame = ring / 2 - 32;
    let builder = Config::builder().request_ring(ring).reply_ring(ring);
    builder.max_request_frame(frame).max_reply_frame(frame).max_message(1 << 20)
}

/// A channel to a worker process that serves every kind of [`worker`].
pub fn spawn(config: Config) -> Channel {
    Backend::Memfd.spawn(config)
}

/// A channel whose worker has built its session.
pub fn ready(spawner: &Spawner) -> Channel {
    let channel = spawner.spawn().unwrap();
    channel.wait_ready(LONG).unwrap();
    channel
}

/// A channel whose worker runs a handler that never returns, and that handler's request.
pub fn stuck(spawner: &Spawner) -> (Channel, Pending) {
    let channel = spawner.spawn().unwrap();
    let pending = channel.submit(FOR_EVER, b"", Duration::MAX).unwrap();
    until_served(&channel, &pending);
    (channel, pending)
}

/// Waits until the handler of a request runs. Others may have begun before it.
pub fn until_served(channel: &Channel, pending: &Pending) {
    let is_this = |request: &RequestHealth| {
        request.id == pending.id() && request.stage == RequestStage::Begun
    };
    eventually("it is served", || channel.health().requests.iter().any(is_this));
}

/// Makes an ordinary call, which must succeed.
pub fn assert_usable(channel: &Channel) {
    let bytes = pattern(channel.stats().cancels, 777);
    let reply = channel.call(ECHO, &bytes, LONG).unwrap();
    assert_eq!(reply.to_vec(), bytes);
}

/// Closes a channel, and panics if that takes much longer than its timeout.
pub fn close(channel: &Channel, timeout: Duration) -> ExitCause {
    within_long("close", || channel.close(timeout)).unwrap()
}

/// The error of a spawn, which must fail.
pub fn refused(spawner: &Spawner) -> Error {
    within_long("spawn", || spawner.spawn()).map(drop).unwrap_err()
}

/// Waits until an error of a dead worker says how the worker ended.
pub fn cause_of(error: &Error) -> ExitCause {
    eventually("the cause is known", || error.death().unwrap().cause().is_some());
    error.death().unwrap().cause().unwrap()
}

/// Whether an operation was refused because this process is a forked child.
pub fn is_forked<T>(result: slipring::Result<T>) -> bool {
    let kind = result.err().map(|error| error.kind());
    if kind != Some(ErrorKind::Forked) {
        eprintln!("got {kind:?}");
    }
    kind == Some(ErrorKind::Forked)
}

/// The reply to a request without payload, as text.
pub fn ask(channel: &Channel, kind: Kind) -> String {
    String::from_utf8(channel.call(kind, b"", LONG).unwrap().to_vec()).unwrap()
}

/// The values of a key in the `key=value` lines that [`SELF`] replies with.
pub fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// The variable by which a worker process serves requests on several threads.
pub const THREADS: &str = "SLIPRING_TEST_THREADS";

/// Serves if this process is a worker; otherwise returns at once.
pub fn serve_if_worker() {
    #[cfg(feature = "named")]
    named::serve_if_worker();
    if !slipring::worker::is_worker() {
        return;
    }
    let worker = match std::env::var_os(THREADS) {
        Some(_) => worker_with_threads(),
        None => worker(),
    };
    let serve = || worker.serve();
    #[cfg(feature = "tokio")]
    let serve = || match std::env::var_os(TASKS) {
        Some(_) => serve_with_tasks(),
        None => serve(),
    };
    if let Err(error) = serve() {
        eprintln!("worker: {error}");
        std::process::exit(9);
    }
}

/// Declares the test that is the worker.
macro_rules! worker_entry {
    () => {
        /// Not a test of its own: what a worker process runs.
        #[test]
        fn worker_entry() {
            common::serve_if_worker();
        }
    };
}
pub(crate) use worker_entry;
