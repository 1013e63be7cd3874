//! Continuous batching: a worker whose engine advances all open streams by one step at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::common::*;
use slipring::worker::{ChunkMerger, HandlerError, Incoming, StepEngine, Worker};
use slipring::{
    Channel, Config, Error, ErrorKind, Kind, RoleConfig, Stream, StreamTimeouts, WorkerState,
    testing,
};

const WORK: Kind = Kind::named("work");

/// A stream: the name that its request has in the tests, what it still has to say, its chunks.
struct Open {
    name: u64,
    numbers: std::ops::Range<u64>,
    chunks: ChunkMerger,
}

/// What the tests see of the engine.
#[derive(Default)]
struct Seen {
    added: Mutex<Vec<u64>>,
    /// The streams that each step advanced.
    steps: Mutex<Vec<Vec<u64>>>,
    step_count: AtomicUsize,
    most_unsent: AtomicUsize,
    largest: AtomicUsize,
}

/// Says numbers: for a request with the name `n` and the length `len`, those from `n * 1000` on.
struct Counter {
    open: Vec<Open>,
    capacity: usize,
    max_unsent: usize,
    seen: Arc<Seen>,
    /// A step waits for one of these, until the test drops its end.
    gate: Option<mpsc::Receiver<()>>,
}

impl StepEngine for Counter {
    fn add_request(&mut self, incoming: Incoming) -> Result<(), HandlerError> {
        let Incoming { request, responder } = incoming;
        assert!(responder.is_begun());
        let asked = request.get().to_vec();
        match asked.as_slice() {
            b"fail" => return Err("it cannot be opened".into()),
            b"panic" => panic!("it panics when it is opened"),
            _ => {}
        }
        let [name, len] = numbers(&asked)[..] else { return Err("two numbers".into()) };
        self.seen.added.lock().unwrap().push(name);
        let chunks = ChunkMerger::new(responder, self.max_unsent);
        self.open.push(Open { name, numbers: name * 1000..name * 1000 + len, chunks });
        self.seen.largest.fetch_max(self.open.len(), Ordering::Relaxed);
        Ok(())
    }

    fn step(&mut self) -> Result<(), HandlerError> {
        // Before it ends a stream, of which a test may be told at once.
        self.seen.step_count.fetch_add(1, Ordering::Relaxed);
        if let Some(gate) = &self.gate {
            self.seen.steps.lock().unwrap().push(self.open.iter().map(|o| o.name).collect());
            let _ = gate.recv();
        }
        for Open { name, numbers, chunks } in &mut self.open {
            match *name {
                777 => return Err("the model is gone".into()),
                778 => panic!("the model panics"),
                _ => {}
            }
            if numbers.is_empty() {
                chunks.finish();
            } else if chunks.push(&numbers.start.to_le_bytes()) {
                numbers.start += 1;
            }
            self.seen.most_unsent.fetch_max(chunks.unsent(), Ordering::Relaxed);
        }
        self.open.retain(|open| !open.chunks.is_over());
        Ok(())
    }

    fn has_capacity(&self) -> bool {
        self.open.len() < self.capacity
    }

    fn has_finished(&self) -> bool {
        self.open.is_empty()
    }
}

/// A channel to an engine of so many streams.
fn channel(config: &Config, capacity: usize) -> (Channel, Arc<Seen>) {
    serve(config, capacity, 1000, None)
}

/// A channel to an engine whose steps wait for the test.
fn gated(config: &Config, capacity: usize) -> (Channel, Arc<Seen>, mpsc::Sender<()>) {
    let (open, gate) = mpsc::channel();
    let (channel, seen) = serve(config, capacity, 1000, Some(gate));
    (channel, seen, open)
}

fn serve(
    config: &Config,
    capacity: usize,
    max_unsent: usize,
    gate: Option<mpsc::Receiver<()>>,
) -> (Channel, Arc<Seen>) {
    let seen = Arc::<Seen>::default();
    let engine = Counter { open: Vec::new(), capacity, max_unsent, seen: Arc::clone(&seen), gate };
    let make = move || Worker::new(|_| Ok(engine)).steps();
    (testing::spawn_thread(config, RoleConfig::default(), make).unwrap(), seen)
}

fn stream(channel: &Channel, name: u64, len: u64) -> Stream {
    channel.stream(WORK, &encode(&[name, len]), StreamTimeouts::from(LONG)).unwrap()
}

/// The next numbers of a stream, at least so many.
fn next(stream: &mut Stream, count: usize) -> Vec<u64> {
    let mut bytes = Vec::new();
    while bytes.len() < count * 8 {
        bytes.extend(stream.next_chunk().unwrap().unwrap().to_vec());
    }
    numbers(&bytes)
}

fn rest(stream: Stream) -> Result<Vec<u64>, Error> {
    let mut bytes = Vec::new();
    for chunk in stream {
        bytes.extend(chunk?.to_vec());
    }
    Ok(numbers(&bytes))
}

