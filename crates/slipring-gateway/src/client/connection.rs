//! One connection to one gateway.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use h2::client::{Builder, SendRequest};
use http::Uri;
use slipring::{Error, RequestId, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::ToSocketAddrs;
use tokio::sync::watch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::beats::Beats;
use super::dial::dial;
use super::outcome::{lost, not_connected};
use crate::tls::{ClientTls, ExpectedName, HandshakeError, Refusal, read_ahead};
use crate::wire::frame::Frame;
use crate::wire::pacing::Paced;
use crate::wire::presence::{Watch, Watched};
use crate::wire::spare::Spare;
use crate::wire::{Limits, MAX_FRAME, SERVICE};

/// How many of the requests that a gateway takes are left for what is no request to a worker.
const RESERVED: u32 = 8;

/// How many buffers of long replies are used again.
const KEPT_BUFFERS: usize = 2;

/// How many cancelled requests are remembered for a second, in which the gateway may still answer. Once
/// there are so many the next ones are not: a longer time would leave out more of them.
const REMEMBERED: usize = 4096;
/// How many frames for requests that are not remembered a connection survives. They are answers to nothing,
/// which reach no other request. A gateway that sends more is broken; a caller that cancels much gets some.
const LATE_FRAMES: usize = 100_000;

/// One connection to one gateway, for any number of requests at the same time. Cheap to clone; all
/// clones are the same connection. When the last is dropped, and no request is left, it is closed.
///
/// It is never made again: after its end all requests fail with
/// [`ErrorKind::Disconnected`](slipring::ErrorKind::Disconnected).
#[derive(Clone)]
pub struct Connection(Arc<Shared>);

pub(super) struct Shared {
    send: SendRequest<Frame>,
    pub(super) limits: Limits,
    pub(super) peer: String,
    uris: Uris,
    places: Arc<Semaphore>,
    /// For long replies and chunks.
    pub(super) spare: Arc<Spare>,
    next: AtomicU64,
    greeted: watch::Receiver<bool>,
    ended: watch::Receiver<Option<String>>,
    driver: AbortHandle,
}

/// The addresses of the methods, which are the same for each request.
struct Uris([(&'static str, Uri); 6]);

impl Connection {
    /// Connects to a gateway by TCP, in plain text: only for the loopback interface and for networks
    /// that are trusted.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Disconnected`](slipring::ErrorKind::Disconnected) if that fails or takes longer
    /// than `longest`.
    pub async fn connect(address: SocketAddr, limits: Limits, longest: Duration) -> Result<Self> {
        let peer = address.to_string();
        let opened = Self::open(address, peer.clone(), None, limits);
        timeout(longest, opened).await.unwrap_or_else(|_| Err(too_slow(&peer, longest)))
    }

    /// Connects to a gateway by mutual TLS. The gateway's certificate must have the name.
    ///
    /// # Errors
    ///
    /// As [`Connection::connect`]; also if one side does not accept the certificate of the other. The
    /// error says why.
    pub async fn connect_tls(
        address: SocketAddr,
        name: &ExpectedName,
        tls: &ClientTls,
        limits: Limits,
        longest: Duration,
    ) -> Result<Self> {
        let peer = name.authority(address.port());
        let opened = Self::open(address, peer.clone(), Some((tls, name)), limits);
        timeout(longest, opened).await.unwrap_or_else(|_| Err(too_slow(&peer, longest)))
    }

    /// Connects to a gateway, and waits until it has taken the connection. `peer` is its name for
    /// errors, and, in plain text, for the gateway itself.
    pub(super) async fn open(
        address: impl ToSocketAddrs + Clone,
        peer: String,
        tls: Option<(&ClientTls, &ExpectedName)>,
        limits: Limits,
    ) -> Result<Self> {
        let stream = dial(address).await;
        let stream = stream.map_err(|error| not_connected(&peer, error))?;
        // It is an improvement, and not needed.
        let _ = stream.set_nodelay(true);
        let connection = match tls {
            None => {
                let uris = Uris::of("http", &peer).map_err(|error| not_connected(&peer, error))?;
                let stream = Watched::tcp(stream, &limits);
                let watch = stream.watch();
                Self::speak(stream, peer, uris, limits, Refusal::default(), &watch).await?
            }
            Some((tls, name)) => {
                let port = stream.peer_addr().map_err(|error| not_connected(&peer, error))?.port();
                let uris = Uris::of("https", &name.authority(port));
                let uris = uris.map_err(|error| not_connected(&peer, error))?;
                let stream = Watched::tcp(stream, &limits);
                let watch = stream.watch();
                let stream =
                    Paced::tls_gateway(read_ahead(stream), &limits, &watch, flooded(&peer));
                let stream = tls.connect(name, stream).await;
                let stream = stream.map_err(|error| not_connected(&peer, with_hint(&error)))?;
                let refusal = stream.refusal();
                Self::speak(stream, peer, uris, limits, refusal, &watch).await?
            }
        };
        let hint = match tls {
            None => " (does it speak TLS, or is it full?)",
            Some(_) => " (is it full?)",
        };
        connection.greeted(hint).await?;
        Ok(connection)
    }

    /// Makes a connection over a stream of bytes that leads to a gateway. `peer` is the gateway's
    /// name and port, for it and for errors.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Disconnected`](slipring::ErrorKind::Disconnected) if the other side does not
    /// speak HTTP/2.
    pub async fn over(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: String,
        limits: Limits,
    ) -> Result<Self> {
        let uris = Uris::of("http", &peer).map_err(|error| not_connected(&peer, error))?;
        let io = Watched::other(io, &limits);
        let watch = io.watch();
        Self::speak(io, peer, uris, limits, Refusal::default(), &watch).await
    }

    async fn speak(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: String,
        uris: Uris,
        limits: Limits,
        refusal: Refusal,
        watch: &Watch,
    ) -> Result<Self> {
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(limits.window)
            .initial_connection_window_size(limits.connection_window())
            .max_header_list_size(limits.max_headers)
            .max_frame_size(MAX_FRAME)
            .max_concurrent_reset_streams(REMEMBERED)
            .max_local_error_reset_streams(Some(LATE_FRAMES))
            .max_send_buffer_size(usize::try_from(limits.window).unwrap_or(usize::MAX));
        let io = Paced::gateway(io, &limits, watch, flooded(&peer));
        watch.begin();
        let handshake = builder.handshake::<_, Frame>(io).await;
        let (send, connection) = handshake.map_err(|error| not_connected(&peer, error))?;
        let (tell, ended) = watch::channel(None);
        let (greet, greeted) = watch::channel(false);
        // It does not keep the connection.
        let itself = Arc::<OnceLock<Weak<Shared>>>::default();
        let sender = Box::new({
            let itself = Arc::clone(&itself);
            move || {
                let shared = itself.get()?.upgrade()?;
                Some((shared.send.clone(), shared.uri("Ping")))
            }
        });
        let beats = Beats { interval: limits.keep_alive_interval, sender };
        let driver = tokio::spawn(drive(connection, beats, refusal, greet, tell));
        let places = limits.max_streams.saturating_sub(RESERVED).max(1);
        let shared = Arc::new(Shared {
            send,
            limits,
            peer,
            uris,
            places: Arc::new(Semaphore::new(usize::try_from(places).unwrap_or(usize::MAX))),
            spare: Spare::new(KEPT_BUFFERS),
            next: AtomicU64::new(1),
            greeted,
            ended,
            driver: driver.abort_handle(),
        });
        _ = itself.set(Arc::downgrade(&shared));
        Ok(Self(shared))
    }

    /// Waits until the gateway has answered: only then it is known that it has a place for the
    /// connection, and takes the certificate of this side. The hint says what else may be wrong.
    async fn greeted(&self, hint: &str) -> Result<()> {
        let mut greeted = self.0.greeted.clone();
        if greeted.wait_for(|greeted| *greeted).await.is_ok() {
            return Ok(());
        }
        let reason = self.0.reason().unwrap_or_default();
        let message = format!("the gateway closes the connection{hint}: {reason}");
        Err(not_connected(&self.0.peer, message))
    }

    /// Returns the name and port of the gateway.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.0.peer
    }

    /// Returns whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.ended.borrow().is_some()
    }

    /// Waits until the connection has ended. Returns why.
    ///
    /// Cancel-safe.
    pub async fn closed(&self) -> String {
        let mut ended = self.0.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "it was closed".to_owned(),
        }
    }

    /// Ends the connection at once. Requests that it has are lost.
    pub fn close(&self) {
        self.0.driver.abort();
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Shared {
    /// Returns what sends one request; it was not sent if that fails.
    pub(super) async fn sender(&self) -> Result<SendRequest<Frame>> {
        self.send.clone().ready().await.map_err(|error| lost(self, Some(false), &error))
    }

    pub(super) fn uri(&self, method: &str) -> Uri {
        let uris = self.uris.0.iter();
        uris.into_iter()
            .find(|(name, _)| *name == method)
            .map(|(_, uri)| uri.clone())
            .unwrap_or_default()
    }

    pub(super) fn next_id(&self) -> RequestId {
        RequestId::from(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Waits for a place among the requests of this connection.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Returns why the connection has ended, if it has.
    pub(super) fn reason(&self) -> Option<String> {
        self.ended.borrow().clone()
    }
}

impl Uris {
    fn of(scheme: &str, authority: &str) -> Result<Self, http::Error> {
        let uri = |method| {
            let path = format!("{SERVICE}{method}");
            let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path);
            uri.build().map(|uri| (method, uri))
        };
        Ok(Self([
            uri("CallParts")?,
            uri("StreamParts")?,
            uri("Watch")?,
            uri("Ping")?,
            uri("Abort")?,
            uri("ClearAbort")?,
        ]))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.0.peer)
            .field("ended", &*self.0.ended.borrow())
            .finish_non_exhaustive()
    }
}

/// Why there is no handshake, and what else may be wrong: a gateway in plain text does not answer to TLS.
#[cold]
fn with_hint(error: &HandshakeError) -> String {
    let hint = match error {
        HandshakeError::Closed => " (does it speak plain text, or is it full?)",
        _ => "",
    };
    format!("{error}{hint}")
}

#[cold]
fn too_slow(peer: &str, longest: Duration) -> Error {
    not_connected(peer, format!("not within {longest:?}"))
}

/// Says that a gateway is slowed down.
fn flooded(peer: &str) -> impl FnOnce() + Send + use<> {
    let peer = peer.to_owned();
    move || tracing::warn!(target: "slipring", %peer, "the gateway floods its connection")
}

/// Moves the bytes of a connection until its end, and says then why it ended.
async fn drive<T: AsyncRead + AsyncWrite + Unpin>(
    mut connection: h2::client::Connection<T, Frame>,
    beats: Beats,
    refusal: Refusal,
    greet: watch::Sender<bool>,
    tell: watch::Sender<Option<String>>,
) {
    let pings = connection.ping_pong();
    let reason = tokio::select! {
        ended = &mut connection => match ended {
            Ok(()) => "the gateway closed it".to_owned(),
            Err(error) => error.to_string(),
        },
        never = beats.ask(pings, &greet) => match never {},
    };
    // HTTP/2 knows only that a read has failed.
    let reason = refusal.get().map_or(reason, ToString::to_string);
    // Requests look for the reason when they find that the connection has ended, which they do when
    // it is dropped.
    tell.send_replace(Some(reason));
    drop(connection);
    drop(greet);
}
