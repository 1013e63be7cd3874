//! What both ends of one side are made of: its ring out and its ring in.

use std::sync::Arc;

use crate::config::Tuning;
use crate::error::Result;
use crate::ring::doorbell::{Bell, BellWatch, Sleeper};
use crate::shm::layout::control;
use crate::shm::region::{OwnRegion, PeerRegion};
use crate::sys::wake_fd::WakeFd;

/// The offsets of a side's control words, which are the same in both regions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ControlWords {
    pub(crate) sleep_at: usize,
    pub(crate) cpu: usize,
    pub(crate) head: usize,
    pub(crate) space_at: usize,
    pub(crate) bell: usize,
    pub(crate) checked: usize,
    pub(crate) copies: usize,
    pub(crate) high_water: usize,
}

impl ControlWords {
    /// The words in the control lines that start at `lines`.
    pub(crate) const fn at(lines: usize) -> Self {
        Self {
            sleep_at: lines + control::SLEEP_AT,
            cpu: lines + control::CPU,
            head: lines + control::HEAD,
            space_at: lines + control::SPACE_AT,
            bell: lines + control::BELL,
            checked: lines + control::CHECKED,
            copies: lines + control::COPIES,
            high_water: lines + control::HIGH_WATER,
        }
    }
}

/// The regions of both sides, and how this side waits and wakes.
#[derive(Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) own: &'a OwnRegion,
    pub(crate) peer: &'a PeerRegion,
    pub(crate) words: ControlWords,
    pub(crate) tuning: Tuning,
    /// Counts the peer's rings.
    pub(crate) watch: Option<Arc<BellWatch>>,
    pub(crate) wake_fd: Option<&'a Arc<WakeFd>>,
}

impl Ends<'_> {
    /// Makes what waits for the peer's bell.
    pub(crate) fn sleeper(&self) -> Result<Sleeper> {
        let Self { own, peer, words, tuning, .. } = *self;
        let bell = peer.u32_at(words.bell)?;
        let (own_cpu, peer_cpu) = (own.u32_at(words.cpu)?, peer.u32_at(words.cpu)?);
        let event = peer.event(words.bell);
        Ok(Sleeper::new(bell, own_cpu, peer_cpu, tuning.wait, self.watch.clone(), event))
    }

    /// Makes the bell that this side rings.
    pub(crate) fn bell(&self) -> Result<Bell> {
        let at = self.words.bell;
        let bell = Bell::new(self.own.u32_at(at)?, self.wake_fd.cloned());
        Ok(bell.with_event(self.own.event(at)))
    }
}
