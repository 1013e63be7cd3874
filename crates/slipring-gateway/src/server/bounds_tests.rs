//! What callers hold in memory, keep busy and have the gateway do is bounded.

use std::future::{pending, poll_fn, ready};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Method, Request};
use prost::Message;
use slipring::backend::{Backend, BackendLoad, BackendRequest, BoxChunks, BoxFuture};
use slipring::{Error, ErrorKind, Health, Kind, Reply, RequestId, Result, StreamTimeouts};
use tokio::time::{Instant, sleep, timeout};

use super::connections::Peer;
use super::preface::greet;
use super::{Gateway, GatewayBuilder, accept};
use crate::proto;
use crate::wire::error::{error_of, status_in};
use crate::wire::presence::Watch;
use crate::wire::{Limits, SERVICE};

/// Longer than anything takes that does not hang.
const LONG: Duration = Duration::from_secs(3_600);
const MIB: usize = 1 << 20;

/// Answers with so many bytes, once or without end, or keeps requests without an answer.
#[derive(Debug, Default)]
struct Fake {
    len: usize,
    hangs: bool,
    loads: Arc<AtomicUsize>,
}

struct Endless(Bytes);

impl futures_core::Stream for Endless {
    type Item = Result<Reply>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(Some(Ok(Reply::from_owner(RequestId::from(1), self.0.clone()))))
    }
}

impl Backend for Fake {
    fn role(&self) -> &'static str {
        "embed"
    }

    fn load(&self) -> BackendLoad {
        self.loads.fetch_add(1, Ordering::Relaxed);
        BackendLoad::default()
    }

    fn call(&self, request: BackendRequest, _: Duration) -> BoxFuture<'static, Result<Reply>> {
        if self.hangs {
            return Box::pin(async move {
                pending::<()>().await;
                drop(request);
                Err(Error::disconnected("never", None))
            });
        }
        let reply = Reply::from_owner(RequestId::from(1), vec![7; self.len]);
        Box::pin(ready(Ok(reply)))
    }

    fn submit(&self, request: BackendRequest, _: Duration) -> BoxFuture<'static, Result<Reply>> {
        self.call(request, LONG)
    }

    fn stream(
        &self,
        _: BackendRequest,
        _: StreamTimeouts,
    ) -> BoxFuture<'static, Result<BoxChunks>> {
        let chunks: BoxChunks = Box::pin(Endless(vec![7; self.len].into()));
        Box::pin(ready(Ok(chunks)))
    }

    fn ping(&self, _: Duration) -> BoxFuture<'static, Vec<Result<Health>>> {
        Box::pin(ready(Vec::new()))
    }

    fn abort(&self) {}

    fn clear_abort(&self) {}

    fn close(&self, _: Duration) -> BoxFuture<'static, Result<()>> {
        Box::pin(ready(Ok(())))
    }
}

fn gateway(fake: Fake) -> GatewayBuilder {
    Gateway::builder().host("here").role(Arc::new(fake))
}

/// Connects without a network. Answers have a window of so many bytes.
async fn connect(gateway: &Gateway, window: u32) -> SendRequest<Bytes> {
    let (near, far) = tokio::io::duplex(MIB);
    let shared = Arc::clone(&gateway.0);
    tokio::spawn(async move {
        let seat = shared.connections.begin(Peer::of(Ipv4Addr::LOCALHOST.into()));
        let io = greet(far).await.unwrap();
        assert!(shared.connections.establish(&seat));
        accept::serve(shared, seat, Watch::default(), io).await;
    });
    let mut builder = Builder::new();
    builder.initial_window_size(window).initial_connection_window_size(1 << 30);
    let (send, connection) = builder.handshake(near).await.unwrap();
    tokio::spawn(connection);
    send
}

/// Sends the head of a request with so many bytes of its payload, and whether that is all.
async fn send(
    requests: &SendRequest<Bytes>,
    method: &str,
    len: usize,
    is_whole: bool,
) -> (SendStream<Bytes>, ResponseFuture) {
    send_timed(requests, method, "", len, is_whole).await
}

