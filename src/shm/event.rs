//! A doorbell that is no futex, for memory that comes with one of its own.

use std::fmt::Debug;
use std::sync::Arc;

use crate::sys::clock::Deadline;

/// What a bell rings, and a sleeper sleeps on, in the futex's place. The bell's word is
/// bumped all the same, before: so a ring is seen by all that sleep, whoever was woken.
pub(crate) trait Event: Debug + Send + Sync {
    /// Ends the wait that is going on, or else the next one.
    fn set(&self);

    /// Sleeps until it is set, the deadline has passed, or for no reason: callers look
    /// again. `is_still` says that there is nothing new; it is asked after this thread is
    /// sure to notice what comes later.
    fn wait(&self, is_still: &dyn Fn() -> bool, deadline: Deadline);
}

/// An event that several ends share.
pub(crate) type SharedEvent = Arc<dyn Event>;
