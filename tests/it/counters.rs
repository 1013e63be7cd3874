//! What a channel counts of its requests.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::common::*;
use slipring::{Channel, Config, ErrorKind, LatencyHistogram, Stats, WaitStrategy};

conformance! {
    everywhere: [
        each_counter_counts_what_threads_do,
        counters_only_grow_and_agree_while_threads_use_the_channel,
        a_call_that_slept_is_measured_and_others_are_sampled,
        a_stream_is_measured_once_at_its_first_chunk,
    ],
    one_at_a_time: [
        // It knows that the late reply has come when a later request is answered.
        a_cancelled_request_is_counted_once_when_its_late_reply_comes,
    ],
    processes: [],
}

const SOON: Duration = Duration::from_millis(20);
const MILLISECOND: Duration = Duration::from_millis(1);
/// Longer than a frame of [`config`].
const IN_PIECES: usize = 20_000;

fn config() -> Config {
    tiny(16 << 10).build().unwrap()
}

/// Numbers of a channel, by which they grew.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
struct Counted {
    requests: u64,
    completed: u64,
    streams: u64,
    chunks: u64,
    sent: u64,
    received: u64,
    cancels: u64,
    first_chunks: u64,
    /// The one kind of which there was one error.
    error: Option<ErrorKind>,
}

fn counted(before: &Stats, after: &Stats) -> Counted {
    let mut errors = after.errors.iter().filter(|(kind, n)| *n != before.errors.get(*kind));
    let error = errors.next().map(|(kind, _)| kind);
    assert_eq!(after.errors.total() - before.errors.total(), u64::from(error.is_some()));
    Counted {
        requests: after.requests - before.requests,
        completed: after.completed - before.completed,
        streams: after.streams - before.streams,
        chunks: after.chunks - before.chunks,
        sent: after.bytes_sent - before.bytes_sent,
        received: after.bytes_received - before.bytes_received,
        cancels: after.cancels - before.cancels,
        first_chunks: after.first_chunk_latency.count() - before.first_chunk_latency.count(),
        error,
    }
}

/// A call of which so many bytes were sent and received.
fn completed(sent: usize, received: usize) -> Counted {
    let (sent, received) = (sent as u64, received as u64);
    Counted { requests: 1, completed: 1, sent, received, ..Counted::default() }
}

/// A stream that was read to its end.
fn streamed(sent: usize, chunks: u64, len: usize) -> Counted {
    let received = chunks as usize * len;
    Counted { streams: 1, chunks, first_chunks: 1, ..completed(sent, received) }
}

/// A request that ended with an error, after so many bytes were sent.
fn failed(error: ErrorKind, sent: u64) -> Counted {
    Counted { requests: 1, sent, error: Some(error), ..Counted::default() }
}

/// An operation that was refused before it began a request.
fn refused_with(error: ErrorKind) -> Counted {
    Counted { error: Some(error), ..Counted::default() }
}

/// A request that was cancelled, after so many bytes were sent.
fn cancelled(sent: u64) -> Counted {
    Counted { requests: 1, sent, cancels: 1, ..Counted::default() }
}

/// What is done to a channel.
enum Act {
    Call,
    CallInPieces,
    Submit,
    TryWait,
    WaitTimeout,
    Write,
    Stream,
    StreamInPieces,
    Fail,
    TimeOut,
    Stall,
    Cancel,
    CancelAndDrop,
    Drop,
    DropStream,
    DropWriter,
    TooLong,
    TooLongWriter,
    StreamAnyhow,
    NotARequest,
}

