//! What gateways and remote roles count.

use std::time::Duration;

use slipring::ErrorKind;
use slipring::backend::{Backend, BackendRequest};
use slipring::pool::Outcome;
use slipring_gateway::metrics::GatewayRoleMetrics;
use slipring_gateway::{Discovery, GatewayState, Limits, RemoteRole};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::*;

fn counts(role: &GatewayRoleMetrics) -> Vec<(Outcome, u64)> {
    role.requests.iter().map(|each| (each.outcome, each.count)).collect()
}

#[tokio::test]
async fn a_gateway_counts_requests_by_role_and_outcome() {
    let rig = Rig::start(|gateway| gateway).await;
    let connection = rig.connect().await;
    for _ in 0..2 {
        let request = BackendRequest::new(ECHO, vec![1; 300_000]);
        connection.call("echo", request, LONG).await.unwrap();
    }
    connection.call("echo", BackendRequest::new(FAIL, "no"), LONG).await.unwrap_err();
    connection.call("none", BackendRequest::new(ECHO, "no"), LONG).await.unwrap_err();
    let hang = connection.call("other", BackendRequest::new(HANG, ""), LONG);
    let hang = tokio::spawn(hang);
    until(|| rig.told.hangs_begun.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    assert_eq!(rig.gateway.metrics().in_flight, 1);
    hang.abort();
    until(|| rig.gateway.metrics().in_flight == 0).await;
    // A request is over a moment after its answer was read.
    until(|| rig.gateway.metrics().roles.iter().map(|role| role.times.count()).sum::<u64>() == 5)
        .await;

    let metrics = rig.gateway.metrics();
    let [echo, other, none] = &metrics.roles[..] else { panic!("{metrics:?}") };
    assert_eq!((&*echo.role, &*other.role, &*none.role), ("echo", "other", ""));
    let failed = Outcome::Failed;
    assert_eq!(counts(echo), [(Outcome::Answered, 2), (failed(ErrorKind::HandlerFailed), 1)]);
    assert_eq!(counts(other), [(failed(ErrorKind::Cancelled), 1)]);
    assert_eq!(counts(none), [(failed(ErrorKind::InvalidInput), 1)]);
    assert_eq!((echo.bytes_received, echo.bytes_sent), (600_002, 600_000));
    assert!(echo.times.sum() > Duration::ZERO);
    assert_eq!((metrics.connections, metrics.accepted_connections), (1, 1));

    rig.gateway.drain();
    let refused = connection.call("echo", BackendRequest::new(ECHO, "late"), LONG).await;
    assert_eq!(refused.unwrap_err().was_begun(), Some(false));
}

#[tokio::test]
async fn a_gateway_counts_connections_that_come_to_nothing() {
    let rig = Rig::start(|gateway| gateway.max_connections(2)).await;
    let mut stranger = TcpStream::connect(rig.address).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
    until(|| rig.gateway.metrics().failed_handshakes == 1).await;

    // It says no more than its first bytes.
    let mut silent = TcpStream::connect(rig.address).await.unwrap();
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut all = Vec::new();
    silent.read_to_end(&mut all).await.unwrap();
    until(|| rig.gateway.metrics().silent_connections == 1).await;

    let (one, other) = (rig.connect().await, rig.connect().await);
    let (_one, _other) = (one.watch().await.unwrap(), other.watch().await.unwrap());
    let more = slipring_gateway::client::Connection::connect(rig.address, Limits::default(), LONG);
    more.await.unwrap_err();
    until(|| rig.gateway.metrics().refused_connections == 1).await;
    let metrics = rig.gateway.metrics();
    assert_eq!((metrics.accepted_connections, metrics.connections), (5, 2));
}

#[tokio::test]
async fn a_remote_role_counts_what_becomes_of_its_requests() {
    let (one, other) = (Rig::start(|rig| rig).await, Rig::start(|rig| rig).await);
    let gateways = Discovery::list([one.address.to_string(), other.address.to_string()]);
    let role = RemoteRole::builder("echo", gateways).build().unwrap();
    let of = |rig: &Rig| {
        let (all, address) = (role.metrics().gateways, rig.address.to_string());
        all.into_iter().find(|gateway| gateway.address == address).unwrap()
    };
    let ready = || {
        let all = role.metrics().gateways.into_iter();
        all.filter(|gateway| gateway.state == GatewayState::Ready).count()
    };
    until(|| ready() == 2).await;
    assert!(of(&one).is_in_slow_start);
    assert_eq!(of(&one).state_name(), "slow_start");
    for _ in 0..8 {
        role.call(BackendRequest::new(ECHO, "hello"), LONG).await.unwrap();
    }
    let hang = tokio::spawn(role.call(BackendRequest::new(HANG, ""), LONG));
    until(|| of(&one).in_flight + of(&other).in_flight == 1).await;
    assert_eq!(of(&one).attempts + of(&other).attempts, 9);
    let busy = if of(&one).in_flight == 1 { &one } else { &other };
    until(|| of(busy).reported_requests == 1).await;
    assert_eq!((of(busy).places, role.metrics().in_flight), (2, 1));
    hang.abort();

    one.gateway.drain();
    until(|| of(&one).disconnects >= 1).await;
    role.call(BackendRequest::new(ECHO, "hello"), LONG).await.unwrap();
    let (gone, metrics) = (of(&one), role.metrics());
    assert_eq!((gone.connects, of(&other).connects, of(&other).disconnects), (1, 1, 0));
    assert_eq!((metrics.requests, &*metrics.role), (10, "echo"));
}

#[cfg(feature = "prometheus")]
#[tokio::test]
async fn a_registry_has_the_metrics_of_both_sides() {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    let rig = Rig::start(|gateway| gateway).await;
    let role = RemoteRole::builder("echo", Discovery::list([rig.address.to_string()]));
    let role = role.build().unwrap();
    role.call(BackendRequest::new(ECHO, "hello"), LONG).await.unwrap();
    until(|| rig.gateway.metrics().roles[0].times.count() == 1).await;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(rig.gateway.collector()));
    registry.register_collector(Box::new(role.collector()));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    for line in [
        "slipring_gateway_connections 1",
        r#"slipring_gateway_requests_total{role="echo",outcome="ok"} 1"#,
        r#"slipring_gateway_seconds_count{role="echo"} 1"#,
        r#"slipring_gateway_received_bytes_total{role="echo"} 5"#,
        r#"slipring_remote_requests_total{role="echo"} 1"#,
    ] {
        assert!(text.lines().any(|each| each == line), "{line}: {text}");
    }
    let gateway = format!(
        r#"slipring_remote_gateway_attempts_total{{role="echo",gateway="{}"}} 1"#,
        rig.address
    );
    assert!(text.contains(&gateway), "{text}");
}
