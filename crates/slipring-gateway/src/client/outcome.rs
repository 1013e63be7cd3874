//! What became of a request, as an error of the library.

use std::fmt::Display;

use slipring::Error;

use super::connection::Shared;
use crate::wire::error::disconnected;

/// Returns whether a worker has begun a request whose stream ended with this error. It is certain
/// that none has if the other side says that it did not look at the request: it refused the stream,
/// or closed the connection and named an earlier request as the last that it has seen.
pub(super) fn was_begun(error: &h2::Error, has_headers: bool) -> Option<bool> {
    if has_headers {
        return Some(true);
    }
    let is_refused = error.is_remote()
        && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM));
    is_refused.then_some(false)
}

/// The connection is lost, or this request's part of it.
#[cold]
pub(super) fn lost(shared: &Shared, was_begun: Option<bool>, error: &h2::Error) -> Error {
    let why = match shared.reason() {
        Some(reason) if !error.is_reset() => reason,
        _ => error.to_string(),
    };
    disconnected(format!("the connection to {} was lost: {why}", shared.peer), was_begun)
}

#[cold]
pub(super) fn not_connected(peer: &str, error: impl Display) -> Error {
    disconnected(format!("no connection to {peer}: {error}"), Some(false))
}
