//! Peers that open and give up requests without end, and callers that only seem to.

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use slipring::ErrorKind;
use slipring::backend::BackendRequest;
use slipring_gateway::Limits;
use slipring_gateway::client::Connection;
use slipring_gateway::tls::ExpectedName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::certificates::serve;
use crate::rig::*;
use crate::tls::connections::Scene;

/// How many streams a hostile peer opens: more than any honest caller gives up.
const MANY: u32 = 5_000;
const ENHANCE_YOUR_CALM: u32 = 11;

/// Appends a frame of HTTP/2.
fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

/// Opens many streams, and has each end by a frame of this kind. Returns the reason that the gateway
/// gives for closing the connection.
async fn closed_after(kind: u8, payload: [u8; 4]) -> u32 {
    let rig = Rig::start(|gateway| gateway).await;
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, 4, 0, 0, &[]);
    for number in 0..MANY {
        let id = 2 * number + 1;
        // POST, http, / and an authority; the headers are whole, and a body follows.
        frame(&mut bytes, 1, 4, id, &[0x83, 0x86, 0x84, 0x41, 1, b'a']);
        frame(&mut bytes, kind, 0, id, &payload);
    }
    stream.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        // It may end by a reset.
        let _ = stream.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(LONG, read).await.expect("the connection stays open");
    let mut rest = &answer[..];
    loop {
        let len = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        let (head, after) = rest.split_at(9);
        if head[3] == 7 {
            return u32::from_be_bytes(after[4..8].try_into().unwrap());
        }
        rest = &after[len..];
    }
}

#[tokio::test]
async fn a_peer_that_resets_its_requests_without_end_is_closed() {
    assert_eq!(closed_after(3, 8_u32.to_be_bytes()).await, ENHANCE_YOUR_CALM);
}

#[tokio::test]
async fn a_peer_that_has_its_requests_reset_without_end_is_closed() {
    // A window that grows beyond the longest is an error of the stream.
    assert_eq!(closed_after(8, 0x7fff_ffff_u32.to_be_bytes()).await, ENHANCE_YOUR_CALM);
}

#[tokio::test]
async fn a_caller_that_drops_many_requests_at_once_loses_no_other() {
    let rig = Rig::start(|gateway| gateway).await;
    let connection = rig.connect().await;
    let (request, context) =
        (BackendRequest::new(HANG, ""), &mut Context::from_waker(Waker::noop()));
    let progress = request.progress();
    let mut hangs = pin!(connection.call("other", request, LONG));
    let begun = until(|| progress.stage() == Some(slipring::RequestStage::Begun));
    tokio::select! {
        _ = &mut hangs => panic!("it is over"),
        () = begun => {}
    }
    let call = || Box::pin(call(&connection));
    // What of them is sent, and seen by the gateway, before they are dropped differs.
    for turns in 0..16 {
        let mut calls: Vec<_> = (0..240).map(|_| call()).collect();
        for call in &mut calls {
            let polled = call.as_mut().poll(context);
            assert!(polled.is_pending(), "after {turns} turns: {polled:?}");
        }
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        drop(calls);
    }
    call().await.unwrap();
    assert!(hangs.as_mut().poll(context).is_pending());
}

/// Floods a connection to a gateway by questions whether it is there, while others are called.
async fn flood(mut rig: Rig, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    rig.calm.is_flooded = true;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, 4, 0, 0, &[]);
    stream.write_all(&bytes).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut questions = Vec::new();
    (0..1_000).for_each(|_| frame(&mut questions, 6, 0, 0, b"question"));
    let floods = async { while writer.write_all(&questions).await.is_ok() {} };
    let reads = async { while let Ok(1..) = reader.read(&mut [0; 4096]).await {} };
    let calls = async {
        let connection = rig.connect().await;
        // Longer than a peer may be silent.
        let began = std::time::Instant::now();
        for turn in 0.. {
            if turn > 20 && began.elapsed() > Duration::from_secs(8) {
                return;
            }
            until(|| rig.gateway.metrics().paced_connections == 1).await;
            let request = BackendRequest::new(ECHO, turn.to_string());
            let reply = connection.call("echo", request, LONG).await.unwrap();
            assert_eq!(reply.text().unwrap(), turn.to_string());
        }
    };
    tokio::select! {
        () = floods => panic!("the connection is closed"),
        () = reads => panic!("the connection is closed"),
        () = calls => {}
    }
}

