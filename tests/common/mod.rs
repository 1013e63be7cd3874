//! Helpers of the tests. A worker process of a test is the test's own program, which runs one test
//! alone: the one that [`worker_entry!`] declares, or another that serves.
#![allow(dead_code, unused_imports, unused_macros, reason = "each binary uses a part of this")]
#![allow(unreachable_pub, missing_docs, reason = "a module of tests")]

mod answers;
#[cfg(feature = "tokio")]
mod async_worker;
mod backend;
mod channels;
#[cfg(feature = "named")]
pub mod named;
mod process;
mod reading;
mod wait;
mod worker;

#[cfg(feature = "tokio")]
pub use async_worker::*;
pub(crate) use backend::conformance;
pub use backend::*;
pub(crate) use channels::worker_entry;
pub use channels::*;
pub use process::*;
pub use reading::*;
pub use wait::*;
pub use worker::*;

/// Deterministic bytes, different for each seed and place.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    // Each byte on its own takes long without optimization: a part is computed, and repeated with the
    // place of each. No frame's length is a multiple of this prime.
    const PART: usize = 1021;
    let part: Vec<u8> = (0..PART.min(len) as u64)
        .map(|i| {
            let x = (i ^ seed.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (x >> 56) as u8
        })
        .collect();
    let mut bytes = part.repeat(len.div_ceil(PART));
    for (place, part) in bytes.chunks_exact_mut(PART).enumerate().skip(1) {
        part[..8].copy_from_slice(&(seed ^ (place as u64).rotate_left(40)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The chunks that a request of the kind [`COUNT_ALL`] asks for.
pub fn patterns(request: &[u8]) -> impl Iterator<Item = Vec<u8>> + use<> {
    let request = numbers(request);
    let count = request[0];
    let lens = request.into_iter().skip(1).cycle();
    (0..count).zip(lens).map(|(i, len)| pattern(i, len as usize))
}

/// The bytes of numbers, little-endian.
pub fn encode(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// The numbers of bytes that [`encode`] made.
pub fn numbers(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect()
}

/// How often a test repeats itself: the number in the environment variable, or else `default`.
pub fn repetitions(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |count| count.parse().unwrap())
}

/// The `p`-th percentile of sorted durations.
pub fn percentile(sorted: &[std::time::Duration], p: usize) -> std::time::Duration {
    sorted[(sorted.len() * p / 100).min(sorted.len() - 1)]
}
