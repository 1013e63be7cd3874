//! Everything that a forked child can do with what it inherited of a pool, as if threads of its
//! parent held every lock of the library's: each operation is refused or does nothing, at once.
#![allow(clippy::unwrap_used, clippy::unit_arg, reason = "tests")]

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{
    AsyncPoolStream, AsyncRoleHandle, Events, Outcome, Pool, PoolPending, PoolStream, Role,
    RoleHandle,
};
use crate::channel::{Reply, Spawner};
use crate::config::Config;
use crate::error::{ErrorKind, Result};
use crate::process::testing::{alone, fork};
use crate::protocol::Kind;
use crate::sync::plain::ARE_ALL_HELD;
use crate::worker::{Worker, is_worker};

const LONG: Duration = Duration::from_secs(60);
const ECHO: Kind = Kind::named("echo");
/// Until the worker is ended.
const STUCK: Kind = Kind::named("stuck");

/// What the processes are that this test starts.
#[test]
fn worker() {
    if !is_worker() {
        return;
    }
    let served = Worker::new(|_| Ok(()))
        .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?))
        .on(STUCK, |(), request, responder| {
            while !request.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(responder.send("")?)
        });
    served.serve().unwrap();
}

fn role() -> Role {
    let args = ["pool::forked_tests::worker", "--exact", "--nocapture"];
    Role::new(move |_| Ok(Spawner::current_exe()?.args(args).config(Config::small()))).prefetch(0)
}

type Task<T> = Pin<Box<dyn Future<Output = Result<T>>>>;

/// What a child inherits: one of every public type of the pool's, in each state that matters.
struct Held {
    pool: Option<Pool>,
    role: RoleHandle,
    tasks: &'static AsyncRoleHandle,
    events: Option<Events>,
    /// With a worker, and without one.
    pending: Option<PoolPending>,
    waiting: Option<PoolPending>,
    /// Tasks in the same two states.
    running: Option<Task<Reply>>,
    queued: Option<Task<Reply>>,
    stream: Option<AsyncPoolStream>,
    own_stream: Option<PoolStream<'static, str>>,
}

fn poll<T>(task: &mut (impl Future<Output = Result<T>> + Unpin)) -> Poll<Result<T>> {
    Pin::new(task).poll(&mut Context::from_waker(Waker::noop()))
}

fn held() -> Held {
    let pool = Pool::builder().role("one", role().min_idle(4).max_size(4)).build().unwrap();
    let role = pool.role("one").unwrap();
    let tasks: &AsyncRoleHandle = Box::leak(Box::new(role.to_async()));
    let events = pool.events();
    role.call(ECHO, "", LONG).unwrap();
    while role.health().workers.iter().filter(|worker| worker.health.is_some()).count() < 4 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut stream = Box::pin(tasks.stream(STUCK, "", LONG));
    let stream = loop {
        if let Poll::Ready(stream) = poll(&mut stream) {
            break stream.unwrap();
        }
    };
    let lasting: &RoleHandle = Box::leak(Box::new(role.clone()));
    let own_stream = lasting.stream(STUCK, "", LONG).unwrap();
    let pending = role.submit(STUCK, "", LONG).unwrap();
    let mut running: Task<Reply> = Box::pin(tasks.call(STUCK, "", LONG));
    while role.health().load.in_flight < 4 {
        assert!(poll(&mut running).is_pending());
    }
    let waiting = role.submit(ECHO, "", LONG).unwrap();
    let mut queued: Task<Reply> = Box::pin(tasks.call(ECHO, "", LONG));
    assert!(poll(&mut queued).is_pending());
    assert_eq!(role.health().load.queued, 2);
    Held {
        pool: Some(pool),
        role,
        tasks,
        events: Some(events),
        pending: Some(pending),
        waiting: Some(waiting),
        running: Some(running),
        queued: Some(queued),
        stream: Some(stream),
        own_stream: Some(own_stream),
    }
}

fn is_forked<T>(result: Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::Forked)
}

fn is_refused<T>(mut future: Pin<Box<impl Future<Output = Result<T>> + ?Sized>>) -> bool {
    match poll(&mut future) {
        Poll::Ready(result) => is_forked(result),
        Poll::Pending => false,
    }
}

/// It returned.
fn nothing<T>(_: T) -> bool {
    true
}

impl Held {
    fn pool(&self) -> &Pool {
        self.pool.as_ref().unwrap()
    }
}

