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
    /// other processors than AArch64, and x86-64 with AVX.
    Vectors,
    /// A loop whose stores go past the caches. The C library's copy where there is no such loop.
    PastCaches,
}

impl CopyRoutine {
    pub(crate) const ALL: [Self; 3] = [Self::Library, Self::Vectors, Self::PastCaches];

    /// The routine of a ring that has found out nothing yet.
    pub(crate) const FIRST: Self =
        if cfg!(target_arch = "x86_64") { Self::Vectors } else { Self::Library };

    /// A number other than zero, of at most [`CODE_BITS`] bits.
    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::Library => 1,
            Self::Vectors => 2,
            Self::PastCaches => 3,
        }
    }

    /// The routine with this code.
    pub(crate) fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|routine| routine.code() == code)
    }
}

/// How a ring copies payloads, by their length, as far as it has found out.
///
/// A ring begins with what another one of the same process has found, or else with
/// [`CopyRoutine::Vectors`] on x86-64 and [`CopyRoutine::Library`] elsewhere, and tries the others
/// while it is used. See
/// [`ConfigBuilder::copy_routine`](crate::ConfigBuilder::copy_routine).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct CopyChoices {
    /// For payloads of 4 KiB and more, and less than 16 KiB.
    pub from_4_kib: CopyRoutine,
    /// For payloads of 16 KiB and more, and less than 128 KiB.
    pub from_16_kib: CopyRoutine,
    /// For longer ones.
    pub from_128_kib: CopyRoutine,
}

/// Bits of a [`CopyRoutine::code`].
const CODE_BITS: usize = 4;
const CODE_MASK: u32 = (1 << CODE_BITS) - 1;

impl CopyChoices {
    /// The codes of the routines in one number.
    pub(crate) fn to_bits(self) -> u32 {
        let routines = [self.from_4_kib, self.from_16_kib, self.from_128_kib];
        routines
            .into_iter()
            .enumerate()
            .fold(0, |bits, (class, routine)| Self::bits_with(bits, class, routine))
    }

    /// These bits with another routine for one class.
    pub(crate) fn bits_with(bits: u32, class: usize, routine: CopyRoutine) -> u32 {
        let shift = CODE_BITS * class;
        (bits & !(CODE_MASK << shift)) | routine.code() << shift
    }

    /// The routines in these bits, `None` for a code that is unknown.
    pub(crate) fn routines_of(bits: u32) -> [Option<CopyRoutine>; 3] {
        [0, 1, 2].map(|class| CopyRoutine::from_code((bits >> (CODE_BITS * class)) & CODE_MASK))
    }

    /// The choices of which [`CopyChoices::to_bits`] has made these bits.
    pub(crate) fn from_bits(bits: u32) -> Option<Self> {
        let [from_4_kib, from_16_kib, from_128_kib] = Self::routines_of(bits);
        let choices = Self {
            from_4_kib: from_4_kib?,
            from_16_kib: from_16_kib?,
            from_128_kib: from_128_kib?,
        };
        (choices.to_bits() == bits).then_some(choices)
    }
}

impl Default for CopyChoices {
    fn default() -> Self {
        let [from_4_kib, from_16_kib, from_128_kib] = [CopyRoutine::FIRST; 3];
        Self { from_4_kib, from_16_kib, from_128_kib }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_read_back_and_foreign_bits_are_none() {
        for routine in CopyRoutine::ALL {
            let choices = CopyChoices { from_16_kib: routine, ..CopyChoices::default() };
            assert_eq!(CopyChoices::from_bits(choices.to_bits()), Some(choices));
        }
        for bits in [0, 0x22, 0x2f2, 0x1222, u32::MAX] {
            assert_eq!(CopyChoices::from_bits(bits), None, "{bits:#x}");
        }
        let found = CopyChoices::routines_of(0xf02);
        assert_eq!(found, [Some(CopyRoutine::Vectors), None, None]);
    }
}
