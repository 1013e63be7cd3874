//! When the place of a request is free again that its caller has given up.

use std::sync::mpsc;
use std::time::Duration;

use crate::common::*;
use crate::pools::{close, is_empty, pool_of, role};
use slipring::pool::{Pool, Role, RoleHandle};
use slipring::worker::{Incoming, Worker};
use slipring::{Config, ErrorKind, Kind, RequestStage, RoleConfig, testing};

const WORK: Kind = Kind::named("work");
const SHORT: Duration = Duration::from_millis(50);

fn in_flight(handle: &RoleHandle) -> usize {
    handle.health().load.in_flight
}

/// A pool with one worker, which serves two requests at a time, and hands them over to the test.
fn handing_over() -> (Pool, RoleHandle, mpsc::Receiver<Incoming>) {
    let (give, given) = mpsc::channel::<Incoming>();
    let role = Role::with_channels(move |_| {
        let give = give.clone();
        let make = move || {
            Worker::new(|_| Ok(())).inbox(move |(), inbox| {
                loop {
                    give.send(inbox.recv()?)?;
                }
            })
        };
        testing::spawn_thread(&Config::small(), RoleConfig::default(), make)
    });
    let role = role.concurrency(2).prefetch(0);
    let pool = Pool::builder().role("one", role).build().unwrap();
    let handle = pool.role("one").unwrap();
    (pool, handle, given)
}

#[test]
fn a_taken_request_that_is_given_up_frees_its_place_beside_an_older_one() {
    let (pool, handle, given) = handing_over();
    std::thread::scope(|scope| {
        let older = scope.spawn(|| handle.call(WORK, "older", LONG));
        let mut first = given.recv().unwrap();
        first.responder.begin();
        let second = loop {
            let error = handle.call(WORK, "given up", SHORT).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::QueueTimeout);
            // A worker of a busy machine may find it too late to take.
            if let Ok(second) = given.recv_timeout(SHORT) {
                break second;
            }
        };
        let worker = &handle.health().workers[0];
        let stages: Vec<_> =
            worker.health.as_ref().unwrap().requests.iter().map(|r| r.stage).collect();
        assert_eq!(stages, [RequestStage::Begun, RequestStage::Taken]);
        std::thread::sleep(4 * SHORT);
        assert_eq!(in_flight(&handle), 2, "the worker has it");
        // As a worker that finds it cancelled, and never begins it.
        drop(second);
        eventually("its place is free", || in_flight(&handle) == 1);
        first.responder.send("").unwrap();
        older.join().unwrap().unwrap();
    });
    close(&pool);
}

#[test]
fn a_request_given_up_in_the_ring_of_a_stopped_worker_keeps_its_place() {
    let (pool, handle) = pool_of(role().prefetch(0));
    let pid = crate::pools::pids(&handle)[0];
    stop(pid);
    let error = handle.call(ECHO, "", SHORT).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QueueTimeout);
    std::thread::sleep(4 * SHORT);
    assert_eq!(in_flight(&handle), 1, "a worker that is stopped is not free");
    send_signal(pid, libc::SIGCONT);
    eventually("its place is free", || is_empty(&handle));
    assert_eq!(handle.call(ECHO, "x", LONG).unwrap().to_vec(), b"x");
    close(&pool);
}

#[cfg(feature = "tokio")]
mod tasks {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Polls a future that sends a message which is longer than the ring of a stopped worker, and
    /// drops it. Its worker's place is free when the worker goes on.
    fn drop_in_part<T>(role: &RoleHandle, sending: impl Future<Output = T>) {
        let pid = crate::pools::pids(role)[0];
        stop(pid);
        {
            let mut sending = pin!(sending);
            for _ in 0..5 {
                let polled = sending.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                assert!(matches!(polled, Poll::Pending));
            }
        }
        std::thread::sleep(4 * SHORT);
        assert_eq!(in_flight(role), 1, "its worker may still begin it");
        send_signal(pid, libc::SIGCONT);
        eventually("its place is free", || is_empty(role));
        assert_eq!(role.call(ECHO, "x", LONG).unwrap().to_vec(), b"x");
    }

    #[test]
    fn a_task_that_is_dropped_as_it_sends_a_part_keeps_its_place() {
        let (pool, handle) = pool_of(Role::new(|_| Ok(in_4_kib())).prefetch(0));
        let (tasks, long) = (handle.to_async(), pattern(1, 30_000));
        drop_in_part(&handle, tasks.call(ECHO, &long, LONG));
        drop_in_part(&handle, tasks.stream(COUNT, &long, LONG));
        close(&pool);
    }
}
