//! Streams of a pool: what their timeouts count, and what a cancel ends.

use std::time::Duration;

use crate::common::*;
use crate::pools::{close, is_begun, pids, pool_of, role};
use slipring::pool::RoleHandle;
use slipring::{ErrorKind, StreamTimeout, StreamTimeouts};

/// Four chunks of 8 bytes, so many microseconds apart.
fn slowly(gap: Duration) -> Vec<u8> {
    encode(&[gap.as_micros() as u64, 4, 8])
}

#[test]
fn a_queue_timeout_does_not_count_while_a_worker_is_at_the_stream() {
    let (pool, handle) = pool_of(role().idempotent(SLOW_COUNT));
    let request = slowly(Duration::from_millis(600));
    let queue = Duration::from_millis(400);
    let timeouts = StreamTimeouts::new().queue(queue);
    let mut stream = handle.stream(SLOW_COUNT, &request, timeouts).unwrap();
    std::thread::sleep(queue + Duration::from_millis(50));
    assert!(is_begun(&handle));
    send_signal(pids(&handle)[0], libc::SIGKILL);
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

fn kill_the_worker(handle: &RoleHandle) {
    eventually("it is begun", || is_begun(handle));
    send_signal(pids(handle)[0], libc::SIGKILL);
}

#[cfg(feature = "async")]
#[test]
fn the_queue_timeout_of_a_task_does_not_count_while_a_worker_is_at_it() {
    let (pool, handle) = pool_of(role().idempotent(SLOW_COUNT));
    let request = slowly(Duration::from_millis(600));
    let queue = Duration::from_millis(400);
    let timeouts = StreamTimeouts::new().queue(queue);
    let tasks = handle.to_async();
    let stream = tasks.stream(SLOW_COUNT, &request, timeouts);
    let mut stream = pollster::block_on(stream).unwrap();
    std::thread::sleep(queue + Duration::from_millis(50));
    kill_the_worker(&handle);
    for number in 0..4 {
        let chunk = pollster::block_on(stream.next_chunk()).unwrap().unwrap();
        assert_eq!(chunk.to_vec(), pattern(number, 8));
    }
    drop(stream);
    close(&pool);
}
