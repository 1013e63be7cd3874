//! A role behind several gateways.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use slipring::backend::{Backend, BackendRequest, BoxChunks};
use slipring::pool::Pool;
use slipring::{ErrorKind, Reply, RequestStage, Result, StreamTimeouts};
use slipring_gateway::server::Gateway;
use slipring_gateway::{Discovery, GatewayState, RemoteRole};

use crate::rig::*;

fn remote(discovery: Discovery) -> RemoteRole {
    RemoteRole::builder("echo", discovery).build().unwrap()
}

fn state(role: &RemoteRole, rig: &Rig) -> Option<GatewayState> {
    let gateways = role.gateways();
    let found = gateways.iter().find(|gateway| gateway.address == rig.address.to_string());
    found.map(|gateway| gateway.state)
}

async fn next(chunks: &mut BoxChunks) -> Option<Result<Reply>> {
    std::future::poll_fn(|context| chunks.as_mut().poll_next(context)).await
}

#[tokio::test]
async fn a_gateway_that_drains_costs_no_request_of_its_callers() {
    let first = Rig::start(|gateway| gateway).await;
    let addresses = Addresses::new("drain", &[&first]);
    let role = remote(Discovery::file(&addresses.0));
    let (is_over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let (role, is_over, answered) = (role.clone(), is_over.clone(), answered.clone());
            tokio::spawn(async move {
                for number in 0.. {
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                    let text = format!("{caller} {number}");
                    let reply = role.call(BackendRequest::new(ECHO, text.clone()), LONG).await;
                    assert_eq!(reply.unwrap().text().unwrap(), text);
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    until(|| answered.load(Ordering::SeqCst) > 100).await;
    let second = Rig::start(|gateway| gateway).await;
    addresses.set(&[&first, &second]);
    until(|| state(&role, &second) == Some(GatewayState::Ready)).await;
    first.gateway.drain();
    until(|| first.served.is_finished()).await;
    let before = answered.load(Ordering::SeqCst);
    until(|| answered.load(Ordering::SeqCst) > before + 100).await;
    assert_ne!(state(&role, &first), Some(GatewayState::Ready));
    addresses.set(&[&second]);
    until(|| state(&role, &first).is_none()).await;
    is_over.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    role.close(LONG).await.unwrap();
    let error = role.call(BackendRequest::new(ECHO, ""), LONG).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Closed, Some(false)));
}

#[tokio::test]
async fn calls_streams_reports_and_aborts_reach_the_workers() {
    let rig = Rig::start(|gateway| gateway).await;
    let role = remote(Discovery::list([rig.address.to_string()]));
    let submitted = role.submit(BackendRequest::new(ECHO, "early"), LONG);
    assert_eq!(submitted.await.unwrap().text().unwrap(), "early");
    let long = vec![7; 3000];
    let asked = BackendRequest::new(CHUNKS, long.clone());
    let mut chunks = role.stream(asked, StreamTimeouts::new()).await.unwrap();
    let mut all = Vec::new();
    while let Some(chunk) = next(&mut chunks).await {
        all.extend(chunk.unwrap().to_vec());
    }
    assert_eq!(all, long);
    let error = role.call(BackendRequest::new(FAIL, ""), LONG).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::HandlerFailed, Some(true)));
    assert!(error.handler_failure().unwrap().message.contains("out of luck"), "{error:#}");
    let reports = role.ping(LONG).await;
    let served: u64 = reports.iter().map(|it| it.as_ref().unwrap().requests_served).sum();
    assert!(!reports.is_empty() && served >= 3, "{reports:?}");
    let load = role.load();
    assert_eq!((load.places, load.is_ready, load.is_draining), (2, true, false));
    let asked = BackendRequest::new(HANG, "");
    let progress = asked.progress();
    let hangs = role.submit(asked, LONG);
    until(|| progress.stage() == Some(RequestStage::Begun)).await;
    role.abort();
    assert!(hangs.await.is_err());
    assert!(rig.told.was_cancelled.load(Ordering::SeqCst));
}

