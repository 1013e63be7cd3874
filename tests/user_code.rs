//! Encoders and wakers of the host that block: another caller's deadline, a close and a death are
//! still reported in time. The code blocks until the others have been told, so that a wait on it
//! would never end.
//!
//! These tests have a binary of their own because the code blocks threads that all channels of a
//! process share.

mod common;
#[cfg(feature = "tokio")]
mod executors;
worker_entry!();

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel as pipe};
use std::time::Duration;

use common::*;
use slipring::payload::Payload;
use slipring::{Channel, Config, ErrorKind, StreamTimeouts};

/// A timeout that passes only if nothing ends the wait.
const SHORT: Duration = Duration::from_millis(100);

/// A payload whose encoding tells that it has begun, and waits until it may go on.
struct Slow {
    begun: Mutex<Sender<()>>,
    go_on: Mutex<Receiver<()>>,
}

impl Slow {
    /// Returns the payload, the receiver that tells that its encoding runs, and the sender that
    /// lets it go on.
    fn new() -> (Self, Receiver<()>, Sender<()>) {
        let (begun, has_begun) = pipe();
        let (let_go_on, go_on) = pipe();
        (Self { begun: Mutex::new(begun), go_on: Mutex::new(go_on) }, has_begun, let_go_on)
    }
}

impl Payload for Slow {
    fn encoded_len(&self) -> usize {
        8
    }

    fn encode(&self, out: &mut [u8]) -> slipring::Result<()> {
        self.begun.lock().unwrap().send(()).unwrap();
        // An error means that the test has already failed.
        let _ = self.go_on.lock().unwrap().recv();
        out.fill(7);
        Ok(())
    }
}

/// Runs `meanwhile` while another thread's payload is being encoded for `channel`.
fn while_encoding(channel: &Channel, meanwhile: impl FnOnce() + Send) {
    within_long("other waits beside an encoder", || {
        let (slow, has_begun, go_on) = Slow::new();
        std::thread::scope(|scope| {
            let sender = scope.spawn(move || channel.call(ECHO, &slow, LONG).map(|r| r.to_vec()));
            has_begun.recv().unwrap();
            meanwhile();
            drop(go_on);
            match sender.join().unwrap() {
                Ok(echoed) => assert_eq!(echoed, [7; 8]),
                Err(error) => assert!(error.is_fatal(), "{error}"),
            }
        });
    });
}

#[test]
fn calls_and_counters_go_on_while_an_encoder_runs() {
    let channel = spawn(Config::small());
    while_encoding(&channel, || {
        assert_usable(&channel);
        let late = channel.call(FOR_EVER, b"", SHORT).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Timeout, "{late}");
        assert_eq!(channel.stats().late_frames, 0);
        channel.ping(LONG).unwrap();
        channel.close(SHORT).unwrap();
    });
}

#[test]
fn a_close_ends_waits_while_an_encoder_runs() {
    let channel = spawn(Config::small());
    let pending = channel.submit(FOR_EVER, b"", Duration::MAX).unwrap();
    while_encoding(&channel, || {
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| pending.wait().unwrap_err());
            let sender = scope.spawn(|| channel.call(ECHO, b"", Duration::MAX).unwrap_err());
            // Most likely both wait now. If not, they get the same error when they begin to.
            std::thread::sleep(Duration::from_millis(20));
            channel.close(SHORT).unwrap();
            assert_eq!(waiter.join().unwrap().kind(), ErrorKind::Closed);
            assert_eq!(sender.join().unwrap().kind(), ErrorKind::Closed);
        });
    });
}

#[test]
fn deaths_and_spawns_of_others_are_told_while_an_encoder_runs() {
    let (one, other) = (spawn(tiny(4 << 10).build().unwrap()), spawn(Config::small()));
    let pending = other.submit(FOR_EVER, b"", Duration::MAX).unwrap();
    let stuck = one.submit(FOR_EVER, b"", LONG).unwrap();
    eventually("it runs", || one.health().current_request == Some(stuck.id()));
    let _sent: Vec<_> =
        std::iter::from_fn(|| one.submit(ECHO, &[7; 900], Duration::ZERO).ok()).collect();
    std::thread::scope(|scope| {
        // One thread reads the ring, and another waits for room, of which the reader tells it.
        let reader = scope.spawn(|| stuck.wait().unwrap_err());
        std::thread::sleep(Duration::from_millis(20));
        let sender = scope.spawn(|| one.call(ECHO, &[7; 900], LONG).unwrap_err());
        std::thread::sleep(Duration::from_millis(20));
        while_encoding(&one, || {
            // A reader looks at the ring again every second.
            std::thread::sleep(Duration::from_millis(1200));
            send_signal(one.pid(), libc::SIGKILL);
            eventually("the encoder's own channel is over", || !one.is_alive());
            send_signal(other.pid(), libc::SIGKILL);
            assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::PeerDied);
            assert_usable(&spawn(Config::small()));
        });
        assert_eq!(reader.join().unwrap().kind(), ErrorKind::PeerDied);
        assert_eq!(sender.join().unwrap().kind(), ErrorKind::PeerDied);
    });
}

