//! The attempts of one request.
//!
//! Each attempt is one sending to one gateway, which executes the request at most once. Another
//! attempt follows if nothing of the one before was begun, or if the request may be served twice.

use std::sync::Arc;
use std::time::Duration;

use slipring::backend::BackendRequest;
use slipring::{Error, ErrorKind, Reply, RequestStage, Result, StreamTimeout, StreamTimeouts};
use tokio::time::{Instant, timeout_at};
use tracing::Instrument as _;

use super::errors::{self, History};
use super::fleet::{Ending, GatewayId};
use super::retry::{Fate, ending, fate};
use super::role::Role;
use super::shared::{Permit, Picked};
use super::wire::{BoxArriving, Connect, Wire as _};
use crate::trace::span_of_attempt;

/// How often a request may have come from one machine to another that is sent to one more. Gateways that
/// have no workers of their own, and send to each other, would never end.
pub(super) const MOST_HOPS: u32 = 8;

/// The pauses of a request that all gateways have refused.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The attempts of one request, from its admission to its end.
pub(super) struct Attempts<C: Connect> {
    role: Arc<Role<C>>,
    request: BackendRequest,
    is_idempotent: bool,
    history: History,
    /// The gateways that have refused it since anything has changed.
    tried: Vec<GatewayId>,
    /// Why the last of them did.
    refusal: Option<Error>,
    pause: Duration,
}

impl<C: Connect> Attempts<C> {
    pub(super) fn begin(role: Arc<Role<C>>, mut request: BackendRequest) -> Result<Self> {
        if request.hop_count() >= MOST_HOPS {
            return Err(errors::passed_round(&role.shared.role, request.hop_count()));
        }
        if !role.shared.admit() {
            return Err(errors::closed(&role.shared.role, role.shared.stage()));
        }
        let by_kind = role.idempotent.contains(&request.kind());
        let is_idempotent = request.is_idempotent().unwrap_or(by_kind);
        if by_kind && request.is_idempotent().is_none() {
            // The gateway's pool is to know, too.
            request = request.idempotent(true);
        }
        Ok(Self {
            role,
            request,
            is_idempotent,
            history: History::default(),
            tried: Vec::new(),
            refusal: None,
            pause: FIRST_PAUSE,
        })
    }