#[tokio::test]
async fn chunks_of_all_short_lengths_come_once_and_in_order() {
    let rig = Rig::start(|gateway| gateway).await;
    let role = remote(Discovery::list([rig.address.to_string()]));
    // Those that are copied out of the ring together, are sent together, and are copied where they came:
    // and longer ones.
    for longest in [64, 130, 600, 4_200] {
        let payload: Vec<u8> = (0..longest).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let asked = BackendRequest::new(STAIRS, payload.clone());
        let mut chunks = role.stream(asked, StreamTimeouts::new()).await.unwrap();
        let lens = (0..longest).chain(std::iter::repeat_n(longest, LANDING));
        for (number, len) in lens.enumerate() {
            let chunk = next(&mut chunks).await.unwrap().unwrap();
            assert!(chunk.to_vec() == payload[..len], "chunk {number} of {len} bytes");
        }
        assert!(next(&mut chunks).await.is_none());
    }
    // Its last piece looks like a short chunk.
    let payload = vec![7; (128 << 10) + 5];
    let asked = BackendRequest::new(FLOOD, payload.clone());
    let mut chunks = role.stream(asked, StreamTimeouts::new()).await.unwrap();
    for _ in 0..20 {
        assert!(next(&mut chunks).await.unwrap().unwrap().to_vec() == payload);
    }
}

#[tokio::test]
async fn bytes_of_chunks_that_are_sent_together_are_counted() {
    let rig = Rig::start(|gateway| gateway).await;
    let role = remote(Discovery::list([rig.address.to_string()]));
    let lens = [64, 600];
    for len in lens {
        let asked = BackendRequest::new(STAIRS, vec![7; len]);
        let mut chunks = role.stream(asked, StreamTimeouts::new()).await.unwrap();
        while let Some(chunk) = next(&mut chunks).await {
            chunk.unwrap();
        }
    }
    let sent = rig.gateway.metrics().roles.iter().map(|role| role.bytes_sent).sum::<u64>();
    let expected = lens.map(|len| len * (len - 1) / 2 + len * LANDING);
    assert_eq!(sent, u64::try_from(expected.iter().sum::<usize>()).unwrap());
}

#[tokio::test]
async fn a_gateway_that_comes_back_without_the_role_gets_none_of_its_requests() {
    let first = Rig::start(|gateway| gateway).await;
    let role = remote(Discovery::list([first.address.to_string()]));
    role.call(BackendRequest::new(ECHO, ""), LONG).await.unwrap();
    let again = async |backend: Arc<dyn Backend>| {
        let listener = tokio::net::TcpListener::bind(first.address).await.unwrap();
        let gateway = Gateway::builder().role(backend).build();
        let serves = gateway.clone();
        (gateway, tokio::spawn(async move { serves.serve(listener).await }))
    };
    first.gateway.drain();
    until(|| first.served.is_finished()).await;
    let pool =
        |name: &str| Pool::builder().role(name, crate::rig::role(&Arc::default())).build().unwrap();
    let (others, same) = (pool("other"), pool("echo"));
    let (gateway, served) = again(Arc::new(others.role("other").unwrap().to_async())).await;
    until(|| state(&role, &first) == Some(GatewayState::Starting)).await;
    let waits = role.submit(BackendRequest::new(ECHO, "waits"), LONG);
    let short = std::time::Duration::from_millis(50);
    // It takes a moment until the gateway has said which roles it has.
    let is_told = async || {
        let error = role.call(BackendRequest::new(ECHO, ""), short).await.unwrap_err();
        let known = (error.kind(), error.was_begun());
        assert_eq!(known, (ErrorKind::QueueTimeout, Some(false)), "{error}");
        format!("{error:#}").contains(&format!("{} has no role \"echo\"", first.address))
    };
    let told = async { while !is_told().await {} };
    tokio::time::timeout(LONG, told).await.expect("it is not said that the role is missing");
    assert!(
        gateway.metrics().roles.iter().all(|role| role.requests.iter().all(|it| it.count == 0))
    );
    gateway.drain();
    until(|| served.is_finished()).await;
    let _again = again(Arc::new(same.role("echo").unwrap().to_async())).await;
    assert_eq!(waits.await.unwrap().text().unwrap(), "waits");
}

/// A thread that waits for its future, without any runtime.
struct Parked(Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Parked(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn futures_of_a_remote_role_need_no_runtime_of_their_own() {
    let rig = Rig::start(|gateway| gateway).await;
    let role = remote(Discovery::list([rig.address.to_string()]));
    let thread = std::thread::spawn(move || {
        block_on(async {
            let asked = BackendRequest::new(ECHO, "alone");
            assert_eq!(role.call(asked, LONG).await.unwrap().text().unwrap(), "alone");
            let asked = BackendRequest::new(CHUNKS, vec![1; 10]);
            let mut chunks = role.stream(asked, StreamTimeouts::new()).await.unwrap();
            assert!(next(&mut chunks).await.unwrap().is_ok());
            assert!(next(&mut chunks).await.is_none());
            drop(chunks);
            assert_eq!(role.ping(LONG).await.into_iter().filter(Result::is_err).count(), 0);
            role.close(LONG).await.unwrap();
        });
    });
    until(|| thread.is_finished()).await;
    thread.join().unwrap();
}
