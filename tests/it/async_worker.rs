//! A worker whose handlers are tasks of an executor.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::common::*;
use crate::executors::{self, multi_thread, poll_times};
use crate::threads::failures_are_told;
use slipring::worker::{
    HandlerError, Incoming, OwnedRequest, OwnedResponder, Tasks, TrySend, Worker,
};
use slipring::{Channel, Config, ErrorKind, Kind, Pending, RoleConfig, StreamTimeouts, testing};
use tokio::runtime::{Handle, Runtime};

mod waits;

const WORK: Kind = Kind::named("work");
const OTHER: Kind = Kind::named("other");

type Handled = Result<(), HandlerError>;

/// A tokio runtime of one thread, which runs until this is dropped.
struct OneThread {
    handle: Handle,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl OneThread {
    fn start() -> Self {
        let runtime = executors::current_thread();
        let (handle, is_over) = (runtime.handle().clone(), Arc::<AtomicBool>::default());
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                while !over.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        });
        Self { handle, is_over, thread: Some(thread) }
    }
}

impl Drop for OneThread {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A channel to a worker thread that `make` describes.
fn spawn<S: 'static>(
    config: &Config,
    make: impl FnOnce() -> Worker<S> + Send + 'static,
) -> Channel {
    testing::spawn_thread(config, RoleConfig::default(), make).unwrap()
}

/// A channel to a worker thread with tasks and this session.
fn serve<S: Send + Sync + 'static>(
    config: &Config,
    session: S,
    runtime: &OneThread,
    describe: impl FnOnce(Tasks<S>) -> Tasks<S> + Send + 'static,
) -> Channel {
    let handle = runtime.handle.clone();
    spawn(config, move || Worker::new(|_| Ok(session)).tasks(describe(Tasks::on_tokio(handle))))
}

/// A channel to a worker thread that hands all requests over to the test.
fn handing_over(config: &Config) -> (Channel, mpsc::Receiver<Incoming>) {
    let (give, given) = mpsc::channel();
    let channel = spawn(config, move || {
        Worker::new(|_| Ok(())).inbox(move |(), inbox| {
            loop {
                give.send(inbox.recv()?)?;
            }
        })
    });
    (channel, given)
}

fn submit(channel: &Channel, count: usize) -> Vec<Pending> {
    (0..count).map(|n| channel.submit(WORK, &encode(&[n as u64]), LONG).unwrap()).collect()
}

/// Fills the reply ring with answers that are not read. Returns their requests, and a responder
/// for which there is no room.
fn fill(channel: &Channel, given: &mpsc::Receiver<Incoming>) -> (Vec<Pending>, OwnedResponder) {
    let mut sent = Vec::new();
    loop {
        sent.push(channel.submit(WORK, "", LONG).unwrap());
        let responder = given.recv().unwrap().responder;
        if let TrySend::Full(responder) = responder.try_send(&[7; 1000]).unwrap() {
            return (sent, responder);
        }
    }
}

/// Streams as many chunks as the request's u64 says, with a short sleep before each.
async fn trickle(request: OwnedRequest, mut reply: OwnedResponder) -> Handled {
    for n in 0..numbers(&request.get().to_vec())[0] {
        tokio::time::sleep(Duration::from_millis(2)).await;
        reply.send_chunk_async(&encode(&[n])).await?;
    }
    Ok(reply.end()?)
}

