//! The locks of the standard library, as they are.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
