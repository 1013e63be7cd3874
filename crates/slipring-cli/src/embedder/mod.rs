//! The built-in embedder: a pure function from a text to `dim` numbers.
//!
//! Signed feature hashing (Weinberger, Dasgupta, Langford, Smola and
//! Attenberg, "Feature Hashing for Large Scale Multitask Learning", ICML 2009)
//! of words, pairs of neighbouring words, and character n-grams inside word
//! boundaries (as in Bojanowski et al., "Enriching Word Vectors with Subword
//! Information", 2017, and scikit-learn's `char_wb` analyser), with sublinear
//! term frequency (1 + ln tf), inverse document frequency (Spärck Jones, "A
//! Statistical Interpretation of Term Specificity and Its Application in
//! Retrieval", 1972) and L2 normalisation.
//!
//! It is **lexical, not semantic**: two texts are near each other when they
//! share words or parts of words, and a synonym that shares no letters is
//! simply another word. A word that few texts have counts for more than "a" or
//! "the"; the frequencies are those of English glosses, and a word that is not
//! among them counts as a rare one. It needs no model file and no download.
//!
//! The result depends on the text and on `dim` alone: every operation is
//! integer arithmetic or a correctly rounded IEEE 754 operation, carried out
//! in one fixed order, so all platforms and all batch sizes give the same
//! bits. (The Unicode tables are those of the crates that were compiled in;
//! newer ones differ for newly encoded characters only.)
//!
//! A text without a single visible character is the zero vector.

#![allow(
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "numeric code: float and integer conversions and bounded table look-ups are its point"
)]

mod fold;
mod frequencies;

use frequencies::Weights;

/// Lengths, in characters, of the n-grams taken from `" word "`.
const NGRAMS: std::ops::RangeInclusive<usize> = 3..=5;

/// The kind of a feature. It seeds the hash.
#[derive(Clone, Copy)]
enum Feature {
    Word,
    WordPair,
    CharNgram,
}

/// The length of the vector that the n-grams of a word add up to, if no two of them meet,
/// in lengths of the word's own. It is shared by all of them, or long words would
/// outweigh short ones.
const NGRAMS_OF_WORD: f64 = 2.0;

/// The weight of a pair of words, if each of the two has the weight 1.
const PAIR: f64 = 0.5;

const SIGN_BIT: u64 = 0b1;

/// Above this many elements scratch space is given back after the text.
const KEEP: usize = 1 << 16;

/// Turns texts into vectors; holds scratch space, so that no word allocates.
#[derive(Debug)]
pub(crate) struct Embedder {
    dim: usize,
    weights: &'static Weights,
    /// The words of the text, with a space on either side of each.
    folded: String,
    words: Vec<Word>,
    pairs: Vec<Pair>,
}

/// An occurrence of a word.
#[derive(Clone, Copy, Debug)]
struct Word {
    hash: u64,
    /// Where the space before the word is in the folded text.
    start: usize,
}

/// An occurrence of two neighbouring words.
#[derive(Clone, Copy, Debug)]
struct Pair {
    hash: u64,
    weight: f32,
}

impl Embedder {
    /// Makes an embedder whose vectors have `dim` numbers.
    pub(crate) fn new(dim: usize) -> Self {
        let weights = Weights::shipped();
        Self { dim, weights, folded: String::new(), words: Vec::new(), pairs: Vec::new() }
    }

    /// Writes the vector of `text` to `out`, which has `dim` elements.
    pub(crate) fn embed_into(&mut self, text: &str, out: &mut [f32]) {
        debug_assert_eq!(out.len(), self.dim);
        out.fill(0.0);
        fold::fold(text, &mut self.folded);
        self.collect();
        self.add_words(out);
        self.add_pairs(out);
        normalise(out);
        self.give_back();
    }

    /// Finds the words and the pairs of the folded text.
    fn collect(&mut self) {
        self.words.clear();
        self.pairs.clear();
        let mut previous: Option<u64> = None;
        let mut start = 0;
        for word in self.folded.split(' ').filter(|word| !word.is_empty()) {
            let hash = word_hash(word.as_bytes());
            self.words.push(Word { hash, start });
            start += 1 + word.len();
            if let Some(previous) = previous.replace(hash) {
                // The pair is the hash of the two words' hashes, in order.
                let state = fnv1a(seed(Feature::WordPair), &previous.to_le_bytes());
                let pair = finish(fnv1a(state, &hash.to_le_bytes()));
                let weight = (self.weights.of(previous) * self.weights.of(hash)).sqrt();
                self.pairs.push(Pair { hash: pair, weight });
            }
        }
    }

