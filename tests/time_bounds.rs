//! The promises about time, as percentiles. Elsewhere an upper bound of a time only tells a hang
//! from an end.
//!
//! These tests have a binary of their own and run one at a time, as other tests would add to the
//! times.
//!
//! Other work on the machine can hold up a whole process for a while, and that is not measured
//! here: the median must keep the promise, and nine in ten times may exceed it by `BUSY`. Set
//! `SLIPRING_TEST_ROUNDS=1000` for figures that are worth writing down.

mod common;
worker_entry!();

use std::time::{Duration, Instant};

use common::*;
use slipring::worker::{attach_raw, is_worker};
use slipring::{Channel, Config, ErrorKind, Pending, RawLink, Spawner};

/// How far over its deadline an operation may end.
const OVER_DEADLINE: Duration = Duration::from_millis(10);
/// From a death until a waiting call has its error, on a machine under load. On an idle machine it
/// is 5 ms.
const DEATH: Duration = Duration::from_millis(50);
/// Other work on the machine may add this.
const BUSY: Duration = Duration::from_millis(100);
/// The timeout of operations that are made to time out.
const TIMEOUT: Duration = Duration::from_millis(5);

/// Measures as often as the environment says, prints percentiles, and compares them with a promise.
fn keep(what: &str, promise: Duration, mut measure: impl FnMut() -> Duration) {
    let rounds = repetitions("SLIPRING_TEST_ROUNDS", 40);
    let mut late: Vec<Duration> = (0..rounds).map(|_| measure()).collect();
    late.sort();
    let [p50, p90, p99] = [50, 90, 99].map(|p| percentile(&late, p));
    let max = late[late.len() - 1];
    println!("{what}: p50 {p50:.2?} p90 {p90:.2?} p99 {p99:.2?} max {max:.2?} of {rounds}");
    assert!(p50 <= promise, "{what}: half of all took longer than {p50:?}");
    assert!(p90 <= promise + BUSY, "{what}: one in ten took longer than {p90:?}");
}

/// By how much `operation` missed its deadline of [`TIMEOUT`].
fn over_deadline(operation: impl FnOnce()) -> Duration {
    let start = Instant::now();
    operation();
    let over = start.elapsed().checked_sub(TIMEOUT);
    over.expect("no timeout comes early")
}

/// A channel whose worker is stopped.
fn stopped(spawner: &Spawner) -> Channel {
    let channel = spawner.spawn().unwrap();
    channel.wait_ready(LONG).unwrap();
    stop(channel.pid());
    channel
}

/// Fills the request ring.
fn fill(channel: &Channel) -> Vec<Pending> {
    std::iter::from_fn(|| channel.submit(ECHO, &[7; 900], TIMEOUT).ok()).collect()
}

#[test]
fn a_call_to_a_stopped_worker_ends_at_its_deadline() {
    let _alone = one_at_a_time();
    let channel = stopped(&spawner());
    keep("call, worker stopped", OVER_DEADLINE, || {
        over_deadline(|| {
            let error = channel.call(ECHO, b"x", TIMEOUT).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        })
    });
}

#[test]
fn a_chunk_that_does_not_come_ends_its_stream_at_the_deadline() {
    let _alone = one_at_a_time();
    let channel = stopped(&spawner());
    keep("chunk, worker stopped", OVER_DEADLINE, || {
        let mut stream = channel.stream(COUNT, &encode(&[1, 1]), TIMEOUT).unwrap();
        over_deadline(|| {
            let error = stream.next_chunk().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Stalled, "{error}");
        })
    });
}

#[test]
fn a_request_that_finds_no_room_ends_at_its_deadline() {
    let _alone = one_at_a_time();
    let channel = stopped(&in_4_kib());
    let _sent = fill(&channel);
    keep("send, request ring full", OVER_DEADLINE, || {
        over_deadline(|| {
            let error = channel.submit(ECHO, &[7; 900], TIMEOUT).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        })
    });
}

