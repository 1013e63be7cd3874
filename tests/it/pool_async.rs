//! The async view of a pool, on several executors, with workers that are killed.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crate::common::*;
use crate::executors::{
    Probe, all, current_thread, multi_thread, on_async_executor, poll, poll_times,
};
use crate::pool_submit::kill_workers;
use crate::pools::{self, close, is_begun, kill_one_that_serves, pids, role};
use slipring::ErrorKind;
use slipring::pool::{AsyncPoolStream, AsyncRoleHandle, Pool, Role, RoleHandle};

const SHORT: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_micros(500);

fn pool_of(role: Role) -> (Pool, RoleHandle, AsyncRoleHandle) {
    let (pool, handle) = pools::pool_of(role);
    let tasks = handle.to_async();
    assert_eq!(tasks.name(), handle.name());
    (pool, handle, tasks)
}

fn block_on<T: Send>(future: impl Future<Output = T> + Send) -> T {
    within_long("a future", || pollster::block_on(future))
}

fn load(handle: &RoleHandle) -> (usize, usize) {
    let load = handle.health().load;
    (load.queued, load.in_flight)
}

/// Checks that all places are free, and that the next call gets its own answer.
fn assert_clean(handle: &RoleHandle, seed: u64) {
    eventually("all places are free", || load(handle) == (0, 0));
    let bytes = pattern(seed, 300);
    assert_eq!(block_on(handle.to_async().call(ECHO, &bytes, LONG)).unwrap().to_vec(), bytes);
}

async fn use_all(role: AsyncRoleHandle) {
    let calls = (0..50_u64).map(|number| {
        let role = &role;
        async move {
            let bytes = encode(&[1, number]);
            assert_eq!(role.call(SLOW_ECHO, &bytes, LONG).await.unwrap().to_vec(), bytes);
        }
    });
    all(calls.collect()).await;
    let pending: Vec<_> =
        (0..50_u64).map(|number| role.submit(ECHO, &encode(&[number]), LONG).unwrap()).collect();
    for (number, reply) in (0..).zip(all(pending).await) {
        assert_eq!(reply.unwrap().to_vec(), encode(&[number]));
    }
    let mut stream = role.stream(COUNT, &encode(&[20, 500]), LONG).await.unwrap();
    for number in 0..20 {
        assert_eq!(stream.next_chunk().await.unwrap().unwrap().to_vec(), pattern(number, 500));
    }
    assert!(stream.next_chunk().await.unwrap().is_none());
    assert!(stream.next_chunk().await.unwrap().is_none());
    let reports = role.ping(LONG).await;
    assert_eq!(reports.len(), 2);
    assert!(reports.iter().all(Result::is_ok), "{reports:?}");
}

#[test]
fn calls_streams_and_pings_work_on_every_executor() {
    let (pool, handle, tasks) = pool_of(role().min_idle(2).max_size(2));
    eventually("both serve", || {
        let workers = handle.health().workers;
        workers.iter().filter(|worker| worker.is_alive).count() == 2
    });
    block_on(use_all(tasks.clone()));
    on_async_executor(use_all(tasks.clone()));
    current_thread().block_on(use_all(tasks.clone()));
    let runtime = multi_thread();
    runtime.block_on(async { tokio::spawn(use_all(tasks.clone())).await.unwrap() });
    assert_clean(&handle, 1);
    close(&pool);
}

/// Wakes a task, and notes on which thread that happened.
struct Witness {
    task: Waker,
    threads: Arc<Mutex<Vec<ThreadId>>>,
}

impl Wake for Witness {
    fn wake(self: Arc<Self>) {
        self.threads.lock().unwrap().push(thread::current().id());
        self.task.wake_by_ref();
    }
}

