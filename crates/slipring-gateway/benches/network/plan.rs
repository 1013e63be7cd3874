//! What is done, and how often.

use std::ops::Range;
use std::time::Duration;

use crate::figures::{SOCKET, THREADS, TONIC, WAYS};

/// What one row is about.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    Calls {
        len: usize,
        count: u64,
    },
    Stream {
        len: usize,
        count: u64,
    },
    /// Calls by several callers at once, which begin none any more after so long.
    Load {
        len: usize,
        callers: usize,
        longest: Duration,
    },
}

impl Work {
    pub fn table(self) -> Table {
        match self {
            Self::Calls { .. } | Self::Stream { .. } => Table::Alone,
            Self::Load { .. } => Table::Load,
        }
    }
}

/// Rows with the same columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// One request at a time.
    Alone,
    /// Several callers at once, over one connection.
    Load,
}

impl Table {
    pub const ALL: [Self; 2] = [Self::Alone, Self::Load];

    pub fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Load => "load",
        }
    }

    pub fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|table| table.name() == name).unwrap()
    }

    /// The ways that it compares.
    pub fn ways(self) -> Range<usize> {
        match self {
            // A worker with threads is no faster with one request.
            Self::Alone => SOCKET..THREADS,
            // A bare socket has one request at a time.
            Self::Load => TONIC..WAYS,
        }
    }
}

/// What of all is to be measured.
pub struct Plan {
    pub rounds: usize,
    /// Whether it is to be seen only that all works.
    pub is_trial: bool,
    words: Vec<String>,
}

const PARTS: [&[&str]; 4] = [
    &["loopback", "veth", "fleet"],
    &["plain", "tls"],
    &["calls", "streams", "load"],
    &["anywhere"],
];

impl Plan {
    /// From the words of the command line: names of parts, and the number of rounds.
    pub fn parse(words: &[String]) -> Self {
        // Told by `cargo bench`, and not by `cargo test`.
        let is_trial = !words.iter().any(|word| word == "--bench");
        let mut plan = Self { rounds: if is_trial { 1 } else { 25 }, is_trial, words: Vec::new() };
        for word in words.iter().filter(|word| !word.starts_with("--")) {
            match word.parse() {
                Ok(rounds) => plan.rounds = rounds,
                Err(_) => {
                    let is_part = PARTS.iter().any(|parts| parts.contains(&word.as_str()));
                    assert!(is_part, "{word:?} is none of the parts: {PARTS:?}");
                    plan.words.push(word.clone());
                }
            }
        }
        plan
    }

    /// Whether a part is chosen: by its name, or since none of its kind is.
    pub fn has(&self, part: &str) -> bool {
        let parts = PARTS.iter().find(|parts| parts.contains(&part)).unwrap();
        let is_free = !self.words.iter().any(|word| parts.contains(&word.as_str()));
        is_free || self.asks_for(part)
    }

    /// Whether a word was given.
    pub fn asks_for(&self, word: &str) -> bool {
        self.words.iter().any(|given| given == word)
    }

    /// The rows of a table. Each way takes some 50 ms for one request after another, and 100 ms for
    /// several callers.
    pub fn works(&self, table: Table) -> Vec<Work> {
        match table {
            Table::Alone => {
                let calls = [(64, 200), (96 << 10, 100), (1 << 20, 20)];
                let streams = [(64, 20_000), (96 << 10, 500), (1 << 20, 40)];
                let count = |count| if self.is_trial { 3 } else { count };
                let calls = calls.map(|(len, most)| Work::Calls { len, count: count(most) });
                let streams = streams.map(|(len, most)| Work::Stream { len, count: count(most) });
                let calls = calls.into_iter().filter(|_| self.has("calls"));
                calls.chain(streams.into_iter().filter(|_| self.has("streams"))).collect()
            }
            Table::Load => {
                let longest = Duration::from_millis(if self.is_trial { 5 } else { 100 });
                let rows = [64, 96 << 10]
                    .into_iter()
                    .flat_map(|len| [1, 8, 64].map(|callers| Work::Load { len, callers, longest }));
                rows.filter(|_| self.has("load")).collect()
            }
        }
    }
}
