//! The service `grpc.health.v1.Health`: whether requests are taken. Probes of orchestrators ask for it, and
//! balancers of callers in other languages.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Request;
use tonic::codegen::Service as _;
use tonic::{Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::upload::Upload;
use super::{Shared, Stage};

/// The service of workers, as a caller names it here.
const WORKERS: &str = "slipring.v1.Workers";
/// How often it is looked whether something has changed, for those that watch.
const LOOK: Duration = Duration::from_secs(1);

pub(super) async fn answer(
    shared: &Arc<Shared>,
    request: Request<Upload>,
    longest: usize,
) -> http::Response<tonic::body::Body> {
    let asked = Asked(Arc::clone(shared));
    let mut server = HealthServer::new(asked).max_decoding_message_size(longest);
    server.call(request).await.unwrap_or_else(|never| match never {})
}

impl Shared {
    /// `None` if nothing here has this name.
    fn serving(&self, name: &str) -> Option<ServingStatus> {
        let takes_requests = match name {
            // The program.
            "" => true,
            WORKERS => self.roles.values().any(|backend| backend.load().is_ready),
            role => self.roles.get(role)?.load().is_ready,
        };
        Some(match takes_requests && !self.is_draining() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        })
    }
}

/// The service, for one request.
struct Asked(Arc<Shared>);

#[tonic::async_trait]
impl Health for Asked {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = self.0.serving(&request.get_ref().service).ok_or_else(unknown)?;
        Ok(Response::new(message(status)))
    }

    type WatchStream = Changes;

    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<Response<Changes>, Status> {
        let (shared, name) = (Arc::clone(&self.0), request.into_inner().service);
        shared.serving(&name).ok_or_else(unknown)?;
        Ok(Response::new(Changes(Box::pin(Teller { shared, name, told: None }.next()))))
    }
}

fn unknown() -> Status {
    Status::not_found("there is no service and no role of this name")
}

fn message(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

type Next = Pin<Box<dyn Future<Output = Option<(Teller, ServingStatus)>> + Send>>;

/// What one caller of `Watch` is told. It ends with the gateway.
struct Changes(Next);

impl futures_core::Stream for Changes {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(self.0.as_mut().poll(context));
        Poll::Ready(next.map(|(teller, status)| {
            self.0 = Box::pin(teller.next());
            Ok(message(status))
        }))
    }
}

struct Teller {
    shared: Arc<Shared>,
    name: String,
    told: Option<ServingStatus>,
}

impl Teller {
    /// Waits until there is something to tell; `None` once the gateway is over.
    async fn next(mut self) -> Option<(Self, ServingStatus)> {
        let shared = Arc::clone(&self.shared);
        loop {
            let stirred = shared.stirred.notified();
            tokio::pin!(stirred);
            // Before it looks, so that no change is missed.
            stirred.as_mut().enable();
            let status = shared.serving(&self.name)?;
            if self.told != Some(status) {
                self.told = Some(status);
                return Some((self, status));
            }
            if *shared.stage.borrow() == Stage::Over {
                return None;
            }
            tokio::select! {
                () = stirred => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}