fn expected(name: u64, len: u64) -> Vec<u64> {
    (name * 1000..name * 1000 + len).collect()
}

/// All that a worker that has nothing to do says of itself.
fn is_as_new(channel: &Channel) -> bool {
    let health = channel.health();
    health.state == WorkerState::Idle
        && (health.taken, health.begun, channel.in_flight()) == (0, 0, 0)
}

#[test]
fn streams_join_and_leave_between_two_steps() {
    let (channel, seen, open) = gated(&Config::small(), 8);
    let mut first = stream(&channel, 1, 3);
    open.send(()).unwrap();
    assert_eq!(next(&mut first, 1), [1000]);
    eventually("the second step waits", || seen.steps.lock().unwrap().len() == 2);
    let mut second = stream(&channel, 2, 5);
    open.send(()).unwrap();
    assert_eq!(next(&mut first, 1), [1001]);
    open.send(()).unwrap();
    assert_eq!((next(&mut first, 1), next(&mut second, 1)), (vec![1002], vec![2000]));
    drop(open);
    assert!(rest(first).unwrap().is_empty());
    assert_eq!(rest(second).unwrap(), [2001, 2002, 2003, 2004]);
    let steps = seen.steps.lock().unwrap();
    let both = vec![1, 2];
    assert_eq!(steps[..4], [vec![1], vec![1], both.clone(), both]);
    assert!(steps[4..].iter().all(|open| open == &[2]), "{steps:?}");
}

#[test]
fn what_is_over_the_capacity_waits_and_joins_in_order() {
    let (channel, seen) = channel(&Config::small(), 3);
    let streams: Vec<_> = (0..20).map(|name| stream(&channel, name, 5)).collect();
    for (name, stream) in (0..).zip(streams) {
        assert_eq!(rest(stream).unwrap(), expected(name, 5));
    }
    assert_eq!(*seen.added.lock().unwrap(), (0..20).collect::<Vec<_>>());
    assert_eq!(seen.largest.load(Ordering::Relaxed), 3);
}

#[test]
fn nothing_sleeps_while_a_stream_is_open_and_no_step_runs_while_none_is() {
    let (channel, seen) = channel(&Config::small(), 3);
    let count = || seen.step_count.load(Ordering::Relaxed);
    // Its reader does not read, so that it stays open, and nothing comes that would wake a sleeper.
    let stuck = stream(&channel, 1, 100_000);
    eventually("steps run on and on", || count() > 20_000);
    drop(stuck);
    eventually("it has left", || is_as_new(&channel));
    let before = count();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(count(), before);
    assert_eq!(rest(stream(&channel, 2, 5)).unwrap(), expected(2, 5));
}

#[test]
fn an_engine_without_capacity_gets_a_request_if_nothing_is_open() {
    let (channel, _) = channel(&Config::small(), 0);
    for name in 0..3 {
        assert_eq!(rest(stream(&channel, name, 5)).unwrap(), expected(name, 5));
    }
}

#[test]
fn a_client_that_leaves_changes_nothing_for_the_31_others() {
    let (channel, seen, open) = gated(&Config::small(), 32);
    let mut streams: Vec<_> = (0..32).map(|name| stream(&channel, name, 200)).collect();
    // The first step waits with one of them, or with more.
    open.send(()).unwrap();
    assert_eq!(next(&mut streams[0], 1), [0]);
    for _ in 0..10 {
        open.send(()).unwrap();
    }
    eventually("all are open", || seen.steps.lock().unwrap().len() > 10);
    let leaver = streams.remove(13);
    leaver.cancel();
    drop(leaver);
    drop(open);
    streams.into_iter().zip((0..32).filter(|name| *name != 13)).for_each(|(stream, name)| {
        let skipped = if name == 0 { 1 } else { 0 };
        assert_eq!(rest(stream).unwrap(), expected(name, 200)[skipped..], "{name}");
    });
    eventually("it has left", || is_as_new(&channel));
    assert_eq!(seen.largest.load(Ordering::Relaxed), 32);
}

#[test]
fn a_reader_that_stops_costs_bounded_memory_and_holds_up_none() {
    let (channel, seen) = serve(&Config::small(), 8, 500, None);
    let slow = stream(&channel, 1, 900);
    let stuck = stream(&channel, 2, 10_000);
    for name in 3..23 {
        assert_eq!(rest(stream(&channel, name, 900)).unwrap(), expected(name, 900), "{name}");
    }
    let most = seen.most_unsent.load(Ordering::Relaxed);
    assert!((400..=500).contains(&most), "{most} bytes were kept");
    // What was kept comes whole and in order, once it is read.
    assert_eq!(rest(slow).unwrap(), expected(1, 900));
    drop(stuck);
    eventually("it has left", || is_as_new(&channel));
}

