//! A region's pages, and the checks that keep every handle inside of them.

use std::ptr::NonNull;
use std::sync::Arc;

use super::transport::{Backing, SharedEvent};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{AtomicU32, AtomicU64, in_model};

/// Keeps the pages of a region mapped while it, or a clone of it, lives.
#[derive(Debug, Clone)]
pub(super) struct Mapping(Arc<dyn Backing>);

impl Mapping {
    pub(super) fn over(backing: Arc<dyn Backing>) -> Self {
        Self(backing)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_writable(&self) -> bool {
        self.0.is_writable()
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.0.start()
    }

    /// See [`OwnSlots::prefault`](super::slots::OwnSlots::prefault).
    pub(super) fn prefault(&self, offset: usize, len: usize) {
        self.0.prefault(offset, len);
    }

    pub(super) fn event(&self, bell: usize) -> Option<SharedEvent> {
        self.0.event(bell)
    }

    /// A word that lies inside and is aligned.
    pub(super) fn u64_at(&self, offset: usize) -> Result<NonNull<AtomicU64>> {
        self.check_word(offset, size_of::<u64>())?;
        Ok(self.0.u64_at(offset))
    }

    /// A word that lies inside and is aligned.
    pub(super) fn u32_at(&self, offset: usize) -> Result<NonNull<AtomicU32>> {
        self.check_word(offset, size_of::<u32>())?;
        Ok(self.0.u32_at(offset))
    }

    /// Bytes, of which the caller uses only those that [`Self::check_span`] has allowed.
    pub(super) fn byte_at(&self, offset: usize) -> NonNull<u8> {
        self.0.byte_at(offset)
    }

    /// Checks that `len` bytes at `offset` lie inside.
    pub(super) fn check_span(&self, offset: usize, len: usize, what: &str) -> Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > self.len()) {
            let all = self.len();
            let message = format!("{what} of {len} bytes at {offset} in a region of {all} bytes");
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        Ok(())
    }

    fn check_word(&self, offset: usize, size: usize) -> Result<()> {
        self.check_span(offset, size, "word")?;
        if !offset.is_multiple_of(size) {
            let message = format!("word of {size} bytes at {offset}, expected a multiple");
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        Ok(())
    }

    #[inline]
    pub(super) fn track_write(&self, offset: usize, len: usize) {
        in_model(|| self.0.track_write(offset, len));
    }

    #[inline]
    pub(super) fn track_read(&self, offset: usize, len: usize) {
        in_model(|| self.0.track_read(offset, len));
    }
}
