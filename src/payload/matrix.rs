//! A matrix in private memory, in one piece.

use std::fmt;

use zerocopy::{FromBytes, IntoBytes};

use super::element::{Element, ElementType};
use super::matrix_shape::MatrixShape;
use super::{Payload, copy_from_slice, invalid};
use crate::error::Result;

/// A borrowed matrix in private memory: rows one after another, without gaps.
///
/// As a [`Payload`] it is written to its slot in one copy. [`MatrixWriter`](super::MatrixWriter)
/// writes rows right into a slot; [`MatrixReader`](super::MatrixReader) reads from memory that
/// a peer can change.
///
/// ```
/// use slipring::payload::{Matrix, MatrixReader, Payload};
///
/// let matrix = Matrix::f32(2, 3, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// let mut slot = vec![0; matrix.encoded_len()];
/// matrix.encode(&mut slot)?;
///
/// let reader = MatrixReader::new(&slot)?;
/// let mut row = [0.0; 3];
/// reader.copy_row(1, &mut row)?;
/// assert_eq!(row, [4.0, 5.0, 6.0]);
/// # Ok::<(), slipring::Error>(())
/// ```
///
/// # Errors
///
/// The constructors fail with [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload)
/// if the data has not `rows` × `cols` elements, or as [`MatrixShape::new`] does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Matrix<'a> {
    shape: MatrixShape,
    /// That of the shape, to be sent from here.
    header: [u8; MatrixShape::HEADER_LEN],
    data: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// Makes a matrix of `rows` × `cols` elements, of any type that has an [`Element`].
    ///
    /// ```
    /// use slipring::payload::{ElementType, Matrix};
    ///
    /// let matrix = Matrix::new(1, 2, &[-1_i8, 7])?;
    /// assert_eq!(matrix.shape().element(), ElementType::I8);
    /// # Ok::<(), slipring::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`Matrix`].
    pub fn new<E: Element>(rows: usize, cols: usize, data: &'a [E]) -> Result<Self> {
        Self::from_bytes(rows, cols, E::TYPE, data.as_bytes())
    }

    /// Makes a matrix of `rows` × `cols` elements of `f32`.
    ///
    /// # Errors
    ///
    /// See [`Matrix`].
    pub fn f32(rows: usize, cols: usize, data: &'a [f32]) -> Result<Self> {
        Self::new(rows, cols, data)
    }

    /// Makes a matrix of `rows` × `cols` elements of `f16`, given by their bits.
    ///
    /// # Errors
    ///
    /// See [`Matrix`].
    pub fn f16_bits(rows: usize, cols: usize, data: &'a [u16]) -> Result<Self> {
        Self::from_bytes(rows, cols, ElementType::F16, data.as_bytes())
    }

    /// Makes a matrix of `rows` × `cols` elements of `bf16`, given by their bits.
    ///
    /// # Errors
    ///
    /// See [`Matrix`].
    pub fn bf16_bits(rows: usize, cols: usize, data: &'a [u16]) -> Result<Self> {
        Self::from_bytes(rows, cols, ElementType::BF16, data.as_bytes())
    }

    /// Makes a matrix of `rows` × `cols` elements of `i8`.
    ///
    /// # Errors
    ///
    /// See [`Matrix`].
    pub fn i8(rows: usize, cols: usize, data: &'a [i8]) -> Result<Self> {
        Self::new(rows, cols, data)
    }

    /// Makes a matrix of `rows` × `cols` elements of `u8`.
    ///
    /// # Errors
    ///
    /// See [`Matrix`].
    pub fn u8(rows: usize, cols: usize, data: &'a [u8]) -> Result<Self> {
        Self::new(rows, cols, data)
    }

    /// Makes a matrix of `rows` × `cols` elements of `element`, given by their little-endian
    /// bytes.
    ///
    /// # Errors
    ///
    /// See [`Matrix`].
    pub fn from_bytes(
        rows: usize,
        cols: usize,
        element: ElementType,
        data: &'a [u8],
    ) -> Result<Self> {
        let shape = MatrixShape::new(rows, cols, element)?;
        if data.len() != shape.data_len() {
            let (needed, given) = (shape.data_len(), data.len());
            return Err(invalid(format!(
                "a {shape} matrix needs {needed} bytes of data, but is given {given}"
            )));
        }
        Ok(Self { shape, header: shape.to_header(), data })
    }

    /// Decodes a matrix in private memory, without a copy.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if the bytes are not
    /// exactly one matrix: the message has the reason.
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        let shape = MatrixShape::decode(bytes)?;
        let data = bytes.get(shape.data_range()).unwrap_or_default();
        Ok(Self { shape, header: shape.to_header(), data })
    }

    /// Returns rows, columns and element type.
    #[must_use]
    pub const fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Returns all elements as little-endian bytes, row by row.
    #[must_use]
    pub const fn data(&self) -> &'a [u8] {
        self.data
    }

    /// Returns all elements row by row, if they are of the type `E` and aligned for it.
    #[must_use]
    pub fn as_slice<E: Element>(&self) -> Option<&'a [E]> {
        if self.shape.element() != E::TYPE {
            return None;
        }
        <[E]>::ref_from_bytes(self.data).ok()
    }

    /// Returns all elements row by row, if they are `f32` and aligned to 4 bytes.
    #[must_use]
    pub fn as_f32(&self) -> Option<&'a [f32]> {
        self.as_slice()
    }
}

