//! How numbers are shown in few columns.

use std::time::Duration;

/// At most four characters: `0`, `0.2`, `999`, `1.2k`, `12k`, `3.4M`.
pub(super) fn short(value: f64) -> String {
    // What is rounded to four digits has the next unit.
    const MOST: f64 = 999.5;
    let mut scaled = value;
    for unit in ["", "k", "M", "G", "T"] {
        match scaled {
            0.0 => return "0".to_owned(),
            _ if scaled >= MOST => scaled /= 1e3,
            _ if scaled < 9.95 && (!unit.is_empty() || scaled < 1.0) => {
                return format!("{scaled:.1}{unit}");
            }
            _ => return format!("{scaled:.0}{unit}"),
        }
    }
    ">1P".to_owned()
}

pub(super) fn rate(rate: Option<f64>) -> String {
    rate.map_or("-".to_owned(), short)
}

/// At most five characters: `0`, `512us`, `8.2ms`, `3.1s`, `12m`, `5h`, `7d`, `2y`.
pub(super) fn time(time: Duration) -> String {
    const DAY: f64 = 86_400.0;
    let seconds = time.as_secs_f64();
    match seconds {
        0.0 => "0".to_owned(),
        seconds if seconds < 999.5e-6 => format!("{:.0}us", seconds * 1e6),
        seconds if seconds < 9.95e-3 => format!("{:.1}ms", seconds * 1e3),
        seconds if seconds < 999.5e-3 => format!("{:.0}ms", seconds * 1e3),
        seconds if seconds < 99.95 => format!("{seconds:.1}s"),
        seconds if seconds < 6e3 => format!("{:.0}m", seconds / 60.0),
        seconds if seconds < 4.0 * DAY => format!("{:.0}h", seconds / 3600.0),
        seconds if seconds < 999.0 * DAY => format!("{:.0}d", seconds / DAY),
        seconds => format!("{:.0}y", seconds / (365.0 * DAY)),
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
    fn numbers_take_few_columns() {
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
