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

/// A pool whose requests all go to the gateways. Its tasks are of the runtime that this runs on.
fn pool_elsewhere(gateways: Discovery) -> Pool {
    let elsewhere = RemoteRole::builder("echo", gateways).build().unwrap();
    Pool::builder().role("echo", Role::elsewhere(Arc::new(elsewhere))).build().unwrap()
}

fn many_threads(count: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(count).enable_all().build().unwrap()
}

fn call(role: &RoleHandle) -> Result<String> {
    role.call(ECHO, "hello", LONG)?.text()
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
    scene.run(|gateways| {
        one_thread().block_on(async {
            let pool = pool_elsewhere(gateways);
            let role = pool.role("echo").unwrap();
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
    });
}

#[test]
fn a_thread_that_must_not_wait_elsewhere_waits_for_a_worker_here() {
    let scene = Scene::new();
    scene.run(|gateways| {
        one_thread().block_on(async {
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
    });
    assert_eq!(scene.requests(), 0);
}

#[test]
fn threads_beside_the_only_one_of_a_runtime_wait_for_its_roles() {
    let scene = Scene::new();
    scene.run(|gateways| {
        one_thread().block_on(async {
            let blocking = |gateways: Discovery| {
                tokio::task::spawn_blocking(move || {
                    let pool = pool_elsewhere(gateways);
                    let role = pool.role("echo").unwrap();
                    assert_eq!(call(&role).unwrap(), "hello");
                    (role, pool)
                })
            };
            let (role, _pool) = blocking(gateways).await.unwrap();
            let thread = std::thread::spawn(move || assert_eq!(call(&role).unwrap(), "hello"));
            until(|| thread.is_finished()).await;
            thread.join().unwrap();
        });
    });
}

#[test]
fn a_task_of_a_runtime_with_threads_waits_for_a_role_of_the_same() {
    let scene = Scene::new();
    scene.run(|gateways| {
        let runtime = many_threads(1);
        let all_at_once = async {
            let pool = Arc::new(pool_elsewhere(gateways));
            assert_eq!(call(&pool.role("echo").unwrap()).unwrap(), "hello");
            let tasks: Vec<_> = (0..3)
                .map(|_| {
                    let role = pool.role("echo").unwrap();
                    tokio::spawn(async move {
                        assert_eq!(call(&role).unwrap(), "hello");
                        let stream = role.stream(CHUNKS, "hello", StreamTimeouts::new()).unwrap();
                        let chunks: Vec<_> = stream.map(|chunk| chunk.unwrap().text()).collect();
                        assert_eq!(chunks.len(), 1);
                        let pending = role.submit(ECHO, "hello", LONG).unwrap();
                        assert_eq!(pending.wait().unwrap().text().unwrap(), "hello");
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        };
        runtime.block_on(all_at_once);
    });
}

/// All ways to wait for a role.
fn waits(role: &RoleHandle) {
    assert_eq!(call(role).unwrap(), "hello");
    let stream = role.stream(CHUNKS, "hello", StreamTimeouts::new()).unwrap();
    assert_eq!(stream.map(|chunk| chunk.unwrap().len()).sum::<usize>(), 5);
    assert_eq!(role.submit(ECHO, "hello", LONG).unwrap().wait().unwrap().len(), 5);
}

#[test]
fn a_task_of_a_local_set_waits_for_a_role() {
    let scene = Scene::new();
    scene.run(|gateways| {
        let (runtime, set) = (many_threads(1), LocalSet::new());
        let local = async {
            let pool = pool_elsewhere(gateways);
            let role = pool.role("echo").unwrap();
            waits(&role);
            tokio::task::spawn_local(async move { waits(&role) }).await.unwrap();
            let role = pool.role("echo").unwrap();
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
        let pool = runs_role.block_on(async { pool_elsewhere(gateways) });
        let role = pool.role("echo").unwrap();
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
    scene.run(|gateways| {
        one_thread().block_on(async {
            let pool = pool_elsewhere(gateways);
            let (role, runtime) = (pool.role("echo").unwrap(), Handle::current());
            let tasks = runtime.metrics().num_alive_tasks();
            is_refused(&call(&role).unwrap_err());
            assert_eq!(runtime.metrics().num_alive_tasks(), tasks);
        });
    });
}

#[test]
fn a_role_whose_runtime_no_thread_runs_is_not_waited_for() {
    let scene = Scene::new();
    scene.run(|gateways| {
        let runtime = one_thread();
        let entered = runtime.enter();
        let never_run = pool_elsewhere(gateways.clone());
        drop(entered);
        is_refused(&call(&never_run.role("echo").unwrap()).unwrap_err());
        // By this thread, and by another one.
        for is_here in [true, false] {
            let run = || runtime.block_on(async { pool_elsewhere(gateways.clone()) });
            let pool = if is_here {
                run()
            } else {
                std::thread::scope(|scope| scope.spawn(run).join().unwrap())
            };
            is_refused(&call(&pool.role("echo").unwrap()).unwrap_err());
        }
    });
}

#[test]
fn a_role_whose_runtime_was_shut_down_says_so() {
    let scene = Scene::new();
    for runtime in [one_thread as fn() -> Runtime, || many_threads(1)] {
        scene.run(move |gateways| {
            let runtime = runtime();
            let pool = runtime.block_on(async { pool_elsewhere(gateways) });
            let role = pool.role("echo").unwrap();
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
        let pool = runtime.block_on(async { pool_elsewhere(gateways) });
        let role = pool.role("echo").unwrap();
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
        let pool = runtime.block_on(async { pool_elsewhere(gateways) });
        let role = pool.role("echo").unwrap();
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
