//! The worker of [`worker`](super::worker), with async handlers. It serves what tests of calls,
//! streams, health and several callers ask for.

use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use slipring::worker::{HandlerError, OwnedRequest, OwnedResponder, Tasks, Worker};
use slipring::{Config, Kind, RoleConfig};
use tokio::runtime::{Builder, Handle};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::*;

/// The variable by which a worker process serves with tasks.
pub const TASKS: &str = "SLIPRING_TEST_TASKS";

#[derive(Default)]
pub struct AsyncSession {
    role: String,
    naps_begun: AtomicU64,
    naps_done: AtomicU64,
    held: Mutex<Vec<Vec<u8>>>,
}

type Handled = Result<(), HandlerError>;

/// Serves as a worker process whose tasks run on two threads.
pub fn serve_with_tasks() -> slipring::Result<()> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    worker_with_tasks(runtime.handle().clone()).serve()
}

/// A worker that serves most kinds of [`worker`](super::worker) with tasks of this runtime.
pub fn worker_with_tasks(handle: Handle) -> Worker<Arc<AsyncSession>> {
    let build = |role: &RoleConfig| {
        Ok(AsyncSession { role: format!("{role:?}"), ..AsyncSession::default() })
    };
    let tasks = Tasks::on_tokio(handle)
        .on(ECHO, |_, request, reply| async move {
            // Written in place if every configuration of these tests has room for it.
            let request: OwnedRequest = request;
            if request.get().len() > 1000 {
                return Ok(reply.send_async(&request.get().to_vec()).await?);
            }
            let mut slot = reply.claim_async(request.get().len()).await?;
            request.get().payload().copy_to(slot.payload())?;
            Ok(slot.send()?)
        })
        .on(SLOW_ECHO, |_, request, reply| async move {
            let bytes = request.get().to_vec();
            sleep(Duration::from_millis(numbers(&bytes)[0])).await;
            Ok(reply.send_async(&bytes).await?)
        })
        .on(COUNT, |_, request, reply| count(request, reply, None))
        .on(COUNT_ALL, |_, request, mut reply| async move {
            let request: OwnedRequest = request;
            let mut chunks = patterns(&request.get().to_vec()).peekable();
            reply.send_all_async(&mut chunks).await?;
            Ok(reply.end()?)
        })
        .on(COUNT_AND_FAIL, |_, request, reply| {
            count(request, reply, Some(HandlerError::new("test::Tired", "after all chunks")))
        })
        .on(TRICKLE, |_, request, mut reply| async move {
            let [pause, count, len] = three(&request);
            for i in 0..count {
                reply.send_chunk_async(&pattern(i, len as usize)).await?;
                sleep(Duration::from_micros(pause)).await;
            }
            Ok(reply.end()?)
        })
        .on(STREAM_ANYHOW, |_, _, mut reply| async move {
            reply.send_chunk_async(b"unasked").await?;
            Ok(reply.end()?)
        })
        .on(CHUNK_THEN_OTHER_ERROR, |_, request, mut reply| async move {
            let len = numbers(&request.get().to_vec())[0] as usize;
            match reply.send_chunk_async(&pattern(0, len)).await {
                Ok(()) => Err(HandlerError::new("test::Other", "after a chunk")),
                Err(_) => Err(HandlerError::new("test::Other", "instead of a chunk")),
            }
        });
    Worker::new(build).tasks(counters(failures(tasks)))
}

fn three(request: &OwnedRequest) -> [u64; 3] {
    numbers(&request.get().to_vec()).try_into().expect("three numbers")
}

async fn count(
    request: OwnedRequest,
    mut reply: OwnedResponder,
    error: Option<HandlerError>,
) -> Handled {
    let [count, len] = numbers(&request.get().to_vec())[..] else { panic!("two numbers") };
    for i in 0..count {
        reply.send_chunk_async(&pattern(i, len as usize)).await?;
    }
    match error {
        Some(error) => Err(error),
        None => Ok(reply.end()?),
    }
}

