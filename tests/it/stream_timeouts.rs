//! The timeouts of streams: which of them passes, and what the worker is told.

use std::sync::mpsc;
use std::time::Duration;

use crate::common::*;
use slipring::tasks::AsyncChannel;
use slipring::worker::Worker;
use slipring::{
    Channel, Config, Error, Kind, RoleConfig, StreamTimeout, StreamTimeouts, WorkerState, testing,
};

/// Replies with chunks without end, with such a pause in milliseconds before the first and before
/// each further one.
const TICK: Kind = Kind::named("tick");
/// Streams the milliseconds that are left.
const LEFT: Kind = Kind::named("left");

const SHORT: Duration = Duration::from_millis(40);
/// A pause in milliseconds that no test waits for.
const NEVER: u64 = 1 << 30;

fn channel() -> Channel {
    let make = || {
        Worker::new(|_| Ok(()))
            .on(TICK, |(), request, responder| {
                let [mut pause, further] = numbers(&request.to_vec())[..] else { panic!("two") };
                let mut chunks = responder.stream();
                loop {
                    for _ in 0..pause {
                        request.check_cancelled()?;
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    chunks.send("tick")?;
                    pause = further;
                }
            })
            .on(LEFT, |(), request, responder| {
                let left = u64::try_from(request.time_left().as_millis()).unwrap_or(u64::MAX);
                let mut chunks = responder.stream();
                chunks.send(&encode(&[left]))?;
                Ok(chunks.end()?)
            })
    };
    testing::spawn_thread(&Config::small(), RoleConfig::default(), make).unwrap()
}

/// The error that ends a stream of [`TICK`].
fn end_of(channel: &Channel, pauses: [u64; 2], timeouts: StreamTimeouts) -> Error {
    let mut stream = channel.stream(TICK, &encode(&pauses), timeouts).unwrap();
    let error = within_long("the stream", || stream.find_map(Result::err)).unwrap();
    assert!(stream.next_chunk().unwrap().is_none(), "it is over");
    // The stream is still there: the worker was told without its drop.
    eventually("the worker is told", || channel.health().state == WorkerState::Idle);
    error
}

async fn end_of_task(channel: &AsyncChannel, pauses: [u64; 2], timeouts: StreamTimeouts) -> Error {
    let mut stream = channel.stream(TICK, &encode(&pauses), timeouts).await.unwrap();
    loop {
        match stream.next_chunk().await {
            Ok(chunk) => assert!(chunk.is_some(), "it has no end"),
            Err(error) => break error,
        }
    }
}

/// What passes, with the pauses of the worker.
fn cases() -> [(StreamTimeout, [u64; 2], StreamTimeouts); 6] {
    let long = StreamTimeouts::new().chunk(LONG).queue(LONG);
    [
        (StreamTimeout::FirstChunk, [NEVER, 0], long.first_chunk(SHORT)),
        (StreamTimeout::FirstChunk, [NEVER, 0], long.chunk(SHORT)),
        (StreamTimeout::Chunk, [0, NEVER], long.chunk(SHORT).first_chunk(LONG)),
        // The first chunk may take longer than the others, and comes.
        (StreamTimeout::Chunk, [200, NEVER], long.chunk(SHORT).first_chunk(LONG)),
        (StreamTimeout::Total, [0, NEVER], long.total(SHORT)),
        // Chunks come all the time.
        (StreamTimeout::Total, [0, 0], long.total(SHORT)),
    ]
}

fn assert_is(error: &Error, which: StreamTimeout) {
    assert_eq!(error.stream_timeout(), Some(which), "{error}");
    let is_stall = matches!(which, StreamTimeout::FirstChunk | StreamTimeout::Chunk);
    assert_eq!((error.is_stalled(), error.is_timeout()), (is_stall, !is_stall), "{error}");
    assert!(!error.is_fatal(), "{error}");
}

#[test]
fn the_error_of_a_stream_says_which_of_its_timeouts_has_passed() {
    let channel = channel();
    for (which, pauses, timeouts) in cases() {
        // A worker of a busy machine may not begin it in time.
        eventually("the error says that it was begun", || {
            let error = end_of(&channel, pauses, timeouts);
            assert_is(&error, which);
            error.was_begun() == Some(true)
        });
    }
    assert_eq!(channel.in_flight(), 0);
    let channel = AsyncChannel::new(channel).unwrap();
    for (which, pauses, timeouts) in cases() {
        assert_is(&pollster::block_on(end_of_task(&channel, pauses, timeouts)), which);
    }
}

#[test]
fn a_stream_that_is_not_begun_says_whether_queue_or_total_has_passed() {
    let channel = channel();
    let busy = channel.stream(TICK, &encode(&[NEVER, 0]), LONG).unwrap();
    eventually("it is begun", || channel.health().current_request == Some(busy.id()));
    let long = StreamTimeouts::new().chunk(LONG).queue(LONG);
    let cases =
        [(StreamTimeout::Queue, long.queue(SHORT)), (StreamTimeout::Total, long.total(SHORT))];
    for (which, timeouts) in cases {
        let mut stream = channel.stream(LEFT, "", timeouts).unwrap();
        let error = within_long("the stream", || stream.next_chunk()).unwrap_err();
        assert_is(&error, which);
        assert_eq!((error.was_begun(), error.stage()), (None, None), "{error}");
        let text = error.to_string();
        let told = format!("busy with the stream of request {}", busy.id());
        assert!(text.contains("not been taken out of the request ring"), "{text}");
        assert!(text.contains(&told), "{text}");
    }
    let channel = AsyncChannel::new(channel).unwrap();
    for (which, timeouts) in cases {
        let error = pollster::block_on(async {
            channel.stream(LEFT, "", timeouts).await?.next_chunk().await.map(drop)
        });
        assert_is(&error.unwrap_err(), which);
    }
    drop(busy);
}

#[test]
fn a_stream_that_finds_no_room_says_which_of_its_timeouts_has_passed() {
    let config = tiny(4 << 10).build().unwrap();
    let (stay, stays) = mpsc::channel::<()>();
    let make = move || {
        Worker::new(|_| Ok(())).fallback(move |(), _, responder| {
            let _ = stays.recv();
            Ok(responder.send("")?)
        })
    };
    let channel = testing::spawn_thread(&config, RoleConfig::default(), make).unwrap();
    let mut held = Vec::new();
    let full = loop {
        match channel.submit(TICK, &[0; 900], SHORT) {
            Ok(pending) => held.push(pending),
            Err(error) => break error,
        }
    };
    assert_eq!(full.stream_timeout(), None);
    let long = StreamTimeouts::new().queue(LONG);
    for (which, timeouts) in
        [(StreamTimeout::Queue, long.queue(SHORT)), (StreamTimeout::Total, long.total(SHORT))]
    {
        let error = channel.stream(TICK, &[0; 900], timeouts).unwrap_err();
        assert_is(&error, which);
        assert_eq!(error.was_begun(), Some(false));
    }
    drop(stay);
}

#[test]
fn the_total_of_a_stream_is_the_deadline_of_its_request() {
    let channel = channel();
    let left = |timeouts: StreamTimeouts| {
        let mut stream = channel.stream(LEFT, "", timeouts).unwrap();
        let left = numbers(&stream.next_chunk().unwrap().unwrap().to_vec())[0];
        assert!(stream.next_chunk().unwrap().is_none());
        left
    };
    let long = u64::try_from(LONG.as_millis()).unwrap();
    assert!(left(StreamTimeouts::new()) > 1 << 40, "none is set");
    let left = left(StreamTimeouts::new().total(LONG));
    assert!(left <= long && left > long / 2, "{left} ms");
}

#[test]
fn a_stream_whose_total_passes_in_the_queue_is_never_begun() {
    let channel = channel();
    let busy = channel.stream(TICK, &encode(&[NEVER, 0]), LONG).unwrap();
    eventually("it is begun", || channel.health().current_request == Some(busy.id()));
    let served = channel.health().requests_served;
    let timeouts = StreamTimeouts::new().total(SHORT);
    let mut stream = channel.stream(TICK, &encode(&[NEVER, 0]), timeouts).unwrap();
    std::thread::sleep(SHORT * 2);
    drop(busy);
    // It is not read and not cancelled. The worker itself finds that it is late.
    eventually("both are over", || channel.health().requests_served == served + 2);
    assert_is(&stream.next_chunk().unwrap_err(), StreamTimeout::Total);
}

#[test]
fn of_a_streams_timeouts_only_the_total_counts_for_a_look() {
    let channel = channel();
    let timeouts = StreamTimeouts::new().queue(SHORT).chunk(SHORT);
    let start = |total| channel.stream(TICK, &encode(&[NEVER, 0]), timeouts.total(total)).unwrap();
    assert!(start(LONG).next_chunk_timeout(SHORT * 2).unwrap().is_pending());
    let mut stream = start(SHORT * 4);
    let error = within_long("a look", || stream.next_chunk_timeout(LONG));
    // The wait ends with the total, and the next look says so.
    let error = error.and_then(|_| stream.try_next_chunk()).unwrap_err();
    assert_is(&error, StreamTimeout::Total);
}
