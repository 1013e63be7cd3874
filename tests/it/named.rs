//! Channels over named segments, between processes that did not start each other. The tests of
//! `calls`, `concurrency`, `health` and `streams` run over them too.

mod attaching;
mod ending;
mod forking;
mod leftovers;
mod recorded;
mod serving;
