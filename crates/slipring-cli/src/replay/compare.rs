//! Compares a message with what a recording has of it.

use slipring::payload::{ElementType, MatrixShape};
use slipring::recording::{FramePayload, RecordingReader};

/// What a recording has of a message: its frames, each with its length.
pub(super) type Recorded = Vec<(u32, FramePayload)>;

/// Returns the first difference, in words; `None` if there is none that can be seen.
pub(super) fn difference(
    reader: &RecordingReader,
    recorded: &Recorded,
    now: &[u8],
    tolerance: Option<f32>,
) -> Option<String> {
    let len: u64 = recorded.iter().map(|(len, _)| u64::from(*len)).sum();
    let has_all = recorded.iter().all(|(_, payload)| matches!(payload, FramePayload::Whole(_)));
    if has_all {
        let mut whole = Vec::new();
        for (_, payload) in recorded {
            if let FramePayload::Whole(bytes) = payload {
                whole.extend_from_slice(bytes);
            }
        }
        return different_bytes(&whole, now, tolerance);
    }
    if u64::try_from(now.len()).ok() != Some(len) {
        return Some(format!("{} bytes, {len} were recorded", now.len()));
    }
    let mut rest = now;
    for (len, payload) in recorded {
        let len = usize::try_from(*len).unwrap_or(usize::MAX);
        let (part, later) = rest.split_at_checked(len).unwrap_or((rest, &[]));
        let start = now.len() - rest.len();
        rest = later;
        let is_same = match payload {
            FramePayload::Whole(bytes) => bytes == part,
            FramePayload::Hash(hash) => reader.is_hash_of(*hash, part),
            _ => true,
        };
        if !is_same {
            return Some(format!("another hash of the bytes {start} to {}", start + part.len()));
        }
    }
    None
}

fn different_bytes(before: &[u8], now: &[u8], tolerance: Option<f32>) -> Option<String> {
    let same_len = before.len() == now.len();
    let found = match tolerance.filter(|_| same_len) {
        Some(tolerance) => return different_floats(before, now, tolerance),
        None => before.iter().zip(now).position(|(before, now)| before != now),
    };
    let lens = match same_len {
        true => format!("of {}", now.len()),
        false => format!("of {}, {} were recorded", now.len(), before.len()),
    };
    match found {
        Some(at) => {
            let [was, is] = [before, now].map(|bytes| bytes.get(at).copied().unwrap_or_default());
            Some(format!("byte {at} {lens} is {is:02x}, was {was:02x}"))
        }
        None if same_len => None,
        None => Some(format!("{} bytes, {} were recorded", now.len(), before.len())),
    }
}

/// Compares words of four bytes as numbers. The header of a matrix must be the same.
fn different_floats(before: &[u8], now: &[u8], tolerance: f32) -> Option<String> {
    let start = header_of_matrix(before).unwrap_or(0);
    let (head, body) = before.split_at_checked(start).unwrap_or((before, &[]));
    let (now_head, now_body) = now.split_at_checked(start).unwrap_or((now, &[]));
    if head != now_head {
        return different_bytes(before, now, None);
    }
    let (words, rest) = body.as_chunks::<4>();
    let (now_words, now_rest) = now_body.as_chunks::<4>();
    for (index, (was, is)) in words.iter().zip(now_words).enumerate() {
        if !are_near(*was, *is, tolerance) {
            let [was, is] = [was, is].map(|word| f32::from_le_bytes(*word));
            let place = start + 4 * index;
            return Some(format!("number {index}, at byte {place}, is {is:?}, was {was:?}"));
        }
    }
    if rest != now_rest { different_bytes(before, now, None) } else { None }
}

/// Whether two words are the same, or numbers that are about the same. Most words that are no floats
/// (lengths, text) are no normal numbers either, and must be the same.
fn are_near(was: [u8; 4], is: [u8; 4], tolerance: f32) -> bool {
    if was == is {
        return true;
    }
    let [was, is] = [was, is].map(f32::from_le_bytes);
    let is_number = |number: f32| number.is_normal() || number == 0.0;
    is_number(was)
        && is_number(is)
        && (was - is).abs() <= tolerance * was.abs().max(is.abs()).max(1.0)
}

/// The length of the header if this is a matrix of float32.
fn header_of_matrix(bytes: &[u8]) -> Option<usize> {
    let shape = MatrixShape::from_header(bytes.first_chunk()?).ok()?;
    let fits = shape.encoded_len() == bytes.len() && shape.element() == ElementType::F32;
    fits.then_some(MatrixShape::HEADER_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    #[test]
    fn the_first_byte_that_differs_is_named() {
        let differ = |before: &[u8], now: &[u8]| different_bytes(before, now, None);
        assert_eq!(differ(b"same", b"same"), None);
        assert_eq!(differ(b"abcd", b"abxd").unwrap(), "byte 2 of 4 is 78, was 63");
        assert_eq!(differ(b"abcd", b"ab").unwrap(), "2 bytes, 4 were recorded");
        let both = differ(b"abcd", b"axc").unwrap();
        assert_eq!(both, "byte 1 of 3, 4 were recorded is 78, was 62");
    }

    #[test]
    fn numbers_may_be_off_by_the_tolerance_and_other_words_may_not() {
        let differ = |a: &[f32], b: &[f32]| different_floats(&floats(a), &floats(b), 1e-3);
        assert_eq!(differ(&[0.5, -2000.0, 0.0], &[0.5005, -2001.0, 0.0009]), None);
        assert_eq!(
            differ(&[0.5, 1.0], &[0.5, 1.1]).unwrap(),
            "number 1, at byte 4, is 1.1, was 1.0"
        );
        assert!(
            differ(&[f32::NAN], &[1.0]).is_some() && differ(&[f32::NAN], &[f32::NAN]).is_none()
        );
        // Small integers are no normal numbers.
        let ints = |number: u32| number.to_le_bytes();
        assert!(different_floats(&ints(384), &ints(385), 1e9).is_some());
        assert!(different_floats(&ints(384), &ints(0), 1e9).is_some());
        assert!(different_floats(b"abcde", b"abcdf", 1.0).is_some(), "what is behind the words");
    }

    #[test]
    fn the_header_of_a_matrix_is_compared_byte_by_byte() {
        let matrix = |rows, cols, numbers: &[f32]| {
            let shape = MatrixShape::new(rows, cols, ElementType::F32).unwrap();
            [&shape.to_header()[..], &floats(numbers)].concat()
        };
        let before = matrix(1, 2, &[1.0, 2.0]);
        assert_eq!(different_floats(&before, &matrix(1, 2, &[1.0, 2.01]), 0.1), None);
        let found = different_floats(&before, &matrix(2, 1, &[1.0, 2.0]), 0.1).unwrap();
        assert!(found.starts_with("byte "), "{found}");
    }
}
