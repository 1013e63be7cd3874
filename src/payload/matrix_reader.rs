//! Reading a matrix out of memory that may change meanwhile.

use std::fmt;

use zerocopy::IntoBytes;

use super::element::{Element, ElementType};
use super::float16::{bf16_to_f32, f16_to_f32};
use super::matrix_shape::MatrixShape;
use super::{Source, invalid};
use crate::error::Result;

/// A matrix in a [`Source`], whose header was copied and checked.
///
/// The shape cannot change. Elements are what the source holds when they are copied.
///
/// ```
/// use slipring::PeerBytes;
/// use slipring::payload::{Matrix, MatrixReader, Payload};
///
/// let mut slot = [0; 48];
/// Matrix::f32(2, 2, &[1.0, 2.0, 3.0, 4.0])?.encode(&mut slot)?;
///
/// // In a host: `MatrixReader::new(&reply)?`.
/// let reader = MatrixReader::new(PeerBytes::of(&slot))?;
/// let mut values = Vec::new();
/// reader.copy_to_vec(&mut values)?;
/// assert_eq!((reader.rows(), values), (2, vec![1.0, 2.0, 3.0, 4.0]));
/// # Ok::<(), slipring::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct MatrixReader<S> {
    shape: MatrixShape,
    source: S,
}

impl<S: Source> MatrixReader<S> {
    /// Reads the header. A reference to a source is a source, too.
    ///
    /// # Errors
    ///
    /// As [`MatrixShape::decode`].
    pub fn new(source: S) -> Result<Self> {
        Ok(Self { shape: MatrixShape::decode(&source)?, source })
    }

    /// Returns rows, columns and element type.
    pub const fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Returns the number of rows. The payload bounds it only if there are columns.
    pub const fn rows(&self) -> usize {
        self.shape.rows()
    }

    /// Returns the number of columns. The payload bounds it only if there are rows.
    pub const fn cols(&self) -> usize {
        self.shape.cols()
    }

    /// Returns the type of the elements.
    pub const fn element(&self) -> ElementType {
        self.shape.element()
    }

    /// Copies row `index` to `out`, which has [`cols`](Self::cols) elements. Elements of `f16`
    /// and `bf16` are widened.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if there is no such row,
    /// if `out` has another length, or if the elements are integers. These need a scale: use
    /// [`copy_row_exact`](Self::copy_row_exact).
    pub fn copy_row(&self, index: usize, out: &mut [f32]) -> Result<()> {
        self.shape.check_elements("a row", self.cols(), out.len())?;
        self.widen_to(self.shape.row_range(index)?.start, out)
    }

    /// Copies all rows to `out`, which has rows × columns elements. Elements of `f16` and `bf16`
    /// are widened.
    ///
    /// # Errors
    ///
    /// As [`copy_row`](Self::copy_row), for all elements.
    pub fn copy_to_f32(&self, out: &mut [f32]) -> Result<()> {
        self.shape.check_elements("all rows", self.shape.elements(), out.len())?;
        self.widen_to(0, out)
    }

    /// Replaces the content of `out` by all rows. Elements of `f16` and `bf16` are widened.
    /// Allocates twice the length of the source at most, and nothing if `out` has the capacity.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if the elements are
    /// integers. `out` is empty then.
    pub fn copy_to_vec(&self, out: &mut Vec<f32>) -> Result<()> {
        // Not cleared before: the old elements are overwritten, not zeroed first.
        out.resize(if is_float(self.element()) { self.shape.elements() } else { 0 }, 0.0);
        self.widen_to(0, out).inspect_err(|_| out.clear())
    }

    /// Copies row `index` to `out`, which has [`cols`](Self::cols) elements, without conversion.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if there is no such row,
    /// if `out` has another length, or if the elements are of another type than `E`.
    pub fn copy_row_exact<E: Element>(&self, index: usize, out: &mut [E]) -> Result<()> {
        self.shape.check_type::<E>()?;
        self.shape.check_elements("a row", self.cols(), out.len())?;
        self.copy_row_bytes(index, out.as_mut_bytes())
    }

    /// Copies all rows to `out`, which has rows × columns elements, without conversion.
    ///
    /// ```
    /// use slipring::payload::{Matrix, MatrixReader, Payload};
    ///
    /// let matrix = Matrix::i8(2, 2, &[1, -2, 3, -4])?;
    /// let mut slot = vec![0; matrix.encoded_len()];
    /// matrix.encode(&mut slot)?;
    /// let mut quantized = [0_i8; 4];
    /// MatrixReader::new(&slot)?.copy_to_exact(&mut quantized)?;
    /// assert_eq!(quantized, [1, -2, 3, -4]);
    /// # Ok::<(), slipring::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`copy_row_exact`](Self::copy_row_exact), for all elements.
    pub fn copy_to_exact<E: Element>(&self, out: &mut [E]) -> Result<()> {
        self.shape.check_type::<E>()?;
        self.shape.check_elements("all rows", self.shape.elements(), out.len())?;
        self.copy_bytes_to(out.as_mut_bytes())
    }

