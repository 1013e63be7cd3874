//! Frames of requests that are part of a trace, and frames with flags that no request has.
//!
//! ```text
//!  a request of one frame    payload, context                                     TRACED
//!  a longer one              context      MORE, TRACED
//!                            payload      MORE, CONTINUED   ...   payload   CONTINUED
//! ```
//!
//! All of this is off the path of other requests: what has one of these flags is found by the same look
//! that refuses unknown flags.

use crate::error::{Error, Result};
use crate::protocol::kind::flags;
use crate::ring::{Frame, Header};
use crate::trace_context::TraceContext;
use crate::worker::cancel::Signals;

/// Whether a frame has flags that not every parent sends.
#[inline]
pub(super) fn has_other_flags(header: Header) -> bool {
    header.flags & !flags::REQUEST != 0
}

/// Takes the context off a frame and notes it. What is no context, or one of a later version, is as if
/// there was none.
///
/// # Errors
///
/// [`ErrorKind::PeerCorrupt`](crate::ErrorKind::PeerCorrupt) for other flags, for a frame that cannot have
/// a context, and for one that is too short for it.
#[cold]
#[inline(never)]
pub(super) fn take_context<'a>(signals: &Signals, mut frame: Frame<'a>) -> Result<Frame<'a>> {
    let Header { flags, request, len, .. } = frame.header();
    if flags & !(flags::REQUEST | flags::TRACED) != 0 {
        return Err(Error::corrupt(format!("a request with flags {flags:#x}")));
    }
    if flags & (flags::CONTINUED | flags::ABANDONED) != 0 {
        let message = format!("the trace of request {request} in a later piece of it");
        return Err(Error::corrupt(message));
    }
    let Some(context) = frame.take_tail() else {
        let message = format!("the trace of request {request} in a frame of {len} bytes");
        return Err(Error::corrupt(message));
    };
    signals.traces().note(request, TraceContext::from_bytes(&context));
    Ok(frame)
}
