//! Medians, and confidence intervals of medians of ratios.

/// Returns the value below which this share of the others lies, or zero without values.
#[must_use]
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    let index = (share * last as f64).round() as usize;
    values.get(index.min(last)).copied().unwrap_or(0.0)
}

/// Returns the median, or zero without values.
#[must_use]
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied().unwrap_or(0.0);
    let lower = values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0);
    f64::midpoint(lower, upper)
}

/// A median, and its 95 % confidence interval. With too few values, the interval holds them all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// The median.
    pub median: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
    /// The number of pairs.
    pub pairs: usize,
}

impl Ratio {
    /// Takes the median of ratios of pairs; `None` without pairs.
    #[must_use]
    pub fn of(mut ratios: Vec<f64>) -> Option<Self> {
        let median = median(&mut ratios);
        let pairs = ratios.len();
        let n = pairs as f64;
        // The ranks of the sign test. The ratios are sorted.
        let rank = ((n - 1.96 * n.sqrt()) / 2.0).floor().max(0.0) as usize;
        let low = ratios.get(rank).copied()?;
        let high = ratios.get(pairs - 1 - rank).copied()?;
        Some(Self { median, low, high, pairs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_twenty_pairs_leaves_out_five_at_each_end() {
        let ratios: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        let ratio = Ratio::of(ratios).unwrap();
        assert_eq!((ratio.median, ratio.low, ratio.high, ratio.pairs), (10.5, 6.0, 15.0, 20));
        let few = Ratio::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((few.median, few.low, few.high), (2.0, 1.0, 3.0));
        assert_eq!(Ratio::of(Vec::new()), None);
    }

    #[test]
    fn quantiles_are_values_that_were_there() {
        let mut values: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(quantile(&mut values, 0.99), 99.0);
        assert_eq!(quantile(&mut [], 0.5), 0.0);
    }
}