#[tokio::test]
async fn a_flood_slows_down_its_own_connection() {
    let rig = Rig::start(|gateway| gateway).await;
    let stream = TcpStream::connect(rig.address).await.unwrap();
    flood(rig, stream).await;
}

#[tokio::test]
async fn a_flood_over_tls_slows_down_its_own_connection() {
    let (scene, rig) = (Scene::new(), Rig::start(|gateway| gateway).await);
    let address = serve(&rig, scene.server_tls(&[])).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ExpectedName::new("localhost").unwrap();
    let stream = scene.client(&["a.example"]).connect(&name, stream).await.unwrap();
    flood(rig, stream).await;
}

/// A gateway or a caller that writes its frames itself.
struct RawPeer(TcpStream);

impl RawPeer {
    /// Has a connection to such a gateway, which has greeted it.
    async fn connected() -> (Self, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = TcpStream::connect(listener.local_addr().unwrap());
        let (stream, accepted) = tokio::join!(connect, listener.accept());
        let mut gateway = Self(accepted.unwrap().0);
        let mut limits = Limits::default();
        limits.window = 64 << 10;
        (limits.keep_alive_interval, limits.keep_alive_timeout) = (LONG, LONG);
        let connection = Connection::over(stream.unwrap(), "late:1".into(), limits).await.unwrap();
        gateway.0.read_exact(&mut [0; 24]).await.unwrap();
        let mut settings = Vec::new();
        frame(&mut settings, 4, 0, 0, &[]);
        gateway.0.write_all(&settings).await.unwrap();
        (gateway, connection)
    }

    /// Reads frames until `enough` says so, which is given the kind and the stream of each.
    async fn read(&mut self, mut enough: impl FnMut(u8, u32) -> bool) {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.expect("the caller closes the connection");
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            self.0.read_exact(&mut vec![0; len as usize]).await.unwrap();
            if enough(head[3], u32::from_be_bytes(head[5..].try_into().unwrap())) {
                return;
            }
        }
    }

    /// Answers some requests with this text, and waits until the caller has taken that: an error is that
    /// it closes the connection.
    async fn answer(&mut self, ids: &[u32], text: &[u8]) -> std::io::Result<()> {
        let len = u8::try_from(text.len() % 128).unwrap() | 128;
        // A message of gRPC: a reply with a payload.
        let mut message = vec![0];
        message.extend(u32::try_from(text.len() + 3).unwrap().to_be_bytes());
        message.extend([0x12, len, u8::try_from(text.len() / 128).unwrap()]);
        message.extend(text);
        let mut bytes = Vec::new();
        for id in ids {
            // The status 200, and the status of gRPC behind the message.
            frame(&mut bytes, 1, 4, *id, &[0x88]);
            frame(&mut bytes, 0, 0, *id, &message);
            frame(&mut bytes, 1, 5, *id, b"\0\x0bgrpc-status\x010");
        }
        frame(&mut bytes, 6, 0, 0, b"answered");
        let Self(stream) = self;
        let (mut reader, mut writer) = stream.split();
        let mut read = Vec::<u8>::new();
        // It answers to the question after it has taken all before; meanwhile it resets what it has
        // forgotten.
        let answered = async {
            loop {
                let mut part = [0; 64 << 10];
                let count = reader.read(&mut part).await?;
                read.extend(&part[..count]);
                if count == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                if read.windows(8).any(|part| part == b"answered") {
                    return Ok(());
                }
                read.drain(..read.len().saturating_sub(8));
            }
        };
        tokio::try_join!(writer.write_all(&bytes), answered).map(drop)
    }
}

/// How many requests a caller has at the same time that are all refused, and how often. Together they are more
/// than the streams that may break the rules.
const AT_ONCE: u32 = 200;
const TURNS: u32 = 8;

#[tokio::test]
async fn the_rest_of_refused_requests_ends_no_connection() {
    // The first is refused by its message, which is too long; the second before that is looked at.
    for path in ["/slipring.v1.Workers/Call", "/slipring.v1.Workers/NoMethod"] {
        let test = async {
            let mut limits = Limits::default();
            (limits.keep_alive_interval, limits.keep_alive_timeout) = (LONG, LONG);
            let rig = Rig::start(|gateway| gateway.limits(limits)).await;
            are_refused(RawPeer(TcpStream::connect(rig.address).await.unwrap()), path).await;
        };
        tokio::time::timeout(LONG, test).await.expect("it does not answer");
    }
}

