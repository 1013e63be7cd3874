//! Awaited calls between two processes, on a current-thread and on a multi-thread runtime. The
//! ring is read by tokio or by the library's own thread, with and without spinning. For
//! comparison: a blocking call, and tokio over a Unix socket to another process that echoes.
//!
//!     cargo bench --features tokio --bench tasks
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

mod support;

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use slipring::tasks::AsyncChannel;
use support::{CHUNKS, DIM, ECHO, LONG, data, serve_if_worker, spawner, value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

/// The environment variable of the process that echoes what comes over its standard input, which
/// is a socket.
const ECHO_SOCKET: &str = "SLIPRING_BENCH_ECHO_SOCKET";
const SPIN: Duration = Duration::from_micros(50);

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn ready(channel: AsyncChannel) -> AsyncChannel {
    channel.blocking().wait_ready(LONG).unwrap();
    channel
}

async fn on_tokio() -> AsyncChannel {
    ready(AsyncChannel::spawn_on_tokio(spawner("")).await.unwrap())
}

async fn on_thread() -> AsyncChannel {
    ready(AsyncChannel::spawn(spawner("")).await.unwrap())
}

async fn echo(channel: &AsyncChannel, payload: &[u8]) {
    let reply = channel.call(ECHO, payload, LONG).await.unwrap();
    let mut answer = [0; 4096];
    let answer = &mut answer[..payload.len()];
    reply.payload().copy_to(answer).unwrap();
    assert_eq!(answer, payload);
}

async fn echoes(channel: &AsyncChannel, payload: &[u8], count: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..count {
        echo(channel, payload).await;
    }
    start.elapsed()
}

fn latency(criterion: &mut Criterion) {
    for len in [64, 4096] {
        let payload = data(1, len);
        let mut group = criterion.benchmark_group(format!("tasks/call of {len}"));

        let blocking = spawner("").spawn().unwrap();
        blocking.wait_ready(LONG).unwrap();
        group.bench_function("a blocking thread", |bencher| {
            bencher.iter(|| {
                let reply = blocking.call(ECHO, &payload[..], LONG).unwrap();
                let mut answer = [0; 4096];
                reply.payload().copy_to(&mut answer[..len]).unwrap();
                assert_eq!(answer[..len], payload);
            });
        });
        drop(blocking);

        for (name, runtime) in [("current", current_thread()), ("multi", multi_thread())] {
            let channel = runtime.block_on(on_tokio());
            let spinning = channel.clone().with_spin(SPIN);
            for (how, channel) in [("", channel), (", spin", spinning)] {
                group.bench_function(format!("{name}-thread{how}"), |bencher| {
                    bencher.iter_custom(|count| {
                        // In a task of the runtime, and not on the thread that blocks on it.
                        let (channel, payload) = (channel.clone(), payload.clone());
                        let task = async move { echoes(&channel, &payload, count).await };
                        runtime.block_on(async { tokio::spawn(task).await.unwrap() })
                    });
                });
            }
            let channel = runtime.block_on(on_thread());
            group.bench_function(format!("{name}-thread, library's reader"), |bencher| {
                bencher.iter_custom(|count| {
                    let (channel, payload) = (channel.clone(), payload.clone());
                    let task = async move { echoes(&channel, &payload, count).await };
                    runtime.block_on(async { tokio::spawn(task).await.unwrap() })
                });
            });
            let mut socket = EchoSocket::start(&runtime);
            group.bench_function(format!("{name}-thread, a Unix socket"), |bencher| {
                bencher.iter_custom(|count| runtime.block_on(socket.echoes(&payload, count)));
            });
        }
        group.finish();
    }
}

/// Measures what a call costs while calls of other tasks are in flight on the same channel.
fn pipelined(criterion: &mut Criterion) {
    let payload = data(1, 64);
    let mut group = criterion.benchmark_group("tasks/calls of 64 in flight at once");
    group.throughput(Throughput::Elements(1));
    for (name, runtime) in [("current", current_thread()), ("multi", multi_thread())] {
        let channel = runtime.block_on(on_tokio());
        for tasks in [16, 256] {
            group.bench_function(BenchmarkId::new(format!("{name}-thread"), tasks), |bencher| {
                bencher.iter_custom(|count| {
                    runtime.block_on(async {
                        let start = Instant::now();
                        let each = count.div_ceil(tasks);
                        let tasks: Vec<_> = (0..tasks)
                            .map(|_| {
                                let (channel, payload) = (channel.clone(), payload.clone());
                                tokio::spawn(async move { echoes(&channel, &payload, each).await })
                            })
                            .collect();
                        for task in tasks {
                            task.await.unwrap();
                        }
                        start.elapsed()
                    })
                });
            });
        }
    }
    group.finish();
}

/// Measures streams of chunks of one row of 384 values.
fn streams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tasks/stream of 1 x 384");
    group.throughput(Throughput::Bytes(DIM as u64 * 4));
    for (name, runtime) in [("current", current_thread()), ("multi", multi_thread())] {
        let channel = runtime.block_on(on_tokio());
        group.bench_function(format!("{name}-thread"), |bencher| {
            bencher.iter_custom(|count| {
                let channel = channel.clone();
                let task = async move {
                    let request: Vec<u8> =
                        [count, 1].iter().flat_map(|n| n.to_le_bytes()).collect();
                    let (start, mut out) = (Instant::now(), Vec::new());
                    let mut stream = channel.stream(CHUNKS, &request, LONG).await.unwrap();
                    let mut seen = 0;
                    while let Some(chunk) = stream.next_chunk().await.unwrap() {
                        let matrix = slipring::payload::MatrixReader::new(&chunk).unwrap();
                        matrix.copy_to_vec(&mut out).unwrap();
                        assert_eq!(out[DIM - 1], value(0, DIM - 1, 0));
                        seen += 1;
                    }
                    assert_eq!(seen, count);
                    start.elapsed()
                };
                runtime.block_on(async { tokio::spawn(task).await.unwrap() })
            });
        });
    }
    group.finish();
}