    /// Copies row `index` to `out` as little-endian bytes. `out` has
    /// [`MatrixShape::row_len`] bytes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if there is no such row,
    /// or if `out` has another length.
    pub fn copy_row_bytes(&self, index: usize, out: &mut [u8]) -> Result<()> {
        let start = self.shape.row_range(index)?.start;
        self.copy_bytes(self.shape.row_len(), start, out)
    }

    /// Copies all rows to `out` as little-endian bytes. `out` has
    /// [`MatrixShape::data_len`] bytes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if `out` has another
    /// length.
    pub fn copy_bytes_to(&self, out: &mut [u8]) -> Result<()> {
        self.copy_bytes(self.shape.data_len(), 0, out)
    }

    /// Returns the source.
    pub fn into_source(self) -> S {
        self.source
    }

    fn copy_bytes(&self, expected: usize, start: usize, out: &mut [u8]) -> Result<()> {
        if out.len() != expected {
            let (shape, len) = (self.shape, out.len());
            return Err(invalid(format!(
                "{expected} bytes of a {shape} matrix do not fit a buffer of {len}"
            )));
        }
        self.source.read_at(MatrixShape::HEADER_LEN + start, out)
    }

    /// Copies elements, from byte `start` of the data on.
    fn widen_to(&self, start: usize, out: &mut [f32]) -> Result<()> {
        let offset = MatrixShape::HEADER_LEN + start;
        match self.element() {
            ElementType::F32 => self.source.read_at(offset, out.as_mut_bytes()),
            ElementType::F16 => self.widen_each(offset, out, f16_to_f32),
            ElementType::BF16 => self.widen_each(offset, out, bf16_to_f32),
            element @ (ElementType::I8 | ElementType::U8) => {
                Err(invalid(format!("{element} elements do not convert to f32 without a scale")))
            }
        }
    }

    fn widen_each(
        &self,
        mut offset: usize,
        out: &mut [f32],
        convert: impl Fn(u16) -> f32,
    ) -> Result<()> {
        let read = |bits: &mut [u16]| {
            let from = offset;
            // Stays below `encoded_len`, which fits.
            offset += size_of_val(bits);
            self.source.read_at(from, bits.as_mut_bytes())
        };
        widen_each(out, read, convert)
    }
}

impl<S> fmt::Debug for MatrixReader<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MatrixReader({})", self.shape)
    }
}

const fn is_float(element: ElementType) -> bool {
    matches!(element, ElementType::F32 | ElementType::F16 | ElementType::BF16)
}