/// What each act adds to the counters.
fn table() -> Vec<(Act, Counted)> {
    let protocol = failed(ErrorKind::Protocol, 0);
    vec![
        (Act::Call, completed(100, 100)),
        (Act::CallInPieces, completed(IN_PIECES, IN_PIECES)),
        (Act::Submit, completed(9, 9)),
        (Act::TryWait, completed(9, 9)),
        (Act::WaitTimeout, completed(9, 9)),
        (Act::Write, completed(IN_PIECES, IN_PIECES)),
        (Act::Stream, streamed(16, 50, 30)),
        (Act::StreamInPieces, streamed(16, 3, IN_PIECES)),
        (Act::Fail, failed(ErrorKind::HandlerFailed, 4)),
        (Act::TimeOut, Counted { cancels: 1, ..failed(ErrorKind::Timeout, 5) }),
        (Act::Stall, Counted { cancels: 1, streams: 1, ..failed(ErrorKind::Stalled, 5) }),
        (Act::Cancel, Counted { cancels: 1, ..failed(ErrorKind::Cancelled, 5) }),
        (Act::CancelAndDrop, cancelled(5)),
        (Act::Drop, cancelled(5)),
        (Act::DropStream, Counted { streams: 1, ..cancelled(5) }),
        (Act::DropWriter, Counted { requests: 1, ..Counted::default() }),
        (Act::TooLong, refused_with(ErrorKind::TooLarge)),
        (Act::TooLongWriter, Counted { requests: 1, ..refused_with(ErrorKind::TooLarge) }),
        (Act::StreamAnyhow, Counted { chunks: 1, received: 7, ..protocol }),
        (Act::NotARequest, refused_with(ErrorKind::InvalidInput)),
    ]
}

/// Does it by threads.
fn act(channel: &Channel, act: &Act) {
    let long = pattern(1, IN_PIECES);
    let too_long = vec![0; channel.config().max_message() + 1];
    let submit = || channel.submit(UNTIL_CANCELLED, b"12345", LONG).unwrap();
    match act {
        Act::Call => drop(channel.call(ECHO, &[7; 100], LONG).unwrap()),
        Act::CallInPieces => drop(channel.call(ECHO, &long, LONG).unwrap()),
        Act::Submit => drop(channel.submit(ECHO, b"123456789", LONG).unwrap().wait().unwrap()),
        Act::TryWait => {
            let mut pending = channel.submit(ECHO, b"123456789", LONG).unwrap();
            eventually("it is there", || pending.try_wait().unwrap().is_some());
        }
        Act::WaitTimeout => {
            let mut pending = channel.submit(ECHO, b"123456789", LONG).unwrap();
            pending.wait_timeout(LONG).unwrap().unwrap();
        }
        Act::Write => {
            let mut writer = channel.write(ECHO, LONG).unwrap();
            writer.push(&long).unwrap();
            drop(writer.finish().unwrap().wait().unwrap());
        }
        Act::Stream => {
            assert_eq!(channel.stream(COUNT, &encode(&[50, 30]), LONG).unwrap().count(), 50);
        }
        Act::StreamInPieces => {
            let request = encode(&[3, IN_PIECES as u64]);
            assert_eq!(channel.stream(COUNT, &request, LONG).unwrap().count(), 3);
        }
        Act::Fail => drop(channel.call(FAIL, b"text", LONG).unwrap_err()),
        Act::TimeOut => drop(channel.call(UNTIL_CANCELLED, b"12345", SOON).unwrap_err()),
        Act::Stall => {
            let mut stream = channel.stream(UNTIL_CANCELLED, b"12345", SOON).unwrap();
            stream.next_chunk().unwrap_err();
        }
        Act::Cancel => {
            let pending = submit();
            pending.cancel();
            pending.wait().unwrap_err();
        }
        Act::CancelAndDrop => {
            let pending = submit();
            until_served(channel, &pending);
            pending.cancel();
            pending.cancel();
            drop(pending);
        }
        Act::Drop => drop(submit()),
        Act::DropStream => drop(channel.stream(UNTIL_CANCELLED, b"12345", LONG).unwrap()),
        Act::DropWriter => drop(channel.write(ECHO, LONG).unwrap()),
        Act::TooLong => drop(channel.call(ECHO, &too_long, LONG).unwrap_err()),
        Act::TooLongWriter => {
            channel.write(ECHO, LONG).unwrap().push(&too_long).unwrap_err();
        }
        Act::StreamAnyhow => drop(channel.call(STREAM_ANYHOW, b"", LONG).unwrap_err()),
        Act::NotARequest => {
            let kind = slipring::Kind::RESULT;
            drop(channel.submit(kind, b"", LONG).unwrap_err());
        }
    }
}

/// Waits until nothing of the acts before is on its way.
fn settle(channel: &Channel) {
    channel.call(ECHO, b"", LONG).unwrap();
    assert_eq!(channel.in_flight(), 0);
}

