//! Requests for which a role has no place, and which another backend gets. That is a role of another
//! pool here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::*;
use slipring::backend::{Backend, BackendLoad, BackendRequest, BoxChunks, BoxFuture};
use slipring::pool::{AsyncRoleHandle, Pool, Role, RoleHandle};
use slipring::worker::Worker;
use slipring::{
    Config, ErrorKind, Health, Kind, Reply, Result, RoleConfig, StreamTimeouts, testing,
};

const NAME: Kind = Kind::named("name");
const HOLD: Kind = Kind::named("hold");
const FAIL: Kind = Kind::named("fail");
const NAMES: Kind = Kind::named("names");

/// What the workers of one pool share with their test.
#[derive(Debug, Default)]
struct Seen {
    is_released: AtomicBool,
    held: AtomicUsize,
    cancelled: AtomicUsize,
}

/// A role whose workers say the role's name.
fn role(name: &'static str, seen: &Arc<Seen>) -> Role {
    let seen = Arc::clone(seen);
    Role::with_channels(move |_| {
        let seen = Arc::clone(&seen);
        let make = move || {
            let (holds, streams) = (Arc::clone(&seen), Arc::clone(&seen));
            Worker::new(|_| Ok(()))
                .on(NAME, move |(), _, responder| Ok(responder.send(name)?))
                .on(FAIL, move |(), _, _| Err(format!("{name} fails").into()))
                .on(HOLD, move |(), request, responder| {
                    holds.held.fetch_add(1, Ordering::SeqCst);
                    while !holds.is_released.load(Ordering::SeqCst) && !request.is_cancelled() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Ok(responder.send(name)?)
                })
                .on(NAMES, move |(), request, responder| {
                    let mut stream = responder.stream();
                    while !request.is_cancelled() && !streams.is_released.load(Ordering::SeqCst) {
                        if stream.send(name).is_err() {
                            break;
                        }
                    }
                    streams
                        .cancelled
                        .fetch_add(usize::from(request.is_cancelled()), Ordering::SeqCst);
                    Ok(stream.end()?)
                })
        };
        testing::spawn_thread(&Config::small(), RoleConfig::default(), make)
    })
    .prefetch(0)
}

/// A pool with one worker, and one that gets what that has no place for.
struct Two {
    here: RoleHandle,
    seen_here: Arc<Seen>,
    seen_there: Arc<Seen>,
    pool: Pool,
    other: Pool,
}

impl Two {
    fn new() -> Self {
        Self::with(|role| role)
    }

    fn with(change: impl FnOnce(Role) -> Role) -> Self {
        let (seen_here, seen_there) = (Arc::default(), Arc::default());
        // One that was given up has its place for a moment longer.
        let remote = role("there", &seen_there).min_idle(3).max_size(3);
        let other = Pool::builder().role("there", remote).build().unwrap();
        let there = other.role("there").unwrap();
        there.call(NAME, "", LONG).unwrap();
        let local = change(role("here", &seen_here).overflow(Arc::new(there.to_async())));
        let pool = Pool::builder().role("here", local).build().unwrap();
        let here = pool.role("here").unwrap();
        Self { here, seen_here, seen_there, pool, other }
    }

    /// Waits until the worker of this pool has a place, and takes that until the guard is dropped.
    fn fill(&self) -> impl Drop {
        let is_here = || self.here.call(NAME, "", LONG).unwrap().to_vec() == b"here";
        eventually("the worker of this pool serves", is_here);
        let held = self.here.submit(HOLD, "", LONG).unwrap();
        eventually("it is held", || self.seen_here.held.load(Ordering::SeqCst) == 1);
        struct Release(Arc<Seen>, Option<slipring::pool::PoolPending>);
        impl Drop for Release {
            fn drop(&mut self) {
                self.0.is_released.store(true, Ordering::SeqCst);
                let _ = self.1.take().map(|held| held.wait());
            }
        }
        Release(Arc::clone(&self.seen_here), Some(held))
    }

