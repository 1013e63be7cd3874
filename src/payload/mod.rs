//! Typed payloads: texts, matrices, chats and documents as the bytes of a frame, and back.
//!
//! A [`Payload`] is what a caller sends: a value that knows its encoded length and writes
//! itself into a slot of that length. A [`Source`] is what a decoder reads: bytes that may
//! lie in memory which another process can change.
//!
//! | type | to send | to read |
//! |---|---|---|
//! | bytes, `str`, `()` | as they are | [`Source::read_at`], [`PayloadReader`] |
//! | a batch of texts | [`TextBatch`] over `&[impl AsRef<str>]` | [`Texts`], reusable |
//! | a matrix | [`Matrix`] at once, [`MatrixWriter`] row by row | [`MatrixReader`] over any source, [`MatrixRows`] while it comes, [`Matrix::decode`] over private bytes |
//! | the header of a matrix alone | [`MatrixShape::to_header`] | [`MatrixShape::from_header`] |
//! | chats, rerank requests, documents | the types of [`roles`] | the same |
//! | a part of a source | | [`SourceRange`] |
//!
//! A `Box`, `Rc`, `Arc`, `Cow` or reference of a payload is a payload, and one of a source is
//! a source.
//!
//! # Optional features
//!
//! | feature | adds |
//! |---|---|
//! | `bytes` | `Bytes` and `BytesMut` as payloads and sources; `Bytes` from a reply or from [`PeerBytes`], by copy |
//! | `half` | `half::f16` and `half::bf16` as an [`Element`] |
//! | `ndarray` | two-dimensional arrays as payloads; arrays and views of matrices |
//! | `serde` | an [`ElementType`] can be serialized |
//!
//! # Bytes that change while they are read
//!
//! A decoder copies each byte of its source at most once per operation, checks the copy, and
//! uses only the copy. A peer that rewrites a payload while it is decoded therefore causes an
//! error or a valid value. It could have sent either of them in the first place.
//!
//! # Encoding
//!
//! All numbers are little-endian. The layouts are given byte by byte at [`TextBatch`],
//! [`MatrixShape`], and in [`roles`]. The file `tests/data/payload-vectors.txt` of the repository holds encodings
//! to accept and to refuse, for implementations in any language.
//!
//! ```
//! use slipring::payload::{Payload, TextBatch, Texts};
//!
//! let batch = TextBatch::new(&["a first text", "a second one"])?;
//! let mut slot = vec![0; batch.encoded_len()];
//! batch.encode(&mut slot)?;
//! assert_eq!(Texts::decode(&slot)?.get(1), Some("a second one"));
//! # Ok::<(), slipring::Error>(())
//! ```

#[macro_use]
mod element;
mod encoded;
mod float16;
#[macro_use]
mod forward;
mod matrix;
mod matrix_reader;
mod matrix_rows;
mod matrix_shape;
mod matrix_writer;
mod payload_reader;
pub mod roles;
mod source_range;
mod text_batch;
mod texts;
#[cfg(feature = "bytes")]
mod with_bytes;
#[cfg(feature = "half")]
mod with_half;
#[cfg(feature = "ndarray")]
mod with_ndarray;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

use std::borrow::Cow;
#[cfg(feature = "async")]
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::shm::bytes::PeerBytes;
pub use crate::sys::copy::copy_from_slice;
use crate::sys::copy::copy_through_caches;

pub use element::{Element, ElementType};
#[cfg(feature = "async")]
pub(crate) use encoded::in_memory;
pub(crate) use encoded::{Encoded, encoded_bytes};
pub use float16::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
pub use matrix::Matrix;
pub use matrix_reader::MatrixReader;
pub use matrix_rows::MatrixRows;
pub use matrix_shape::MatrixShape;
pub use matrix_writer::MatrixWriter;
pub use payload_reader::PayloadReader;
pub use source_range::SourceRange;
pub use text_batch::{TextBatch, TextBatchSize};
pub use texts::{Texts, TextsIter};

/// A value that knows its exact encoded length and writes itself into a slot.
///
/// The implementations of this library do not allocate. A program can implement the trait
/// for types of its own:
///
/// ```
/// use slipring::payload::Payload;
///
/// /// A picture: its width, then one byte for each of its points.
/// struct Picture {
///     width: u32,
///     points: Vec<u8>,
/// }
///
/// impl Payload for Picture {
///     fn encoded_len(&self) -> usize {
///         4 + self.points.len()
///     }
///
///     fn encode(&self, out: &mut [u8]) -> slipring::Result<()> {
///         let Some((width, points)) = out.split_first_chunk_mut() else {
///             return Err(slipring::Error::invalid_payload("no room for the width"));
///         };
///         *width = self.width.to_le_bytes();
///         self.points.encode(points)
///     }
/// }
///
/// let picture = Picture { width: 2, points: vec![7; 6] };
/// let mut slot = vec![0; picture.encoded_len()];
/// picture.encode(&mut slot)?;
/// assert_eq!(slot, [2, 0, 0, 0, 7, 7, 7, 7, 7, 7]);
/// # Ok::<(), slipring::Error>(())
/// ```
pub trait Payload {
    /// Returns the length of the encoding, in bytes.
    fn encoded_len(&self) -> usize;