/// Awaits a future; returns the threads that have woken its task.
async fn witnessed<T>(future: impl Future<Output = T>) -> (T, Vec<ThreadId>) {
    let (threads, mut future) = (Arc::default(), pin!(future));
    let result = poll_fn(|context| {
        let (task, threads) = (context.waker().clone(), Arc::clone(&threads));
        let waker = Waker::from(Arc::new(Witness { task, threads }));
        future.as_mut().poll(&mut Context::from_waker(&waker))
    });
    let result = result.await;
    let threads = std::mem::take(&mut *threads.lock().unwrap());
    (result, threads)
}

#[test]
fn a_reply_to_a_task_of_the_role_s_runtime_wakes_it_from_there() {
    let runtime = current_thread();
    let (pool, handle, tasks) = pool_of(role().on_tokio(runtime.handle().clone()));
    let bytes = encode(&[1, 2]);
    let call = || witnessed(tasks.call(SLOW_ECHO, &bytes, LONG));
    within_long("a call", || {
        let (reply, threads) = runtime.block_on(call());
        assert_eq!(reply.unwrap().to_vec(), bytes);
        assert!(!threads.is_empty(), "its task was not woken");
        assert!(threads.iter().all(|it| *it == thread::current().id()), "{threads:?}");
    });
    eventually("its place is free", || load(&handle) == (0, 0));
    close(&pool);
}

#[test]
fn a_role_on_a_runtime_that_nobody_runs_answers_tasks_of_others() {
    let runtime = current_thread();
    let (pool, handle, tasks) = pool_of(role().on_tokio(runtime.handle().clone()));
    let bytes = encode(&[1, 2]);
    for _ in 0..10 {
        assert_eq!(block_on(tasks.call(SLOW_ECHO, &bytes, LONG)).unwrap().to_vec(), bytes);
    }
    drop(runtime);
    let old = pids(&handle);
    old.iter().for_each(|pid| send_signal(*pid, libc::SIGKILL));
    eventually("they are gone", || pids(&handle).iter().all(|pid| !old.contains(pid)));
    // The replies of those that follow are read without the runtime, which has ended.
    assert_clean(&handle, 1);
    close(&pool);
}

#[test]
fn a_thousand_calls_of_tasks_survive_the_kills_of_their_workers() {
    let role = role().min_idle(3).max_size(3).max_starts(3).max_waiting(2000);
    let role = role.idempotent(SLOW_ECHO).max_attempts(20).retry_budget(100, 1000, LONG);
    let role = role.max_failures(1000, LONG);
    let (pool, handle, tasks) = pool_of(role.prefetch(2));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_workers(&handle, &is_over));
        let over = SetOnDrop(&is_over);
        let calls = (0..1000_u64).map(|number| {
            let tasks = &tasks;
            async move {
                let bytes = encode(&[1, number, number * number]);
                assert_eq!(tasks.call(SLOW_ECHO, &bytes, LONG).await.unwrap().to_vec(), bytes);
            }
        });
        block_on(all(calls.collect()));
        drop(over);
        assert!(killer.join().unwrap() > 2);
    });
    assert_clean(&handle, 1);
    close(&pool);
}

#[test]
fn futures_dropped_after_any_number_of_polls_leave_no_place_taken() {
    let (pool, handle, tasks) = pool_of(role().prefetch(1));
    let request = encode(&[500, 1]);
    let long = pattern(3, 30_000);
    for polls in 0..12 {
        let many = || async {
            all((0..4).map(|_| tasks.call(NAP, &request, LONG)).collect()).await;
        };
        poll_times(polls, PATIENCE, many());
        assert_clean(&handle, polls as u64);
        poll_times(polls, PATIENCE, tasks.call(ECHO, &long, LONG));
        assert_clean(&handle, polls as u64);
        let stream = || async {
            let mut stream = tasks.stream(TRICKLE, &encode(&[50, 5, 800]), LONG).await.unwrap();
            while let Some(chunk) = stream.next_chunk().await.unwrap() {
                assert_eq!(chunk.len(), 800);
            }
        };
        poll_times(polls, PATIENCE, async { drop(all(vec![stream(), stream(), stream()]).await) });
        assert_clean(&handle, polls as u64);
        let submit = || async { tasks.submit(NAP, &request, LONG).unwrap().await };
        poll_times(polls, PATIENCE, async {
            drop(all(vec![submit(), submit(), submit(), submit()]).await)
        });
        assert_clean(&handle, polls as u64);
    }
    close(&pool);
}

