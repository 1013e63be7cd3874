//! Lines, and numbers in them.

use std::time::Duration;

use slipring::Escaped;

/// A text of lines.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    /// Adds a line that is indented by so many steps.
    pub(super) fn line(&mut self, steps: usize, line: impl AsRef<str>) {
        let line = line.as_ref();
        if !line.is_empty() {
            self.0.push_str(&" ".repeat(2 * steps));
        }
        self.0.push_str(&Escaped(line.trim_end()).to_string());
        self.0.push('\n');
    }

    pub(super) fn done(self) -> String {
        self.0
    }
}

/// A number of bytes in the largest unit in which it is whole.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [(u32, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = UNITS.iter().find(|(bits, _)| bytes != 0 && bytes.trailing_zeros() >= *bits);
    match whole {
        Some((bits, unit)) => format!("{} {unit}", bytes >> bits),
        None => format!("{bytes} B"),
    }
}

pub(super) fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 0.01 => format!("{:.3} ms", seconds * 1e3),
        seconds => format!("{seconds:.2} s"),
    }
}

pub(super) fn nanos(nanos: u64) -> String {
    seconds(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_exact_in_the_largest_unit() {
        let cases = [(0, "0 B"), (100, "100 B"), (4 << 10, "4 KiB"), (4097, "4097 B")];
        for (number, shown) in cases.into_iter().chain([(64 << 20, "64 MiB"), (1 << 30, "1 GiB")]) {
            assert_eq!(bytes(number), shown);
        }
    }

    #[test]
    fn times_have_few_digits() {
        assert_eq!([nanos(0), nanos(1_234_567)], ["0.000 ms", "1.235 ms"]);
        assert_eq!(seconds(Duration::from_millis(2346)), "2.35 s");
    }
}
