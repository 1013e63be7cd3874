//! Channels over named segments, between processes that did not start each other: what the
//! tests of `calls`, `concurrency`, `health` and `streams`, which run over them too, do not cover.

mod attaching;
mod ending;
mod forking;
mod leftovers;
mod serving;
