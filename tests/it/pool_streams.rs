//! Streams of a pool: what their timeouts count, and what a cancel ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::*;
use crate::pools::{close, is_begun, is_empty, kill_one_that_serves, patient, pids, pool_of, role};
#[cfg(feature = "async")]
use slipring::backend::{Backend, BackendRequest};
#[cfg(feature = "async")]
use slipring::pool::{PoolPending, RoleHandle};
use slipring::pool::{PoolStream, Role};
use slipring::{ErrorKind, StreamTimeout, StreamTimeouts};

#[test]
fn a_queue_timeout_does_not_count_while_a_worker_is_at_the_stream() {
    let (pool, handle) = pool_of(role().idempotent(STAY_AND_COUNT));
    let stay = Stay::new();
    let request = stay.path();
    let queue = Duration::from_millis(400);
    let timeouts = StreamTimeouts::new().queue(queue);
    let mut stream = handle.stream(STAY_AND_COUNT, &request, timeouts).unwrap();
    std::thread::sleep(queue + Duration::from_millis(50));
    assert!(is_begun(&handle));
    send_signal(pids(&handle)[0], libc::SIGKILL);
    drop(stay);
    for number in 0..4 {
        assert_eq!(stream.next_chunk().unwrap().unwrap().to_vec(), pattern(number, 8));
    }
    assert!(stream.next_chunk().unwrap().is_none());
    drop(stream);
    close(&pool);
}

#[test]
fn a_stream_that_waits_too_long_says_for_what_it_waited() {
    let (pool, handle) = pool_of(role().prefetch(0));
    let pending = handle.submit(FOR_EVER, "", LONG).unwrap();
    let short = Duration::from_millis(50);
    for (timeouts, which) in [
        (StreamTimeouts::new().queue(short), StreamTimeout::Queue),
        (StreamTimeouts::new().total(short), StreamTimeout::Total),
    ] {
        let error = handle.stream(COUNT, &encode(&[1, 8]), timeouts).unwrap_err();
        assert_eq!((error.kind(), error.was_begun()), (ErrorKind::QueueTimeout, Some(false)));
        assert_eq!(error.stream_timeout(), Some(which));
    }
    drop(pending);
    within_long("close", || pool.close(Duration::ZERO)).unwrap();
}

/// A role whose workers after the first start once they may.
fn role_with_held_starts(may_start: &Arc<AtomicBool>) -> Role {
    let (starts, may_start) = (AtomicUsize::new(0), Arc::clone(may_start));
    Role::new(move |_| {
        let is_first = starts.fetch_add(1, Ordering::Relaxed) == 0;
        while !is_first && !may_start.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(patient())
    })
}

#[test]
fn a_stream_that_was_cancelled_is_not_sent_again_after_a_death() {
    let (pool, handle) = pool_of(role().idempotent(STAY_AND_COUNT));
    let stay = Stay::new();
    let request = stay.path();
    let mut stream = handle.stream(STAY_AND_COUNT, &request, LONG).unwrap();
    eventually("it is begun", || is_begun(&handle));
    stream.cancel();
    kill_one_that_serves(&handle);
    let error = within_long("a chunk", || stream.next_chunk()).unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Cancelled, Some(true)));
    assert!(format!("{error:#}").contains("SIGKILL"), "{error:#}");
    drop(stream);
    assert_eq!(handle.metrics().resent_begun, 0);
    eventually("all places are free", || is_empty(&handle));
    close(&pool);
}

#[test]
fn a_stream_is_cancelled_by_its_id_wherever_it_is() {
    let may_start = Arc::new(AtomicBool::new(false));
    let role = role_with_held_starts(&may_start).idempotent(STAY_AND_COUNT);
    let (pool, handle) = pool_of(role);
    let stay = Stay::new();
    let request = stay.path();
    let read = |stream: &mut PoolStream<'_, Vec<u8>>| loop {
        match stream.next_chunk() {
            Ok(chunk) => assert!(chunk.is_some(), "it ended"),
            Err(error) => break error,
        }
    };
    // A worker has it.
    let mut stream = handle.stream(UNTIL_CANCELLED, &request, LONG).unwrap();
    handle.cancel(stream.id()).unwrap();
    assert!(within_long("a cancel", || read(&mut stream)).is_cancelled());
    let first = stream.id();
    drop(stream);
    // It waits for one that is started.
    let mut stream = handle.stream(STAY_AND_COUNT, &request, LONG).unwrap();
    let id = stream.id();
    assert!(id > first);
    kill_one_that_serves(&handle);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| read(&mut stream));
        eventually("it waits again", || handle.health().load.queued == 1);
        handle.cancel(id).unwrap();
        let error = within_long("a cancel", || reading.join().unwrap());
        assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Cancelled, Some(true)));
        assert!(error.to_string().contains(&format!("request {id} ")), "{error}");
    });
    drop(stream);
    // There is no such stream any more.
    handle.cancel(id).unwrap();
    eventually("all places are free", || is_empty(&handle));
    may_start.store(true, Ordering::Relaxed);
    close(&pool);
}

