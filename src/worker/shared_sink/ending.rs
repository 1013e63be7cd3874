//! The last frames of requests that are not results.

use crate::error::HandlerFailure;
use crate::protocol::failure;
use crate::protocol::kind::{EXPIRED, Kind, REFUSED};
use crate::ring::Header;
use crate::worker::reply_sink::ReplyState;

/// The last frame of a request that is not a result.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The stream ends.
    End,
    Failed(HandlerFailure),
    /// No handler has seen the request.
    Refused(HandlerFailure),
    Cancelled,
    /// The deadline passed before the request was begun.
    Expired,
    /// An empty result.
    Ready,
}

impl Ending {
    /// The header and the payload, which has at most `max_frame` bytes.
    pub(super) fn frame(&self, state: &ReplyState, max_frame: usize) -> (Header, Vec<u8>) {
        match self {
            Self::Failed(failure) => {
                (state.header(Kind::ERROR), failure::encode(failure, max_frame))
            }
            Self::Refused(failure) => {
                let header = Header { aux: REFUSED, ..state.header(Kind::ERROR) };
                (header, failure::encode(failure, max_frame))
            }
            Self::End => (state.header(Kind::END), Vec::new()),
            Self::Cancelled => (state.header(Kind::CANCEL), Vec::new()),
            Self::Expired => (Header { aux: EXPIRED, ..state.header(Kind::CANCEL) }, Vec::new()),
            Self::Ready => (state.header(Kind::RESULT), Vec::new()),
        }
    }
}
