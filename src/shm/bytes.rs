//! Payload bytes that the other process can write, and how they are read all the same.
#![allow(unsafe_code, reason = "copies out of memory that another process may write to")]

use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::error::{Error, ErrorKind, Result};
use crate::sys::copy::copy;

/// Bytes in memory that the other process can write: they may change while they are read.
///
/// Reading copies them. A program that checks a value must check the copy and go on with that
/// copy: a second read can give another value.
///
/// ```
/// use slipring::PeerBytes;
///
/// // In a host: `reply.payload()`. In a worker: `request.payload()`.
/// let bytes = PeerBytes::of(b"a reply");
/// let mut first = [0; 1];
/// bytes.read_at(0, &mut first)?;
/// assert_eq!((first, bytes.len()), ([b'a'], 7));
/// assert_eq!(bytes.to_vec(), b"a reply");
/// assert_eq!(bytes.text()?, "a reply");
/// # Ok::<(), slipring::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct PeerBytes<'a> {
    pointer: NonNull<u8>,
    len: usize,
    _slots: PhantomData<&'a [u8]>,
}

// SAFETY: it only allows copying out of memory that stays mapped for 'a, from any thread.
unsafe impl Send for PeerBytes<'_> {}
// SAFETY: as above.
unsafe impl Sync for PeerBytes<'_> {}

impl<'a> PeerBytes<'a> {
    /// Makes a view of `len` bytes at `pointer`.
    ///
    /// # Safety
    ///
    /// They must stay mapped for `'a`.
    #[inline]
    pub(super) unsafe fn new(pointer: NonNull<u8>, len: usize) -> Self {
        Self { pointer, len, _slots: PhantomData }
    }

    /// Makes a view of `len` bytes at `pointer`, for code that has bytes from elsewhere, such as
    /// bindings for another language. Others may change the bytes meanwhile.
    ///
    /// # Safety
    ///
    /// They must stay readable for `'a`, and must not lie in memory of a ring or a pipe of this
    /// library.
    #[must_use]
    pub unsafe fn from_raw_parts(pointer: NonNull<u8>, len: usize) -> Self {
        Self { pointer, len, _slots: PhantomData }
    }

    /// Where the first byte lies.
    #[cfg(any(loom, feature = "pipe"))]
    #[inline]
    pub(super) fn start(&self) -> NonNull<u8> {
        self.pointer
    }

    /// Returns the first `len` bytes and the others; all of them first if there are fewer.
    #[must_use]
    #[inline]
    pub fn split_at(&self, len: usize) -> (Self, Self) {
        let len = len.min(self.len);
        // SAFETY: the result is at most at the end of the bytes.
        let rest = unsafe { self.pointer.byte_add(len) };
        let part = |pointer, len| Self { pointer, len, _slots: PhantomData };
        (part(self.pointer, len), part(rest, self.len - len))
    }