#[test]
fn a_ping_of_a_stopped_worker_ends_at_its_deadline() {
    let _alone = one_at_a_time();
    let channel = stopped(&spawner());
    keep("ping, worker stopped", OVER_DEADLINE, || {
        over_deadline(|| {
            let error = channel.ping(TIMEOUT).unwrap_err();
            assert!(error.is_timeout(), "{error}");
        })
    });
}

#[test]
fn a_call_under_a_storm_of_signals_ends_at_its_deadline() {
    let _alone = one_at_a_time();
    let name = name_of(a_call_under_a_storm_of_signals_ends_at_its_deadline);
    if !is_rerun(name) {
        print!("{}", rerun(name));
        return;
    }
    let channel = stopped(&spawner());
    signal_every_100_microseconds();
    keep("call, worker stopped, 10,000 signals a second", OVER_DEADLINE, || {
        over_deadline(|| {
            let error = channel.call(ECHO, b"x", TIMEOUT).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        })
    });
}

/// Not a test of its own: the worker of a raw link, which reads nothing and ends with its parent.
#[test]
fn silent_raw_worker() {
    if !is_worker() {
        return;
    }
    let (_link, _) = attach_raw().unwrap();
    loop {
        std::thread::park();
    }
}

fn raw_and_silent() -> RawLink {
    let args = ["silent_raw_worker", "--exact", "--nocapture", "--test-threads=1"];
    let spawner = Spawner::current_exe().unwrap().args(args).role("silent");
    spawner.config(tiny(4 << 10).build().unwrap()).spawn_raw().unwrap()
}

#[test]
fn a_raw_link_whose_peer_is_silent_keeps_its_deadlines() {
    let _alone = one_at_a_time();
    let mut link = raw_and_silent();
    keep("receive, raw, peer silent", OVER_DEADLINE, || {
        over_deadline(|| assert!(link.recv(TIMEOUT).unwrap_err().is_timeout()))
    });
    while let Some(claim) = link.try_claim(900).unwrap() {
        claim.commit(slipring::ring::Header::default());
    }
    keep("claim, raw, ring full", OVER_DEADLINE, || {
        over_deadline(|| assert!(link.claim(900, TIMEOUT).unwrap_err().is_timeout()))
    });
}

#[test]
fn a_ping_is_answered_beside_full_rings_and_a_stuck_handler() {
    let _alone = one_at_a_time();
    let (channel, pending) = stuck(&in_4_kib());
    let sent = fill(&channel);
    keep("ping, ring full, handler stuck", OVER_DEADLINE, || {
        let start = Instant::now();
        channel.ping(LONG).unwrap();
        start.elapsed()
    });
    drop((pending, sent));
    channel.close(Duration::ZERO).unwrap();
}

#[test]
fn a_close_ends_what_waits() {
    let _alone = one_at_a_time();
    keep("close, until a waiting call has its error", OVER_DEADLINE, || {
        let (channel, pending) = stuck(&in_4_kib());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let error = pending.wait().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                Instant::now()
            });
            std::thread::sleep(Duration::from_millis(2));
            let start = Instant::now();
            channel.close(Duration::ZERO).unwrap();
            waiter.join().unwrap().saturating_duration_since(start)
        })
    });
}

#[test]
fn a_program_that_stays_silent_is_killed_at_the_handshake_timeout() {
    let _alone = one_at_a_time();
    let timeout = Duration::from_millis(50);
    let sleep = Spawner::program("/bin/sleep").arg("1000").config(Config::small());
    let sleep = sleep.handshake_timeout(timeout);
    // The time includes the start and the end of the program.
    keep("spawn of a silent program, over the handshake timeout", DEATH, || {
        let start = Instant::now();
        assert_eq!(sleep.spawn().map(drop).unwrap_err().kind(), ErrorKind::Handshake);
        start.elapsed().checked_sub(timeout).expect("no timeout comes early")
    });
}

