//! The shape of a matrix, and its header.

use std::fmt;
use std::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::element::{Element, ElementType};
use super::{Source, check_slot, invalid, widen};
use crate::error::Result;

/// Rows, columns and element type of a matrix that can be encoded.
///
/// A program in another language, or one that handles the data itself, reads and writes the
/// header alone:
///
/// ```
/// use slipring::payload::{ElementType, MatrixShape};
///
/// let header = MatrixShape::new(2, 3, ElementType::F32)?.to_header();
/// assert_eq!(header[..9], [2, 0, 0, 0, 3, 0, 0, 0, 1]);
///
/// let shape = MatrixShape::from_header(&header)?;
/// assert_eq!((shape.rows(), shape.cols(), shape.element()), (2, 3, ElementType::F32));
/// assert_eq!(shape.data_range(), 32..56);
/// # Ok::<(), slipring::Error>(())
/// ```
///
/// Both dimensions may be 0, and then there is no data. Only the data bounds the dimensions: a
/// payload of 32 bytes can announce four billion rows without columns, or four billion columns
/// without rows. Check [`elements`](Self::elements) before memory is allocated by
/// [`rows`](Self::rows) or [`cols`](Self::cols) alone.
///
/// # Layout
///
/// Little-endian. The header takes 32 bytes because a payload starts 32 bytes into a slot that
/// is aligned to 64 bytes: the elements start at a cache line, aligned for any element type and
/// vector instruction.
///
/// ```text
///   0          4          8        9          16                   24           32
///   +----------+----------+--------+----------+--------------------+------------+----
///   | rows u32 | cols u32 | type   | zero × 7 | data length u64    | zero × 8   | rows
///   +----------+----------+--------+----------+--------------------+------------+----
/// ```
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | number of rows |
/// | 4 | 4 | number of columns |
/// | 8 | 1 | element type: 1 `f32`, 2 `f16`, 3 `bf16`, 4 `i8`, 5 `u8` |
/// | 9 | 7 | reserved, zero |
/// | 16 | 8 | length of the data in bytes: rows × columns × element size |
/// | 24 | 8 | reserved, zero |
/// | 32 | data length | the elements, row by row, without gaps |
///
/// A payload ends where its data does. 32 zero bytes are not a matrix.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatrixShape {
    rows: u32,
    cols: u32,
    element: ElementType,
}

impl MatrixShape {
    /// The length of the header in bytes, and so the offset of the data.
    pub const HEADER_LEN: usize = size_of::<MatrixHeader>();

    /// Makes a shape of `rows` × `cols` elements.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if a dimension is over
    /// 4,294,967,295, or the encoding over [`isize::MAX`] bytes.
    pub fn new(rows: usize, cols: usize, element: ElementType) -> Result<Self> {
        match (u32::try_from(rows), u32::try_from(cols)) {
            (Ok(rows), Ok(cols)) => Self::with_narrow(rows, cols, element),
            _ => Err(invalid(format!(
                "a matrix of {rows} × {cols} cannot be encoded: a dimension is limited to {}",
                u32::MAX
            ))),
        }
    }

    /// Encodes the header: the first bytes of a matrix of this shape, in front of its data.
    #[must_use]
    pub fn to_header(&self) -> [u8; Self::HEADER_LEN] {
        zerocopy::transmute!(MatrixHeader::from(*self))
    }

    /// Decodes a header, without the data that follows it. Check yourself that as many bytes
    /// follow as [`data_len`](Self::data_len) says.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if the bytes are not the
    /// header of a matrix: the message has the reason.
    pub fn from_header(header: &[u8; Self::HEADER_LEN]) -> Result<Self> {
        let header: MatrixHeader = zerocopy::transmute!(*header);
        header.shape()
    }

    /// Reads the header of the matrix that `source` holds, and checks that the source is as long
    /// as the header says.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if the source is not
    /// exactly one matrix: the message has the reason.
    pub fn decode<S: Source + ?Sized>(source: &S) -> Result<Self> {
        let len = source.len();
        if len < Self::HEADER_LEN {
            return Err(invalid(format!("{len} bytes are too few for the header of a matrix")));
        }
        let mut header = [0; Self::HEADER_LEN];
        source.read_at(0, &mut header)?;
        let shape = Self::from_header(&header)?;
        if len != shape.encoded_len() {
            let takes = shape.encoded_len();
            return Err(invalid(format!("a {shape} matrix takes {takes} bytes, but has {len}")));
        }
        Ok(shape)
    }

    fn with_narrow(rows: u32, cols: u32, element: ElementType) -> Result<Self> {
        let data_len = widen(rows)
            .checked_mul(widen(cols))
            .and_then(|elements| elements.checked_mul(element.size()))
            .filter(|data_len| *data_len <= isize::MAX.cast_unsigned() - Self::HEADER_LEN);
        match data_len {
            Some(_) => Ok(Self { rows, cols, element }),
            None => Err(invalid(format!(
                "a matrix of {rows} × {cols} {element} cannot be encoded: \
                 a payload is limited to {} bytes",
                isize::MAX
            ))),
        }
    }