    /// Makes a view of no bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self { pointer: NonNull::dangling(), len: 0, _slots: PhantomData }
    }

    /// Makes a view of bytes of this process's own, for a program's tests.
    #[must_use]
    #[inline]
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { pointer: NonNull::from(bytes).cast(), len: bytes.len(), _slots: PhantomData }
    }

    /// Returns the number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies `out.len()` bytes, from `offset` on, to `out`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`] if there are not so many bytes. `out` is unchanged then.
    #[inline]
    pub fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        if offset.checked_add(out.len()).is_none_or(|end| end > self.len) {
            return Err(past_the_end(offset, out.len(), self.len));
        }
        // SAFETY: offset <= len, as just checked.
        let from = unsafe { self.pointer.byte_add(offset) };
        // SAFETY: offset + out.len() <= len, and the bytes stay mapped for 'a. They cannot
        // overlap `out`, which is memory that safe code borrowed mutably, and safe code
        // gets no such borrow into a region that is mapped read-only. The peer may write
        // meanwhile; bytes have no invalid values.
        unsafe { copy(from, NonNull::from(&mut *out).cast(), out.len()) };
        Ok(())
    }

    /// Copies all bytes to `out`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`] if `out` has another length. It is unchanged then.
    #[inline]
    pub fn copy_to(&self, out: &mut [u8]) -> Result<()> {
        if out.len() != self.len {
            return Err(past_the_end(0, out.len(), self.len));
        }
        self.read_at(0, out)
    }

    /// Appends all bytes to `out`.
    #[inline]
    pub fn append_to(&self, out: &mut Vec<u8>) {
        out.reserve(self.len);
        let spare = NonNull::from(out.spare_capacity_mut()).cast();
        // SAFETY: `reserve` made room for `len` bytes after the vector's length; see
        // `read_at` for the source.
        unsafe { copy(self.pointer, spare, self.len) };
        // SAFETY: capacity suffices, and the bytes up to there have just been written.
        unsafe { out.set_len(out.len() + self.len) };
    }

    /// Returns a copy of all bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut copy = Vec::new();
        self.append_to(&mut copy);
        copy
    }

    /// Returns a copy of all bytes as text.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`] if the bytes are not UTF-8. The message names the offset of
    /// the first byte that is not, and so does the error's source:
    ///
    /// ```
    /// use std::error::Error;
    /// use std::str::Utf8Error;
    ///
    /// let error = slipring::PeerBytes::of(b"gr\xfc\xdfe").text().unwrap_err();
    /// let source = error.source().and_then(|source| source.downcast_ref::<Utf8Error>());
    /// assert_eq!(source.map(Utf8Error::valid_up_to), Some(2));
    /// ```
    pub fn text(&self) -> Result<String> {
        String::from_utf8(self.to_vec())
            .map_err(|error| Error::not_utf8(self.len, error.utf8_error()))
    }

    /// Returns the address of the first byte, for code that reads the bytes itself, such as
    /// bindings for another language. It is not null, and is aligned to 32 bytes if the bytes
    /// lie in a ring.
    ///
    /// The next [`len`](Self::len) bytes are readable for `'a`: as long as the reply, request or
    /// frame lives from which this view was made. They are not writable.
    ///
    /// The other process may write to them at any time, also while they are read. An honest one
    /// does not, before the slot is given back. The code that dereferences the pointer must
    /// justify its reads against that: a volatile or atomic read gives some value, which the next
    /// read need not give again; an ordinary read, a reference or a slice is sound only if the
    /// other process is known not to write, as for [`as_slice`](Self::as_slice).
    #[must_use]
    pub const fn as_ptr(&self) -> *const u8 {
        self.pointer.as_ptr()
    }

    /// Returns the bytes where they lie, without a copy.
    ///
    /// # Safety
    ///
    /// The other process must not write to them while the slice lives. An honest one does not:
    /// they lie in a slot that it has published and that is not yet released. Call this only if
    /// its program is your own and trusted as much as this process.
    #[must_use]
    pub unsafe fn as_slice(&self) -> &'a [u8] {
        // SAFETY: pointer and length are a valid range that stays mapped for 'a, and the
        // caller vouches that no process writes to it.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }
}

impl std::fmt::Debug for PeerBytes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PeerBytes({} bytes)", self.len)
    }
}

#[cold]
fn past_the_end(offset: usize, wanted: usize, len: usize) -> Error {
    let message = format!("{wanted} bytes at {offset} of a payload of {len} bytes");
    Error::new(ErrorKind::InvalidPayload, message)
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn reads_past_the_end_of_a_payload_are_errors() {
        let bytes = PeerBytes::of(b"hello");
        let mut out = [0; 3];
        bytes.read_at(2, &mut out).unwrap();
        assert_eq!(&out, b"llo");
        assert_eq!(bytes.read_at(3, &mut out).unwrap_err().kind(), ErrorKind::InvalidPayload);
        assert!(bytes.read_at(usize::MAX, &mut out).is_err());
        assert!(bytes.copy_to(&mut out).is_err());
    }

    #[test]
    fn bytes_that_are_no_text_are_an_error_that_names_the_first_of_them() {
        assert_eq!(PeerBytes::of("grüße".as_bytes()).text().unwrap(), "grüße");
        assert_eq!(PeerBytes::empty().text().unwrap(), "");
        let error = PeerBytes::of(b"gr\xfc\xdfe").text().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPayload);
        assert!(error.to_string().contains("from byte 2 on"), "{error}");
    }

    #[test]
    fn the_address_is_that_of_the_first_byte() {
        let own = *b"hello";
        let bytes = PeerBytes::of(&own);
        assert_eq!((bytes.as_ptr(), bytes.len()), (own.as_ptr(), 5));
        assert!(!PeerBytes::empty().as_ptr().is_null());
    }
}