#[test]
fn futures_dropped_while_their_worker_dies_leave_no_place_taken() {
    let (pool, handle, tasks) = pool_of(role().idempotent(NAP).max_failures(1000, LONG));
    let (request, mut killed) = (encode(&[2000, 1]), Vec::new());
    for polls in 1..16 {
        let calls = (0..3).map(|_| tasks.call(NAP, &request, LONG)).collect();
        let mut calls = Box::pin(all(calls));
        let probe = Probe::new();
        assert!(poll(&probe, calls.as_mut()).is_pending());
        // No process twice: it may be reaped meanwhile.
        let victim = pids(&handle).into_iter().find(|pid| !killed.contains(pid));
        victim.iter().for_each(|pid| send_signal(*pid, libc::SIGKILL));
        killed.extend(victim);
        let _ = poll_times(polls, Duration::from_millis(1), calls);
        assert_clean(&handle, polls as u64);
    }
    close(&pool);
}

#[test]
fn a_grant_that_meets_a_dropped_future_goes_to_the_next() {
    let (pool, handle, tasks) = pool_of(role().prefetch(0));
    let (busy, request) = (encode(&[200]), encode(&[0]));
    // Each round ends a call about when the one that waits is dropped.
    for round in 0..300_u64 {
        let first = handle.submit(NAP, &busy, LONG).unwrap();
        {
            let mut waits = pin!(tasks.call(NAP, &request, LONG));
            let probe = Probe::new();
            let _ = poll(&probe, waits.as_mut());
            std::thread::sleep(Duration::from_micros(round % 30 * 20));
        }
        first.wait().unwrap();
    }
    assert_clean(&handle, 1);
    close(&pool);
}

#[test]
fn a_wait_that_is_too_long_and_a_run_get_different_errors() {
    let (pool, handle, tasks) = pool_of(role().prefetch(0));
    eventually("one is begun", || {
        // A worker of a busy machine may find it too late to begin.
        let error = block_on(tasks.call(UNTIL_ABORTED, "", SHORT)).unwrap_err();
        let is_begun = error.was_begun() == Some(true);
        let expected = if is_begun { ErrorKind::Timeout } else { ErrorKind::QueueTimeout };
        assert_eq!(error.kind(), expected, "{error}");
        is_begun
    });
    let stay = Stay::new();
    let running = tasks.submit(STAY, &stay.path(), LONG).unwrap();
    eventually("it is begun", || is_begun(&handle));
    let error = block_on(tasks.call(ECHO, "", SHORT)).unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::QueueTimeout, Some(false)));
    drop(stay);
    block_on(running).unwrap();
    assert_clean(&handle, 1);
    close(&pool);
}

#[test]
fn a_call_of_a_task_that_kills_two_workers_is_poison() {
    let (pool, handle, tasks) = pool_of(role().min_idle(2).max_size(2).idempotent(RAISE));
    let error = block_on(tasks.call(RAISE, &[libc::SIGSEGV as u8], LONG)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poison);
    let once = tasks.request(RAISE).idempotent(false);
    let error = block_on(once.call(&[libc::SIGSEGV as u8], LONG)).unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::PeerDied, Some(true)));
    assert_clean(&handle, 1);
    close(&pool);
}