    /// Writes the encoding to `out`, whose length is [`Payload::encoded_len`].
    ///
    /// Every byte of `out` must be written and none must be read: `out` holds zeros, or bytes
    /// of an earlier payload of the same channel.
    ///
    /// In the parent an encoder of the program's own runs on the caller's thread, before the
    /// channel is used. It may take long, and it may use the same channel. The time that it
    /// takes counts towards the timeout of the operation.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`] if `out` has another length, or if the value cannot be
    /// encoded. Nothing is sent then.
    fn encode(&self, out: &mut [u8]) -> Result<()>;

    /// Returns the encoding if it lies in memory already, in up to three parts. Parts that are
    /// not needed are empty.
    ///
    /// The parts are sent one after another, from where they lie: [`Payload::encode`] is not
    /// called and no buffer is filled. Their lengths must add up to [`Payload::encoded_len`];
    /// the operation fails with [`ErrorKind::InvalidPayload`] otherwise. The default returns
    /// `None`.
    fn as_parts(&self) -> Option<[&[u8]; 3]> {
        None
    }
}

/// A payload that a request keeps for all its attempts.
#[cfg(feature = "async")]
pub(crate) type SharedPayload = Arc<dyn Payload + Send + Sync>;

/// Readable bytes that may lie in memory which another process can change.
///
/// Two reads of the same byte can give two values. Code that checks what it has read must go
/// on with the very copy that it has checked.
///
/// ```
/// use slipring::payload::Source;
///
/// let source: &dyn Source = b"four words of text";
/// let mut word = [0; 5];
/// source.read_at(5, &mut word)?;
/// assert_eq!(&word, b"words");
/// assert!(source.read_at(17, &mut word).is_err());
/// # Ok::<(), slipring::Error>(())
/// ```
pub trait Source {
    /// Returns the number of readable bytes, which never changes.
    fn len(&self) -> usize;

    /// Copies `out.len()` bytes, from `offset` on, to `out`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`] if not all of these bytes are inside the source. `out` is
    /// unchanged then.
    fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()>;

    /// Returns whether there is no byte to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Payload for [u8] {
    #[inline]
    fn encoded_len(&self) -> usize {
        self.len()
    }

    #[inline]
    fn encode(&self, out: &mut [u8]) -> Result<()> {
        check_slot(out, self.len())?;
        copy_from_slice(out, self);
        Ok(())
    }

    #[inline]
    fn as_parts(&self) -> Option<[&[u8]; 3]> {
        Some([self, &[], &[]])
    }
}

impl Payload for () {
    fn encoded_len(&self) -> usize {
        0
    }

    fn encode(&self, out: &mut [u8]) -> Result<()> {
        check_slot(out, 0)
    }

    fn as_parts(&self) -> Option<[&[u8]; 3]> {
        Some([&[]; 3])
    }
}

impl Source for [u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        let bytes = self.get(offset..).and_then(|rest| rest.get(..out.len()));
        let Some(bytes) = bytes else {
            return Err(out_of_range(offset, out.len(), <[u8]>::len(self)));
        };
        copy_through_caches(out, bytes);
        Ok(())
    }
}

impl Source for PeerBytes<'_> {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        Self::read_at(self, offset, out)
    }
}

#[cold]
fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidPayload, message)
}

#[cold]
fn out_of_range(offset: usize, len: usize, total: usize) -> Error {
    invalid(format!("{len} bytes at offset {offset} are not inside a payload of {total} bytes"))
}

/// Checks that `slot` has the length that the payload announced.
#[inline]
fn check_slot(slot: &[u8], expected: usize) -> Result<()> {
    if slot.len() == expected { Ok(()) } else { Err(wrong_slot(slot.len(), expected)) }
}

#[cold]
fn wrong_slot(len: usize, expected: usize) -> Error {
    invalid(format!("payload of {expected} bytes does not fit a slot of {len}"))
}

/// Converts `u32` to `usize`, which is 64 bits wide on every target of this library.
const fn widen(value: u32) -> usize {
    #[expect(clippy::as_conversions, reason = "usize is 64 bits wide; From is not const")]
    let wide = value as usize;
    wide
}
