//! A web service whose work is done by a worker process. A client that leaves ends its request:
//! the server drops the future that handles it, and with it the request to the worker, which is
//! told and goes on with the next one.
//!
//!     cd examples/web_service && cargo run --release -- 127.0.0.1:8080
//!
//! | | |
//! |---|---|
//! | `POST /length` | the length of the text in the body |
//! | `POST /slow` | the same, after ten seconds |
//! | `GET /story` | a stream of tokens without an end |
//! | `GET /cancelled` | how many requests were cancelled |

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::TryStreamExt;
use slipring::tasks::AsyncChannel;
use slipring::worker::{Request, Worker, is_worker};
use slipring::{ErrorKind, Kind, Spawner};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const TIMEOUT: Duration = Duration::from_secs(30);
const LENGTH: Kind = Kind::named("length");
const SLOW_LENGTH: Kind = Kind::named("slow length");
const STORY: Kind = Kind::named("story");
const CANCELLED: Kind = Kind::named("cancelled");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if is_worker() {
        return Ok(serve_requests()?);
    }
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve_http(&address))
}

async fn serve_http(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let channel = AsyncChannel::spawn_on_tokio(Spawner::current_exe()?.role("web")).await?;
    let service = Router::new()
        .route("/length", post(length))
        .route("/slow", post(slow_length))
        .route("/story", get(story))
        .route("/cancelled", get(cancelled))
        // A channel is cheap to clone; all requests share one worker, which serves them in turn.
        .with_state(channel.clone());
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);

    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        terminate.recv().await;
    };
    axum::serve(listener, service).with_graceful_shutdown(stop).await?;
    println!("the worker {}", channel.close(TIMEOUT).await?);
    Ok(())
}

async fn length(State(channel): State<AsyncChannel>, text: String) -> Result<String, Failure> {
    call(&channel, LENGTH, &text).await
}

async fn slow_length(State(channel): State<AsyncChannel>, text: String) -> Result<String, Failure> {
    call(&channel, SLOW_LENGTH, &text).await
}

async fn cancelled(State(channel): State<AsyncChannel>) -> Result<String, Failure> {
    call(&channel, CANCELLED, "").await
}

/// If the client leaves, the server drops this future at its await, and that is all it takes.
async fn call(channel: &AsyncChannel, kind: Kind, text: &str) -> Result<String, Failure> {
    let reply = channel.call(kind, text, TIMEOUT).await?;
    Ok(String::from_utf8_lossy(&reply.to_vec()).into_owned())
}

/// Each chunk of the worker's becomes a chunk of the body. A client that reads slowly slows the
/// worker down; one that leaves ends the stream.
async fn story(State(channel): State<AsyncChannel>) -> Result<Body, Failure> {
    let tokens = channel.stream(STORY, "", TIMEOUT).await?;
    Ok(Body::from_stream(tokens.map_ok(|token| token.into_vec())))
}

/// An error of the channel, as a response.
struct Failure(slipring::Error);

impl From<slipring::Error> for Failure {
    fn from(error: slipring::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.0.kind() {
            ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            ErrorKind::TooManyInFlight => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::HandlerFailed => StatusCode::UNPROCESSABLE_ENTITY,
            // The worker is gone. A service that must go on would spawn another one.
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, format!("{}\n", self.0)).into_response()
    }
}

/// The worker. Its session counts the requests that were cancelled.
fn serve_requests() -> slipring::Result<()> {
    Worker::new(|_role| Ok(0_u32))
        .on(LENGTH, |_, request, responder| Ok(responder.send(&request.len().to_string())?))
        .on(SLOW_LENGTH, |cancelled, request, responder| {
            work(Duration::from_secs(10), request).inspect_err(|_| *cancelled += 1)?;
            Ok(responder.send(&request.len().to_string())?)
        })
        .on(STORY, |cancelled, request, responder| {
            let mut tokens = responder.stream();
            loop {
                let sent = work(Duration::from_millis(10), request)
                    .and_then(|()| tokens.send("and then "));
                sent.inspect_err(|_| *cancelled += 1)?;
            }
        })
        .on(CANCELLED, |cancelled, _, responder| Ok(responder.send(&cancelled.to_string())?))
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
