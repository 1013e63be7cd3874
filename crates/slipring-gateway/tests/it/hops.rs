//! Gateways that pass requests on to each other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use slipring::ErrorKind;
use slipring::backend::{Backend, BackendRequest};
use slipring::pool::{AsyncRoleHandle, Pool};
use slipring_gateway::server::Gateway;
use slipring_gateway::{Discovery, RemoteRole};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::rig::*;

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// A machine with one worker, which is busy, and room for no request that waits.
struct Machine {
    role: AsyncRoleHandle,
    overflow: RemoteRole,
    _busy: JoinHandle<slipring::Result<slipring::Reply>>,
    _pool: Pool,
}

impl Machine {
    /// Serves it to another one, to which its role overflows.
    async fn new(listener: TcpListener, other: &str) -> Self {
        let overflow = RemoteRole::builder("echo", Discovery::list([other])).build().unwrap();
        let told = Arc::<Told>::default();
        let role = role(&told).max_size(1).prefetch(0).max_waiting(0);
        let role = role.overflow(Arc::new(overflow.clone()));
        let pool = Pool::builder().role("echo", role).build().unwrap();
        let role = pool.role("echo").unwrap().to_async();
        // Until the worker is there, none may wait for it.
        let call = |kind| Backend::call(&role, BackendRequest::new(kind, ""), LONG);
        while call(ECHO).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let busy = tokio::spawn(call(HANG));
        until(|| told.hangs_begun.load(Ordering::SeqCst) == 1).await;
        let gateway = Gateway::builder().role(Arc::new(role.clone())).build();
        tokio::spawn(async move { gateway.serve(listener).await });
        Self { role, overflow, _busy: busy, _pool: pool }
    }
}

#[tokio::test]
async fn full_roles_that_overflow_to_each_other_pass_no_request_round() {
    let [(first, to_first), (second, to_second)] = [listen().await, listen().await];
    let first = Machine::new(first, &to_second).await;
    let second = Machine::new(second, &to_first).await;
    until(|| first.overflow.load().is_ready && second.overflow.load().is_ready).await;
    let call = Backend::call(&first.role, BackendRequest::new(ECHO, ""), LONG);
    let error = tokio::time::timeout(LONG / 2, call).await.expect("it goes round").unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Overloaded, Some(false)), "{error}");
    // It has come back, and was not sent again.
    assert_eq!(first.overflow.metrics().requests, 1);
}

#[tokio::test]
async fn gateways_without_workers_pass_no_request_round() {
    let rig = Rig::start(|gateway| gateway).await;
    let (listener, address) = listen().await;
    let addresses = Addresses::new("round", &[&rig]);
    let set = |lines: String| {
        let new = addresses.0.with_extension("new");
        std::fs::write(&new, lines).unwrap();
        std::fs::rename(&new, &addresses.0).unwrap();
    };
    set(format!("{}\n{address}", rig.address));
    let role = RemoteRole::builder("echo", Discovery::file(&addresses.0)).build().unwrap();
    let gateway = Gateway::builder().role(Arc::new(role.clone())).build();
    tokio::spawn(async move { gateway.serve(listener).await });
    // It takes requests, since the other one does.
    let places = || role.gateways().into_iter().map(|it| (it.address, it.places > 0));
    until(|| places().any(|it| it == (address.clone(), true))).await;
    // It says so of itself then.
    set(address.clone());
    until(|| role.gateways().len() == 1).await;
    let error = role.call(BackendRequest::new(ECHO, ""), LONG).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Unsupported, Some(false)), "{error}");
    assert!(error.to_string().contains("come by 8 machines"), "{error}");
}
