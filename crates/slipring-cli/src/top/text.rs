//! How numbers are shown in few columns.

use std::time::Duration;

/// At most five characters: `0`, `0.25`, `999`, `1.2k`, `12k`, `3.4M`.
pub(super) fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        value if value < 1e3 => (value, ""),
        value if value < 1e6 => (value / 1e3, "k"),
        value if value < 1e9 => (value / 1e6, "M"),
        value if value < 1e12 => (value / 1e9, "G"),
        value => (value / 1e12, "T"),
    };
    match scaled {
        0.0 => format!("0{unit}"),
        scaled if scaled < 10.0 && (!unit.is_empty() || scaled < 1.0) => {
            format!("{scaled:.1}{unit}")
        }
        scaled => format!("{scaled:.0}{unit}"),
    }
}

pub(super) fn rate(rate: Option<f64>) -> String {
    rate.map_or("-".to_owned(), short)
}

/// At most five characters: `0`, `512us`, `8.2ms`, `3.1s`, `12m`, `5h`.
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        0.0 => "0".to_owned(),
        seconds if seconds < 1e-3 => format!("{:.0}us", seconds * 1e6),
        seconds if seconds < 1e-2 => format!("{:.1}ms", seconds * 1e3),
        seconds if seconds < 1.0 => format!("{:.0}ms", seconds * 1e3),
        seconds if seconds < 100.0 => format!("{seconds:.1}s"),
        seconds if seconds < 6e3 => format!("{:.0}m", seconds / 60.0),
        seconds => format!("{:.0}h", seconds / 3600.0),
    }
}

/// The bound of times; the longest time stands for those that have none.
pub(super) fn bound(bound: Option<Duration>) -> String {
    match bound {
        None => "-".to_owned(),
        // The last bound of a status page.
        Some(Duration::MAX) => ">67s".to_owned(),
        Some(bound) => time(bound),
    }
}

/// How many columns of a terminal a text takes.
pub(super) fn width(text: &str) -> usize {
    ratatui::text::Span::raw(text).width()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_at_most_five_columns() {
        let cases = [
            (0.0, "0"),
            (0.25, "0.2"),
            (7.0, "7"),
            (999.0, "999"),
            (1_234.0, "1.2k"),
            (56_789.0, "57k"),
            (3.4e6, "3.4M"),
            (5.6e10, "56G"),
        ];
        for (value, shown) in cases {
            assert_eq!(short(value), shown);
        }
        let cases = [
            (0, "0"),
            (1_000, "1us"),
            (512_000, "512us"),
            (8_192_000, "8.2ms"),
            (65_536_000, "66ms"),
            (3_100_000_000, "3.1s"),
            (720_000_000_000, "12m"),
        ];
        for (nanos, shown) in cases {
            assert_eq!(time(Duration::from_nanos(nanos)), shown);
        }
    }

    #[test]
    fn times_beyond_the_last_bound_are_not_shown_as_none() {
        let mut times = slipring::status_page::Times::default();
        assert_eq!(bound(None), "-");
        times.buckets[26] = 1;
        assert_eq!(bound(times.quantile(0.99)), "67.1s");
        assert_eq!(bound(Some(Duration::MAX)), ">67s");
    }
}
