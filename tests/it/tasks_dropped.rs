//! Futures that are dropped, moved or left alone leave nothing behind.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crate::common::*;
use crate::executors::{Probe, current_thread, multi_thread, on_each, poll, poll_times};
use slipring::tasks::AsyncChannel;
use slipring::{Config, ErrorKind};

const PATIENCE: Duration = Duration::from_micros(300);

fn start(config: Config) -> AsyncChannel {
    AsyncChannel::new(spawner().config(config).pollable().spawn().unwrap()).unwrap()
}

/// Checks that the next call gets its own answer, and that everything is given back.
fn assert_clean(channel: &AsyncChannel, seed: u64) {
    let bytes = pattern(seed, 900);
    let reply = pollster::block_on(channel.call(ECHO, &bytes, LONG)).unwrap();
    assert_eq!(reply.into_vec(), bytes);
    assert_eq!(channel.blocking().in_flight(), 0);
    let stats = channel.blocking().stats();
    assert_eq!((stats.leases_held, stats.unknown_frames), (0, 0));
}

/// Makes a future with `make` and drops it after each number of polls up to the one that completes
/// it, `rounds` times.
fn drop_after_each_poll<T, F: Future<Output = T>>(
    channel: &AsyncChannel,
    rounds: u64,
    make: impl Fn() -> F,
) {
    for round in 0..rounds {
        for polls in 0..200 {
            let done = poll_times(polls, PATIENCE, make());
            assert_clean(channel, round << 32 | polls as u64);
            if done.is_some() {
                break;
            }
        }
    }
}

#[test]
fn a_call_that_is_dropped_after_any_number_of_polls_leaves_nothing_behind() {
    let channel = start(Config::default());
    let request = encode(&[400, 1]);
    drop_after_each_poll(&channel, 30, || channel.call(NAP, &request, LONG));
    drop_after_each_poll(&channel, 30, || channel.call(ECHO, &request, LONG));
}

#[test]
fn a_long_message_can_be_dropped_after_any_number_of_polls() {
    let channel = start(tiny(4096).build().unwrap());
    let bytes = pattern(5, 40_000);
    drop_after_each_poll(&channel, 4, || channel.call(SUM, &bytes, LONG));
    drop_after_each_poll(&channel, 4, || channel.call(ECHO, &bytes, LONG));
    // Two messages at once: the second waits for its turn.
    drop_after_each_poll(&channel, 4, || async {
        let both = vec![channel.call(SUM, &bytes, LONG), channel.call(SUM, &bytes, LONG)];
        crate::executors::all(both).await.into_iter().for_each(|reply| drop(reply.unwrap()));
    });
}

#[test]
fn a_sender_that_waits_for_room_can_be_dropped_after_any_number_of_polls() {
    let channel = start(tiny(4096).build().unwrap());
    drop_after_each_poll(&channel, 5, || async {
        let calls = (0..12_u64).map(|i| {
            let channel = &channel;
            async move {
                let mut request = encode(&[100, i]);
                request.extend(pattern(i, 1500));
                assert_eq!(channel.call(NAP, &request, LONG).await.unwrap().to_vec(), request);
            }
        });
        crate::executors::all(calls.collect()).await
    });
}

#[test]
fn a_stream_a_ping_and_a_chunk_can_be_dropped_after_any_number_of_polls() {
    let channel = start(Config::small());
    drop_after_each_poll(&channel, 10, || async {
        let mut stream = channel.stream(TRICKLE, &encode(&[50, 12, 800]), LONG).await.unwrap();
        let mut count = 0;
        while let Some(chunk) = stream.next_chunk().await.unwrap() {
            assert_eq!(chunk.to_vec(), pattern(count, 800));
            count += 1;
        }
        assert_eq!(count, 12);
    });
    drop_after_each_poll(&channel, 200, || channel.ping(LONG));
    pollster::block_on(channel.ping(LONG)).unwrap();
}

