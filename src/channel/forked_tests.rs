//! Everything that a forked child can do with what it inherited, as if threads of its parent held
//! every lock of the library's: each operation is refused or does nothing, at once.
#![allow(clippy::unwrap_used, clippy::panic, clippy::unit_arg, reason = "tests")]

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Runtime;

use super::{
    Channel, Chunks, MessageReader, MessageWriter, Pending, Reply, Spawner, Stats, Stream,
};
use crate::config::Config;
use crate::error::{ErrorKind, Result};
use crate::process::testing::{alone, fork};
use crate::protocol::{Health, Kind};
use crate::raw::RawLink;
use crate::ring::{Header, Lease};
use crate::sync::plain::ARE_ALL_HELD;
use crate::tasks::{AsyncChannel, AsyncPending, AsyncStream};
use crate::worker::{Worker, attach_raw, is_worker};

const LONG: Duration = Duration::from_secs(60);
const ECHO: Kind = Kind::named("echo");
const TEN: Kind = Kind::named("ten");
/// A stream of one chunk that is longer than a frame.
const IN_PIECES: Kind = Kind::named("in pieces");
/// Until the worker is ended.
const STUCK: Kind = Kind::named("stuck");

/// What the processes are that this test starts.
#[test]
fn worker() {
    if !is_worker() {
        return;
    }
    if std::env::var_os("RAW").is_some() {
        let (mut link, _) = attach_raw().unwrap();
        link.claim(500, LONG).unwrap().commit(Header::default());
        while link.recv(LONG).is_ok() {}
        return;
    }
    let served = Worker::new(|_| Ok(()))
        .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?))
        .on(TEN, |(), _, responder| {
            let mut chunks = responder.stream();
            (0..10).try_for_each(|_| chunks.send(&[1; 10][..]))?;
            Ok(chunks.end()?)
        })
        .on(IN_PIECES, |(), _, responder| {
            let mut chunks = responder.stream();
            chunks.send(&[1; 40_000][..])?;
            Ok(chunks.end()?)
        })
        .on(STUCK, |(), request, responder| {
            while !request.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(responder.send("")?)
        });
    served.serve().unwrap();
}

fn spawner() -> Spawner {
    let args = ["channel::forked_tests::worker", "--exact", "--nocapture"];
    let config = Config { max_in_flight: 1024, ..Config::small() };
    Spawner::current_exe().unwrap().args(args).config(config).pollable()
}

type Task<T> = Pin<Box<dyn Future<Output = Result<T>>>>;

/// A task that was polled once, and waits.
fn waiting<T, F>(make: impl Fn() -> F) -> Option<Task<T>>
where
    F: Future<Output = Result<T>> + 'static,
{
    loop {
        let mut task: Task<T> = Box::pin(make());
        match poll(&mut task) {
            Poll::Pending => return Some(task),
            // A worker can answer faster than this thread looks.
            Poll::Ready(result) => drop(result.unwrap()),
        }
    }
}

