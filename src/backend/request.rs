//! What a backend is asked.

use std::fmt;
use std::sync::Arc;

use super::Progress;
use crate::error::Result;
use crate::payload::in_memory;
use crate::payload::{Payload, SharedPayload};
use crate::priority::Priority;
use crate::protocol::Kind;
use crate::trace_context::TraceContext;

/// A request to a [`Backend`](super::Backend), which owns its payload. Cheap to clone: the clone
/// shares the payload and the [`Progress`].
///
/// ```
/// # use std::time::Duration;
/// # use slipring::pool::{Pool, Role};
/// # use slipring::{Config, Kind, RoleConfig, testing, worker::Worker};
/// # const ECHO: Kind = Kind::named("echo");
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let make = || Worker::new(|_| Ok(()))
/// #     .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?));
/// # let role = Role::with_channels(move |_| {
/// #     testing::spawn_thread(&Config::small(), RoleConfig::default(), make)
/// # });
/// # let pool = Pool::builder().role("echo", role).build()?;
/// # let echo = pool.role("echo")?.to_async();
/// # let echo: std::sync::Arc<dyn slipring::backend::Backend> = std::sync::Arc::new(echo);
/// use slipring::RequestStage;
/// use slipring::backend::BackendRequest;
/// use slipring::pool::Priority;
///
/// let request = BackendRequest::new(ECHO, "hello").priority(Priority::Low).idempotent(true);
/// let progress = request.progress();
/// assert_eq!(progress.stage(), Some(RequestStage::Queued));
/// # #[cfg(feature = "tokio")]
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let reply = echo.submit(request, Duration::from_secs(10));
/// // Any other thread or task can ask `progress` meanwhile.
/// assert_eq!(reply.await?.text()?, "hello");
/// assert_eq!(progress.stage(), Some(RequestStage::Begun));
/// # Ok::<(), slipring::Error>(())
/// # })?;
/// # Ok(pool.close(Duration::from_secs(10))?) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct BackendRequest {
    kind: Kind,
    payload: SharedPayload,
    priority: Priority,
    key: Option<u64>,
    is_idempotent: Option<bool>,
    trace: Option<TraceContext>,
    hops: u32,
    must_not_wait: bool,
    progress: Progress,
}

impl BackendRequest {
    /// Makes a request of this kind. A payload that others use, too, is passed as an [`Arc`].
    ///
    /// A payload that lies in memory ([`Payload::as_parts`]) is sent from there; that of
    /// [`Backend::submit`](super::Backend::submit) and
    /// [`Backend::stream`](super::Backend::stream), too. Others are encoded for each attempt of a
    /// call, and once for a submit or a stream.
    pub fn new(kind: Kind, payload: impl Payload + Send + Sync + 'static) -> Self {
        Self {
            kind,
            payload: Arc::new(payload),
            priority: Priority::default(),
            key: None,
            is_idempotent: None,
            trace: None,
            hops: 0,
            must_not_wait: false,
            progress: Progress::default(),
        }
    }

    /// How important the request is among those that wait.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sends requests with the same key to the same worker: as
    /// [`PoolRequest::key`](crate::pool::PoolRequest::key).
    pub fn key(mut self, key: u64) -> Self {
        self.key = Some(key);
        self
    }

    /// Whether the request may be served twice: as its role says by default.
    pub fn idempotent(mut self, is_idempotent: bool) -> Self {
        self.is_idempotent = Some(is_idempotent);
        self
    }

    /// Says which trace the request is part of. A role of a pool tells its worker, without the
    /// `tracestate`; a backend on another host tells its gateway.
    pub fn trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Says how often the request has come from one host to another: what receives it there does. A role of
    /// a pool with workers of its own keeps one that has come twice, where it would
    /// [overflow](crate::pool::Role::overflow) otherwise, so that roles which overflow to each other do not
    /// pass it round.
    pub fn hops(mut self, count: u32) -> Self {
        self.hops = count;
        self
    }

