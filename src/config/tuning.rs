//! How a side waits for the other, and how it copies.

use std::time::Duration;

/// A way to copy a payload of 4 KiB or more into a slot. Which is the fastest depends on the
/// machine, so that each ring finds it out while it runs; shorter payloads are copied in one way.
///
/// ```
/// use slipring::{Config, CopyRoutine};
///
/// // For a host that has measured it, and wants no trials of others:
/// let config = Config::builder().copy_routine(CopyRoutine::Vectors).build()?;
/// assert_eq!(config.copy_routine(), Some(CopyRoutine::Vectors));
/// assert_eq!(Config::default().copy_routine(), None);
/// # Ok::<(), slipring::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum CopyRoutine {
    /// The C library's copy.
    Library,
    /// A loop of vector loads and stores. The C library's copy where there is no such loop: on
    /// other processors than x86-64 with AVX.
    Vectors,
    /// A loop whose stores go past the caches. The C library's copy where there is no such loop.
    PastCaches,
}

impl CopyRoutine {
    pub(crate) const ALL: [Self; 3] = [Self::Library, Self::Vectors, Self::PastCaches];
}

/// What a side is told of how it waits and copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuning {
    pub(crate) wait: WaitStrategy,
    /// `None`: it is found out.
    pub(crate) copy: Option<CopyRoutine>,
}

/// How a side waits for the other.
///
/// ```
/// use std::time::Duration;
///
/// use slipring::{Config, WaitStrategy};
///
/// // For a host that shares few cores with much other work:
/// let config = Config::builder().wait_strategy(WaitStrategy::Park).build()?;
/// assert_eq!(config.wait_strategy(), WaitStrategy::Park);
/// let default = WaitStrategy::SpinThenPark(Duration::from_micros(20));
/// assert_eq!(Config::default().wait_strategy(), default);
/// # Ok::<(), slipring::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum WaitStrategy {
    /// Spins and never sleeps while the other side runs on another core: the lowest latency, for
    /// one core at 100 % as long as the wait lasts. After a millisecond the thread yields between
    /// looks. It sleeps at once, as with `Park`, where both sides were last seen on one core.
    Spin,
    /// Spins for at most this long, then sleeps. At most one second.
    ///
    /// It does not spin where both sides were last seen on one core, nor where the process has
    /// the time of less than two cores: on a machine with one, or in a control group that allows
    /// no more.
    SpinThenPark(Duration),
    /// Sleeps at once.
    Park,
}
