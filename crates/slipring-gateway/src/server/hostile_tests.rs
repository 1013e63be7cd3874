//! Callers that send what none should.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{Method, Request};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use super::{Gateway, GatewayBuilder};
use crate::proto;
use crate::wire::error::error_of;
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
