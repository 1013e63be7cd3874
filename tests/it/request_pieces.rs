//! What ends the reading of a long request before its last piece, and what lies between its pieces.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use crate::common::*;
use slipring::worker::{Batches, HandlerError, RequestReader, Threads, Worker};
use slipring::{Channel, Config, DEFAULT_QUEUE_TIMEOUT, ErrorKind, Kind, RoleConfig};
use slipring::{StreamTimeout, StreamTimeouts, testing};

const READ: Kind = Kind::named("read");
const STEP: Kind = Kind::named("step");
const LOG: Kind = Kind::named("log");

/// What the handler of [`READ`] tells the test.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// It has taken the first piece.
    Begun,
    /// It has read this many bytes in all.
    Whole(usize),
    /// Reading has failed, and again with the same error.
    Failed(ErrorKind),
}

/// A channel whose worker reads [`READ`] to its end, logs what it serves, and tells the test of it.
/// After the first piece it waits until it is told to go on, if the test has a sender for that.
fn reading(config: &Config, goes_on: Option<Receiver<()>>) -> (Channel, Receiver<Told>) {
    let (tell, told) = mpsc::channel();
    let make = move || {
        Worker::new(|_| Ok(String::new()))
            .on_reader(READ, move |log: &mut String, reader, responder| {
                log.push('R');
                let read = read_all(reader, &tell, goes_on.as_ref());
                tell.send(match &read {
                    Ok(len) => Told::Whole(*len),
                    Err(error) => {
                        let again = reader.next_piece().unwrap_err();
                        assert_eq!(again.to_string(), error.to_string());
                        Told::Failed(error.kind())
                    }
                })?;
                Ok(responder.send(&encode(&[read? as u64]))?)
            })
            .on(STEP, |log, request, responder| {
                log.push_str(&request.text()?);
                Ok(responder.send("")?)
            })
            .on(LOG, |log, _, responder| Ok(responder.send(log)?))
    };
    (testing::spawn_thread(config, RoleConfig::default(), make).unwrap(), told)
}

fn read_all(
    reader: &mut RequestReader<'_>,
    tell: &Sender<Told>,
    goes_on: Option<&Receiver<()>>,
) -> slipring::Result<usize> {
    let mut len = reader.next_piece()?.map_or(0, |piece| piece.len());
    tell.send(Told::Begun).unwrap();
    if let Some(goes_on) = goes_on {
        goes_on.recv_timeout(LONG).unwrap();
    }
    while let Some(piece) = reader.next_piece()? {
        len += piece.len();
    }
    Ok(len)
}

fn heard(told: &Receiver<Told>) -> Told {
    told.recv_timeout(LONG).unwrap()
}

/// Sends requests with a deadline that is so far away, until the handler has begun one: on a busy
/// machine the worker may find the first ones too late.
fn begun_before_its_deadline<T>(
    told: &Receiver<Told>,
    deadline: Duration,
    send: impl Fn() -> T,
) -> T {
    let start = Instant::now();
    loop {
        let sent = send();
        match told.recv_timeout(deadline) {
            Ok(first) => {
                assert_eq!(first, Told::Begun);
                return sent;
            }
            Err(_) => assert!(start.elapsed() < LONG, "it is never begun"),
        }
    }
}

/// The channel works, for long requests too.
fn assert_reads(channel: &Channel, told: &Receiver<Told>) {
    let reply = channel.call(READ, &vec![1; 500_000], LONG).unwrap();
    assert_eq!(numbers(&reply.to_vec()), [500_000]);
    assert_eq!((heard(told), heard(told)), (Told::Begun, Told::Whole(500_000)));
}

#[test]
fn short_requests_between_the_pieces_are_served_in_order_and_not_lost() {
    let (channel, told) = reading(&Config::small(), None);
    let mut writer = channel.write(READ, LONG).unwrap();
    let mut pending = Vec::new();
    for letter in 'a'..='z' {
        writer.push(&vec![7; 40_000]).unwrap();
        pending.push(channel.submit(STEP, &letter.to_string(), LONG).unwrap());
    }
    assert_eq!(heard(&told), Told::Begun);
    channel.ping(LONG).unwrap();
    assert_eq!(channel.health().begun, 1, "the handler runs, and health is answered");
    let long = writer.finish().unwrap();
    let behind = channel.submit(STEP, "!", LONG).unwrap();
    assert_eq!(numbers(&long.wait().unwrap().to_vec()), [26 * 40_000]);
    for one in pending {
        one.wait().unwrap();
    }
    behind.wait().unwrap();
    assert_eq!(ask(&channel, LOG), "Rabcdefghijklmnopqrstuvwxyz!");
    assert_eq!(heard(&told), Told::Whole(26 * 40_000));
    assert_reads(&channel, &told);
}