#[track_caller]
fn check(row: usize, wanted: Counted, before: &Stats, after: &Stats) {
    // The call of `settle` is counted, too. It has no bytes.
    let found = counted(before, after);
    let wanted =
        Counted { requests: wanted.requests + 1, completed: wanted.completed + 1, ..wanted };
    let wanted = match wanted.error {
        // The text of the failure is the worker's.
        Some(ErrorKind::HandlerFailed) if found.received > 0 => {
            Counted { received: found.received, ..wanted }
        }
        // The worker is told to cancel what it has not ended yet.
        Some(ErrorKind::Protocol) => Counted { cancels: found.cancels.min(1), ..wanted },
        _ => wanted,
    };
    assert_eq!(found, wanted, "row {row}");
}

fn each_counter_counts_what_threads_do(backend: Backend) {
    let channel = backend.ready(config());
    assert_eq!(channel.stats().requests, 1, "that of `ready`");
    for (row, (each, wanted)) in table().into_iter().enumerate() {
        let before = channel.stats();
        act(&channel, &each);
        settle(&channel);
        check(row, wanted, &before, &channel.stats());
    }
    channel.close(LONG).unwrap();
    let before = channel.stats();
    channel.call(ECHO, b"", LONG).unwrap_err();
    assert_eq!(counted(&before, &channel.stats()), refused_with(ErrorKind::Closed));
}

fn a_cancelled_request_is_counted_once_when_its_late_reply_comes(backend: Backend) {
    let channel = backend.ready(config());
    let before = channel.stats();
    assert!(channel.call(UNTIL_ABORTED, b"12345678", SOON).unwrap_err().is_timeout());
    let at_once = channel.stats();
    let wanted = Counted { cancels: 1, ..failed(ErrorKind::Timeout, 8) };
    assert_eq!(counted(&before, &at_once), wanted);
    settle(&channel);
    let after = channel.stats();
    assert_eq!(after.late_frames, 1);
    assert_eq!(counted(&at_once, &after), completed(0, 0), "that of `settle` alone");
}

#[test]
fn a_death_is_counted_for_each_call_that_it_ends() {
    let channel = Backend::Memfd.ready(config());
    let before = channel.stats();
    let dying = channel.submit(EXIT, &[3], LONG).unwrap();
    let mut waiting = channel.submit(ECHO, b"123", LONG).unwrap();
    assert!(dying.wait().unwrap_err().is_peer_dead());
    assert!(waiting.wait_timeout(LONG).unwrap_err().is_peer_dead());
    assert!(waiting.try_wait().unwrap_err().is_peer_dead());
    assert!(channel.write(ECHO, LONG).unwrap_err().is_peer_dead());
    let after = channel.stats();
    assert_eq!((after.errors.get(ErrorKind::PeerDied), after.errors.total()), (4, 4));
    assert_eq!((after.requests - before.requests, after.completed), (2, before.completed));
}

/// The numbers that never shrink.
fn growing(stats: &Stats) -> Vec<u64> {
    let mut all = vec![
        stats.requests,
        stats.completed,
        stats.streams,
        stats.chunks,
        stats.bytes_sent,
        stats.bytes_received,
        stats.cancels,
        stats.late_frames,
        stats.errors.total(),
    ];
    all.extend(stats.call_latency.cumulative().map(|(_, count)| count));
    all.extend(stats.first_chunk_latency.cumulative().map(|(_, count)| count));
    all
}

