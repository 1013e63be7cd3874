//! Callers that send what none should.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{Method, Request};
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use super::connections::Peer;
use super::preface::greet;
use super::{Gateway, GatewayBuilder, accept};
use crate::proto;
use crate::wire::error::error_of;
use crate::wire::presence::Watch;
use crate::wire::{Limits, SERVICE};

/// Longer than anything takes that does not hang.
const LONG: Duration = Duration::from_secs(60);

/// Starts a gateway, and returns what sends requests on a connection to it.
async fn connected(gateway: GatewayBuilder) -> (Gateway, SocketAddr, SendRequest<Bytes>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gateway = gateway.build();
    let serves = gateway.clone();
    tokio::spawn(async move { serves.serve(listener).await });
    (gateway, address, connect(address).await)
}

async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let io = TcpStream::connect(address).await.unwrap();
    let (send, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    send
}

/// Begins a request at this path.
async fn send(requests: &SendRequest<Bytes>, path: &str) -> (SendStream<Bytes>, ResponseFuture) {
    send_with(requests, path, &[]).await
}

/// Begins a request at this path, with more headers.
async fn send_with(
    send: &SendRequest<Bytes>,
    path: &str,
    headers: &[(&str, &str)],
) -> (SendStream<Bytes>, ResponseFuture) {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://here{path}"))
        .header("content-type", "application/grpc");
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let request = request.body(()).unwrap();
    let mut send = send.clone().ready().await.unwrap();
    let (answer, stream) = send.send_request(request, false).unwrap();
    (stream, answer)
}

/// Begins a request to a gateway without a role.
async fn begin(method: &str, limits: Limits) -> (SendStream<Bytes>, ResponseFuture) {
    let (_, _, requests) = connected(Gateway::builder().limits(limits)).await;
    send(&requests, &format!("{SERVICE}{method}")).await
}

fn framed(message: &proto::Request) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode_raw(&mut bytes);
    bytes.freeze()
}

async fn status(answer: ResponseFuture) -> Status {
    let answer = timeout(LONG, answer).await.unwrap().unwrap();
    Status::from_header_map(answer.headers()).unwrap()
}

/// The code of a refusal, which says that nothing was begun.
fn refusal(status: &Status) -> Code {
    assert_eq!(error_of(status, "here").was_begun(), Some(false), "{status:?}");
    status.code()
}

async fn code(answer: ResponseFuture) -> Code {
    refusal(&status(answer).await)
}

fn embed() -> proto::Request {
    proto::Request {
        role: "embed".into(),
        kind: Some(proto::request::Kind::Name("embed".into())),
        ..proto::Request::default()
    }
}

#[tokio::test]
async fn what_stands_beside_a_payload_is_bounded() {
    for (len, expected) in [(1_000, Code::InvalidArgument), (100_000, Code::ResourceExhausted)] {
        let (mut stream, answer) = begin("Call", Limits::default()).await;
        let request = proto::Request { role: "r".repeat(len), ..embed() };
        stream.send_data(framed(&request), true).unwrap();
        assert_eq!(code(answer).await, expected, "{len} bytes");
    }
}

