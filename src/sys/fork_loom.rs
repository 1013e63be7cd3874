//! Models do not fork.

use crate::error::Result;

pub(crate) fn is_forked_child() -> bool {
    false
}

#[expect(clippy::unnecessary_wraps, reason = "a real process can be a fork")]
pub(crate) fn check() -> Result<()> {
    Ok(())
}
