//! The raw ring between two processes: round trips, and streams by frame size.
//!
//!     cargo bench --bench ring
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

mod support;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use slipring::{Config, RawLink, WaitStrategy};
use support::{ASK, DATA, LONG, data, header, raw, serve_if_worker, sum};

fn busy() -> Config {
    // So long that neither side sleeps while a sample is taken.
    let wait = WaitStrategy::SpinThenPark(Duration::from_millis(5));
    Config::builder().wait_strategy(wait).build().unwrap()
}

fn round_trip(link: &mut RawLink, payload: &[u8]) {
    let mut claim = link.claim(payload.len(), LONG).unwrap();
    claim.payload().copy_from_slice(payload);
    claim.commit(header(DATA));
    let frame = link.recv(LONG).unwrap();
    let mut answer = [0; 4096];
    let answer = &mut answer[..payload.len()];
    frame.payload().copy_to(answer).unwrap();
    assert_eq!(answer, payload);
}

fn round_trips(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring/round trip");
    for len in [8, 32, 64, 1024, 4096] {
        let mut link = raw("echo", busy());
        let payload = data(1, len);
        round_trip(&mut link, &payload);
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            bencher.iter(|| round_trip(&mut link, &payload));
        });
    }
    let (mut sender, mut receiver) = raw("echo", busy()).split();
    let payload = data(1, 4096);
    group.bench_function("4096 in halves", |bencher| {
        bencher.iter(|| {
            let mut claim = sender.claim(payload.len(), LONG).unwrap();
            claim.payload().copy_from_slice(&payload);
            claim.commit(header(DATA));
            let frame = receiver.recv(LONG).unwrap();
            let mut answer = [0; 4096];
            frame.payload().copy_to(&mut answer).unwrap();
            assert_eq!(answer, payload[..]);
        });
    });
    let mut link = raw("echo", Config::default());
    let payload = data(1, 64);
    group.bench_function("64 after 1 ms idle", |bencher| {
        bencher.iter_custom(|iterations| {
            (0..iterations)
                .map(|_| {
                    std::thread::sleep(Duration::from_millis(1));
                    let start = Instant::now();
                    round_trip(&mut link, &payload);
                    start.elapsed()
                })
                .sum()
        });
    });
    group.finish();
}

/// Sends `count` frames and waits until the worker has added all of their bytes up.
fn stream(link: &mut RawLink, payload: &[u8], count: u64) -> Duration {
    let expected = sum(payload).wrapping_mul(count);
    let start = Instant::now();
    for _ in 0..count {
        let mut claim = link.claim(payload.len(), LONG).unwrap();
        claim.payload().copy_from_slice(payload);
        claim.commit_lazily(header(DATA));
    }
    link.claim(0, LONG).unwrap().commit(header(ASK));
    let frame = link.recv(LONG).unwrap();
    let took = start.elapsed();
    let mut answer = [0; 16];
    frame.payload().copy_to(&mut answer).unwrap();
    let answer = answer.as_chunks::<8>().0;
    assert_eq!(u64::from_le_bytes(answer[0]), count, "frames");
    assert_eq!(u64::from_le_bytes(answer[1]), expected, "sum of all bytes");
    took
}

fn streams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring/stream");
    for len in [48, 64, 1 << 10, 4 << 10, 96 << 10, 256 << 10, 1 << 20] {
        let mut link = raw("sink", busy());
        let payload = data(3, len);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            bencher.iter_custom(|iterations| stream(&mut link, &payload, iterations));
        });
    }
    group.finish();
}

fn main() {
    if serve_if_worker() {
        return;
    }
    let mut criterion = support::criterion();
    round_trips(&mut criterion);
    streams(&mut criterion);
    criterion.final_summary();
}
