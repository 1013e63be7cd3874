//! What the numbers of a block are: one list for channels, one for roles of pools.
//!
//! A number keeps its place for ever. New ones are added at the end; a reader leaves out those that it
//! does not know.

/// What a number counts or measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Field {
    /// Its name, in the form of a metric's.
    pub name: &'static str,
    /// Its unit: `requests`, `bytes`, `nanoseconds`, …
    pub unit: &'static str,
    /// Whether it only grows.
    pub is_counter: bool,
    /// What it means.
    pub help: &'static str,
}

const fn counter(name: &'static str, unit: &'static str, help: &'static str) -> Field {
    Field { name, unit, is_counter: true, help }
}

const fn gauge(name: &'static str, unit: &'static str, help: &'static str) -> Field {
    Field { name, unit, is_counter: false, help }
}
