//! The error of a handler, and which errors mean that the request was cancelled.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;

use crate::error::{Error, ErrorKind, HandlerFailure};
use crate::protocol::codec::cut;
use crate::worker::cancel::CancelledRequest;

/// Why a handler could not do what it was asked.
///
/// `?` and `into` make it from every error, from `Box<dyn Error + Send + Sync>`,
/// `anyhow::Error` and the like, and from text. It keeps the error's type name, its message and
/// those of its sources, and a backtrace if the environment variable `RUST_BACKTRACE` asks for
/// one. The caller finds them in a [`HandlerFailure`]. Errors that say that a request is cancelled
/// or the channel closed get no backtrace.
///
/// A handler that returns the [`ErrorKind::Cancelled`] of its own request ends that request as
/// cancelled; every other error is told to the caller as [`ErrorKind::HandlerFailed`].
///
/// ```
/// use slipring::worker::HandlerError;
///
/// fn parse(text: &str) -> Result<u32, HandlerError> {
///     if text.is_empty() {
///         return Err("a number is missing".into());
///     }
///     Ok(text.parse()?)
/// }
/// assert!(parse("").is_err() && parse("x").is_err() && parse("7").is_ok());
/// ```
pub struct HandlerError(Box<Repr>);

/// Behind a pointer, so that the result of a handler that succeeds is moved at no cost.
struct Repr {
    failure: HandlerFailure,
    cancel: Cancel,
}

/// Which cancelled request an error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cancel {
    /// None.
    No,
    /// None: it says that the channel is closed.
    Closed,
    /// This one of this worker's.
    Own(u64),
    /// One of a channel whose parent this process is.
    Other,
}

impl HandlerError {
    /// Makes an error with the type name and the message of the program's own choice, such as
    /// those of an exception in another language.
    ///
    /// The caller gets all of it unchanged as long as it fits one frame of the reply ring and
    /// the type name has at most 256 bytes. What does not fit is cut: first the backtrace.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::time::Duration;
    /// use slipring::worker::{HandlerError, Worker};
    /// use slipring::{Config, Kind, RoleConfig, testing};
    ///
    /// const EVAL: Kind = Kind::named("eval");
    /// let make = || {
    ///     Worker::new(|_role| Ok(())).on(EVAL, |_, _, _| {
    ///         Err(HandlerError::new("ValueError", "no such model")
    ///             .with_source("FileNotFoundError: model.bin")
    ///             .with_backtrace("File \"model.py\", line 7, in load"))
    ///     })
    /// };
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let error = channel.call(EVAL, "", Duration::from_secs(10)).unwrap_err();
    /// let failure = error.handler_failure().unwrap();
    /// assert_eq!(failure.type_name, "ValueError");
    /// assert_eq!(failure.sources, ["FileNotFoundError: model.bin"]);
    /// assert_eq!(failure.backtrace, "File \"model.py\", line 7, in load");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new(type_name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::with(type_name.into(), message.into(), Vec::new(), Cancel::No)
    }

    /// Makes an error from one that cannot be sent to other threads, for which `?` does not work.
    #[must_use]
    pub fn from_local<E: std::error::Error>(error: &E) -> Self {
        Self::of(std::any::type_name::<E>(), error, Cancel::No)
    }

    /// Adds the message of what caused the error, below those that were added before. At most
    /// 32 of them reach the caller.
    #[must_use]
    pub fn with_source(mut self, message: impl Into<String>) -> Self {
        self.0.failure.sources.push(message.into());
        self
    }

    /// Puts this text in the place of the backtrace. It can have several lines.
    #[must_use]
    pub fn with_backtrace(mut self, backtrace: impl Into<String>) -> Self {
        self.0.failure.backtrace = backtrace.into();
        self
    }

    /// Makes the error of a panic.
    pub(super) fn panic(message: String, backtrace: String) -> Self {
        let type_name = "panic".to_owned();
        let failure = HandlerFailure { type_name, message, sources: Vec::new(), backtrace };
        Self(Box::new(Repr { failure, cancel: Cancel::No }))
    }

    /// Makes the error of a request that has no answer; `why` says in a sentence how that came.
    pub(super) fn no_reply(why: impl Into<String>) -> Self {
        Self::new("slipring::NoReply", why)
    }

    fn of(type_name: &str, error: &dyn std::error::Error, cancel: Cancel) -> Self {
        let mut sources = Vec::new();
        let mut next = error.source();
        while let Some(source) = next.filter(|_| sources.len() < MOST_SOURCES) {
            sources.push(source.to_string());
            next = source.source();
        }
        Self::with(type_name.to_owned(), error.to_string(), sources, cancel)
    }

    fn with(type_name: String, message: String, sources: Vec<String>, cancel: Cancel) -> Self {
        let mut failure = HandlerFailure { type_name, message, sources, backtrace: String::new() };
        // The text of a backtrace can take a tenth of a second. A cancel and the end are no
        // faults, and come too often for that.
        if cancel == Cancel::No {
            let backtrace = Backtrace::capture();
            if backtrace.status() == BacktraceStatus::Captured {
                failure.backtrace = backtrace.to_string();
            }
        }
        Self(Box::new(Repr { failure, cancel }))
    }

    /// Whether the error says that this request of the worker's own is cancelled. A cancel of
    /// another request says so if `is_cancelled` does: a handler can pass a cancel on, and
    /// return the error which that gives it.
    pub(super) fn is_cancel_of(&self, request: u64, is_cancelled: impl FnOnce() -> bool) -> bool {
        match self.0.cancel {
            Cancel::No | Cancel::Closed => false,
            Cancel::Own(own) if own == request => true,
            Cancel::Own(_) | Cancel::Other => is_cancelled(),
        }
    }

    /// Returns one line for the health report, of at most 512 bytes.
    pub(super) fn summary(&self) -> String {
        cut(&self.0.failure.to_string(), 512).to_owned()
    }

    pub(super) fn failure(&self) -> &HandlerFailure {
        &self.0.failure
    }

    pub(super) fn into_failure(self) -> HandlerFailure {
        self.0.failure
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.failure.fmt(f)
    }
}

