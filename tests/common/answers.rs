//! What handlers need of a worker, so that the same ones run in every kind of it.

use slipring::payload::Payload;
use slipring::worker::{
    Done, HandlerError, OwnedResponder, OwnedSlot, ReplySlot, ReplyStream, Request, Responder,
    Threads, Worker,
};
use slipring::{Kind, Result};

use super::Session;

/// A kind of worker, to which handlers are added.
pub trait Serves: Sized {
    /// What a handler returns.
    type Done;
    type Reply<'a>: Reply<Done = Self::Done>;

    fn on(
        self,
        kind: Kind,
        handler: impl for<'a> Fn(
            &Session,
            &Request<'_>,
            Self::Reply<'a>,
        ) -> std::result::Result<Self::Done, HandlerError>
        + Send
        + Sync
        + 'static,
    ) -> Self;
}

/// The means to answer one request.
pub trait Reply: Sized {
    type Done;
    type Slot: Slot<Done = Self::Done>;
    type Chunks: Chunks<Done = Self::Done>;

    fn send<P: Payload + ?Sized>(self, payload: &P) -> Result<Self::Done>;
    fn claim(self, len: usize) -> Result<Self::Slot>;
    fn stream(self) -> Self::Chunks;
}

/// A slot that is filled in place.
pub trait Slot {
    type Done;

    fn payload(&mut self) -> &mut [u8];
    fn send(self) -> Result<Self::Done>;
}

/// A stream of chunks.
pub trait Chunks {
    type Done;

    fn send<P: Payload + ?Sized>(&mut self, payload: &P) -> Result<()>;
    fn send_all<P: Payload>(&mut self, chunks: impl IntoIterator<Item = P>) -> Result<()>;
    fn end(self) -> Result<Self::Done>;
}

// One request at a time.

impl Serves for Worker<Session> {
    type Done = Done;
    type Reply<'a> = Responder<'a>;

    fn on(
        self,
        kind: Kind,
        handler: impl for<'a> Fn(
            &Session,
            &Request<'_>,
            Responder<'a>,
        ) -> std::result::Result<Done, HandlerError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self::on(self, kind, move |session, request, responder| {
            handler(session, request, responder)
        })
    }
}

impl<'a> Reply for Responder<'a> {
    type Done = Done;
    type Slot = ReplySlot<'a>;
    type Chunks = ReplyStream<'a>;

    fn send<P: Payload + ?Sized>(self, payload: &P) -> Result<Done> {
        Self::send(self, payload)
    }

    fn claim(self, len: usize) -> Result<ReplySlot<'a>> {
        Self::claim(self, len)
    }

    fn stream(self) -> ReplyStream<'a> {
        Self::stream(self)
    }
}

impl Slot for ReplySlot<'_> {
    type Done = Done;

    fn payload(&mut self) -> &mut [u8] {
        Self::payload(self)
    }

    fn send(self) -> Result<Done> {
        Ok(Self::send(self))
    }
}

impl Chunks for ReplyStream<'_> {
    type Done = Done;

    fn send<P: Payload + ?Sized>(&mut self, payload: &P) -> Result<()> {
        Self::send(self, payload)
    }

    fn send_all<P: Payload>(&mut self, chunks: impl IntoIterator<Item = P>) -> Result<()> {
        Self::send_all(self, chunks)
    }

    fn end(self) -> Result<Done> {
        Self::end(self)
    }
}

// Several threads.

impl Serves for Threads<Session> {
    type Done = ();
    type Reply<'a> = OwnedResponder;

    fn on(
        self,
        kind: Kind,
        handler: impl Fn(
            &Session,
            &Request<'_>,
            OwnedResponder,
        ) -> std::result::Result<(), HandlerError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self::on(self, kind, handler)
    }
}

impl Reply for OwnedResponder {
    type Done = ();
    type Slot = OwnedSlot;
    type Chunks = OwnedChunks;

    fn send<P: Payload + ?Sized>(self, payload: &P) -> Result<()> {
        Self::send(self, payload)
    }

    fn claim(self, len: usize) -> Result<OwnedSlot> {
        Self::claim(self, len)
    }

    fn stream(self) -> OwnedChunks {
        OwnedChunks(self)
    }
}

impl Slot for OwnedSlot {
    type Done = ();

    fn payload(&mut self) -> &mut [u8] {
        Self::payload(self)
    }

    fn send(self) -> Result<()> {
        Self::send(self)
    }
}

/// The chunks of a responder that can be kept.
pub struct OwnedChunks(OwnedResponder);

impl Chunks for OwnedChunks {
    type Done = ();

    fn send<P: Payload + ?Sized>(&mut self, payload: &P) -> Result<()> {
        self.0.send_chunk(payload)
    }

    fn send_all<P: Payload>(&mut self, chunks: impl IntoIterator<Item = P>) -> Result<()> {
        self.0.send_all(chunks)
    }

    fn end(self) -> Result<()> {
        self.0.end()
    }
}