#[test]
fn the_stop_is_told_to_tasks_and_waited_for() {
    let runtime = OneThread::start();
    let ended = Arc::new(AtomicUsize::new(0));
    let (closed, hears) = mpsc::channel();
    let channel = {
        let (handle, ended) = (runtime.handle.clone(), Arc::clone(&ended));
        spawn(&Config::small(), move || {
            let tasks = Tasks::on_tokio(handle).on(WORK, move |_, request, mut responder| {
                let ended = Arc::clone(&ended);
                async move {
                    let responder: &mut OwnedResponder = &mut responder;
                    let request: OwnedRequest = request;
                    if request.get().is_stream() {
                        while responder.send_chunk_async(&[0; 500]).await.is_ok() {}
                    } else {
                        responder.cancelled().await;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    ended.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                }
            });
            Worker::new(|_| Ok("the session"))
                .on_close(move |session| closed.send(session).unwrap())
                .tasks(tasks)
        })
    };
    let pending = submit(&channel, 8);
    let streams: Vec<_> =
        (0..3).map(|_| channel.stream(WORK, "", StreamTimeouts::default()).unwrap()).collect();
    eventually("all are begun", || channel.health().begun == 11);
    close(&channel, LONG);
    assert_eq!(ended.load(Ordering::SeqCst), 11, "the worker has waited for them");
    assert_eq!(hears.recv().unwrap(), "the session");
    drop((pending, streams));
}

#[test]
fn a_task_that_does_not_end_is_waited_for_until_the_timeout() {
    let runtime = OneThread::start();
    let (closed, hears) = mpsc::channel();
    let handle = runtime.handle.clone();
    let channel = spawn(&Config::small(), move || {
        let tasks = Tasks::on_tokio(handle).stop_timeout(Duration::from_millis(20));
        Worker::new(|_| Ok(5))
            .on_close(|_| panic!("a task has the session"))
            .tasks(tasks.on(WORK, |_, _, responder| async move {
                pending::<()>().await;
                drop(responder);
                Ok(())
            }))
            .on_close(move |session| closed.send(*session).unwrap())
    });
    let pending = submit(&channel, 1);
    eventually("it is begun", || channel.health().begun == 1);
    close(&channel, LONG);
    assert_eq!(hears.recv().unwrap(), 5);
    drop(pending);
}

#[test]
fn any_executor_runs_the_tasks() {
    async fn echo(_: Arc<()>, request: OwnedRequest, responder: OwnedResponder) -> Handled {
        executors::nap(Duration::from_millis(1)).await;
        Ok(responder.send_async(&request.get().to_vec()).await?)
    }
    let check = |channel: Channel| {
        for (n, pending) in submit(&channel, 16).into_iter().enumerate() {
            assert_eq!(pending.wait().unwrap().to_vec(), encode(&[n as u64]));
        }
        channel.close(LONG).unwrap();
    };
    check(spawn(&Config::small(), || {
        let tasks = Tasks::new(|task| drop(thread::spawn(move || pollster::block_on(task))));
        Worker::new(|_| Ok(())).tasks(tasks.on(WORK, echo))
    }));
    let executor = Arc::new(async_executor::Executor::new());
    let spawner = Arc::clone(&executor);
    let (stop, stopped) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        pollster::block_on(executor.run(poll_fn(|context| match stopped.try_recv() {
            Err(mpsc::TryRecvError::Empty) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(()),
        })));
    });
    check(spawn(&Config::small(), move || {
        let tasks = Tasks::new(move |task| spawner.spawn(task).detach());
        Worker::new(|_| Ok(())).tasks(tasks.on(WORK, echo))
    }));
    drop(stop);
    thread.join().unwrap();
    let runtime = multi_thread();
    let handle = runtime.handle().clone();
    check(spawn(&Config::small(), move || {
        Worker::new(|_| Ok(())).tasks(Tasks::on_tokio(handle).on(WORK, echo))
    }));
}

#[test]
fn a_panic_or_an_error_ends_one_request_and_health_shows_it() {
    let runtime = OneThread::start();
    let channel = serve(&Config::small(), (), &runtime, |tasks| {
        tasks.on(WORK, |_, request: OwnedRequest, responder: OwnedResponder| async move {
            let text = request.get().text()?;
            if text == "wait" {
                responder.cancelled().await;
                return Ok(responder.send_async("late").await?);
            }
            tokio::task::yield_now().await;
            match &text[..] {
                "panic" => panic!("boom"),
                "error" => Err(HandlerError::new("test::Odd", "odd")),
                "silence" => Ok(()),
                "late" => {
                    responder.send_async("sent").await?;
                    Err("after the reply".into())
                }
                _ => Ok(responder.send_async("whole").await?),
            }
        })
    });
    let other = channel.submit(WORK, "wait", LONG).unwrap();
    failures_are_told(&channel);
    assert_eq!(channel.call(WORK, "", LONG).unwrap().to_vec(), b"whole");
    assert_eq!(channel.health().begun, 1);
    drop(other);
}

#[test]
fn a_panic_before_the_first_await_and_one_of_a_drop_end_their_requests() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !thread::panicking() {
                panic!("a drop that panics");
            }
        }
    }
    let runtime = OneThread::start();
    let channel = serve(&Config::small(), (), &runtime, |tasks| {
        tasks
            .on(WORK, |_, _, responder| {
                if responder.request() != responder.request() {
                    return Box::pin(async { Ok(()) })
                        as std::pin::Pin<Box<dyn Future<Output = Handled> + Send>>;
                }
                panic!("no future")
            })
            .on(OTHER, |_, _, responder| async move {
                let _bomb = Bomb;
                tokio::task::yield_now().await;
                drop(responder);
                Ok(())
            })
    });
    for (kind, message) in [(WORK, "no future"), (OTHER, "a drop that panics")] {
        let error = channel.call(kind, "", LONG).unwrap_err();
        let failure = error.handler_failure().unwrap();
        assert_eq!((&failure.type_name[..], &failure.message[..]), ("panic", message));
    }
}

