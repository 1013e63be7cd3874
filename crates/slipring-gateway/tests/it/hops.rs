//! Gateways that pass requests on to each other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use slipring::ErrorKind;
use slipring::backend::{Backend, BackendRequest};
use slipring::pool::{AsyncRoleHandle, Pool, Role};
use slipring_gateway::server::Gateway;
use slipring_gateway::{Discovery, GatewayState, RemoteRole};
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

/// A machine without workers of its own, which passes requests on.
struct Relay {
    role: RemoteRole,
    addresses: Addresses,
    address: String,
    _pool: Pool,
}

impl Relay {
    async fn new(name: &str) -> Self {
        let (listener, address) = listen().await;
        let addresses = Addresses::new(name, &[]);
        let role = RemoteRole::builder("echo", Discovery::file(&addresses.0)).build().unwrap();
        let of_pool = Role::elsewhere(Arc::new(role.clone()));
        let pool = Pool::builder().role("echo", of_pool).build().unwrap();
        let backend = Arc::new(pool.role("echo").unwrap().to_async());
        let gateway = Gateway::builder().role(backend).build();
        tokio::spawn(async move { gateway.serve(listener).await });
        Self { role, addresses, address, _pool: pool }
    }

    /// Passes requests on to these.
    fn to(&self, others: &[&str]) {
        self.addresses.set_lines(&others.iter().map(|&other| other.to_owned()).collect::<Vec<_>>());
    }

    /// How many requests it has sent to another one.
    fn sent_to(&self, other: &str) -> u64 {
        let gateways = self.role.metrics().gateways.into_iter();
        gateways.filter(|gateway| gateway.address == other).map(|gateway| gateway.attempts).sum()
    }
}

async fn call(role: &RemoteRole) -> slipring::Result<slipring::Reply> {
    role.call(BackendRequest::new(ECHO, ""), LONG).await
}

/// So many machines without workers, each of which sends to the next one, and at first to a worker's.
async fn ring(count: usize) {
    let rig = Rig::start(|gateway| gateway).await;
    let worker = rig.address.to_string();
    let mut relays = Vec::new();
    for at in 0..count {
        relays.push(Relay::new(&format!("ring-{count}-{at}")).await);
    }
    let set = |worker: Option<&str>| {
        for (relay, next) in relays.iter().zip(relays.iter().cycle().skip(1)) {
            relay.to(&worker.into_iter().chain([&*next.address]).collect::<Vec<_>>());
        }
    };
    let are_ready = |ready| relays.iter().all(|relay| relay.role.load().is_ready == ready);
    let has_next = |relay: &Relay, next: &Relay| {
        let mut gateways = relay.role.gateways().into_iter();
        gateways.any(|it| it.address == next.address && it.state == GatewayState::Ready)
    };
    for _ in 0..2 {
        set(Some(&worker));
        // All take requests, and so say to each other that they do.
        let pairs = relays.iter().zip(relays.iter().cycle().skip(1));
        let is_joined =
            |(relay, next): (&Relay, &Relay)| relay.role.load().hops == 1 && has_next(relay, next);
        until(|| pairs.clone().all(is_joined)).await;
        for (relay, _) in pairs {
            call(&relay.role).await.unwrap();
        }
        set(None);
        until(|| are_ready(false)).await;
    }
}

#[tokio::test]
async fn machines_without_workers_do_not_call_each_other_ready() {
    tokio::join!(ring(1), ring(2), ring(3));
}

#[tokio::test]
async fn a_request_gets_nearer_to_its_workers_with_each_machine() {
    let rig = Rig::start(|gateway| gateway).await;
    let (first, second) = (Relay::new("first").await, Relay::new("second").await);
    first.to(&[&rig.address.to_string(), &second.address]);
    second.to(&[&rig.address.to_string(), &first.address]);
    let host = RemoteRole::builder("echo", Discovery::list([first.address.clone()]));
    let host = host.build().unwrap();
    // Two of the workers, and the same two by the other one: what it tells of itself is the workers' alone.
    until(|| [&first, &second].iter().all(|it| it.role.load().places == 4)).await;
    until(|| host.load().places == 2).await;
    assert_eq!((first.role.load().hops, host.load().hops), (1, 2));
    for _ in 0..50 {
        call(&host).await.unwrap();
    }
    assert_eq!((first.sent_to(&second.address), second.sent_to(&first.address)), (0, 0));
    assert_eq!([&first, &second].map(|it| it.role.load().places), [4, 4]);
}

#[tokio::test]
async fn a_request_that_has_come_by_many_machines_goes_no_further() {
    let rig = Rig::start(|gateway| gateway).await;
    let gateways = Discovery::list([rig.address.to_string()]);
    let role = RemoteRole::builder("echo", gateways).build().unwrap();
    let asked = |hops| role.call(BackendRequest::new(ECHO, "").hops(hops), LONG);
    asked(7).await.unwrap();
    let error = asked(8).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Unsupported, Some(false)), "{error}");
    assert!(error.to_string().contains("come by 8 machines"), "{error}");
}