/// A payload whose encoding uses the channel that it is encoded for.
struct Nested<'a>(&'a Channel);

impl Payload for Nested<'_> {
    fn encoded_len(&self) -> usize {
        8
    }

    fn encode(&self, out: &mut [u8]) -> slipring::Result<()> {
        let before = self.0.stats().spins;
        let reply = self.0.call(ECHO, &before.to_le_bytes(), LONG)?;
        out.copy_from_slice(&reply.to_vec());
        Ok(())
    }
}

#[test]
fn an_encoder_may_use_the_channel_that_it_encodes_for() {
    let channel = spawn(Config::small());
    within_long("a call inside a call", || {
        let reply = channel.call(ECHO, &Nested(&channel), LONG).unwrap();
        assert_eq!(reply.len(), 8);
    });
}

/// A text that is returned only when the test lets it go on.
struct SlowText<'a>(&'a Slow);

impl AsRef<str> for SlowText<'_> {
    fn as_ref(&self) -> &str {
        let _ = self.0.begun.lock().unwrap().send(());
        let _ = self.0.go_on.lock().unwrap().recv();
        "text"
    }
}

#[test]
fn a_text_that_takes_long_to_be_had_holds_up_only_its_own_call() {
    let channel = spawn(Config::small());
    within_long("other calls beside a slow text", || {
        let (slow, has_begun, go_on) = Slow::new();
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let texts = [SlowText(&slow)];
                // Its length is asked for first.
                let batch = slipring::payload::TextBatch::new(&texts).unwrap();
                channel.call(ECHO, &batch, LONG).map(drop)
            });
            has_begun.recv().unwrap();
            go_on.send(()).unwrap();
            has_begun.recv().unwrap();
            assert_usable(&channel);
            drop(go_on);
            sender.join().unwrap().unwrap();
        });
    });
}

/// Runs `end` while one thread holds the turn of long messages and another waits for it without a
/// timeout. Returns the error of the waiting thread.
fn while_waiting_for_the_turn(channel: &Channel, end: impl FnOnce() + Send) -> ErrorKind {
    within_long("waiting for the turn of long messages", || {
        let writer = channel.write(SUM, LONG).unwrap();
        let long = vec![1; channel.config().max_request_frame() + 1];
        std::thread::scope(|scope| {
            let (asks, asked) = pipe();
            let waiter = scope.spawn(move || {
                asks.send(()).unwrap();
                channel.call(SUM, &long[..], Duration::MAX).map(drop).unwrap_err()
            });
            asked.recv().unwrap();
            // Most likely it waits now. If not, it gets the same error when it begins to.
            std::thread::sleep(Duration::from_millis(20));
            end();
            let kind = waiter.join().unwrap().kind();
            drop(writer);
            kind
        })
    })
}

#[test]
fn a_close_ends_the_wait_for_the_turn_of_long_messages() {
    let channel = spawn(Config::small());
    let kind = while_waiting_for_the_turn(&channel, || {
        channel.close(SHORT).unwrap();
    });
    assert_eq!(kind, ErrorKind::Closed);
}

#[test]
fn a_death_ends_the_wait_for_the_turn_of_long_messages() {
    let channel = spawn(Config::small());
    let kind = while_waiting_for_the_turn(&channel, || {
        send_signal(channel.pid(), libc::SIGKILL);
    });
    assert_eq!(kind, ErrorKind::PeerDied);
}

