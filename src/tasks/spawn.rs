//! Starting a worker without blocking.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use crate::channel::{Channel, Spawner};
use crate::error::{Error, Result};
use crate::process::service::lock;
use crate::sys::fork;

/// A channel on its way from the thread that starts its worker to the task that awaits it.
#[derive(Default)]
struct Arrival {
    result: Option<Result<Channel>>,
    waker: Option<Waker>,
}

/// Starts a worker on a thread of its own. If the future is dropped, the channel is dropped as soon
/// as it is there, which ends the worker.
pub(super) async fn spawn_channel(spawner: Spawner) -> Result<Channel> {
    fork::watch()?;
    let arrival = Arc::new(Mutex::new(Arrival::default()));
    let theirs = Arc::clone(&arrival);
    let thread = std::thread::Builder::new().name("slipring-spawn".to_owned());
    let started = thread.spawn(move || {
        let result = spawner.pollable().spawn();
        let mut arrival = lock(&theirs);
        arrival.result = Some(result);
        let waker = arrival.waker.take();
        drop(arrival);
        if let Some(waker) = waker {
            waker.wake();
        }
    });
    started.map_err(|e| Error::os("cannot start a thread to start a worker", e))?;
    poll_fn(|context| {
        // Cloned before the lock and dropped after it: wakers are the executor's code.
        let waker = context.waker().clone();
        let mut arrival = lock(&arrival);
        if let Some(result) = arrival.result.take() {
            return Poll::Ready(result);
        }
        let before = arrival.waker.replace(waker);
        drop(arrival);
        drop(before);
        Poll::Pending
    })
    .await
}