#[test]
fn a_handler_can_return_before_its_responder_answers() {
    let runtime = OneThread::start();
    let channel = serve(&Config::small(), (), &runtime, |tasks| {
        tasks.on(WORK, |_, _, responder| async move {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                responder.send_async("later").await.unwrap();
            });
            Ok(())
        })
    });
    assert_eq!(channel.call(WORK, "", LONG).unwrap().to_vec(), b"later");
}

#[test]
fn a_runtime_that_is_dropped_ends_its_requests() {
    let runtime = Runtime::new().unwrap();
    let handle = runtime.handle().clone();
    let channel = spawn(&Config::small(), move || {
        let tasks = Tasks::on_tokio(handle).on(WORK, |_, _, responder| async move {
            pending::<()>().await;
            drop(responder);
            Ok(())
        });
        Worker::new(|_| Ok(())).tasks(tasks)
    });
    let waiting = submit(&channel, 3);
    eventually("all are begun", || channel.health().begun == 3);
    drop(runtime);
    for pending in waiting.into_iter().chain(submit(&channel, 3)) {
        let error = pending.wait().unwrap_err();
        assert_eq!(error.handler_failure().unwrap().type_name, "slipring::NoReply");
    }
    channel.close(LONG).unwrap();
}

#[test]
fn an_executor_that_cannot_take_tasks_ends_the_channel() {
    let channel = spawn(&Config::small(), || {
        // There is no runtime on that thread.
        Worker::new(|_| Ok(())).tasks(Tasks::new(|task| drop(tokio::spawn(task))))
    });
    let error = channel.call(WORK, "", LONG).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Session | ErrorKind::HandlerFailed), "{error}");
    let error = channel.call(WORK, "", LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Session, "{error}");
}

#[test]
fn a_limit_is_that_of_the_tasks_in_flight() {
    let runtime = OneThread::start();
    let (most, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let channel = {
        let (handle, most, open) = (runtime.handle.clone(), Arc::clone(&most), Arc::clone(&open));
        spawn(&Config::small(), move || {
            let tasks = Tasks::on_tokio(handle).on(WORK, move |_, _, responder| {
                let (most, open) = (Arc::clone(&most), Arc::clone(&open));
                async move {
                    most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                    Ok(responder.send_async("").await?)
                }
            });
            Worker::new(|_| Ok(())).max_taken(4).tasks(tasks)
        })
    };
    submit(&channel, 32).into_iter().for_each(|pending| drop(pending.wait().unwrap()));
    assert_eq!(most.load(Ordering::SeqCst), 4);
}

#[test]
fn a_fallback_serves_what_has_no_handler() {
    let runtime = OneThread::start();
    let channel = serve(&Config::small(), "session", &runtime, |tasks| {
        tasks
            .on(WORK, |session: Arc<&str>, _, responder| async move {
                Ok(responder.send_async(*session).await?)
            })
            .fallback(|_, request, responder| async move {
                Ok(responder.send_async(&request.kind().to_string()).await?)
            })
    });
    assert_eq!(channel.call(WORK, "", LONG).unwrap().to_vec(), b"session");
    assert_eq!(channel.call(OTHER, "", LONG).unwrap().to_vec(), OTHER.to_string().as_bytes());
}

#[test]
fn what_cannot_be_served_by_tasks_is_refused() {
    fn tasks() -> Tasks<()> {
        Tasks::new(drop).on(WORK, |_, _, responder| async { Ok(responder.send("")?) })
    }
    let refused = |worker: Worker<Arc<()>>| {
        let error = worker.serve().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    };
    let twice = tasks().on(WORK, |_, _, responder| async { Ok(responder.send("")?) });
    refused(Worker::new(|_| Ok(())).tasks(twice));
    refused(Worker::new(|_| Ok(())).on(OTHER, |(), _, reply| Ok(reply.send("")?)).tasks(tasks()));
    refused(Worker::new(|_| Ok(())).tasks(tasks()).on(OTHER, |_, _, reply| Ok(reply.send("")?)));
}

#[test]
fn a_cancelled_future_outlives_its_request() {
    let (channel, given) = handing_over(&Config::small());
    let pending = channel.submit(WORK, "", LONG).unwrap();
    let responder = given.recv().unwrap().responder;
    let mut cancelled = pin!(responder.cancelled());
    let probe = executors::Probe::new();
    assert!(executors::poll(&probe, cancelled.as_mut()).is_pending());
    responder.send("").unwrap();
    pending.wait().unwrap();
    assert!(executors::poll(&probe, cancelled.as_mut()).is_pending());
    channel.close(LONG).unwrap();
    eventually("its waker is woken", || probe.wakes() > 0);
    assert!(executors::poll(&probe, cancelled.as_mut()).is_ready());
}