#[test]
fn streams_that_wait_behind_others_do_not_stall() {
    let channel = spawn(Config::small());
    within_long("streams behind each other", || {
        std::thread::scope(|scope| {
            // Each stream lasts as long as the chunk timeout, and delivers a chunk in every sixth
            // of it.
            let gap = Duration::from_millis(300);
            let request = encode(&[50_000, 6, 8]);
            let streams: Vec<_> = (0..6)
                .map(|_| channel.stream(TRICKLE, &request, gap).unwrap())
                .map(|stream| scope.spawn(move || stream.map(Result::unwrap).collect::<Vec<_>>()))
                .collect();
            let counts: Vec<usize> = streams.into_iter().map(|s| s.join().unwrap().len()).collect();
            assert_eq!(counts, [6; 6]);
        });
    });
}

#[test]
fn a_stream_that_is_not_begun_in_time_ends_as_a_timeout() {
    let channel = spawn(Config::small());
    let busy = channel.submit(FOR_EVER, b"", LONG).unwrap();
    until_served(&channel, &busy);
    let timeouts = StreamTimeouts::new().chunk(LONG).queue(SHORT);
    let mut stream = channel.stream(COUNT, &encode(&[1, 1]), timeouts).unwrap();
    let error = stream.next_chunk().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains("did not begin"), "{error}");
    assert!(stream.next_chunk().unwrap().is_none(), "it is over");
}

#[test]
fn a_stopped_worker_stalls_a_stream_only_after_the_chunk_timeout() {
    let channel = spawn(Config::small());
    channel.wait_ready(LONG).unwrap();
    stop(channel.pid());
    let kind = |timeouts| {
        let mut stream = channel.stream(COUNT, &encode(&[1, 1]), timeouts).unwrap();
        within_long("the first chunk", || stream.next_chunk()).unwrap_err().kind()
    };
    assert_eq!(kind(StreamTimeouts::new().chunk(LONG).queue(SHORT)), ErrorKind::Timeout);
    assert_eq!(kind(StreamTimeouts::new().chunk(SHORT).queue(LONG)), ErrorKind::Stalled);
    #[cfg(feature = "tokio")]
    {
        let channel = spawner().pollable().spawn().unwrap();
        channel.wait_ready(LONG).unwrap();
        stop(channel.pid());
        let channel = slipring::tasks::AsyncChannel::new(channel).unwrap();
        let timeouts = StreamTimeouts::new().chunk(LONG).queue(SHORT);
        let error = pollster::block_on(async {
            channel.stream(COUNT, &encode(&[1, 1]), timeouts).await?.next_chunk().await
        });
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Timeout);
    }
}

#[test]
fn a_stream_behind_a_handler_that_goes_on_after_its_answer_does_not_stall() {
    let channel = spawn(Config::small());
    let answered = channel.call(ANSWER_AND_GO_ON, &encode(&[600]), LONG).unwrap();
    assert!(answered.is_empty());
    let stream = channel.stream(COUNT, &encode(&[2, 8]), SHORT).unwrap();
    assert_eq!(stream.map(Result::unwrap).collect::<Vec<_>>().len(), 2);
}

#[test]
fn a_stream_that_is_begun_and_silent_stalls() {
    let channel = spawn(Config::small());
    let timeouts = StreamTimeouts::new().chunk(SHORT).queue(Duration::MAX);
    let mut stream = channel.stream(FOR_EVER, b"", timeouts).unwrap();
    let error = stream.next_chunk().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stalled, "{error}");
}

