//! Typed payloads: how texts and matrices become the bytes of a frame, and back.
//!
//! On a byte's trip this is the step between the caller's values and a claimed
//! slot, and between a leased frame and the handler's values. A [`Payload`]
//! knows its exact length, so that a slot of that length can be claimed, and
//! writes itself straight into it. A [`Source`] is what a decoder reads: bytes
//! that may lie in memory which the peer can change at any time.
//!
//! | type | encodes | decodes |
//! |---|---|---|
//! | bytes, `str`, `()` | as they are | [`Source::read_at`] |
//! | a batch of texts | [`TextBatch`] over `&[impl AsRef<str>]` | [`Texts`], reusable |
//! | a matrix | [`Matrix`] at once, [`MatrixWriter`] row by row | [`MatrixReader`] over any source, [`Matrix::decode`] over private bytes |
//!
//! # Bytes that change while they are read
//!
//! A decoder fetches each byte of its source at most once per operation into
//! memory of its own, validates that copy, and uses nothing but that copy. A peer
//! that rewrites a payload while it is decoded therefore causes an error, or a
//! valid value of its own choosing, as it could have by writing that value in
//! the first place.
//!
//! # On the wire
//!
//! All numbers are little-endian. The layouts are written down byte by byte at
//! [`TextBatch`] and [`MatrixShape`]; `tests/data/payload-vectors.txt` holds
//! encodings to accept and to refuse, for implementations in any language.
//!
//! This module does not know about rings, frames, kinds or processes.

mod encoded;
mod float16;
mod matrix;
mod matrix_reader;
mod matrix_shape;
mod matrix_writer;
mod text_batch;
mod texts;

#[cfg(test)]
mod vectors;

use std::borrow::Cow;

use crate::error::{Error, ErrorKind, Result};
use crate::shm::bytes::PeerBytes;
pub use crate::sys::copy::copy_from_slice;
use crate::sys::copy::copy_through_caches;

pub(crate) use encoded::{Encoded, is_encoded_in_place};
pub use float16::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
pub use matrix::Matrix;
pub use matrix_reader::MatrixReader;
pub use matrix_shape::{ElementType, MatrixShape};
pub use matrix_writer::MatrixWriter;
pub use text_batch::{TextBatch, TextBatchSize};
pub use texts::{Texts, TextsIter};

// Numbers travel as they lie in memory, which is the wire form on these targets only.
const _: () = assert!(cfg!(target_endian = "little"));
const _: () = assert!(size_of::<usize>() == 8);

/// A value that knows its exact encoded length and writes itself into a slot.
///
/// Neither method allocates in the implementations of this library.
///
/// ```
/// use slipring::payload::Payload;
///
/// let mut slot = [0; 5];
/// assert_eq!("hello".encoded_len(), slot.len());
/// "hello".encode(&mut slot)?;
/// assert_eq!(&slot, b"hello");
/// # Ok::<(), slipring::Error>(())
/// ```
pub trait Payload {
    /// The length of the encoding, in bytes.
    fn encoded_len(&self) -> usize;

    /// Writes the encoding to `out`, whose length is [`Payload::encoded_len`].
    ///
    /// `out` holds zeros, or what an earlier payload of the channel left there, so an
    /// implementation writes every byte of it, and reads none. A host's own encoder runs on the caller's thread before
    /// the channel is touched: it may take its time, and it may use the same channel. The
    /// time that it takes counts towards the timeout of the call that it is for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`] when `out` has another length, or when the
    /// value cannot be encoded. What `out` then holds is unspecified.
    fn encode(&self, out: &mut [u8]) -> Result<()>;

    /// The encoding, if it lies in memory as it is: then it is sent from there, and not
    /// encoded into a buffer first.
    fn as_encoded(&self) -> Option<&[u8]> {
        None
    }

    /// Whether [`Payload::encode`] runs no code but this library's; hosts leave this as it is.
    #[doc(hidden)]
    fn is_encoded_in_place(&self, _: encoded::InPlace) -> bool {
        false
    }
}

