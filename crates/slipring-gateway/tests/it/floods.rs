//! Peers that open and give up requests without end, and callers that only seem to.

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use slipring::backend::BackendRequest;
use slipring_gateway::Limits;
use slipring_gateway::client::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::rig::*;

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
    let call = || Box::pin(connection.call("echo", BackendRequest::new(ECHO, "text"), LONG));
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

/// Reads frames until `enough` says so, which is given the kind and the stream of each.
async fn read_frames(stream: &mut TcpStream, mut enough: impl FnMut(u8, u32) -> bool) {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.expect("the caller closes the connection");
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; len as usize]).await.unwrap();
        if enough(head[3], u32::from_be_bytes(head[5..].try_into().unwrap())) {
            return;
        }
    }
}

#[tokio::test]
async fn answers_that_come_too_late_do_not_end_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = TcpStream::connect(listener.local_addr().unwrap());
    let (stream, accepted) = tokio::join!(connect, listener.accept());
    let mut peer = accepted.unwrap().0;
    let mut limits = Limits::default();
    (limits.keep_alive_interval, limits.keep_alive_timeout) = (LONG, LONG);
    let connection = Connection::over(stream.unwrap(), "late:1".into(), limits).await.unwrap();
    let answers = async {
        peer.read_exact(&mut [0; 24]).await.unwrap();
        let mut bytes = Vec::new();
        frame(&mut bytes, 4, 0, 0, &[]);
        peer.write_all(&bytes).await.unwrap();
        let mut cancelled = Vec::new();
        read_frames(&mut peer, |kind, id| {
            if kind == 3 {
                cancelled.push(id);
            }
            cancelled.len() == 6_000
        })
        .await;
        bytes.clear();
        for id in cancelled {
            // The status 200, and the end.
            frame(&mut bytes, 1, 5, id, &[0x88]);
        }
        frame(&mut bytes, 6, 0, 0, b"answered");
        peer.write_all(&bytes).await.unwrap();
        // It answers that after it has taken all before.
        read_frames(&mut peer, |kind, _| kind == 6).await;
    };
    let cancels = async {
        loop {
            let call = || Box::pin(connection.call("echo", BackendRequest::new(ECHO, ""), LONG));
            let mut calls: Vec<_> = (0..240).map(|_| call()).collect();
            for call in &mut calls {
                let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                assert!(polled.is_pending(), "{polled:?}");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let both = async {
        tokio::select! {
            () = answers => {}
            () = cancels => {}
        }
    };
    tokio::time::timeout(LONG, both).await.expect("the answers are not taken");
    assert!(!connection.is_closed());
}
