//! Gateways that say what none should.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_core::Stream as _;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use slipring::backend::{Backend as _, BackendRequest};
use slipring::{Error, ErrorKind, ErrorReport, Kind, RequestStage, StreamTimeouts};
use tokio::time::{sleep, timeout};

use super::connection::Connection;
use super::{Discovery, RemoteRole};
use crate::proto;
use crate::wire::Limits;
use crate::wire::error::status_of;

/// Longer than anything takes that does not hang.
const LONG: Duration = Duration::from_secs(60);

type Sent = Option<SendStream<Bytes>>;

/// A connection to a gateway that answers its requests so. What is returned stays open.
async fn connected(
    mut answer: impl FnMut(Request<RecvStream>, SendResponse<Bytes>) -> Sent + Send + 'static,
) -> Connection {
    let (near, far) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(far).await.unwrap();
        let mut open = Vec::new();
        while let Some(Ok((request, respond))) = connection.accept().await {
            open.extend(answer(request, respond));
        }
    });
    // One request at a time.
    let limits = Limits { keep_alive_timeout: LONG, max_streams: 1, ..Limits::default() };
    Connection::over(near, "gateway:7000".into(), limits).await.unwrap()
}

fn begin(mut respond: SendResponse<Bytes>) -> SendStream<Bytes> {
    respond.send_response(Response::new(()), false).unwrap()
}

/// Sends a message as gRPC does.
fn send(stream: &mut SendStream<Bytes>, message: &[u8]) {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap());
    framed.put_slice(message);
    stream.send_data(framed.freeze(), false).unwrap();
}

fn request() -> BackendRequest {
    BackendRequest::new(Kind::EMBED, "text")
}

#[tokio::test]
async fn details_of_a_status_that_do_not_decode_are_left_out() {
    let connection = connected(|_, respond| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("13"));
        trailers.insert("grpc-status-details-bin", HeaderValue::from_static("!"));
        begin(respond).send_trailers(trailers).unwrap();
        None
    })
    .await;
    let error = connection.call("embed", request(), LONG).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Protocol, Some(true)));
}

#[tokio::test]
async fn a_request_that_was_seen_begun_stays_so_whatever_its_status_says() {
    let connection = connected(|_, respond| {
        let mut report = ErrorReport::new(ErrorKind::Closed, "closed");
        report.stage = Some(RequestStage::Queued);
        let mut trailers = HeaderMap::new();
        status_of(&Error::from_report(report), "gpu-1").add_header(&mut trailers).unwrap();
        begin(respond).send_trailers(trailers).unwrap();
        None
    })
    .await;
    let error = connection.call("embed", request(), LONG).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Closed, Some(true)));
}

#[tokio::test]
async fn a_long_answer_about_the_gateway_is_refused() {
    // Each of these has two bytes here, and some hundred in memory.
    let workers = vec![proto::WorkerReport::default(); 600_000];
    let long = proto::PingReply { workers }.encode_to_vec();
    let connection = connected(move |_, respond| {
        let mut stream = begin(respond);
        send(&mut stream, &long);
        Some(stream)
    })
    .await;
    let refused = connection.ping("embed", LONG).await.map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Protocol, "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_after_its_timeout_also_within_a_chunk() {
    let connection = connected(|_, respond| {
        let mut stream = begin(respond);
        let piece = proto::Reply { more: true, payload: Bytes::from_static(b"half") };
        send(&mut stream, &piece.encode_to_vec());
        Some(stream)
    })
    .await;
    let timeouts = StreamTimeouts::new().total(Duration::from_secs(1));
    let chunks = connection.stream("embed", request(), timeouts).await.unwrap();
    let mut chunks = std::pin::pin!(chunks);
    let mut items = Vec::new();
    while let Some(item) = std::future::poll_fn(|context| chunks.as_mut().poll_next(context)).await
    {
        items.push(item.map(drop).unwrap_err().kind());
    }
    assert_eq!(items, [ErrorKind::Timeout]);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_is_told_of_the_time_that_is_left() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let connection = connected(move |request, respond| {
        let limit = crate::wire::timeout::decode(&request.headers()["grpc-timeout"]);
        tell.send(limit.unwrap()).unwrap();
        Some(begin(respond))
    })
    .await;
    let timeouts = StreamTimeouts::new().total(Duration::from_secs(90));
    let first = tokio::spawn(connection.call("embed", request(), Duration::from_secs(30)));
    assert_eq!(told.recv().await, Some(Duration::from_secs(30)));
    let second = tokio::spawn(connection.call("embed", request(), LONG));
    tokio::task::yield_now().await;
    let third = tokio::spawn(connection.stream("embed", request(), timeouts));
    // Each waits until the one before has given up.
    for waits in [first, second] {
        waits.await.unwrap().unwrap_err();
        let left = told.recv().await.unwrap();
        assert!(left <= Duration::from_secs(31), "{left:?}");
    }
    drop(third.await.unwrap().unwrap());
}

#[tokio::test]
async fn counts_of_a_gateway_that_overflow_are_cut() {
    let status = proto::GatewayStatus {
        host: "gpu-1".into(),
        is_draining: false,
        roles: vec![proto::RoleStatus {
            role: "embed".into(),
            places: u64::MAX,
            in_flight: u64::MAX,
            queued: u64::MAX,
            is_ready: true,
            is_draining: false,
        }],
    };
    let message = status.encode_to_vec();
    let mut addresses = Vec::new();
    for _ in 0..2 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap().to_string());
        let message = message.clone();
        tokio::spawn(async move {
            let (io, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(io).await.unwrap();
            let mut open = Vec::new();
            while let Some(Ok((_, respond))) = connection.accept().await {
                let mut stream = begin(respond);
                send(&mut stream, &message);
                open.push(stream);
            }
        });
    }
    let role = RemoteRole::builder("embed", Discovery::list(addresses)).build().unwrap();
    let both = async {
        while role.gateways().iter().filter(|gateway| gateway.places > 0).count() < 2 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, both).await.unwrap();
    let load = role.load();
    assert!(load.queued > 1 << 30 && load.places > 1 << 30, "{load:?}");
}