/// Readable bytes that may lie in memory which another process can change.
///
/// Two reads of the same byte can give two values. Whoever validates what it
/// reads must use the very copy that it validated.
pub trait Source {
    /// The number of readable bytes. It does not change while the source lives.
    fn len(&self) -> usize;

    /// Copies the `out.len()` bytes from `offset` on to `out`, all or none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`] when they do not all lie inside the source.
    fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()>;

    /// Whether there is no byte to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Payload for [u8] {
    fn encoded_len(&self) -> usize {
        self.len()
    }

    fn encode(&self, out: &mut [u8]) -> Result<()> {
        check_slot(out, self.len())?;
        copy_from_slice(out, self);
        Ok(())
    }

    fn as_encoded(&self) -> Option<&[u8]> {
        Some(self)
    }

    fn is_encoded_in_place(&self, _: encoded::InPlace) -> bool {
        true
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

impl Payload for str {
    fn encoded_len(&self) -> usize {
        self.len()
    }

    fn encode(&self, out: &mut [u8]) -> Result<()> {
        self.as_bytes().encode(out)
    }

    fn as_encoded(&self) -> Option<&[u8]> {
        Some(self.as_bytes())
    }

    fn is_encoded_in_place(&self, _: encoded::InPlace) -> bool {
        true
    }
}

impl Payload for () {
    fn encoded_len(&self) -> usize {
        0
    }

    fn encode(&self, out: &mut [u8]) -> Result<()> {
        check_slot(out, 0)
    }

    fn is_encoded_in_place(&self, _: encoded::InPlace) -> bool {
        true
    }
}

impl<T: Payload + ?Sized> Payload for &T {
    fn encoded_len(&self) -> usize {
        T::encoded_len(self)
    }

    fn encode(&self, out: &mut [u8]) -> Result<()> {
        T::encode(self, out)
    }

    fn as_encoded(&self) -> Option<&[u8]> {
        (**self).as_encoded()
    }

    fn is_encoded_in_place(&self, in_place: encoded::InPlace) -> bool {
        (**self).is_encoded_in_place(in_place)
    }
}

impl<T: Source + ?Sized> Source for &T {
    fn len(&self) -> usize {
        T::len(self)
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        T::read_at(self, offset, out)
    }
}

impl Payload for Vec<u8> {
    fn encoded_len(&self) -> usize {
        self.as_slice().encoded_len()
    }

    fn encode(&self, out: &mut [u8]) -> Result<()> {
        self.as_slice().encode(out)
    }

    fn as_encoded(&self) -> Option<&[u8]> {
        Some(self)
    }

    fn is_encoded_in_place(&self, _: encoded::InPlace) -> bool {
        true
    }
}

impl Source for Vec<u8> {
    fn len(&self) -> usize {
        Source::len(self.as_slice())
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        self.as_slice().read_at(offset, out)
    }
}

impl<const N: usize> Payload for [u8; N] {
    fn encoded_len(&self) -> usize {
        N
    }

    fn encode(&self, out: &mut [u8]) -> Result<()> {
        self.as_slice().encode(out)
    }

    fn as_encoded(&self) -> Option<&[u8]> {
        Some(self)
    }

    fn is_encoded_in_place(&self, _: encoded::InPlace) -> bool {
        true
    }
}

impl<const N: usize> Source for [u8; N] {
    fn len(&self) -> usize {
        N
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        self.as_slice().read_at(offset, out)
    }
}

impl Payload for String {
    fn encoded_len(&self) -> usize {
        self.as_str().encoded_len()
    }

    fn encode(&self, out: &mut [u8]) -> Result<()> {
        self.as_str().encode(out)
    }

    fn as_encoded(&self) -> Option<&[u8]> {
        Some(self.as_bytes())
    }

    fn is_encoded_in_place(&self, _: encoded::InPlace) -> bool {
        true
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
fn check_slot(slot: &[u8], expected: usize) -> Result<()> {
    if slot.len() == expected {
        return Ok(());
    }
    Err(invalid(format!("payload of {expected} bytes does not fit a slot of {}", slot.len())))
}

/// `u32` to `usize`, which is 64 bits wide on every target of this library.
const fn widen(value: u32) -> usize {
    #[expect(clippy::as_conversions, reason = "usize is 64 bits wide; From is not const")]
    let wide = value as usize;
    wide
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// A source that a peer rewrites: the n-th read sees the n-th version.
    pub(super) struct Rewritten {
        versions: Vec<Vec<u8>>,
        reads: Cell<usize>,
    }

    impl Rewritten {
        /// All versions have the same length.
        pub(super) fn new(versions: Vec<Vec<u8>>) -> Self {
            Self { versions, reads: Cell::new(0) }
        }
    }

    impl Source for Rewritten {
        fn len(&self) -> usize {
            self.versions[0].len()
        }

        fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
            let read = self.reads.get();
            self.reads.set(read + 1);
            self.versions[read % self.versions.len()].read_at(offset, out)
        }
    }

    /// A source that counts how often each of its bytes was fetched.
    pub(super) struct Counted {
        bytes: Vec<u8>,
        fetches: RefCell<Vec<usize>>,
    }

    impl Counted {
        pub(super) fn new(bytes: Vec<u8>) -> Self {
            let fetches = RefCell::new(vec![0; bytes.len()]);
            Self { bytes, fetches }
        }

        pub(super) fn assert_each_byte_was_fetched_once(&self) {
            assert!(self.fetches.borrow().iter().all(|&n| n == 1), "{:?}", self.fetches);
        }
    }

    impl Source for Counted {
        fn len(&self) -> usize {
            self.bytes.len()
        }

        fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
            self.bytes.read_at(offset, out)?;
            self.fetches.borrow_mut()[offset..offset + out.len()].iter_mut().for_each(|n| *n += 1);
            Ok(())
        }
    }

    /// The encoding in a slot that held something else before.
    pub(super) fn encoded<P: Payload + ?Sized>(payload: &P) -> Vec<u8> {
        let mut slot = vec![0xa5; payload.encoded_len()];
        payload.encode(&mut slot).unwrap();
        slot
    }

    pub(super) fn assert_invalid<T: std::fmt::Debug>(result: Result<T>, words: &str) {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPayload);
        assert!(error.to_string().contains(words), "{error}");
    }

    #[test]
    fn bytes_and_strings_are_their_own_encoding() {
        assert_eq!(encoded(&[1_u8, 2, 3][..]), [1, 2, 3]);
        assert_eq!(encoded(&[1_u8, 2, 3]), [1, 2, 3]);
        assert_eq!(encoded(&vec![1_u8, 2, 3]), [1, 2, 3]);
        assert_eq!(encoded("grüße"), "grüße".as_bytes());
        assert_eq!(encoded(&String::from("grüße")), "grüße".as_bytes());
        assert_eq!(encoded(&&&"x"), b"x");
        assert_eq!(encoded(&()), b"");
    }

    #[test]
    fn a_slot_of_the_wrong_length_is_refused_and_both_lengths_are_named() {
        assert_invalid(b"abc".encode(&mut [0; 2]), "payload of 3 bytes does not fit a slot of 2");
        assert_invalid("abc".encode(&mut [0; 4]), "payload of 3 bytes does not fit a slot of 4");
        assert_invalid(().encode(&mut [0; 1]), "payload of 0 bytes does not fit a slot of 1");
    }

    #[test]
    fn a_payload_and_a_source_work_behind_dyn() {
        let payload: &dyn Payload = &"abc";
        let bytes = encoded(payload);
        let source: &dyn Source = &bytes;
        let mut out = [0; 3];
        source.read_at(0, &mut out).unwrap();
        assert_eq!((&out, source.is_empty()), (b"abc", false));
    }

    #[test]
    fn a_read_outside_of_the_source_is_refused_and_leaves_the_output_alone() {
        let source = [1_u8, 2, 3, 4];
        let mut out = [9; 2];
        source.read_at(2, &mut out).unwrap();
        assert_eq!(out, [3, 4]);
        for offset in [3, 4, 5, usize::MAX] {
            assert_invalid(source.read_at(offset, &mut out), "not inside a payload of 4 bytes");
            assert_eq!(out, [3, 4]);
        }
        source.read_at(4, &mut []).unwrap();
        assert_invalid(source.read_at(5, &mut []), "0 bytes at offset 5");
    }
}
