//! Blocking calls of a pool whose requests go to a gateway, on threads that carry runtimes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use slipring::pool::{Pool, Role, RoleHandle};
use slipring::{Error, ErrorKind, Result, StreamTimeouts};
use slipring_gateway::{Discovery, RemoteRole};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::LocalSet;

use crate::rig::*;

/// A gateway on a runtime of its own, and what is done on another one.
struct Scene {
    rig: Rig,
    runtime: Runtime,
}

impl Scene {
    fn new() -> Self {
        let runtime = many_threads(1);
        let rig = runtime.block_on(Rig::start(|gateway| gateway));
        Self { rig, runtime }
    }

    /// Runs this on a thread of its own, which may hang.
    fn run<T: Send + 'static>(&self, run: impl FnOnce(Discovery) -> T + Send + 'static) -> T {
        let gateways = Discovery::list([self.rig.address.to_string()]);
        let (done, has_done) = mpsc::channel();
        std::thread::spawn(move || done.send(run(gateways)));
        has_done.recv_timeout(LONG).expect("it hangs, or has panicked")
    }

    /// As [`Scene::run`], as the task of a runtime that has no other thread.
    fn run_task(&self, run: impl AsyncFnOnce(Discovery) + Send + 'static) {
        self.run(|gateways| one_thread().block_on(run(gateways)));
    }

    /// How many requests the gateway has had.
    fn requests(&self) -> u64 {
        let roles = self.rig.gateway.metrics().roles;
        roles.into_iter().flat_map(|role| role.requests).map(|it| it.count).sum()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Its tasks end with it.
        let replaced = Builder::new_current_thread().build().unwrap();
        std::mem::replace(&mut self.runtime, replaced).shutdown_background();
    }
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A role whose requests all go to the gateways, and its pool. Its tasks are of the runtime that this runs
/// on.
fn role_elsewhere(gateways: Discovery) -> (Pool, RoleHandle) {
    let elsewhere = RemoteRole::builder("echo", gateways).build().unwrap();
    let pool = Pool::builder().role("echo", Role::elsewhere(Arc::new(elsewhere))).build().unwrap();
    let role = pool.role("echo").unwrap();
    (pool, role)
}

/// The same, with tasks of this runtime.
fn role_of(runtime: &Runtime, gateways: Discovery) -> (Pool, RoleHandle) {
    runtime.block_on(async { role_elsewhere(gateways) })
}

fn many_threads(count: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(count).enable_all().build().unwrap()
}

fn call(role: &RoleHandle) -> Result<String> {
    role.call(ECHO, "hello", LONG)?.text()
}

/// All ways to wait for a role.
fn waits(role: &RoleHandle) {
    assert_eq!(call(role).unwrap(), "hello");
    let stream = role.stream(CHUNKS, "hello", StreamTimeouts::new()).unwrap();
    assert_eq!(stream.map(|chunk| chunk.unwrap().len()).sum::<usize>(), 5);
    assert_eq!(role.submit(ECHO, "hello", LONG).unwrap().wait().unwrap().len(), 5);
}

fn is_refused(error: &Error) {
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::InvalidInput, Some(false)));
    assert!(error.to_string().contains("spawn_blocking"), "{error}");
}

fn is_shut_down(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert!(error.to_string().contains("its runtime was shut down"), "{error}");
}

#[test]
fn a_thread_that_carries_the_role_alone_is_told_not_to_wait_for_it() {
    let scene = Scene::new();
    scene.run_task(async |gateways| {
        let (_pool, role) = role_elsewhere(gateways);
        // Before its tasks have run, and while they do.
        for _ in 0..2 {
            is_refused(&call(&role).unwrap_err());
            is_refused(&role.stream(CHUNKS, "hello", StreamTimeouts::new()).unwrap_err());
            tokio::task::yield_now().await;
        }
        let pending = role.submit(HANG, "", LONG).unwrap();
        let error = pending.wait().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert_eq!(
            role.to_async().call(ECHO, "hello", LONG).await.unwrap().text().unwrap(),
            "hello"
        );
    });
}

#[test]
fn a_thread_that_must_not_wait_elsewhere_waits_for_a_worker_here() {
    let scene = Scene::new();
    scene.run_task(async |gateways| {
        let elsewhere = RemoteRole::builder("echo", gateways).build().unwrap();
        until(|| slipring::backend::Backend::load(&elsewhere).is_ready).await;
        let here = role(&Arc::default()).max_size(1).overflow(Arc::new(elsewhere));
        let pool = Pool::builder().role("echo", here).build().unwrap();
        let role = pool.role("echo").unwrap();
        // The worker here has not started, so that there is a place elsewhere only.
        assert_eq!(call(&role).unwrap(), "hello");
        assert_eq!(
            role.submit(ECHO, "hello", LONG).unwrap().wait().unwrap().text().unwrap(),
            "hello"
        );
    });
    assert_eq!(scene.requests(), 0);
}

#[test]
fn threads_beside_the_only_one_of_a_runtime_wait_for_its_roles() {
    let scene = Scene::new();
    scene.run_task(async |gateways| {
        let blocking = |gateways: Discovery| {
            tokio::task::spawn_blocking(move || {
                let (pool, role) = role_elsewhere(gateways);
                assert_eq!(call(&role).unwrap(), "hello");
                (pool, role)
            })
        };
        let (_pool, role) = blocking(gateways).await.unwrap();
        let thread = std::thread::spawn(move || assert_eq!(call(&role).unwrap(), "hello"));
        until(|| thread.is_finished()).await;
        thread.join().unwrap();
    });
}