fn counters_only_grow_and_agree_while_threads_use_the_channel(backend: Backend) {
    let channel = backend.ready(config());
    let (done, failed, over) = (AtomicU64::new(1), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let users: Vec<_> = (0..4_u64)
            .map(|user| {
                let (channel, done, failed) = (&channel, &done, &failed);
                scope.spawn(move || {
                    for i in 0..150_u64 {
                        let timeout = Duration::from_micros(20 + 40 * (i % 10));
                        let is_done = match (user + i) % 3 {
                            0 => channel.call(ECHO, &[1; 10], timeout).is_ok(),
                            1 => channel.call(ECHO, &[1; 200], LONG).is_ok(),
                            _ => {
                                let request = encode(&[5, 10]);
                                let stream = channel.stream(COUNT, &request, timeout).unwrap();
                                stream.filter(|chunk| chunk.is_err()).count() == 0
                            }
                        };
                        let counter = if is_done { done } else { failed };
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let watcher = scope.spawn(|| {
            let mut last = growing(&channel.stats());
            while !over.load(Ordering::Relaxed) {
                let stats = channel.stats();
                assert!(stats.completed + stats.in_flight <= stats.requests, "{stats:?}");
                let now = growing(&stats);
                assert!(now.iter().zip(&last).all(|(now, last)| now >= last), "{stats:?}");
                last = now;
            }
        });
        users.into_iter().for_each(|user| user.join().unwrap());
        over.store(true, Ordering::Relaxed);
        watcher.join().unwrap();
    });
    let (stats, done, failed) = (channel.stats(), done.into_inner(), failed.into_inner());
    assert_eq!((stats.requests, stats.in_flight), (1 + 600, 0));
    assert_eq!((done + failed, stats.errors.total()), (1 + 600, failed));
    // An answer can come in the moment in which its owner drops it.
    assert!(stats.completed >= done && stats.completed <= stats.requests, "{stats:?}");
}

fn a_call_that_slept_is_measured_and_others_are_sampled(backend: Backend) {
    let config = config().to_builder().wait_strategy(WaitStrategy::Park).build().unwrap();
    let channel = backend.ready(config);
    let count = || channel.stats().call_latency.count();
    let (before, sum) = (count(), channel.stats().call_latency.sum());
    for _ in 0..5 {
        let parks = channel.stats().parks;
        let pending = channel.submit(UNTIL_ABORTED, b"", LONG).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| pending.wait().unwrap());
            eventually("it sleeps", || channel.stats().parks > parks);
            std::thread::sleep(5 * MILLISECOND);
            channel.abort();
        });
        channel.clear_abort();
    }
    assert_eq!(count() - before, 5);
    let took = channel.stats().call_latency.sum() - sum;
    assert!(took >= 25 * MILLISECOND && took < LONG, "{took:?}");

    let before = count();
    for round in 1..=40_u64 {
        let pending: Vec<_> =
            (0..32).map(|_| channel.submit(ECHO, &[7; 8], LONG).unwrap()).collect();
        eventually("all are served", || channel.health().requests_served >= 6 + 32 * round);
        // The worker notes a request as served when its reply is on its way.
        std::thread::sleep(MILLISECOND);
        for pending in pending {
            pending.wait().unwrap();
        }
    }
    // Some may have slept, if this thread was faster than the worker.
    let measured = count() - before;
    assert!((960..1600).contains(&measured), "{measured} for 1280 calls");
    let times = channel.stats().call_latency;
    let bounds = times.cumulative().filter_map(|(bound, _)| bound);
    assert_eq!(bounds.count(), LatencyHistogram::BUCKETS - 1);
    assert_eq!(times.cumulative().last(), Some((None, times.count())));
}

fn a_stream_is_measured_once_at_its_first_chunk(backend: Backend) {
    let channel = backend.ready(config());
    let mut stream = channel.stream(TRICKLE, &encode(&[5000, 3, 10]), LONG).unwrap();
    assert_eq!(channel.stats().first_chunk_latency.count(), 0);
    stream.next_chunk().unwrap().unwrap();
    let first = channel.stats().first_chunk_latency;
    assert_eq!(first.count(), 1);
    assert_eq!(stream.count(), 2);
    assert_eq!(channel.stats().first_chunk_latency, first);
    // A stream without a chunk has no time to its first one.
    assert_eq!(channel.stream(COUNT, &encode(&[0, 10]), LONG).unwrap().count(), 0);
    assert_eq!(channel.stats().first_chunk_latency, first);
}

#[cfg(feature = "tokio")]
mod tasks {
    use slipring::tasks::{AsyncChannel, AsyncPending, AsyncStream};

    use super::*;
    use crate::executors::on_each;

    async fn rest_of(mut stream: AsyncStream) -> usize {
        let mut count = 0;
        while stream.next_chunk().await.unwrap().is_some() {
            count += 1;
        }
        count
    }

    async fn submit(channel: &AsyncChannel) -> AsyncPending {
        channel.submit(UNTIL_CANCELLED, b"12345", LONG).await.unwrap()
    }

    /// Does it by tasks.
    async fn act(channel: &AsyncChannel, act: &Act) {
        let long = pattern(1, IN_PIECES);
        let too_long = vec![0; channel.blocking().config().max_message() + 1];
        match act {
            Act::Call => drop(channel.call(ECHO, &[7; 100], LONG).await.unwrap()),
            Act::CallInPieces => drop(channel.call(ECHO, &long, LONG).await.unwrap()),
            Act::Submit | Act::TryWait | Act::WaitTimeout => {
                drop(channel.submit(ECHO, b"123456789", LONG).await.unwrap().await.unwrap());
            }
            Act::Write => {
                let mut writer = channel.write(ECHO, LONG).await.unwrap();
                writer.push(&long).await.unwrap();
                drop(writer.finish().await.unwrap().await.unwrap());
            }
            Act::Stream => {
                let stream = channel.stream(COUNT, &encode(&[50, 30]), LONG).await.unwrap();
                assert_eq!(rest_of(stream).await, 50);
            }
            Act::StreamInPieces => {
                let request = encode(&[3, IN_PIECES as u64]);
                let stream = channel.stream(COUNT, &request, LONG).await.unwrap();
                assert_eq!(rest_of(stream).await, 3);
            }
            Act::Fail => drop(channel.call(FAIL, b"text", LONG).await.unwrap_err()),
            Act::TimeOut => {
                drop(channel.call(UNTIL_CANCELLED, b"12345", SOON).await.unwrap_err());
            }
            Act::Stall => {
                let stream = channel.stream(UNTIL_CANCELLED, b"12345", SOON);
                stream.await.unwrap().next_chunk().await.unwrap_err();
            }
            Act::Cancel => {
                let pending = submit(channel).await;
                pending.cancel();
                pending.await.unwrap_err();
            }
            Act::CancelAndDrop => {
                let pending = submit(channel).await;
                let id = pending.id();
                eventually("it is served", || {
                    channel.blocking().health().current_request == Some(id)
                });
                pending.cancel();
                pending.cancel();
                drop(pending);
            }
            Act::Drop => drop(submit(channel).await),
            Act::DropStream => {
                drop(channel.stream(UNTIL_CANCELLED, b"12345", LONG).await.unwrap());
            }
            Act::DropWriter => drop(channel.write(ECHO, LONG).await.unwrap()),
            Act::TooLong => drop(channel.call(ECHO, &too_long, LONG).await.unwrap_err()),
            Act::TooLongWriter => {
                let mut writer = channel.write(ECHO, LONG).await.unwrap();
                writer.push(&too_long).await.unwrap_err();
            }
            Act::StreamAnyhow => drop(channel.call(STREAM_ANYHOW, b"", LONG).await.unwrap_err()),
            Act::NotARequest => {
                drop(channel.submit(slipring::Kind::RESULT, b"", LONG).await.unwrap_err());
            }
        }
    }

    #[test]
    fn each_counter_counts_what_tasks_do() {
        let spawner = || spawner().config(config());
        on_each(spawner, |channel| async move {
            for (row, (each, wanted)) in table().into_iter().enumerate() {
                let before = channel.blocking().stats();
                act(&channel, &each).await;
                channel.call(ECHO, b"", LONG).await.unwrap();
                check(row, wanted, &before, &channel.blocking().stats());
            }
            channel.close(LONG).await.unwrap();
            let before = channel.blocking().stats();
            channel.call(ECHO, b"", LONG).await.unwrap_err();
            let after = channel.blocking().stats();
            assert_eq!(counted(&before, &after), refused_with(ErrorKind::Closed));
        });
    }

    #[test]
    fn a_death_is_counted_for_each_call_of_a_task() {
        on_each(spawner, |channel| async move {
            assert!(channel.call(EXIT, &[3], LONG).await.unwrap_err().is_peer_dead());
            assert!(channel.write(ECHO, LONG).await.unwrap_err().is_peer_dead());
            let errors = channel.blocking().stats().errors;
            assert_eq!((errors.get(ErrorKind::PeerDied), errors.total()), (2, 2));
        });
    }

    #[test]
    fn every_call_of_a_task_is_measured() {
        on_each(spawner, |channel| async move {
            for calls in 1..=200 {
                channel.call(ECHO, b"", LONG).await.unwrap();
                assert_eq!(channel.blocking().stats().call_latency.count(), calls);
            }
        });
    }
}
