//! NumPy's `.npy`, version 1.0: a header of fixed size, so that it can be
//! written again when the number of rows is known, and the rows in C order,
//! little-endian.

/// The whole header: a multiple of 64, as the format asks for, with room for
/// the longest shape.
const HEADER: usize = 128;
const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";

pub(super) fn header(rows: u64, dim: usize) -> Vec<u8> {
    let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}");
    let length = HEADER - MAGIC.len() - 2;
    let mut header = MAGIC.to_vec();
    header.extend(u16::try_from(length).unwrap_or_default().to_le_bytes());
    // Spaces up to the line break that ends the header.
    header.extend(format!("{dict:<0$}\n", length - 1).bytes());
    debug_assert_eq!(header.len(), HEADER);
    header
}

pub(super) fn push_row(row: &[f32], to: &mut Vec<u8>) {
    to.extend(row.iter().flat_map(|x| x.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_one_size_for_every_shape() {
        for (rows, dim) in [(0, 1), (5000, 384), (u64::MAX, usize::MAX)] {
            let header = header(rows, dim);
            assert_eq!(header.len(), HEADER);
            assert_eq!(header[6..10], [1, 0, 118, 0]);
            assert!(header.ends_with(b"\n"));
            let text = String::from_utf8_lossy(&header);
            assert!(text.contains(&format!("'shape': ({rows}, {dim}), }}")));
        }
    }
}