    /// Sends it until it is answered, or over otherwise.
    pub(super) async fn call(mut self, timeout: Duration) -> Result<Reply> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let mut permit = self.acquire(deadline).await?;
            let left = left_until(deadline);
            let request = self.traced(&mut permit);
            let sent = permit.wire.call(&self.role.shared.role, request, left);
            match sent.instrument(permit.span.clone()).await {
                Ok(reply) => {
                    permit.end(Ending::Answered);
                    return Ok(reply);
                }
                Err(error) => self.failed(permit, error, false)?,
            }
        }
    }

    /// Sends it until its chunks come.
    pub(super) async fn open(
        mut self,
        mut limits: StreamLimits,
    ) -> Result<(Self, StreamLimits, Permit<C>, BoxArriving)> {
        loop {
            let queued = self.acquire(limits.waits_until()).await;
            let mut permit = queued.map_err(|error| errors::of_stream(error, limits.first()))?;
            let request = self.traced(&mut permit);
            let sent = permit.wire.stream(&self.role.shared.role, request, limits.left());
            match sent.instrument(permit.span.clone()).await {
                Ok(chunks) => return Ok((self, limits, permit, chunks)),
                Err(error) => self.failed(permit, error, false)?,
            }
            limits.note_attempt(self.request.progress().stage());
        }
    }

    /// Begins the span of an attempt. Returns the request with the trace that the gateway is told of.
    fn traced(&self, permit: &mut Permit<C>) -> BackendRequest {
        permit.span = span_of_attempt(&self.role.shared.role, permit.wire.peer());
        let trace = self.role.joined.join(&permit.span, self.request.trace_context());
        trace.into_iter().fold(self.request.clone(), BackendRequest::trace)
    }

    pub(super) fn request(&self) -> &BackendRequest {
        &self.request
    }

    /// Gets a gateway: waits for one until the deadline.
    async fn acquire(&mut self, deadline: Option<Instant>) -> Result<Permit<C>> {
        if let Picked::Has(permit) = self.pick() {
            return Ok(permit);
        }
        let role = Arc::clone(&self.role);
        loop {
            let _counted = role.shared.wait();
            let changed = role.shared.changed();
            tokio::pin!(changed);
            // Before it looks again, so that no change is missed.
            changed.as_mut().enable();
            let (until, are_all_tried) = match self.pick() {
                Picked::Has(permit) => return Ok(permit),
                Picked::Closed => {
                    let closed = errors::closed(&role.shared.role, role.shared.stage());
                    return Err(self.history.complete(closed, None));
                }
                Picked::Waits { until, are_all_tried } => (until, are_all_tried),
            };
            let mut wake = until;
            if are_all_tried {
                if let Some(full) = self.refusal.take_if(|error| is_full(error)) {
                    return Err(self.history.complete(full, None));
                }
                wake = earlier(wake, Instant::now().checked_add(self.pause));
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
            let is_late = deadline.is_some_and(|deadline| deadline <= Instant::now());
            // A worker of the caller's own may be free while no gateway can be reached.
            if is_late || (self.request.is_not_to_wait() && !are_all_tried) {
                return Err(self.waited_too_long());
            }
            match earlier(wake, deadline) {
                Some(wake) => drop(timeout_at(wake, changed).await),
                None => changed.await,
            }
            self.tried.clear();
        }
    }

    fn pick(&self) -> Picked<C> {
        // One that has come from another machine gets nearer to its workers with each, and does not go round.
        let only_nearest = self.request.hop_count() > 0;
        self.role.shared.pick(self.request.chosen_key(), only_nearest, &self.tried)
    }

    #[cold]
    fn waited_too_long(&mut self) -> Error {
        let role = &self.role.shared.role;
        let (is_connected, problem) = self.role.shared.reachability();
        let error = match (is_connected, problem) {
            (true, problem) => errors::waited_too_long(role, self.refusal.as_ref(), problem),
            (false, problem) => errors::not_connected(role, problem),
        };
        self.history.complete(error, None)
    }

    /// An attempt has failed. Returns the error if no other follows.
    #[cold]
    pub(super) fn failed(
        &mut self,
        permit: Permit<C>,
        error: Error,
        has_delivered: bool,
    ) -> Result<()> {
        let (kind, was_begun) = (error.kind(), error.was_begun());
        let gateway = permit.gateway();
        let is_open = permit.wire.is_open();
        permit.end(ending(kind, is_open));
        let stage = self.role.shared.stage();
        if stage.is_over() && kind == ErrorKind::Disconnected {
            let error = errors::cut_by_close(&self.role.shared.role, stage, &error);
            return Err(self.history.complete(error, None));
        }
        if was_begun != Some(false) {
            self.history.note_begun(&error);
        }
        let refused = match fate(kind, was_begun) {
            Fate::Over => return Err(self.history.complete(error, None)),
            Fate::Elsewhere if !has_delivered => {
                self.history.note_not_begun(&error);
                self.role.shared.note_refusal(gateway);
                self.tried.push(gateway);
                self.refusal = Some(error);
                return Ok(());
            }
            _ if has_delivered => Err("a part of it was delivered"),
            _ if !self.is_idempotent => {
                Err("it may have been begun, and is not declared idempotent")
            }
            _ => self.role.shared.take_retry(self.history.begun),
        };
        match refused {
            Ok(()) => {
                self.history.push(&error);
                self.tried.push(gateway);
                self.refusal = Some(error);
                Ok(())
            }
            Err(why) => {
                let note = format!("it is not sent again: {why}");
                Err(self.history.complete(error, Some(&note)))
            }
        }
    }
}

impl<C: Connect> Drop for Attempts<C> {
    fn drop(&mut self) {
        self.role.shared.note_over();
    }
}

/// Whether a gateway refuses the request since it has too many already: waiting makes that worse.
fn is_full(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Overloaded | ErrorKind::TooManyInFlight)
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

fn left_until(deadline: Option<Instant>) -> Duration {
    let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
    deadline.map_or(Duration::MAX, left)
}

/// The timeouts of a stream over all its attempts.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamLimits {
    timeouts: StreamTimeouts,
    queue: Option<Instant>,
    total: Option<Instant>,
}

impl StreamLimits {
    pub(super) fn begin(timeouts: StreamTimeouts) -> Self {
        let now = Instant::now();
        let queue = now.checked_add(timeouts.queue_timeout());
        Self { timeouts, queue, total: now.checked_add(timeouts.total_timeout()) }
    }

    /// Until when it may wait for a gateway.
    fn waits_until(&self) -> Option<Instant> {
        earlier(self.queue, self.total)
    }

    /// Which timeout passes first.
    fn first(&self) -> StreamTimeout {
        match self.total.is_some_and(|total| self.queue.is_none_or(|queue| total < queue)) {
            true => StreamTimeout::Total,
            false => StreamTimeout::Queue,
        }
    }

    /// What is left of them for an attempt.
    fn left(&self) -> StreamTimeouts {
        self.timeouts.queue(left_until(self.queue)).total(left_until(self.total))
    }

    /// Another attempt follows. That of a request that was begun has its whole time to be begun again.
    pub(super) fn note_attempt(&mut self, stage: Option<RequestStage>) {
        if stage == Some(RequestStage::Begun) {
            self.queue = Instant::now().checked_add(self.timeouts.queue_timeout());
        }
    }
}