    /// Says that the caller has other workers for the request. A backend whose workers are elsewhere, and that
    /// can reach none of them, refuses it then, not begun, in place of waiting until it can.
    pub fn must_not_wait(mut self, must_not: bool) -> Self {
        self.must_not_wait = must_not;
        self
    }

    /// Returns the same request with a [`Progress`] of its own, to be sent beside or after this one.
    pub fn renewed(&self) -> Self {
        Self { progress: Progress::default(), ..self.clone() }
    }

    /// Returns the same request with a payload that lies in memory, of which the encoding is made now
    /// if it does not: for a backend that sends it later, or several times.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if the payload cannot be
    /// encoded.
    pub fn in_memory(mut self) -> Result<Self> {
        self.payload = in_memory(self.payload)?;
        Ok(self)
    }

    /// Returns what tells how far the request is, also while it is in flight.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Tells this progress in the place of its own.
    pub(crate) fn with_progress(mut self, progress: Progress) -> Self {
        self.progress = progress;
        self
    }

    /// Returns the kind of the request.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the payload.
    #[must_use]
    pub fn payload(&self) -> &(dyn Payload + Send + Sync) {
        &*self.payload
    }

    /// Returns what [`priority`](Self::priority) has set.
    #[must_use]
    pub fn chosen_priority(&self) -> Priority {
        self.priority
    }

    /// Returns what [`key`](Self::key) has set.
    #[must_use]
    pub fn chosen_key(&self) -> Option<u64> {
        self.key
    }

    /// Returns what [`idempotent`](Self::idempotent) has set; `None` if the role decides.
    #[must_use]
    pub fn is_idempotent(&self) -> Option<bool> {
        self.is_idempotent
    }

    /// Returns what [`trace`](Self::trace) has set.
    #[must_use]
    pub fn trace_context(&self) -> Option<&TraceContext> {
        self.trace.as_ref()
    }

    /// Returns what [`must_not_wait`](Self::must_not_wait) has set.
    #[must_use]
    pub fn is_not_to_wait(&self) -> bool {
        self.must_not_wait
    }

    /// Returns what [`hops`](Self::hops) has set.
    #[must_use]
    pub fn hop_count(&self) -> u32 {
        self.hops
    }

    pub(crate) fn shared_payload(&self) -> SharedPayload {
        Arc::clone(&self.payload)
    }
}

impl fmt::Debug for BackendRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendRequest")
            .field("kind", &self.kind)
            .field("payload", &format_args!("{} bytes", self.payload.encoded_len()))
            .field("priority", &self.priority)
            .field("key", &self.key)
            .field("is_idempotent", &self.is_idempotent)
            .field("trace", &self.trace)
            .field("hops", &self.hops)
            .field("progress", &self.progress)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::error::{Error, ErrorKind};

    /// Encodes once, and cannot do it again.
    struct Once(std::sync::atomic::AtomicBool);

    impl Payload for Once {
        fn encoded_len(&self) -> usize {
            1
        }

        fn encode(&self, out: &mut [u8]) -> Result<()> {
            if self.0.swap(true, std::sync::atomic::Ordering::Relaxed) {
                return Err(Error::invalid_payload("again"));
            }
            [7].encode(out)
        }
    }

    #[test]
    fn a_payload_is_encoded_once_to_lie_in_memory() {
        let request = BackendRequest::new(Kind::EMBED, Once(false.into())).key(3);
        let progress = request.progress();
        let copy = request.clone();
        let request = request.in_memory().unwrap().in_memory().unwrap();
        assert_eq!(request.payload().as_parts(), Some([&[7][..], &[], &[]]));
        assert_eq!(request.chosen_key(), Some(3));
        request.progress().set(None);
        assert_eq!(progress.stage(), None, "it is the same request");
        let error = copy.in_memory().unwrap_err();
        assert_eq!((error.kind(), error.was_begun()), (ErrorKind::InvalidPayload, Some(false)));
    }
}
