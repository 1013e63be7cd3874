//! Which service a request is for.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::Service;
use tonic::Status;
use tracing::Instrument as _;

use super::body::Body;
use super::caller::Caller;
use super::connections::Seat;
use super::record::Record;
use super::upload::Upload;
use super::{calls, control, health};
use crate::wire::SERVICE;

type Answered = Pin<Box<dyn Future<Output = Response<tonic::body::Body>> + Send>>;
type Other = Box<dyn Fn(Request<Upload>) -> Answered + Send + Sync>;

/// The requests of one connection.
pub(super) struct Route {
    caller: Arc<Caller>,
    seat: Arc<Seat>,
}

impl Route {
    pub(super) fn new(caller: Arc<Caller>, seat: Arc<Seat>) -> Self {
        Self { caller, seat }
    }
}

impl Service<Request<Incoming>> for Route {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (caller, used) = (Arc::clone(&self.caller), self.seat.begin_use());
        let request = request.map(|body| Upload::new(body, &caller.shared.limits));
        Box::pin(async move {
            let response = answer(caller, request).await;
            Ok(response.map(|body| body.of_connection(used)))
        })
    }
}

async fn answer(caller: Arc<Caller>, request: Request<Upload>) -> Response<Body> {
    if request.method() != Method::POST {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("POST"));
        return response;
    }
    let kind = request.headers().get(header::CONTENT_TYPE);
    if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    let path = request.uri().path();
    let Some(method) = path.strip_prefix(SERVICE) else {
        if path.starts_with(HEALTH) {
            return health::answer(&caller.shared, request, LONGEST_OTHER).await.map(Body::other);
        }
        return match caller.shared.others.find(path) {
            Some(other) => other(request).await.map(Body::other),
            None => unknown(path),
        };
    };
    let answered = match method {
        "Call" => work(&caller, calls::Method::Call, request).await,
        "CallParts" => work(&caller, calls::Method::CallParts, request).await,
        "Stream" => work(&caller, calls::Method::Stream, request).await,
        "StreamParts" => work(&caller, calls::Method::StreamParts, request).await,
        "Watch" => control::watch(&caller, request).await,
        "Ping" => control::ping(&caller, request).await,
        "Abort" => control::abort(&caller, request).await,
        "ClearAbort" => control::clear_abort(&caller, request).await,
        _ => return unknown(path),
    };
    match answered {
        Ok(body) => {
            let mut response = Response::new(body);
            response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
            response
        }
        Err(error) => caller.shared.status_of(&error).into_http(),
    }
}

/// Answers a request to a worker.
async fn work(
    caller: &Arc<Caller>,
    method: calls::Method,
    request: Request<Upload>,
) -> slipring::Result<Body> {
    let record = Record::begin(&caller.shared, &request);
    let answered = calls::answer(caller, &record, method, request);
    let answered = answered.instrument(record.span.clone()).await;
    answered.inspect_err(|error| record.end_with(error))
}

/// The longest message of a request that is not for workers. A caller can leave many of them half sent.
const LONGEST_OTHER: usize = 4 << 10;

const HEALTH: &str = "/grpc.health.v1.Health/";
const GRPC: header::HeaderValue = header::HeaderValue::from_static("application/grpc");

fn unknown(path: &str) -> Response<Body> {
    Status::unimplemented(format!("there is no method {path}")).into_http()
}

/// The service for tools: reflection, in both versions.
pub(super) struct Others {
    services: [(&'static str, Option<Other>); 2],
}

impl Others {
    pub(super) fn new() -> Self {
        let descriptors = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(crate::proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let v1 = descriptors().build_v1().ok();
        let v1 = v1.map(|service| service.max_decoding_message_size(LONGEST_OTHER));
        let v1alpha = descriptors().build_v1alpha().ok();
        let v1alpha = v1alpha.map(|service| service.max_decoding_message_size(LONGEST_OTHER));
        Self {
            services: [
                ("/grpc.reflection.v1.ServerReflection/", v1.map(other)),
                ("/grpc.reflection.v1alpha.ServerReflection/", v1alpha.map(other)),
            ],
        }
    }

    fn find(&self, path: &str) -> Option<&Other> {
        let (_, service) = self.services.iter().find(|(prefix, _)| path.starts_with(prefix))?;
        service.as_ref()
    }
}

/// Has a service of tonic's answer requests.
fn other<S>(service: S) -> Other
where
    S: tonic::codegen::Service<
            Request<Upload>,
            Response = Response<tonic::body::Body>,
            Error = Infallible,
        >,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    Box::new(move |request| {
        let called = service.clone().call(request);
        Box::pin(async move { called.await.unwrap_or_else(|never| match never {}) })
    })
}

impl fmt::Debug for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Others").finish_non_exhaustive()
    }
}
