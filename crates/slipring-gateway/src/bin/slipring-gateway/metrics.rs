//! The page of metrics: OpenMetrics text over HTTP/1, for a collector such as Prometheus.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use slipring::pool::Pool;
use slipring_gateway::server::Gateway;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// How many are answered at the same time; more wait.
const CONNECTIONS: usize = 8;
/// How long one may take, from its first byte to the last one of the answer.
const LONGEST: Duration = Duration::from_secs(10);

/// The metrics of the gateway and of the pool behind it.
pub(crate) fn registry(gateway: &Gateway, pool: &Pool) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(gateway.collector()));
    registry.register_collector(Box::new(pool.collector()));
    registry
}

/// Serves the page, until the program ends. Each connection has one answer.
pub(crate) async fn serve(listener: TcpListener, registry: Registry) {
    let (registry, places) = (Arc::new(registry), Arc::new(Semaphore::new(CONNECTIONS)));
    loop {
        // It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let registry = Arc::clone(&registry);
                tokio::spawn(async move {
                    // The other side is gone, or too slow.
                    let _ = timeout(LONGEST, answer(stream, &registry)).await;
                    drop(place);
                });
            }
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn answer(stream: TcpStream, registry: &Registry) -> hyper::Result<()> {
    let page = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(page(&request, registry))
    });
    let mut builder = Builder::new();
    // Less than this it does not take.
    builder.keep_alive(false).max_buf_size(8 << 10);
    builder.serve_connection(TokioIo::new(stream), page).await
}

fn page(request: &Request<Incoming>, registry: &Registry) -> Response<String> {
    let mut response = Response::new(String::new());
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            let mut text = String::new();
            match encode(&mut text, registry) {
                Ok(()) => (StatusCode::OK, text),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            }
        }
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
        _ => (StatusCode::NOT_FOUND, "the metrics are at /metrics\n".to_owned()),
    };
    if status == StatusCode::OK {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        let kind = hyper::header::HeaderValue::from_static(kind);
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    *response.status_mut() = status;
    *response.body_mut() = text;
    response
}

/// Takes an address, or a port of the loopback interface.
pub(crate) fn address(text: &str) -> Option<SocketAddr> {
    let of_port = |port| SocketAddr::from(([127, 0, 0, 1], port));
    text.parse().map(of_port).or_else(|_| text.parse()).ok()
}
