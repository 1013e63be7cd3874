//! Connections that are lost, that say nothing, and that are too many.

use std::sync::atomic::Ordering;
use std::time::Duration;

use slipring::ErrorKind;
use slipring::backend::BackendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::rig::*;
use slipring_gateway::Limits;
use slipring_gateway::client::Connection;

#[tokio::test]
async fn a_request_that_was_seen_begun_is_begun_when_the_connection_is_lost() {
    let rig = Rig::start(|gateway| gateway).await;
    let connection = rig.connect().await;
    let request = BackendRequest::new(HANG, "");
    let progress = request.progress();
    let call = tokio::spawn(connection.call("echo", request, LONG));
    until(|| progress.stage() == Some(slipring::RequestStage::Begun)).await;
    connection.close();
    let error = call.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, Some(true)));
    until(|| rig.told.was_cancelled.load(Ordering::SeqCst)).await;
}

/// Connects to a peer that never says a word.
async fn to_silent_peer(limits: Limits) -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = TcpStream::connect(listener.local_addr().unwrap());
    let (stream, accepted) = tokio::join!(connect, listener.accept());
    let connection = Connection::over(stream.unwrap(), "silent:1".into(), limits).await;
    (connection.unwrap(), accepted.unwrap().0)
}

#[tokio::test]
async fn nothing_is_known_of_a_request_whose_gateway_goes_away() {
    let (connection, mut peer) = to_silent_peer(Limits::default()).await;
    let call = tokio::spawn(connection.call("echo", BackendRequest::new(ECHO, "request"), LONG));
    let mut read = Vec::new();
    while !read.windows(7).any(|window| window == b"request") {
        assert_ne!(peer.read_buf(&mut read).await.unwrap(), 0);
    }
    drop(peer);
    let error = call.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, None), "{error}");
    let error = connection.call("echo", BackendRequest::new(ECHO, ""), LONG).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, Some(false)));
}

#[tokio::test]
async fn a_gateway_that_is_silent_is_lost() {
    let mut limits = Limits::default();
    limits.keep_alive_interval = Duration::from_millis(20);
    limits.keep_alive_timeout = Duration::from_millis(20);
    let (connection, _peer) = to_silent_peer(limits).await;
    let error = connection.call("echo", BackendRequest::new(ECHO, ""), LONG).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, None), "{error}");
    assert!(error.to_string().contains("no answer for 20ms"), "{error}");
    assert!(connection.is_closed());
}

#[tokio::test]
async fn no_connection_is_an_error_that_names_the_gateway() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Connection::connect(address, Limits::default(), LONG).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, Some(false)));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn callers_that_say_nothing_do_not_keep_a_valid_one_out() {
    let rig = Rig::start(|gateway| gateway.handshakes(8, LONG).max_connections(4)).await;
    let mut silent = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
        }
        silent.push(stream);
    }
    let mut idle = Vec::new();
    for _ in 0..10 {
        let connection = rig.connect().await;
        connection.call("echo", BackendRequest::new(ECHO, ""), LONG).await.unwrap();
        idle.push(connection);
    }
    // Those of before gave way.
    let mut first = [0];
    let read = tokio::time::timeout(LONG, silent[0].read(&mut first)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    tokio::time::timeout(LONG, idle[0].closed()).await.unwrap();
    assert!(!idle[9].is_closed());
}

/// Connects from another address of the loopback interface, as another machine does.
async fn from_elsewhere(rig: &Rig) -> Connection {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = socket.connect(rig.address).await.unwrap();
    Connection::over(stream, "gateway:1".into(), Limits::default()).await.unwrap()
}

#[tokio::test]
async fn a_machine_that_watches_without_end_does_not_keep_others_out() {
    let rig = Rig::start(|gateway| gateway.max_connections(4)).await;
    let mut all = Vec::new();
    for _ in 0..4 {
        let connection = from_elsewhere(&rig).await;
        let mut watching = connection.watch().await.unwrap();
        watching.next().await.unwrap().unwrap();
        all.push((connection, watching));
    }
    let request = BackendRequest::new(HANG, "");
    let progress = request.progress();
    let busy = tokio::spawn(all[0].0.call("other", request, LONG));
    until(|| progress.stage() == Some(slipring::RequestStage::Begun)).await;

    let valid = rig.connect().await;
    let _watching = valid.watch().await.unwrap();
    valid.call("echo", BackendRequest::new(ECHO, ""), LONG).await.unwrap();
    tokio::time::timeout(LONG, all[1].0.closed()).await.unwrap();
    // It is back, and takes no place from others.
    let again = from_elsewhere(&rig).await;
    tokio::time::timeout(LONG, again.closed()).await.unwrap();
    let is_closed: Vec<_> = all.iter().map(|(connection, _)| connection.is_closed()).collect();
    assert_eq!(is_closed, [false, true, false, false]);
    assert!(!valid.is_closed() && !busy.is_finished());
}

#[tokio::test]
async fn what_is_not_http2_is_closed() {
    let rig = Rig::start(|gateway| gateway.handshakes(8, LONG)).await;
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Closed with bytes that were not read: that may be a reset.
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.is_empty());
}
