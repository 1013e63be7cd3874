//! A web service whose work is done by a pool of worker processes. A worker that crashes is
//! replaced, and requests that are safe to be served twice are sent again. A client that leaves ends
//! its request: the server drops the future that handles it, and with it the request to the worker,
//! which is told and goes on with the next one.
//!
//!     cd examples/web_service && cargo run --release -- 127.0.0.1:8080
//!
//! | | |
//! |---|---|
//! | `POST /length` | the length of the text in the body |
//! | `POST /slow` | the same, after ten seconds |
//! | `GET /story` | a stream of tokens, for up to five minutes |
//! | `GET /crash` | crashes the worker that gets it |
//! | `GET /health` | whether the pool can serve, and its workers |
//! | `GET /metrics` | the pool's metrics, in the format of OpenMetrics |

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::TryStreamExt;
use prometheus_client::registry::Registry;
use slipring::pool::{AsyncRoleHandle, Pool, Role};
use slipring::worker::{Request, Worker, is_worker};
use slipring::{ErrorKind, Kind, Spawner, StreamTimeouts};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const TIMEOUT: Duration = Duration::from_secs(30);
const LONGEST_STORY: Duration = Duration::from_secs(300);
/// How long clients may take that are being served when the service is told to end, and then requests
/// of those that have not left.
const GRACE: Duration = Duration::from_secs(3);
const LENGTH: Kind = Kind::named("length");
const SLOW_LENGTH: Kind = Kind::named("slow length");
const STORY: Kind = Kind::named("story");
const CRASH: Kind = Kind::named("crash");

/// What handlers share. All of it is cheap to clone.
#[derive(Clone)]
struct Service {
    pool: Arc<Pool>,
    texts: AsyncRoleHandle,
    registry: Arc<Registry>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if is_worker() {
        return Ok(serve_requests()?);
    }
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve_http(&address))
}

fn pool() -> slipring::Result<Pool> {
    let texts = Role::new(|slot| Ok(Spawner::current_exe()?.role(slot.role.as_str())))
        .max_size(2)
        .max_waiting(100)
        // Both only compute: it does no harm to serve them twice.
        .idempotent(LENGTH)
        .idempotent(SLOW_LENGTH)
        // What `/metrics` calls them.
        .kind_name(LENGTH, "length")
        .kind_name(SLOW_LENGTH, "slow_length")
        .kind_name(STORY, "story")
        .kind_name(CRASH, "crash");
    Pool::builder().role("texts", texts).build()
}

async fn serve_http(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let pool = Arc::new(pool()?);
    let texts = pool.role("texts")?.to_async();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(pool.collector()));
    let service = Router::new()
        .route("/length", post(length))
        .route("/slow", post(slow_length))
        .route("/story", get(story))
        .route("/crash", get(crash))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .with_state(Service { pool: Arc::clone(&pool), texts, registry: Arc::new(registry) });
    let listener = TcpListener::bind(address).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    println!("listening on {}", listener.local_addr()?);

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = axum::serve(listener, service).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let mut server = tokio::spawn(server.into_future());
    tokio::select! {
        ended = &mut server => ended??,
        _ = terminate.recv() => {
            let _ = stop.send(());
            // A client that reads a story would hold the service for as long as that lasts.
            if tokio::time::timeout(GRACE, &mut server).await.is_err() {
                server.abort();
            }
        }
    }
    pool.close_async(GRACE).await?;
    println!("all workers have ended");
    Ok(())
}

async fn length(State(service): State<Service>, text: String) -> Result<String, Failure> {
    call(&service, LENGTH, &text).await
}

async fn slow_length(State(service): State<Service>, text: String) -> Result<String, Failure> {
    call(&service, SLOW_LENGTH, &text).await
}

async fn crash(State(service): State<Service>) -> Result<String, Failure> {
    call(&service, CRASH, "").await
}

/// If the client leaves, the server drops this future at its await, and that is all it takes.
async fn call(service: &Service, kind: Kind, text: &str) -> Result<String, Failure> {
    let reply = service.texts.call(kind, text, TIMEOUT).await?;
    Ok(String::from_utf8_lossy(&reply.to_vec()).into_owned())
}

/// Each chunk of the worker's becomes a chunk of the body. A client that reads slowly slows the
/// worker down; one that leaves ends the stream.
async fn story(State(service): State<Service>) -> Result<Body, Failure> {
    let timeouts = StreamTimeouts::new().chunk(TIMEOUT).queue(TIMEOUT).total(LONGEST_STORY);
    let tokens = service.texts.stream(STORY, "", timeouts).await?;
    Ok(Body::from_stream(tokens.map_ok(|token| token.into_vec())))
}

/// For a load balancer: 503 while nothing can be served.
async fn health(State(service): State<Service>) -> (StatusCode, String) {
    let health = service.pool.health();
    let status = if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{health:#?}\n"))
}

async fn metrics(State(service): State<Service>) -> Result<Response, StatusCode> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &service.registry)
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// An error of the pool, as a response.
struct Failure(slipring::Error);

impl From<slipring::Error> for Failure {
    fn from(error: slipring::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.0.kind() {
            // Too many requests wait already.
            ErrorKind::Overloaded | ErrorKind::TooManyInFlight => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::Timeout | ErrorKind::QueueTimeout => StatusCode::GATEWAY_TIMEOUT,
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            // The request is at fault: its handler refused it, or it has killed workers.
            ErrorKind::HandlerFailed | ErrorKind::Poison => StatusCode::UNPROCESSABLE_ENTITY,
            // Its worker died, or its host is gone, and it was not safe to send it again.
            ErrorKind::PeerDied | ErrorKind::Disconnected => StatusCode::BAD_GATEWAY,
            // Workers cannot start, or the service is ending.
            ErrorKind::Degraded | ErrorKind::Closed => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut headers = HeaderMap::new();
        if let Some(overload) = self.0.overload() {
            let seconds = overload.retry_after.as_secs_f64().ceil() as u64;
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        (status, headers, format!("{}\n", self.0)).into_response()
    }
}

/// The worker.
fn serve_requests() -> slipring::Result<()> {
    Worker::new(|_role| Ok(()))
        .on(LENGTH, |(), request, responder| Ok(responder.send(&request.len().to_string())?))
        .on(SLOW_LENGTH, |(), request, responder| {
            work(Duration::from_secs(10), request)?;
            Ok(responder.send(&request.len().to_string())?)
        })
        .on(STORY, |(), request, responder| {
            let mut tokens = responder.stream();
            loop {
                work(Duration::from_millis(10), request)?;
                tokens.send("and then ")?;
            }
        })
        .on(CRASH, |(), _, _| std::process::abort())
        .serve()
}

/// Stands for a computation, which looks now and then whether it is still wanted.
fn work(time: Duration, request: &Request<'_>) -> slipring::Result<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        request.check_cancelled()?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
