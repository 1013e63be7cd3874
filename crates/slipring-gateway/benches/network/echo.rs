//! What is asked and what is answered, and the ways to answer that are measured in the gateway.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use slipring::backend::{Backend, BackendLoad, BackendRequest, BoxChunks, BoxFuture};
use slipring::worker::{Done, OwnedResponder, Responder, Threads, Worker};
use slipring::{Health, Kind, PeerBytes, Reply, RequestId, Result, StreamTimeouts};

/// Is answered with its payload.
pub const ECHO: Kind = Kind::named("echo");
/// Is answered with chunks: see [`Order`].
pub const CHUNKS: Kind = Kind::named("chunks");
/// Is answered with its payload, of which the second number is that of the worker's host.
pub const SIGN: Kind = Kind::named("sign");
/// The same after [`NAP`].
pub const SLOW_SIGN: Kind = Kind::named("slow sign");
pub const NAP: Duration = Duration::from_millis(1);

/// The number of the worker's host, in its environment.
pub const HOST: &str = "SLIPRING_BENCH_HOST";

/// How many requests the worker serves at the same time, in its environment.
pub const AT_ONCE: &str = "SLIPRING_BENCH_AT_ONCE";

/// The names of the roles of a gateway: the backend is in its own process, or is a pool with one worker
/// that serves one request at a time, or several by threads.
pub const IN_PROCESS: &str = "in-process";
pub const WORKER: &str = "worker";
pub const THREADS: &str = "threads";

/// A known pattern that begins with a running number.
pub fn pattern(len: usize, number: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|at| (at * 7 + at / 251) as u8).collect();
    set_number(&mut bytes, 0, number);
    bytes
}

/// Writes the first, second ... number at the beginning of a pattern.
pub fn set_number(bytes: &mut [u8], at: usize, number: u64) {
    bytes[at * 8..][..8].copy_from_slice(&number.to_le_bytes());
}

pub fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at * 8..][..8].try_into().unwrap())
}

/// How many chunks a request asks for, and how long they are.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    pub count: u64,
    pub len: usize,
}

impl Order {
    pub fn to_bytes(self) -> Vec<u8> {
        [self.count.to_le_bytes(), (self.len as u64).to_le_bytes()].concat()
    }

    pub fn of(bytes: &[u8]) -> Self {
        Self { count: number(bytes, 0), len: number(bytes, 1) as usize }
    }
}

/// The chunks of an order, each in memory of its own.
pub struct Chunks {
    sent: u64,
    order: Order,
    pattern: Vec<u8>,
}

impl Chunks {
    pub fn of(order: &[u8]) -> Self {
        let order = Order::of(order);
        Self { sent: 0, order, pattern: pattern(order.len, 0) }
    }
}

impl Iterator for Chunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let number = self.sent;
        if number == self.order.count {
            return None;
        }
        self.sent += 1;
        set_number(&mut self.pattern, 0, number);
        Some(Bytes::copy_from_slice(&self.pattern))
    }
}

/// An iterator as a stream that never waits.
pub struct Ready<I>(pub I);

impl<I: Iterator + Unpin> futures_core::Stream for Ready<I> {
    type Item = I::Item;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<I::Item>> {
        Poll::Ready(self.0.next())
    }
}

/// Answers with the payload, which is copied from ring to ring: what a worker does beside is not
/// measured here.
fn echo(payload: PeerBytes<'_>, responder: Responder<'_>) -> Result<Done> {
    let mut slot = responder.claim(payload.len())?;
    payload.copy_to(slot.payload())?;
    Ok(slot.send())
}

/// The same on one of several threads.
fn echo_owned(payload: PeerBytes<'_>, responder: OwnedResponder) -> Result<()> {
    let mut slot = responder.claim(payload.len())?;
    payload.copy_to(slot.payload())?;
    slot.send()
}

/// Serves as a worker.
pub fn serve_as_worker() {
    match std::env::var(AT_ONCE).unwrap().parse().unwrap() {
        1 => serve_alone(),
        count => {
            let threads = Threads::new(count);
            let threads = threads
                .on(ECHO, |(), request, responder| Ok(echo_owned(request.payload(), responder)?));
            Worker::new(|_| Ok(())).threads(threads).serve().unwrap();
        }
    }
}

/// Serves one request at a time.
fn serve_alone() {
    let host: u64 = std::env::var(HOST).map_or(0, |host| host.parse().unwrap());
    let sign = move |payload: Vec<u8>| {
        let mut signed = payload;
        set_number(&mut signed, 1, host);
        signed
    };
    let worker = Worker::new(|_| Ok(()))
        .on(ECHO, |(), request, responder| Ok(echo(request.payload(), responder)?))
        .on(CHUNKS, |(), request, responder| {
            let order = Order::of(&request.to_vec());
            let (mut chunk, mut stream) = (pattern(order.len, 0), responder.stream());
            for number in 0..order.count {
                set_number(&mut chunk, 0, number);
                stream.send(&chunk)?;
            }
            Ok(stream.end()?)
        })
        .on(SIGN, move |(), request, responder| Ok(responder.send(&sign(request.to_vec()))?))
        .on(SLOW_SIGN, move |(), request, responder| {
            std::thread::sleep(NAP);
            Ok(responder.send(&sign(request.to_vec()))?)
        });
    worker.serve().unwrap();
}

/// Answers in the gateway's own process.
#[derive(Debug)]
pub struct InProcess;

impl Backend for InProcess {
    fn role(&self) -> &str {
        IN_PROCESS
    }

    fn load(&self) -> BackendLoad {
        let mut load = BackendLoad::default();
        (load.places, load.is_ready) = (1, true);
        load
    }

    fn call(&self, request: BackendRequest, _: Duration) -> BoxFuture<'static, Result<Reply>> {
        Box::pin(async move {
            // As a worker's ring gets it: one copy, of however many pieces.
            let payload = request.payload();
            let mut copy = vec![0; payload.encoded_len()];
            payload.encode(&mut copy)?;
            Ok(Reply::from_owner(RequestId::from(1), copy))
        })
    }

    fn submit(
        &self,
        request: BackendRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Reply>> {
        self.call(request, timeout)
    }

    fn stream(
        &self,
        request: BackendRequest,
        _: StreamTimeouts,
    ) -> BoxFuture<'static, Result<BoxChunks>> {
        Box::pin(async move {
            let order = request.payload().as_parts().unwrap().concat();
            let reply = |chunk| Ok(Reply::from_owner(RequestId::from(1), chunk));
            Ok(Box::pin(Ready(Chunks::of(&order).map(reply))) as BoxChunks)
        })
    }

    fn ping(&self, _: Duration) -> BoxFuture<'static, Vec<Result<Health>>> {
        Box::pin(async { Vec::new() })
    }

    fn abort(&self) {}

    fn clear_abort(&self) {}

    fn close(&self, _: Duration) -> BoxFuture<'static, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}
