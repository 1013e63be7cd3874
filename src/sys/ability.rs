//! What this kernel can do, as far as only a try tells.

use std::error::Error as _;
use std::io;
use std::sync::OnceLock;

use crate::error::{Error, Result};

/// Whether the kernel can do something. The answer of the first try is remembered.
#[derive(Debug)]
pub(crate) struct Ability(OnceLock<bool>);

impl Ability {
    pub(crate) const fn unknown() -> Self {
        Self(OnceLock::new())
    }

    /// Returns the answer, which is no if the try fails. A failure that can pass, such as a lack of
    /// memory or of descriptors, is not remembered: the next call tries again.
    pub(crate) fn is_there(&self, attempt: impl FnOnce() -> Result<bool>) -> bool {
        if let Some(known) = self.0.get() {
            return *known;
        }
        let (answer, lasts) = match attempt() {
            Ok(answer) => (answer, true),
            Err(error) => (false, is_lasting(&error)),
        };
        if lasts {
            let _ = self.0.set(answer);
        }
        answer
    }
}

/// Whether the kernel, or a filter of system calls, has refused what it does not know.
fn is_lasting(error: &Error) -> bool {
    let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let code = cause.and_then(io::Error::raw_os_error);
    code.is_some_and(|code| {
        [libc::ENOSYS, libc::EINVAL, libc::EPERM, libc::EOPNOTSUPP].contains(&code)
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn failed(code: i32) -> Error {
        Error::os("cannot try", io::Error::from_raw_os_error(code))
    }

    #[test]
    fn an_answer_is_remembered() {
        for answer in [true, false] {
            let ability = Ability::unknown();
            assert_eq!(ability.is_there(|| Ok(answer)), answer);
            assert_eq!(ability.is_there(|| Ok(!answer)), answer);
        }
    }

    #[test]
    fn a_failure_is_remembered_only_if_it_lasts() {
        for (code, lasts) in [
            (libc::ENOSYS, true),
            (libc::EINVAL, true),
            (libc::EPERM, true),
            (libc::ENOMEM, false),
            (libc::EMFILE, false),
            (libc::EAGAIN, false),
        ] {
            let ability = Ability::unknown();
            assert!(!ability.is_there(|| Err(failed(code))));
            assert_eq!(ability.is_there(|| Ok(true)), !lasts, "{}", failed(code));
        }
    }
}
