//! Whether this thread's processor shares a cache with that of the peer it works with.
//!
//! Where it does not, bytes that were stored through the caches reach the peer two to three
//! times as slowly as bytes that went past them; where it does, it is the other way round.
//! Virtual processors move, so that this is learned for as long as a thread lives, from what
//! the thread loads anyhow: a word that the peer has stored to since comes from the peer's
//! cache. "The copy" in `docs/DECISIONS.md` has the figures.

use std::cell::Cell;

use super::clock::now_ns;

/// A line that comes from a cache which both share is here within about 30 ns, and one that
/// does not after more than 100.
const FAR_NS: u64 = 70;
/// Where the count of slow loads ends: above half of it the peer is far, which takes five
/// slow loads at least, and a few fast ones to take back.
const SURE: u8 = 8;

thread_local! {
    /// Goes up with each slow load and down with each fast one, between 0 and `SURE`.
    static SLOW: Cell<u8> = const { Cell::new(0) };
}

/// Whether the peer that this thread last worked with shares no cache with it, as far as is
/// known.
pub(super) fn is_far() -> bool {
    SLOW.get() > SURE / 2
}

/// Runs a load, and learns from the time that it takes if its value `is_news`: then the peer
/// has stored it since this thread loaded it last. Reads the clock three times.
pub(crate) fn observe<T>(load: impl FnOnce() -> T, is_news: impl FnOnce(&T) -> bool) -> T {
    // ThreadSanitizer does not see the stores that go past the caches.
    if cfg!(any(loom, slipring_tsan)) {
        return load();
    }
    let start = now_ns();
    let value = load();
    let end = now_ns();
    let clock = now_ns().wrapping_sub(end);
    if is_news(&value) {
        learn(end.wrapping_sub(start).saturating_sub(clock));
    }
    value
}

fn learn(nanos: u64) {
    let slow = SLOW.get();
    let next = if nanos >= FAR_NS { (slow + 1).min(SURE) } else { slow.saturating_sub(1) };
    SLOW.set(next);
}

#[cfg(all(test, not(loom)))]
pub(super) fn pretend(is_far: bool) {
    SLOW.set(if is_far { SURE } else { 0 });
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_slow_load_is_no_distance_and_one_fast_one_is_no_nearness() {
        for (nanos, is_far_after) in [(FAR_NS, true), (FAR_NS - 1, false)] {
            pretend(!is_far_after);
            learn(nanos);
            assert_eq!(is_far(), !is_far_after);
            (1..SURE).for_each(|_| learn(nanos));
            assert_eq!(is_far(), is_far_after);
        }
    }

    #[test]
    fn only_news_are_learned_from() {
        pretend(false);
        let slow = || std::thread::sleep(std::time::Duration::from_micros(1));
        (0..SURE).for_each(|_| observe(slow, |()| false));
        assert!(!is_far());
        (0..SURE).for_each(|_| observe(slow, |()| true));
        assert!(is_far());
    }
}
