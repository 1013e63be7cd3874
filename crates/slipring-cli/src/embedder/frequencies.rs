//! How much a word says: its inverse document frequency.
//!
//! `frequencies.txt` was counted in the texts of `examples/glosses.txt`. Its first line is
//! the number of texts. Every other line is a number of texts, and the words that are found
//! in so many of them. A word that is not in the table is rare, or unknown.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::LazyLock;

use super::{ln, word_hash};

const TABLE: &str = include_str!("frequencies.txt");

/// Words of fewer texts are not in the table. They would be most of it, and all have about the
/// same weight.
const RARE: usize = 3;

static WEIGHTS: LazyLock<Weights> = LazyLock::new(|| Weights::parse(TABLE));

/// The weights of words, by the hash of the word.
#[derive(Debug)]
pub(super) struct Weights {
    common: HashMap<u64, f32, BuildHasherDefault<Hashed>>,
    /// The weight of every word that is not in the table.
    rare: f32,
}

impl Weights {
    /// Returns the weights of the table that the program contains.
    pub(super) fn shipped() -> &'static Self {
        &WEIGHTS
    }

    fn parse(table: &str) -> Self {
        let mut lines = table.lines();
        let texts = number(lines.next());
        let mut common = HashMap::default();
        for line in lines {
            let mut fields = line.split(' ');
            let weight = weight(number(fields.next()), texts);
            common.extend(fields.map(|word| (word_hash(word.as_bytes()), weight)));
        }
        Self { common, rare: weight(RARE, texts) }
    }

    /// Returns the weight of the word whose hash is `hash`. It is never zero.
    pub(super) fn of(&self, hash: u64) -> f32 {
        self.common.get(&hash).copied().unwrap_or(self.rare)
    }
}

fn number(field: Option<&str>) -> usize {
    // A test compares the table with the texts it was made from.
    field.and_then(|field| field.parse().ok()).unwrap_or_default()
}

/// ln((1 + all) / (1 + found)), which is over 0 if there are texts without the word.
fn weight(found: usize, all: usize) -> f32 {
    (ln(1 + all) - ln(1 + found)) as f32
}

/// Takes keys as they are, because they are hashes already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = super::fnv1a(self.0, bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fmt::Write;
    use std::fs;
    use std::path::Path;

    use super::super::fold::fold;
    use super::*;

    /// The table as it follows from the texts.
    fn count(texts: &str) -> String {
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        let mut folded = String::new();
        for text in texts.lines() {
            fold(text, &mut folded);
            for word in folded.split_whitespace().collect::<BTreeSet<_>>() {
                *found.entry(word.to_owned()).or_default() += 1;
            }
        }
        let mut words: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for (word, &count) in found.iter().filter(|(_, count)| **count > RARE) {
            words.entry(count).or_default().push(word);
        }
        let mut table = format!("{}\n", texts.lines().count());
        for (count, words) in words.iter().rev() {
            writeln!(table, "{count} {}", words.join(" ")).unwrap();
        }
        table
    }

    #[test]
    fn the_table_is_what_the_shipped_glosses_give() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let texts = fs::read_to_string(root.join("tests/data/glosses.txt")).unwrap();
        let table = count(&texts);
        if std::env::var_os("SLIPRING_COUNT_AGAIN").is_some() {
            fs::write(root.join("src/embedder/frequencies.txt"), &table).unwrap();
        }
        assert!(table == TABLE, "count again, with SLIPRING_COUNT_AGAIN=1 in the environment");
    }

    #[test]
    fn the_more_texts_have_a_word_the_less_it_weighs() {
        let weight = |word: &str| Weights::shipped().of(word_hash(word.as_bytes()));
        let weights = ["a", "the", "with", "small", "dog", "trophotropism"].map(weight);
        assert!(weights.is_sorted() && weights[0] > 0.5, "{weights:?}");
        assert_eq!(weight("trophotropism"), weight("unheard-of"));
    }
}
