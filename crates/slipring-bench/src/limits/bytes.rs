//! Copies, sums and generated data at the width of the machine's vectors.

use std::sync::OnceLock;

/// Whether 32-byte vectors can be used.
fn has_avx2() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    #[cfg(target_arch = "x86_64")]
    return *HAS.get_or_init(|| std::arch::is_x86_feature_detected!("avx2"));
    #[cfg(not(target_arch = "x86_64"))]
    return *HAS.get_or_init(|| false);
}

/// The sum of the bytes as little-endian words; what is left over counts byte by byte.
#[must_use]
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    if bytes.len() < 256 {
        return sum_words(bytes);
    }
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the processor has AVX2.
        return unsafe { sum_avx2(bytes) };
    }
    sum_words(bytes)
}

#[inline(always)]
fn sum_words(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut sums = [0_u64; 16];
    let (lanes, few) = words.as_chunks::<16>();
    for lane in lanes {
        for (sum, word) in sums.iter_mut().zip(lane) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    let few = few.iter().fold(0_u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    let sum = sums.iter().fold(few, |sum, word| sum.wrapping_add(*word));
    rest.iter().fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8]) -> u64 {
    sum_words(bytes)
}

/// Fills the bytes with the words `first`, `first + 1`, and so on.
#[inline]
pub fn generate(bytes: &mut [u8], first: u64) {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() >= 256 && has_avx2() {
        // SAFETY: the processor has AVX2.
        return unsafe { generate_avx2(bytes, first) };
    }
    generate_words(bytes, first);
}

#[inline(always)]
fn generate_words(bytes: &mut [u8], first: u64) {
    let (words, rest) = bytes.as_chunks_mut::<8>();
    let mut next = first;
    for word in words {
        *word = next.to_le_bytes();
        next = next.wrapping_add(1);
    }
    rest.fill(0);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn generate_avx2(bytes: &mut [u8], first: u64) {
    generate_words(bytes, first);
}

/// What [`sum`] finds where [`generate`] was.
#[must_use]
pub fn generated_sum(len: usize, first: u64) -> u64 {
    let words = (len / 8) as u64;
    let pairs = u128::from(words) * u128::from(words.saturating_sub(1)) / 2;
    words.wrapping_mul(first).wrapping_add(pairs as u64)
}

/// Copies all of `source` to the equally long `target`.
#[inline]
pub fn copy(target: &mut [u8], source: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if source.len() >= 128 && has_avx2() && target.len() == source.len() {
        // SAFETY: the processor has AVX2.
        return unsafe { copy_avx2(target, source) };
    }
    copy_words(target, source);
}

#[inline]
fn copy_words(target: &mut [u8], source: &[u8]) {
    let (to, to_rest) = target.as_chunks_mut::<16>();
    let (from, from_rest) = source.as_chunks::<16>();
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = *from;
    }
}

/// As [`copy`], past the caches.
#[inline]
pub fn copy_around_caches(target: &mut [u8], source: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() && target.len() == source.len() && target.as_ptr().addr().is_multiple_of(32) {
        // SAFETY: the processor has AVX2, and the target is aligned for its stores.
        unsafe { stream_avx2(target, source) };
        // SAFETY: the processor has AVX2, and so SSE. Orders the stores before a flag's.
        return unsafe { std::arch::x86_64::_mm_sfence() };
    }
    copy(target, source);
}

/// Copies in steps of four vectors, with `$store` for each; what is left over as words.
#[cfg(target_arch = "x86_64")]
macro_rules! vector_copy {
    ($name:ident, $store:ident) => {
        #[target_feature(enable = "avx2")]
        fn $name(target: &mut [u8], source: &[u8]) {
            use std::arch::x86_64::{__m256i, _mm256_loadu_si256, $store};
            #[inline(always)]
            fn load(from: &[u8; 32]) -> __m256i {
                // SAFETY: 32 bytes are there; inlined where the processor has AVX2.
                unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
            }
            #[inline(always)]
            fn store(to: &mut [u8; 32], vector: __m256i) {
                // SAFETY: 32 bytes are there, aligned if the store needs it.
                unsafe { $store(to.as_mut_ptr().cast(), vector) }
            }
            let (to, to_rest) = target.as_chunks_mut::<32>();
            let (from, from_rest) = source.as_chunks::<32>();
            let (to_four, to_few) = to.as_chunks_mut::<4>();
            let (from_four, from_few) = from.as_chunks::<4>();
            for ([to_a, to_b, to_c, to_d], [a, b, c, d]) in to_four.iter_mut().zip(from_four) {
                let (a, b, c, d) = (load(a), load(b), load(c), load(d));
                store(to_a, a);
                store(to_b, b);
                store(to_c, c);
                store(to_d, d);
            }
            for (to, from) in to_few.iter_mut().zip(from_few) {
                store(to, load(from));
            }
            copy_words(to_rest, from_rest);
        }
    };
}

#[cfg(target_arch = "x86_64")]
vector_copy!(copy_avx2, _mm256_storeu_si256);
#[cfg(target_arch = "x86_64")]
vector_copy!(stream_avx2, _mm256_stream_si256);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_copied_and_summed_at_every_length() {
        let source: Vec<u8> = (0..5000_u32).map(|i| (i * 7 + i / 256) as u8).collect();
        for len in (0..700).chain([4096, 4999]) {
            let source = &source[..len];
            for copy in [copy, copy_around_caches] {
                let mut target = vec![0; len];
                copy(&mut target, source);
                assert_eq!(target, source);
            }
            assert_eq!(sum(source), sum_words(source));
            let (words, rest) = source.as_chunks::<8>();
            let words = words.iter().map(|word| u128::from(u64::from_le_bytes(*word)));
            let expected = words.sum::<u128>() + rest.iter().map(|b| u128::from(*b)).sum::<u128>();
            assert_eq!(sum(source), expected as u64);
        }
    }

    #[test]
    fn what_is_generated_has_the_sum_that_is_told() {
        for len in [0, 8, 64, 256, 4096, 4100] {
            let mut bytes = vec![1; len];
            generate(&mut bytes, u64::MAX - 3);
            assert_eq!(sum(&bytes), generated_sum(len, u64::MAX - 3), "{len}");
        }
    }
}
