//! Writing a matrix row by row, right into its slot.

use std::fmt;

use zerocopy::{FromBytes, IntoBytes};

use super::element::{Element, ElementType};
use super::float16::{f32_to_bf16, f32_to_f16};
use super::matrix_shape::MatrixShape;
use super::{check_slot, copy_from_slice, invalid};
use crate::error::{Error, Result};

/// A matrix that is written in a slot. Nothing is copied afterwards.
///
/// The header is written at once. A row that is never written keeps the bytes that the slot
/// held before: write every row, or call [`fill_zero`](Self::fill_zero) first.
///
/// ```
/// use slipring::payload::{ElementType, MatrixReader, MatrixShape, MatrixWriter};
///
/// let shape = MatrixShape::new(2, 2, ElementType::BF16)?;
/// let mut slot = vec![0; shape.encoded_len()];
/// let mut writer = MatrixWriter::new(&mut slot, shape)?;
/// writer.write_row_f32(0, &[1.0, -2.0])?;
/// writer.row_mut(1)?.copy_from_slice(&[0x80, 0x3f, 0x00, 0x00]);
///
/// let mut values = [0.0; 4];
/// MatrixReader::new(&slot)?.copy_to_f32(&mut values)?;
/// assert_eq!(values, [1.0, -2.0, 1.0, 0.0]);
/// # Ok::<(), slipring::Error>(())
/// ```
pub struct MatrixWriter<'a> {
    shape: MatrixShape,
    data: &'a mut [u8],
}

impl<'a> MatrixWriter<'a> {
    /// Starts a matrix in `slot`, whose length is [`MatrixShape::encoded_len`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if `slot` has another
    /// length; the message names both.
    pub fn new(slot: &'a mut [u8], shape: MatrixShape) -> Result<Self> {
        Ok(Self { shape, data: shape.write_header(slot)? })
    }

    /// Returns rows, columns and element type.
    #[must_use]
    pub const fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Returns all rows as little-endian bytes, one row after another.
    #[must_use]
    pub fn data_mut(&mut self) -> &mut [u8] {
        self.data
    }

    /// Sets all elements to zero.
    pub fn fill_zero(&mut self) {
        self.data.fill(0);
    }

    /// Returns row `index` as little-endian bytes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if there is no such row.
    pub fn row_mut(&mut self, index: usize) -> Result<&mut [u8]> {
        let range = self.shape.row_range(index)?;
        Ok(self.data.get_mut(range).unwrap_or_default())
    }

    /// Returns row `index`, to compute in place.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if there is no such row,
    /// if the elements are of another type than `E`, or if the slot is not aligned for it. A
    /// slot of a channel always is.
    pub fn row_exact_mut<E: Element>(&mut self, index: usize) -> Result<&mut [E]> {
        self.shape.check_type::<E>()?;
        <[E]>::mut_from_bytes(self.row_mut(index)?).map_err(|_| not_aligned::<E>())
    }

    /// Returns all rows, one after another, to compute in place.
    ///
    /// # Errors
    ///
    /// As [`row_exact_mut`](Self::row_exact_mut), for all rows.
    pub fn exact_mut<E: Element>(&mut self) -> Result<&mut [E]> {
        self.shape.check_type::<E>()?;
        <[E]>::mut_from_bytes(self.data).map_err(|_| not_aligned::<E>())
    }

    /// Returns row `index` of an `f32` matrix, to compute in place.
    ///
    /// # Errors
    ///
    /// As [`row_exact_mut`](Self::row_exact_mut).
    pub fn row_f32_mut(&mut self, index: usize) -> Result<&mut [f32]> {
        self.row_exact_mut(index)
    }

    /// Writes row `index`. In a matrix of `f16` or `bf16` each value is rounded to the nearest,
    /// ties to even.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if there is no such row,
    /// if it has not `row.len()` columns, or if the elements are integers. The row is unchanged
    /// then. Integers need a scale: convert the values yourself and use
    /// [`row_exact_mut`](Self::row_exact_mut).
    pub fn write_row_f32(&mut self, index: usize, row: &[f32]) -> Result<()> {
        self.shape.check_elements("a row", self.shape.cols(), row.len())?;
        let element = self.shape.element();
        narrow(element, row, self.row_mut(index)?)
    }

