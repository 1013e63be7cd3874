//! The promises of the blocking channel, kept for tasks on several executors.

use std::time::Duration;

use crate::common::*;
use crate::executors::{all, nap, on_each, poll_times};
use slipring::tasks::AsyncChannel;
use slipring::{Config, Error, ErrorKind, ExitCause, Spawner};

const SHORT: Duration = Duration::from_millis(40);

fn plain() -> Spawner {
    spawner()
}

fn in_tiny_rings() -> Spawner {
    spawner().config(tiny(4096).build().unwrap())
}

/// Makes an ordinary call, and checks that nothing is left in flight.
async fn assert_usable_by_tasks(channel: &AsyncChannel) {
    let bytes = pattern(channel.blocking().stats().cancels, 777);
    assert_eq!(channel.call(ECHO, &bytes, LONG).await.unwrap().to_vec(), bytes);
    assert_eq!(channel.blocking().in_flight(), 0);
}

fn kind<T: std::fmt::Debug>(result: slipring::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn calls_of_every_length_are_answered_each_with_its_own_bytes() {
    on_each(plain, |channel| async move {
        for i in 0..300_u64 {
            let bytes = pattern(i, (i * i) as usize);
            assert_eq!(channel.call(ECHO, &bytes, LONG).await.unwrap().to_vec(), bytes);
        }
        assert_usable_by_tasks(&channel).await;
    });
}

#[test]
fn messages_longer_than_a_frame_travel_both_ways_through_small_rings() {
    on_each(in_tiny_rings, |channel| async move {
        let bytes = pattern(3, 300_000);
        let sum: u64 = bytes.iter().map(|b| u64::from(*b)).sum();
        assert_eq!(numbers(&channel.call(SUM, &bytes, LONG).await.unwrap().to_vec()), [sum]);
        let big = channel.call(BIG, &encode(&[200_000]), LONG).await.unwrap();
        assert_eq!(big.to_vec(), pattern(7, 200_000));
        let both = channel.call(ECHO, &bytes, LONG).await.unwrap();
        assert_eq!(both.to_vec(), bytes);
        assert_usable_by_tasks(&channel).await;
    });
}

#[test]
fn long_messages_of_several_tasks_do_not_get_mixed_up_and_short_ones_pass() {
    on_each(in_tiny_rings, |channel| async move {
        let calls = (0..24_u64).map(|i| {
            let channel = channel.clone();
            async move {
                let bytes = pattern(i, if i % 3 == 0 { 40_000 } else { 100 });
                assert_eq!(channel.call(ECHO, &bytes, LONG).await.unwrap().to_vec(), bytes);
            }
        });
        all(calls.collect()).await;
        assert_usable_by_tasks(&channel).await;
    });
}

#[test]
fn every_way_in_which_a_request_can_end_leaves_the_channel_usable() {
    on_each(plain, |channel| async move {
        let failed = channel.call(FAIL, b"because", LONG).await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::HandlerFailed);
        assert!(failed.to_string().contains("because"), "{failed}");
        let panicked = channel.call(PANIC, b"oh no", LONG).await.unwrap_err();
        assert_eq!(panicked.kind(), ErrorKind::HandlerFailed);
        assert!(panicked.to_string().contains("oh no"), "{panicked}");
        assert_eq!(kind(channel.call(STREAM_ANYHOW, b"", LONG).await), ErrorKind::Protocol);
        let too_long = vec![0; channel.blocking().config().max_message() + 1];
        assert_eq!(kind(channel.call(ECHO, &too_long, LONG).await), ErrorKind::TooLarge);
        let refused = channel.call(slipring::Kind::PING, b"", LONG).await.unwrap_err();
        assert_eq!((refused.kind(), refused.was_begun()), (ErrorKind::InvalidInput, Some(false)));
        let slow = channel.call(UNTIL_CANCELLED, b"", SHORT).await;
        assert!(slow.unwrap_err().is_timeout());
        let pending = channel.submit(UNTIL_CANCELLED, b"", LONG).await.unwrap();
        pending.cancel();
        assert!(pending.await.unwrap_err().is_cancelled());
        let mut wrong = channel.stream(ECHO, b"one", LONG).await.unwrap();
        assert_eq!(kind(wrong.next_chunk().await), ErrorKind::Protocol);
        assert!(wrong.next_chunk().await.unwrap().is_none(), "over after its error");
        let mut silent = channel.stream(UNTIL_CANCELLED, b"", SHORT).await.unwrap();
        assert_eq!(kind(silent.next_chunk().await), ErrorKind::Stalled);
        drop((wrong, silent));
        assert_usable_by_tasks(&channel).await;
        let stats = channel.blocking().stats();
        assert!(stats.cancels >= 3, "the timeout, the cancel, the stalled stream: {stats:?}");
        assert_eq!(stats.unknown_frames, 0);
    });
}

