//! Requests that can be kept and moved.

use std::fmt;
use std::sync::Arc;

use crate::id::RequestId;
use crate::protocol::Kind;
use crate::ring::LeasedSlot;
use crate::shm::bytes::PeerBytes;
use crate::sys::clock::Deadline;
use crate::worker::request::Request;
use crate::worker::shared_sink::SharedSink;

/// The payload of a request that is kept.
#[derive(Debug)]
pub(super) enum OwnedPayload {
    Copy(Vec<u8>),
    Lease(LeasedSlot),
}

impl OwnedPayload {
    fn bytes(&self) -> PeerBytes<'_> {
        match self {
            Self::Copy(bytes) => PeerBytes::of(bytes),
            Self::Lease(slot) => slot.payload(),
        }
    }
}

/// A request that can be kept and sent to other threads.
///
/// [`OwnedRequest::get`] gives it in the form in which handlers have it.
pub struct OwnedRequest {
    kind: Kind,
    id: u64,
    flags: u16,
    pub(super) deadline: Deadline,
    payload: OwnedPayload,
    sink: Arc<SharedSink>,
}

impl OwnedRequest {
    pub(super) fn new(
        sink: &Arc<SharedSink>,
        (kind, id): (Kind, u64),
        flags: u16,
        deadline: Deadline,
        payload: OwnedPayload,
    ) -> Self {
        Self { kind, id, flags, deadline, payload, sink: Arc::clone(sink) }
    }

    /// Returns the request in the form in which handlers have it: its kind, payload, deadline,
    /// and whether it is cancelled.
    #[must_use]
    pub fn get(&self) -> Request<'_> {
        Request {
            kind: self.kind,
            id: self.id,
            flags: self.flags,
            deadline: self.deadline,
            payload: self.payload.bytes(),
            signals: &self.sink.signals,
            status: &self.sink.status,
        }
    }

    /// Returns what the request asks for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the request's id, which is the same in the parent.
    #[must_use]
    pub fn id(&self) -> RequestId {
        RequestId::new(self.id)
    }

    /// Returns whether the payload is a lease: whether it lies in shared memory, where it keeps
    /// the parent from sending more once the ring is full. See
    /// [`Inbox::lease_payloads`](super::Inbox::lease_payloads).
    #[must_use]
    pub fn is_leased(&self) -> bool {
        matches!(self.payload, OwnedPayload::Lease(_))
    }

    /// Copies the payload into this process's memory if it is a lease, and ends the lease. Never
    /// blocks.
    pub fn copy_payload(&mut self) {
        if let OwnedPayload::Lease(slot) = &self.payload {
            self.payload = OwnedPayload::Copy(slot.payload().to_vec());
        }
    }
}

impl fmt::Debug for OwnedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedRequest")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("is_stream", &self.get().is_stream())
            .field("len", &self.payload.bytes().len())
            .finish_non_exhaustive()
    }
}
