//! What an error says about an attempt: whether its worker is gone, and whether it had begun.

use crate::error::{Error, ErrorKind, ExitCause, WorkerDeath};

/// Whether the worker of an attempt that ended with this error is of no use any more.
pub(super) fn ends_worker(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PeerDied | ErrorKind::PeerCorrupt | ErrorKind::Session | ErrorKind::Closed
    )
}

/// Whether the worker may still be at a request that ended with this error.
pub(super) fn is_unanswered(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Timeout | ErrorKind::Stalled | ErrorKind::Cancelled | ErrorKind::Interrupted
    )
}

/// Whether a request that ended with this error was not begun by its deadline: it has waited for its
/// worker, as one that waits for a place does.
pub(super) fn waited_in_ring(error: &Error) -> bool {
    error.kind() == ErrorKind::Timeout && error.was_begun() != Some(true)
}

/// Whether an operator or the system has ended the worker, and not its own code.
pub(super) fn is_killed_from_outside(death: &WorkerDeath) -> bool {
    !death.is_oom_suspected() && death.cause().is_some_and(is_outside_signal)
}

/// Whether code never ends by this signal itself.
pub(super) fn is_outside_signal(cause: ExitCause) -> bool {
    matches!(
        cause,
        ExitCause::Signaled(libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP)
    )
}