    fn close(self) {
        self.seen_there.is_released.store(true, Ordering::SeqCst);
        self.pool.close(LONG).unwrap();
        self.other.close(LONG).unwrap();
    }
}

/// Returns which role answers a call, a submitted request, a task's call, the first chunk of a stream
/// and that of a task's stream.
fn who_answers(role: &RoleHandle) -> Vec<String> {
    let tasks = role.to_async();
    let mut answers = vec![
        role.call(NAME, "", LONG),
        role.submit(NAME, "", LONG).unwrap().wait(),
        pollster::block_on(tasks.call(NAME, "", LONG)),
    ];
    let mut stream = role.stream(NAMES, "", LONG).unwrap();
    answers.push(stream.next_chunk().map(Option::unwrap));
    stream.cancel();
    while let Ok(Some(_)) = stream.next_chunk() {}
    drop(stream);
    answers.push(pollster::block_on(async {
        let mut stream = tasks.stream(NAMES, "", LONG).await?;
        stream.next_chunk().await.map(Option::unwrap)
    }));
    answers.into_iter().map(|answer| answer.unwrap().text().unwrap()).collect()
}

#[test]
fn a_request_without_a_place_goes_elsewhere_and_others_do_not() {
    let two = Two::new();
    let full = two.fill();
    assert_eq!(who_answers(&two.here), ["there"; 5]);
    drop(full);
    eventually("the place is free", || two.here.health().load.in_flight == 0);
    assert_eq!(two.here.call(NAME, "", LONG).unwrap().to_vec(), b"here");
    two.close();
}

#[test]
fn a_role_whose_workers_cannot_start_is_served_elsewhere() {
    let seen = Arc::default();
    let other = Pool::builder().role("there", role("there", &seen)).build().unwrap();
    let there = Arc::new(other.role("there").unwrap().to_async());
    let broken = Role::new(|_| Err(slipring::Error::spawn_failed("no model")))
        .max_failures(0, LONG)
        .overflow(there);
    let pool = Pool::builder().role("here", broken).build().unwrap();
    let here = pool.role("here").unwrap();
    assert_eq!(who_answers(&here), ["there"; 5]);
    eventually("it is degraded", || here.health().is_degraded);
    assert_eq!(who_answers(&here), ["there"; 5]);
    pool.close(LONG).unwrap();
    other.close(LONG).unwrap();
}

