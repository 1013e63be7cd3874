//! The public channel between two processes: calls, embedding calls, streams of chunks.
//!
//!     cargo bench --bench channel
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

mod support;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use slipring::payload::{MatrixReader, TextBatch};
use slipring::{Channel, Config, Kind, WaitStrategy};
use support::{CHUNKS, DIM, ECHO, LONG, check_matrix, data, serve_if_worker, spawner, value};

fn channel(wait: WaitStrategy) -> Channel {
    let config = Config::builder().wait_strategy(wait).build().unwrap();
    let channel = spawner("").config(config).spawn().unwrap();
    channel.wait_ready(LONG).unwrap();
    channel
}

fn busy() -> WaitStrategy {
    WaitStrategy::SpinThenPark(Duration::from_millis(5))
}

fn echo(channel: &Channel, payload: &[u8]) {
    let reply = channel.call(ECHO, payload, LONG).unwrap();
    let mut answer = [0; 4096];
    let answer = &mut answer[..payload.len()];
    reply.payload().copy_to(answer).unwrap();
    assert_eq!(answer, payload);
}

fn calls(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("channel/call");
    let busy = channel(busy());
    for len in [8, 64, 1024, 4096] {
        let payload = data(1, len);
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            bencher.iter(|| echo(&busy, &payload));
        });
    }
    drop(busy);
    let idle = channel(Config::default().wait_strategy());
    let payload = data(1, 64);
    group.bench_function("64 after 1 ms idle", |bencher| {
        bencher.iter_custom(|iterations| {
            (0..iterations)
                .map(|_| {
                    std::thread::sleep(Duration::from_millis(1));
                    let start = Instant::now();
                    echo(&idle, &payload);
                    start.elapsed()
                })
                .sum()
        });
    });
    group.finish();
}

/// Measures calls with each side bound to a processor of its own, and with both bound to one.
/// Whether a side spins depends on where the two sides run, and not on where they may run. A
/// machine with one processor has no row for two.
fn bound_calls(criterion: &mut Criterion) {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let payload = data(1, 64);
    for (place, worker) in [("apart", 1), ("together", 0)].into_iter().filter(|p| p.1 < processors)
    {
        let mut group = criterion.benchmark_group(format!("channel/call 64, bound {place}"));
        for (name, wait) in
            [("default", Config::default().wait_strategy()), ("spin", WaitStrategy::Spin)]
        {
            let config = Config::builder().wait_strategy(wait).build().unwrap();
            let channel = spawner("").cpus([worker as u32]).config(config).spawn().unwrap();
            channel.wait_ready(LONG).unwrap();
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|iterations| {
                    // Only this thread is bound, and not the thread that criterion uses.
                    std::thread::scope(|scope| {
                        let calling = scope.spawn(|| {
                            support::bind_thread(0);
                            let start = Instant::now();
                            (0..iterations).for_each(|_| echo(&channel, &payload));
                            start.elapsed()
                        });
                        calling.join().unwrap()
                    })
                });
            });
        }
        group.finish();
    }
}

/// Measures calls with 64 texts of 200 bytes that are answered by a matrix of 64 × 384.
fn embedding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("channel/embed 64 x 384");
    let texts: Vec<String> = (0..64).map(|i| "x".repeat(190 + i % 20)).collect();
    let lens: Vec<usize> = texts.iter().map(String::len).collect();
    let mut out = vec![0.0; 64 * DIM];
    for (name, wait) in [("busy", busy()), ("default", Config::default().wait_strategy())] {
        let channel = channel(wait);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let batch = TextBatch::new(&texts).unwrap();
                let reply = channel.call(Kind::EMBED, &batch, LONG).unwrap();
                let reader = MatrixReader::new(&reply).unwrap();
                check_matrix(&reader, &lens, &mut out);
            });
        });
    }
    group.finish();
}

fn chunks(channel: &Channel, count: u64, rows: u64, out: &mut Vec<f32>) -> Duration {
    let request: Vec<u8> = [count, rows].iter().flat_map(|n| n.to_le_bytes()).collect();
    let start = Instant::now();
    let mut seen = 0;
    for chunk in channel.stream(CHUNKS, &request, LONG).unwrap() {
        let chunk = chunk.unwrap();
        MatrixReader::new(&chunk).unwrap().copy_to_vec(out).unwrap();
        assert_eq!(out[rows as usize * DIM - 1], value(0, rows as usize * DIM - 1, 0));
        seen += 1;
    }
    assert_eq!(seen, count);
    start.elapsed()
}

fn streams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("channel/stream of rows x 384");
    let channel = channel(busy());
    let mut out = Vec::new();
    for rows in [1, 64, 512] {
        group.throughput(Throughput::Bytes(rows * DIM as u64 * 4));
        group.bench_function(BenchmarkId::from_parameter(rows), |bencher| {
            bencher.iter_custom(|count| chunks(&channel, count, rows, &mut out));
        });
    }
    group.finish();
}

fn main() {
    if serve_if_worker() {
        return;
    }
    let mut criterion = support::criterion();
    calls(&mut criterion);
    bound_calls(&mut criterion);
    embedding(&mut criterion);
    streams(&mut criterion);
    criterion.final_summary();
}
