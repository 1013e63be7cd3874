//! What a worker of many requests can do after an overload is what it could do before it, in
//! counts: nothing that was given up, cancelled or refused has used up anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::*;
use slipring::worker::{Batches, HandlerError, OwnedResponder, Threads, Worker};
use slipring::{
    Channel, ConfigBuilder, ErrorKind, Kind, Pending, RoleConfig, StreamTimeouts, WorkerState,
    testing,
};

/// Answers with the request, or streams chunks of 100 bytes without an end.
const WORK: Kind = Kind::named("work");
/// Claims a slot and drops it.
const VOID: Kind = Kind::named("void");
/// Panics.
const PANIC: Kind = Kind::named("panic");

/// The most requests that are in flight, and that are taken at a time.
const PLACES: usize = 24;

fn config() -> ConfigBuilder {
    tiny(8 << 10).stream_window(2 << 10).max_in_flight(PLACES)
}

fn threads() -> Channel {
    let make = || {
        let threads = Threads::new(4)
            .on(WORK, |(), request, mut reply: OwnedResponder| {
                while request.is_stream() {
                    reply.send_chunk(&[1; 100])?;
                }
                Ok(reply.send(&request.to_vec())?)
            })
            .on(VOID, |(), _, reply| {
                drop(reply.claim(200)?);
                Ok(())
            })
            .on(PANIC, |(), _, _| panic!("as it was asked to"));
        Worker::new(|_| Ok(())).max_taken(PLACES).threads(threads)
    };
    testing::spawn_thread(&config().build().unwrap(), RoleConfig::default(), make).unwrap()
}

#[cfg(feature = "tokio")]
fn tasks() -> Channel {
    use slipring::worker::{OwnedSlot, Tasks};
    use std::task::{Context, Poll, Waker};

    let runtime = crate::executors::multi_thread();
    let make = move || {
        let tasks = Tasks::on_tokio(runtime.handle().clone())
            .on(WORK, |_, request, mut reply: OwnedResponder| async move {
                while reply.is_stream() {
                    reply.send_chunk_async(&[1; 100]).await?;
                }
                let bytes = request.get().to_vec();
                if bytes.len() % 1400 == 700 {
                    // It is given up when it has to wait.
                    let mut sending = Box::pin(reply.send_async(&bytes));
                    let mut context = Context::from_waker(Waker::noop());
                    return match sending.as_mut().poll(&mut context) {
                        Poll::Ready(sent) => Ok(sent?),
                        Poll::Pending => Err("it is given up".into()),
                    };
                }
                Ok(reply.send_async(&bytes).await?)
            })
            .on(VOID, |_, _, reply: OwnedResponder| async move {
                let slot: OwnedSlot = reply.claim_async(200).await?;
                drop(slot);
                Ok(())
            })
            .on(PANIC, |_, _, _| async move { panic!("as it was asked to") });
        Worker::new(move |_| Ok(runtime)).max_taken(PLACES).tasks(tasks)
    };
    testing::spawn_thread(&config().build().unwrap(), RoleConfig::default(), make).unwrap()
}

/// Waits until nothing is left of all that was asked.
fn until_as_new(channel: &Channel) {
    eventually("nothing is left", || {
        // What was given up before may still be in the request ring; this comes after it.
        match channel.call(WORK, "last", LONG) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::TooManyInFlight, "{error}"),
        }
        let health = channel.health();
        health.state == WorkerState::Idle
            && (health.taken, health.begun, channel.in_flight()) == (0, 0, 0)
    });
}