#[test]
fn more_requests_than_configured_are_refused_until_one_is_done() {
    let few = || spawner().config(Config::builder().max_in_flight(4).build().unwrap());
    on_each(few, |channel| async move {
        let mut pending = Vec::new();
        for i in 0..4_u64 {
            pending.push(channel.submit(ECHO, &encode(&[i]), LONG).await.unwrap());
        }
        assert_eq!(kind(channel.submit(ECHO, b"x", LONG).await), ErrorKind::TooManyInFlight);
        for (i, pending) in pending.into_iter().enumerate() {
            assert_eq!(numbers(&pending.await.unwrap().to_vec()), [i as u64]);
        }
        assert_usable_by_tasks(&channel).await;
    });
}

#[test]
fn streams_come_in_order_and_whole_also_when_several_are_read_in_turns() {
    on_each(plain, |channel| async move {
        let mut stream = channel.stream(COUNT, &encode(&[300, 50_000]), LONG).await.unwrap();
        for i in 0..300 {
            assert_eq!(stream.next_chunk().await.unwrap().unwrap().to_vec(), pattern(i, 50_000));
        }
        assert!(stream.next_chunk().await.unwrap().is_none());
        let mut long = channel.stream(COUNT, &encode(&[5, 2_500_000]), LONG).await.unwrap();
        for i in 0..5 {
            assert_eq!(long.next_chunk().await.unwrap().unwrap().len(), 2_500_000, "chunk {i}");
        }
        assert!(long.next_chunk().await.unwrap().is_none());
        let mut failing = channel.stream(COUNT_AND_FAIL, &encode(&[9, 10]), LONG).await.unwrap();
        for i in 0..9 {
            assert_eq!(failing.next_chunk().await.unwrap().unwrap().to_vec(), pattern(i, 10));
        }
        assert_eq!(kind(failing.next_chunk().await), ErrorKind::HandlerFailed);
        drop((stream, long, failing));
        assert_usable_by_tasks(&channel).await;
    });
}

#[test]
fn a_stream_that_is_dropped_half_way_frees_the_worker_and_its_space() {
    on_each(in_tiny_rings, |channel| async move {
        for taken in 0..12_u64 {
            let request = encode(&[1 << 40, 700]);
            let mut stream = channel.stream(COUNT, &request, LONG).await.unwrap();
            for i in 0..taken {
                let chunk = stream.next_chunk().await.unwrap().unwrap();
                assert_eq!(chunk.to_vec(), pattern(i, 700));
            }
            drop(stream);
            assert_usable_by_tasks(&channel).await;
        }
        assert_eq!(channel.blocking().stats().cancels, 12);
    });
}

#[test]
fn a_chunk_that_is_not_awaited_to_its_end_is_not_lost() {
    on_each(plain, |channel| async move {
        let request = encode(&[500, 60, 20]);
        let mut stream = channel.stream(TRICKLE, &request, LONG).await.unwrap();
        for i in 0..60 {
            let chunk = loop {
                // The future is dropped after one poll, and made again.
                match poll_times(1, Duration::ZERO, stream.next_chunk()) {
                    Some(chunk) => break chunk,
                    None => nap(Duration::from_micros(100)).await,
                }
            };
            assert_eq!(chunk.unwrap().unwrap().to_vec(), pattern(i, 20));
        }
        assert!(stream.next_chunk().await.unwrap().is_none());
    });
}