    /// Writes all rows, as [`write_row_f32`](Self::write_row_f32) writes one.
    ///
    /// # Errors
    ///
    /// As [`write_row_f32`](Self::write_row_f32), for all elements.
    pub fn write_f32(&mut self, rows: &[f32]) -> Result<()> {
        self.shape.check_elements("all rows", self.shape.elements(), rows.len())?;
        narrow(self.shape.element(), rows, self.data)
    }
}

#[cold]
fn not_aligned<E: Element>() -> Error {
    invalid(format!(
        "{} elements in a slot that is not aligned to {} bytes",
        E::TYPE,
        align_of::<E>()
    ))
}

impl fmt::Debug for MatrixWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MatrixWriter({})", self.shape)
    }
}

/// Writes `values` to `out`, which has room for exactly as many elements.
fn narrow(element: ElementType, values: &[f32], out: &mut [u8]) -> Result<()> {
    check_slot(out, values.len() * element.size())?;
    match element {
        ElementType::F32 => copy_from_slice(out, values.as_bytes()),
        ElementType::F16 => narrow_each(values, out, f32_to_f16),
        ElementType::BF16 => narrow_each(values, out, f32_to_bf16),
        ElementType::I8 | ElementType::U8 => {
            return Err(invalid(format!("f32 values do not convert to {element} without a scale")));
        }
    }
    Ok(())
}

