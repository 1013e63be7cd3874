//! The built-in embedder: a pure function from a text to `dim` numbers.
//!
//! Signed feature hashing (Weinberger, Dasgupta, Langford, Smola and
//! Attenberg, "Feature Hashing for Large Scale Multitask Learning", ICML 2009)
//! of words, pairs of neighbouring words, and character n-grams inside word
//! boundaries (as in Bojanowski et al., "Enriching Word Vectors with Subword
//! Information", 2017, and scikit-learn's `char_wb` analyser), with sublinear
//! term frequency (1 + ln tf) and L2 normalisation.
//!
//! It is **lexical, not semantic**: two texts are near each other when they
//! share words or parts of words, and a synonym that shares no letters is
//! simply another word. It needs no model file and no download.
//!
//! The result depends on the text and on `dim` alone: every operation is
//! integer arithmetic or a correctly rounded IEEE 754 operation, carried out
//! in one fixed order, so all platforms and all batch sizes give the same
//! bits. (The lower-casing tables are those of the Rust release that compiled
//! the program; they change for newly encoded scripts only.)
//!
//! A text without a single visible character is the zero vector.

#![allow(
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "numeric code: float and integer conversions and bounded table look-ups are its point"
)]

/// Lengths, in characters, of the n-grams taken from `" word "`.
const NGRAMS: std::ops::RangeInclusive<usize> = 3..=5;

/// What a feature was made from. It seeds the hash, and rides in its low bits
/// so that the weight can be found again after sorting.
#[derive(Clone, Copy)]
enum Feature {
    Word,
    WordPair,
    CharNgram,
}

/// The weight of each [`Feature`], by its number. A word brings about three
/// n-grams a letter, so each of these weighs less than the word itself.
const WEIGHTS: [f64; 4] = [1.0, 0.5, 0.5, 0.0];
const FEATURE_BITS: u64 = 0b011;
const SIGN_BIT: u64 = 0b100;

/// Above this many features the scratch space is given back after the text.
const KEEP_FEATURES: usize = 1 << 16;

/// Turns texts into vectors; holds scratch space, so that no n-gram allocates.
#[derive(Debug, Default)]
pub(crate) struct Embedder {
    dim: usize,
    /// One hash per occurrence of a feature.
    features: Vec<u64>,
    /// The current word, lower-cased, with a space on either side.
    word: String,
}

impl Embedder {
    /// An embedder whose vectors have `dim` numbers.
    pub(crate) fn new(dim: usize) -> Self {
        Self { dim, ..Self::default() }
    }

    /// Writes the vector of `text` to `out`, which has `dim` elements.
    pub(crate) fn embed_into(&mut self, text: &str, out: &mut [f32]) {
        debug_assert_eq!(out.len(), self.dim);
        self.features.clear();
        self.collect(text, is_word_char);
        if self.features.is_empty() {
            // Nothing but punctuation: then the punctuation is the words.
            self.collect(text, |c| !c.is_whitespace());
        }
        self.features.sort_unstable();
        accumulate(&self.features, out);
        normalise(out);
        self.features.truncate(KEEP_FEATURES);
        self.features.shrink_to(KEEP_FEATURES);
        self.word.clear();
        self.word.shrink_to(KEEP_FEATURES);
    }

    fn collect(&mut self, text: &str, belongs: impl Fn(char) -> bool) {
        let mut previous = None;
        for word in text.split(|c| !belongs(c)).filter(|word| !word.is_empty()) {
            self.word.clear();
            self.word.push(' ');
            push_lowercase(&mut self.word, word);
            self.word.push(' ');
            let padded = self.word.as_bytes();

            let hash = fnv1a(seed(Feature::Word), &padded[1..padded.len() - 1]);
            self.features.push(tag(hash, Feature::Word));
            if let Some(previous) = previous {
                // The pair is the hash of the two words' hashes, in order.
                let state = fnv1a(seed(Feature::WordPair), &u64::to_le_bytes(previous));
                let pair = fnv1a(state, &hash.to_le_bytes());
                self.features.push(tag(pair, Feature::WordPair));
            }
            previous = Some(hash);
            push_ngrams(padded, &mut self.features);
        }
    }
}

/// Letters and digits of all scripts, with the marks, joiners and emoji that
/// stand among them; punctuation and spaces are what divides words.
fn is_word_char(c: char) -> bool {
    match c {
        '\0'..='\x7f' => c.is_ascii_alphanumeric(),
        // Latin-1 signs, general punctuation (with its joiners kept), CJK
        // punctuation, and the full-width forms of ASCII punctuation.
        '\u{80}'..='\u{bf}' => matches!(c, 'ª' | 'µ' | 'º'),
        '×' | '÷' => false,
        '\u{200c}' | '\u{200d}' => true,
        '\u{2000}'..='\u{206f}' | '\u{3000}'..='\u{3004}' | '\u{3008}'..='\u{3020}' => false,
        '\u{ff00}'..='\u{ff0f}' | '\u{ff1a}'..='\u{ff20}' | '\u{ff3b}'..='\u{ff40}' => false,
        _ => !c.is_whitespace() && !c.is_control(),
    }
}

fn push_lowercase(to: &mut String, word: &str) {
    if word.is_ascii() {
        let start = to.len();
        to.push_str(word);
        if let Some(tail) = to.get_mut(start..) {
            tail.make_ascii_lowercase();
        }
        return;
    }
    for c in word.chars() {
        // One sigma, whether or not it ends the word.
        to.extend(c.to_lowercase().map(|lower| if lower == 'ς' { 'σ' } else { lower }));
    }
}

/// Pushes every n-gram of `padded`; one running hash per starting point
/// yields all the lengths.
fn push_ngrams(padded: &[u8], features: &mut Vec<u64>) {
    let starts_char = |byte: u8| byte & 0xc0 != 0x80;
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
                    features.push(tag(state, Feature::CharNgram));
                }
                if chars == *NGRAMS.end() {
                    break;
                }
            }
        }
    }
}

/// Adds up the sorted features: equal ones are one feature with a count.
fn accumulate(features: &[u64], out: &mut [f32]) {
    out.fill(0.0);
    let dim = out.len() as u64;
    for run in features.chunk_by(|a, b| a == b) {
        let hash = run[0];
        let weight = WEIGHTS[(hash & FEATURE_BITS) as usize] * (1.0 + ln(run.len()));
        let signed = if hash & SIGN_BIT == 0 { weight } else { -weight };
        // The bucket comes from the upper half of the hash, the sign from the
        // lower: they are independent.
        let bucket = ((hash >> 32) * dim) >> 32;
        out[bucket as usize] += signed as f32;
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

/// Finishes a hash (MurmurHash3's 64-bit finalizer: FNV's own low bits mix
/// badly) and stores the kind of feature in its low bits.
fn tag(state: u64, feature: Feature) -> u64 {
    let mut hash = state;
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^= hash >> 33;
    (hash & !FEATURE_BITS) | feature as u64
}

#[cfg(test)]
#[path = "embedder_tests.rs"]
mod tests;
