//! The trace that a request is part of, as its worker is told of it.

use std::sync::mpsc;
use std::time::Duration;

use crate::common::*;
use slipring::recording::{self, Event, FramePayload, Recording};
use slipring::ring::Header;
use slipring::worker::{
    Batches, Incoming, OwnedRequest, OwnedResponder, Request, RequestBatch, Tasks, Threads, Worker,
    attach_raw, is_worker,
};
use slipring::{
    Channel, Config, ErrorKind, Kind, RoleConfig, StreamTimeouts, TraceContext, testing,
};

const TOLD: Kind = Kind::named("told of a trace");
/// The flags of frames, as `docs/MEMORY.md` has them.
const STREAM: u16 = 1;
const MORE: u16 = 2;
const CONTINUED: u16 = 4;
const ABANDONED: u16 = 8;
const TRACED: u16 = 16;
const CONTEXT: usize = 32;

fn trace(number: u8) -> TraceContext {
    TraceContext::new([number; 16], [number + 1; 8], 1).unwrap()
}

/// What a worker that is told of this answers to these bytes.
fn told(trace: Option<&TraceContext>, bytes: &[u8]) -> Vec<u8> {
    let trace = trace.map(TraceContext::to_string).unwrap_or_default();
    [trace.as_bytes(), b" ", bytes].concat()
}

fn tell(request: &Request<'_>) -> Vec<u8> {
    told(request.trace_context().as_ref(), &request.to_vec())
}

fn answer(request: &Request<'_>, responder: OwnedResponder) -> slipring::Result<()> {
    responder.send(&tell(request))
}

fn serial() -> Worker<()> {
    Worker::new(|_| Ok(())).on(TOLD, |(), request, responder| Ok(responder.send(&tell(request))?))
}

/// Reads each request piece by piece.
fn reading() -> Worker<()> {
    Worker::new(|_| Ok(())).on_reader(TOLD, |(), reader, responder| {
        let (trace, mut bytes) = (reader.trace_context(), Vec::new());
        while let Some(piece) = reader.next_piece()? {
            assert!(!piece.is_empty() || reader.message_len() == Some(0), "no piece is a context");
            bytes.extend(piece.to_vec());
        }
        Ok(responder.send(&told(trace.as_ref(), &bytes))?)
    })
}

fn threads() -> Worker<()> {
    let threads =
        Threads::new(2).on(TOLD, |(): &(), request, responder| Ok(answer(request, responder)?));
    Worker::new(|_| Ok(())).threads(threads)
}

fn tasks() -> Worker<std::sync::Arc<()>> {
    let poll = |mut task: slipring::worker::BoxTask| {
        let waker = std::task::Waker::noop();
        while task.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending() {}
    };
    let handler = |_: std::sync::Arc<()>, request: OwnedRequest, responder| async move {
        Ok(answer(&request.get(), responder)?)
    };
    Worker::new(|_| Ok(())).tasks(Tasks::new(poll).on(TOLD, handler))
}

fn batches() -> Worker<()> {
    let batches = Batches::new().on(TOLD, |(): &mut (), batch: &mut RequestBatch| {
        let answers: Vec<_> = batch.iter().map(|request| tell(&request)).collect();
        batch.reply_each(answers.into_iter().map(Ok));
        Ok(())
    });
    Worker::new(|_| Ok(())).batches(batches)
}

fn leasing() -> Worker<()> {
    Worker::new(|_| Ok(())).inbox(|(), inbox| {
        inbox.lease_payloads(true)?;
        loop {
            let Incoming { request, responder } = inbox.recv()?;
            answer(&request.get(), responder)?;
        }
    })
}

fn spawn<S: 'static>(config: &Config, make: fn() -> Worker<S>) -> Channel {
    testing::spawn_thread(config, RoleConfig::default(), make).unwrap()
}

/// Calls with and without a trace, of lengths around those at which a frame is full.
fn check_calls(channel: &Channel) {
    let frame = channel.config().max_request_frame();
    let around = (frame - CONTEXT - 1..=frame - CONTEXT + 1).chain(frame - 1..=frame + 1);
    for (number, len) in (1..).zip([0, 1, 31, 1000].into_iter().chain(around).chain([3 * frame])) {
        let (trace, bytes) = (trace(number), pattern(number.into(), len));
        let reply = channel.traced(&trace).call(TOLD, &bytes, LONG).unwrap();
        assert!(reply.to_vec() == told(Some(&trace), &bytes), "{len} bytes");
        let reply = channel.call(TOLD, &bytes, LONG).unwrap();
        assert!(reply.to_vec() == told(None, &bytes), "{len} bytes without a trace");
    }
}