/// An error with more sources than this is taken for one that is its own source.
const MOST_SOURCES: usize = 64;

type Boxed = Box<dyn std::error::Error + Send + Sync>;

impl<E: Into<Boxed>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let boxed = error.into();
        let name = match std::any::type_name::<E>() {
            // The type of a text says nothing, and that of a boxed error is not known.
            "&str" | "alloc::string::String" => "error",
            name if name.starts_with("alloc::borrow::Cow<") => "error",
            name if name.starts_with("alloc::boxed::Box<dyn") => "Box<dyn Error>",
            name => name,
        };
        let cancel = cancel_in(boxed.as_ref());
        Self::of(name, boxed.as_ref(), cancel)
    }
}

/// Looks for a cancelled request or a closed channel in the error and its sources: it may have been
/// wrapped, by an `io::Error` or with a context.
fn cancel_in(error: &(dyn std::error::Error + 'static)) -> Cancel {
    let mut found = Cancel::No;
    let mut next = Some(error);
    for _ in 0..MOST_SOURCES {
        let Some(error) = next else { break };
        if let Some(cancelled) = error.downcast_ref::<CancelledRequest>() {
            return Cancel::Own(cancelled.0);
        }
        let inside = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let ours = error.downcast_ref::<Error>().or_else(|| inside?.downcast_ref::<Error>());
        match ours.map(Error::kind) {
            Some(ErrorKind::Cancelled) => found = Cancel::Other,
            Some(ErrorKind::Closed) if found == Cancel::No => found = Cancel::Closed,
            _ => {}
        }
        next = error.source();
    }
    found
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::worker::cancel::cancelled;

    #[derive(Debug)]
    struct Outer(std::num::ParseIntError);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("outer")
        }
    }

    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn an_error_keeps_its_type_its_message_and_its_sources() {
        let failure = HandlerError::from(Outer("x".parse::<i32>().unwrap_err())).into_failure();
        assert!(failure.type_name.ends_with("Outer"), "{}", failure.type_name);
        assert_eq!(failure.message, "outer");
        assert_eq!(failure.sources, ["invalid digit found in string"]);
    }

    #[test]
    fn only_the_cancel_of_the_request_itself_counts_however_it_is_wrapped() {
        let no = || false;
        let own = || cancelled(5);
        let is_own = |error: HandlerError| error.is_cancel_of(5, no);
        assert!(is_own(own().into()));
        assert!(is_own(std::io::Error::from(own()).into()));
        assert!(is_own(std::io::Error::other(own()).into()));
        assert!(is_own(Boxed::from(own()).into()));
        assert!(is_own(anyhow::Error::from(own()).into()));
        assert!(is_own(anyhow::Error::from(own()).context("while it embedded").into()));
        assert!(is_own(anyhow::Error::from(std::io::Error::from(own())).context("x").into()));
        let other = || Error::new(ErrorKind::Cancelled, "request 5 was cancelled");
        for error in [HandlerError::from(other()), std::io::Error::from(other()).into()] {
            assert!(!error.is_cancel_of(5, no), "{error:?}");
            assert!(error.is_cancel_of(5, || true), "{error:?}");
        }
        assert!(!HandlerError::from(cancelled(6)).is_cancel_of(5, no));
        assert!(!is_own(Error::new(ErrorKind::Timeout, "").into()));
        assert!(!HandlerError::new("Cancelled", "").is_cancel_of(5, || true));
    }

    #[test]
    fn a_cancel_and_the_end_capture_no_backtrace() {
        const NAME: &str =
            "worker::handler_error::tests::a_cancel_and_the_end_capture_no_backtrace";
        if std::env::var_os("RUST_BACKTRACE").is_none_or(|value| value != "1") {
            let mut again = std::process::Command::new(std::env::current_exe().unwrap());
            let again = again.args(["--exact", NAME]).env("RUST_BACKTRACE", "1");
            assert!(again.status().unwrap().success());
            return;
        }
        let has_one = |error: HandlerError| !error.failure().backtrace.is_empty();
        assert!(!has_one(cancelled(5).into()));
        assert!(!has_one(std::io::Error::from(cancelled(5)).into()));
        assert!(!has_one(Error::new(ErrorKind::Closed, "").into()));
        assert!(has_one(Error::new(ErrorKind::Timeout, "").into()));
        assert!(has_one("bad".into()));
    }

    #[test]
    fn text_and_errors_without_a_type_become_errors_too() {
        let told = |error: HandlerError| {
            let failure = error.into_failure();
            (failure.type_name, failure.message, failure.sources)
        };
        let plain = ("error".to_owned(), "bad".to_owned(), Vec::new());
        assert_eq!(told("bad".into()), plain);
        assert_eq!(told("bad".to_owned().into()), plain);
        assert_eq!(told(std::borrow::Cow::Borrowed("bad").into()), plain);
        let outer = || Outer("x".parse::<i32>().unwrap_err());
        let because = vec!["invalid digit found in string".to_owned()];
        let boxed = ("Box<dyn Error>".to_owned(), "outer".to_owned(), because.clone());
        assert_eq!(told(Boxed::from(outer()).into()), boxed);
        let any = anyhow::Error::from(outer()).context("no model");
        let sources = vec!["outer".to_owned(), because[0].clone()];
        assert_eq!(told(any.into()), ("anyhow::Error".into(), "no model".into(), sources));
        let (name, message, sources) = told(HandlerError::from_local(&outer()));
        assert!(name.ends_with("Outer"), "{name}");
        assert_eq!((message.as_str(), sources), ("outer", because));
    }

    #[test]
    fn what_a_program_in_another_language_says_is_kept() {
        let failure = HandlerError::new("ValueError".to_owned(), "bad")
            .with_source("first")
            .with_source("second")
            .with_backtrace("line 7\nline 9")
            .into_failure();
        assert_eq!((failure.type_name.as_str(), failure.message.as_str()), ("ValueError", "bad"));
        assert_eq!(failure.sources, ["first", "second"]);
        assert_eq!(failure.backtrace, "line 7\nline 9");
    }
}
