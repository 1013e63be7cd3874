//! The page of metrics: OpenMetrics text over HTTP/1, for a collector such as Prometheus.

use std::collections::VecDeque;
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
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

/// How many are answered at the same time. One more takes the place of the oldest, which may be one
/// that says nothing.
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
    let registry = Arc::new(registry);
    let mut answers = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if answers.len() == CONNECTIONS
                    && let Some(oldest) = answers.pop_front()
                {
                    AbortHandle::abort(&oldest);
                }
                let registry = Arc::clone(&registry);
                let answer = tokio::spawn(async move {
                    // The other side is gone, or too slow.
                    let _ = timeout(LONGEST, answer(stream, &registry)).await;
                });
                answers.push_back(answer.abort_handle());
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn connections_that_say_nothing_do_not_keep_a_collector_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Registry::default()));
        let mut silent = Vec::new();
        for _ in 0..2 * CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let began = Instant::now();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // Until then the silent ones may stay.
        assert!(began.elapsed() < LONGEST);
    }
}
