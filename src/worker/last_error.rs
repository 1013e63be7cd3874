//! The last error of the worker's own code, for the health report.

use crate::sync::Mutex;

/// The message of the last error that a handler ended with. The serving thread writes it and
/// the health thread reads it.
#[derive(Debug, Default)]
pub(crate) struct LastError(Mutex<String>);

impl LastError {
    pub(super) fn set(&self, message: String) {
        *self.0.lock() = message;
    }

    pub(super) fn get(&self) -> String {
        self.0.lock().clone()
    }
}