#[test]
fn a_role_without_workers_is_that_of_the_backend() {
    let seen = Arc::default();
    let other = Pool::builder().role("there", role("there", &seen)).build().unwrap();
    let there = Arc::new(other.role("there").unwrap().to_async());
    let pool = Pool::builder().role("far", Role::elsewhere(there)).build().unwrap();
    let far = pool.role("far").unwrap();
    assert_eq!(who_answers(&far), ["there"; 5]);
    let error = far.call(FAIL, "", LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HandlerFailed, "{error}");
    let error = far.write(NAME, LONG, |message| message.push(b"part")).unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Unsupported, Some(false)), "{error}");
    other.close(LONG).unwrap();
    let error = far.call(NAME, "", LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    pool.close(LONG).unwrap();
    let error = far.call(NAME, "", LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
}

#[test]
fn an_error_of_a_handler_elsewhere_is_the_answer() {
    let two = Two::new();
    let full = two.fill();
    let error = two.here.call(FAIL, "", LONG).unwrap_err();
    assert_eq!(error.handler_failure().unwrap().message, "there fails");
    drop(full);
    two.close();
}

#[test]
fn a_stream_that_is_cancelled_or_dropped_is_cancelled_elsewhere() {
    let two = Two::new();
    let full = two.fill();
    let cancelled = || two.seen_there.cancelled.load(Ordering::SeqCst);
    let mut stream = two.here.stream(NAMES, "", LONG).unwrap();
    stream.next_chunk().unwrap().unwrap();
    two.here.cancel(stream.id()).unwrap();
    let error = loop {
        if let Err(error) = stream.next_chunk() {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    eventually("it is cancelled", || cancelled() == 1);
    drop(stream);
    let mut dropped = two.here.stream(NAMES, "", LONG).unwrap();
    dropped.next_chunk().unwrap().unwrap();
    drop(dropped);
    eventually("it is cancelled", || cancelled() == 2);
    let pending = two.here.submit(HOLD, "", LONG).unwrap();
    eventually("it is held there", || two.seen_there.held.load(Ordering::SeqCst) == 1);
    drop(pending);
    let is_free = || two.other.health().roles[0].load.in_flight == 0;
    eventually("it is cancelled there", is_free);
    drop(full);
    two.close();
}

/// A pool with one worker that is taken, and another pool with one worker that is, too.
fn both_full(change: impl FnOnce(Role) -> Role) -> (Two, [slipring::pool::PoolPending; 2]) {
    let (seen_here, seen_there) = (Arc::<Seen>::default(), Arc::<Seen>::default());
    let other = Pool::builder().role("there", role("there", &seen_there)).build().unwrap();
    let there = other.role("there").unwrap();
    there.call(NAME, "", LONG).unwrap();
    let local = change(role("here", &seen_here).overflow(Arc::new(there.to_async())));
    let pool = Pool::builder().role("here", local).build().unwrap();
    let here = pool.role("here").unwrap();
    let two = Two { here, seen_here, seen_there, pool, other };
    let is_here = || two.here.call(NAME, "", LONG).unwrap().to_vec() == b"here";
    eventually("the worker of this pool serves", is_here);
    let held_here = two.here.submit(HOLD, "", LONG).unwrap();
    let is_held = |seen: &Seen| seen.held.load(Ordering::SeqCst) == 1;
    eventually("it is held here", || is_held(&two.seen_here));
    let held_there = there.submit(HOLD, "", LONG).unwrap();
    eventually("it is held there", || is_held(&two.seen_there));
    (two, [held_here, held_there])
}

fn release(seen: &Seen) {
    seen.is_released.store(true, Ordering::SeqCst);
}

#[test]
fn requests_that_wait_go_elsewhere_as_soon_as_others_end_there() {
    let (two, [held_here, held_there]) = both_full(|role| role);
    let before = two.here.metrics().overflowed;
    let waiting: Vec<_> = (0..8).map(|_| two.here.submit(NAME, "", LONG).unwrap()).collect();
    assert_eq!(two.here.health().load.queued, 8);
    // Not a request of this pool's, so that only a sign of the other one tells of it.
    release(&two.seen_there);
    held_there.wait().unwrap();
    for pending in waiting {
        assert_eq!(pending.wait().unwrap().text().unwrap(), "there");
    }
    let metrics = two.here.metrics();
    assert_eq!((metrics.overflowed - before, metrics.overflowed_back), (8, 0));
    release(&two.seen_here);
    held_here.wait().unwrap();
    two.close();
}

#[test]
fn callers_of_all_kinds_that_wait_go_elsewhere_later() {
    let (two, [held_here, held_there]) = both_full(|role| role);
    let answers = std::thread::scope(|scope| {
        let waits = scope.spawn(|| who_answers(&two.here));
        eventually("one waits", || two.here.health().load.queued == 1);
        release(&two.seen_there);
        held_there.wait().unwrap();
        // The first stream would end by itself.
        two.seen_there.is_released.store(false, Ordering::SeqCst);
        waits.join().unwrap()
    });
    assert_eq!(answers, ["there"; 5]);
    release(&two.seen_here);
    held_here.wait().unwrap();
    two.close();
}

#[test]
fn a_write_that_waits_stays_and_one_behind_it_goes_elsewhere() {
    let (two, [held_here, held_there]) = both_full(|role| role);
    std::thread::scope(|scope| {
        let write = scope.spawn(|| two.here.write(NAME, LONG, |message| message.push(b"part")));
        eventually("it waits", || two.here.health().load.queued == 1);
        let behind = two.here.submit(NAME, "", LONG).unwrap();
        release(&two.seen_there);
        held_there.wait().unwrap();
        assert_eq!(behind.wait().unwrap().text().unwrap(), "there");
        assert_eq!(two.here.health().load.queued, 1);
        release(&two.seen_here);
        held_here.wait().unwrap();
        assert_eq!(write.join().unwrap().unwrap().text().unwrap(), "here");
    });
    two.close();
}

#[test]
fn requests_that_wait_as_the_role_degrades_go_elsewhere() {
    let seen = Arc::default();
    let other = Pool::builder().role("there", role("there", &seen)).build().unwrap();
    let there = other.role("there").unwrap();
    there.call(NAME, "", LONG).unwrap();
    let held = there.submit(HOLD, "", LONG).unwrap();
    eventually("it is held", || seen.held.load(Ordering::SeqCst) == 1);
    // Its worker's start fails when it is told to.
    let may_fail = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&may_fail);
    let broken = Role::new(move |_| {
        while !fails.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(slipring::Error::spawn_failed("no model"))
    });
    let broken = broken.max_failures(0, LONG).overflow(Arc::new(there.to_async()));
    let pool = Pool::builder().role("here", broken).build().unwrap();
    let here = pool.role("here").unwrap();
    let waiting: Vec<_> = (0..3).map(|_| here.submit(NAME, "", LONG).unwrap()).collect();
    assert_eq!(here.health().load.queued, 3);
    may_fail.store(true, Ordering::SeqCst);
    eventually("they wait there", || there.health().load.queued == 3);
    release(&seen);
    held.wait().unwrap();
    for pending in waiting {
        assert_eq!(pending.wait().unwrap().text().unwrap(), "there");
    }
    pool.close(LONG).unwrap();
    other.close(LONG).unwrap();
}

#[test]
fn a_close_waits_for_requests_elsewhere_and_then_ends_them() {
    let two = Two::new();
    let full = two.fill();
    let away = two.here.submit(HOLD, "", LONG).unwrap();
    eventually("it is held there", || two.seen_there.held.load(Ordering::SeqCst) == 1);
    drop(full);
    std::thread::scope(|scope| {
        let close = scope.spawn(|| two.pool.close(LONG));
        eventually("it takes no requests", || {
            two.here.call(NAME, "", LONG).is_err_and(|error| error.kind() == ErrorKind::Closed)
        });
        // A close that did not wait would have ended it by now, or will.
        release(&two.seen_there);
        assert_eq!(away.wait().unwrap().text().unwrap(), "there");
        close.join().unwrap().unwrap();
    });
    two.close();

    let two = Two::new();
    let full = two.fill();
    let away = two.here.submit(HOLD, "", LONG).unwrap();
    eventually("it is held there", || two.seen_there.held.load(Ordering::SeqCst) == 1);
    drop(full);
    two.pool.close(Duration::ZERO).unwrap();
    let error = away.wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    eventually("it is cancelled there", || two.other.health().roles[0].load.in_flight == 0);
    two.close();
}

/// Does not tell of room, and may say that it has a place, whatever its role says.
#[derive(Debug)]
struct Boasts(AsyncRoleHandle, AtomicUsize, bool);

impl Backend for Boasts {
    fn role(&self) -> &str {
        self.0.role()
    }

    fn load(&self) -> BackendLoad {
        if !self.2 {
            return Backend::load(&self.0);
        }
        let mut load = BackendLoad::default();
        (load.places, load.is_ready) = (1, true);
        load
    }

    fn call(
        &self,
        request: BackendRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Reply>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Backend::call(&self.0, request, timeout)
    }

    fn submit(
        &self,
        request: BackendRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Reply>> {
        Backend::submit(&self.0, request, timeout)
    }

    fn stream(
        &self,
        request: BackendRequest,
        timeouts: StreamTimeouts,
    ) -> BoxFuture<'static, Result<BoxChunks>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Backend::stream(&self.0, request, timeouts)
    }

    fn ping(&self, timeout: Duration) -> BoxFuture<'static, Vec<Result<Health>>> {
        Backend::ping(&self.0, timeout)
    }

    fn abort(&self) {}

    fn clear_abort(&self) {}

    fn close(&self, timeout: Duration) -> BoxFuture<'static, Result<()>> {
        Backend::close(&self.0, timeout)
    }
}

