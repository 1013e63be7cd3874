//! The status line: what a worker says of itself without being asked.
//!
//! The worker stores the words, one thread at a time. The parent, and the worker's health
//! thread, only read them.

use super::layout::control;
use super::region::{OwnRegion, PeerRegion};
use super::words::{OwnU32, OwnU64, PeerU32, PeerU64};
use crate::error::Result;
use crate::sync::Ordering;

/// The words of a status line, in the order in which they lie there: the one that tells the
/// state, and those that hold a number.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StatusWords<S, N> {
    /// What the worker does: see [`WorkerState`](crate::WorkerState).
    pub(crate) state: S,
    /// Requests whose last frame was sent.
    pub(crate) served: N,
    /// Payload bytes received.
    pub(crate) bytes_in: N,
    /// Payload bytes sent.
    pub(crate) bytes_out: N,
}

/// The line in the hands of the worker.
pub(crate) type OwnStatus = StatusWords<OwnU32, OwnU64>;
/// The line as the parent sees it.
pub(crate) type PeerStatus = StatusWords<PeerU32, PeerU64>;
/// What a line said.
pub(crate) type Status = StatusWords<u32, u64>;

/// How many words hold a number.
const NUMBERS: usize = 3;

impl<S, N> StatusWords<S, N> {
    /// A line with this state, and with the numbers that `number` returns for their indices,
    /// which are asked for in order.
    pub(crate) fn new(state: S, mut number: impl FnMut(usize) -> Result<N>) -> Result<Self> {
        let (served, bytes_in) = (number(0)?, number(1)?);
        Ok(Self { state, served, bytes_in, bytes_out: number(NUMBERS - 1)? })
    }

    /// The numbers in order.
    pub(crate) fn numbers(&self) -> [&N; NUMBERS] {
        [&self.served, &self.bytes_in, &self.bytes_out]
    }

    /// Reads all words, one after another: what they say need not belong together.
    fn read(&self, state: impl Fn(&S) -> u32, number: impl Fn(&N) -> u64) -> Status {
        let [served, bytes_in, bytes_out] = self.numbers().map(number);
        Status { state: state(&self.state), served, bytes_in, bytes_out }
    }
}

/// Where the number of this index lies, in a line at `line`.
fn number_at(line: usize, index: usize) -> usize {
    line + 8 * (index + 1)
}

const _: () = assert!(8 * (NUMBERS + 1) <= control::LINE);

impl OwnStatus {
    pub(crate) fn at(region: &OwnRegion, line: usize) -> Result<Self> {
        Self::new(region.u32_at(line)?, |index| region.u64_at(number_at(line, index)))
    }

    pub(crate) fn snapshot(&self) -> Status {
        self.read(|word| word.load(Ordering::Relaxed), |word| word.load(Ordering::Relaxed))
    }
}

impl PeerStatus {
    pub(crate) fn at(region: &PeerRegion, line: usize) -> Result<Self> {
        Self::new(region.u32_at(line)?, |index| region.u64_at(number_at(line, index)))
    }

    pub(crate) fn snapshot(&self) -> Status {
        self.read(|word| word.load(Ordering::Relaxed), |word| word.load(Ordering::Relaxed))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::shm::memfd::{map_own, map_peer};
    use crate::sys::memfd;

    #[test]
    fn every_word_lies_where_the_layout_says_and_reads_back() {
        let file = memfd::create(c"test", 4096).unwrap();
        let (own, peer) = (map_own(&file, 4096).unwrap(), map_peer(&file, 4096).unwrap());
        let status = OwnStatus::at(&own, control::STATUS).unwrap();
        own.u32_at(control::STATUS).unwrap().store(2, Ordering::Relaxed);
        for (at, value) in [(8, 13), (16, 14), (24, 15)] {
            own.u64_at(control::STATUS + at).unwrap().store(value, Ordering::Relaxed);
        }
        let seen = PeerStatus::at(&peer, control::STATUS).unwrap().snapshot();
        for found in [status.snapshot(), seen] {
            let Status { state, served, bytes_in, bytes_out } = found;
            assert_eq!((state, served, bytes_in, bytes_out), (2, 13, 14, 15));
        }
    }
}
