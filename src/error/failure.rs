//! What a handler reports.

use std::fmt;

use super::Escaped;

/// What a handler failed with, or the builder of a worker's session.
///
/// ```no_run
/// # fn example(channel: &slipring::Channel) -> slipring::Result<()> {
/// use std::time::Duration;
///
/// use slipring::Kind;
///
/// let error = channel.call(Kind::EMBED, "text", Duration::from_secs(1)).unwrap_err();
/// if let Some(failure) = error.handler_failure() {
///     eprintln!("{}: {}", failure.type_name, failure.message);
///     failure.sources.iter().for_each(|source| eprintln!("  because {source}"));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct HandlerFailure {
    /// The name of the error's type, or `panic` for a panic.
    pub type_name: String,
    /// The error's own message.
    pub message: String,
    /// The messages of the error's sources, outermost first.
    pub sources: Vec<String>,
    /// Where it happened. Empty if the worker captured no backtrace.
    pub backtrace: String,
}

impl fmt::Display for HandlerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Escaped(&self.type_name))?;
        for text in std::iter::once(&self.message).chain(&self.sources) {
            write!(f, ": {}", Escaped(text))?;
        }
        Ok(())
    }
}