#[test]
fn a_worker_is_told_of_a_trace_in_each_way_to_serve() {
    let config = Config::small();
    for make in [serial, reading, threads, batches, leasing] {
        check_calls(&spawn(&config, make));
    }
    check_calls(&spawn(&config, tasks));
    check_calls(&spawn(&tiny(4 << 10).build().unwrap(), serial));
}

/// Not a test of its own: a worker that tells of traces.
#[test]
fn worker_that_is_told() {
    if is_worker() {
        serial().serve().unwrap();
    }
}

#[test]
fn a_worker_process_is_told_of_a_trace() {
    let channel = spawner_of(worker_that_is_told).config(Config::small()).spawn().unwrap();
    check_calls(&channel);
}

#[test]
fn each_kind_of_request_can_be_part_of_a_trace() {
    let make = || {
        Worker::new(|_| Ok(())).on(TOLD, |(), request, responder| {
            if !request.is_stream() {
                return Ok(responder.send(&tell(request))?);
            }
            let mut chunks = responder.stream();
            chunks.send(&tell(request))?;
            Ok(chunks.end()?)
        })
    };
    let channel = spawn(&Config::small(), make);
    let frame = channel.config().max_request_frame();
    let trace = trace(1);
    let traced = channel.traced(&trace);
    for len in [0, 10, frame, 3 * frame] {
        let bytes = pattern(1, len);
        let expected = told(Some(&trace), &bytes);
        let pending = traced.submit(TOLD, &bytes, LONG).unwrap();
        assert!(pending.wait().unwrap().to_vec() == expected, "{len}");
        let chunks = traced.stream(TOLD, &bytes, StreamTimeouts::new().total(LONG)).unwrap();
        let chunks: Vec<_> = chunks.map(|chunk| chunk.unwrap().to_vec()).collect();
        assert!(chunks == [expected.as_slice()], "{len}");
        let mut writer = traced.write(TOLD, LONG).unwrap();
        for part in bytes.chunks(1000) {
            writer.push(part).unwrap();
        }
        assert!(writer.finish().unwrap().wait().unwrap().to_vec() == expected, "{len}");
    }
    // One that is given up in the middle leaves nothing behind.
    drop(traced.write(TOLD, LONG).unwrap());
    let mut writer = traced.write(TOLD, LONG).unwrap();
    writer.push(&pattern(2, 2 * frame)).unwrap();
    drop(writer);
    assert_eq!(channel.call(TOLD, b"x", LONG).unwrap().to_vec(), told(None, b"x"));
}