fn narrow_each(values: &[f32], out: &mut [u8], convert: impl Fn(f32) -> u16) {
    let (places, _) = out.as_chunks_mut();
    for (place, value) in places.iter_mut().zip(values) {
        *place = convert(*value).to_le_bytes();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{assert_invalid, encoded};
    use super::super::{Matrix, MatrixReader};
    use super::*;

    /// A slot that held something else before.
    fn slot(shape: MatrixShape) -> Vec<u8> {
        vec![0xa5; shape.encoded_len()]
    }

    #[test]
    fn rows_written_in_place_equal_a_matrix_encoded_at_once() {
        let values = [1.0, -2.5, 3.0, 1e-8, 5.0, 65_520.0];
        let shape = MatrixShape::new(2, 3, ElementType::F32).unwrap();
        let whole = encoded(&Matrix::f32(2, 3, &values).unwrap());

        let mut by_row = slot(shape);
        let mut writer = MatrixWriter::new(&mut by_row, shape).unwrap();
        for row in [1, 0] {
            writer.write_row_f32(row, &values[row * 3..][..3]).unwrap();
        }
        assert_eq!(by_row, whole);

        let mut at_once = slot(shape);
        MatrixWriter::new(&mut at_once, shape).unwrap().write_f32(&values).unwrap();
        assert_eq!(at_once, whole);

        let mut as_bytes = slot(shape);
        let mut writer = MatrixWriter::new(&mut as_bytes, shape).unwrap();
        for row in 0..2 {
            writer.row_mut(row).unwrap().copy_from_slice(values[row * 3..][..3].as_bytes());
        }
        assert_eq!(as_bytes, whole);
    }

    #[test]
    fn half_floats_round_to_nearest_even() {
        // Between 1 and the next f16, 1 + 2^-10, and the next bf16, 1 + 2^-7.
        let row = [1.0 + 2_f32.powi(-11), 1.0 + 3.0 * 2_f32.powi(-11), 1.0 + 2_f32.powi(-8)];
        for (element, bits) in [
            (ElementType::F16, [0x3c00_u16, 0x3c02, 0x3c04]),
            (ElementType::BF16, [0x3f80, 0x3f80, 0x3f80]),
        ] {
            let shape = MatrixShape::new(1, 3, element).unwrap();
            let mut slot = slot(shape);
            let mut writer = MatrixWriter::new(&mut slot, shape).unwrap();
            writer.write_row_f32(0, &row).unwrap();
            assert_eq!(writer.data_mut(), bits.as_bytes());
        }
    }

    #[test]
    fn integers_refuse_f32_and_keep_their_row() {
        for element in [ElementType::I8, ElementType::U8] {
            let shape = MatrixShape::new(1, 2, element).unwrap();
            let mut slot = slot(shape);
            let mut writer = MatrixWriter::new(&mut slot, shape).unwrap();
            assert_invalid(writer.write_row_f32(0, &[1.0; 2]), "without a scale");
            assert_invalid(writer.write_f32(&[1.0; 2]), "without a scale");
            assert_eq!(writer.data_mut(), [0xa5; 2]);
            writer.fill_zero();
            assert_eq!(writer.data_mut(), [0; 2]);
        }
    }

    #[test]
    fn a_row_that_is_not_there_or_of_another_length_is_refused() {
        let shape = MatrixShape::new(2, 2, ElementType::F32).unwrap();
        let mut slot = slot(shape);
        let mut writer = MatrixWriter::new(&mut slot, shape).unwrap();
        assert_invalid(writer.row_mut(2), "row 2 of a matrix of 2 rows");
        assert_invalid(writer.row_f32_mut(2), "row 2 of a matrix of 2 rows");
        assert_invalid(writer.write_row_f32(2, &[0.0; 2]), "row 2 of a matrix of 2 rows");
        assert_invalid(writer.write_row_f32(0, &[0.0; 3]), "2 × 2 f32 matrix: 2 values, not 3");
        assert_invalid(writer.write_f32(&[0.0; 2]), "2 × 2 f32 matrix: 4 values, not 2");
        assert_eq!(writer.data_mut(), [0xa5; 16]);
    }

    #[test]
    fn a_slot_of_the_wrong_length_is_refused() {
        let shape = MatrixShape::new(1, 1, ElementType::U8).unwrap();
        assert_invalid(
            MatrixWriter::new(&mut [0; 32], shape),
            "33 bytes does not fit a slot of 32",
        );
        assert_invalid(
            MatrixWriter::new(&mut [0; 34], shape),
            "33 bytes does not fit a slot of 34",
        );
    }

    #[test]
    fn a_row_of_an_aligned_slot_can_be_computed_in_place() {
        let shape = MatrixShape::new(2, 1, ElementType::F32).unwrap();
        let mut words = [0_u64; 5];
        let mut writer = MatrixWriter::new(words.as_mut_bytes(), shape).unwrap();
        writer.row_f32_mut(1).unwrap().copy_from_slice(&[2.0]);
        let mut all = [9.0; 2];
        MatrixReader::new(words.as_bytes()).unwrap().copy_to_f32(&mut all).unwrap();
        assert_eq!(all, [0.0, 2.0]);
        let mut writer = MatrixWriter::new(words.as_mut_bytes(), shape).unwrap();
        assert_eq!(writer.exact_mut::<f32>().unwrap(), [0.0, 2.0]);
        assert_invalid(writer.exact_mut::<u8>(), "f32 elements, not u8");

        let mut words = [0_u64; 6];
        let (_, shifted) = words.as_mut_bytes().split_at_mut(1);
        let mut writer = MatrixWriter::new(&mut shifted[..40], shape).unwrap();
        assert_invalid(writer.row_f32_mut(0), "not aligned to 4 bytes");

        let shape = MatrixShape::new(1, 4, ElementType::F16).unwrap();
        let mut writer = MatrixWriter::new(&mut shifted[..40], shape).unwrap();
        assert_invalid(writer.row_f32_mut(0), "f16 elements, not f32");
    }

    proptest! {
        #[test]
        fn what_was_narrowed_and_widened_narrows_to_the_same_bytes(
            bits in prop::collection::vec(any::<u32>(), 0..40),
            bf16: bool,
        ) {
            let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let element = if bf16 { ElementType::BF16 } else { ElementType::F16 };
            let shape = MatrixShape::new(1, values.len(), element).unwrap();
            let (mut first, mut second) = (slot(shape), slot(shape));
            MatrixWriter::new(&mut first, shape).unwrap().write_f32(&values).unwrap();
            let mut wide = Vec::new();
            MatrixReader::new(&first).unwrap().copy_to_vec(&mut wide).unwrap();
            MatrixWriter::new(&mut second, shape).unwrap().write_f32(&wide).unwrap();
            prop_assert_eq!(first, second);
        }
    }
}
