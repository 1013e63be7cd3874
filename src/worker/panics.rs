//! Panics of the worker's own code, which become errors.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::worker::handler_error::HandlerError;

thread_local! {
    /// Where the last panic of this thread happened. Only the panic hook is told.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs the worker's own code; a panic becomes an error of the type `panic`.
pub(super) fn catch<T>(run: impl FnOnce() -> Result<T, HandlerError>) -> Result<T, HandlerError> {
    remember_panics();
    match panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result,
        Err(payload) => {
            let backtrace = LAST_PANIC.with_borrow_mut(Option::take).unwrap_or_default();
            let message = message_of(payload.as_ref());
            // A payload that panics when it is dropped must not end the worker.
            std::mem::forget(panic::catch_unwind(AssertUnwindSafe(move || drop(payload))));
            Err(HandlerError::panic(message, backtrace))
        }
    }
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic with a payload that is not text".to_owned())
}

/// Adds to the panic hook, once. The hook that was there still writes the panic to the log.
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

    #[test]
    fn a_panic_becomes_an_error_with_its_place() {
        let error = catch::<()>(|| panic!("boom {}", 7)).unwrap_err().into_failure();
        assert_eq!((error.type_name.as_str(), error.message.as_str()), ("panic", "boom 7"));
        assert!(error.backtrace.starts_with("at src/worker/panics.rs"), "{}", error.backtrace);
        let odd = catch::<()>(|| panic::panic_any(5)).unwrap_err().into_failure();
        assert!(odd.message.contains("not text"));
    }
}
