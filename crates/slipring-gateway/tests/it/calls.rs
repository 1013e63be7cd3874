//! Calls, streams, their ends and their errors.

use std::sync::atomic::Ordering;
use std::time::Duration;

use slipring::backend::BackendRequest;
use slipring::{ErrorKind, Kind, Reply, RequestStage, Result, StreamTimeouts};
use slipring_gateway::client::Chunks;
use slipring_gateway::{Limits, client::Connection};

use crate::rig::*;

async fn next(chunks: &mut Chunks) -> Option<Result<Reply>> {
    let chunk = std::future::poll_fn(|context| {
        futures_core::Stream::poll_next(std::pin::Pin::new(&mut *chunks), context)
    });
    tokio::time::timeout(LONG, chunk).await.expect("the next chunk never comes")
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn payloads_of_all_lengths_come_back_as_they_went() {
    let rig = Rig::start(|gateway| gateway).await;
    let connection = rig.connect().await;
    for len in [0, 1, 64, 512, 513, 100_000, 128 << 10, (128 << 10) + 1, 1 << 20, 64 << 20] {
        let payload = pattern(len);
        let request = BackendRequest::new(ECHO, payload.clone());
        let reply = connection.call("echo", request, LONG).await.unwrap();
        assert!(reply.to_vec() == payload, "{len} bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_the_same_time_get_their_own_replies() {
    let rig = Rig::start(|gateway| gateway).await;
    let connection = rig.connect().await;
    let calls = (0..2_000_u32).map(|number| {
        let request = BackendRequest::new(ECHO, number.to_le_bytes());
        (number, tokio::spawn(connection.call("echo", request, LONG)))
    });
    for (number, call) in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap().to_vec(), number.to_le_bytes());
    }
}

#[tokio::test]
async fn a_stream_has_the_chunks_that_its_worker_sends() {
    let rig = Rig::start(|gateway| gateway).await;
    let connection = rig.connect().await;
    for len in [0, 1, 999, 1_000, 1_001, 300_000] {
        let payload = pattern(len);
        let request = BackendRequest::new(CHUNKS, payload.clone());
        let mut stream = connection.stream("echo", request, LONG.into()).await.unwrap();
        for expected in payload.chunks(1_000) {
            assert_eq!(next(&mut stream).await.unwrap().unwrap().to_vec(), expected);
        }
        assert!(next(&mut stream).await.is_none());
    }
}

#[tokio::test]
async fn chunks_that_are_longer_than_a_piece_are_put_together() {
    let rig = Rig::start(|gateway| gateway).await;
    let connection = rig.connect().await;
    let payload = pattern(1_000_003);
    let request = BackendRequest::new(FLOOD, payload.clone());
    let mut stream = connection.stream("echo", request, LONG.into()).await.unwrap();
    for _ in 0..20 {
        assert!(next(&mut stream).await.unwrap().unwrap().to_vec() == payload);
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled_at_its_worker() {
    let rig = Rig::start(|gateway| gateway).await;
    let connection = rig.connect().await;
    let call = tokio::spawn(connection.call("echo", BackendRequest::new(HANG, ""), LONG));
    until(|| rig.told.hangs_begun.load(Ordering::SeqCst) == 1).await;
    call.abort();
    until(|| rig.told.was_cancelled.load(Ordering::SeqCst)).await;
    until(|| rig.gateway.in_flight() == 0).await;
}

#[tokio::test]
async fn a_stream_that_is_dropped_is_cancelled_at_its_worker() {
    let rig = Rig::start(|gateway| gateway).await;
    let connection = rig.connect().await;
    let request = BackendRequest::new(FLOOD, "chunk");
    let mut stream = connection.stream("echo", request, LONG.into()).await.unwrap();
    next(&mut stream).await.unwrap().unwrap();
    drop(stream);
    until(|| rig.told.was_cancelled.load(Ordering::SeqCst)).await;
    until(|| rig.gateway.in_flight() == 0).await;
}

#[tokio::test]
async fn the_caller_sees_that_its_request_is_begun_before_the_answer() {
    let rig = Rig::start(|gateway| gateway).await;
    let connection = rig.connect().await;
    let request = BackendRequest::new(HANG, "");
    let progress = request.progress();
    assert_eq!(progress.stage(), Some(RequestStage::Queued));
    let call = tokio::spawn(connection.call("echo", request, LONG));
    until(|| progress.stage() == Some(RequestStage::Begun)).await;
    assert!(!call.is_finished());
}

#[tokio::test]
async fn a_deadline_that_passes_is_a_timeout_of_a_request_that_was_begun() {
    let rig = Rig::start(|gateway| gateway).await;
    let connection = rig.connect().await;
    let short = Duration::from_millis(200);
    let error = connection.call("echo", BackendRequest::new(HANG, ""), short).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Timeout, Some(true)), "{error}");
    let timeouts = StreamTimeouts::new().total(short);
    let request = BackendRequest::new(HANG, "");
    let mut stream = connection.stream("other", request, timeouts).await.unwrap();
    let error = next(&mut stream).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Timeout, Some(true)), "{error}");
    assert!(next(&mut stream).await.is_none());
    until(|| rig.gateway.in_flight() == 0).await;
}

#[tokio::test]
async fn an_error_of_a_handler_arrives_whole() {
    let rig = Rig::start(|gateway| gateway).await;
    let connection = rig.connect().await;
    let error = connection.call("echo", BackendRequest::new(FAIL, ""), LONG).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::HandlerFailed, Some(true)));
    let failure = error.handler_failure().unwrap();
    assert_eq!(failure.message, "out of luck");
    assert!(failure.type_name.contains("io::error::Error"), "{failure:?}");
    let mut stream =
        connection.stream("echo", BackendRequest::new(FAIL, ""), LONG.into()).await.unwrap();
    let of_stream = next(&mut stream).await.unwrap().unwrap_err();
    assert_eq!(of_stream.handler_failure(), Some(failure));
}

#[tokio::test]
async fn what_nothing_serves_is_refused_and_was_not_begun() {
    let rig = Rig::start(|gateway| gateway).await;
    let connection = rig.connect().await;
    let error = connection.call("none", BackendRequest::new(ECHO, ""), LONG).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::InvalidInput, Some(false)));
    assert_eq!(error.to_string(), "here has no role \"none\"; it has: echo, other");
    let unknown = BackendRequest::new(Kind::named("unknown"), "");
    let error = connection.call("echo", unknown, LONG).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::HandlerFailed, Some(false)));
}

#[tokio::test]
async fn a_payload_that_is_too_long_is_refused_with_both_lengths() {
    let mut limits = Limits::default();
    limits.max_message = 200_000;
    let rig = Rig::start(|gateway| gateway.limits(limits.clone())).await;
    let connection = rig.connect().await;
    for len in [200_001, 20 << 20] {
        let request = BackendRequest::new(ECHO, vec![0; len]);
        let error = connection.call("echo", request, LONG).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.was_begun()),
            (ErrorKind::TooLarge, Some(false)),
            "{error}"
        );
        let (length, limit) = error.length_and_limit().unwrap();
        assert!(limit == 200_000 && length > limit && length <= len);
    }
    // The caller has a limit of its own for what it gets, and the connection goes on.
    let mut own = Limits::default();
    own.max_message = 150_000;
    let connection = Connection::connect(rig.address, own, LONG).await.unwrap();
    let error = connection.call("echo", BackendRequest::new(ECHO, vec![0; 160_000]), LONG).await;
    let error = error.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::TooLarge, Some(true)), "{error}");
    connection.call("echo", BackendRequest::new(ECHO, vec![0; 1_000]), LONG).await.unwrap();
}
