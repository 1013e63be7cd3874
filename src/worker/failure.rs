//! What becomes of an error or a panic in a handler.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::error::{Error, ErrorKind, WorkerFailure};

/// Why a handler could not do what it was asked. Made by `?` from any error; keeps the
/// error's type name, message and sources, and a backtrace when `RUST_BACKTRACE` is set.
pub struct HandlerError {
    failure: WorkerFailure,
    is_cancelled: bool,
}

impl HandlerError {
    /// An error of the host's own naming.
    #[must_use]
    pub fn new(type_name: &str, message: impl Into<String>) -> Self {
        Self::with(type_name.to_owned(), message.into(), Vec::new())
    }

    fn with(type_name: String, message: String, sources: Vec<String>) -> Self {
        let backtrace = Backtrace::capture();
        let backtrace = match backtrace.status() {
            BacktraceStatus::Captured => backtrace.to_string(),
            _ => String::new(),
        };
        let failure = WorkerFailure { type_name, message, sources, backtrace };
        Self { failure, is_cancelled: false }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled
    }

    /// One line for the health report.
    pub(crate) fn summary(&self) -> String {
        self.failure.to_string().chars().take(256).collect()
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

impl<E: std::error::Error + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let mut sources = Vec::new();
        let mut next = error.source();
        while let Some(source) = next {
            sources.push(source.to_string());
            next = source.source();
        }
        let any: &dyn Any = &error;
        let ours = any.downcast_ref::<Error>();
        let is_cancelled = ours.is_some_and(|e| e.kind() == ErrorKind::Cancelled);
        let name = std::any::type_name::<E>().to_owned();
        Self { is_cancelled, ..Self::with(name, error.to_string(), sources) }
    }
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
            Err(HandlerError { failure, is_cancelled: false })
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
    fn only_a_cancelled_error_of_ours_counts_as_cancelled() {
        assert!(HandlerError::from(Error::new(ErrorKind::Cancelled, "")).is_cancelled());
        assert!(!HandlerError::from(Error::new(ErrorKind::Timeout, "")).is_cancelled());
        assert!(!HandlerError::new("Cancelled", "").is_cancelled());
    }
}
