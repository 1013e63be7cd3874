//! Takes connections, and serves each by a task of its own.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch::Receiver;
use tokio::time::{sleep, timeout};

use super::caller::Caller;
use super::connections::{Peer, Seat};
use super::preface::greet;
use super::route::Route;
use super::{Shared, Stage};
use crate::tls::{ServerTls, read_ahead};
use crate::wire::pacing::Paced;
use crate::wire::presence::{Watch, Watched};
use crate::wire::{Limits, MAX_FRAME};

/// How long a connection may take to close when the gateway is over.
const LONGEST_END: Duration = Duration::from_secs(1);

/// Longer than any connection waits for an answer.
const NEVER: Duration = Duration::from_secs(1 << 24);

/// How often a connection may break the rules of HTTP/2 in a way that ends one stream only.
const BROKEN_STREAMS: usize = 1024;

/// How many requests may be cancelled before the gateway has looked at them. A caller can cancel all
/// that it has at once, and those that take their places: that must not end the connection. One that
/// goes on and on is closed.
fn cancelled_unseen(limits: &Limits) -> usize {
    usize::try_from(limits.max_streams.saturating_mul(2)).unwrap_or(usize::MAX)
}

pub(super) async fn run(
    shared: &Arc<Shared>,
    listener: TcpListener,
    tls: Option<ServerTls>,
) -> io::Result<()> {
    let mut stage = shared.stage();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    shared.counters.connections.add(1);
                    let seat = shared.connections.begin(Peer::of(peer.ip()));
                    let tls = tls.clone();
                    tasks.spawn(connection(Arc::clone(shared), stream, peer, seat, tls));
                }
                Err(error) if is_of_listener(&error) => return Err(error),
                // The connection is gone already, or there is no descriptor for it.
                Err(error) => {
                    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
                        shared.connections.descriptors_ran_out();
                    }
                    sleep(Duration::from_millis(10)).await;
                }
            },
            Some(_) = tasks.join_next() => {}
            () = over(&mut stage) => break,
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn over(stage: &mut Receiver<Stage>) {
    // The gateway has the sender as long as this task.
    let _ = stage.wait_for(|stage| *stage == Stage::Over).await;
}

/// Whether the listener itself cannot be used.
fn is_of_listener(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotConnected)
}

/// Whether the other side did not answer to the question whether it is there.
fn is_silence(error: &hyper::Error) -> bool {
    let mut causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.any(|cause| {
        let of_http2 = cause.downcast_ref::<h2::Error>().and_then(h2::Error::get_io);
        let cause = of_http2.or(cause.downcast_ref::<io::Error>());
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
    })
}

async fn connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    seat: Seat,
    tls: Option<ServerTls>,
) {
    // It is an improvement, and not needed.
    let _ = stream.set_nodelay(true);
    let stream = Watched::tcp(stream, &shared.limits);
    let watch = stream.watch();
    match tls {
        None => greeted(shared, seat, watch, greet(stream)).await,
        Some(tls) => {
            let stream =
                Paced::tls_caller(read_ahead(stream), &shared.limits, &watch, noted(&shared));
            let secured = async {
                let accepted = tls.accept(stream).await.inspect_err(|error| {
                    tracing::debug!(target: "slipring", %peer, %error, "a connection is refused");
                });
                greet(accepted.map_err(io::Error::other)?).await
            };
            greeted(shared, seat, watch, secured).await;
        }
    }
}

/// Serves a connection whose handshake is to be made.
async fn greeted<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    shared: Arc<Shared>,
    seat: Seat,
    watch: Watch,
    handshake: impl Future<Output = io::Result<T>>,
) {
    let longest = shared.connections.handshake_timeout();
    let greeted = tokio::select! {
        greeted = timeout(longest, handshake) => greeted.ok().and_then(Result::ok),
        () = seat.evicted() => None,
    };
    let Some(io) = greeted else {
        shared.counters.failed_handshakes.add(1);
        return;
    };
    match shared.connections.establish(&seat) {
        true => {
            watch.begin();
            serve(shared, seat, watch, io).await;
        }
        false => shared.counters.refused_connections.add(1),
    }
}

/// Counts a connection that is slowed down.
fn noted(shared: &Arc<Shared>) -> impl FnOnce() + Send + use<> {
    let shared = Arc::clone(shared);
    move || shared.counters.paced_connections.add(1)
}

pub(super) async fn serve<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    shared: Arc<Shared>,
    seat: Seat,
    watch: Watch,
    io: T,
) {
    let seat = Arc::new(seat);
    let limits = &shared.limits;
    let io = Paced::caller(io, limits, &watch, noted(&shared));
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .initial_stream_window_size(limits.window)
        .initial_connection_window_size(limits.connection_window())
        .max_concurrent_streams(limits.max_streams)
        .max_pending_accept_reset_streams(cancelled_unseen(limits))
        .max_local_error_reset_streams(BROKEN_STREAMS)
        .max_header_list_size(limits.max_headers)
        .max_frame_size(MAX_FRAME)
        .max_send_buf_size(usize::try_from(limits.window).unwrap_or(usize::MAX))
        .keep_alive_interval(limits.keep_alive_interval)
        // It only asks: the stream itself knows better whether an answer is late.
        .keep_alive_timeout(NEVER);
    let caller = Arc::new(Caller::new(&shared, &seat));
    let route = Route::new(Arc::clone(&caller), Arc::clone(&seat));
    let mut served = pin!(builder.serve_connection(TokioIo::new(io), route));
    let mut stage = shared.stage();
    tokio::select! {
        ended = &mut served => {
            if ended.is_err_and(|error| is_silence(&error)) {
                shared.counters.silent_connections.add(1);
            }
            return;
        }
        () = seat.evicted() => return,
        never = caller.answers.watch(limits.unread_timeout) => match never {},
        () = over(&mut stage) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = timeout(LONGEST_END, served).await;
}
