//! Sends small frames through raw rings as fast as possible, and checks each.
//!
//! No worker is killed here: this tests order and content over very many frames; the other
//! threads of a soak test what happens at faults.

use std::process::ExitCode;
use std::time::Duration;

use slipring::ring::Header;
use slipring::worker;
use slipring::{ErrorKind, Spawner};

use super::checked::mix;
use super::{Counts, HANG};
use crate::error::say;

/// The first argument of its worker.
pub(super) const WORKER: &str = "soak-raw-worker";

/// The most words of the payload of a frame, which has at least one.
const MOST: usize = 12;

/// Returns the payload of frame `number`: the number, and words that follow from it.
#[inline]
fn fill(number: u64, bytes: &mut [u8; 8 * MOST]) -> &[u8] {
    let random = mix(number);
    let words = bytes.as_chunks_mut::<8>().0;
    for (word, i) in words.iter_mut().zip(0_u64..) {
        *word = if i == 0 { number } else { random.wrapping_add(i) }.to_le_bytes();
    }
    let count = 1 + usize::try_from(random % 12).unwrap_or(0);
    bytes.get(..8 * count).unwrap_or_default()
}

/// Lets a worker send `frames` frames, and checks that each comes once, whole and in order.
pub(super) fn run(frames: u64, counts: &Counts) -> slipring::Result<()> {
    let mut link = Spawner::current_exe()?.arg(WORKER).role("soak").spawn_raw()?;
    let mut claim = link.claim(8, HANG)?;
    claim.payload().copy_from_slice(&frames.to_le_bytes());
    claim.commit(Header::default());
    let (mut wanted, mut found) = ([0; 8 * MOST], [0; 8 * MOST]);
    let (mut next, mut bytes) = (0, 0);
    while next < frames {
        let frame = match link.recv(HANG) {
            Ok(frame) => frame,
            Err(error) if error.is_timeout() => {
                Counts::wrong(&counts.hangs, format!("no frame came after {next}"));
                break;
            }
            Err(error) => return Err(error),
        };
        let payload = frame.payload();
        let found = found.get_mut(..payload.len()).unwrap_or_default();
        let is_read = payload.copy_to(found).is_ok();
        if is_read && found == fill(next, &mut wanted) {
            next += 1;
            bytes += found.len();
            continue;
        }
        let number = found.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
        match number.cmp(&next) {
            std::cmp::Ordering::Less => Counts::wrong(&counts.duplicated, number),
            std::cmp::Ordering::Equal => Counts::wrong(&counts.torn, number),
            std::cmp::Ordering::Greater => Counts::wrong(&counts.lost, next),
        }
        next = number.saturating_add(1);
    }
    Counts::add(&counts.frames, usize::try_from(next).unwrap_or(usize::MAX));
    Counts::add(&counts.bytes, bytes);
    link.close(HANG).map(drop)
}

/// Runs the worker: sends the number of frames that it is asked for.
pub(super) fn serve() -> ExitCode {
    match send() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::Closed => ExitCode::SUCCESS,
        Err(error) => {
            say(error);
            ExitCode::FAILURE
        }
    }
}

fn send() -> slipring::Result<()> {
    let (mut link, _) = worker::attach_raw()?;
    let mut frames = [0; 8];
    link.recv(HANG)?.payload().copy_to(&mut frames)?;
    let mut bytes = [0; 8 * MOST];
    for number in 0..u64::from_le_bytes(frames) {
        let bytes = fill(number, &mut bytes);
        let mut claim = link.claim(bytes.len(), HANG)?;
        claim.payload().copy_from_slice(bytes);
        claim.commit_lazily(Header::default());
    }
    link.flush();
    // Until the parent closes the link.
    loop {
        link.recv(Duration::MAX)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_differ_and_have_all_lengths() {
        let mut lengths = std::collections::HashSet::new();
        let mut seen = std::collections::HashSet::new();
        for number in 0..1000 {
            let bytes = fill(number, &mut [0; 8 * MOST]).to_vec();
            lengths.insert(bytes.len());
            assert!(seen.insert(bytes));
        }
        assert_eq!(lengths.len(), MOST);
    }
}
