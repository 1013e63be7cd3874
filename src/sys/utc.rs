//! Moments as people read them.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 24 * 60 * 60;

/// A moment of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Utc {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    micros: u32,
}

impl Utc {
    /// Returns the moment; a moment before 1970 is taken for its begin.
    pub(crate) fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, seconds) = (since.as_secs() / DAY, since.as_secs() % DAY);
        // Days since the first of March of the year 0, in eras of 400 years. A year that begins in March
        // has its leap day at the end.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        Self {
            year: year + 400 * era + u64::from(month <= 2),
            month,
            day,
            hour: seconds / 3600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            micros: since.subsec_micros(),
        }
    }

    /// As of ISO 8601, for example `2026-11-29T18:48:50.123Z`.
    pub(crate) fn text(self) -> String {
        let Self { year, month, day, hour, minute, second, micros } = self;
        let ms = micros / 1000;
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
    }

    /// For the name of a file, for example `20261129T184850.123456Z`: names sort as their moments do.
    pub(crate) fn name(self) -> String {
        let Self { year, month, day, hour, minute, second, micros } = self;
        format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{micros:06}Z")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        let text = |seconds| Utc::of(UNIX_EPOCH + Duration::from_secs(seconds)).text();
        // As `date -u -d @…` says.
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(951_782_399), "2000-02-28T23:59:59.000Z");
        assert_eq!(text(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(text(951_868_800), "2000-03-01T00:00:00.000Z");
        assert_eq!(text(1_798_761_599), "2026-12-31T23:59:59.000Z");
        assert_eq!(text(4_107_542_400), "2100-03-01T00:00:00.000Z");
        let exact = UNIX_EPOCH + Duration::from_micros(1_796_000_000_123_456);
        assert_eq!(Utc::of(exact).name(), "20261130T005320.123456Z");
    }
}
