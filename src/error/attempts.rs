//! What became of a request's attempts before its last one.

use std::fmt;

use super::{Error, ErrorKind, ExitCause};

/// How many of the ends are kept.
const KEPT: usize = 8;

/// How a request to a pool was sent before, each time to a worker that died: from
/// [`Error::earlier_attempts`].
///
/// `{}` writes how often it was sent and how that ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct EarlierAttempts {
    /// How often it was sent before the attempt that the error tells of.
    pub count: u32,
    /// How the attempts ended, in their order: all of them, or the last eight.
    pub ends: Vec<AttemptEnd>,
}

/// How an attempt of a request to a pool ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct AttemptEnd {
    /// What happened, such as [`ErrorKind::PeerDied`].
    pub kind: ErrorKind,
    /// How the worker ended; `None` if that was not known.
    pub cause: Option<ExitCause>,
    /// Whether the worker had begun the request; `None` if that was not known.
    pub was_begun: Option<bool>,
}

impl AttemptEnd {
    /// Makes the end of an attempt that was made elsewhere: see [`ErrorReport`](crate::ErrorReport).
    #[must_use]
    pub fn new(kind: ErrorKind, cause: Option<ExitCause>, was_begun: Option<bool>) -> Self {
        Self { kind, cause, was_begun }
    }
}

impl EarlierAttempts {
    /// Adds an attempt, which ended with this error.
    pub(crate) fn push(&mut self, error: &Error) {
        self.count = self.count.saturating_add(1);
        if self.ends.len() == KEPT {
            self.ends.remove(0);
        }
        self.ends.push(AttemptEnd {
            kind: error.kind(),
            cause: error.death().and_then(|death| death.cause()),
            was_begun: error.was_begun(),
        });
    }
}

impl fmt::Display for EarlierAttempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => f.write_str("sent once before")?,
            2 => f.write_str("sent twice before")?,
            more => write!(f, "sent {more} times before")?,
        }
        let mut before = ": ";
        for end in &self.ends {
            write!(f, "{before}{end}")?;
            before = ", ";
        }
        Ok(())
    }
}

impl fmt::Display for AttemptEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            Some(cause) => write!(f, "its worker {cause}")?,
            None => write!(f, "its worker was lost ({})", self.kind.name())?,
        }
        f.write_str(match self.was_begun {
            Some(true) => " while it was begun",
            Some(false) => " before it was begun",
            None => "",
        })
    }
}
