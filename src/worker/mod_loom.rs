//! The worker's side under the model checker: how requests are taken and answered by several
//! threads.

mod cancel;
mod collector;
mod handler_error;
mod inbox;
mod last_error;
#[cfg(test)]
mod models;
mod open_reply;
mod owned;
mod owned_request;
mod owned_slot;
mod owned_writer;
mod panics;
mod reply_sink;
mod request;
mod request_pieces;
mod request_ring;
mod room_queue;
mod shared_sink;
mod status;
mod stop_token;
#[cfg(test)]
mod testing;
mod traced;
mod unanswered;
mod wakers;

mod health {
    use crate::protocol::health::Snapshot;

    /// Where the health thread, which models have not, gets the numbers of a report from.
    pub(crate) trait Report: Send + 'static {
        fn snapshot(&self) -> Snapshot;
    }
}

pub use cancel::{AbortFlag, CancelToken};
pub use handler_error::HandlerError;
pub use inbox::{Inbox, Peeked};
pub use owned::{Incoming, OwnedResponder, TryClaim, TrySend};
pub use owned_request::OwnedRequest;
pub use owned_slot::{OwnedChunk, OwnedSlot};
pub use owned_writer::OwnedReplyWriter;
pub use request::Request;
pub use request_pieces::RequestPiece;