/// Adds what fails, panics, or ends the process.
fn failures(tasks: Tasks<AsyncSession>) -> Tasks<AsyncSession> {
    fn text(request: &OwnedRequest) -> String {
        String::from_utf8_lossy(&request.get().to_vec()).into_owned()
    }
    tasks
        .on(FAIL, |_, request, _| async move { Err(std::io::Error::other(text(&request)).into()) })
        .on(
            FAIL_SHORTLY,
            |_, request, _| async move { Err(HandlerError::new("E", text(&request))) },
        )
        .on(FAIL_DEEP, |_, _, _| async { Err(fail_deep()) })
        .on(PANIC, |_, request, _| async move { panic!("{}", text(&request)) })
        .on(EXIT, |_, request, _| async move {
            std::process::exit(i32::from(request.get().to_vec()[0]))
        })
        .on(
            ABSURD_CLAIM,
            |_, _, reply| async move { Ok(reply.claim_async(usize::MAX).await?.send()?) },
        )
        .on(CANCEL_ANOTHER, |_, _, reply| async move {
            let spawner = spawner().config(Config::small()).env_remove(TASKS);
            let other = tokio::task::spawn_blocking(move || {
                let channel = spawner.spawn()?;
                let pending = channel.submit(UNTIL_CANCELLED, b"", LONG)?;
                pending.cancel();
                pending.wait().map(|reply| reply.to_vec())
            });
            Ok(reply.send_async(&other.await??).await?)
        })
}

/// Adds what waits, counts, or looks at the session.
fn counters(tasks: Tasks<AsyncSession>) -> Tasks<AsyncSession> {
    type Session = Arc<AsyncSession>;
    tasks
        .on(UNTIL_CANCELLED, |_, _, reply| async move {
            let reply: OwnedResponder = reply;
            let mut looks = 0_u64;
            while !reply.is_cancelled() {
                looks += 1;
                reply.set_progress(looks);
                yield_now().await;
            }
            Ok(reply.cancel_token().check()?)
        })
        .on(UNTIL_ABORTED, |_, _, reply| async move {
            reply.cancelled().await;
            Ok(reply.send_async(&encode(&[1])).await?)
        })
        .on(FOR_EVER, |_, _, _reply| async move {
            // The responder is not captured: it has to live as long.
            let _reply = _reply;
            pending::<Handled>().await
        })
        .on(SUM, |_, request, reply| async move {
            let sum: u64 = request.get().to_vec().iter().map(|b| u64::from(*b)).sum();
            Ok(reply.send_async(&encode(&[sum])).await?)
        })
        .on(
            ROLE,
            |session: Session, _, reply| async move { Ok(reply.send_async(&session.role).await?) },
        )
        .on(BIG, |_, request, reply| async move {
            let len = numbers(&request.get().to_vec())[0] as usize;
            Ok(reply.send_async(&pattern(7, len)).await?)
        })
        .on(NAP, |session: Session, request, reply| async move {
            session.naps_begun.fetch_add(1, Ordering::SeqCst);
            let bytes = request.get().to_vec();
            sleep(Duration::from_micros(numbers(&bytes)[0])).await;
            reply.send_async(&bytes).await?;
            session.naps_done.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .on(NAPS, |session: Session, _, reply| async move {
            let naps = [&session.naps_begun, &session.naps_done].map(|n| n.load(Ordering::SeqCst));
            Ok(reply.send_async(&encode(&naps)).await?)
        })
        .on(HOLD_MIB, |session: Session, request, reply| async move {
            for _ in 0..numbers(&request.get().to_vec())[0] {
                session.held.lock().unwrap().push(vec![1; 1 << 20]);
            }
            Ok(reply.send_async("held").await?)
        })
        .on(CHUNK_AND_STAY, |_, _, reply| async move {
            let mut reply: OwnedResponder = reply;
            reply.send_chunk_async(&pattern(0, 8)).await?;
            reply.cancelled().await;
            Ok(reply.cancel_token().check()?)
        })
        .on(ANSWER_AND_GO_ON, |_, request, reply| async move {
            let pause = Duration::from_millis(numbers(&request.get().to_vec())[0]);
            reply.send_async("").await?;
            sleep(pause).await;
            Ok(())
        })
        .on(TIME_LEFT, |_, request, reply| async move {
            let left = request.get().time_left().as_millis();
            let left = u64::try_from(left).unwrap_or(u64::MAX);
            Ok(reply.send_async(&encode(&[left])).await?)
        })
}
