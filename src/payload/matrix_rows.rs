//! Reading a matrix from front to end, while it comes.

use std::fmt;
use std::io::{self, Read};

use zerocopy::IntoBytes;

use super::element::{Element, ElementType};
use super::float16::{bf16_to_f32, f16_to_f32};
use super::invalid;
use super::matrix_reader::widen_each;
use super::matrix_shape::MatrixShape;
use crate::error::{Error, ErrorKind, Result};

/// The rows of a matrix that are read in order, from anything that is [`Read`]: for a matrix that is
/// longer than a frame, from a [`MessageReader`](crate::MessageReader), straight to where its rows
/// are wanted. A [`MatrixReader`](super::MatrixReader) reads rows in any order, but of a matrix that
/// has come whole.
///
/// The header is read and checked first. The matrix is known to be whole once its last row was
/// read: then a source that goes on is refused, as one that ends early is before.
///
/// ```
/// use slipring::payload::{Matrix, MatrixRows, Payload};
///
/// let mut bytes = [0; 48];
/// Matrix::f32(2, 2, &[1.0, 2.0, 3.0, 4.0])?.encode(&mut bytes)?;
///
/// // In a host: `MatrixRows::new(pending.wait_reader()?)?`.
/// let mut matrix = MatrixRows::new(&bytes[..])?;
/// let mut row = [0.0; 2];
/// while matrix.rows_left() > 0 {
///     matrix.copy_rows(&mut row)?;
/// }
/// assert_eq!(row, [3.0, 4.0]);
/// # Ok::<(), slipring::Error>(())
/// ```
pub struct MatrixRows<R> {
    shape: MatrixShape,
    rows_left: usize,
    /// A read of rows has failed, perhaps within one of them.
    has_failed: bool,
    source: R,
}

impl<R: Read> MatrixRows<R> {
    /// Reads the header. A mutable reference to a source is a source, too. Blocks as the source does.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`] if the source does not begin with the header of a matrix: the
    /// message has the reason. What the source fails with: the library's own errors as they are,
    /// others as the source of an [`ErrorKind::Os`].
    pub fn new(mut source: R) -> Result<Self> {
        let mut header = [0; MatrixShape::HEADER_LEN];
        source.read_exact(&mut header).map_err(failed)?;
        let shape = MatrixShape::from_header(&header)?;
        let is_empty = shape.data_len() == 0;
        let rows_left = if is_empty { 0 } else { shape.rows() };
        let mut rows = Self { shape, rows_left, has_failed: false, source };
        if is_empty {
            rows.check_end()?;
        }
        Ok(rows)
    }

    /// Returns rows, columns and element type.
    pub const fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Returns the number of columns.
    pub const fn cols(&self) -> usize {
        self.shape.cols()
    }

    /// Returns the number of rows that were not read yet: zero from the start if the matrix has no
    /// columns.
    pub const fn rows_left(&self) -> usize {
        self.rows_left
    }

    /// Copies the next rows to `out`: as many as it has elements for. Elements of `f16` and `bf16`
    /// are widened. Blocks as the source does.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`] if `out` does not have the elements of whole rows, or of more
    /// than are left, or if the elements are integers: nothing is read then. The same if the source
    /// ends before the matrix, or goes on behind it; what the source fails with. After a source has
    /// failed, an interrupt included, no more rows can be read.
    pub fn copy_rows(&mut self, out: &mut [f32]) -> Result<()> {
        let convert = match self.shape.element() {
            ElementType::F32 => return self.copy_rows_exact(out),
            ElementType::F16 => f16_to_f32,
            ElementType::BF16 => bf16_to_f32,
            element @ (ElementType::I8 | ElementType::U8) => {
                let what = "elements do not convert to f32 without a scale";
                return Err(invalid(format!("{element} {what}")));
            }
        };
        let rows = self.check_rows(out.len())?;
        let source = &mut self.source;
        let read = |bits: &mut [u16]| source.read_exact(bits.as_mut_bytes()).map_err(failed);
        let read = widen_each(out, read, convert);
        self.note_read(rows, read)
    }