#[test]
fn a_host_that_gives_its_request_up_is_a_cancel() {
    let (channel, told) = reading(&Config::small(), None);
    let mut writer = channel.write(READ, LONG).unwrap();
    writer.push(&vec![7; 100_000]).unwrap();
    let short = channel.submit(STEP, "a", LONG).unwrap();
    assert_eq!(heard(&told), Told::Begun);
    drop(writer);
    assert_eq!(heard(&told), Told::Failed(ErrorKind::Cancelled));
    short.wait().unwrap();
    assert_reads(&channel, &told);
    assert_eq!(ask(&channel, LOG), "RaR");
}

#[test]
fn a_request_whose_abandoning_finds_no_room_is_cut_off_by_the_next_one() {
    let (go, goes_on) = mpsc::channel();
    let (channel, told) = reading(&Config::small(), Some(goes_on));
    let short = Duration::from_millis(200);
    let writer = begun_before_its_deadline(&told, short, || {
        let mut writer = channel.write(READ, short).unwrap();
        assert!(writer.push(&vec![7; 1 << 20]).unwrap_err().is_timeout(), "the ring is full");
        writer
    });
    drop(writer);
    go.send(()).unwrap();
    assert_eq!(heard(&told), Told::Failed(ErrorKind::Cancelled));
    go.send(()).unwrap();
    assert_reads(&channel, &told);
}

#[test]
fn a_cancel_ends_the_reading_also_if_pieces_are_there() {
    let (go, goes_on) = mpsc::channel();
    let (channel, told) = reading(&Config::default(), Some(goes_on));
    // All pieces fit into the ring.
    let pending = channel.submit(READ, &vec![7; 2_500_000], LONG).unwrap();
    assert_eq!(heard(&told), Told::Begun);
    pending.cancel();
    go.send(()).unwrap();
    assert_eq!(heard(&told), Told::Failed(ErrorKind::Cancelled));
    assert!(pending.wait().unwrap_err().is_cancelled());
    go.send(()).unwrap();
    assert_reads(&channel, &told);
}

#[test]
fn a_deadline_that_passes_between_two_pieces_is_a_timeout() {
    let (channel, told) = reading(&Config::small(), None);
    let short = Duration::from_millis(300);
    let writer = begun_before_its_deadline(&told, short, || {
        let mut writer = channel.write(READ, short).unwrap();
        writer.push(&vec![7; 50_000]).unwrap();
        writer
    });
    assert_eq!(heard(&told), Told::Failed(ErrorKind::Timeout));
    drop(writer);
    assert_reads(&channel, &told);
}

#[test]
fn a_timeout_while_a_request_is_sent_says_that_it_was_begun() {
    let (go, goes_on) = mpsc::channel();
    let (channel, told) = reading(&Config::small(), Some(goes_on));
    let short = Duration::from_millis(300);
    let call = || channel.call(READ, &vec![7; 1 << 20], short).unwrap_err();
    let error = begun_before_its_deadline(&told, short, call);
    assert!(error.is_timeout() && error.to_string().contains("no room"), "{error}");
    assert_eq!(error.was_begun(), Some(true), "{error}");
    let behind = channel.call(READ, &vec![7; 1 << 20], short).unwrap_err();
    assert_eq!(behind.was_begun(), Some(false), "no piece of it was sent: {behind}");
    go.send(()).unwrap();
    assert_eq!(heard(&told), Told::Failed(ErrorKind::Cancelled));
    go.send(()).unwrap();
    assert_reads(&channel, &told);
}

#[test]
fn a_handler_that_does_not_read_holds_up_requests_and_nothing_else() {
    let (go, goes_on) = mpsc::channel();
    let (channel, told) = reading(&Config::small(), Some(goes_on));
    std::thread::scope(|scope| {
        let long = scope.spawn(|| channel.call(READ, &vec![7; 1 << 20], LONG));
        assert_eq!(heard(&told), Told::Begun);
        eventually("the ring is full", || {
            channel.submit(STEP, &"a".repeat(1000), Duration::from_millis(50)).is_err()
        });
        channel.ping(LONG).unwrap();
        assert_eq!(channel.health().begun, 1);
        let error = channel.call(STEP, "b", Duration::from_millis(50)).unwrap_err();
        assert!(error.is_timeout(), "{error}");
        go.send(()).unwrap();
        assert_eq!(numbers(&long.join().unwrap().unwrap().to_vec()), [1 << 20]);
        channel.call(STEP, "c", LONG).unwrap();
    });
    assert!(ask(&channel, LOG).ends_with('c'));
    assert_eq!(heard(&told), Told::Whole(1 << 20));
    go.send(()).unwrap();
    assert_reads(&channel, &told);
}

#[test]
fn a_channel_can_be_closed_while_its_handler_does_not_read() {
    let (go, goes_on) = mpsc::channel();
    let (channel, told) = reading(&Config::small(), Some(goes_on));
    std::thread::scope(|scope| {
        let long = scope.spawn(|| channel.call(READ, &vec![7; 1 << 20], LONG));
        assert_eq!(heard(&told), Told::Begun);
        let closing = scope.spawn(|| channel.close(LONG));
        assert!(long.join().unwrap().unwrap_err().is_closed());
        go.send(()).unwrap();
        assert_eq!(heard(&told), Told::Failed(ErrorKind::Cancelled));
        closing.join().unwrap().unwrap();
    });
}