#[test]
fn tasks_wait_for_room_with_a_slow_worker_and_rings_of_4_kib() {
    on_each(in_tiny_rings, |channel| async move {
        let calls = (0..120_u64).map(|i| {
            let channel = channel.clone();
            async move {
                let mut request = encode(&[300, i]);
                request.extend(pattern(i, 400 + 10 * i as usize));
                assert_eq!(channel.call(NAP, &request, LONG).await.unwrap().to_vec(), request);
            }
        });
        all(calls.collect()).await;
        assert_usable_by_tasks(&channel).await;
    });
}

#[test]
fn a_ring_that_stays_full_times_the_sender_out_before_anything_is_sent() {
    on_each(in_tiny_rings, |channel| async move {
        let busy = channel.submit(UNTIL_ABORTED, b"", LONG).await.unwrap();
        let mut sent = Vec::new();
        let full = loop {
            match channel.submit(ECHO, &[1; 500], SHORT).await {
                Ok(pending) => sent.push(pending),
                Err(error) => break error,
            }
        };
        assert!(full.is_timeout(), "{full}");
        assert!(full.to_string().contains("no room for 500 bytes"), "{full}");
        busy.cancel();
        busy.await.unwrap();
        for pending in sent {
            // Requests that waited behind it are past their own deadline.
            let _ = pending.await;
        }
        assert_usable_by_tasks(&channel).await;
    });
}

#[test]
fn ten_thousand_late_replies_are_not_delivered() {
    on_each(plain, |channel| async move {
        for round in 0..20_u64 {
            let mut dropped = Vec::new();
            for i in 0..500_u64 {
                dropped.push(channel.submit(ECHO, &encode(&[round, i]), LONG).await.unwrap());
            }
            drop(dropped);
            let bytes = encode(&[u64::MAX, round]);
            assert_eq!(channel.call(ECHO, &bytes, LONG).await.unwrap().to_vec(), bytes);
        }
        let stats = channel.blocking().stats();
        assert_eq!((stats.late_frames, stats.unknown_frames), (stats.cancels, 0), "{stats:?}");
        assert_usable_by_tasks(&channel).await;
    });
}

#[test]
fn pings_are_answered_while_a_handler_runs_and_threads_ping_too() {
    on_each(plain, |channel| async move {
        let busy = channel.submit(UNTIL_CANCELLED, b"", LONG).await.unwrap();
        let request = busy.id();
        let mut health = channel.ping(LONG).await.unwrap();
        while health.current_request.is_none() {
            health = channel.ping(LONG).await.unwrap();
        }
        assert_eq!(health.current_request, Some(request));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let channel = channel.clone();
                std::thread::spawn(move || {
                    (0..300).for_each(|_| drop(channel.blocking().ping(LONG).unwrap()));
                })
            })
            .collect();
        let tasks = (0..8).map(|_| async {
            for _ in 0..60 {
                assert_eq!(channel.ping(LONG).await.unwrap().current_request, Some(request));
            }
        });
        all(tasks.collect()).await;
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(busy);
        assert_usable_by_tasks(&channel).await;
    });
}

#[test]
fn a_stopped_worker_is_unresponsive_and_goes_on_rightly() {
    on_each(plain, |channel| async move {
        assert_usable_by_tasks(&channel).await;
        stop(channel.blocking().pid());
        // More than the health ring has room for. Those without room time out too.
        let pings = (0..200).map(|_| channel.ping(SHORT));
        for error in all(pings.collect()).await {
            assert!(error.unwrap_err().is_timeout());
        }
        let waiting = channel.ping(LONG);
        let late = channel.call(ECHO, b"late", SHORT);
        let mut waiting = std::pin::pin!(waiting);
        assert!(
            crate::executors::poll(&crate::executors::Probe::new(), waiting.as_mut()).is_pending()
        );
        assert!(late.await.unwrap_err().is_timeout());
        send_signal(channel.blocking().pid(), libc::SIGCONT);
        waiting.await.unwrap();
        channel.ping(LONG).await.unwrap();
        assert_usable_by_tasks(&channel).await;
    });
}