    /// Copies the next rows to `out` without conversion. Blocks as the source does.
    ///
    /// # Errors
    ///
    /// As [`MatrixRows::copy_rows`]; [`ErrorKind::InvalidPayload`] if the elements are of another
    /// type than `E`.
    pub fn copy_rows_exact<E: Element>(&mut self, out: &mut [E]) -> Result<()> {
        self.shape.check_type::<E>()?;
        let rows = self.check_rows(out.len())?;
        let read = self.source.read_exact(out.as_mut_bytes()).map_err(failed);
        self.note_read(rows, read)
    }

    /// Returns the source. What follows the rows that were read is still in it.
    pub fn into_source(self) -> R {
        self.source
    }

    /// Returns how many rows so many elements are, if they are whole rows that are left.
    fn check_rows(&self, elements: usize) -> Result<usize> {
        if self.has_failed {
            return Err(invalid("rows are not known any more: an earlier read has failed"));
        }
        let rows = elements.checked_div(self.cols()).unwrap_or(0);
        if rows * self.cols() == elements && rows <= self.rows_left {
            return Ok(rows);
        }
        let (shape, left) = (self.shape, self.rows_left);
        Err(invalid(format!(
            "{elements} values for rows of a {shape} matrix with {left} rows left"
        )))
    }

    fn note_read(&mut self, rows: usize, read: Result<()>) -> Result<()> {
        if read.is_err() {
            self.has_failed = true;
            return read;
        }
        let before = self.rows_left;
        self.rows_left -= rows;
        if self.rows_left == 0 && before != 0 { self.check_end() } else { Ok(()) }
    }

    /// Refuses a source that goes on behind the matrix. Waits until it has ended.
    fn check_end(&mut self) -> Result<()> {
        loop {
            match self.source.read(&mut [0]) {
                Ok(0) => return Ok(()),
                Ok(_) => return Err(invalid(format!("bytes follow a {} matrix", self.shape))),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

impl<R> fmt::Debug for MatrixRows<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MatrixRows({}, {} rows left)", self.shape, self.rows_left)
    }
}

/// The error of a source. One of the library's own comes out as it went in.
#[cold]
fn failed(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return invalid("a matrix ends before its last row");
    }
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::with_source(ErrorKind::Os, "a matrix could not be read", error),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::tests::{assert_invalid, encoded};
    use super::super::{Matrix, f32_to_bf16, f32_to_f16};
    use super::*;

    /// Gives out as many bytes at a time.
    struct Slowly<'a>(&'a [u8], usize);