#[test]
fn over_its_bound_a_role_refuses_tasks_at_once() {
    let (pool, handle, tasks) = pool_of(role().prefetch(0).max_waiting(1));
    let stay = Stay::new();
    let path = stay.path();
    let mut calls = Box::pin(all((0..3).map(|_| tasks.call(STAY, &path, LONG)).collect()));
    assert!(poll(&Probe::new(), calls.as_mut()).is_pending());
    drop(stay);
    let mut outcomes = block_on(calls).into_iter();
    assert!(outcomes.next().unwrap().is_ok() && outcomes.next().unwrap().is_ok());
    assert_eq!(outcomes.next().unwrap().unwrap_err().kind(), ErrorKind::Overloaded);
    assert_clean(&handle, 1);
    close(&pool);
}

async fn read_from(mut count: u64, mut stream: AsyncPoolStream) -> slipring::Result<u64> {
    while let Some(chunk) = stream.next_chunk().await? {
        assert_eq!(chunk.to_vec(), pattern(count, 8));
        count += 1;
    }
    Ok(count)
}

#[test]
fn a_stream_of_a_task_is_sent_again_until_its_first_chunk() {
    let (pool, handle, tasks) =
        pool_of(role().idempotent(STAY_AND_COUNT).idempotent(CHUNK_AND_STAY));
    let stay = Stay::new();
    let request = stay.path();
    let mut stream = block_on(tasks.stream(STAY_AND_COUNT, &request, LONG)).unwrap();
    kill_one_that_serves(&handle);
    drop(stay);
    // Waits for the next chunk that are given up lose neither it nor the request.
    let first = loop {
        if let Some(chunk) = poll_times(2, PATIENCE, stream.next_chunk()) {
            break chunk.unwrap().unwrap();
        }
    };
    assert_eq!(first.to_vec(), pattern(0, 8));
    let id = stream.id();
    assert_eq!(block_on(read_from(1, stream)).unwrap(), 4);
    let mut stream = block_on(tasks.stream(CHUNK_AND_STAY, "", LONG)).unwrap();
    assert!(stream.id() > id);
    assert_eq!(block_on(stream.next_chunk()).unwrap().unwrap().to_vec(), pattern(0, 8));
    kill_one_that_serves(&handle);
    let error = loop {
        match block_on(stream.next_chunk()) {
            Ok(chunk) => assert!(chunk.is_some(), "it was cut, and ended as if it were whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::PeerDied);
    assert!(block_on(stream.next_chunk()).unwrap().is_none());
    let mut stream = block_on(tasks.stream(CHUNK_AND_STAY, "", LONG)).unwrap();
    stream.cancel();
    while let Ok(Some(_)) = block_on(stream.next_chunk()) {}
    drop(stream);
    assert_clean(&handle, 1);
    close(&pool);
}

#[test]
fn a_stream_of_a_task_is_one_of_futures() {
    let (pool, handle, tasks) = pool_of(role());
    let mut stream = block_on(tasks.stream(COUNT, &encode(&[3, 8]), LONG)).unwrap();
    let count = block_on(async {
        let mut count = 0;
        let mut stream = pin!(&mut stream);
        let next = |context: &mut std::task::Context<'_>| {
            futures_core::Stream::poll_next(stream.as_mut(), context)
        };
        let mut next = next;
        while let Some(chunk) = poll_fn(&mut next).await {
            assert_eq!(chunk.unwrap().to_vec(), pattern(count, 8));
            count += 1;
        }
        count
    });
    assert_eq!(count, 3);
    drop(stream);
    assert_clean(&handle, 1);
    close(&pool);
}

#[test]
fn a_close_serves_tasks_that_wait_and_ends_those_that_do_not_end() {
    let (pool, _, tasks) = pool_of(role());
    let bytes = encode(&[10]);
    std::thread::scope(|scope| {
        let calls = (0..6).map(|_| tasks.call(SLOW_ECHO, &bytes, LONG)).collect();
        let mut calls = Box::pin(all(calls));
        let probe = Probe::new();
        assert!(poll(&probe, calls.as_mut()).is_pending());
        let closing = scope.spawn(|| close(&pool));
        for reply in pollster::block_on(calls) {
            assert_eq!(reply.unwrap().to_vec(), bytes);
        }
        closing.join().unwrap();
    });
    assert_eq!(block_on(tasks.call(ECHO, "", LONG)).unwrap_err().kind(), ErrorKind::Closed);
    let (pool, handle, tasks) = pool_of(role());
    let mut calls = Box::pin(all((0..3).map(|_| tasks.call(FOR_EVER, "", LONG)).collect()));
    let probe = Probe::new();
    assert!(matches!(poll(&probe, calls.as_mut()), Poll::Pending));
    within_long("close", || pool.close(SHORT)).unwrap();
    for outcome in pollster::block_on(calls) {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Closed);
    }
    assert_eq!(load(&handle), (0, 0));
}

/// A message of a hundred parts, and the whole.
fn parts() -> Vec<Vec<u8>> {
    (0..100).map(|part| pattern(part, 700)).collect()
}

#[test]
fn a_task_writes_a_message_in_parts_once() {
    let (pool, handle, tasks) = pool_of(role().idempotent(ECHO));
    let (whole, writer) = (parts().concat(), tasks.clone());
    // Its future can go to another thread.
    let written = multi_thread().block_on(async move {
        let write = async move {
            writer
                .write(ECHO, LONG, async |message| {
                    for part in &parts() {
                        message.push(part).await?;
                    }
                    Ok(())
                })
                .await
        };
        tokio::spawn(write).await.unwrap()
    });
    assert_eq!(written.unwrap().to_vec(), whole);
    // The host's own error.
    let own = || Err(slipring::Error::invalid_payload("an image of 0 bytes"));
    let error = block_on(tasks.write(ECHO, LONG, async |message| {
        message.push(b"a part").await?;
        own()
    }));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidPayload);
    assert_clean(&handle, 1);
    let (victim, mut calls) = (pids(&handle)[0], 0);
    let error = block_on(tasks.write(ECHO, LONG, async |message| {
        calls += 1;
        message.push(&pattern(1, 50_000)).await?;
        send_signal(victim, libc::SIGKILL);
        for _ in 0..1000 {
            message.push(&pattern(1, 50_000)).await?;
        }
        Ok(())
    }));
    assert_eq!((error.unwrap_err().kind(), calls), (ErrorKind::PeerDied, 1));
    assert_clean(&handle, 2);
    close(&pool);
}