/// A socket to a second process, which reads and writes with blocking calls.
struct EchoSocket {
    stream: Option<UnixStream>,
    child: Child,
}

impl EchoSocket {
    fn start(runtime: &Runtime) -> Self {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .env(ECHO_SOCKET, "1")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let _context = runtime.enter();
        Self { stream: Some(UnixStream::from_std(ours).unwrap()), child }
    }

    /// Sends a length and a payload and waits for the same bytes, `count` times, in a task of the
    /// runtime as for the channel.
    async fn echoes(&mut self, payload: &[u8], count: u64) -> Duration {
        let mut stream = self.stream.take().unwrap();
        let payload = payload.to_vec();
        let task = tokio::spawn(async move {
            let mut message = (payload.len() as u32).to_le_bytes().to_vec();
            message.extend(&payload);
            let mut answer = vec![0; message.len()];
            let start = Instant::now();
            for _ in 0..count {
                stream.write_all(&message).await.unwrap();
                stream.read_exact(&mut answer).await.unwrap();
                assert_eq!(answer, message);
            }
            (stream, start.elapsed())
        });
        let (stream, elapsed) = task.await.unwrap();
        self.stream = Some(stream);
        elapsed
    }
}

impl Drop for EchoSocket {
    fn drop(&mut self) {
        // The child ends when it reads the end of the file.
        drop(self.stream.take());
        self.child.wait().unwrap();
    }
}

fn echo_socket() {
    use std::io::{Read, Write};
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut socket = std::os::unix::net::UnixStream::from(socket);
    let mut message = Vec::new();
    let mut len = [0; 4];
    while socket.read_exact(&mut len).is_ok() {
        message.clear();
        message.extend(len);
        message.resize(4 + u32::from_le_bytes(len) as usize, 0);
        socket.read_exact(&mut message[4..]).unwrap();
        socket.write_all(&message).unwrap();
    }
}

fn main() {
    if std::env::var_os(ECHO_SOCKET).is_some() {
        return echo_socket();
    }
    if serve_if_worker() {
        return;
    }
    let mut criterion = support::criterion();
    latency(&mut criterion);
    pipelined(&mut criterion);
    streams(&mut criterion);
    criterion.final_summary();
}