#[test]
fn the_place_of_one_that_has_ended_elsewhere_goes_to_one_that_waits() {
    let (seen_here, seen_there) = (Arc::<Seen>::default(), Arc::<Seen>::default());
    let other = Pool::builder().role("there", role("there", &seen_there)).build().unwrap();
    let there = other.role("there").unwrap();
    there.call(NAME, "", LONG).unwrap();
    let silent = Arc::new(Boasts(there.to_async(), AtomicUsize::new(0), false));
    let others: Arc<dyn Backend> = silent.clone();
    let local = role("here", &seen_here).overflow(others);
    let pool = Pool::builder().role("here", local).build().unwrap();
    let here = pool.role("here").unwrap();
    eventually("the worker of this pool serves", || {
        here.call(NAME, "", LONG).unwrap().to_vec() == b"here"
    });
    let held: Vec<_> = [&seen_here, &seen_there]
        .map(|seen| {
            let held = here.submit(HOLD, "", LONG).unwrap();
            eventually("it is held", || seen.held.load(Ordering::SeqCst) == 1);
            held
        })
        .into_iter()
        .collect();
    let waiting: Vec<_> = (0..3).map(|_| here.submit(NAME, "", LONG).unwrap()).collect();
    assert_eq!(here.health().load.queued, 3);
    release(&seen_there);
    for pending in waiting {
        assert_eq!(pending.wait().unwrap().text().unwrap(), "there");
    }
    release(&seen_here);
    for pending in held {
        pending.wait().unwrap();
    }
    pool.close(LONG).unwrap();
    other.close(LONG).unwrap();
}