#[cfg(feature = "async")]
#[test]
fn a_stream_of_a_task_is_cancelled_by_its_id_as_it_waits_again() {
    let may_start = Arc::new(AtomicBool::new(false));
    let role = role_with_held_starts(&may_start).idempotent(STAY_AND_COUNT);
    let (pool, handle) = pool_of(role);
    let stay = Stay::new();
    let request = stay.path();
    let tasks = handle.to_async();
    let stream = tasks.stream(STAY_AND_COUNT, &request, LONG);
    let mut stream = pollster::block_on(stream).unwrap();
    let id = stream.id();
    kill_one_that_serves(&handle);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| pollster::block_on(stream.next_chunk()));
        eventually("it waits again", || handle.health().load.queued == 1);
        handle.cancel(id).unwrap();
        let error = within_long("a chunk", || reading.join().unwrap()).unwrap_err();
        assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Cancelled, Some(true)));
    });
    assert_eq!(handle.health().load.queued, 0);
    drop(stream);
    may_start.store(true, Ordering::Relaxed);
    close(&pool);
}

#[cfg(feature = "async")]
#[test]
fn the_queue_timeout_of_a_task_does_not_count_while_a_worker_is_at_it() {
    let (pool, handle) = pool_of(role().idempotent(STAY_AND_COUNT));
    let stay = Stay::new();
    let request = stay.path();
    let queue = Duration::from_millis(400);
    let timeouts = StreamTimeouts::new().queue(queue);
    let tasks = handle.to_async();
    let stream = tasks.stream(STAY_AND_COUNT, &request, timeouts);
    let mut stream = pollster::block_on(stream).unwrap();
    std::thread::sleep(queue + Duration::from_millis(50));
    kill_one_that_serves(&handle);
    drop(stay);
    for number in 0..4 {
        let chunk = pollster::block_on(stream.next_chunk()).unwrap().unwrap();
        assert_eq!(chunk.to_vec(), pattern(number, 8));
    }
    drop(stream);
    close(&pool);
}

/// Sends a call, which waits for any worker. It would lie ready for the one that there is behind a call.
#[cfg(feature = "async")]
fn call_that_waits(handle: &RoleHandle) -> PoolPending {
    let pending = handle.submit(ECHO, "later", LONG).unwrap();
    assert_eq!(handle.health().load.queued, 1);
    pending
}

#[cfg(feature = "async")]
#[test]
fn no_call_lies_ready_behind_the_stream_of_a_backend() {
    let (pool, handle) = pool_of(role());
    let (backend, begin) = (handle.to_async(), |kind| BackendRequest::new(kind, ""));
    eventually("all places are free", || is_empty(&handle));
    let stream = pollster::block_on(Backend::stream(&backend, begin(CHUNK_AND_STAY), LONG.into()));
    let pending = call_that_waits(&handle);
    // It may wait for the worker alone once that is told to be done with the stream.
    drop(stream);
    let reply = within_long("a reply", || pending.wait()).unwrap();
    assert_eq!(reply.to_vec(), b"later");
    close(&pool);
}

#[test]
fn a_caller_that_holds_a_stream_is_served_behind_it() {
    let (pool, handle) = pool_of(role());
    eventually("all places are free", || is_empty(&handle));
    let request = encode(&[3, 8]);
    let mut stream = handle.stream(COUNT, &request, LONG).unwrap();
    assert_eq!(handle.call(ECHO, "meanwhile", LONG).unwrap().to_vec(), b"meanwhile");
    for number in 0..3 {
        assert_eq!(stream.next_chunk().unwrap().unwrap().to_vec(), pattern(number, 8));
    }
    drop(stream);
    close(&pool);
}
