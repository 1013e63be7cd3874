//! Deadlines: the header `grpc-timeout`.

use std::time::Duration;

use http::HeaderValue;

/// The most digits that a number has.
const DIGITS: usize = 8;

/// The units with their letters, the finest first.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// Returns the header of a timeout, in the finest unit that has room for it; `None` for a timeout of
/// more than 10,000 years. A timeout is never made longer.
pub(crate) fn encode(timeout: Duration) -> Option<HeaderValue> {
    let nanos = timeout.as_nanos();
    let (letter, number) = UNITS.iter().find_map(|(letter, unit)| {
        let number = nanos / unit;
        (number < 10_u128.pow(8)).then_some((char::from(*letter), number))
    })?;
    HeaderValue::from_str(&format!("{number}{letter}")).ok()
}

/// Reads the header. Returns `None` if it is not what gRPC allows.
pub(crate) fn decode(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    let (_, nanos) = UNITS.iter().find(|(letter, _)| letter == unit)?;
    if digits.is_empty() || digits.len() > DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u128 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let nanos = number * nanos;
    let second = 1_000_000_000;
    let seconds = u64::try_from(nanos / second).ok()?;
    Some(Duration::new(seconds, u32::try_from(nanos % second).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_come_back_as_they_went_or_shorter() {
        let round = |timeout| decode(&encode(timeout).unwrap()).unwrap();
        for nanos in [0, 1, 99_999_999] {
            assert_eq!(round(Duration::from_nanos(nanos)), Duration::from_nanos(nanos));
        }
        let odd = Duration::from_nanos(100_000_001);
        assert_eq!(round(odd), Duration::from_millis(100));
        let days = Duration::from_secs(86_400 * 5 + 1);
        assert_eq!(round(days), days);
        assert_eq!(encode(Duration::MAX), None);
    }

    #[test]
    fn what_is_no_timeout_is_none() {
        for text in ["", "S", "1", "1x", "123456789S", "-1S", "1 S", "+1S"] {
            assert_eq!(decode(&HeaderValue::from_str(text).unwrap()), None, "{text:?}");
        }
        assert_eq!(decode(&HeaderValue::from_static("5H")), Some(Duration::from_secs(18_000)));
    }
}
