//! What becomes of an error or a panic in a handler.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::error::{Error, ErrorKind, WorkerFailure};
use crate::protocol::codec::cut;
use crate::worker::request::GivenUp;

/// Why a handler could not do what it was asked. Made by `?` or `into` from every error, from
/// `Box<dyn Error + Send + Sync>`, `anyhow::Error` and the like, and from text; keeps the
/// error's type name, message and sources, and a backtrace when `RUST_BACKTRACE` is set.
///
/// A handler that returns the [`ErrorKind::Cancelled`] of its own request ends that request as
/// cancelled; every other error is told to the caller as [`ErrorKind::Worker`].
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
pub struct HandlerError {
    failure: WorkerFailure,
    cancel: Cancel,
}

/// Which cancelled request an error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cancel {
    /// None.
    No,
    /// This one of this worker's.
    Own(u64),
    /// One of a channel whose parent this process is.
    Other,
}

impl HandlerError {
    /// An error of the host's own naming.
    #[must_use]
    pub fn new(type_name: &str, message: impl Into<String>) -> Self {
        Self::with(type_name.to_owned(), message.into(), Vec::new())
    }

    /// From an error that cannot be sent to other threads, for which `?` does not work.
    #[must_use]
    pub fn from_local<E: std::error::Error>(error: &E) -> Self {
        Self::of(std::any::type_name::<E>(), error, Cancel::No)
    }

    fn of(type_name: &str, error: &dyn std::error::Error, cancel: Cancel) -> Self {
        let mut sources = Vec::new();
        let mut next = error.source();
        while let Some(source) = next.filter(|_| sources.len() < MOST_SOURCES) {
            sources.push(source.to_string());
            next = source.source();
        }
        Self { cancel, ..Self::with(type_name.to_owned(), error.to_string(), sources) }
    }

    fn with(type_name: String, message: String, sources: Vec<String>) -> Self {
        let backtrace = Backtrace::capture();
        let backtrace = match backtrace.status() {
            BacktraceStatus::Captured => backtrace.to_string(),
            _ => String::new(),
        };
        let failure = WorkerFailure { type_name, message, sources, backtrace };
        Self { failure, cancel: Cancel::No }
    }

    /// Whether it says that this request of the worker's own is cancelled. That of another
    /// request says so if `is_cancelled` does: a handler can pass a cancel on, and return what
    /// that gives it.
    pub(crate) fn is_cancel_of(&self, request: u64, is_cancelled: impl FnOnce() -> bool) -> bool {
        match self.cancel {
            Cancel::No => false,
            Cancel::Own(own) if own == request => true,
            Cancel::Own(_) | Cancel::Other => is_cancelled(),
        }
    }

    /// One line for the health report, of at most 512 bytes.
    pub(crate) fn summary(&self) -> String {
        cut(&self.failure.to_string(), 512).to_owned()
    }

    pub(crate) fn into_failure(self) -> WorkerFailure {
        self.failure
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(f)
    }
}

/// More sources than any error has that is no loop.
const MOST_SOURCES: usize = 64;

type Boxed = Box<dyn std::error::Error + Send + Sync>;

impl<E: Into<Boxed>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let boxed = error.into();
        let name = match std::any::type_name::<E>() {
            // Text, which has no type worth a name, or a type that is not known any more.
            "&str" | "alloc::string::String" => "error",
            name if name.starts_with("alloc::borrow::Cow<") => "error",
            name if name.starts_with("alloc::boxed::Box<dyn") => "Box<dyn Error>",
            name => name,
        };
        let cancel = cancel_in(boxed.as_ref());
        Self::of(name, boxed.as_ref(), cancel)
    }
}

/// Looks for a cancelled request in the error and its sources: it may have been wrapped, by an
/// `io::Error` or with a context.
fn cancel_in(error: &(dyn std::error::Error + 'static)) -> Cancel {
    let mut found = Cancel::No;
    let mut next = Some(error);
    for _ in 0..MOST_SOURCES {
        let Some(error) = next else { break };
        if let Some(given_up) = error.downcast_ref::<GivenUp>() {
            return Cancel::Own(given_up.0);
        }
        let inside = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let ours = error.downcast_ref::<Error>().or_else(|| inside?.downcast_ref::<Error>());
        if ours.is_some_and(|ours| ours.kind() == ErrorKind::Cancelled) {
            found = Cancel::Other;
        }
        next = error.source();
    }
    found
}

thread_local! {
    /// Where the last panic of this thread happened; the hook knows, the catcher does not.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a handler; a panic becomes an error of the type `panic`.
pub(crate) fn catch<T>(run: impl FnOnce() -> Result<T, HandlerError>) -> Result<T, HandlerError> {
    remember_panics();
    match panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result,
        Err(payload) => {
            let backtrace = LAST_PANIC.with_borrow_mut(Option::take).unwrap_or_default();
            let message = message_of(payload.as_ref());
            // A payload whose own drop panics must not end the worker.
            std::mem::forget(panic::catch_unwind(AssertUnwindSafe(move || drop(payload))));
            let type_name = "panic".to_owned();
            let failure = WorkerFailure { type_name, message, sources: Vec::new(), backtrace };
            Err(HandlerError { failure, cancel: Cancel::No })
        }
    }
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic with a payload that is no text".to_owned())
}

/// Adds to the panic hook, once; what was there goes on writing to the log.
fn remember_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let place = info.location().map(|l| format!("at {l}\n")).unwrap_or_default();
            let text = format!("{place}{}", Backtrace::force_capture());
            LAST_PANIC.with_borrow_mut(|last| *last = Some(text));
            before(info);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::request::cancelled;

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
    fn a_panic_becomes_an_error_with_its_place() {
        let error = catch::<()>(|| panic!("boom {}", 7)).unwrap_err().into_failure();
        assert_eq!((error.type_name.as_str(), error.message.as_str()), ("panic", "boom 7"));
        assert!(error.backtrace.starts_with("at src/worker/failure.rs"), "{}", error.backtrace);
        let odd = catch::<()>(|| panic::panic_any(5)).unwrap_err().into_failure();
        assert!(odd.message.contains("no text"));
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
}
