//! Payload bytes that the peer can write, and how they are read all the same.
#![allow(unsafe_code, reason = "copies out of memory that somebody else may be writing to")]

use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::error::{Error, ErrorKind, Result};
use crate::sys::copy::copy;

/// Bytes in memory that the peer can write: they may change while they are read.
///
/// Reading copies them out. Whatever is decided about them must be decided about
/// a copy, once.
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
    /// `len` bytes at `pointer`.
    ///
    /// # Safety
    ///
    /// They must stay mapped for `'a`.
    #[inline]
    pub(super) unsafe fn new(pointer: NonNull<u8>, len: usize) -> Self {
        Self { pointer, len, _slots: PhantomData }
    }

    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self { pointer: NonNull::dangling(), len: 0, _slots: PhantomData }
    }

    /// Bytes of this process's own.
    #[must_use]
    #[inline]
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { pointer: NonNull::from(bytes).cast(), len: bytes.len(), _slots: PhantomData }
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies `out.len()` bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`] if there are not so many.
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

    /// Copies all bytes to the front of `out`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`] if `out` has another length.
    #[inline]
    pub fn copy_to(&self, out: &mut [u8]) -> Result<()> {
        if out.len() != self.len {
            return Err(past_the_end(0, out.len(), self.len));
        }
        self.read_at(0, out)
    }

    /// Appends all bytes to `out`.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        out.reserve(self.len);
        let spare = NonNull::from(out.spare_capacity_mut()).cast();
        // SAFETY: `reserve` made room for `len` bytes after the vector's length; see
        // `read_at` for the source.
        unsafe { copy(self.pointer, spare, self.len) };
        // SAFETY: capacity suffices, and the bytes up to there have just been written.
        unsafe { out.set_len(out.len() + self.len) };
    }

    /// A copy of all bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut copy = Vec::new();
        self.append_to(&mut copy);
        copy
    }

    /// The bytes where they lie, without a copy.
    ///
    /// # Safety
    ///
    /// The peer must not write to them while the slice lives. An honest peer does not:
    /// they lie in a slot that it has published and that is not yet released. Call this
    /// only if the peer's program is your own and trusted as much as this process.
    #[must_use]
    pub unsafe fn as_slice(&self) -> &'a [u8] {
        // SAFETY: pointer and length are a valid range that stays mapped for 'a, and the
        // caller vouches that nobody writes to it.
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
}