    /// Adds each word of the text once, with its parts, weighted by its number of occurrences.
    fn add_words(&mut self, out: &mut [f32]) {
        self.words.sort_unstable_by_key(|word| (word.hash, word.start));
        for run in self.words.chunk_by(|a, b| a.hash == b.hash) {
            let Word { hash, start } = run[0];
            let weight = f64::from(self.weights.of(hash)) * (1.0 + ln(run.len()));
            add(hash, weight as f32, out);
            let tail = &self.folded.as_bytes()[start..];
            let len = tail.iter().skip(1).position(|&byte| byte == b' ').unwrap_or_default();
            let padded = &tail[..len + 2];
            let share = weight * NGRAMS_OF_WORD / (ngrams(padded) as f64).sqrt();
            for_each_ngram(padded, |hash| add(hash, share as f32, out));
        }
    }

    fn add_pairs(&mut self, out: &mut [f32]) {
        self.pairs.sort_unstable_by_key(|pair| pair.hash);
        for run in self.pairs.chunk_by(|a, b| a.hash == b.hash) {
            let Pair { hash, weight } = run[0];
            let weight = f64::from(weight) * PAIR * (1.0 + ln(run.len()));
            add(hash, weight as f32, out);
        }
    }

    fn give_back(&mut self) {
        self.folded.clear();
        self.folded.shrink_to(KEEP);
        self.words.clear();
        self.words.shrink_to(KEEP);
        self.pairs.clear();
        self.pairs.shrink_to(KEEP);
    }
}

/// Adds a feature to the vector.
fn add(hash: u64, weight: f32, out: &mut [f32]) {
    let signed = if hash & SIGN_BIT == 0 { weight } else { -weight };
    // The bucket comes from the upper half of the hash, the sign from the
    // lower: they are independent.
    let bucket = ((hash >> 32) * out.len() as u64) >> 32;
    out[bucket as usize] += signed;
}

fn starts_char(byte: u8) -> bool {
    byte & 0xc0 != 0x80
}

/// Counts the n-grams of `padded`.
fn ngrams(padded: &[u8]) -> usize {
    let chars = padded.iter().filter(|&&byte| starts_char(byte)).count();
    NGRAMS.map(|n| (chars + 1).saturating_sub(n)).sum()
}

/// Calls `found` with the hash of every n-gram of `padded`; one running hash per
/// starting point yields all the lengths.
fn for_each_ngram(padded: &[u8], mut found: impl FnMut(u64)) {
    for start in 0..padded.len() {
        if !starts_char(padded[start]) {
            continue;
        }
        let mut state = seed(Feature::CharNgram);
        let mut chars = 0;
        for (at, &byte) in padded.iter().enumerate().skip(start) {
            state = fnv1a(state, &[byte]);
            if padded.get(at + 1).is_none_or(|&next| starts_char(next)) {
                chars += 1;
                if chars >= *NGRAMS.start() {
                    found(finish(state));
                }
                if chars == *NGRAMS.end() {
                    break;
                }
            }
        }
    }
}

fn normalise(out: &mut [f32]) {
    let squares: f64 = out.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    if squares > 0.0 {
        let norm = squares.sqrt();
        for x in out {
            *x = (f64::from(*x) / norm) as f32;
        }
    }
}

/// The natural logarithm from +, -, * and / alone, whose results IEEE 754
/// fixes to the bit; `f64::ln` may differ between platforms.
fn ln(n: usize) -> f64 {
    if n <= 1 {
        return 0.0;
    }
    let exponent = n.ilog2();
    // n = 2^exponent * m with 1 <= m < 2; ln m = 2 artanh((m - 1) / (m + 1)).
    let m = n as f64 / (1_u64 << exponent) as f64;
    let t = (m - 1.0) / (m + 1.0);
    // t <= 1/3, so twenty terms are far below the last bit.
    let series = (0..20).rev().fold(0.0, |sum, k| sum * t * t + 1.0 / f64::from(2 * k + 1));
    f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * t * series
}

/// FNV-1a, 64 bits, from any state.
fn fnv1a(state: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(state, |state, &byte| (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The starting state of a kind of feature: FNV's offset basis, and the kind.
fn seed(feature: Feature) -> u64 {
    fnv1a(0xcbf2_9ce4_8422_2325, &[feature as u8])
}

/// The hash of a word, of which `frequencies.rs` keeps the weights.
fn word_hash(word: &[u8]) -> u64 {
    finish(fnv1a(seed(Feature::Word), word))
}

/// Finishes a hash (MurmurHash3's 64-bit finalizer: FNV's own low bits mix badly).
fn finish(state: u64) -> u64 {
    let mut hash = state;
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod retrieval_tests;
#[cfg(test)]
mod tests;