/// Sends requests to this method which are refused, and then the rest of them.
async fn are_refused(mut caller: RawPeer, path: &str) {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, 4, 0, 0, &[]);
    // POST, http, an authority; then the method and the type of the content.
    let mut head = vec![0x83, 0x86, 0x41, 1, b'a'];
    for (name, value) in [(&[0x04][..], path), (&[0x0f, 0x10], "application/grpc")] {
        head.extend(name);
        head.push(u8::try_from(value.len()).unwrap());
        head.extend(value.bytes());
    }
    for turn in 0..TURNS {
        let ids: Vec<_> = (0..AT_ONCE).map(|number| 2 * (turn * AT_ONCE + number) + 1).collect();
        for id in &ids {
            frame(&mut bytes, 1, 4, *id, &head);
            frame(&mut bytes, 0, 0, *id, &[0, 0xff, 0xff, 0xff, 0xff]);
        }
        caller.0.write_all(&bytes).await.unwrap();
        let mut refused = 0;
        let all = |kind, _| {
            refused += u32::from(kind == 1);
            refused == AT_ONCE
        };
        caller.read(all).await;
        bytes.clear();
        for id in &ids {
            frame(&mut bytes, 0, 1, *id, b"was on its way");
        }
    }
    // It is asked whether it is there, and answers.
    frame(&mut bytes, 6, 0, 0, b"question");
    caller.0.write_all(&bytes).await.unwrap();
    let answers = |kind, _| {
        assert_ne!(kind, 7, "the connection is closed");
        kind == 6
    };
    caller.read(answers).await;
}

fn call(connection: &Connection) -> impl Future<Output = slipring::Result<slipring::Reply>> {
    connection.call("echo", BackendRequest::new(ECHO, ""), LONG)
}

/// Cancels so many requests. Returns their streams.
async fn cancel(gateway: &mut RawPeer, connection: &Connection, count: usize) -> Vec<u32> {
    let mut cancelled = Vec::new();
    let cancels = async {
        loop {
            let mut calls: Vec<_> = (0..240).map(|_| Box::pin(call(connection))).collect();
            for call in &mut calls {
                let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                assert!(polled.is_pending(), "{polled:?}");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let told = gateway.read(|kind, id| {
        if kind == 3 {
            cancelled.push(id);
        }
        cancelled.len() == count
    });
    tokio::select! {
        () = told => {}
        () = cancels => {}
    }
    cancelled
}

/// More cancelled requests than a caller remembers: of 4,096 it knows that their answers may come late.
const CANCELLED: usize = 6_000;

#[tokio::test]
async fn late_answers_end_no_connection_and_answer_nothing_else() {
    let test = async {
        let (mut gateway, connection) = RawPeer::connected().await;
        let cancelled = cancel(&mut gateway, &connection, CANCELLED).await;
        // Together more than the window of the connection, which each of them gives back.
        let late = vec![b'l'; 4_000];
        for some in cancelled.chunks(500) {
            gateway.answer(some, &late).await.expect("the connection is closed");
        }
        assert!(!connection.is_closed());
        // The same is asked again: it gets its own answer, in the midst of late ones.
        let again = async {
            let mut id = 0;
            let is_new = |kind, stream| {
                id = stream;
                kind == 1
            };
            gateway.read(is_new).await;
            assert!(!cancelled.contains(&id));
            gateway.answer(&cancelled[..100], &late).await.unwrap();
            gateway.answer(&[id], b"its own").await.unwrap();
            gateway.answer(&[id], b"twice").await.unwrap();
        };
        let (reply, ()) = tokio::join!(call(&connection), again);
        assert_eq!(reply.unwrap().text().unwrap(), "its own");
        gateway
    };
    drop(tokio::time::timeout(LONG, test).await.expect("the answers are not taken"));
}

#[tokio::test]
async fn a_gateway_that_answers_nothing_but_what_is_over_is_left() {
    let test = async {
        let (mut gateway, connection) = RawPeer::connected().await;
        let cancelled = cancel(&mut gateway, &connection, CANCELLED).await;
        let answers = async { while gateway.answer(&cancelled, b"").await.is_ok() {} };
        let (error, ()) = tokio::join!(call(&connection), answers);
        let error = error.unwrap_err();
        assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, None), "{error}");
    };
    tokio::time::timeout(LONG, test).await.expect("the connection stays open");
}