#[test]
fn a_close_that_is_dropped_has_closed_and_the_worker_ends() {
    for polls in 1..4 {
        let channel = start(Config::small());
        assert_clean(&channel, 1);
        let pid = channel.blocking().pid();
        let _ = poll_times(polls, Duration::ZERO, channel.close(Duration::from_millis(100)));
        let error = pollster::block_on(channel.call(ECHO, b"", LONG)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
        eventually("the worker is gone", || !is_running(pid));
    }
}

#[test]
fn timeouts_and_selects_of_tokio_drop_futures_without_harm() {
    for runtime in [current_thread(), multi_thread()] {
        runtime.block_on(async {
            let channel = AsyncChannel::spawn_on_tokio(spawner()).await.unwrap();
            let mut seen = [0; 3];
            for i in 0..300_u64 {
                let request = encode(&[i % 7 * 200, i]);
                let limit = Duration::from_micros(600);
                match tokio::time::timeout(limit, channel.call(NAP, &request, LONG)).await {
                    Ok(reply) => assert_eq!(reply.unwrap().to_vec(), request),
                    Err(_) => seen[0] += 1,
                }
                let (one, two) = (encode(&[100, i]), encode(&[150, i + 1]));
                tokio::select! {
                    reply = channel.call(NAP, &one, LONG) => {
                        assert_eq!(reply.unwrap().to_vec(), one);
                        seen[1] += 1;
                    }
                    reply = channel.call(NAP, &two, LONG) => {
                        assert_eq!(reply.unwrap().to_vec(), two);
                        seen[2] += 1;
                    }
                }
            }
            assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
            // The runtime drops an aborted task on any thread, at any time.
            let tasks: Vec<_> = (0..100)
                .map(|_| {
                    let channel = channel.clone();
                    tokio::spawn(async move { channel.call(UNTIL_CANCELLED, b"", LONG).await })
                })
                .collect();
            tokio::task::yield_now().await;
            tasks.iter().for_each(tokio::task::JoinHandle::abort);
            for task in tasks {
                assert!(task.await.unwrap_err().is_cancelled());
            }
            let reply = channel.call(ECHO, b"still here", LONG).await.unwrap();
            assert_eq!(reply.to_vec(), b"still here");
            assert_eq!(channel.blocking().in_flight(), 0);
        });
    }
}

#[test]
fn a_ping_is_polled_for_a_reason_and_not_in_a_circle() {
    let channel = start(Config::small());
    assert_clean(&channel, 1);
    pollster::block_on(channel.ping(LONG)).unwrap();
    stop(channel.blocking().pid());
    let probe = Probe::new();
    let mut ping = pin!(channel.ping(Duration::from_millis(300)));
    let mut polls = 0;
    while poll(&probe, ping.as_mut()).is_pending() {
        polls += 1;
        std::thread::park();
    }
    assert!(polls < 20, "polled {polls} times while nothing happened");
    send_signal(channel.blocking().pid(), libc::SIGCONT);
}

#[test]
fn a_ping_that_no_task_polls_holds_up_neither_pings_nor_a_close() {
    on_each(spawner, |channel| async move {
        let probe = Probe::new();
        channel.ping(LONG).await.unwrap();
        let mut forgotten = pin!(channel.ping(LONG));
        let _ = poll(&probe, forgotten.as_mut());
        channel.ping(LONG).await.unwrap();
        channel.blocking().ping(LONG).unwrap();
        let cause = channel.close(Duration::from_secs(600)).await.unwrap();
        assert_eq!(cause, slipring::ExitCause::Exited(0));
    });
}

#[test]
fn a_long_message_that_is_not_polled_ends_with_the_channel() {
    let channel = start(tiny(4096).build().unwrap());
    let bytes = pattern(5, 40_000);
    let probe = Probe::new();
    let busy = pollster::block_on(channel.submit(FOR_EVER, b"", LONG)).unwrap();
    let mut forgotten = pin!(channel.call(SUM, &bytes, Duration::MAX));
    assert!(poll(&probe, forgotten.as_mut()).is_pending());
    let waiting = std::thread::spawn({
        let (channel, bytes) = (channel.clone(), bytes.clone());
        move || pollster::block_on(channel.call(SUM, &bytes, Duration::MAX)).map(drop)
    });
    std::thread::sleep(Duration::from_millis(50));
    send_signal(channel.blocking().pid(), libc::SIGKILL);
    assert!(waiting.join().unwrap().unwrap_err().is_peer_dead());
    assert!(pollster::block_on(busy).unwrap_err().is_peer_dead());
    assert!(pollster::block_on(forgotten).unwrap_err().is_peer_dead());
}

#[test]
fn wakers_do_not_pile_up() {
    let channel = start(Config::small());
    let probe = Probe::new();
    let waker = Waker::from(Arc::clone(&probe));
    let context = &mut std::task::Context::from_waker(&waker);
    let until_ready = |mut future: std::pin::Pin<&mut dyn Future<Output = ()>>,
                       context: &mut std::task::Context<'_>| {
        while future.as_mut().poll(context).is_pending() {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    };
    for _ in 0..300 {
        until_ready(pin!(async { drop(channel.ping(LONG).await.unwrap()) }), context);
        until_ready(pin!(async { drop(channel.call(ECHO, b"x", LONG).await.unwrap()) }), context);
    }
    // The test holds two wakers. The driver's thread may be about to wake one more.
    eventually("all others are dropped", || Arc::strong_count(&probe) == 2);
}

#[test]
fn a_request_can_be_polled_by_one_runtime_and_awaited_by_another() {
    let channel = start(Config::small());
    let several = multi_thread();
    for i in 0..200_u64 {
        let request = encode(&[200, i]);
        let mut pending = pollster::block_on(channel.submit(NAP, &request, LONG)).unwrap();
        let probe = Probe::new();
        if poll(&probe, std::pin::Pin::new(&mut pending)).is_pending() {
            let reply = several.block_on(async { tokio::spawn(pending).await.unwrap() });
            assert_eq!(reply.unwrap().to_vec(), request);
        }
        let pending = pollster::block_on(channel.submit(NAP, &request, LONG)).unwrap();
        assert_eq!(pending.into_blocking().wait().unwrap().to_vec(), request);
    }
}

#[test]
fn a_channel_outlives_the_runtime_that_read_for_it() {
    for runtime in [current_thread(), multi_thread()] {
        let channel = runtime.block_on(AsyncChannel::spawn_on_tokio(spawner())).unwrap();
        runtime.block_on(async { channel.call(ECHO, b"x", LONG).await.map(drop) }).unwrap();
        let waiting = std::thread::spawn({
            let channel = channel.clone();
            move || pollster::block_on(channel.call(NAP, &encode(&[200_000, 1]), LONG)).map(drop)
        });
        std::thread::sleep(Duration::from_millis(50));
        drop(runtime);
        waiting.join().unwrap().unwrap();
        assert_clean(&channel, 1);
        pollster::block_on(channel.ping(LONG)).unwrap();
        let elsewhere = current_thread();
        elsewhere.block_on(async { channel.call(ECHO, b"y", LONG).await.map(drop) }).unwrap();
        elsewhere.block_on(channel.close(LONG)).unwrap();
    }
}

#[test]
fn channels_come_and_go_while_others_are_used() {
    let steady = start(Config::small());
    std::thread::scope(|scope| {
        for t in 0..2_u64 {
            let steady = &steady;
            scope.spawn(move || {
                for i in 0..25 {
                    let channel = start(Config::small());
                    let pending = pollster::block_on(channel.submit(ECHO, b"gone", LONG)).unwrap();
                    let bytes = pattern(t << 32 | i, 900);
                    let reply = pollster::block_on(steady.call(ECHO, &bytes, LONG)).unwrap();
                    assert_eq!(reply.into_vec(), bytes);
                    drop(channel);
                    // Its channel is closed: it fails, or it was faster than the close.
                    if let Err(error) = pollster::block_on(pending) {
                        assert_eq!(error.kind(), ErrorKind::Closed);
                    }
                }
            });
        }
    });
    assert_clean(&steady, 7);
}

#[test]
fn a_forked_child_is_told_so_and_its_parent_is_not_affected() {
    let name = name_of(a_forked_child_is_told_so_and_its_parent_is_not_affected);
    if !is_rerun(name) {
        rerun(name);
        return;
    }
    let channel = start(Config::small());
    assert_clean(&channel, 1);
    let mut pending = pollster::block_on(channel.submit(FOR_EVER, b"", LONG)).unwrap();
    let probe = Probe::new();
    assert!(poll(&probe, std::pin::Pin::new(&mut pending)).is_pending());
    // SAFETY: the child only polls, and ends at once.
    #[allow(unsafe_code, reason = "fork")]
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let is_forked = |kind| kind == ErrorKind::Forked;
        let mut ok =
            is_forked(pollster::block_on(channel.call(ECHO, b"", LONG)).unwrap_err().kind());
        ok &= is_forked(pollster::block_on(channel.ping(LONG)).unwrap_err().kind());
        ok &= is_forked(pollster::block_on(channel.close(LONG)).unwrap_err().kind());
        ok &= is_forked(channel.blocking().read_ready().unwrap_err().kind());
        ok &= is_forked(pollster::block_on(pending).unwrap_err().kind());
        // SAFETY: ends the child without running what the parent has registered.
        #[allow(unsafe_code, reason = "the end of the child")]
        unsafe {
            libc::_exit(i32::from(!ok))
        };
    }
    let mut status = 0;
    // SAFETY: the child's own id and a place for its status.
    #[allow(unsafe_code, reason = "the end of the child")]
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!((waited, status), (pid, 0));
    assert!(poll(&probe, std::pin::Pin::new(&mut pending)).is_pending());
    drop(pending);
    channel.blocking().close(Duration::ZERO).unwrap();
}