/// How many requests can be in flight, and how many bytes a stream sends that nothing reads.
/// Panics unless the worker serves `at_once` of them at once.
fn capacity(channel: &Channel, at_once: usize) -> (usize, u64) {
    let mut pending: Vec<Pending> = Vec::new();
    let error = loop {
        match channel.submit(WORK, "x", LONG) {
            Ok(sent) => pending.push(sent),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::TooManyInFlight, "{error}");
    let places = pending.len();
    pending.into_iter().for_each(|pending| assert_eq!(pending.wait().unwrap().to_vec(), b"x"));
    let before = channel.ping(LONG).unwrap().bytes_sent;
    let unread = channel.stream(WORK, "", StreamTimeouts::from(LONG)).unwrap();
    eventually("it waits", || channel.health().state == WorkerState::AwaitingCredit);
    let ahead = channel.ping(LONG).unwrap().bytes_sent - before;
    let others: Vec<_> = (1..places)
        .map(|_| channel.stream(WORK, "", StreamTimeouts::from(LONG)).unwrap())
        .collect();
    eventually("as many are served as before", || channel.health().begun == at_once);
    drop((unread, others));
    until_as_new(channel);
    (places, ahead)
}

/// More than the worker can serve, with all that can go wrong.
fn overload(channel: &Channel) {
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            scope.spawn(move || {
                for round in 0..80 {
                    let patience = Duration::from_micros(200 * (round % 7));
                    let bytes = pattern(thread, 700 * (round as usize % 9));
                    let kind = match round % 8 {
                        3 => VOID,
                        5 => PANIC,
                        _ => WORK,
                    };
                    if round % 4 == 1 {
                        let stream = channel.stream(WORK, "", StreamTimeouts::from(LONG));
                        let Ok(mut stream) = stream else { continue };
                        if round % 3 > 0 {
                            let _ = stream.try_next_chunk();
                        }
                        if round % 5 == 0 {
                            stream.cancel();
                        }
                        continue;
                    }
                    let Ok(mut pending) = channel.submit(kind, &bytes, patience) else { continue };
                    match round % 3 {
                        0 => pending.cancel(),
                        1 => drop(pending.try_wait()),
                        _ => {
                            let reply = pending.wait().map(|reply| reply.to_vec());
                            assert!(kind == WORK || reply.is_err());
                            assert!(reply.is_err() || reply.unwrap() == bytes);
                        }
                    }
                }
            });
        }
    });
    until_as_new(channel);
}

fn is_the_same_after_an_overload(channel: &Channel, at_once: usize) {
    channel.wait_ready(LONG).unwrap();
    let before = capacity(channel, at_once);
    assert_eq!(before.0, PLACES, "all places");
    for _ in 0..3 {
        overload(channel);
        assert_eq!(capacity(channel, at_once), before);
    }
    assert_eq!((channel.stats().unknown_frames, channel.stats().leases_held), (0, 0));
    assert!(channel.stats().errors.total() > 0, "it was an overload");
}

#[test]
fn threads_can_do_after_an_overload_what_they_could_before() {
    is_the_same_after_an_overload(&threads(), 4);
}

#[cfg(feature = "tokio")]
#[test]
fn tasks_can_do_after_an_overload_what_they_could_before() {
    is_the_same_after_an_overload(&tasks(), PLACES);
}

/// Holds the handler of a batch while the test wants it.
#[derive(Default)]
struct Hold {
    is_on: AtomicBool,
    batches: AtomicUsize,
}

/// How many batches 40 requests take that come while one is served.
fn batches_of_forty(channel: &Channel, hold: &Hold) -> usize {
    hold.is_on.store(true, Ordering::SeqCst);
    let before = hold.batches.load(Ordering::SeqCst);
    let first = channel.submit(WORK, "first", LONG).unwrap();
    eventually("it is served", || hold.batches.load(Ordering::SeqCst) == before + 1);
    let pending: Vec<_> = (0..40_u8).map(|n| channel.submit(WORK, &[n], LONG).unwrap()).collect();
    hold.is_on.store(false, Ordering::SeqCst);
    for (n, pending) in (0..40).zip(pending) {
        assert_eq!(pending.wait().unwrap().to_vec(), [n]);
    }
    first.wait().unwrap();
    hold.batches.load(Ordering::SeqCst) - before
}

#[test]
fn batches_are_as_full_after_an_overload_as_before() {
    let hold = Arc::<Hold>::default();
    let keep = Arc::clone(&hold);
    let make = move || {
        let batches = Batches::new().max_batch_size(8).on(WORK, move |(), batch| {
            hold.batches.fetch_add(1, Ordering::SeqCst);
            while hold.is_on.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let answers: Vec<Result<_, HandlerError>> =
                batch.iter().map(|request| Ok(request.to_vec())).collect();
            batch.reply_each(answers);
            Ok(())
        });
        Worker::new(|_| Ok(())).max_taken(40).batches(batches)
    };
    let config = config().max_in_flight(64).build().unwrap();
    let channel = testing::spawn_thread(&config, RoleConfig::default(), make).unwrap();
    assert_eq!(batches_of_forty(&channel, &keep), 6);
    for _ in 0..3 {
        overload(&channel);
        assert_eq!(batches_of_forty(&channel, &keep), 6);
    }
    let stats = channel.stats();
    assert_eq!((stats.unknown_frames, stats.leases_held), (0, 0));
}
