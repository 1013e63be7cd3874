//! Connections to gateways over TCP, for a remote role.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use slipring::backend::BackendRequest;
use slipring::{Error, Health, Reply, RequestId, Result, StreamTimeouts, WorkerState};

use super::address::Address;
use super::calls::Chunks;
use super::connection::Connection;
use super::control::Watching;
use super::wire::{Arriving, BoxArriving, Connect, Statuses, Wire};
use crate::proto::worker_report::Report;
use crate::proto::{self, GatewayStatus};
use crate::tls::{ClientTls, ExpectedName, Watched};
use crate::wire::Limits;
use crate::wire::report::from_proto;

/// How long a gateway may take to set an abort flag.
const LONGEST_ABORT: Duration = Duration::from_secs(5);

/// Makes connections by TCP.
pub(super) struct Connector {
    pub(super) limits: Limits,
    /// Plain text if it is none.
    pub(super) tls: Option<ClientTls>,
    /// The name of all gateways, if it is not that of their addresses.
    pub(super) server_name: Option<ExpectedName>,
    /// New connections use changed certificates.
    pub(super) _watched: Option<Watched>,
}

impl Connect for Connector {
    type Wire = Connection;

    async fn connect(&self, address: &Address) -> Result<Connection> {
        let (to, peer) = ((address.host(), address.port()), address.authority());
        let Some(tls) = &self.tls else {
            return Connection::open(to, peer, None, self.limits.clone()).await;
        };
        let name = self.server_name.clone().map_or_else(|| ExpectedName::new(address.name()), Ok);
        let name = name.map_err(|error| Error::disconnected(error.to_string(), Some(false)))?;
        Connection::open(to, peer, Some((tls, &name)), self.limits.clone()).await
    }
}

impl Wire for Connection {
    fn call(
        &self,
        role: &Arc<str>,
        request: BackendRequest,
        timeout: Duration,
    ) -> impl Future<Output = Result<Reply>> + Send + 'static {
        Self::call(self, role, request, timeout)
    }

    fn stream(
        &self,
        role: &Arc<str>,
        request: BackendRequest,
        timeouts: StreamTimeouts,
    ) -> impl Future<Output = Result<BoxArriving>> + Send + 'static {
        let opened = Self::stream(self, role, request, timeouts);
        async move {
            let chunks: BoxArriving = Box::pin(opened.await?);
            Ok(chunks)
        }
    }

    fn watch(&self) -> impl Future<Output = Result<impl Statuses>> + Send + 'static {
        let connection = self.clone();
        async move { Self::watch(&connection).await }
    }

    fn ping(
        &self,
        role: &Arc<str>,
        timeout: Duration,
    ) -> impl Future<Output = Result<Vec<Result<Health>>>> + Send + 'static {
        let (connection, role) = (self.clone(), Arc::clone(role));
        async move {
            let reply = Self::ping(&connection, &role, timeout).await?;
            Ok(reply.workers.into_iter().map(health).collect())
        }
    }

    fn set_abort(
        &self,
        role: &Arc<str>,
        is_set: bool,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let (connection, role) = (self.clone(), Arc::clone(role));
        async move {
            match is_set {
                true => connection.abort(&role, LONGEST_ABORT).await,
                false => connection.clear_abort(&role, LONGEST_ABORT).await,
            }
        }
    }

    fn peer(&self) -> &str {
        Self::peer(self)
    }

    fn is_open(&self) -> bool {
        !self.is_closed()
    }

    fn cut(&self) {
        self.close();
    }
}

impl Arriving for Chunks {
    fn take_arrived(mut self: Pin<&mut Self>) -> Option<Reply> {
        Self::take_arrived(&mut self)
    }
}

/// What a worker says of itself, or why it does not.
fn health(worker: proto::WorkerReport) -> Result<Health> {
    let of_worker = match worker.report {
        Some(Report::Health(health)) => health,
        Some(Report::Error(report)) => return Err(Error::from_report(from_proto(report))),
        None => proto::WorkerHealth::default(),
    };
    let state = match of_worker.state() {
        proto::WorkerState::Starting => WorkerState::Starting,
        proto::WorkerState::Idle => WorkerState::Idle,
        proto::WorkerState::Busy => WorkerState::Busy,
        proto::WorkerState::AwaitingCredit => WorkerState::AwaitingCredit,
        proto::WorkerState::Stopping => WorkerState::Stopping,
        proto::WorkerState::Unknown => WorkerState::Unknown,
    };
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let mut health = Health::new(state);
    health.current_request = of_worker.current_request.map(RequestId::from);
    health.busy_for = of_worker.busy_for_ns.map(Duration::from_nanos);
    health.progress = of_worker.progress;
    health.taken = count(of_worker.taken);
    health.begun = count(of_worker.begun);
    health.requests_served = of_worker.requests_served;
    health.bytes_received = of_worker.bytes_received;
    health.bytes_sent = of_worker.bytes_sent;
    health.last_error = of_worker.last_error;
    Ok(health)
}

impl Statuses for Watching {
    async fn next(&mut self) -> Option<Result<GatewayStatus>> {
        Self::next(self).await.transpose()
    }
}
