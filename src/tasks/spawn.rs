//! Starting a worker without blocking.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use crate::channel::{Channel, Spawner, WaitList};
use crate::error::{Error, Result};
use crate::process::service::lock;
use crate::sys::fork;

/// A channel on its way from the thread that starts its worker to the task that awaits it.
#[derive(Default)]
struct SpawnResult {
    result: Mutex<Option<Result<Channel>>>,
    arrived: WaitList,
}

/// Starts a worker on a thread of its own. If the future is dropped, the channel is dropped as soon
/// as it is there, which ends the worker.
pub(super) async fn spawn_channel(spawner: Spawner) -> Result<Channel> {
    fork::watch()?;
    let spawned = Arc::new(SpawnResult::default());
    let theirs = Arc::clone(&spawned);
    let thread = std::thread::Builder::new().name("slipring-spawn".to_owned());
    let started = thread.spawn(move || {
        let result = spawner.pollable().spawn();
        *lock(&theirs.result) = Some(result);
        theirs.arrived.wake_all();
    });
    started.map_err(|e| Error::os("cannot start a thread to start a worker", e))?;
    let mut registration = spawned.arrived.register();
    poll_fn(|context| {
        registration.wait(context.waker());
        lock(&spawned.result).take().map_or(Poll::Pending, Poll::Ready)
    })
    .await
}