#[test]
fn a_close_ends_everything_in_flight_with_closed() {
    on_each(plain, |channel| async move {
        assert_usable_by_tasks(&channel).await;
        let mut stream = channel.stream(COUNT, &encode(&[1 << 40, 10]), LONG).await.unwrap();
        stream.next_chunk().await.unwrap().unwrap();
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let channel = channel.clone();
                async move { channel.call(UNTIL_CANCELLED, b"", LONG).await.map(drop) }
            })
            .collect();
        let ends = async {
            nap(SHORT).await;
            channel.close(LONG).await
        };
        let (outcomes, cause) = tokio::join!(all(calls), ends);
        for outcome in outcomes {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Closed);
        }
        assert_eq!(cause.unwrap(), ExitCause::Exited(0));
        loop {
            match stream.next_chunk().await {
                Ok(Some(_)) => {}
                other => break assert_eq!(kind(other), ErrorKind::Closed),
            }
        }
        assert_eq!(kind(channel.call(ECHO, b"", LONG).await), ErrorKind::Closed);
        assert_eq!(kind(channel.ping(LONG).await), ErrorKind::Closed);
        assert_eq!(channel.close(LONG).await.unwrap(), ExitCause::Exited(0), "again");
        assert_eq!(channel.blocking().close(LONG).unwrap(), ExitCause::Exited(0));
    });
}

#[test]
fn a_hundred_tasks_that_wait_are_each_told_once_of_a_death_and_how() {
    on_each(plain, |channel| async move {
        assert_usable_by_tasks(&channel).await;
        let mut pending = vec![channel.submit(FOR_EVER, b"", LONG).await.unwrap()];
        for _ in 1..100 {
            pending.push(channel.submit(ECHO, b"never", LONG).await.unwrap());
        }
        let pid = channel.blocking().pid();
        let ids: Vec<u64> = pending.iter().map(|one| one.id().get()).collect();
        let killer = async {
            nap(SHORT).await;
            send_signal(pid, libc::SIGKILL);
        };
        let (errors, ()) = tokio::join!(all(pending), killer);
        for (outcome, id) in errors.into_iter().zip(ids) {
            let error: Error = outcome.unwrap_err();
            assert!(error.is_peer_dead(), "{error}");
            // The kernel can take longer to report the status than the error waits for it.
            eventually("the cause is known", || error.death().unwrap().cause().is_some());
            let text = error.to_string();
            assert!(text.contains("SIGKILL") && text.contains(&pid.to_string()), "{text}");
            assert!(text.contains(&format!("request {id}")), "{text}");
        }
        assert!(channel.call(ECHO, b"", LONG).await.unwrap_err().is_peer_dead());
        assert!(channel.ping(LONG).await.unwrap_err().is_peer_dead());
        assert_eq!(channel.close(LONG).await.unwrap(), ExitCause::Signaled(libc::SIGKILL));
    });
}

#[test]
fn chunks_that_came_before_a_death_are_a_prefix_and_then_comes_the_death() {
    on_each(plain, |channel| async move {
        let request = encode(&[50, 1 << 40, 100]);
        let mut stream = channel.stream(TRICKLE, &request, LONG).await.unwrap();
        let mut count = 0;
        let error = loop {
            if count == 50 {
                send_signal(channel.blocking().pid(), libc::SIGKILL);
            }
            match stream.next_chunk().await {
                Ok(Some(chunk)) => assert_eq!(chunk.to_vec(), pattern(count, 100)),
                Ok(None) => panic!("an end without a death"),
                Err(error) => break error,
            }
            count += 1;
        };
        assert!(count >= 50 && error.is_peer_dead(), "{count}: {error}");
    });
}

#[test]
fn a_session_that_cannot_be_built_is_told_to_tasks() {
    let failing = || spawner().mode("late fail");
    on_each(failing, |channel| async move {
        let error = channel.call(ECHO, b"", LONG).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Session);
        assert!(error.to_string().contains("no such model"), "{error}");
    });
}

