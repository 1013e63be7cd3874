//! What is asked of a gateway beside requests to workers.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use slipring::{Health, Result, WorkerState};

use super::body::Body;
use super::caller::Caller;
use super::request::{Deadline, one};
use super::upload::Upload;
use super::watch::Watch;
use crate::proto;
use crate::wire::error::report_of;

/// How long a worker has for its report, if the caller does not say.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn watch(caller: &Caller, request: Request<Upload>) -> Result<Body> {
    let deadline = Deadline::of(request.headers(), Duration::MAX)?;
    let proto::WatchRequest {} = one(request, caller, deadline).await?;
    Ok(Body::watch(Watch::new(Arc::clone(&caller.shared))))
}

pub(super) async fn ping(caller: &Caller, request: Request<Upload>) -> Result<Body> {
    let deadline = Deadline::of(request.headers(), PING_TIMEOUT)?;
    let proto::PingRequest { role } = one(request, caller, deadline).await?;
    let reports = caller.shared.role(&role)?.ping(deadline.left()).await;
    let workers = reports.into_iter().map(|report| {
        use proto::worker_report::Report;
        let report = match report {
            Ok(health) => Report::Health(health_of(&health)),
            Err(error) => Report::Error(report_of(&error, &caller.shared.host)),
        };
        proto::WorkerReport { report: Some(report) }
    });
    Ok(Body::message(&proto::PingReply { workers: workers.collect() }))
}

pub(super) async fn abort(caller: &Caller, request: Request<Upload>) -> Result<Body> {
    let deadline = Deadline::of(request.headers(), PING_TIMEOUT)?;
    let proto::AbortRequest { role } = one(request, caller, deadline).await?;
    caller.shared.role(&role)?.abort();
    Ok(Body::message(&proto::AbortReply {}))
}

pub(super) async fn clear_abort(caller: &Caller, request: Request<Upload>) -> Result<Body> {
    let deadline = Deadline::of(request.headers(), PING_TIMEOUT)?;
    let proto::ClearAbortRequest { role } = one(request, caller, deadline).await?;
    caller.shared.role(&role)?.clear_abort();
    Ok(Body::message(&proto::ClearAbortReply {}))
}

fn health_of(health: &Health) -> proto::WorkerHealth {
    let as_u64 = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    proto::WorkerHealth {
        state: match health.state {
            WorkerState::Starting => proto::WorkerState::Starting,
            WorkerState::Idle => proto::WorkerState::Idle,
            WorkerState::Busy => proto::WorkerState::Busy,
            WorkerState::AwaitingCredit => proto::WorkerState::AwaitingCredit,
            WorkerState::Stopping => proto::WorkerState::Stopping,
            _ => proto::WorkerState::Unknown,
        }
        .into(),
        current_request: health.current_request.map(slipring::RequestId::get),
        busy_for_ns: health.busy_for.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
        progress: health.progress,
        taken: as_u64(health.taken),
        begun: as_u64(health.begun),
        requests_served: health.requests_served,
        bytes_received: health.bytes_received,
        bytes_sent: health.bytes_sent,
        last_error: health.last_error.clone(),
    }
}