#[test]
fn a_program_that_ends_ends_the_handshake() {
    let _alone = one_at_a_time();
    let spawner = Spawner::program("/bin/false").config(Config::small());
    keep("spawn of a program that ends", DEATH, || {
        let start = Instant::now();
        let error = spawner.spawn().map(drop).unwrap_err();
        assert!(error.to_string().contains("exited with code 1"), "{error}");
        start.elapsed()
    });
}

/// Kills the worker of a channel, and returns the time from the signal until `wait` returns.
fn time_to_notice(channel: &Channel, wait: impl FnOnce()) -> Duration {
    std::thread::scope(|scope| {
        let pid = channel.pid();
        let killer = scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(2));
            let at = Instant::now();
            send_signal(pid, libc::SIGKILL);
            at
        });
        wait();
        let noticed = Instant::now();
        noticed.saturating_duration_since(killer.join().unwrap())
    })
}

/// Waits for a call whose worker dies meanwhile.
fn wait_for_death(pending: Pending) {
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::PeerDied);
}

#[test]
fn a_kill_is_noticed_within_milliseconds() {
    let _alone = one_at_a_time();
    keep("kill, until the call's error", DEATH, || {
        let (channel, pending) = stuck(&in_4_kib());
        time_to_notice(&channel, || wait_for_death(pending))
    });
}

#[test]
fn a_kill_of_a_stopped_worker_is_noticed_within_milliseconds() {
    let _alone = one_at_a_time();
    keep("kill, worker stopped, until the call's error", DEATH, || {
        let (channel, pending) = stuck(&in_4_kib());
        stop(channel.pid());
        time_to_notice(&channel, || wait_for_death(pending))
    });
}

#[test]
fn a_sender_that_waits_for_room_notices_a_kill_within_milliseconds() {
    let _alone = one_at_a_time();
    keep("kill, until the error of a sender without room", DEATH, || {
        let (channel, _pending) = stuck(&in_4_kib());
        let _sent = fill(&channel);
        time_to_notice(&channel, || {
            let error = channel.submit(ECHO, &[7; 900], Duration::MAX).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PeerDied, "{error}");
        })
    });
}

#[test]
fn the_death_of_a_big_worker_is_noticed_as_fast() {
    let _alone = one_at_a_time();
    let mib = repetitions("SLIPRING_TEST_HELD_MIB", 1024);
    let channel = spawner().config(Config::small()).spawn().unwrap();
    channel.call(HOLD_MIB, &encode(&[mib]), LONG).unwrap();
    let pending = channel.submit(FOR_EVER, b"", Duration::MAX).unwrap();
    until_served(&channel, &pending);
    let time = time_to_notice(&channel, || wait_for_death(pending));
    println!("kill, {mib} MiB resident, until the call's error: {time:.2?}");
    // Tearing down a gigabyte takes the kernel a tenth of a second and more.
    assert!(time < Duration::from_millis(500), "{time:?}");
    eventually("it is reaped", || !is_in_the_table(channel.pid()));
}

/// A request that came while the model was busy for longer than `max_wait` is served at once.
#[cfg(feature = "testing")]
#[test]
fn the_wait_for_a_batch_counts_from_the_arrival_of_its_oldest_request() {
    use slipring::worker::{Batches, Worker};
    use slipring::{Kind, RoleConfig, testing};
    use std::sync::mpsc;

    const PASS: Duration = Duration::from_millis(60);
    let (began, has_begun) = mpsc::channel();
    let make = move || {
        let batches = Batches::new().max_wait(PASS).on(Kind::EMBED, move |(), batch| {
            began.send(Instant::now())?;
            std::thread::sleep(PASS + Duration::from_millis(1));
            batch.reply_each(vec![(); batch.len()].into_iter().map(Ok));
            Ok(())
        });
        Worker::new(|_| Ok(())).batches(batches)
    };
    let channel = testing::spawn_thread(&Config::small(), RoleConfig::default(), make).unwrap();
    keep("the wait for a batch after a long pass", Duration::from_millis(10), || {
        let first = channel.submit(Kind::EMBED, "", LONG).unwrap();
        has_begun.recv().unwrap();
        let second = channel.submit(Kind::EMBED, "", LONG).unwrap();
        first.wait().unwrap();
        let answered = Instant::now();
        let second_began = has_begun.recv().unwrap();
        second.wait().unwrap();
        second_began.saturating_duration_since(answered)
    });
}