#[tokio::test]
async fn a_request_that_trickles_is_given_up() {
    let limits = Limits { piece_timeout: Duration::from_millis(500), ..Limits::default() };
    // A stream has no deadline of its own.
    let (mut stream, answer) = begin("StreamParts", limits).await;
    let request = proto::Request { payload: Bytes::from(vec![7; 400]), ..embed() };
    let mut bytes = framed(&request);
    let answer = tokio::spawn(code(answer));
    while !answer.is_finished() && !bytes.is_empty() {
        let _ = stream.send_data(bytes.split_to(1), bytes.is_empty());
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(answer.await.unwrap(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn pieces_without_a_payload_are_refused() {
    let (mut stream, answer) = begin("CallParts", Limits::default()).await;
    let more = proto::Request { more: true, ..embed() };
    stream.send_data(framed(&more), false).unwrap();
    stream.send_data(framed(&proto::Request { role: String::new(), ..more }), false).unwrap();
    assert_eq!(code(answer).await, Code::InvalidArgument);
}

#[tokio::test]
async fn a_long_request_to_the_service_of_health_is_refused() {
    let (_, _, requests) = connected(Gateway::builder()).await;
    let (mut stream, answer) = send(&requests, "/grpc.health.v1.Health/Check").await;
    // It is announced, and never comes whole.
    stream.send_data(Bytes::from_static(&[0, 0, 1, 0, 0, 7]), false).unwrap();
    assert_eq!(status(answer).await.code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_request_in_one_message_has_no_second_one() {
    for method in ["Call", "Stream"] {
        let (mut stream, answer) = begin(method, Limits::default()).await;
        let twice = [framed(&embed()), framed(&embed())].concat();
        stream.send_data(twice.into(), true).unwrap();
        let status = status(answer).await;
        assert_eq!(refusal(&status), Code::InvalidArgument);
        assert!(status.message().contains("more than one message"), "{status:?}");
    }
}

#[tokio::test]
async fn a_method_is_only_posted_to() {
    let (_, _, mut requests) = connected(Gateway::builder()).await;
    let request = Request::builder()
        .method(Method::GET)
        .uri(format!("http://here{SERVICE}Call"))
        .header("content-type", "application/grpc");
    let (answer, _) = requests.send_request(request.body(()).unwrap(), true).unwrap();
    let answer = timeout(LONG, answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), http::StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.headers()["allow"], "POST");
}

/// How a call of a role that there is not is answered, whose headers or bytes are these.
async fn answered(
    requests: &SendRequest<Bytes>,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Code, h2::Error> {
    let (mut stream, answer) = send_with(requests, &format!("{SERVICE}Call"), headers).await;
    // It may be answered already.
    _ = stream.send_data(body, true);
    let answer = timeout(LONG, answer).await.unwrap()?;
    let status = Status::from_header_map(answer.headers());
    Ok(status.map_or(Code::Unknown, |status| refusal(&status)))
}

#[tokio::test]
async fn headers_and_bytes_that_none_should_send_end_their_request_alone() {
    let (_, _, requests) = connected(Gateway::builder()).await;
    let good = framed(&embed());
    let no_role = answered(&requests, &[], good.clone()).await.unwrap();
    for timeout in ["", "-1S", "1", "S", "1s", "123456789n", "0x1S", "1.5S", " 1S", "\u{663}S"] {
        let found = answered(&requests, &[("grpc-timeout", timeout)], good.clone()).await.unwrap();
        assert_eq!(found, Code::InvalidArgument, "{timeout:?}");
    }
    for timeout in ["99999999H", "99999999n", "1M"] {
        let found = answered(&requests, &[("grpc-timeout", timeout)], good.clone()).await.unwrap();
        assert_eq!(found, no_role, "{timeout:?}");
    }
    let compressed = [&[1], &good[1..]].concat();
    let gzip = [("grpc-encoding", "gzip")];
    let found = answered(&requests, &gzip, compressed.into()).await.unwrap();
    assert_eq!(found, Code::Unimplemented);
    let unfinished = good.slice(..good.len() - 1);
    assert_eq!(answered(&requests, &[], unfinished).await.unwrap(), Code::InvalidArgument);
    assert_eq!(answered(&requests, &[], Bytes::new()).await.unwrap(), Code::InvalidArgument);
    // More than may stand in headers: of one, and of many.
    let long = "m".repeat(60_000);
    let names: Vec<_> = (0..2_000).map(|number| format!("m-{number}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "metadata-metadata")).collect();
    for headers in [&[("metadata", long.as_str())][..], &many] {
        let found = answered(&requests, headers, good.clone()).await;
        assert_ne!(found.unwrap_or(Code::Unknown), no_role);
        assert_eq!(answered(&requests, &[], good.clone()).await.unwrap(), no_role);
    }
}

/// A connection without a network.
fn connected_here(gateway: &Gateway) -> DuplexStream {
    let (near, far) = tokio::io::duplex(1 << 10);
    let shared = Arc::clone(&gateway.0);
    tokio::spawn(async move {
        let seat = shared.connections.begin(Peer::of(Ipv4Addr::LOCALHOST.into()));
        let io = greet(far).await.unwrap();
        assert!(shared.connections.establish(&seat));
        accept::serve(shared, seat, Watch::default(), io).await;
    });
    near
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Floods a connection for ten seconds with a frame of this kind, while another caller calls. Returns how many
/// of them the gateway took, how many bytes it answered, and how many connections it has slowed down.
async fn flooded(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> (usize, usize, u64) {
    let gateway = Gateway::builder().build();
    let (mut source, mut sink) = {
        let (sink, source) = split(connected_here(&gateway));
        (source, sink)
    };
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    // POST, http, and where: one request that is open, and one that is cancelled.
    let mut headers = vec![0x83, 0x86, 0x41, 4];
    headers.extend(b"here\x04");
    let path = format!("{SERVICE}CallParts");
    headers.push(u8::try_from(path.len()).unwrap());
    headers.extend(path.bytes());
    for id in [1, 3] {
        bytes.extend(frame(1, 4, id, &headers));
    }
    bytes.extend(frame(3, 0, 3, &8_u32.to_be_bytes()));
    // A message that does not come.
    bytes.extend(frame(0, 0, 1, &[0, 0, 0xff, 0xff, 0xff]));
    source.write_all(&bytes).await.unwrap();
    let frame = frame(kind, flags, stream, payload);
    let mut taken = 0;
    let flood = async {
        loop {
            let written = source.write_all(&frame).await;
            assert!(written.is_ok(), "closed after {taken} of type {kind}");
            taken += 1;
        }
    };
    let mut answered_bytes = 0;
    let read = async {
        let mut part = [0; 1 << 10];
        while let Ok(count @ 1..) = sink.read(&mut part).await {
            answered_bytes += count;
        }
        panic!("it is closed");
    };
    let calls = async {
        let (send, connection) = h2::client::handshake(connected_here(&gateway)).await.unwrap();
        tokio::spawn(connection);
        loop {
            let code = answered(&send, &[], framed(&embed())).await.unwrap();
            assert_eq!(code, Code::InvalidArgument);
            sleep(Duration::from_millis(300)).await;
        }
    };
    let all = async { tokio::join!(flood, read, calls) };
    timeout(Duration::from_secs(10), all).await.map(drop).unwrap_err();
    (taken, answered_bytes, gateway.metrics().paced_connections)
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_floods_its_connection_is_slowed_down_alone() {
    let increment = 1_u32.to_be_bytes();
    for (kind, flags, stream, payload) in [
        // HTTP/2 itself closes a connection for those without a byte.
        (0, 0, 1, &b"x"[..]),
        (2, 0, 1, &[0, 0, 0, 0, 16]),
        (3, 0, 3, &increment),
        (4, 0, 0, &[]),
        (4, 0, 0, &[0, 4, 0, 0, 1, 0]),
        (6, 0, 0, b"question"),
        (6, 1, 0, b"answered"),
        (8, 0, 0, &increment),
        (8, 0, 1, &increment),
        (8, 0, 3, &increment),
        (99, 0, 0, b"unknown"),
    ] {
        let (taken, answered, paced) = flooded(kind, flags, stream, payload).await;
        // At once, by waiting, and what lies between.
        let most = 4_096 + 2_500 + 1_200 / 9;
        assert!(taken <= most && paced == 1, "type {kind}: {taken} taken, {paced} slowed down");
        assert!(answered <= 17 * most + 1_000, "type {kind}: {answered} bytes");
    }
}
