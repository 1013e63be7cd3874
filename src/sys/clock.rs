//! Absolute deadlines on the monotonic clock, comparable between processes.
#![allow(unsafe_code, reason = "clock_gettime: `Instant` cannot be sent to another process")]

use std::time::{Duration, Instant};

use crate::sync::model_now_ns;

/// Nanoseconds of `CLOCK_MONOTONIC`: the same clock for every process of one boot.
pub(crate) fn now_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds of the same clock at its last tick. Reading it costs a fifth of [`now_ns`]; it is
/// behind by less than [`COARSE_NS`], unless the machine itself stood still.
pub(crate) fn coarse_now_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC_COARSE)
}

/// Nanoseconds of two ticks, on the kernels with the longest ticks.
pub(crate) const COARSE_NS: u64 = 20_000_000;

fn read(clock: libc::clockid_t) -> u64 {
    if let Some(now) = model_now_ns() {
        return now;
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that the call may write to.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) };
    debug_assert_eq!(failed, 0, "both clocks always exist");
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos)
}

/// A wait that ends this long after its deadline was held up itself: its process was stopped,
/// or the whole machine was. A scheduler is never that late.
const HELD_UP: Duration = Duration::from_millis(100);
/// The time that such a wait gets once more, for an answer that was held up with it.
const GRACE: Duration = Duration::from_millis(200);

/// A point on the monotonic clock, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(u64);

impl Deadline {
    /// No deadline, for a wait whose answer is on its way: the waiter looks again now and then.
    pub(crate) const NEVER: Self = Self(u64::MAX - 1);
    /// No deadline, for a wait with nothing in flight: the waiter sleeps until it is woken.
    pub(crate) const IDLE: Self = Self(u64::MAX);

    /// The time `timeout` from now. A timeout too long to be represented is [`Self::NEVER`].
    pub(crate) fn after(timeout: Duration) -> Self {
        Self::from(now_ns(), timeout)
    }

    /// As [`Self::after`], but [`Self::IDLE`] in place of [`Self::NEVER`].
    pub(crate) fn idle_after(timeout: Duration) -> Self {
        let deadline = Self::after(timeout);
        if deadline.is_endless() { Self::IDLE } else { deadline }
    }

    /// The time `timeout` after the clock showed `nanos`.
    pub(crate) fn from(nanos: u64, timeout: Duration) -> Self {
        match u64::try_from(timeout.as_nanos()) {
            Ok(timeout) => Self(nanos.saturating_add(timeout)).min(Self::NEVER),
            Err(_) => Self::NEVER,
        }
    }

    /// The deadline `delay` after this one.
    pub(crate) fn later_by(self, delay: Duration) -> Self {
        if self.is_endless() { self } else { Self::from(self.0, delay) }
    }

    /// Whether it never passes.
    #[inline]
    pub(crate) fn is_endless(self) -> bool {
        self >= Self::NEVER
    }

    /// The deadline in a word of a frame's header. Zero stands for no deadline.
    pub(crate) fn from_word(nanos: u64) -> Self {
        if nanos == 0 { Self::NEVER } else { Self(nanos) }
    }

    /// The word that [`Self::from_word`] reads back.
    #[inline]
    pub(crate) fn to_word(self) -> u64 {
        if self.is_endless() { 0 } else { self.0.max(1) }
    }

    pub(crate) fn has_passed(self) -> bool {
        !self.is_endless() && self.is_before(now_ns())
    }

    /// Whether it had passed when the clock showed `now`.
    pub(crate) fn is_before(self, now: u64) -> bool {
        !self.is_endless() && now >= self.0
    }

    /// A second deadline for a wait that has just ended at this one, if the wait was held up for
    /// so long that the peer, which was to answer, may have been held up as well.
    pub(crate) fn grace(self) -> Option<Self> {
        let late = now_ns().saturating_sub(self.0);
        (Duration::from_nanos(late) >= HELD_UP).then(|| Self::after(GRACE))
    }

    /// This deadline for calls of the standard library, which cannot wait without end.
    pub(crate) fn instant(self) -> Instant {
        let far = Duration::from_secs(100 * 365 * 24 * 3600);
        Instant::now() + self.remaining().min(far)
    }

    /// The time that is left; zero once it has passed.
    pub(crate) fn remaining(self) -> Duration {
        if self.is_endless() {
            return Duration::MAX;
        }
        Duration::from_nanos(self.0.saturating_sub(now_ns()))
    }

    /// This deadline, or `after` from now if that is earlier.
    pub(crate) fn at_most(self, after: Duration) -> Self {
        self.min(Self::after(after))
    }

    /// For a system call with an absolute timeout; `None` waits without end.
    pub(crate) fn timespec(self) -> Option<libc::timespec> {
        if self.is_endless() {
            return None;
        }
        // Both parts are below 2^63 and 10^9: neither conversion can fail.
        Some(libc::timespec {
            tv_sec: i64::try_from(self.0 / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(self.0 % 1_000_000_000).unwrap_or(0),
        })
    }
}

/// A timeout of this length or more may be off by two ticks of the coarse clock: a fiftieth of it.
const LONG: Duration = Duration::from_secs(1);

/// A timeout that has begun to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLimit {
    /// When it began, in nanoseconds of the monotonic clock.
    since: u64,
    until: Deadline,
}

impl TimeLimit {
    /// A timeout that begins now.
    pub(crate) fn begin(timeout: Duration) -> Self {
        let since = now_ns();
        Self { since, until: Deadline::from(since, timeout) }
    }