#[test]
fn a_long_answer_before_the_request_is_read_goes_through() {
    let long = pattern(5, 1 << 20);
    let answer = long.clone();
    let make = move || {
        let answer = answer.clone();
        Worker::new(|_| Ok(()))
            .on_reader(READ, move |_, _, responder| Ok(responder.send(&answer)?))
            .on_reader(STEP, |_, reader, responder| {
                let mut chunks = responder.stream();
                (0..1000).try_for_each(|_| chunks.send(&[3; 10_000][..]))?;
                assert_eq!(reader.append_to(&mut Vec::new())?, 1 << 20);
                Ok(chunks.end()?)
            })
    };
    let channel = testing::spawn_thread(&Config::small(), RoleConfig::default(), make).unwrap();
    for _ in 0..3 {
        assert!(channel.call(READ, &long, LONG).unwrap().to_vec() == long);
        // More chunks than the stream's window, which the host takes when its request is sent.
        let total = StreamTimeouts::new().total(Duration::from_millis(300));
        let error = channel.stream(STEP, &long, total).unwrap_err();
        assert!(error.is_timeout() && error.was_begun() == Some(true), "{error}");
    }
    // Without a total, the queue's timeout ends this, which has a default.
    let usual = StreamTimeouts::from(LONG);
    assert_eq!(usual, StreamTimeouts::new().chunk(LONG).queue(DEFAULT_QUEUE_TIMEOUT));
    let error = channel.stream(STEP, &long, usual.queue(Duration::from_millis(300))).unwrap_err();
    assert_eq!(error.stream_timeout(), Some(StreamTimeout::Queue), "{error}");
    assert!(error.is_timeout() && error.was_begun() == Some(true), "{error}");
    assert!(channel.call(READ, &long, LONG).unwrap().to_vec() == long);
}

#[test]
fn an_abort_and_a_close_end_the_reading() {
    for closes in [false, true] {
        let (channel, told) = reading(&Config::small(), None);
        let mut writer = channel.write(READ, LONG).unwrap();
        writer.push(&vec![7; 50_000]).unwrap();
        assert_eq!(heard(&told), Told::Begun);
        match closes {
            true => drop(channel.close(LONG).unwrap()),
            false => {
                channel.abort();
                // Sleeping handlers look again when a piece comes.
                writer.push(&vec![7; 50_000]).unwrap();
            }
        }
        assert_eq!(heard(&told), Told::Failed(ErrorKind::Cancelled));
    }
}

#[test]
fn an_error_or_a_panic_in_the_middle_leaves_the_next_request_alone() {
    let make = || {
        Worker::new(|_| Ok(()))
            .on_reader(READ, |_, reader, _| {
                let first = reader.next_piece()?.ok_or("empty")?.to_vec()[0];
                assert_ne!(first, 1, "as the test wants");
                Err(HandlerError::new("test::First", first.to_string()))
            })
            .on(STEP, |_, request, responder| Ok(responder.send(&request.to_vec())?))
    };
    let channel = testing::spawn_thread(&Config::small(), RoleConfig::default(), make).unwrap();
    for len in [1, 300_000] {
        for (first, name) in [(1, "panic"), (2, "test::First")] {
            let error = channel.call(READ, &vec![first; len], LONG).unwrap_err();
            assert_eq!(error.handler_failure().unwrap().type_name, name);
            let long = pattern(3, 200_000);
            assert!(channel.call(STEP, &long, LONG).unwrap().to_vec() == long);
        }
    }
}

#[test]
fn a_fallback_gets_no_request_that_has_a_reader() {
    let make = || {
        Worker::new(|_| Ok(()))
            .fallback(|_, _, responder| Ok(responder.send("fallback")?))
            .on_reader(READ, |_, _, responder| Ok(responder.send("reader")?))
    };
    let channel = testing::spawn_thread(&Config::small(), RoleConfig::default(), make).unwrap();
    for len in [0, 1, 300_000] {
        let bytes = vec![1; len];
        assert_eq!(channel.call(READ, &bytes, LONG).unwrap().to_vec(), b"reader");
        assert_eq!(channel.call(STEP, &bytes, LONG).unwrap().to_vec(), b"fallback");
    }
}

#[test]
fn readers_beside_another_way_to_serve_are_refused() {
    let read = || Worker::new(|_| Ok(())).on_reader(READ, |_, _, _| Err("unused".into()));
    let ways: [fn(Worker<()>) -> Worker<()>; 3] = [
        |worker| worker.threads(Threads::new(2)),
        |worker| worker.batches(Batches::new()),
        |worker| worker.inbox(|_, _| Ok(())),
    ];
    for way in ways {
        let error = way(read()).serve().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("one request at a time"), "{error}");
    }
    let twice = read().on(READ, |_, _, _| Err("unused".into())).serve().unwrap_err();
    assert!(twice.to_string().contains("two handlers"), "{twice}");
}
