//! A region's pages, and the checks that keep every handle inside of them.

use std::ops::Deref;
use std::sync::Arc;

use super::transport::Backing;
use crate::error::{Error, Result};
use crate::sync::in_model;

/// Keeps the pages of a region mapped while it, or a clone of it, lives.
#[derive(Debug, Clone)]
pub(super) struct Mapping(pub(super) Arc<dyn Backing>);

impl Deref for Mapping {
    type Target = dyn Backing;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl Mapping {
    /// Checks that `len` bytes at `offset` lie inside.
    pub(super) fn check_span(&self, offset: usize, len: usize, what: &str) -> Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > self.len()) {
            let all = self.len();
            return Err(Error::mismatch(format!(
                "{what} of {len} bytes at {offset} in a region of {all} bytes"
            )));
        }
        Ok(())
    }

    /// Checks that a word of `size` bytes at `offset` lies inside and is aligned.
    pub(super) fn check_word(&self, offset: usize, size: usize) -> Result<()> {
        self.check_span(offset, size, "word")?;
        if !offset.is_multiple_of(size) {
            return Err(Error::mismatch(format!(
                "word of {size} bytes at {offset}, expected a multiple"
            )));
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