#[test]
fn a_context_does_not_count_as_payload() {
    // The longest message fits a frame, but for its context.
    let config = tiny(4 << 10).max_message(2016).build().unwrap();
    assert_eq!(config.max_request_frame(), config.max_message());
    for config in [config, Config::small()] {
        let longest = config.max_message();
        let channel = spawn(&config, || {
            Worker::new(|_| Ok(()))
                .on(TOLD, |(), request, responder| Ok(responder.send(&request.len().to_string())?))
        });
        let trace = trace(1);
        let before = channel.stats().bytes_sent;
        let reply = channel.traced(&trace).call(TOLD, &vec![7; longest], LONG).unwrap();
        assert_eq!(reply.text().unwrap(), longest.to_string());
        assert_eq!(channel.stats().bytes_sent - before, longest as u64);
        let received = || channel.health().bytes_received;
        eventually("it is counted", || received() == longest as u64);
        let error = channel.traced(&trace).call(TOLD, &vec![7; longest + 1], LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }
}

#[test]
fn a_request_that_is_looked_at_has_the_length_of_its_payload() {
    let (tell, hear) = mpsc::channel();
    let make = move || {
        Worker::new(|_| Ok(())).inbox(move |(), inbox| {
            loop {
                if let Some(peeked) = inbox.peek()? {
                    tell.send((peeked.len(), peeked.is_stream()))?;
                }
                if let Some(Incoming { responder, .. }) =
                    inbox.recv_timeout(Duration::from_millis(1))?
                {
                    responder.send(b"")?;
                }
            }
        })
    };
    let channel = testing::spawn_thread(&Config::small(), RoleConfig::default(), make).unwrap();
    let trace = trace(1);
    // It may be taken before it was looked at.
    let seen = (0..10_000).find_map(|_| {
        channel.traced(&trace).call(TOLD, &[7; 100], LONG).unwrap();
        hear.try_recv().ok()
    });
    assert_eq!(seen, Some((100, false)));
}

#[test]
fn a_recording_has_the_payloads_alone() {
    let recording = Recording::in_dir(temp_dir("record-traces"));
    let spawner = spawner_of(worker_that_is_told).config(Config::small()).record(recording);
    let channel = spawner.spawn().unwrap();
    let path = channel.recording_path().unwrap().to_owned();
    check_calls(&channel);
    channel.close(LONG).unwrap();
    let frame = Config::small().max_request_frame();
    let mut sent = std::collections::BTreeMap::<_, Vec<u8>>::new();
    for record in recording::RecordingReader::open(path).unwrap() {
        if let Event::Request(frame) = record.unwrap().event {
            let FramePayload::Whole(bytes) = frame.payload else { panic!("{frame:?}") };
            sent.entry(frame.request).or_default().extend(bytes);
        }
    }
    let lens: Vec<_> = sent.values().map(Vec::len).collect();
    for pair in lens.chunks(2) {
        assert_eq!(pair[0], pair[1], "with and without a trace: {lens:?}");
    }
    assert!(lens.contains(&0) && lens.contains(&(3 * frame)), "{lens:?}");
}

/// Not a test of its own: a worker as one of an earlier version, which tells what came of each request.
#[test]
fn worker_of_an_earlier_version() {
    const RESULT: u16 = 5;
    if !is_worker() {
        return;
    }
    let (mut link, _) = attach_raw().unwrap();
    loop {
        let Ok((header, len)) = link.recv(LONG).map(|it| (it.header(), it.payload().len())) else {
            return;
        };
        if header.flags & MORE != 0 {
            continue;
        }
        let answer = [u64::from(header.flags), len as u64].map(u64::to_le_bytes).concat();
        let mut claim = link.claim(answer.len(), LONG).unwrap();
        claim.payload().copy_from_slice(&answer);
        let request = header.request;
        claim.commit(Header { kind: RESULT, request, ..Header::default() });
    }
}

#[test]
fn a_worker_of_an_earlier_version_gets_no_context() {
    let spawner = spawner_of(worker_of_an_earlier_version).config(Config::small());
    let channel = spawner.spawn().unwrap();
    let trace = trace(1);
    let reply = channel.traced(&trace).call(TOLD, &[7; 100], LONG).unwrap().to_vec();
    assert_eq!(reply, [0_u64, 100].map(u64::to_le_bytes).concat());
    let frame = channel.config().max_request_frame();
    let reply = channel.traced(&trace).call(TOLD, &vec![7; frame], LONG).unwrap().to_vec();
    assert_eq!(reply, [0_u64, frame as u64].map(u64::to_le_bytes).concat(), "in one frame");
    let mut writer = channel.traced(&trace).write(TOLD, LONG).unwrap();
    writer.push(&[7; 3]).unwrap();
    let reply = writer.finish().unwrap().wait().unwrap().to_vec();
    assert_eq!(reply, [0_u64, 3].map(u64::to_le_bytes).concat());
}

#[test]
fn a_frame_that_is_shorter_than_a_context_has_none() {
    let config = Config::builder().request_ring(4096).max_request_frame(31).build().unwrap();
    let (channel, trace) = (spawn(&config, serial), trace(1));
    for len in [0, 31, 1000] {
        let bytes = pattern(1, len);
        let reply = channel.traced(&trace).call(TOLD, &bytes, LONG).unwrap();
        assert!(reply.to_vec() == told(None, &bytes), "{len}");
    }
    let config = Config::builder().request_ring(4096).max_request_frame(32).build().unwrap();
    let channel = spawn(&config, serial);
    for len in [0, 1, 32, 1000] {
        let bytes = pattern(1, len);
        let reply = channel.traced(&trace).call(TOLD, &bytes, LONG).unwrap();
        assert!(reply.to_vec() == told(Some(&trace), &bytes), "{len}");
    }
}

/// Sends a frame by hand to a worker that serves, and returns what comes of it: its answer, or how the
/// worker ended.
fn by_hand(frames: &[(u16, u64, &[u8])]) -> Result<Vec<u8>, String> {
    let spawner = spawner_of(worker_that_is_told).config(Config::small());
    let mut link = spawner.log_dir(temp_dir("traces-by-hand")).spawn_raw().unwrap();
    for (flags, request, payload) in frames {
        let mut claim = link.claim(payload.len(), LONG).unwrap();
        claim.payload().copy_from_slice(payload);
        let (kind, flags, request) = (TOLD.code(), *flags, *request);
        claim.commit(Header { kind, flags, request, ..Header::default() });
    }
    match link.recv(LONG) {
        Ok(frame) => Ok(frame.payload().to_vec()),
        Err(error) => {
            assert!(error.is_peer_dead(), "{error}");
            Err(error.log_tail().unwrap_or_default().to_owned())
        }
    }
}

#[test]
fn frames_that_cannot_have_a_context_end_the_worker_with_an_error() {
    let context = [0; CONTEXT];
    for (what, frames) in [
        ("in a frame of 31 bytes", &[(TRACED, 1, &context[1..])][..]),
        ("in a frame of 0 bytes", &[(TRACED | STREAM, 1, &[])]),
        ("in a frame of 0 bytes", &[(TRACED | MORE, 1, &[])]),
        ("in a later piece", &[(MORE, 1, b"x"), (TRACED | CONTINUED, 1, &context)]),
        ("in a later piece", &[(TRACED | ABANDONED, 1, &context)]),
        ("flags 0x20", &[(32, 1, &context)]),
        ("flags 0x8010", &[(TRACED | 0x8000, 1, &context)]),
    ] {
        let words = by_hand(frames).unwrap_err();
        assert!(words.contains(what), "{what}: {words}");
    }
}

#[test]
fn what_is_no_context_is_ignored() {
    let mut of_later_version = [7; CONTEXT];
    for context in [[0; CONTEXT], [0xff; CONTEXT], of_later_version] {
        let frame = [b"payload", &context[..]].concat();
        assert_eq!(by_hand(&[(TRACED, 1, &frame)]).unwrap(), told(None, b"payload"));
    }
    of_later_version[0] = 0;
    let trace = TraceContext::new([7; 16], [7; 8], 7).unwrap();
    let frame = [b"payload", &of_later_version[..]].concat();
    assert_eq!(by_hand(&[(TRACED, 1, &frame)]).unwrap(), told(Some(&trace), b"payload"));
    // A first piece may have more than its context.
    let pieces = [(TRACED | MORE, 1, frame.as_slice()), (CONTINUED, 1, b" and more")];
    assert_eq!(by_hand(&pieces).unwrap(), told(Some(&trace), b"payload and more"));
}

/// Not a test of its own: a worker that dies of the first request with a file's name, and tells of the trace
/// of the second.
#[test]
fn worker_that_dies_once() {
    if !is_worker() {
        return;
    }
    let worker = Worker::new(|_| Ok(())).on(TOLD, |(), request, responder| {
        if std::fs::File::create_new(request.text()?).is_ok() {
            std::process::abort();
        }
        Ok(responder.send(&tell(request))?)
    });
    worker.serve().unwrap();
}

#[cfg(feature = "async")]
#[test]
fn each_attempt_of_a_pools_request_is_told_of_its_trace() {
    use slipring::pool::{Pool, Role};

    let dir = temp_dir("traces-pool");
    let role = Role::new(|_| Ok(spawner_of(worker_that_dies_once).config(Config::small())));
    let pool = Pool::builder().role("one", role).build().unwrap();
    let one = pool.role("one").unwrap();
    let trace = trace(1);
    let request = || one.request(TOLD).idempotent(true).trace(&trace);
    // Of each kind, the first attempt dies.
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let expected = |path: &str| told(Some(&trace), path.as_bytes());
    let called = path("called");
    assert_eq!(request().call(&called, LONG).unwrap().to_vec(), expected(&called));
    let submitted = path("submitted");
    let reply = request().submit(&submitted, LONG).unwrap().wait().unwrap();
    assert_eq!(reply.to_vec(), expected(&submitted));
    // These are there already.
    let write = |writer: &mut slipring::MessageWriter<'_>| writer.push(called.as_bytes());
    assert_eq!(request().write(LONG, write).unwrap().to_vec(), expected(&called));
    assert_eq!(
        one.request(TOLD).call(&called, LONG).unwrap().to_vec(),
        told(None, called.as_bytes())
    );
    pool.close(LONG).unwrap();
}

#[cfg(feature = "tokio")]
#[test]
fn tasks_tell_a_worker_of_a_trace() {
    use slipring::tasks::AsyncChannel;

    let spawner = spawner_of(worker_that_is_told).config(Config::small()).pollable();
    let channel = AsyncChannel::new(spawner.spawn().unwrap()).unwrap();
    let (frame, trace) = (channel.blocking().config().max_request_frame(), trace(1));
    let traced = channel.traced(&trace);
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        for len in [0, frame - CONTEXT, frame - CONTEXT + 1, 3 * frame] {
            let bytes = pattern(1, len);
            let expected = told(Some(&trace), &bytes);
            let reply = traced.call(TOLD, &bytes, LONG).await.unwrap();
            assert!(reply.to_vec() == expected, "{len}");
            let reply = traced.submit(TOLD, &bytes, LONG).await.unwrap().await.unwrap();
            assert!(reply.to_vec() == expected, "{len}");
            let mut writer = traced.write(TOLD, LONG).await.unwrap();
            writer.push(&bytes).await.unwrap();
            let reply = writer.finish().await.unwrap().await.unwrap();
            assert!(reply.to_vec() == expected, "{len}");
            let reply = channel.call(TOLD, &bytes, LONG).await.unwrap();
            assert!(reply.to_vec() == told(None, &bytes), "{len}");
        }
        let mut stream = traced.stream(TOLD, b"x", LONG).await.unwrap();
        let error = stream.next_chunk().await.unwrap_err();
        // The worker answers with one reply only.
        assert!(error.is_handler_error() || error.kind() == ErrorKind::Protocol, "{error}");
    });
}
