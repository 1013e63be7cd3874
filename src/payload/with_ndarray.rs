//! Two-dimensional arrays of the `ndarray` crate.

use ndarray::{Array2, ArrayBase, ArrayView2, ArrayViewMut2, Data, Ix2, ShapeError};
use zerocopy::IntoBytes;

use super::{
    Element, Matrix, MatrixReader, MatrixShape, MatrixWriter, Payload, Source, copy_from_slice,
    invalid,
};
use crate::error::{Error, Result};

fn shape_of<S: Data<Elem = E>, E: Element>(array: &ArrayBase<S, Ix2>) -> Result<MatrixShape> {
    MatrixShape::new(array.nrows(), array.ncols(), E::TYPE)
}

/// An array is encoded as a [`Matrix`] of its rows, whatever its memory layout: elements that
/// do not lie one behind another are copied one by one. A call copies the array twice. The
/// view `Matrix::try_from(&array)` of an array in standard layout is copied once.
impl<S: Data<Elem = E>, E: Element> Payload for ArrayBase<S, Ix2> {
    fn encoded_len(&self) -> usize {
        // What cannot be encoded has no length; `encode` returns the error.
        shape_of(self).map_or(MatrixShape::HEADER_LEN, |shape| shape.encoded_len())
    }

    fn encode(&self, out: &mut [u8]) -> Result<()> {
        let data = shape_of(self)?.write_header(out)?;
        if let Some(elements) = self.as_slice() {
            copy_from_slice(data, elements.as_bytes());
            return Ok(());
        }
        for (place, element) in data.chunks_exact_mut(size_of::<E>()).zip(self) {
            place.copy_from_slice(element.as_bytes());
        }
        Ok(())
    }
}

/// Borrows the array. Fails with [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload)
/// if its elements do not lie row by row without gaps, or as [`MatrixShape::new`] does.
impl<'a, S: Data<Elem = E>, E: Element> TryFrom<&'a ArrayBase<S, Ix2>> for Matrix<'a> {
    type Error = Error;

    fn try_from(array: &'a ArrayBase<S, Ix2>) -> Result<Self> {
        let Some(elements) = array.as_slice() else {
            let message = "an array that is not in standard layout cannot be borrowed as a matrix; \
                           send the array itself, or `as_standard_layout` of it";
            return Err(invalid(message));
        };
        Matrix::new(array.nrows(), array.ncols(), elements)
    }
}

/// Borrows the data of the matrix. Fails with
/// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if the elements are of
/// another type or not aligned for it.
impl<'a, E: Element> TryFrom<Matrix<'a>> for ArrayView2<'a, E> {
    type Error = Error;

    fn try_from(matrix: Matrix<'a>) -> Result<Self> {
        let shape = matrix.shape();
        let Some(elements) = matrix.as_slice::<E>() else {
            let wanted = E::TYPE;
            return Err(invalid(format!("a {shape} matrix is no array of aligned {wanted}")));
        };
        Self::from_shape((shape.rows(), shape.cols()), elements).map_err(|e| too_big(shape, &e))
    }
}

/// Copies the matrix out of its source, which may change meanwhile. Fails as
/// [`MatrixReader::copy_to_exact`] does.
///
/// ```
/// use ndarray::{Array2, array};
/// use slipring::payload::{MatrixReader, Payload};
///
/// let sent = array![[1.0_f32, 2.0], [3.0, 4.0]];
/// let mut slot = vec![0; sent.encoded_len()];
/// sent.encode(&mut slot)?;
///
/// let received = Array2::<f32>::try_from(&MatrixReader::new(&slot)?)?;
/// assert_eq!(received, sent);
/// # Ok::<(), slipring::Error>(())
/// ```
impl<E: Element, S: Source> TryFrom<&MatrixReader<S>> for Array2<E> {
    type Error = Error;

    fn try_from(reader: &MatrixReader<S>) -> Result<Self> {
        let shape = reader.shape();
        shape.check_type::<E>()?;
        let mut elements = vec![E::default(); shape.elements()];
        reader.copy_to_exact(&mut elements)?;
        Self::from_shape_vec((shape.rows(), shape.cols()), elements)
            .map_err(|error| too_big(shape, &error))
    }
}

/// Borrows the slot, to compute in place. Fails as [`MatrixWriter::exact_mut`] does.
impl<'a, E: Element> TryFrom<&'a mut MatrixWriter<'_>> for ArrayViewMut2<'a, E> {
    type Error = Error;

