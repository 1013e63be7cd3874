//! A pool whose role has workers here, and those of a gateway when they are busy.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use slipring::backend::{Backend, BackendRequest};
use slipring::pool::{Pool, RoleHandle};
use slipring::{Reply, Result};
use slipring_gateway::{Discovery, RemoteRole};
use tokio::task::JoinHandle;

use crate::rig::*;

/// A request that runs, or waits for a place.
type Running = JoinHandle<Result<Reply>>;

/// How many wait.
const BURST: usize = 8;

/// A host with one worker of its own, which is busy, and no gateway yet.
struct Host {
    role: RoleHandle,
    addresses: Addresses,
    elsewhere: RemoteRole,
    held_here: Running,
    pool: Pool,
}

impl Host {
    async fn new(name: &str) -> Self {
        let addresses = Addresses::new(name, &[]);
        let gateways = Discovery::file(&addresses.0);
        let elsewhere = RemoteRole::builder("echo", gateways).build().unwrap();
        let told = Arc::<Told>::default();
        // None waits at the worker itself.
        let here = role(&told).max_size(1).prefetch(0).overflow(Arc::new(elsewhere.clone()));
        let pool = Pool::builder().role("echo", here).build().unwrap();
        let role = pool.role("echo").unwrap();
        let held_here = tokio::spawn(hang(&role.to_async()));
        until(|| told.hangs_begun.load(Ordering::SeqCst) == 1).await;
        Self { role, addresses, elsewhere, held_here, pool }
    }

    /// Sends more than there are places, all of which wait here.
    async fn burst(&self) -> Vec<Running> {
        let here = self.role.to_async();
        let send = |number: usize| {
            Backend::call(&here, BackendRequest::new(ECHO, number.to_string()), LONG)
        };
        let burst = (0..BURST).map(|number| tokio::spawn(send(number))).collect();
        until(|| self.role.health().load.queued == BURST).await;
        burst
    }

    async fn is_full_elsewhere(&self) {
        let is_full = || {
            let load = self.elsewhere.load();
            load.is_ready && load.in_flight + load.queued >= load.places
        };
        until(is_full).await;
    }

    /// Waits until all of a burst are answered, which the worker here has not done.
    async fn served_elsewhere(self, burst: Vec<Running>, before: u64) {
        for (number, running) in burst.into_iter().enumerate() {
            let reply = running.await.unwrap().unwrap();
            assert_eq!(reply.text().unwrap(), number.to_string());
        }
        let metrics = self.role.metrics();
        let burst = u64::try_from(BURST).unwrap();
        assert_eq!((metrics.overflowed - before, metrics.overflowed_back), (burst, 0));
        assert!(!self.held_here.is_finished());
        self.held_here.abort();
        tokio::task::spawn_blocking(move || self.pool.close(LONG)).await.unwrap().unwrap();
    }
}

/// Keeps a worker busy until it is dropped.
fn hang(role: &dyn Backend) -> impl Future<Output = Result<Reply>> + use<> {
    role.call(BackendRequest::new(HANG, ""), LONG)
}

#[tokio::test]
async fn requests_that_wait_here_leave_for_a_gateway_that_comes() {
    let host = Host::new("comes").await;
    let burst = host.burst().await;
    let rig = Rig::start(|gateway| gateway).await;
    host.addresses.set(&[&rig]);
    host.served_elsewhere(burst, 0).await;
}

#[tokio::test]
async fn requests_that_wait_here_leave_when_another_host_is_done() {
    let (rig, host) = (Rig::start(|gateway| gateway).await, Host::new("another").await);
    let gateways = Discovery::list([rig.address.to_string()]);
    let other = RemoteRole::builder("echo", gateways).build().unwrap();
    let held = [tokio::spawn(hang(&other)), tokio::spawn(hang(&other))];
    host.addresses.set(&[&rig]);
    host.is_full_elsewhere().await;
    let burst = host.burst().await;
    held.iter().for_each(Running::abort);
    host.served_elsewhere(burst, 0).await;
}

#[tokio::test]
async fn requests_that_wait_here_leave_when_own_ones_end_elsewhere() {
    let (rig, host) = (Rig::start(|gateway| gateway).await, Host::new("own").await);
    host.addresses.set(&[&rig]);
    until(|| host.elsewhere.load().is_ready).await;
    let here = host.role.to_async();
    let held = [tokio::spawn(hang(&here)), tokio::spawn(hang(&here))];
    host.is_full_elsewhere().await;
    let burst = host.burst().await;
    held.iter().for_each(Running::abort);
    host.served_elsewhere(burst, 2).await;
}