    /// A timeout that begins now, for a peer. One of a second or more is taken from the coarse clock,
    /// and ends up to two ticks late: a peer that ended it too early would cut a wait short.
    pub(crate) fn begin_roughly(timeout: Duration) -> Self {
        let since = if timeout < LONG { now_ns() } else { coarse_now_ns() + COARSE_NS };
        Self { since, until: Deadline::from(since, timeout) }
    }

    /// The same timeout by the exact clock: one that was taken from the coarse clock begins now, or
    /// as it was taken if what came between took longer than two ticks.
    pub(crate) fn exact(self, timeout: Duration) -> Self {
        if timeout < LONG {
            return self;
        }
        let since = now_ns().min(self.since);
        Self { since, until: Deadline::from(since, timeout) }
    }

    /// The same timeout, which passes later by `delay`.
    pub(crate) fn put_off(self, delay: Duration) -> Self {
        Self { until: self.until.later_by(delay), ..self }
    }

    /// When it passes.
    pub(crate) fn deadline(self) -> Deadline {
        self.until
    }

    /// How long it is; `Duration::MAX` if it never passes.
    pub(crate) fn timeout(self) -> Duration {
        if self.until.is_endless() {
            return Duration::MAX;
        }
        Duration::from_nanos(self.until.0.saturating_sub(self.since))
    }

    /// Nanoseconds since it began.
    pub(crate) fn elapsed_ns(self) -> u64 {
        now_ns().saturating_sub(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_timeout_begins_no_later_than_two_ticks_after_the_rough_one() {
        for timeout in [LONG, Duration::from_secs(60), Duration::MAX] {
            let rough = TimeLimit::begin_roughly(timeout);
            assert!(rough.exact(timeout).deadline() <= rough.deadline());
            // An encoder that takes long.
            std::thread::sleep(3 * Duration::from_nanos(COARSE_NS));
            let exact = rough.exact(timeout);
            assert_eq!(exact.deadline(), rough.deadline());
            assert_eq!(exact.timeout(), timeout);
            assert!(exact.elapsed_ns() >= COARSE_NS, "the encoder's time counts");
        }
    }

    #[test]
    fn a_deadline_reads_back_from_a_word_and_never_stays_never() {
        let soon = Deadline::after(Duration::from_secs(5));
        assert_eq!(Deadline::from_word(soon.to_word()), soon);
        assert_eq!(Deadline::from_word(Deadline::NEVER.to_word()), Deadline::NEVER);
        assert_eq!(Deadline::after(Duration::MAX), Deadline::NEVER);
        assert_eq!(Deadline::idle_after(Duration::MAX), Deadline::IDLE);
        assert_eq!(Deadline::from_word(Deadline::IDLE.to_word()), Deadline::NEVER);
        assert!(!Deadline::NEVER.has_passed() && !Deadline::IDLE.has_passed());
        assert!(Deadline::after(Duration::ZERO).has_passed());
    }

    #[test]
    fn only_a_wait_that_ends_long_after_its_deadline_is_given_a_grace() {
        assert_eq!(Deadline::NEVER.grace(), None);
        assert_eq!(Deadline::after(Duration::from_secs(5)).grace(), None);
        let long_ago = Deadline(now_ns() - 1_000_000_000);
        let grace = long_ago.grace().unwrap();
        assert!(!grace.has_passed() && grace <= Deadline::after(GRACE));
    }

    #[test]
    fn a_time_limit_knows_its_begin_its_length_and_its_end() {
        let timeout = Duration::from_millis(1234);
        let limit = TimeLimit::begin(timeout);
        assert_eq!((limit.timeout(), limit.deadline().is_endless()), (timeout, false));
        std::thread::sleep(Duration::from_millis(2));
        assert!(limit.elapsed_ns() >= 2_000_000 && limit.elapsed_ns() < 1_000_000_000_000);
        let endless = TimeLimit::begin(Duration::MAX);
        assert_eq!((endless.timeout(), endless.deadline()), (Duration::MAX, Deadline::NEVER));
    }

    #[test]
    fn a_long_time_limit_that_begins_roughly_is_late_by_two_ticks_at_most() {
        for timeout in [LONG, 60 * LONG] {
            let before = Deadline::after(timeout);
            let rough = TimeLimit::begin_roughly(timeout);
            assert!(rough.deadline() >= before, "a peer would end it too early");
            let latest = Deadline::after(timeout).later_by(Duration::from_nanos(COARSE_NS));
            assert!(rough.deadline() <= latest);
            assert_eq!(rough.timeout(), timeout);
            assert!(rough.exact(timeout).deadline() >= before);
        }
        let (timeout, before) = (LONG / 2, Deadline::after(LONG / 2));
        let short = TimeLimit::begin_roughly(timeout);
        assert!(short.deadline() >= before);
        assert_eq!(short.exact(timeout).deadline(), short.deadline());
    }

    #[test]
    fn the_coarse_clock_is_the_same_and_never_ahead() {
        let coarse = coarse_now_ns();
        assert!(coarse <= now_ns());
        std::thread::sleep(Duration::from_millis(50));
        assert!(coarse_now_ns() > coarse);
    }

    #[test]
    fn the_clock_is_the_one_that_instant_reads() {
        let before = now_ns();
        std::thread::sleep(Duration::from_millis(2));
        assert!(now_ns() - before >= 2_000_000);
    }
}