#[test]
fn a_task_of_a_runtime_with_threads_waits_for_a_role_of_the_same() {
    let scene = Scene::new();
    scene.run(|gateways| {
        many_threads(1).block_on(async {
            let (_pool, role) = role_elsewhere(gateways);
            waits(&role);
            let tasks: Vec<_> = (0..3)
                .map(|_| {
                    let role = role.clone();
                    tokio::spawn(async move { waits(&role) })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    });
}

#[test]
fn a_task_of_a_local_set_waits_for_a_role() {
    let scene = Scene::new();
    scene.run(|gateways| {
        let (runtime, set) = (many_threads(1), LocalSet::new());
        let local = async {
            let (_pool, role) = role_elsewhere(gateways);
            waits(&role);
            let of_set = role.clone();
            tokio::task::spawn_local(async move { waits(&of_set) }).await.unwrap();
            // One in a task that a worker thread has set free for it.
            let inner = tokio::spawn(async move {
                tokio::task::block_in_place(|| {
                    waits(&role);
                    let local =
                        async { tokio::task::spawn_local(async move { waits(&role) }).await };
                    Handle::current().block_on(LocalSet::new().run_until(local)).unwrap();
                });
            });
            inner.await.unwrap();
        };
        set.block_on(&runtime, local);
    });
}

#[test]
fn a_runtime_of_one_thread_waits_for_a_role_of_another_runtime() {
    let scene = Scene::new();
    scene.run(|gateways| {
        let (runs_role, here) = (many_threads(1), one_thread());
        let (_pool, role) = role_of(&runs_role, gateways);
        here.block_on(async {
            waits(&role);
            // A task of this runtime runs while the other one is entered.
            let of_here = tokio::spawn({
                let role = role.clone();
                async move { waits(&role) }
            });
            let _entered = runs_role.enter();
            waits(&role);
            of_here.await.unwrap();
        });
    });
}

#[test]
fn a_refusal_leaves_nothing_to_run() {
    let scene = Scene::new();
    scene.run_task(async |gateways| {
        let (_pool, role) = role_elsewhere(gateways);
        let runtime = Handle::current();
        let tasks = runtime.metrics().num_alive_tasks();
        is_refused(&call(&role).unwrap_err());
        assert_eq!(runtime.metrics().num_alive_tasks(), tasks);
    });
}

#[test]
fn a_role_whose_runtime_no_thread_runs_is_not_waited_for() {
    let scene = Scene::new();
    scene.run(|gateways| {
        let runtime = one_thread();
        let entered = runtime.enter();
        let (_pool, role) = role_elsewhere(gateways.clone());
        drop(entered);
        is_refused(&call(&role).unwrap_err());
        // By this thread, and by another one.
        for is_here in [true, false] {
            let run = || role_of(&runtime, gateways.clone());
            let (_pool, role) = if is_here {
                run()
            } else {
                std::thread::scope(|scope| scope.spawn(run).join().unwrap())
            };
            is_refused(&call(&role).unwrap_err());
        }
    });
}

#[test]
fn a_role_whose_runtime_was_shut_down_says_so() {
    let scene = Scene::new();
    for runtime in [one_thread as fn() -> Runtime, || many_threads(1)] {
        scene.run(move |gateways| {
            let runtime = runtime();
            let (_pool, role) = role_of(&runtime, gateways);
            drop(runtime);
            is_shut_down(&call(&role).unwrap_err());
            is_shut_down(&role.stream(CHUNKS, "", StreamTimeouts::new()).unwrap_err());
            is_shut_down(&role.submit(ECHO, "", LONG).unwrap_err());
        });
    }
}

#[test]
fn a_request_whose_runtime_is_shut_down_ends() {
    let scene = Scene::new();
    let told = Arc::clone(&scene.rig.told);
    scene.run(move |gateways| {
        let runtime = many_threads(1);
        let (_pool, role) = role_of(&runtime, gateways);
        let called = std::thread::spawn(move || {
            let request = role.request(HANG).idempotent(true);
            request.call("", LONG).unwrap_err()
        });
        runtime.block_on(until(|| told.hangs_begun.load(Ordering::SeqCst) > 0));
        drop(runtime);
        is_shut_down(&called.join().unwrap());
    });
}

#[test]
fn a_stream_goes_on_where_it_may_be_waited_for() {
    let scene = Scene::new();
    scene.run(|gateways| {
        let runtime = one_thread();
        let (_pool, role) = role_of(&runtime, gateways);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::scope(|scope| {
            let (give, given) = mpsc::channel();
            let other = scope.spawn({
                let role = &role;
                move || {
                    let mut stream =
                        role.stream(CHUNKS, &[7; 2_000][..], StreamTimeouts::new()).unwrap();
                    assert_eq!(stream.next_chunk().unwrap().unwrap().len(), 1_000);
                    _ = stop.send(());
                    give.send(stream).unwrap();
                }
            });
            runtime.block_on(async { _ = stopped.await });
            let mut stream = given.recv().unwrap();
            runtime.block_on(async {
                let error = stream.next_chunk().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            });
            other.join().unwrap();
            let rest = scope.spawn(move || stream.map(|chunk| chunk.unwrap().len()).sum::<usize>());
            runtime.block_on(until(|| rest.is_finished()));
            assert_eq!(rest.join().unwrap(), 1_000);
        });
    });
}