#[test]
fn a_message_that_its_task_drops_in_any_state_leaves_no_place_taken() {
    let (pool, handle, tasks) = pool_of(role().prefetch(0));
    for polls in 0..12 {
        let write = tasks.write(SLOW_ECHO, LONG, async |message| {
            message.push(&encode(&[5])).await?;
            for part in &parts() {
                message.push(part).await?;
            }
            Ok(())
        });
        let _ = poll_times(polls, PATIENCE, write);
        assert_clean(&handle, polls as u64);
    }
    close(&pool);
}

#[test]
fn a_task_closes_a_pool_as_a_thread_does() {
    let (pool, handle, tasks) = pool_of(role());
    let pending: Vec<_> =
        (0..5).map(|_| tasks.submit(SLOW_ECHO, &encode(&[5]), LONG).unwrap()).collect();
    // Given up at once, it refuses all the same.
    assert!(poll_times(1, PATIENCE, pool.close_async(LONG)).is_none());
    assert_eq!(handle.call(ECHO, "", LONG).unwrap_err().kind(), ErrorKind::Closed);
    block_on(pool.close_async(LONG)).unwrap();
    for pending in pending {
        assert_eq!(pending.wait().unwrap().to_vec(), encode(&[5]));
    }
    assert!(handle.health().workers.is_empty());
    close(&pool);

    let (pool, handle, tasks) = pool_of(role());
    let pending = tasks.submit(FOR_EVER, "", LONG).unwrap();
    block_on(pool.close_async(SHORT)).unwrap();
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Closed);
    assert!(handle.health().workers.is_empty());
}