    fn try_from(writer: &'a mut MatrixWriter<'_>) -> Result<Self> {
        let shape = writer.shape();
        let elements = writer.exact_mut::<E>()?;
        Self::from_shape((shape.rows(), shape.cols()), elements).map_err(|e| too_big(shape, &e))
    }
}

#[cold]
fn too_big(shape: MatrixShape, error: &ShapeError) -> Error {
    invalid(format!("a {shape} matrix is no array: {error}"))
}

#[cfg(test)]
mod tests {
    use ndarray::{array, s};

    use super::super::ElementType;
    use super::super::tests::{assert_invalid, encoded};
    use super::*;

    #[test]
    fn an_array_in_any_memory_layout_is_encoded_row_by_row() {
        let array = array![[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]];
        let expected = encoded(&Matrix::f32(2, 3, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap());
        assert_eq!(encoded(&array), expected);
        assert_eq!(encoded(&array.view()), expected);
        let columns_first = array.t().as_standard_layout().reversed_axes().to_owned();
        assert!(columns_first.as_slice().is_none(), "not in rows");
        assert_eq!(encoded(&columns_first), expected);

        let every_other = array.slice(s![.., ..;2]);
        assert_eq!(
            encoded(&every_other),
            encoded(&Matrix::f32(2, 2, &[1.0, 3.0, 4.0, 6.0]).unwrap())
        );
        let backwards = array.slice(s![..;-1, 1..]);
        assert_eq!(
            encoded(&backwards),
            encoded(&Matrix::f32(2, 2, &[5.0, 6.0, 2.0, 3.0]).unwrap())
        );
        assert_eq!(encoded(&Array2::<u8>::zeros((0, 3))), encoded(&Matrix::u8(0, 3, &[]).unwrap()));
    }

    #[test]
    fn only_an_array_whose_rows_have_no_gaps_is_borrowed_as_a_matrix() {
        let array = array![[1_i8, -2], [3, -4]];
        let matrix = Matrix::try_from(&array).unwrap();
        assert_eq!(matrix, Matrix::i8(2, 2, &[1, -2, 3, -4]).unwrap());
        assert!(matrix.as_parts().is_some(), "it is sent from where it lies");
        assert_eq!(ArrayView2::<i8>::try_from(matrix).unwrap(), array);
        assert_invalid(Matrix::try_from(&array.t()), "standard layout");
        assert_invalid(ArrayView2::<u8>::try_from(matrix), "2 × 2 i8 matrix is no array");
    }

    #[test]
    fn a_matrix_of_the_peers_is_copied_into_an_array_of_its_own_type() {
        let values = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let bytes = encoded(&Matrix::f32(3, 2, &values).unwrap());
        let reader = MatrixReader::new(&bytes).unwrap();
        let array = Array2::<f32>::try_from(&reader).unwrap();
        assert_eq!(array, array![[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
        assert_invalid(Array2::<u8>::try_from(&reader), "f32 elements, not u8");
    }

    #[test]
    fn empty_rows_by_the_billion_are_an_array_without_memory() {
        let rows = usize::try_from(u32::MAX).unwrap();
        for (rows, cols) in [(rows, 0), (0, rows), (0, 0)] {
            let bytes = encoded(&Matrix::f32(rows, cols, &[]).unwrap());
            let array = Array2::<f32>::try_from(&MatrixReader::new(&bytes).unwrap()).unwrap();
            assert_eq!(array.dim(), (rows, cols));
            assert_eq!(encoded(&array), bytes);
        }
        let array = Array2::<f32>::zeros((rows + 1, 0));
        let mut slot = vec![0; array.encoded_len()];
        assert_invalid(array.encode(&mut slot), "limited to 4294967295");
    }

    #[test]
    fn an_array_is_computed_in_the_slot_itself() {
        let shape = MatrixShape::new(2, 2, ElementType::F32).unwrap();
        let mut words = [0_u64; 6];
        let mut writer = MatrixWriter::new(words.as_mut_bytes(), shape).unwrap();
        let mut view = ArrayViewMut2::<f32>::try_from(&mut writer).unwrap();
        view.assign(&array![[1.0, 2.0], [3.0, 4.0]]);
        view *= 2.0;
        assert_invalid(ArrayViewMut2::<u8>::try_from(&mut writer), "f32 elements, not u8");
        let matrix = Matrix::decode(words.as_bytes()).unwrap();
        assert_eq!(matrix.as_f32(), Some(&[2.0, 4.0, 6.0, 8.0][..]));
    }
}
