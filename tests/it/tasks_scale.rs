//! Many tasks on one channel, many channels on one runtime, and their cost when idle.

use std::time::{Duration, Instant};

use crate::common::*;
use crate::executors::{current_thread, multi_thread, on_each};
use slipring::tasks::AsyncChannel;
use slipring::{Channel, Config, ExitCause};

#[test]
fn a_thousand_concurrent_calls_on_one_channel_each_get_their_own_reply() {
    on_each(spawner, |channel| async move {
        for round in 0..5_u64 {
            let calls = (0..1000_u64).map(|i| {
                let channel = channel.clone();
                async move {
                    let bytes = pattern(round << 32 | i, (i * 7919 % 1500) as usize);
                    assert_eq!(channel.call(ECHO, &bytes, LONG).await.unwrap().to_vec(), bytes);
                }
            });
            crate::executors::all(calls.collect()).await;
        }
        assert_eq!(channel.blocking().in_flight(), 0);
    });
}

#[test]
fn a_thousand_tasks_of_a_runtime_call_at_the_same_time() {
    for runtime in [current_thread(), multi_thread()] {
        runtime.block_on(async {
            let channel = AsyncChannel::spawn_on_tokio(spawner()).await.unwrap();
            let tasks: Vec<_> = (0..1000_u64)
                .map(|i| {
                    let channel = channel.clone();
                    tokio::spawn(async move {
                        for k in 0..5 {
                            let bytes = encode(&[i, k]);
                            let reply = channel.call(ECHO, &bytes, LONG).await.unwrap();
                            assert_eq!(reply.to_vec(), bytes);
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    }
}

const CHANNELS: usize = 200;

/// Starts channels, measures them idle with a task waiting on each, kills all workers, and measures
/// again.
async fn many_channels(on_tokio: bool) {
    let mut channels = Vec::new();
    for _ in 0..CHANNELS {
        let spawner = spawner().config(Config::small());
        channels.push(match on_tokio {
            true => AsyncChannel::spawn_on_tokio(spawner).await.unwrap(),
            false => AsyncChannel::spawn(spawner).await.unwrap(),
        });
    }
    for (i, channel) in channels.iter().enumerate() {
        let bytes = pattern(i as u64, 300);
        assert_eq!(channel.call(ECHO, &bytes, LONG).await.unwrap().to_vec(), bytes);
    }
    let waiting: Vec<_> = channels
        .iter()
        .map(|channel| {
            let channel = channel.clone();
            tokio::spawn(async move { channel.call(FOR_EVER, b"", LONG).await.map(drop) })
        })
        .collect();
    let measure = async |what: &str| {
        // Each task looks again after two seconds, and the thread of the status page looks at what has
        // changed. Between such moments nothing happens.
        let mut least = Duration::MAX;
        for _ in 0..4 {
            let before = processor_time();
            tokio::time::sleep(Duration::from_millis(500)).await;
            least = least.min(processor_time() - before);
        }
        println!("{what}: {least:?} of processor time in half a second");
        assert!(least <= Duration::from_millis(5), "{what}: {least:?}");
    };
    let all = async |what: &str, is_so: fn(&Channel) -> bool| {
        for channel in &channels {
            let start = Instant::now();
            while !is_so(channel.blocking()) {
                assert!(start.elapsed() < LONG, "never came true: {what}");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    };
    all("its request is begun", |channel| channel.health().begun == 1).await;
    measure("200 channels, a task waits on each").await;
    channels.iter().for_each(|channel| send_signal(channel.blocking().pid(), libc::SIGKILL));
    for task in waiting {
        assert!(task.await.unwrap().unwrap_err().is_peer_dead());
    }
    for channel in &channels {
        assert!(channel.call(ECHO, b"", LONG).await.unwrap_err().is_peer_dead());
    }
    all("its worker is reaped", |channel| channel.exit_cause().is_some()).await;
    measure("200 channels whose workers are dead").await;
    for channel in channels {
        assert_eq!(channel.close(LONG).await.unwrap(), ExitCause::Signaled(libc::SIGKILL));
    }
}

#[test]
fn two_hundred_idle_channels_of_a_tokio_runtime_cost_nothing() {
    let name = name_of(two_hundred_idle_channels_of_a_tokio_runtime_cost_nothing);
    match is_rerun(name) {
        true => current_thread().block_on(many_channels(true)),
        false => print!("{}", rerun(name)),
    }
}

#[test]
fn two_hundred_idle_channels_of_the_librarys_thread_cost_nothing() {
    let name = name_of(two_hundred_idle_channels_of_the_librarys_thread_cost_nothing);
    match is_rerun(name) {
        true => multi_thread().block_on(many_channels(false)),
        false => print!("{}", rerun(name)),
    }
}
