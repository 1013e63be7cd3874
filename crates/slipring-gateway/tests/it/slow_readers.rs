//! A reader that does not read.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use slipring::backend::BackendRequest;
use slipring::{ErrorKind, RequestStage, StreamTimeouts};

use crate::rig::*;

const CHUNK: usize = 64 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_stops_its_worker_and_nobody_else() {
    let rig = Rig::start(|gateway| gateway).await;
    let connection = rig.connect().await;
    let flood = BackendRequest::new(FLOOD, vec![7; CHUNK]);
    let mut stream = connection.stream("other", flood, LONG.into()).await.unwrap();
    // The worker sends until all windows are full.
    let mut sent = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = rig.told.chunks_sent.load(Ordering::SeqCst);
        if now > 0 && now == sent {
            break;
        }
        sent = now;
    }
    // Those of HTTP/2 on both sides, of the rings, and of the sockets.
    assert!(sent * (CHUNK as u64) < 32 << 20, "{sent} chunks are on their way");
    for _ in 0..100 {
        connection.call("echo", BackendRequest::new(ECHO, vec![1; 100_000]), LONG).await.unwrap();
    }
    assert_eq!(rig.told.chunks_sent.load(Ordering::SeqCst), sent, "the worker waits");
    // A reader that reads has the worker go on.
    for _ in 0..2 * sent {
        let chunk = std::future::poll_fn(|context| {
            futures_core::Stream::poll_next(Pin::new(&mut stream), context)
        });
        let chunk = tokio::time::timeout(LONG, chunk).await.unwrap().unwrap().unwrap();
        assert_eq!(chunk.len(), CHUNK);
    }
    assert!(rig.told.chunks_sent.load(Ordering::SeqCst) >= 2 * sent);
}

#[tokio::test]
async fn a_stream_that_is_not_read_ends_at_its_deadline() {
    let rig = Rig::start(|gateway| gateway).await;
    let connection = rig.connect().await;
    let flood = BackendRequest::new(FLOOD, vec![7; CHUNK]);
    let timeouts = StreamTimeouts::new().total(Duration::from_millis(500));
    let mut stream = connection.stream("other", flood, timeouts).await.unwrap();
    until(|| rig.told.was_cancelled.load(Ordering::SeqCst)).await;
    until(|| rig.gateway.in_flight() == 0).await;
    // The worker serves others.
    connection.call("other", BackendRequest::new(ECHO, ""), LONG).await.unwrap();
    // A reader that comes late gets what was sent, and is told.
    let error = loop {
        let chunk = std::future::poll_fn(|context| {
            futures_core::Stream::poll_next(Pin::new(&mut stream), context)
        });
        match tokio::time::timeout(LONG, chunk).await.unwrap().unwrap() {
            Ok(chunk) => assert_eq!(chunk.len(), CHUNK),
            Err(error) => break error,
        }
    };
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Timeout, Some(true)), "{error}");
}

#[tokio::test]
async fn a_reply_that_is_not_read_does_not_keep_its_gateway_from_ending() {
    let rig = Rig::start(|gateway| gateway).await;
    let connection = rig.connect().await;
    let request = BackendRequest::new(ECHO, vec![7; 8 << 20]);
    let progress = request.progress();
    let mut call = Box::pin(connection.call("echo", request, Duration::from_secs(3)));
    tokio::select! {
        biased;
        () = until(|| progress.stage() == Some(RequestStage::Begun)) => {}
        _ = &mut call => panic!("it was read to its end"),
    }
    rig.gateway.drain();
    assert_eq!(rig.gateway.in_flight(), 1);
    until(|| rig.served.is_finished()).await;
}
