//! Gateways that say what none should.

use std::pin::Pin;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_core::Stream as _;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use slipring::backend::{Backend as _, BackendRequest};
use slipring::{
    Error, ErrorKind, ErrorReport, Kind, Reply, RequestStage, Result, StreamTimeout, StreamTimeouts,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

use super::calls::Chunks;
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
    stream.send_data(framed(message), false).unwrap();
}

fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap());
    framed.put_slice(message);
    framed.freeze()
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
            hops: 0,
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

/// Reads a stream up to its end. Returns how many chunks came, and the error.
async fn read(connection: &Connection, timeouts: StreamTimeouts) -> (usize, Error) {
    let chunks = connection.stream("embed", request(), timeouts).await.unwrap();
    let mut chunks = std::pin::pin!(chunks);
    let mut count = 0;
    loop {
        let next = std::future::poll_fn(|context| chunks.as_mut().poll_next(context));
        match timeout(LONG, next).await.expect("it waits for ever") {
            Some(Ok(_)) => count += 1,
            Some(Err(error)) => return (count, error),
            None => panic!("it is over"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_gateway_says_nothing_ends_by_its_timeouts() {
    let timeouts = StreamTimeouts::new()
        .queue(Duration::from_secs(3))
        .first_chunk(Duration::from_secs(2))
        .chunk(Duration::from_secs(1));
    let allowance = Limits::default().piece_timeout;
    let chunk = proto::Reply { more: false, payload: Bytes::from_static(b"chunk") };
    let chunk = chunk.encode_to_vec();
    for (which, kind, seconds) in [
        (StreamTimeout::Queue, ErrorKind::Timeout, 3),
        (StreamTimeout::FirstChunk, ErrorKind::Stalled, 2),
        (StreamTimeout::Chunk, ErrorKind::Stalled, 1),
    ] {
        let chunk = chunk.clone();
        let mut silent = Vec::new();
        let connection = connected(move |_, respond| {
            if which == StreamTimeout::Queue {
                silent.push(respond);
                return None;
            }
            let mut stream = begin(respond);
            if which == StreamTimeout::Chunk {
                send(&mut stream, &chunk);
            }
            Some(stream)
        })
        .await;
        let began = tokio::time::Instant::now();
        let (count, error) = read(&connection, timeouts).await;
        assert_eq!(count, usize::from(which == StreamTimeout::Chunk));
        assert_eq!((error.kind(), error.stream_timeout()), (kind, Some(which)), "{error}");
        let was_begun = (which != StreamTimeout::Queue).then_some(true);
        assert_eq!(error.was_begun(), was_begun);
        let longest = Duration::from_secs(seconds) + allowance;
        assert!((longest..longest + Duration::from_millis(10)).contains(&began.elapsed()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_trickles_is_given_up() {
    let connection = connected(|_, respond| {
        let mut stream = begin(respond);
        tokio::spawn(async move {
            let piece = proto::Reply { more: true, payload: Bytes::from_static(b"a") };
            let piece = piece.encode_to_vec();
            loop {
                send(&mut stream, &piece);
                sleep(Duration::from_millis(100)).await;
            }
        });
        None
    })
    .await;
    let timeouts = StreamTimeouts::new().chunk(Duration::from_secs(1));
    let (_, error) = read(&connection, timeouts).await;
    assert_eq!(error.stream_timeout(), Some(StreamTimeout::FirstChunk), "{error}");
}

#[tokio::test]
async fn a_piece_of_an_answer_without_a_payload_is_refused() {
    let connection = connected(|_, respond| {
        let mut stream = begin(respond);
        send(&mut stream, &proto::Reply { more: true, payload: Bytes::new() }.encode_to_vec());
        Some(stream)
    })
    .await;
    let (_, error) = read(&connection, StreamTimeouts::new()).await;
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Protocol, Some(true)));
    let error = connection.call("embed", request(), LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn other_tasks_have_their_turn_while_many_pieces_come() {
    const PIECES: usize = 10_000;
    let (tell, told) = tokio::sync::oneshot::channel();
    let mut tell = Some(tell);
    let connection = connected(move |_, respond| {
        let mut stream = begin(respond);
        let mut pieces = BytesMut::new();
        for left in (0..PIECES).rev() {
            let piece = proto::Reply { more: left > 0, payload: Bytes::from_static(b"a") };
            pieces.extend(framed(&piece.encode_to_vec()));
        }
        stream.send_data(pieces.freeze(), false).unwrap();
        let _ = tell.take().unwrap().send(());
        Some(stream)
    })
    .await;
    let chunks = connection.stream("embed", request(), LONG.into()).await.unwrap();
    let mut chunks = std::pin::pin!(chunks);
    told.await.unwrap();
    // All of it is here.
    sleep(Duration::from_millis(200)).await;
    let mut turns = 0;
    let chunk = std::future::poll_fn(|context| {
        turns += 1;
        chunks.as_mut().poll_next(context)
    });
    let chunk = timeout(LONG, chunk).await.unwrap().unwrap().unwrap();
    assert_eq!(chunk.len(), PIECES);
    assert!(turns > PIECES / 1_000, "{turns} turns");
}

/// Answers with these messages, which come together. Returns the chunks once they are here, and the first.
async fn come_together(messages: Vec<Vec<u8>>) -> (Pin<Box<Chunks>>, Bytes) {
    let mut all: Option<Bytes> = Some(messages.iter().flat_map(|it| framed(it)).collect());
    let connection = connected(move |_, respond| {
        let mut stream = begin(respond);
        stream.send_data(all.take().unwrap(), true).unwrap();
        None
    })
    .await;
    let stream = connection.stream("embed", request(), LONG.into()).await.unwrap();
    let mut chunks = Box::pin(stream);
    let first = next(&mut chunks).await.unwrap().unwrap();
    (chunks, first.into())
}

async fn next(chunks: &mut Pin<Box<Chunks>>) -> Option<Result<Reply>> {
    timeout(LONG, std::future::poll_fn(|context| chunks.as_mut().poll_next(context))).await.unwrap()
}

#[tokio::test]
async fn chunks_that_have_come_are_there_in_order_and_then_what_is_wrong() {
    let message = |more, payload: &'static str| {
        proto::Reply { more, payload: payload.into() }.encode_to_vec()
    };
    let whole = |payload| message(false, payload);
    let (begin, end, broken) = (message(true, "fou"), message(false, "rth"), vec![18, 200]);
    let [first, second, third, fifth, last] =
        ["first", "second", "third", "fifth", "last"].map(whole);
    let messages = vec![first, second, third, begin, end, fifth, broken, last];
    let (mut chunks, first) = come_together(messages).await;
    assert_eq!(first, "first");
    for expected in ["second", "third"] {
        assert_eq!(chunks.take_arrived().unwrap().to_vec(), expected.as_bytes());
    }
    assert!(chunks.take_arrived().is_none(), "it is not whole");
    assert_eq!(next(&mut chunks).await.unwrap().unwrap().to_vec(), b"fourth");
    assert_eq!(chunks.take_arrived().unwrap().to_vec(), b"fifth");
    assert!(chunks.take_arrived().is_none(), "it is broken");
    assert_eq!(next(&mut chunks).await.unwrap().unwrap_err().kind(), ErrorKind::Protocol);
    assert!(next(&mut chunks).await.is_none() && chunks.take_arrived().is_none());
}

#[tokio::test]
async fn other_tasks_have_their_turn_while_chunks_are_there() {
    // Of short chunks more are taken.
    for (len, count, most) in [(1, 8_000, 2_048), (200, 500, 256)] {
        let chunk = proto::Reply { more: false, payload: vec![7; len].into() }.encode_to_vec();
        let (mut chunks, _) = come_together(vec![chunk; count]).await;
        let run = std::iter::from_fn(|| chunks.take_arrived()).count();
        assert!((1..=most).contains(&run), "{run}");
        assert!(next(&mut chunks).await.unwrap().is_ok());
        assert!(chunks.take_arrived().is_some());
    }
}

#[tokio::test]
async fn what_is_not_read_of_an_answer_fits_its_window() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let connection = connected(move |_, respond| {
        let mut stream = begin(respond);
        let tell = tell.clone();
        tokio::spawn(async move {
            stream.reserve_capacity(16 << 20);
            loop {
                let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
                let room = room.unwrap().unwrap();
                stream.send_data(vec![0; room].into(), false).unwrap();
                tell.send(room).unwrap();
            }
        });
        None
    })
    .await;
    let chunks = connection.stream("embed", request(), LONG.into()).await.unwrap();
    let window = usize::try_from(Limits::default().window).unwrap();
    let mut sent = 0;
    while sent < window {
        sent += timeout(LONG, told.recv()).await.unwrap().unwrap();
    }
    sleep(Duration::from_millis(100)).await;
    assert!(told.try_recv().is_err() && sent == window, "{sent}");
    drop(chunks);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_floods_its_connection_is_read_slowly() {
    let (near, far) = tokio::io::duplex(1 << 10);
    let limits = Limits { keep_alive_timeout: LONG, ..Limits::default() };
    let _connection = Connection::over(near, "gateway:7000".into(), limits).await.unwrap();
    let (mut sink, mut source) = tokio::io::split(far);
    // Its settings.
    source.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let questions = b"\0\0\x08\x06\0\0\0\0\0question".repeat(10);
    let mut taken = 0;
    let flood = async {
        while source.write_all(&questions).await.is_ok() {
            taken += 10;
            assert!(taken < 1_000_000, "all are taken");
        }
        panic!("it is closed");
    };
    let answers = async { while sink.read(&mut [0; 1 << 10]).await.unwrap() > 0 {} };
    let all = async { tokio::join!(flood, answers) };
    timeout(Duration::from_secs(10), all).await.map(drop).unwrap_err();
    // At once, by waiting, and what lies between.
    let most = 100_000 + 2_500 + 1_200 / 17 + 20;
    assert!(taken <= most && taken + 100 >= most, "{taken}");
}