/// As [`send`], with a timeout as gRPC has it.
async fn send_timed(
    requests: &SendRequest<Bytes>,
    method: &str,
    timeout: &str,
    len: usize,
    is_whole: bool,
) -> (SendStream<Bytes>, ResponseFuture) {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://here{SERVICE}{method}"))
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    if !timeout.is_empty() {
        request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
    }
    let mut requests = requests.clone().ready().await.unwrap();
    let (answer, mut stream) = requests.send_request(request, false).unwrap();
    let message = proto::Request {
        role: "embed".into(),
        kind: Some(proto::request::Kind::Code(Kind::EMBED.code().into())),
        payload: vec![7; len].into(),
        more: !is_whole,
        ..proto::Request::default()
    };
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode_raw(&mut bytes);
    stream.send_data(bytes.freeze(), is_whole).unwrap();
    (stream, answer)
}

/// Reads an answer to its end. Returns how many bytes came, and its status.
async fn read(answer: ResponseFuture) -> (usize, Option<Error>) {
    let (head, mut body) = timeout(LONG, answer).await.unwrap().unwrap().into_parts();
    if let Some(status) = status_in(&head.headers) {
        return (0, Some(error_of(&status, "here")));
    }
    let mut len = 0;
    while let Some(data) = timeout(LONG, body.data()).await.unwrap() {
        len += take(&mut body, data.unwrap());
    }
    let status = status_in(&body.trailers().await.unwrap().unwrap()).unwrap();
    (len, (status.code() != tonic::Code::Ok).then(|| error_of(&status, "here")))
}

fn take(body: &mut RecvStream, data: Bytes) -> usize {
    body.flow_control().release_capacity(data.len()).unwrap();
    data.len()
}

