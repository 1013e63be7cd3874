//! JSON lines: one array of numbers a row. A number has the fewest digits that
//! read back as the same `f32`.

use std::io::Write;

/// Appends a row; `false` if a number is not finite.
pub(super) fn push_row(row: &[f32], to: &mut Vec<u8>) -> bool {
    to.push(b'[');
    for (at, &x) in row.iter().enumerate() {
        if !x.is_finite() {
            return false;
        }
        if at > 0 {
            to.push(b',');
        }
        if x.to_bits() == 0 {
            // Most numbers of a short text.
            to.extend(b"0.0");
        } else if write!(to, "{x:?}").is_err() {
            return false;
        }
    }
    to.extend(b"]\n");
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[f32]) -> Option<String> {
        let mut to = Vec::new();
        push_row(values, &mut to).then(|| String::from_utf8(to).unwrap())
    }

    #[test]
    fn a_row_is_a_line_with_one_array() {
        assert_eq!(row(&[0.0, -0.0, 1.0, 0.1]).unwrap(), "[0.0,-0.0,1.0,0.1]\n");
        assert_eq!(row(&[]).unwrap(), "[]\n");
    }

    #[test]
    fn every_number_reads_back_to_the_same_bits() {
        for x in [f32::MIN_POSITIVE, 1e-45, f32::MAX, -1.0 / 3.0, 1e-7, 16_777_216.0] {
            let line = row(&[x]).unwrap();
            let back: f32 = line.trim_matches(['[', ']', '\n']).parse().unwrap();
            assert_eq!(back.to_bits(), x.to_bits(), "{line}");
        }
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        assert_eq!(row(&[1.0, f32::NAN]), None);
        assert_eq!(row(&[f32::NEG_INFINITY]), None);
    }
}
