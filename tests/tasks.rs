//! The async view of a channel, on several executors.
#![cfg(feature = "tokio")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "tests"
)]

mod common;
worker_entry!();

use std::future::Future;
use std::time::Duration;

use common::*;
use slipring::ErrorKind;
use slipring::tasks::AsyncChannel;

/// Runs a test on every executor, with the reader that belongs to it.
fn on_each<F: Future<Output = ()>>(test: impl Fn(AsyncChannel) -> F) {
    let spawner = || spawner().pollable();
    pollster::block_on(test(AsyncChannel::new(spawner().spawn().unwrap()).unwrap()));
    let current = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    current.block_on(async {
        test(AsyncChannel::spawn_on_tokio(spawner()).await.unwrap()).await;
        test(AsyncChannel::spawn(spawner()).await.unwrap()).await;
    });
    let several =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    several.block_on(async {
        test(AsyncChannel::spawn_on_tokio(spawner()).await.unwrap()).await;
    });
}

#[test]
fn calls_are_answered() {
    on_each(|channel| async move {
        for i in 0..500_u64 {
            let reply = channel.call(ECHO, &encode(&[i]), LONG).await.unwrap();
            assert_eq!(numbers(&reply.to_vec()), [i]);
        }
        let long = pattern(3, 3_000_000);
        assert_eq!(channel.call(SUM, &long, LONG).await.unwrap().len(), 8);
        assert_eq!(channel.blocking().in_flight(), 0);
    });
}

#[test]
fn streams_come_in_order() {
    on_each(|channel| async move {
        let mut stream = channel.stream(COUNT, &encode(&[300, 50_000]), LONG).await.unwrap();
        let mut count = 0;
        while let Some(chunk) = stream.next_chunk().await.unwrap() {
            assert_eq!(chunk.to_vec(), pattern(count, 50_000));
            count += 1;
        }
        assert_eq!(count, 300);
    });
}

#[test]
fn timeouts_pings_deaths_and_closing() {
    on_each(|channel| async move {
        let slow = channel.call(SLOW_ECHO, &encode(&[300]), Duration::from_millis(20)).await;
        assert!(slow.unwrap_err().is_timeout());
        assert!(channel.ping(LONG).await.unwrap().current_request.is_some());
        assert_eq!(channel.call(ECHO, b"next", LONG).await.unwrap().to_vec(), b"next");
        channel.close(LONG).await.unwrap();
        let closed = channel.call(ECHO, b"late", LONG).await.unwrap_err();
        assert_eq!(closed.kind(), ErrorKind::Closed);
    });
    on_each(|channel| async move {
        let died = channel.call(EXIT, &[3], LONG).await.unwrap_err();
        assert!(died.is_peer_dead(), "{died}");
        assert!(died.to_string().contains("exited with code 3"), "{died}");
    });
}
