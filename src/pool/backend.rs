//! A role of a pool as a backend.

use std::future::ready;
use std::time::Duration;

use super::async_handle::{AsyncPoolRequest, AsyncRoleHandle};
use super::async_stream::AsyncPoolStream;
use crate::backend::{Backend, BackendLoad, BackendRequest, BoxBatchChunks, BoxChunks, BoxFuture};
use crate::channel::{Reply, StreamTimeouts};
use crate::error::Result;
use crate::protocol::Health;

/// The workers of this machine. [`Backend::close`] closes the role in its pool, for all handles.
impl Backend for AsyncRoleHandle {
    fn role(&self) -> &str {
        self.name()
    }

    fn load(&self) -> BackendLoad {
        load_of(self, <dyn Backend>::load)
    }

    fn load_for_hosts(&self) -> BackendLoad {
        load_of(self, <dyn Backend>::load_for_hosts)
    }

    fn load_changed(&self) -> BoxFuture<'static, ()> {
        match self.others_alone() {
            Some(others) => others.backend().load_changed(),
            None => Box::pin(self.room()),
        }
    }

    fn call(
        &self,
        request: BackendRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Reply>> {
        let role = self.clone();
        Box::pin(async move {
            let (asked, hops) = (asked(&role, &request), request.hop_count());
            asked.call_observed(hops, request.payload(), timeout, request.progress()).await
        })
    }

    fn submit(
        &self,
        request: BackendRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Reply>> {
        let (payload, progress) = (request.shared_payload(), request.progress());
        let (asked, hops) = (asked(self, &request), request.hop_count());
        match asked.submit_observed(hops, payload, timeout, progress) {
            Ok(pending) => Box::pin(pending),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }

    fn stream(
        &self,
        request: BackendRequest,
        timeouts: StreamTimeouts,
    ) -> BoxFuture<'static, Result<BoxChunks>> {
        let stream = stream(self.clone(), request, timeouts);
        Box::pin(async { Ok::<BoxChunks, _>(Box::pin(stream.await?)) })
    }

    fn stream_in_batches(
        &self,
        request: BackendRequest,
        timeouts: StreamTimeouts,
    ) -> BoxFuture<'static, Result<BoxBatchChunks>> {
        let stream = stream(self.clone(), request, timeouts);
        Box::pin(async { Ok::<BoxBatchChunks, _>(Box::pin(stream.await?)) })
    }

    fn block(&self, wait: &mut dyn FnMut()) -> Result<()> {
        match self.overflow() {
            Some(others) => others.backend().block(wait),
            None => {
                wait();
                Ok(())
            }
        }
    }

    fn ping(&self, timeout: Duration) -> BoxFuture<'static, Vec<Result<Health>>> {
        let role = self.clone();
        Box::pin(async move { Self::ping(&role, timeout).await })
    }

    fn abort(&self) {
        Self::abort(self);
    }

    fn clear_abort(&self) {
        Self::clear_abort(self);
    }

    fn close(&self, timeout: Duration) -> BoxFuture<'static, Result<()>> {
        let role = self.clone();
        Box::pin(async move { role.close_role(timeout).await })
    }
}

async fn stream(
    role: AsyncRoleHandle,
    request: BackendRequest,
    timeouts: StreamTimeouts,
) -> Result<AsyncPoolStream> {
    let (payload, progress) = (request.shared_payload(), request.progress());
    let (asked, hops) = (asked(&role, &request), request.hop_count());
    asked.stream_observed(hops, payload, timeouts, progress).await
}

/// The load of a role, or that of others if it has no workers of its own.
fn load_of(role: &AsyncRoleHandle, of_others: impl Fn(&dyn Backend) -> BackendLoad) -> BackendLoad {
    let load = role.load();
    let (is_ready, is_draining) = (load.is_ready, load.is_draining);
    if let Some(others) = role.others_alone() {
        let theirs = of_others(others.backend());
        let (is_ready, is_draining) =
            (is_ready && theirs.is_ready, is_draining || theirs.is_draining);
        return BackendLoad { is_ready, is_draining, ..theirs };
    }
    let (places, in_flight, queued) = (load.places, load.in_flight, load.queued);
    BackendLoad { places, in_flight, queued, is_ready, is_draining, hops: 0 }
}

/// The request as the pool takes it.
fn asked<'a>(role: &'a AsyncRoleHandle, request: &'a BackendRequest) -> AsyncPoolRequest<'a> {
    let mut asked = role.request(request.kind()).priority(request.chosen_priority());
    if let Some(key) = request.chosen_key() {
        asked = asked.key(key);
    }
    if let Some(trace) = request.trace_context() {
        asked = asked.trace(trace);
    }
    if let Some(is_idempotent) = request.is_idempotent() {
        asked = asked.idempotent(is_idempotent);
    }
    asked
}