fn outcome(error: &Error) -> (ErrorKind, Option<bool>) {
    (error.kind(), error.was_begun())
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_half_there_do_not_fill_the_memory() {
    let limits = Limits { max_message: MIB, piece_timeout: 2 * LONG, ..Limits::default() };
    let gateway = gateway(Fake::default()).limits(limits).max_buffered(16 * MIB, 8 * MIB).build();
    let (mut half, mut refused) = (Vec::new(), 0);
    let mut connections = Vec::new();
    for _ in 0..3 {
        let requests = connect(&gateway, 65_535).await;
        for _ in 0..20 {
            let (stream, mut answer) = send(&requests, "CallParts", MIB - 1, false).await;
            match timeout(Duration::from_secs(1), &mut answer).await {
                Ok(answer) => {
                    let status = status_in(answer.unwrap().headers()).unwrap();
                    let error = error_of(&status, "here");
                    assert_eq!(outcome(&error), (ErrorKind::Overloaded, Some(false)), "{error}");
                    refused += 1;
                }
                Err(_) => half.push((stream, answer)),
            }
        }
        connections.push(requests);
    }
    // Three quarters of it: five of each of two connections, and one.
    assert_eq!((half.len(), refused), (11, 49));
    for requests in &connections {
        let (_, answer) = send(requests, "CallParts", 1_000, true).await;
        assert!(read(answer).await.1.is_none(), "there is room for short ones");
    }
    drop(half);
    let (_, answer) = send(&connections[2], "CallParts", MIB - 1, true).await;
    assert!(read(answer).await.1.is_none());
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_for_a_worker_count_as_memory() {
    let limits = Limits { max_message: MIB, ..Limits::default() };
    let fake = Fake { hangs: true, ..Fake::default() };
    let gateway = gateway(fake).limits(limits).max_buffered(4 * MIB, 4 * MIB).build();
    let requests = connect(&gateway, 65_535).await;
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let (stream, mut answer) = send(&requests, "CallParts", MIB - 1, true).await;
        if timeout(Duration::from_secs(1), &mut answer).await.is_err() {
            waiting.push((stream, answer));
        }
    }
    assert_eq!(waiting.len(), 2);
    waiting.clear();
    let (_stream, mut answer) = send(&requests, "CallParts", MIB - 1, true).await;
    assert!(timeout(Duration::from_secs(1), &mut answer).await.is_err(), "it waits");
}

#[tokio::test(start_paused = true)]
async fn replies_that_are_not_read_do_not_fill_the_memory() {
    let limits = Limits { max_message: MIB, ..Limits::default() };
    let len = MIB - 10_000;
    let fake = Fake { len, ..Fake::default() };
    let gateway = gateway(fake).limits(limits).max_buffered(64 * MIB, 8 * MIB).build();
    let requests = connect(&gateway, 65_535).await;
    let mut answers = Vec::new();
    for _ in 0..20 {
        let (_, answer) = send(&requests, "CallParts", 1, true).await;
        // It is there as far as it has room.
        sleep(Duration::from_millis(10)).await;
        answers.push(answer);
    }
    let mut whole = 0;
    for answer in answers {
        match read(answer).await {
            (read, None) => whole += usize::from(read > len),
            (read, Some(error)) => {
                assert_eq!(outcome(&error), (ErrorKind::Overloaded, Some(true)), "{error}");
                assert_eq!(read, 0);
            }
        }
    }
    assert_eq!(whole, 8);
    let (_, answer) = send(&requests, "CallParts", 1, true).await;
    assert!(read(answer).await.1.is_none(), "they are read");
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_reader_takes_nothing_is_given_up() {
    let gateway = gateway(Fake { len: 64 << 10, ..Fake::default() }).build();
    let longest = gateway.0.limits.unread_timeout;
    let requests = connect(&gateway, 65_535).await;
    let (_, answer) = send(&requests, "StreamParts", 1, true).await;
    let mut body = answer.await.unwrap().into_body();
    // A reader that is slow is waited for.
    for _ in 0..8 {
        let mut taken = 0;
        while taken < 2 * MIB {
            let data = body.data().await.unwrap().unwrap();
            taken += take(&mut body, data);
        }
        sleep(longest * 9 / 10).await;
        assert_eq!(gateway.in_flight(), 1);
    }
    let began = Instant::now();
    while gateway.in_flight() > 0 {
        sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed() < longest);
    }
    while let Some(data) = body.data().await {
        take(&mut body, data.unwrap());
    }
    let status = status_in(&body.trailers().await.unwrap().unwrap()).unwrap();
    assert_eq!(outcome(&error_of(&status, "here")), (ErrorKind::Timeout, Some(true)));
}

#[tokio::test(start_paused = true)]
async fn each_answer_that_is_not_read_ends_at_its_own_deadline() {
    let gateway = gateway(Fake { len: 64 << 10, ..Fake::default() }).build();
    let requests = connect(&gateway, 65_535).await;
    let mut answers = Vec::new();
    for timeout in ["", "20S", "5S"] {
        let (_, answer) = send_timed(&requests, "StreamParts", timeout, 1, true).await;
        answers.push(answer.await.unwrap());
        // It is looked for the end of this one when the next one comes.
        sleep(Duration::from_millis(1)).await;
    }
    for (pause, left) in [(4_900, 3), (400, 2), (14_500, 2), (400, 1)] {
        sleep(Duration::from_millis(pause)).await;
        assert_eq!(gateway.in_flight(), left);
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_reply_that_is_not_taken_does_not_keep_the_gateway() {
    let gateway = gateway(Fake { len: 1_000, ..Fake::default() }).build();
    let requests = connect(&gateway, 0).await;
    let (_, answer) = send(&requests, "CallParts", 1, true).await;
    let answer = answer.await.unwrap();
    gateway.drain();
    sleep(gateway.0.limits.unread_timeout).await;
    assert_eq!(gateway.in_flight(), 1, "it is waited for");
    sleep(gateway.0.limits.unread_timeout / 2).await;
    assert_eq!(gateway.in_flight(), 0);
    drop(answer);
}

#[tokio::test(start_paused = true)]
async fn an_idle_gateway_is_asked_for_its_load_twice_a_second() {
    let loads = Arc::<AtomicUsize>::default();
    let fake = Fake { hangs: true, loads: Arc::clone(&loads), ..Fake::default() };
    let gateway = gateway(fake).build();
    let requests = connect(&gateway, 65_535).await;
    let (_, answer) = send(&requests, "Watch", 0, true).await;
    let mut body = answer.await.unwrap().into_body();
    let began = Instant::now();
    let mut reports = 0;
    while began.elapsed() < Duration::from_secs(10) {
        let data = body.data().await.unwrap().unwrap();
        take(&mut body, data);
        reports += 1;
    }
    assert!((10..=12).contains(&reports), "{reports}");
    assert!(loads.load(Ordering::Relaxed) <= 24, "{loads:?}");
    // The end of the gateway is told at once.
    let (_stream, _answer) = send(&requests, "CallParts", 1, true).await;
    sleep(Duration::from_millis(500)).await;
    gateway.drain();
    let told = Instant::now();
    let next = poll_fn(|context| body.poll_data(context)).await.unwrap().unwrap();
    let status = proto::GatewayStatus::decode(&next[5..]).unwrap();
    assert!(status.is_draining && told.elapsed() <= Duration::from_millis(60));
}
