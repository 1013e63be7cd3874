//! Peers that open and give up requests without end, and callers that only seem to.

use std::pin::pin;
use std::task::{Context, Waker};

use slipring::backend::BackendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
    for turns in 0..10 {
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