#[cfg(feature = "tokio")]
mod tasks {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};

    use slipring::tasks::AsyncChannel;

    use super::executors::{Probe, current_thread, poll};
    use super::*;

    fn asynchronous() -> AsyncChannel {
        AsyncChannel::new(spawner().pollable().spawn().unwrap()).unwrap()
    }

    /// A waker that blocks when it is woken, until the test lets it go on.
    struct Stuck {
        woken: Mutex<Sender<()>>,
        go_on: Mutex<Receiver<()>>,
    }

    impl Wake for Stuck {
        fn wake(self: Arc<Self>) {
            let _ = self.woken.lock().unwrap().send(());
            let _ = self.go_on.lock().unwrap().recv();
        }
    }

    fn stuck() -> (Waker, Receiver<()>, Sender<()>) {
        let (woken, is_woken) = pipe();
        let (let_go_on, go_on) = pipe();
        let stuck = Stuck { woken: Mutex::new(woken), go_on: Mutex::new(go_on) };
        (Waker::from(Arc::new(stuck)), is_woken, let_go_on)
    }

    fn begin<T>(future: Pin<&mut impl Future<Output = T>>, waker: &Waker) {
        assert!(future.poll(&mut Context::from_waker(waker)).is_pending());
    }

    #[test]
    fn a_waker_that_blocks_does_not_hold_up_other_callers() {
        within_long("calls beside a waker that blocks", || {
            let channel = asynchronous();
            let (waker, is_woken, go_on) = stuck();
            let request = encode(&[20]);
            let mut call = pin!(channel.call(SLOW_ECHO, &request, LONG));
            begin(call.as_mut(), &waker);
            std::thread::scope(|scope| {
                // This thread reads the task's reply, and may run its waker.
                let reader = scope.spawn(|| channel.blocking().call(NAP, &encode(&[40_000]), LONG));
                is_woken.recv().unwrap();
                for _ in 0..50 {
                    assert_usable(channel.blocking());
                }
                let late = channel.blocking().call(SLOW_ECHO, &encode(&[300]), SHORT);
                assert_eq!(late.unwrap_err().kind(), ErrorKind::Timeout);
                drop(go_on);
                reader.join().unwrap().unwrap();
            });
            assert_eq!(pollster::block_on(call).unwrap().to_vec(), encode(&[20]));
        });
    }

    #[test]
    fn a_waker_that_blocks_does_not_hold_up_the_news_of_other_deaths() {
        within_long("deaths beside a waker that blocks", || {
            let other = spawn(Config::small());
            let pending = other.submit(FOR_EVER, b"", Duration::MAX).unwrap();
            let mut held = Vec::new();
            // A death is reported on two ways: one waker for each.
            for _ in 0..2 {
                let one = asynchronous();
                let (waker, is_woken, go_on) = stuck();
                let pid = one.blocking().pid();
                let mut call = Box::pin(async move { one.call(FOR_EVER, b"", LONG).await });
                begin(call.as_mut(), &waker);
                send_signal(pid, libc::SIGKILL);
                if held.is_empty() {
                    is_woken.recv().unwrap();
                }
                held.push((call, is_woken, go_on));
                std::thread::sleep(Duration::from_millis(50));
            }
            send_signal(other.pid(), libc::SIGKILL);
            assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::PeerDied);
            assert_usable(&spawn(Config::small()));
            for (call, _, go_on) in held {
                drop(go_on);
                assert_eq!(pollster::block_on(call).unwrap_err().kind(), ErrorKind::PeerDied);
            }
        });
    }

    #[test]
    fn a_task_elsewhere_does_not_wait_for_a_runtime_that_is_not_polled() {
        within_long("a call from another executor", || {
            let runtime = current_thread();
            let channel = runtime.block_on(AsyncChannel::spawn_on_tokio(spawner())).unwrap();
            // Long enough that the task waits; a second later it would look by itself. On a
            // busy machine anything may take that long now and then.
            let is_prompt = (0..5).any(|_| {
                let start = std::time::Instant::now();
                let request = encode(&[50]);
                let reply = pollster::block_on(channel.call(SLOW_ECHO, &request, LONG)).unwrap();
                assert_eq!(reply.to_vec(), request);
                start.elapsed() < Duration::from_millis(700)
            });
            assert!(is_prompt);
            // Tasks of the runtime itself are served as before.
            let reply = runtime.block_on(channel.call(SLOW_ECHO, &encode(&[20]), LONG)).unwrap();
            assert_eq!(reply.to_vec(), encode(&[20]));
        });
    }

    #[test]
    fn a_gap_counts_only_while_its_chunk_is_awaited() {
        let channel = asynchronous();
        let gap = Duration::from_millis(1_000);
        let request = encode(&[1_500_000, 3, 8]);
        let mut stream = pollster::block_on(channel.stream(TRICKLE, &request, gap)).unwrap();
        assert!(pollster::block_on(stream.next_chunk()).unwrap().is_some());
        let probe = Probe::new();
        let polled = poll(&probe, pin!(stream.next_chunk()));
        assert!(matches!(polled, Poll::Pending));
        // The next chunk comes 1.5 s after the first; only the rest of that is awaited.
        std::thread::sleep(Duration::from_millis(1_200));
        assert!(pollster::block_on(stream.next_chunk()).unwrap().is_some());
        // All of the next gap is.
        let error = pollster::block_on(stream.next_chunk()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stalled, "{error}");
    }
}
