//! A gateway that ends.

use std::sync::atomic::Ordering;

use slipring::backend::BackendRequest;
use slipring::{ErrorKind, StreamTimeouts};

use crate::rig::*;

#[tokio::test]
async fn a_gateway_that_drains_serves_what_it_has_and_refuses_the_rest() {
    let rig = Rig::start(|gateway| gateway).await;
    let connection = rig.connect().await;
    let mut watching = connection.watch().await.unwrap();
    let before = watching.next().await.unwrap().unwrap();
    assert_eq!((before.host.as_str(), before.is_draining), ("here", false));
    let places: Vec<_> = before.roles.iter().map(|it| (it.role.as_str(), it.places)).collect();
    assert_eq!(places, [("echo", 2), ("other", 1)]);

    let flood = BackendRequest::new(FLOOD, "chunk");
    let mut stream = connection.stream("echo", flood, StreamTimeouts::new()).await.unwrap();
    until(|| rig.told.chunks_sent.load(Ordering::SeqCst) > 0).await;
    rig.gateway.drain();
    let error = connection.call("echo", BackendRequest::new(ECHO, ""), LONG).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.was_begun()),
        (ErrorKind::Disconnected, Some(false)),
        "{error}"
    );
    while !watching.next().await.unwrap().unwrap().is_draining {}
    // What it has goes on.
    for _ in 0..100 {
        let chunk = std::future::poll_fn(|context| {
            futures_core::Stream::poll_next(std::pin::Pin::new(&mut stream), context)
        });
        assert_eq!(chunk.await.unwrap().unwrap().to_vec(), b"chunk");
    }
    assert!(!rig.served.is_finished());
    drop(stream);
    while watching.next().await.unwrap().is_some() {}
    tokio::time::timeout(LONG, rig.served).await.unwrap().unwrap().unwrap();
    tokio::time::timeout(LONG, connection.closed()).await.unwrap();
    let error = connection.call("echo", BackendRequest::new(ECHO, ""), LONG).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, Some(false)));
}
