//! What a raw link has to know of the process at its other end.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, ExitCause, Result};
use crate::ring::doorbell::Alarm;
use crate::sys::clock::Deadline;

/// The process at the other end of a raw link. Both halves of the link share it; it ends the
/// link when it is dropped.
pub(crate) trait RawPeer: fmt::Debug + Send + Sync {
    /// Returns an error if the link has ended on either side. Never blocks.
    fn check(&self) -> Result<()>;

    /// The alarm that is raised when the result of [`RawPeer::check`] changes.
    fn alarm(&self) -> &Alarm;

    /// Adds to an error of [`RawPeer::check`] what becomes known until the deadline.
    fn explain(&self, error: Error, deadline: Deadline) -> Error;

    fn pid(&self) -> u32;

    fn exit_cause(&self) -> Option<ExitCause>;

    fn close(&self, timeout: Duration) -> Result<ExitCause>;
}