/// Operations, and whether a child sees of them what it should. Each has a child of its own.
type Operation = (&'static str, fn(&mut Held) -> bool);

const OPERATIONS: &[Operation] = &[
    ("Pool::health", |held| !held.pool().health().is_ready()),
    ("Pool::metrics", |held| held.pool().metrics().roles.len() == 1),
    ("Pool::events", |held| held.pool().events().recv().is_none()),
    ("Pool::close", |held| is_forked(held.pool().close(LONG))),
    ("Pool::close_async", |held| is_refused(Box::pin(held.pool().close_async(LONG)))),
    ("Pool::role", |held| held.pool().role("one").is_ok()),
    ("Pool's Debug", |held| nothing(format!("{:?}", held.pool))),
    ("Pool's drop", |held| nothing(held.pool.take())),
    ("build", |_| is_forked(Pool::builder().role("one", role()).build())),
    ("Events::recv", |held| held.events.as_ref().unwrap().recv().is_none()),
    ("recv_timeout", |held| held.events.as_ref().unwrap().recv_timeout(LONG).is_none()),
    ("Events' drop", |held| nothing(held.events.take())),
    ("call", |held| is_forked(held.role.call(ECHO, "", LONG))),
    ("stream", |held| is_forked(held.role.stream(ECHO, "", LONG))),
    ("submit", |held| is_forked(held.role.submit(ECHO, "", LONG))),
    ("write", |held| is_forked(held.role.write(ECHO, LONG, |_| Ok(())))),
    ("cancel", |held| is_forked(held.role.cancel(held.pending.as_ref().unwrap().id()))),
    ("ping", |held| held.role.ping(LONG).is_empty()),
    ("abort", |held| nothing(held.role.abort())),
    ("clear_abort", |held| nothing(held.role.clear_abort())),
    ("reload", |held| is_forked(held.role.reload(role()))),
    ("reset", |held| nothing(held.role.reset())),
    ("health", |held| held.role.health().workers.is_empty()),
    ("metrics", |held| held.role.metrics().requests_with(Outcome::Answered) == 1),
    ("name", |held| held.role.name() == "one" && held.tasks.name() == "one"),
    ("Debug", |held| nothing(format!("{:?} {:?}", held.role, held.tasks))),
    ("PoolPending::wait", |held| is_forked(held.pending.take().unwrap().wait())),
    ("try_wait", |held| is_forked(held.waiting.as_mut().unwrap().try_wait())),
    ("PoolPending::cancel", |held| nothing(held.waiting.as_ref().unwrap().cancel())),
    ("PoolPending, PoolStream, awaited", |held| is_refused(Box::pin(held.pending.take().unwrap()))),
    ("PoolPending's drop", |held| nothing(held.pending.take())),
    ("the drop of one that waits", |held| nothing(held.waiting.take())),
    ("task: call", |held| is_refused(Box::pin(held.tasks.call(ECHO, "", LONG)))),
    ("task: stream", |held| is_refused(Box::pin(held.tasks.stream(ECHO, "", LONG)))),
    ("task: write", |held| is_refused(Box::pin(held.tasks.write(ECHO, LONG, async |_| Ok(()))))),
    ("task: submit", |held| is_forked(held.tasks.submit(ECHO, "", LONG))),
    ("task: ping", |held| {
        let mut ping = Box::pin(held.tasks.ping(LONG));
        let polled = ping.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        matches!(polled, Poll::Ready(reports) if reports.is_empty())
    }),
    ("a reply that is awaited", |held| is_refused(held.running.take().unwrap())),
    ("its drop", |held| nothing(held.running.take())),
    ("a place that is awaited", |held| is_refused(held.queued.take().unwrap())),
    ("its drop", |held| nothing(held.queued.take())),
    ("next_chunk", |held| is_refused(Box::pin(held.stream.as_mut().unwrap().next_chunk()))),
    ("AsyncPoolStream::cancel", |held| nothing(held.stream.as_mut().unwrap().cancel())),
    ("PoolStream::next_chunk", |held| is_forked(held.own_stream.as_mut().unwrap().next_chunk())),
    ("PoolStream::id", |held| held.own_stream.as_ref().unwrap().id().get() != 0),
    ("PoolStream::cancel", |held| nothing(held.own_stream.as_ref().unwrap().cancel())),
    ("PoolStream's drop", |held| nothing(held.own_stream.take())),
    ("AsyncPoolStream::id", |held| held.stream.as_ref().unwrap().id().get() != 0),
    ("AsyncPoolStream's drop", |held| nothing(held.stream.take())),
];

#[test]
fn a_child_waits_for_no_lock_of_a_pool_that_its_parents_threads_hold() {
    alone(|| {
        let mut held = held();
        let mut wrong = Vec::new();
        for (name, operation) in OPERATIONS {
            let code = fork(|| {
                ARE_ALL_HELD.store(true, Ordering::Relaxed);
                i32::from(!operation(&mut held))
            });
            if code != 0 {
                wrong.push(format!("{name}: {code}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        held.pool().close(Duration::ZERO).unwrap();
    });
}