    /// Returns the number of rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        widen(self.rows)
    }

    /// Returns the number of columns.
    #[must_use]
    pub const fn cols(&self) -> usize {
        widen(self.cols)
    }

    /// Returns the type of the elements.
    #[must_use]
    pub const fn element(&self) -> ElementType {
        self.element
    }

    /// Returns the number of elements.
    #[must_use]
    pub const fn elements(&self) -> usize {
        widen(self.rows) * widen(self.cols)
    }

    /// Returns the length of one row, in bytes.
    #[must_use]
    pub const fn row_len(&self) -> usize {
        widen(self.cols) * self.element.size()
    }

    /// Returns the length of all rows, in bytes.
    #[must_use]
    pub const fn data_len(&self) -> usize {
        self.elements() * self.element.size()
    }

    /// Returns the length of the encoding, in bytes: what a slot for the matrix must have.
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        Self::HEADER_LEN + self.data_len()
    }

    /// Returns where in the encoding the data lies.
    #[must_use]
    pub const fn data_range(&self) -> Range<usize> {
        Self::HEADER_LEN..self.encoded_len()
    }

    /// Checks that elements are of the type `E`.
    pub(super) fn check_type<E: Element>(&self) -> Result<()> {
        if self.element == E::TYPE {
            return Ok(());
        }
        Err(invalid(format!("a {self} matrix has {} elements, not {}", self.element, E::TYPE)))
    }

    /// Returns where row `index` lies in the data.
    pub(super) fn row_range(&self, index: usize) -> Result<Range<usize>> {
        if index < self.rows() {
            let start = index * self.row_len();
            return Ok(start..start + self.row_len());
        }
        Err(invalid(format!("row {index} of a matrix of {} rows", self.rows)))
    }

    /// Checks that a buffer has the expected number of elements.
    pub(super) fn check_elements(&self, what: &str, expected: usize, len: usize) -> Result<()> {
        if len == expected {
            return Ok(());
        }
        Err(invalid(format!("{what} of a {self} matrix: {expected} values, not {len}")))
    }

    /// Writes the header to a slot for a matrix of this shape, and returns the place of the data.
    pub(super) fn write_header<'a>(&self, slot: &'a mut [u8]) -> Result<&'a mut [u8]> {
        check_slot(slot, self.encoded_len())?;
        let (head, data) = slot.split_at_mut(Self::HEADER_LEN);
        head.copy_from_slice(&self.to_header());
        Ok(data)
    }
}

impl fmt::Display for MatrixShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {} {}", self.rows, self.cols, self.element)
    }
}

impl fmt::Debug for MatrixShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MatrixShape({self})")
    }
}

/// The header in its layout.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct MatrixHeader {
    rows: U32,
    cols: U32,
    element: u8,
    reserved: [u8; 7],
    data_len: U64,
    reserved_tail: [u8; 8],
}

const _: () = {
    assert!(size_of::<MatrixHeader>() == 32);
    assert!(std::mem::offset_of!(MatrixHeader, cols) == 4);
    assert!(std::mem::offset_of!(MatrixHeader, element) == 8);
    assert!(std::mem::offset_of!(MatrixHeader, data_len) == 16);
    assert!(std::mem::offset_of!(MatrixHeader, reserved_tail) == 24);
};

impl MatrixHeader {
    /// Checks a private copy of a header.
    fn shape(&self) -> Result<MatrixShape> {
        if self.reserved != [0; 7] || self.reserved_tail != [0; 8] {
            return Err(invalid("reserved bytes in the header of a matrix are not zero"));
        }
        let element = ElementType::from_code(self.element).ok_or_else(|| {
            invalid(format!("a matrix with elements of unknown type {}", self.element))
        })?;
        let shape = MatrixShape::with_narrow(self.rows.get(), self.cols.get(), element)?;
        let (announced, needed) = (self.data_len.get(), shape.data_len());
        if usize::try_from(announced) != Ok(needed) {
            return Err(invalid(format!(
                "a {shape} matrix needs {needed} bytes of data, but announces {announced}"
            )));
        }
        Ok(shape)
    }
}