/// Widens elements, which `read` gives in order, through a private copy of 1 KiB at a time, which
/// stays in the first-level cache.
pub(super) fn widen_each(
    out: &mut [f32],
    mut read: impl FnMut(&mut [u16]) -> Result<()>,
    convert: impl Fn(u16) -> f32,
) -> Result<()> {
    let mut copy = [0_u16; 512];
    for values in out.chunks_mut(copy.len()) {
        let bits = copy.get_mut(..values.len()).unwrap_or_default();
        read(bits)?;
        for (value, bits) in values.iter_mut().zip(bits.iter()) {
            *value = convert(*bits);
        }
    }
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{Counted, Rewritten, assert_invalid, encoded};
    use super::super::{Matrix, f32_to_f16};
    use super::*;

    #[test]
    fn rows_come_out_one_by_one_or_all_at_once() {
        let bytes = encoded(&Matrix::f32(2, 2, &[1.0, 2.0, 3.0, 4.0]).unwrap());
        let reader = MatrixReader::new(&bytes).unwrap();
        assert_eq!((reader.rows(), reader.cols(), reader.element()), (2, 2, ElementType::F32));
        let mut row = [0.0; 2];
        reader.copy_row(1, &mut row).unwrap();
        assert_eq!(row, [3.0, 4.0]);
        let mut all = vec![9.0; 7];
        reader.copy_to_vec(&mut all).unwrap();
        assert_eq!(all, [1.0, 2.0, 3.0, 4.0]);
        let mut raw = [0; 8];
        reader.copy_row_bytes(0, &mut raw).unwrap();
        assert_eq!(raw, [0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]);
        assert_eq!(reader.into_source(), &bytes);
    }

    #[test]
    fn a_row_that_is_not_there_or_of_another_length_is_refused() {
        let bytes = encoded(&Matrix::f32(2, 2, &[0.0; 4]).unwrap());
        let reader = MatrixReader::new(&bytes).unwrap();
        assert_invalid(reader.copy_row(2, &mut [0.0; 2]), "row 2 of a matrix of 2 rows");
        assert_invalid(reader.copy_row(usize::MAX, &mut [0.0; 2]), "of a matrix of 2 rows");
        assert_invalid(reader.copy_row(0, &mut [0.0; 3]), "2 × 2 f32 matrix: 2 values, not 3");
        assert_invalid(reader.copy_to_f32(&mut [0.0; 3]), "2 × 2 f32 matrix: 4 values, not 3");
        assert_invalid(reader.copy_row_bytes(2, &mut [0; 8]), "row 2 of a matrix of 2 rows");
        assert_invalid(reader.copy_row_bytes(0, &mut [0; 7]), "do not fit a buffer of 7");
        assert_invalid(reader.copy_bytes_to(&mut [0; 17]), "do not fit a buffer of 17");
    }

    #[test]
    fn integers_are_not_taken_for_floats() {
        for matrix in [Matrix::i8(1, 2, &[1, -1]).unwrap(), Matrix::u8(1, 2, &[1, 2]).unwrap()] {
            let bytes = encoded(&matrix);
            let reader = MatrixReader::new(&bytes).unwrap();
            assert_invalid(reader.copy_row(0, &mut [0.0; 2]), "without a scale");
            let mut values = vec![1.0; 2];
            assert_invalid(reader.copy_to_vec(&mut values), "without a scale");
            assert!(values.is_empty());
        }
    }

    #[test]
    fn elements_are_copied_without_conversion_if_they_are_of_the_type() {
        let bytes = encoded(&Matrix::i8(2, 2, &[1, -2, 3, -4]).unwrap());
        let reader = MatrixReader::new(&bytes).unwrap();
        let (mut row, mut all) = ([0_i8; 2], [0_i8; 4]);
        reader.copy_row_exact(1, &mut row).unwrap();
        reader.copy_to_exact(&mut all).unwrap();
        assert_eq!((row, all), ([3, -4], [1, -2, 3, -4]));
        assert_invalid(reader.copy_row_exact(2, &mut row), "row 2 of a matrix of 2 rows");
        assert_invalid(reader.copy_row_exact(0, &mut all), "2 values, not 4");
        assert_invalid(reader.copy_to_exact(&mut row), "4 values, not 2");
        assert_invalid(reader.copy_to_exact(&mut [0_u8; 4]), "i8 elements, not u8");
        assert_invalid(reader.copy_row_exact(0, &mut [0.0_f32; 2]), "i8 elements, not f32");
    }

    #[test]
    fn half_floats_are_widened_across_the_pieces_in_which_they_are_copied() {
        let values: Vec<f32> = (0_u16..1_300).map(f32::from).collect();
        let bits: Vec<u16> = values.iter().map(|value| f32_to_f16(*value)).collect();
        let bytes = encoded(&Matrix::f16_bits(1, values.len(), &bits).unwrap());
        let mut wide = Vec::new();
        MatrixReader::new(&bytes).unwrap().copy_to_vec(&mut wide).unwrap();
        assert_eq!(wide, values);
    }

    #[test]
    fn every_nan_keeps_its_bits() {
        let values = [0x7f80_0001, 0xffc0_1234, 0x7fff_ffff].map(f32::from_bits);
        let bytes = encoded(&Matrix::f32(1, 3, &values).unwrap());
        let mut row = [0.0; 3];
        MatrixReader::new(&bytes).unwrap().copy_row(0, &mut row).unwrap();
        assert_eq!(row.map(f32::to_bits), values.map(f32::to_bits));
    }

    #[test]
    fn a_matrix_of_no_columns_has_rows_to_copy() {
        let bytes = encoded(&Matrix::f32(3, 0, &[]).unwrap());
        let reader = MatrixReader::new(&bytes).unwrap();
        reader.copy_row(2, &mut []).unwrap();
        assert_invalid(reader.copy_row(3, &mut []), "row 3 of a matrix of 3 rows");
        reader.copy_to_f32(&mut []).unwrap();
    }

    #[test]
    fn a_warm_vector_is_filled_in_place() {
        let bytes = encoded(&Matrix::f32(2, 2, &[1.0; 4]).unwrap());
        let mut values = vec![0.0; 9];
        let place = values.as_ptr();
        MatrixReader::new(&bytes).unwrap().copy_to_vec(&mut values).unwrap();
        assert_eq!((values.as_ptr(), values), (place, vec![1.0; 4]));
    }

    #[test]
    fn each_byte_of_the_source_is_fetched_once() {
        let bits = vec![0x3c00; 1_030];
        let wide = vec![1.0; 1_030];
        for matrix in [
            Matrix::f32(2, 515, &wide).unwrap(),
            Matrix::f16_bits(2, 515, &bits).unwrap(),
            Matrix::bf16_bits(2, 515, &bits).unwrap(),
        ] {
            let source = Counted::new(encoded(&matrix));
            MatrixReader::new(&source).unwrap().copy_to_vec(&mut Vec::new()).unwrap();
            source.assert_each_byte_was_fetched_once();
        }
    }

    #[test]
    fn a_peer_that_rewrites_the_header_after_it_was_read_gains_nothing() {
        let good = encoded(&Matrix::f32(2, 2, &[1.0, 2.0, 3.0, 4.0]).unwrap());
        let source = Rewritten::new(vec![good.clone(), vec![0xff; 48]]);
        let reader = MatrixReader::new(source).unwrap();
        let mut values = Vec::new();
        reader.copy_to_vec(&mut values).unwrap();
        assert_eq!(values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), [u32::MAX; 4]);
        assert_eq!((reader.rows(), reader.cols()), (2, 2));
        MatrixReader::new(Rewritten::new(vec![vec![0xff; 48], good])).unwrap_err();
    }

    proptest! {
        #[test]
        fn any_bytes_make_a_matrix_of_exactly_their_length_or_none(
            rows in 0..4_u32,
            cols in 0..4_u32,
            element in 0..7_u8,
            announced in prop::option::of(0..70_u64),
            data in prop::collection::vec(any::<u8>(), 0..70),
            flip in prop::option::of((0..32_usize, any::<u8>())),
        ) {
            let size = ElementType::from_code(element).map_or(1, ElementType::size);
            let exact = u64::from(rows * cols) * u64::try_from(size).unwrap();
            let len = announced.unwrap_or(exact);
            let mut bytes = [rows.to_le_bytes(), cols.to_le_bytes()].concat();
            bytes.extend([element, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend(len.to_le_bytes());
            bytes.extend([0; 8]);
            if let Some((at, byte)) = flip {
                bytes[at] = byte;
            }
            let fitting = usize::try_from(exact).unwrap();
            bytes.extend(data.iter().cycle().take(if data.is_empty() { 0 } else { fitting }));
            match MatrixReader::new(&bytes) {
                Ok(reader) => {
                    prop_assert_eq!(reader.shape().encoded_len(), bytes.len());
                    let mut copy = vec![0; reader.shape().data_len()];
                    reader.copy_bytes_to(&mut copy).unwrap();
                    prop_assert_eq!(&copy, &bytes[32..]);
                    let shape = reader.shape();
                    let matrix =
                        Matrix::from_bytes(shape.rows(), shape.cols(), shape.element(), &copy);
                    prop_assert_eq!(encoded(&matrix.unwrap()), bytes);
                }
                Err(error) => {
                    prop_assert_eq!(error.kind(), crate::ErrorKind::InvalidPayload);
                    prop_assert!(Matrix::decode(&bytes).is_err());
                }
            }
        }

        #[test]
        fn any_f32_matrix_keeps_every_bit(rows in 0..5_usize, cols in 0..5_usize, seed: u32) {
            let values: Vec<f32> = (0..rows * cols)
                .map(|i| f32::from_bits(seed.wrapping_mul(u32::try_from(i).unwrap() * 2 + 1)))
                .collect();
            let bytes = encoded(&Matrix::f32(rows, cols, &values).unwrap());
            let reader = MatrixReader::new(&bytes).unwrap();
            let mut row = vec![0.0; cols];
            for (index, expected) in values.chunks(cols.max(1)).enumerate() {
                reader.copy_row(index, &mut row).unwrap();
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&row), bits(expected));
            }
        }

        #[test]
        fn a_source_rewritten_at_random_keeps_the_shape_that_was_read(
            edits in prop::collection::vec((0..48_usize, any::<u8>()), 1..8),
        ) {
            let mut versions = vec![encoded(&Matrix::f16_bits(2, 4, &[0x3c00; 8]).unwrap())];
            for (at, byte) in edits {
                let mut next = versions.last().unwrap().clone();
                next[at] = byte;
                versions.push(next);
            }
            let source = Rewritten::new(versions);
            for _ in 0..4 {
                if let Ok(reader) = MatrixReader::new(&source) {
                    let mut values = Vec::new();
                    if reader.copy_to_vec(&mut values).is_ok() {
                        prop_assert_eq!(values.len(), reader.rows() * reader.cols());
                    }
                    prop_assert_eq!(reader.shape().encoded_len(), 48);
                }
            }
        }
    }
}