#[test]
fn a_request_that_is_refused_elsewhere_waits_for_a_worker_here() {
    let (seen, unused) = (Arc::default(), Arc::default());
    let closed = Pool::builder().role("there", role("there", &unused)).build().unwrap();
    let boasts = closed.role("there").unwrap().to_async();
    let boasts = Arc::new(Boasts(boasts, AtomicUsize::new(0), true));
    closed.close(LONG).unwrap();
    let others: Arc<dyn Backend> = boasts.clone();
    // Its first worker is started by the first request.
    let local = role("here", &seen).lazy().overflow(others);
    let pool = Pool::builder().role("here", local).build().unwrap();
    let here = pool.role("here").unwrap();
    assert_eq!(here.call(NAME, "", LONG).unwrap().to_vec(), b"here");
    assert_eq!(boasts.1.load(Ordering::SeqCst), 1, "it was asked once");
    let held = here.submit(HOLD, "", LONG).unwrap();
    eventually("it is held", || seen.held.load(Ordering::SeqCst) == 1);
    let waits = std::thread::scope(|scope| {
        let waits = scope.spawn(|| who_answers(&here));
        eventually("all were asked once", || boasts.1.load(Ordering::SeqCst) >= 2);
        seen.is_released.store(true, Ordering::SeqCst);
        held.wait().unwrap();
        seen.is_released.store(false, Ordering::SeqCst);
        waits.join().unwrap()
    });
    assert_eq!(waits, ["here"; 5]);
    let metrics = here.metrics();
    assert_eq!(metrics.overflowed, metrics.overflowed_back);
    assert_eq!(usize::try_from(metrics.overflowed).unwrap(), boasts.1.load(Ordering::SeqCst));
    pool.close(LONG).unwrap();
}

#[test]
fn a_role_grows_for_requests_that_go_elsewhere() {
    let two = Two::with(|role| role.max_size(2).grow_after(LONG));
    let full = two.fill();
    let is_here = || two.here.call(NAME, "", LONG).unwrap().to_vec() == b"here";
    eventually("a second worker serves", is_here);
    drop(full);
    two.close();
}