#[test]
fn a_deadline_in_the_queue_fires_although_a_step_takes_long() {
    let (channel, seen, open) = gated(&Config::small(), 1);
    let mut busy = stream(&channel, 1, 3);
    eventually("the step waits", || !seen.steps.lock().unwrap().is_empty());
    let short = Duration::from_millis(30);
    let late = channel.call(WORK, &encode(&[2, 1]), short).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout, "{late}");
    assert!(late.to_string().contains("had not been taken out of the request ring"), "{late}");
    // One that no thread waits for, and whose deadline the worker alone looks at.
    let unseen = channel.submit(WORK, &encode(&[3, 1]), short).unwrap();
    let cancelled = channel.submit(WORK, &encode(&[4, 1]), LONG).unwrap();
    cancelled.cancel();
    std::thread::sleep(short);
    drop(open);
    assert_eq!(next(&mut busy, 3), expected(1, 3));
    assert!(rest(busy).unwrap().is_empty());
    assert_eq!(rest(stream(&channel, 5, 2)).unwrap(), expected(5, 2));
    assert_eq!(unseen.wait().unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(cancelled.wait().unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(*seen.added.lock().unwrap(), [1, 5]);
}

#[test]
fn a_request_that_cannot_be_opened_ends_alone_with_its_error() {
    let (channel, _, open) = gated(&Config::small(), 8);
    let healthy = stream(&channel, 1, 5);
    let failed = channel.submit(WORK, "fail", LONG).unwrap();
    let panicked = channel.submit(WORK, "panic", LONG).unwrap();
    let odd = channel.submit(WORK, "odd", LONG).unwrap();
    drop(open);
    let failure = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::HandlerFailed, "{error}");
        error.handler_failure().unwrap().clone()
    };
    assert_eq!(failure(failed.wait().unwrap_err()).message, "it cannot be opened");
    let panic = failure(panicked.wait().unwrap_err());
    assert_eq!((&*panic.type_name, &*panic.message), ("panic", "it panics when it is opened"));
    assert_eq!(failure(odd.wait().unwrap_err()).message, "two numbers");
    assert_eq!(rest(healthy).unwrap(), expected(1, 5));
    assert!(channel.ping(LONG).unwrap().last_error.unwrap().contains("two numbers"));
}

/// All open requests, and the channel, end with what a step fails with.
fn step_ends(name: u64, type_name: &str, message: &str) {
    let (channel, seen, open) = gated(&Config::small(), 8);
    let healthy = stream(&channel, 1, 500);
    let bad = stream(&channel, name, 5);
    open.send(()).unwrap();
    eventually("both are open", || seen.steps.lock().unwrap().contains(&vec![1, name]));
    drop(open);
    for stream in [healthy, bad] {
        let error = rest(stream).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HandlerFailed, "{error}");
        let failure = error.handler_failure().unwrap();
        assert_eq!((&*failure.type_name, &*failure.message), (type_name, message));
    }
    eventually("the channel has failed", || channel.ping(LONG).is_err());
    let error = channel.call(WORK, "", LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Session, "{error}");
    assert!(error.to_string().contains(message), "{error}");
}

#[test]
fn an_error_of_a_step_ends_all_that_is_open_and_the_worker() {
    step_ends(777, "error", "the model is gone");
}

#[test]
fn a_panic_of_a_step_ends_all_that_is_open_and_the_worker() {
    step_ends(778, "panic", "the model panics");
}

#[test]
fn a_worker_that_is_full_sees_that_it_is_to_end() {
    let (channel, seen) = channel(&Config::small(), 1);
    let stuck = stream(&channel, 1, 1_000_000);
    let queued = stream(&channel, 2, 1);
    eventually("it is open", || seen.step_count.load(Ordering::Relaxed) > 10);
    channel.close(LONG).unwrap();
    assert!(rest(stuck).is_err() && rest(queued).is_err());
    assert_eq!(*seen.added.lock().unwrap(), [1]);
}

#[test]
fn after_a_long_overload_all_is_as_before() {
    let (channel, _) = channel(&Config::small(), 4);
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let channel = &channel;
            scope.spawn(move || {
                for round in 0..60 {
                    let name = thread * 100 + round;
                    let asked = encode(&[name, 20]);
                    // Most give up in the queue or half-way; they must leave nothing behind.
                    let patience = Duration::from_micros(200 * (round % 8));
                    match channel.stream(WORK, &asked, patience) {
                        Ok(mut stream) if round % 3 == 0 => drop(stream.next_chunk()),
                        Ok(stream) => drop(rest(stream)),
                        // Those that timed out are in flight until the engine has seen it.
                        Err(error) => assert!(
                            error.is_timeout() || error.kind() == ErrorKind::TooManyInFlight,
                            "{error}"
                        ),
                    }
                }
            });
        }
    });
    eventually("nothing is left", || is_as_new(&channel));
    let streams: Vec<_> = (0..20).map(|name| stream(&channel, name, 50)).collect();
    for (name, stream) in (0..).zip(streams) {
        assert_eq!(rest(stream).unwrap(), expected(name, 50));
    }
    eventually("nothing is left again", || is_as_new(&channel));
}