impl Payload for Matrix<'_> {
    fn encoded_len(&self) -> usize {
        self.shape.encoded_len()
    }

    fn encode(&self, out: &mut [u8]) -> Result<()> {
        copy_from_slice(self.shape.write_header(out)?, self.data);
        Ok(())
    }

    fn as_parts(&self) -> Option<[&[u8]; 3]> {
        Some([&self.header, self.data, &[]])
    }
}

impl fmt::Debug for Matrix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matrix({})", self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::super::MatrixReader;
    use super::super::tests::{assert_invalid, encoded};
    use super::*;

    #[test]
    fn a_matrix_comes_out_as_it_went_in_whatever_its_elements() {
        let matrices = [
            Matrix::f32(2, 1, &[1.5, -0.0]).unwrap(),
            Matrix::f16_bits(1, 2, &[0x3c00, 0xffff]).unwrap(),
            Matrix::bf16_bits(2, 1, &[0x3f80, 0x0001]).unwrap(),
            Matrix::i8(1, 3, &[-128, 0, 127]).unwrap(),
            Matrix::u8(3, 1, &[0, 1, 255]).unwrap(),
        ];
        for matrix in matrices {
            let bytes = encoded(&matrix);
            assert_eq!(bytes.len(), 32 + matrix.data().len());
            assert_eq!(Matrix::decode(&bytes).unwrap(), matrix);
            let reader = MatrixReader::new(&bytes).unwrap();
            let mut data = vec![0; matrix.data().len()];
            reader.copy_bytes_to(&mut data).unwrap();
            assert_eq!((reader.shape(), &data[..]), (matrix.shape(), matrix.data()));
        }
    }

    #[test]
    fn elements_are_little_endian() {
        assert_eq!(Matrix::f32(1, 1, &[1.0]).unwrap().data(), [0, 0, 0x80, 0x3f]);
        assert_eq!(Matrix::f16_bits(1, 1, &[0x1234]).unwrap().data(), [0x34, 0x12]);
        assert_eq!(Matrix::i8(1, 1, &[-1]).unwrap().data(), [0xff]);
    }

    #[test]
    fn data_that_does_not_fit_the_shape_is_refused_and_both_lengths_are_named() {
        let needs = "a 2 × 2 f32 matrix needs 16 bytes of data, but is given";
        assert_invalid(Matrix::f32(2, 2, &[0.0; 3]), &format!("{needs} 12"));
        assert_invalid(Matrix::f32(2, 2, &[0.0; 5]), &format!("{needs} 20"));
        assert_invalid(
            Matrix::from_bytes(2, 2, ElementType::F32, &[0; 15]),
            &format!("{needs} 15"),
        );
        assert_invalid(Matrix::u8(0, 9, &[1]), "needs 0 bytes of data, but is given 1");
    }

    #[test]
    fn a_slot_of_the_wrong_length_is_refused() {
        let matrix = Matrix::u8(1, 1, &[7]).unwrap();
        assert_invalid(matrix.encode(&mut [0; 32]), "33 bytes does not fit a slot of 32");
        assert_invalid(matrix.encode(&mut [0; 34]), "33 bytes does not fit a slot of 34");
        assert_invalid(matrix.encode(&mut []), "33 bytes does not fit a slot of 0");
    }

    #[test]
    fn an_empty_matrix_is_its_header() {
        for (rows, cols) in [(0, 0), (0, 5), (5, 0)] {
            let bytes = encoded(&Matrix::f32(rows, cols, &[]).unwrap());
            assert_eq!(bytes.len(), MatrixShape::HEADER_LEN);
            let shape = Matrix::decode(&bytes).unwrap().shape();
            assert_eq!((shape.rows(), shape.cols(), shape.elements()), (rows, cols, 0));
        }
    }

    #[test]
    fn f32_data_is_a_view_only_of_f32_and_only_when_aligned() {
        let values = [1.0, 2.0, 3.0];
        let matrix = Matrix::f32(1, 3, &values).unwrap();
        assert_eq!(matrix.as_f32(), Some(&values[..]));
        let shifted = [&[0][..], matrix.data()].concat();
        let aligned = shifted.as_ptr().addr() % 4 == 3;
        let matrix = Matrix::from_bytes(1, 3, ElementType::F32, &shifted[1..]).unwrap();
        assert_eq!(matrix.as_f32().is_some(), aligned);
        assert_eq!(Matrix::u8(1, 4, &[0; 4]).unwrap().as_f32(), None);
    }
}
