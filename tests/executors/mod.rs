//! The executors that the tests of the async view run on, and futures polled by hand.
#![allow(dead_code, reason = "every file of tests uses a part of this")]
#![allow(unreachable_pub, missing_docs, reason = "a module of tests")]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use slipring::Spawner;
use slipring::tasks::AsyncChannel;
use tokio::runtime::{Builder, Runtime};

pub fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

pub fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// An executor with a thread of its own, which shares nothing with tokio.
pub fn on_async_executor<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    let executor = Arc::new(async_executor::Executor::new());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (told, tell) = (Arc::new(Told::default()), Arc::clone(&executor));
    let thread = std::thread::spawn({
        let told = Arc::clone(&told);
        move || {
            let until_told = std::future::poll_fn(|context| {
                *told.waker.lock().unwrap() = Some(context.waker().clone());
                match stopped.try_recv() {
                    Err(std::sync::mpsc::TryRecvError::Empty) => Poll::Pending,
                    _ => Poll::Ready(()),
                }
            });
            pollster::block_on(tell.run(until_told));
        }
    });
    let result = pollster::block_on(executor.spawn(future));
    drop(stop);
    if let Some(waker) = told.waker.lock().unwrap().take() {
        waker.wake();
    }
    thread.join().unwrap();
    result
}

#[derive(Default)]
struct Told {
    waker: std::sync::Mutex<Option<Waker>>,
}

/// Runs a test on every executor, with the reader that belongs to it, each with a worker
/// of its own.
pub fn on_each<F>(spawner: impl Fn() -> Spawner, test: impl Fn(AsyncChannel) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let start = || AsyncChannel::new(spawner().pollable().spawn().unwrap()).unwrap();
    pollster::block_on(test(start()));
    on_async_executor(test(start()));
    current_thread().block_on(async {
        test(AsyncChannel::spawn_on_tokio(spawner()).await.unwrap()).await;
        test(AsyncChannel::spawn(spawner()).await.unwrap()).await;
    });
    let several = multi_thread();
    several.block_on(async {
        let channel = AsyncChannel::spawn_on_tokio(spawner()).await.unwrap();
        tokio::spawn(test(channel)).await.unwrap();
    });
}

/// Awaits all of them at once, in one task.
pub async fn all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut slots: Vec<_> = futures.into_iter().map(|f| (Some(Box::pin(f)), None)).collect();
    std::future::poll_fn(|context| {
        let mut is_done = true;
        for (future, result) in &mut slots {
            if let Some(running) = future {
                match running.as_mut().poll(context) {
                    Poll::Ready(value) => (*future, *result) = (None, Some(value)),
                    Poll::Pending => is_done = false,
                }
            }
        }
        if is_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    slots.into_iter().map(|(_, result)| result.unwrap()).collect()
}

/// A waker that counts, and unparks the thread that made it.
pub struct Probe {
    wakes: AtomicUsize,
    thread: Thread,
}

impl Wake for Probe {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        self.thread.unpark();
    }
}

impl Probe {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { wakes: AtomicUsize::new(0), thread: std::thread::current() })
    }

    pub fn wakes(&self) -> usize {
        self.wakes.load(Ordering::SeqCst)
    }
}

/// Polls at most `count` times, each after a wake-up or after `patience`; `None` if it
/// was not ready then. The future is dropped in any case.
pub fn poll_times<T>(
    count: usize,
    patience: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    let probe = Probe::new();
    for _ in 0..count {
        let before = probe.wakes();
        if let Poll::Ready(value) = poll(&probe, future.as_mut()) {
            return Some(value);
        }
        if probe.wakes() == before {
            std::thread::park_timeout(patience);
        }
    }
    None
}

pub fn poll<T>(
    probe: &Arc<Probe>,
    future: Pin<&mut (impl Future<Output = T> + ?Sized)>,
) -> Poll<T> {
    let waker = Waker::from(Arc::clone(probe));
    future.poll(&mut Context::from_waker(&waker))
}

/// Gives the thread back for a while, on any executor.
pub async fn nap(duration: Duration) {
    let done = Arc::new(std::sync::Mutex::new((false, None::<Waker>)));
    let theirs = Arc::clone(&done);
    std::thread::spawn(move || {
        std::thread::sleep(duration);
        let mut state = theirs.lock().unwrap();
        state.0 = true;
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    });
    std::future::poll_fn(|context| {
        let mut state = done.lock().unwrap();
        state.1 = Some(context.waker().clone());
        if state.0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