fn poll<T>(task: &mut Task<T>) -> Poll<Result<T>> {
    task.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// What a child inherits: one of every public type, in each state that matters.
struct Held {
    /// Used by threads and by tasks, for as long as the process lives.
    shared: &'static AsyncChannel,
    stream: Option<Stream>,
    chunks: Option<Chunks<'static>>,
    /// Of a chunk and of a reply, each with a piece that was read.
    readers: Option<[MessageReader<'static>; 2]>,
    reply: Option<Reply>,
    writer: Option<MessageWriter<'static>>,
    pending: Option<Pending>,
    async_pending: Option<AsyncPending>,
    async_stream: Option<AsyncStream>,
    replying: Option<Task<Reply>>,
    pinging: Option<Task<Health>>,
    wanting_turn: Option<Task<Reply>>,
    wanting_room: Option<Task<Reply>>,
    channel: Option<Channel>,
    on_tokio: Option<AsyncChannel>,
    raw: Option<RawLink>,
    lease: Option<Lease>,
}

fn held(runtime: &Runtime) -> Held {
    let shared: &AsyncChannel =
        Box::leak(Box::new(AsyncChannel::new(spawner().spawn().unwrap()).unwrap()));
    let threads = shared.blocking();
    let mut stream = threads.stream(TEN, "", LONG).unwrap();
    stream.next_chunk().unwrap();
    let in_pieces = Box::leak(Box::new(threads.stream(IN_PIECES, "", LONG).unwrap()));
    let mut readers = [
        in_pieces.next_reader().unwrap().unwrap(),
        threads.submit(ECHO, &[1; 40_000], LONG).unwrap().wait_reader().unwrap(),
    ];
    readers.iter_mut().for_each(|reader| assert!(reader.next_piece().unwrap().is_some()));
    let batched: &'static mut Stream = Box::leak(Box::new(threads.stream(TEN, "", LONG).unwrap()));
    let chunks = batched.next_chunks().unwrap();
    let reply = threads.call(ECHO, &[7; 500], LONG).unwrap();
    let async_pending = runtime.block_on(shared.submit(ECHO, "", LONG)).unwrap();
    let mut async_stream = runtime.block_on(shared.stream(TEN, "", LONG)).unwrap();
    runtime.block_on(async_stream.next_chunk()).unwrap();
    let mut writer = threads.write(ECHO, LONG).unwrap();
    writer.push(&[1; 40_000]).unwrap();
    // From here on the worker does nothing.
    let pending = threads.submit(STUCK, "", LONG).unwrap();
    let replying = waiting(|| shared.call(ECHO, "", LONG));
    let pinging = waiting(|| shared.ping(LONG));
    let wanting_turn = waiting(|| shared.call(ECHO, &[0; 40_000], LONG));
    while let Ok(pending) = threads.submit(ECHO, &[0; 500], Duration::ZERO) {
        // Dropped, it would cancel what keeps the ring full.
        std::mem::forget(pending);
    }
    let wanting_room = waiting(|| shared.call(ECHO, &[0; 500], LONG));

    let on_tokio = async { AsyncChannel::on_tokio(spawner().spawn().unwrap()).unwrap() };
    let mut raw = spawner().env("RAW", "1").spawn_raw().unwrap();
    let lease = raw.recv(LONG).unwrap().into_lease();
    Held {
        shared,
        stream: Some(stream),
        chunks,
        readers: Some(readers),
        reply: Some(reply),
        writer: Some(writer),
        pending: Some(pending),
        async_pending: Some(async_pending),
        async_stream: Some(async_stream),
        replying,
        pinging,
        wanting_turn,
        wanting_room,
        channel: Some(spawner().spawn().unwrap()),
        on_tokio: Some(runtime.block_on(on_tokio)),
        raw: Some(raw),
        lease: Some(lease),
    }
}

fn is_forked<T>(result: Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::Forked)
}

/// What the next poll of a task says.
fn is_refused<T>(task: &mut Option<Task<T>>) -> bool {
    match poll(task.as_mut().unwrap()) {
        Poll::Ready(result) => is_forked(result),
        Poll::Pending => false,
    }
}

fn is_refused_at_once<T>(future: impl Future<Output = Result<T>>) -> bool {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => is_forked(result),
        Poll::Pending => false,
    }
}

