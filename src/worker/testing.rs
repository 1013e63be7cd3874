//! A worker that serves many requests, without a process, for models. The parent is a few lines
//! that use the other ends of the rings.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;

use crate::channel::testing::{LONGEST, Side, config, sides};
use crate::config::Config;
use crate::error::Mark;
use crate::link::{ParentWords, WorkerWords};
use crate::protocol::Kind;
use crate::ring::Header;
use crate::ring::doorbell::Alarm;
use crate::shm::layout::{RegionHeader, as_usize};
use crate::sys::clock::Deadline;
use crate::worker::cancel::Signals;
use crate::worker::inbox::Inbox;
use crate::worker::owned::{OwnedResponder, TrySend};
use crate::worker::request_ring::RequestRing;
use crate::worker::shared_sink::SharedSink;
use crate::worker::status::StatusWriter;
use crate::worker::stop_token::StopToken;

/// The kind of all requests.
const WORK: Kind = Kind::named("work");

/// A worker and what stands for its parent.
pub(super) struct Rig {
    pub(super) parent: Parent,
    pub(super) worker: Worker,
}

/// The parent's side.
pub(super) struct Parent(Side<ParentWords>);

/// The worker's side.
pub(super) struct Worker {
    pub(super) inbox: Inbox,
    pub(super) sink: Arc<SharedSink>,
    pub(super) stop: Arc<StopToken>,
}

/// A worker with room for so many requests, which takes `limit` of them at a time.
pub(super) fn rig(requests: usize, limit: usize) -> Rig {
    let config = config(requests);
    let (parent, worker) = sides(&config, [None, None]);
    Rig { parent: Parent(parent), worker: Worker::over(worker, &config, limit) }
}

impl Worker {
    pub(super) fn over(side: Side<WorkerWords>, config: &Config, limit: usize) -> Self {
        let Side { rings, words } = side;
        let (words, stop) = (Arc::new(words), Arc::<StopToken>::default());
        let status = StatusWriter::new(Arc::clone(&words));
        let signals = Signals::new(words, Arc::clone(&stop));
        let header = RegionHeader::down(config, [0; 16], 0);
        let sink = SharedSink::new(
            (rings.producer, rings.sleeper),
            signals,
            status,
            Arc::default(),
            &header,
        );
        let sink = Arc::new(sink);
        let ring = RequestRing::new(rings.consumer, &header);
        Self { inbox: Inbox::new(ring, Arc::clone(&sink), limit), sink, stop }
    }

    /// Takes a request that did not come through the ring.
    pub(super) fn take(&self, request: u64) -> OwnedResponder {
        OwnedResponder::new(&self.sink, self.sink.take(request, 0), false)
    }

    /// Fills the reply ring with the replies of the requests 101 and 102.
    pub(super) fn fill(&self) {
        for (request, len) in [(101, LONGEST), (102, 1)] {
            let reply = vec![request; len];
            let unsent = self.take(request.into()).try_send(&reply).unwrap();
            assert!(matches!(unsent, TrySend::Sent), "the ring has room for both");
        }
    }
}

impl Parent {
    /// Sends a request.
    pub(super) fn send(&mut self, request: u64) {
        let claim = self.0.rings.producer.try_claim(0).unwrap().unwrap();
        claim.commit(Header { kind: WORK.code(), request, ..Header::default() });
    }

    /// Waits for the next frame, and releases it. Returns its kind and request. The payload, if
    /// there is one, must be the request's.
    pub(super) fn receive(&mut self) -> (Kind, u64) {
        let consumer = &mut self.0.rings.consumer;
        let never = || Ok(());
        let frame = consumer.poll_until(&Alarm::default(), Deadline::NEVER, never);
        let frame = frame.unwrap().unwrap();
        let Header { kind, request, .. } = frame.header();
        let (kind, payload) = (Kind::from_code(kind), frame.payload().to_vec());
        drop(frame);
        consumer.publish_released();
        if kind == Kind::RESULT || kind == Kind::CHUNK {
            let byte = request.to_le_bytes()[0];
            assert!(payload.iter().all(|found| *found == byte), "a frame of {request}");
        }
        (kind, request)
    }

    /// Receives the replies that [`Worker::fill`] has sent.
    pub(super) fn empty(&mut self) {
        for request in 101..=102 {
            assert_eq!(self.receive(), (Kind::RESULT, request));
        }
    }

    /// Whether no frame is left.
    pub(super) fn is_done(&mut self) -> bool {
        self.0.rings.consumer.poll().unwrap().is_none()
    }

    pub(super) fn cancel(&self, request: u64) {
        self.0.words.requests.cancel(request);
        self.0.words.data_bell.ring();
    }

    pub(super) fn mark(&self, request: u64) -> Option<Mark> {
        self.0.words.report.marks.of(request)
    }
}