#[test]
fn four_threads_and_a_hundred_tasks_share_one_channel() {
    let narrow = || spawner().config(tiny(16 << 10).build().unwrap());
    on_each(narrow, |channel| async move {
        let threads: Vec<_> = (0..4_u64)
            .map(|t| {
                let channel = channel.clone();
                std::thread::spawn(move || {
                    for i in 0..150 {
                        let bytes = pattern(t << 32 | i, (i * 37 % 3000) as usize);
                        let reply = channel.blocking().call(ECHO, &bytes, LONG).unwrap();
                        assert_eq!(reply.to_vec(), bytes);
                    }
                })
            })
            .collect();
        let tasks = (0..100_u64).map(|t| {
            let channel = channel.clone();
            async move {
                for i in 0..10 {
                    let bytes = pattern(t << 16 | i, (i * 531 % 4000) as usize);
                    assert_eq!(channel.call(ECHO, &bytes, LONG).await.unwrap().to_vec(), bytes);
                }
            }
        });
        all(tasks.collect()).await;
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_usable_by_tasks(&channel).await;
    });
}

#[test]
fn a_task_that_spins_gets_the_same_and_gives_up_when_it_must() {
    on_each(plain, |channel| async move {
        let plain = channel.clone();
        let channel = channel.with_spin(Duration::from_micros(200));
        for i in 0..500_u64 {
            let bytes = encode(&[i]);
            assert_eq!(channel.call(ECHO, &bytes, LONG).await.unwrap().to_vec(), bytes);
        }
        let slow = channel.call(SLOW_ECHO, &encode(&[20]), LONG).await.unwrap();
        assert_eq!(numbers(&slow.to_vec()), [20]);
        let calls = (0..200_u64).map(|i| {
            let channel = if i % 2 == 0 { channel.clone() } else { plain.clone() };
            async move {
                let bytes = encode(&[10, i]);
                assert_eq!(channel.call(NAP, &bytes, LONG).await.unwrap().to_vec(), bytes);
            }
        });
        all(calls.collect()).await;
        let error = channel.call(EXIT, &[3], LONG).await.unwrap_err();
        assert!(error.is_peer_dead(), "{error}");
    });
}

#[test]
fn a_message_that_a_task_writes_arrives_whole_or_not_at_all() {
    on_each(in_tiny_rings, |channel| async move {
        let bytes = pattern(5, 50_000);
        let mut writer = channel.write(ECHO, LONG).await.unwrap();
        for part in bytes.chunks(777) {
            writer.push(part).await.unwrap();
        }
        let id = writer.id();
        let pending = writer.finish().await.unwrap();
        assert_eq!(pending.id(), id);
        assert_eq!(pending.await.unwrap().to_vec(), bytes);

        let cap = channel.blocking().config().max_message();
        let mut writer = channel.write(ECHO, LONG).await.unwrap();
        assert_eq!(kind(writer.push(&vec![0; cap + 1]).await), ErrorKind::TooLarge);
        writer.push(&bytes).await.unwrap();
        // Abandoned with pieces in the ring.
        drop(writer);
        assert_usable_by_tasks(&channel).await;
    });
}

#[test]
fn a_task_waits_until_the_session_is_built_and_until_nothing_is_in_flight() {
    on_each(plain, |channel| async move {
        channel.wait_ready(LONG).await.unwrap();
        let slow = channel.submit(SLOW_ECHO, &encode(&[60]), LONG).await.unwrap();
        let closing = channel.clone();
        let (reply, closed) = tokio::join!(slow, closing.close_draining(LONG));
        assert_eq!(numbers(&reply.unwrap().to_vec()), [60]);
        assert_eq!(closed.unwrap(), ExitCause::Exited(0));
    });
}

#[test]
fn the_end_of_a_worker_wakes_the_task_that_waits_for_it_alone() {
    on_each(plain, |channel| async move {
        let pid = channel.blocking().pid();
        let killer = async {
            nap(SHORT).await;
            send_signal(pid, libc::SIGKILL);
        };
        let (cause, ()) = tokio::join!(channel.closed(), killer);
        assert_eq!(cause.unwrap(), ExitCause::Signaled(libc::SIGKILL));
        // Known already.
        assert_eq!(channel.closed().await.unwrap(), ExitCause::Signaled(libc::SIGKILL));
        assert_eq!(channel.blocking().wait_exit(LONG).unwrap(), ExitCause::Signaled(libc::SIGKILL));
    });
}
