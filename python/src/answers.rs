//! How a worker sends its answers: attached, if that needs no wait, and detached otherwise.

use pyo3::prelude::*;
use slipring::worker::{HandlerError, OwnedResponder, TrySend};
use slipring::{Kind, Payload as _, Result};

use crate::buffer::FrozenBuffer;
use crate::outgoing::{Lent, Outgoing};

/// A payload that is sent detached.
pub(crate) type Detached = Outgoing<FrozenBuffer>;

/// Sends the one reply.
pub(crate) fn send(py: Python<'_>, responder: OwnedResponder, payload: Lent<'_>) -> Result<()> {
    match try_send(responder, payload)? {
        None => Ok(()),
        Some((responder, payload)) => py.detach(move || responder.send(&payload)),
    }
}

/// Sends one chunk.
pub(crate) fn send_chunk(
    py: Python<'_>,
    responder: &mut OwnedResponder,
    payload: Lent<'_>,
) -> Result<()> {
    match try_send_chunk(responder, payload)? {
        None => Ok(()),
        Some(payload) => py.detach(move || responder.send_chunk(&payload)),
    }
}

/// Sends the one reply, if that needs no wait. If it does, returns what is still to be sent.
pub(crate) fn try_send(
    responder: OwnedResponder,
    payload: Lent<'_>,
) -> Result<Option<(OwnedResponder, Detached)>> {
    if payload.encoded_len() > responder.max_frame() {
        return Ok(Some((responder, payload.detached())));
    }
    Ok(match responder.try_send(&payload)? {
        TrySend::Sent => None,
        TrySend::Full(responder) => Some((responder, payload.detached())),
    })
}

/// Sends one chunk, if that needs no wait. If it does, returns what is still to be sent.
pub(crate) fn try_send_chunk(
    responder: &mut OwnedResponder,
    payload: Lent<'_>,
) -> Result<Option<Detached>> {
    let fits = payload.encoded_len() <= responder.max_frame();
    let is_sent = fits && responder.try_send_chunk(&payload)?;
    Ok(if is_sent { None } else { Some(payload.detached()) })
}

/// Ends a request of a kind that the worker does not serve.
pub(crate) fn refuse(responder: OwnedResponder, kind: Kind) {
    responder.fail(HandlerError::new("slipring.UnknownKind", format!("no handler for {kind}")));
}
