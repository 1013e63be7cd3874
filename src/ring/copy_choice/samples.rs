//! The pace of a copy routine, and the median of a few.

/// Parts of a measurement.
pub(super) const SAMPLES: usize = 5;

/// The last few paces.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Samples {
    paces: [u64; SAMPLES],
    pub(super) count: usize,
}

impl Samples {
    pub(super) fn add(&mut self, pace: u64) {
        if let Some(place) = self.paces.get_mut(self.count % SAMPLES) {
            *place = pace;
        }
        self.count += 1;
    }

    /// The middle one; of an even number, the lower one of the two.
    pub(super) fn median(&self) -> u64 {
        let mut paces = self.paces;
        let count = self.count.min(SAMPLES);
        let sorted = paces.get_mut(..count).unwrap_or_default();
        sorted.sort_unstable();
        sorted.get(count.saturating_sub(1) / 2).copied().unwrap_or(u64::MAX)
    }
}

/// Nanoseconds for a mebibyte. At least one: zero stands for a pace that is not known.
pub(super) fn pace(time: u64, bytes: u64) -> u64 {
    let pace = (u128::from(time) << 20) / u128::from(bytes.max(1));
    u64::try_from(pace).unwrap_or(u64::MAX).max(1)
}
