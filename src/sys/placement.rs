//! Whether this thread's processor shares a cache with the processor of its peer.
//!
//! If they share none, bytes that are stored through the caches reach the peer two to three times
//! as slowly as bytes that are stored past them. If they share one, it is the other way round.
//! As virtual processors move, a thread learns this for as long as it lives, from loads that it
//! does anyhow: a word that the peer has stored since the last load comes from the peer's cache.
//! "The copy" in `docs/DECISIONS.md` has the figures.

use std::cell::Cell;

use super::clock::now_ns;

/// A line from a cache that both share arrives within about 30 ns, and another one after more than
/// 100 ns.
const FAR_NS: u64 = 70;
/// The highest count of slow loads. Above half of it the peer counts as far: that takes at least
/// five slow loads, and a few fast ones undo it.
const SURE: u8 = 8;

thread_local! {
    /// The count of slow loads less that of fast ones, kept between 0 and [`SURE`].
    static SLOW: Cell<u8> = const { Cell::new(0) };
}

/// Whether, as far as this thread has learned, its last peer shares no cache with it.
pub(super) fn is_far() -> bool {
    SLOW.get() > SURE / 2
}

/// Runs `load`. If its value `is_news`, the peer has stored it since the last load, and this
/// thread learns from the time that the load took. Reads the clock three times.
pub(crate) fn observe<T>(load: impl FnOnce() -> T, is_news: impl FnOnce(&T) -> bool) -> T {
    // ThreadSanitizer does not see stores past the caches: with it the peer is never far.
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
pub(super) mod tests {
    use super::*;

    pub(in crate::sys) fn pretend(is_far: bool) {
        SLOW.set(if is_far { SURE } else { 0 });
    }

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