/// Calls `check` with a channel to each kind of worker that serves many requests, which is busy
/// with one until `check` has returned.
#[cfg(feature = "testing")]
fn with_busy_workers(check: impl Fn(&str, &Channel)) {
    use slipring::worker::{Batches, HandlerError, Incoming, StepEngine, Threads, Worker};
    use slipring::{RoleConfig, testing};
    use std::sync::{Arc, Mutex};

    struct Engine(Arc<Mutex<()>>, Option<Incoming>);

    impl StepEngine for Engine {
        fn add_request(&mut self, incoming: Incoming) -> Result<(), HandlerError> {
            self.1 = Some(incoming);
            Ok(())
        }

        fn step(&mut self) -> Result<(), HandlerError> {
            drop(self.0.lock());
            self.1.take().map_or(Ok(()), |open| Ok(open.responder.send("")?))
        }

        fn has_capacity(&self) -> bool {
            self.1.is_none()
        }

        fn has_finished(&self) -> bool {
            self.1.is_none()
        }
    }

    let busy = Arc::new(Mutex::new(()));
    // What times out stays in flight until the worker has seen it.
    let config = Config::builder().max_in_flight(4096).build().unwrap();
    let role = RoleConfig::default();
    for way in ["threads", "a batch", "a step"] {
        let hold = Arc::clone(&busy);
        let channel = match way {
            "threads" => testing::spawn_thread(&config, role.clone(), || {
                Worker::new(|_| Ok(())).threads(Threads::new(1).on(ECHO, move |(), _, reply| {
                    drop(hold.lock());
                    Ok(reply.send("")?)
                }))
            }),
            "a batch" => testing::spawn_thread(&config, role.clone(), || {
                Worker::new(|_| Ok(())).batches(Batches::new().on(ECHO, move |(), batch| {
                    drop(hold.lock());
                    batch.reply_each(vec![(); batch.len()].into_iter().map(Ok));
                    Ok(())
                }))
            }),
            _ => testing::spawn_thread(&config, role.clone(), || {
                Worker::new(|_| Ok(Engine(hold, None))).steps()
            }),
        };
        let channel = channel.unwrap();
        let held = busy.lock().unwrap();
        let pending = channel.submit(ECHO, "", LONG).unwrap();
        until_served(&channel, &pending);
        check(way, &channel);
        drop(held);
        pending.wait().unwrap();
    }
}

#[cfg(feature = "testing")]
#[test]
fn a_deadline_in_the_queue_passes_on_time_though_the_worker_is_busy() {
    use slipring::{StreamTimeouts, WorkerState};

    let _alone = one_at_a_time();
    with_busy_workers(|way, channel| {
        keep(&format!("call, {way} busy"), OVER_DEADLINE, || {
            over_deadline(|| {
                let error = channel.call(ECHO, "x", TIMEOUT).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
            })
        });
        keep(&format!("stream, {way} busy"), OVER_DEADLINE, || {
            let timeouts = StreamTimeouts::from(LONG).queue(TIMEOUT);
            over_deadline(|| {
                let mut stream = channel.stream(ECHO, "x", timeouts).unwrap();
                let error = stream.next_chunk().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
            })
        });
        assert_eq!(channel.health().state, WorkerState::Busy);
    });
}