/// Operations, and whether a child sees of them what it should. Each has a child of its own.
type Operation = (&'static str, fn(&mut Held) -> bool);

const GROUPS: [(&str, &[Operation]); 4] =
    [("Channel:", CHANNEL), ("", REQUESTS), ("RawLink:", RAW), ("AsyncChannel:", TASKS)];

const CHANNEL: &[Operation] = &[
    ("call", |held| is_forked(held.threads().call(ECHO, "", LONG))),
    ("call, long", |held| is_forked(held.threads().call(ECHO, &[0; 40_000], LONG))),
    ("submit", |held| is_forked(held.threads().submit(ECHO, "", LONG))),
    ("stream", |held| is_forked(held.threads().stream(TEN, "", LONG))),
    ("write", |held| is_forked(held.threads().write(ECHO, LONG))),
    ("wait_ready", |held| is_forked(held.threads().wait_ready(LONG))),
    ("ping", |held| is_forked(held.threads().ping(LONG))),
    ("read_ready", |held| is_forked(held.threads().read_ready())),
    ("close", |held| is_forked(held.threads().close(LONG))),
    ("close_draining", |held| is_forked(held.threads().close_draining(LONG))),
    ("wait_exit", |held| is_forked(held.threads().wait_exit(LONG))),
    ("abort", |held| nothing(held.threads().abort())),
    ("clear_abort", |held| nothing(held.threads().clear_abort())),
    ("is_alive", |held| !held.threads().is_alive()),
    ("in_flight", |held| held.threads().in_flight() == 0),
    ("stats", |held| held.threads().stats() == Stats::default()),
    ("exit_cause", |held| held.threads().exit_cause().is_none()),
    ("health", |held| nothing(held.threads().health())),
    ("role, pid", |held| held.threads().role() == "worker" && held.threads().pid() != 0),
    ("poll_fd", |held| held.threads().poll_fd().is_some()),
    ("log_path, config", |held| nothing((held.threads().log_path(), held.threads().config()))),
    ("Debug", |held| nothing(format!("{:?}", held.threads()))),
    ("drop", |held| nothing(held.channel.take())),
    ("spawn", |_| is_forked(spawner().spawn()) && is_forked(spawner().spawn_raw())),
];

const REQUESTS: &[Operation] = &[
    ("Pending::wait", |held| is_forked(held.pending.take().unwrap().wait())),
    ("Pending::try_wait", |held| is_forked(held.pending.as_mut().unwrap().try_wait())),
    ("wait_timeout", |held| is_forked(held.pending.as_mut().unwrap().wait_timeout(LONG))),
    ("Pending::cancel", |held| nothing(held.pending.as_ref().unwrap().cancel())),
    ("Pending's Debug", |held| nothing(format!("{:?}", held.pending))),
    ("Pending's drop", |held| nothing(held.pending.take())),
    ("Stream::next_chunk", |held| is_forked(held.stream.as_mut().unwrap().next_chunk())),
    ("try_next_chunk", |held| is_forked(held.stream.as_mut().unwrap().try_next_chunk())),
    ("Stream's end", |held| held.stream.take().unwrap().count() == 1),
    ("Stream::cancel", |held| nothing(held.stream.as_ref().unwrap().cancel())),
    ("Stream's Debug", |held| nothing(format!("{:?}", held.stream))),
    ("Stream's drop", |held| nothing(held.stream.take())),
    ("Chunks::iter", |held| held.chunks.as_ref().unwrap().iter().all(|chunk| chunk.len() == 10)),
    ("Chunks' Debug", |held| nothing(format!("{:?}", held.chunks))),
    ("Chunks' drop", |held| nothing(held.chunks.take())),
    ("wait_reader", |held| is_forked(held.pending.take().unwrap().wait_reader())),
    ("next_reader", |held| is_forked(held.stream.as_mut().unwrap().next_reader())),
    ("next_piece", |held| held.readers().iter_mut().all(|it| is_forked(it.next_piece()))),
    ("append_to", |held| {
        held.readers().iter_mut().all(|it| is_forked(it.append_to(&mut Vec::new())))
    }),
    ("MessageReader's Debug", |held| nothing(format!("{:?}", held.readers))),
    ("MessageReader's drop", |held| nothing(held.readers.take())),
    ("Reply::to_vec", |held| held.reply.as_ref().unwrap().to_vec() == [7; 500]),
    ("Reply::detach", |held| held.reply.take().unwrap().detach().into_vec() == [7; 500]),
    ("Reply's Debug", |held| nothing(format!("{:?}", held.reply))),
    ("Reply's drop", |held| nothing(held.reply.take())),
    ("MessageWriter::push", |held| is_forked(held.writer.as_mut().unwrap().push(&[0; 40_000]))),
    ("MessageWriter::finish", |held| is_forked(held.writer.take().unwrap().finish())),
    ("MessageWriter's Debug", |held| nothing(format!("{:?}", held.writer))),
    ("MessageWriter's drop", |held| nothing(held.writer.take())),
];

const RAW: &[Operation] = &[
    ("claim", |held| is_forked(held.raw().claim(10, LONG))),
    ("claim_batch", |held| is_forked(held.raw().claim_batch(10, 2, LONG))),
    ("try_claim", |held| is_forked(held.raw().try_claim(10))),
    ("recv", |held| is_forked(held.raw().recv(LONG))),
    ("try_recv", |held| is_forked(held.raw().try_recv())),
    ("drain", |held| is_forked(held.raw().drain(2, LONG, |_, _| ()))),
    ("rearm", |held| is_forked(held.raw().rearm())),
    ("close", |held| is_forked(held.raw().close(LONG))),
    ("is_alive", |held| !held.raw().is_alive()),
    ("pid, exit_cause", |held| nothing((held.raw().pid(), held.raw().exit_cause()))),
    ("split", |held| nothing(held.raw.take().unwrap().split())),
    ("prefault", |held| nothing(held.raw().prefault())),
    ("flush", |held| nothing(held.raw().flush())),
    ("publish", |held| nothing(held.raw().halves().1.publish_released())),
    ("leased", |held| held.raw().receiver().leased() == 1),
    ("Debug", |held| nothing(format!("{:?}", held.raw))),
    ("drop", |held| nothing(held.raw.take())),
    ("Lease::payload", |held| held.lease.as_ref().unwrap().payload().len() == 500),
    ("Lease's Debug", |held| nothing(format!("{:?}", held.lease))),
    ("Lease's drop", |held| nothing(held.lease.take())),
];

const TASKS: &[Operation] = &[
    ("call", |held| is_refused_at_once(held.shared.call(ECHO, "", LONG))),
    ("call, long", |held| is_refused_at_once(held.shared.call(ECHO, &[0; 40_000], LONG))),
    ("stream", |held| is_refused_at_once(held.shared.stream(TEN, "", LONG))),
    ("ping", |held| is_refused_at_once(held.shared.ping(LONG))),
    ("close", |held| is_refused_at_once(held.shared.close(LONG))),
    ("wait_ready", |held| is_refused_at_once(held.shared.wait_ready(LONG))),
    ("write", |held| is_refused_at_once(held.shared.write(ECHO, LONG))),
    ("close_draining", |held| is_refused_at_once(held.shared.close_draining(LONG))),
    ("closed", |held| is_refused_at_once(held.shared.closed())),
    ("spawn", |_| is_refused_at_once(AsyncChannel::spawn(spawner()))),
    ("spawn_on_tokio", |_| is_refused_at_once(AsyncChannel::spawn_on_tokio(spawner()))),
    ("new", |held| is_forked(AsyncChannel::new(held.channel.take().unwrap()))),
    ("on_tokio", |held| is_forked(AsyncChannel::on_tokio(held.channel.take().unwrap()))),
    ("Debug", |held| nothing(format!("{:?}", held.shared))),
    ("drop on tokio", |held| nothing(held.on_tokio.take())),
    ("AsyncPending", |held| is_refused_at_once(held.async_pending.take().unwrap())),
    ("AsyncPending::cancel", |held| nothing(held.async_pending.as_ref().unwrap().cancel())),
    ("AsyncPending's drop", |held| nothing(held.async_pending.take())),
    ("into_blocking", |held| is_forked(held.async_pending.take().unwrap().into_blocking().wait())),
    ("AsyncStream", |held| is_refused_at_once(held.async_stream.as_mut().unwrap().next_chunk())),
    ("AsyncStream::cancel", |held| nothing(held.async_stream.as_ref().unwrap().cancel())),
    ("AsyncStream's drop", |held| nothing(held.async_stream.take())),
    ("a reply that is awaited", |held| is_refused(&mut held.replying)),
    ("its drop", |held| nothing(held.replying.take())),
    ("a ping that is awaited", |held| is_refused(&mut held.pinging)),
    ("its drop", |held| nothing(held.pinging.take())),
    ("a turn that is awaited", |held| is_refused(&mut held.wanting_turn)),
    ("its drop", |held| nothing(held.wanting_turn.take())),
    ("room that is awaited", |held| is_refused(&mut held.wanting_room)),
    ("its drop", |held| nothing(held.wanting_room.take())),
];

impl Held {
    fn threads(&self) -> &'static Channel {
        self.shared.blocking()
    }

    fn readers(&mut self) -> &mut [MessageReader<'static>; 2] {
        self.readers.as_mut().unwrap()
    }

    fn raw(&mut self) -> &mut RawLink {
        self.raw.as_mut().unwrap()
    }
}

/// It returned.
fn nothing<T>(_: T) -> bool {
    true
}

#[test]
fn a_child_waits_for_no_lock_that_its_parents_threads_hold() {
    alone(|| {
        let runtime = Runtime::new().unwrap();
        let mut held = held(&runtime);
        let mut wrong = Vec::new();
        for (group, operations) in GROUPS {
            for (name, operation) in operations {
                let code = fork(|| {
                    ARE_ALL_HELD.store(true, Ordering::Relaxed);
                    i32::from(!operation(&mut held))
                });
                if code != 0 {
                    wrong.push(format!("{group} {name}: {code}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}
