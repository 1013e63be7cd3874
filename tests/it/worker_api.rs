//! What handlers and programs in other languages are given: a fallback, errors of their own, text,
//! readers, tokens and flags that need no request.

use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use slipring::worker::{
    AbortFlag, Batches, CancelToken, HandlerError, Incoming, StepEngine, Threads, Worker,
};
use slipring::{
    Channel, Config, ErrorKind, Kind, RequestStage, RoleConfig, StreamTimeouts, testing,
};

use crate::common::LONG;

const ONE: Kind = Kind::app(0);
const OTHER: Kind = Kind::named("other");

fn spawn_thread<S>(make: impl FnOnce() -> Worker<S> + Send + 'static) -> Channel {
    testing::spawn_thread(&Config::small(), RoleConfig::default(), make).unwrap()
}

fn call(channel: &Channel, kind: Kind, payload: &[u8]) -> Vec<u8> {
    channel.call(kind, payload, LONG).unwrap().to_vec()
}

#[test]
fn a_request_without_a_handler_was_not_begun_however_it_is_served() {
    let workers: [fn() -> Worker<()>; 3] = [
        || Worker::new(|_| Ok(())),
        || Worker::new(|_| Ok(())).threads(Threads::new(2)),
        || Worker::new(|_| Ok(())).batches(Batches::new()),
    ];
    for (row, make) in workers.into_iter().enumerate() {
        let channel = spawn_thread(make);
        let refused = [
            channel.call(Kind::app(3), "", LONG).unwrap_err(),
            channel.stream(Kind::app(3), "", LONG).unwrap().next_chunk().unwrap_err(),
        ];
        for error in refused {
            assert_eq!(error.handler_failure().unwrap().type_name, "slipring::UnknownKind");
            let stage = (error.was_begun(), error.stage());
            assert_eq!(stage, (Some(false), Some(RequestStage::Queued)), "row {row}: {error}");
        }
        let last = channel.ping(LONG).unwrap().last_error.unwrap();
        assert!(last.contains("no handler for application kind 3"), "{last}");
    }
}

#[test]
fn a_fallback_serves_every_kind_that_has_no_handler_of_its_own() {
    let channel = spawn_thread(|| {
        Worker::new(|_| Ok(0))
            .fallback(|_, _, _| Err("the second one counts".into()))
            .fallback(|count, request, responder| {
                *count += 1;
                Ok(responder.send(&format!("{} {} {count}", request.kind(), request.text()?))?)
            })
            .on(ONE, |count, _, responder| Ok(responder.send(&format!("own {count}"))?))
    });
    assert_eq!(call(&channel, OTHER, b"a"), format!("{OTHER} a 1").as_bytes());
    assert_eq!(call(&channel, Kind::EMBED, b"b"), b"embed b 2");
    assert_eq!(call(&channel, ONE, b""), b"own 2");
    channel.wait_ready(LONG).unwrap();
    let mut stream = channel.stream(OTHER, "", StreamTimeouts::default()).unwrap();
    let error = stream.next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "one result in answer to a stream: {error}");
}

struct Idle;

impl StepEngine for Idle {
    fn add_request(&mut self, _: Incoming) -> Result<(), HandlerError> {
        Ok(())
    }

    fn has_capacity(&self) -> bool {
        true
    }

    fn has_finished(&self) -> bool {
        true
    }