    impl Read for Slowly<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let most = self.1.min(out.len());
            self.0.read(&mut out[..most])
        }
    }

    #[test]
    fn rows_come_in_order_however_the_source_is_cut() {
        let values: Vec<f32> = (0_u16..1_200).map(f32::from).collect();
        let half: Vec<u16> = values.iter().map(|value| f32_to_f16(*value)).collect();
        let brain: Vec<u16> = values.iter().map(|value| f32_to_bf16(*value)).collect();
        let brain_values: Vec<f32> = brain.iter().map(|bits| bf16_to_f32(*bits)).collect();
        for (matrix, expected) in [
            (Matrix::f32(4, 300, &values).unwrap(), &values),
            (Matrix::f16_bits(4, 300, &half).unwrap(), &values),
            (Matrix::bf16_bits(4, 300, &brain).unwrap(), &brain_values),
        ] {
            let bytes = encoded(&matrix);
            for cut in [1, 7, 512, 5000] {
                let mut rows = MatrixRows::new(Slowly(&bytes, cut)).unwrap();
                assert_eq!((rows.rows_left(), rows.cols(), rows.shape().rows()), (4, 300, 4));
                let mut all = vec![0.0; 1_200];
                let (first, rest) = all.split_at_mut(300);
                rows.copy_rows(first).unwrap();
                assert_eq!(rows.rows_left(), 3);
                rows.copy_rows(rest).unwrap();
                rows.copy_rows(&mut []).unwrap();
                assert_eq!((rows.rows_left(), &all), (0, expected));
            }
        }
    }

    #[test]
    fn a_matrix_that_ends_early_or_late_is_refused() {
        let whole = encoded(&Matrix::u8(2, 2, &[1, 2, 3, 4]).unwrap());
        let mut out = [0_u8; 4];
        for len in 0..MatrixShape::HEADER_LEN {
            assert_invalid(MatrixRows::new(&whole[..len]), "ends before");
        }
        for len in MatrixShape::HEADER_LEN..whole.len() {
            let mut rows = MatrixRows::new(&whole[..len]).unwrap();
            assert_invalid(rows.copy_rows_exact(&mut out), "ends before its last row");
        }
        let long = [&whole[..], &[0]].concat();
        assert_invalid(
            MatrixRows::new(&long[..]).unwrap().copy_rows_exact(&mut out),
            "bytes follow a 2 × 2 u8 matrix",
        );
        let empty = encoded(&Matrix::u8(3, 0, &[]).unwrap());
        let mut rows = MatrixRows::new(&empty[..]).unwrap();
        rows.copy_rows_exact::<u8>(&mut []).unwrap();
        assert_invalid(MatrixRows::new(&[&empty[..], &[0]].concat()[..]), "bytes follow");
        assert_invalid(MatrixRows::new(&[0; 32][..]), "unknown type 0");
    }

    #[test]
    fn a_place_for_other_rows_or_elements_is_refused_and_nothing_is_read() {
        let bytes = encoded(&Matrix::i8(2, 2, &[1, 2, 3, 4]).unwrap());
        let mut rows = MatrixRows::new(&bytes[..]).unwrap();
        assert_invalid(rows.copy_rows(&mut [0.0; 2]), "without a scale");
        assert_invalid(rows.copy_rows_exact(&mut [0_u8; 2]), "i8 elements, not u8");
        assert_invalid(rows.copy_rows_exact(&mut [0_i8; 3]), "3 values for rows");
        assert_invalid(rows.copy_rows_exact(&mut [0_i8; 6]), "with 2 rows left");
        let mut out = [0_i8; 4];
        rows.copy_rows_exact(&mut out).unwrap();
        assert_eq!((out, format!("{rows:?}").contains("0 rows left")), ([1, 2, 3, 4], true));
        assert!(rows.into_source().is_empty());
    }

    #[test]
    fn a_matrix_without_elements_has_no_rows_left_to_read() {
        for (rows, cols) in [(3, 0), (0, 3), (0, 0)] {
            let bytes = encoded(&Matrix::f32(rows, cols, &[]).unwrap());
            let matrix = MatrixRows::new(&bytes[..]).unwrap();
            assert_eq!((matrix.rows_left(), matrix.cols()), (0, cols), "{rows} × {cols}");
        }
    }

    #[test]
    fn rows_that_a_failure_has_cut_are_refused_and_not_read_askew() {
        let bytes = encoded(&Matrix::u8(2, 4, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap());
        let (half, rest) = bytes.split_at(MatrixShape::HEADER_LEN + 2);
        let mut pieces = [Ok(half), Err("a signal"), Ok(rest)].into_iter();
        let mut now = &[][..];
        struct Source<F>(F);
        impl<F: FnMut(&mut [u8]) -> io::Result<usize>> Read for Source<F> {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                (self.0)(out)
            }
        }
        let source = Source(|out: &mut [u8]| {
            if now.is_empty() {
                now = pieces.next().unwrap_or(Ok(&[])).map_err(io::Error::other)?;
            }
            now.read(out)
        });
        let (mut rows, mut row) = (MatrixRows::new(source).unwrap(), [0_u8; 4]);
        assert_eq!(rows.copy_rows_exact(&mut row).unwrap_err().kind(), ErrorKind::Os);
        assert_invalid(rows.copy_rows_exact(&mut row), "an earlier read has failed");
        assert_eq!(rows.rows_left(), 2);
    }

    #[test]
    fn the_error_of_the_source_comes_out_as_it_is() {
        struct Failing(fn() -> io::Error);
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(self.0())
            }
        }
        let own = || Error::new(ErrorKind::PeerDied, "gone").into();
        assert_eq!(MatrixRows::new(Failing(own)).unwrap_err().kind(), ErrorKind::PeerDied);
        let other = || io::Error::other("a cable");
        assert_eq!(MatrixRows::new(Failing(other)).unwrap_err().kind(), ErrorKind::Os);
    }
}