impl From<MatrixShape> for MatrixHeader {
    fn from(shape: MatrixShape) -> Self {
        Self {
            rows: shape.rows.into(),
            cols: shape.cols.into(),
            element: shape.element.code(),
            // Both are 64 bits wide.
            data_len: u64::try_from(shape.data_len()).unwrap_or(u64::MAX).into(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_invalid;
    use super::*;

    fn header(rows: u32, cols: u32, element: u8, data_len: u64) -> Vec<u8> {
        let head = [rows.to_le_bytes(), cols.to_le_bytes()].concat();
        [&head[..], &[element, 0, 0, 0, 0, 0, 0, 0], &data_len.to_le_bytes(), &[0; 8]].concat()
    }

    #[test]
    fn a_header_is_written_byte_by_byte_as_documented() {
        let shape = MatrixShape::new(0x0102, 3, ElementType::BF16).unwrap();
        let mut slot = vec![0xa5; shape.encoded_len()];
        shape.write_header(&mut slot).unwrap();
        let expected = [
            [0x02, 0x01, 0, 0, 3, 0, 0, 0],
            [3, 0, 0, 0, 0, 0, 0, 0],
            [0x0c, 0x06, 0, 0, 0, 0, 0, 0],
            [0; 8],
        ];
        assert_eq!(slot[..32], *expected.as_flattened());
        assert_eq!(shape.to_header(), expected.as_flattened());
        assert_eq!(MatrixShape::decode(&slot).unwrap(), shape);
        assert_eq!(MatrixShape::from_header(&shape.to_header()).unwrap(), shape);
        assert_eq!((shape.data_range().start, shape.data_range().end), (32, slot.len()));
        assert_eq!(format!("{shape:?}"), "MatrixShape(258 × 3 bf16)");
    }

    #[test]
    fn every_element_type_has_a_code_a_size_and_a_name() {
        for element in ElementType::ALL {
            assert_eq!(ElementType::from_code(element.code()), Some(element));
            assert!(element.name().ends_with(&(element.size() * 8).to_string()));
        }
        let known: Vec<_> = (0..=u8::MAX).filter_map(ElementType::from_code).collect();
        assert_eq!(known, ElementType::ALL);
    }

    #[test]
    fn a_shape_that_cannot_be_encoded_is_refused() {
        let huge = usize::try_from(u32::MAX).unwrap();
        let new = |rows, cols, element| MatrixShape::new(rows, cols, element);
        assert_invalid(new(huge + 1, 0, ElementType::U8), "4294967296 × 0 cannot");
        assert_invalid(new(0, usize::MAX, ElementType::U8), "limited to 4294967295");
        assert_invalid(new(huge, huge, ElementType::F32), "4294967295 × 4294967295 f32");
        assert_invalid(new(huge, huge, ElementType::U8), "limited to 9223372036854775807 bytes");
        assert!(new(huge, 0, ElementType::F32).is_ok());
        assert!(new(huge, 1 << 29, ElementType::F32).is_ok());
        let largest = (isize::MAX.cast_unsigned() - 32) / huge;
        assert!(new(huge, largest, ElementType::I8).is_ok());
        assert_invalid(new(huge, largest + 1, ElementType::I8), "cannot be encoded");
    }

    #[test]
    fn a_header_cut_anywhere_is_refused() {
        let whole = header(0, 0, 1, 0);
        assert!(MatrixShape::decode(&whole).is_ok());
        for len in 0..whole.len() {
            assert_invalid(MatrixShape::decode(&whole[..len]), "too few for the header");
        }
    }

    #[test]
    fn zero_bytes_and_unknown_element_types_are_refused() {
        assert_invalid(MatrixShape::decode(&[0; 32]), "unknown type 0");
        assert_invalid(MatrixShape::decode(&header(0, 0, 6, 0)), "unknown type 6");
        assert_invalid(MatrixShape::decode(&header(0, 0, 255, 0)), "unknown type 255");
    }

    #[test]
    fn every_reserved_bit_must_be_zero() {
        for offset in (9..16).chain(24..32) {
            for bit in 0..8 {
                let mut bytes = header(0, 0, 1, 0);
                bytes[offset] |= 1 << bit;
                assert_invalid(MatrixShape::decode(&bytes), "reserved");
            }
        }
    }

    #[test]
    fn a_shape_that_does_not_account_for_the_bytes_is_refused() {
        let read = |bytes: Vec<u8>| MatrixShape::decode(&bytes);
        let with_data = |len| [header(1, 2, 1, 8), vec![0; len]].concat();
        assert!(read(with_data(8)).is_ok());
        assert_invalid(read(with_data(7)), "a 1 × 2 f32 matrix takes 40 bytes, but has 39");
        assert_invalid(read(with_data(9)), "a 1 × 2 f32 matrix takes 40 bytes, but has 41");
        assert_invalid(read(header(1, 2, 1, 9)), "needs 8 bytes of data, but announces 9");
        assert_invalid(read(header(1, 2, 1, u64::MAX)), "announces 18446744073709551615");
        assert_invalid(read(header(u32::MAX, u32::MAX, 1, 4)), "cannot be encoded");
        // 2^31 × 2^31 × 4 is 0 in 64 bits.
        assert_invalid(read(header(1 << 31, 1 << 31, 1, 0)), "cannot be encoded");
        assert_invalid(read(header(u32::MAX, 1, 5, 4_294_967_295)), "but has 32");
        assert!(read(header(u32::MAX, 0, 1, 0)).is_ok());
        assert!(read(header(0, u32::MAX, 1, 0)).is_ok());
    }
}