    fn step(&mut self) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[test]
fn a_worker_with_two_ways_to_serve_is_refused() {
    let none: fn(Worker<Idle>) -> Worker<Idle> = |worker| worker.threads(Threads::new(0));
    let ways: [fn(Worker<Idle>) -> Worker<Idle>; 4] = [
        |worker| worker.threads(Threads::new(8)),
        |worker| worker.batches(Batches::new()),
        |worker| worker.steps(),
        |worker| worker.inbox(|_, _| Ok(())),
    ];
    let refused = |worker: Worker<Idle>| {
        let error = worker.serve().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        error.to_string()
    };
    for first in ways {
        for second in ways {
            let why = refused(second(first(Worker::new(|_| Ok(Idle)))));
            assert!(why.contains("two ways to serve"), "{why}");
        }
        let why = refused(first(none(Worker::new(|_| Ok(Idle)))));
        assert!(why.contains("without threads"), "the first mistake is told: {why}");
    }
}

#[test]
fn an_error_of_another_language_reaches_the_caller_unchanged() {
    let lines = "Traceback:\n  File \"a.py\", line 7\n\tgrüße\n".repeat(20);
    let sent = lines.clone();
    let channel = spawn_thread(move || {
        Worker::new(|_| Ok(())).on(ONE, move |_, request, _| {
            Err(HandlerError::new("pkg.ValueError", request.text()?)
                .with_source("first")
                .with_source("second\nline")
                .with_backtrace(sent.as_str()))
        })
    });
    let error = channel.call(ONE, "bad\tvalue", LONG).unwrap_err();
    let failure = error.handler_failure().unwrap();
    assert_eq!(failure.type_name, "pkg.ValueError");
    assert_eq!(failure.message, "bad\tvalue");
    assert_eq!(failure.sources, ["first", "second\nline"]);
    assert_eq!(failure.backtrace, lines);
}

#[test]
fn a_payload_is_read_as_text_and_by_a_reader_in_frames_and_in_pieces() {
    let channel = spawn_thread(|| {
        Worker::new(|_| Ok(()))
            .on(ONE, |_, request, responder| Ok(responder.send(&request.text()?)?))
            .on(OTHER, |_, request, responder| {
                let (mut reader, mut writer) = (request.reader(), responder.write());
                let mut first = [0; 3];
                let count = reader.read(&mut first)?;
                writer.write_all(&first[..count])?;
                std::io::copy(&mut reader, &mut writer)?;
                Ok(writer.finish()?)
            })
    });
    let frame = Config::small().max_request_frame();
    for len in [0, 1, 3, 4, frame, frame + 1, 10 * frame] {
        let text: String = "añb".chars().cycle().take(len).collect();
        assert!(call(&channel, ONE, text.as_bytes()) == text.as_bytes(), "{len} as text");
        assert!(call(&channel, OTHER, text.as_bytes()) == text.as_bytes(), "{len} by a reader");
    }
}

#[test]
fn a_payload_that_is_no_text_is_a_typed_error_that_says_where() {
    let (told, kinds) = mpsc::channel();
    let channel = spawn_thread(move || {
        Worker::new(|_| Ok(())).on(ONE, move |_, request, _| {
            let error = request.text().unwrap_err();
            told.send(error.kind())?;
            Err(error.into())
        })
    });
    let error = channel.call(ONE, &b"ab\xffc"[..], LONG).unwrap_err();
    assert_eq!(kinds.recv().unwrap(), ErrorKind::InvalidPayload);
    assert!(error.to_string().contains("4 bytes is not UTF-8 at byte 2"), "{error}");
}

/// A worker that gives the token of each request away, and returns when the token says so.
fn token_worker(give: mpsc::Sender<CancelToken>) -> Worker<()> {
    Worker::new(|_| Ok(()))
        .on(ONE, move |(), request, responder| {
            let token = request.cancel_token();
            assert_eq!(token.request(), request.id());
            give.send(token.clone())?;
            while !token.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            token.check()?;
            Ok(responder.send("not reached")?)
        })
        .on(OTHER, |(), _, responder| Ok(responder.send("done")?))
}

#[test]
fn a_cancel_token_tells_of_its_own_request_and_outlives_it_and_the_worker() {
    let (give, tokens) = mpsc::channel();
    let channel = spawn_thread(move || token_worker(give));
    let pending = channel.submit(ONE, "", LONG).unwrap();
    let token = tokens.recv().unwrap();
    assert!(!token.is_cancelled());
    token.check().unwrap();
    pending.cancel();
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(token.is_cancelled());
    // As nothing else was cancelled in its slot.
    assert_eq!(call(&channel, OTHER, b""), b"done");
    assert!(token.is_cancelled());
    drop(channel);
    assert_eq!(token.check().unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn a_cancel_token_tells_of_the_abort_flag_and_of_the_workers_end() {
    let (give, tokens) = mpsc::channel();
    let channel = spawn_thread(move || token_worker(give));
    let pending = channel.submit(ONE, "", LONG).unwrap();
    let token = tokens.recv().unwrap();
    channel.abort();
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Cancelled);
    channel.clear_abort();
    assert!(!token.is_cancelled(), "only the flag was set");
    let pending = channel.submit(ONE, "", LONG).unwrap();
    let second = tokens.recv().unwrap();
    channel.close(LONG).unwrap();
    assert!(token.is_cancelled() && second.is_cancelled());
    assert!(pending.wait().is_err());
}

#[test]
fn the_abort_flag_is_told_to_the_sessions_builder_and_other_threads() {
    let flag = AbortFlag::new();
    assert!(!flag.is_set());
    let (seen, second) = (flag.clone(), AbortFlag::new());
    let also = second.clone();
    let channel = spawn_thread(move || {
        let build = seen.clone();
        Worker::new(move |_| {
            while !build.is_set() {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok("was aborted")
        })
        .abort_flag(&seen)
        .abort_flag(&also)
        .on(ONE, |session, request, responder| {
            Ok(responder.send(&format!("{session}, {}", request.is_aborted()))?)
        })
    });
    channel.abort();
    assert_eq!(call(&channel, ONE, b""), b"was aborted, true");
    assert!(flag.is_set() && second.is_set());
    channel.clear_abort();
    assert!(!flag.is_set() && !second.is_set());
}
