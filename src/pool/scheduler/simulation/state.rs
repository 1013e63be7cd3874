//! All that a schedule knows.

use std::collections::BTreeMap;

use super::super::*;
use super::actors::{Event, Others, Request, Worker};
use super::oracle::Oracle;

pub(super) struct World {
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) limits: Limits,
    pub(super) scheduler: Scheduler<u64>,
    pub(super) requests: BTreeMap<u64, Request>,
    pub(super) workers: BTreeMap<(usize, u64), Worker>,
    pub(super) others: Others,
    /// Another role waits to be told that this one has a place.
    pub(super) is_watched: bool,
    pub(super) had_room: bool,
    pub(super) oracle: Oracle,
    pub(super) events: BTreeMap<(u64, u64), Event>,
    pub(super) sequence: u64,
    /// When the pool's thread looks next.
    pub(super) next_tick: Option<u64>,
    pub(super) hang_timeout: u64,
    /// Percent of starts that fail; of idle workers that crash at a look; of looks that kill.
    pub(super) mishaps: (u64, u64, u64),
    pub(super) is_calm: bool,
    pub(super) is_closed_now: bool,
    pub(super) left_to_ask: u64,
}
