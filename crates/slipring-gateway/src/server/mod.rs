//! Serves the workers of this machine to others.

mod accept;
mod answer;
mod body;
mod bounded;
#[cfg(test)]
mod bounds_tests;
mod budget;
mod caller;
mod calls;
mod connections;
mod control;
mod counters;
mod health;
#[cfg(test)]
mod hostile_tests;
mod preface;
mod record;
mod request;
mod route;
mod timers;
mod unread;
mod upload;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use slipring::backend::{Backend, TraceContext};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::sync::watch::{Receiver, Sender};
use tracing::Span;

use crate::metrics::GatewayMetrics;
use crate::tls::ServerTls;
use crate::trace::Joined;
use crate::wire::Limits;
use crate::wire::spare::Spare;
use budget::Budget;
use caller::Caller;
use connections::{AtWorkers, Connections};
use counters::Counters;
use record::Record;
use request::HEAD;
use route::Others;

/// Serves backends, such as the roles of a pool, to other machines. Cheap to clone; all clones are
/// the same gateway.
#[derive(Clone)]
pub struct Gateway(Arc<Shared>);

/// What a [`Gateway`] is made of: from [`Gateway::builder`].
#[derive(Debug, Default)]
#[must_use]
pub struct GatewayBuilder {
    roles: BTreeMap<String, Arc<dyn Backend>>,
    limits: Limits,
    connections: ConnectionLimits,
    buffers: BufferLimits,
    host: Option<String>,
    plain_text_anywhere: bool,
    joined: Joined,
}

/// How many connections a gateway has.
#[derive(Debug, Clone)]
struct ConnectionLimits {
    /// Those that have not shown yet that they speak HTTP/2, or their certificate.
    handshaking: usize,
    established: usize,
    handshake_timeout: std::time::Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        let handshake_timeout = std::time::Duration::from_secs(5);
        Self { handshaking: 64, established: 1024, handshake_timeout }
    }
}

/// How many buffers of long requests are used again: of 4 MiB at most each.
const KEPT_BUFFERS: usize = 4;

/// How many bytes of requests and answers a gateway has in memory.
#[derive(Debug, Clone, Copy)]
struct BufferLimits {
    of_all: usize,
    of_connection: usize,
}

impl Default for BufferLimits {
    fn default() -> Self {
        Self { of_all: 2 << 30, of_connection: 512 << 20 }
    }
}

struct Shared {
    roles: BTreeMap<String, Arc<dyn Backend>>,
    limits: Limits,
    buffers: BufferLimits,
    memory: Arc<Budget>,
    /// For long requests.
    spare: Arc<Spare>,
    host: String,
    connections: Connections,
    stage: Sender<Stage>,
    in_flight: AtomicUsize,
    /// A gateway without a request has one, or it is on another stage.
    stirred: Notify,
    others: Others,
    plain_text_anywhere: bool,
    joined: Joined,
    counters: Counters,
}

/// How far a gateway is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    /// It refuses requests, and serves those that it has.
    Draining,
    /// The last request is over, and connections are closed.
    Over,
}

impl Gateway {
    /// Describes a gateway.
    pub fn builder() -> GatewayBuilder {
        GatewayBuilder::default()
    }

    /// Serves what comes to the listener, in plain text, until the gateway is
    /// [drained](Self::drain). May be called for several listeners. Must be called in a tokio runtime.
    ///
    /// Every program that reaches the listener can use the workers. So it must have an address of the loopback
    /// interface, unless [`GatewayBuilder::plain_text_anywhere`] says that the network is trusted.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an address that is not of the loopback interface; the listener's own, if it
    /// cannot accept connections at all.
    pub async fn serve(&self, listener: TcpListener) -> std::io::Result<()> {
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() && !self.0.plain_text_anywhere {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                format!("plain text on {address}: not the loopback interface; use TLS"),
            ));
        }
        accept::run(&self.0, listener, None).await
    }

    /// Serves what comes to the listener by mutual TLS, as [`serve`](Self::serve) does in plain text.
    /// Looks at the certificate files each second: new connections use what they say.
    ///
    /// # Errors
    ///
    /// The listener's own, if it cannot accept connections at all.
    pub async fn serve_tls(&self, listener: TcpListener, tls: ServerTls) -> std::io::Result<()> {
        let _watched = tls.watched();
        accept::run(&self.0, listener, Some(tls)).await
    }

    /// Refuses further requests, in a way that tells callers to send them elsewhere. Those that the
    /// gateway has are served; then its connections are closed, and [`serve`](Self::serve) returns.
    /// Does not wait.
    pub fn drain(&self) {
        self.0.advance(Stage::Draining);
        self.0.note_end();
    }

    /// Returns what the gateway has counted. Does not block.
    #[must_use]
    pub fn metrics(&self) -> GatewayMetrics {
        let counters = &self.0.counters;
        GatewayMetrics {
            connections: self.0.connections.count(),
            accepted_connections: counters.connections.get(),
            refused_connections: counters.refused_connections.get(),
            failed_handshakes: counters.failed_handshakes.get(),
            silent_connections: counters.silent_connections.get(),
            paced_connections: counters.paced_connections.get(),
            in_flight: self.in_flight(),
            roles: counters.of_roles(),
        }
    }

    /// Returns how many requests the gateway has.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("host", &self.0.host)
            .field("roles", &self.0.roles.keys())
            .field("stage", &*self.0.stage.borrow())
            .finish_non_exhaustive()
    }
}

impl GatewayBuilder {
    /// Adds a role: that of the backend. A second one of the same name takes its place.
    pub fn role(mut self, backend: Arc<dyn Backend>) -> Self {
        self.roles.insert(backend.role().to_owned(), backend);
        self
    }

    /// Sets what remotes may send and use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets how many connections may be open, 1,024 by default. A connection beyond that takes the
    /// place of the one that has been without a request for the longest. If all have one, such as
    /// `Watch`, it takes the place of one of the address that has the most, if those are at least two more
    /// than those of its own, and no worker has a request of it. Otherwise it is closed.
    pub fn max_connections(mut self, count: usize) -> Self {
        self.connections.established = count;
        self
    }

    /// Sets how many connections may be in their handshake, 64 by default, and for how long, 5 s by
    /// default. One beyond that takes the place of the oldest of the address that has the most.
    pub fn handshakes(mut self, count: usize, timeout: std::time::Duration) -> Self {
        self.connections.handshaking = count;
        self.connections.handshake_timeout = timeout;
        self
    }

    /// Sets how many bytes of requests and answers are in memory at most, of all connections and of
    /// one: 2 GiB and 512 MiB by default, or more if one request of [`Limits::max_message`] has no room
    /// otherwise. A request counts from its first byte until it is handed to a worker, and for as long
    /// as it may be handed to another one; a reply until it is sent.
    ///
    /// A request beyond that is refused as overloaded, in a way that tells callers to send it
    /// elsewhere; requests of more than 64 KiB have three quarters of the memory. A reply beyond that
    /// is dropped, and its caller gets [`ErrorKind::Overloaded`](slipring::ErrorKind::Overloaded).
    ///
    /// It counts what was sent. Until a request is whole the memory can be twice as much; what HTTP/2
    /// keeps before it is read, at most [`Limits::window`] for each request, comes on top, 64 KiB for
    /// each connection with TLS, and 16 MiB for buffers that are used again.
    pub fn max_buffered(mut self, of_all: usize, of_connection: usize) -> Self {
        self.buffers = BufferLimits { of_all, of_connection };
        self
    }

    /// Sets the name under which errors and reports tell of this machine, by default its host name.
    pub fn host(mut self, name: impl Into<String>) -> Self {
        self.host = Some(name.into());
        self
    }

    /// Lets [`Gateway::serve`] use any address: all machines that reach it are trusted, and all
    /// between.
    pub fn plain_text_anywhere(mut self) -> Self {
        self.plain_text_anywhere = true;
        self
    }

    /// Sets what joins the span of each request, `request` of target `slipring`, to the trace of its
    /// caller: it gets the span and what the caller says by `traceparent`, and returns what the role's
    /// backend is told, which matters if that has its workers elsewhere. `None`, as without this, is what
    /// the caller says. It runs for each request, and should not block.
    ///
    /// `docs/NETWORK.md` of the repository has one for OpenTelemetry.
    pub fn join_traces(
        mut self,
        join: impl Fn(&Span, Option<&TraceContext>) -> Option<TraceContext> + Send + Sync + 'static,
    ) -> Self {
        self.joined = Joined::by(join);
        self
    }

    /// Makes the gateway. It serves nothing before [`Gateway::serve`].
    #[must_use]
    pub fn build(self) -> Gateway {
        let counters = Counters::of(self.roles.keys());
        let longest = longest_request(&self.limits);
        Gateway(Arc::new(Shared {
            roles: self.roles,
            limits: self.limits,
            buffers: self.buffers,
            memory: Arc::new(Budget::new(self.buffers.of_all, longest)),
            spare: Spare::new(KEPT_BUFFERS),
            host: self.host.unwrap_or_else(host_name),
            connections: Connections::new(self.connections),
            stage: Sender::new(Stage::Serving),
            in_flight: AtomicUsize::new(0),
            stirred: Notify::new(),
            others: Others::new(),
            plain_text_anywhere: self.plain_text_anywhere,
            joined: self.joined,
            counters,
        }))
    }
}

impl Shared {
    /// Goes on to a stage, if it is a later one.
    fn advance(&self, to: Stage) {
        self.stage.send_if_modified(|stage| {
            let is_later = *stage < to;
            *stage = to.max(*stage);
            is_later
        });
        self.stirred.notify_waiters();
    }

    /// How many bytes the longest request has.
    fn longest_request(&self) -> usize {
        longest_request(&self.limits)
    }

    fn stage(&self) -> Receiver<Stage> {
        self.stage.subscribe()
    }

    fn is_draining(&self) -> bool {
        *self.stage.borrow() != Stage::Serving
    }

    /// Ends the gateway if it drains and has no request.
    fn note_end(&self) {
        // SeqCst, with that of `InFlight`: either this sees the request, or the request sees that the
        // gateway drains.
        if self.is_draining() && self.in_flight.load(Ordering::SeqCst) == 0 {
            self.advance(Stage::Over);
        }
    }
}

/// A request that the gateway has.
struct InFlight {
    shared: Arc<Shared>,
    record: Arc<Record>,
    at_workers: Option<AtWorkers>,
}

impl InFlight {
    /// Takes a request, unless the gateway drains.
    fn begin(shared: &Arc<Shared>, record: &Arc<Record>) -> Option<Self> {
        if shared.in_flight.fetch_add(1, Ordering::SeqCst) == 0 {
            shared.stirred.notify_waiters();
        }
        let (shared, record) = (Arc::clone(shared), Arc::clone(record));
        let taken = Self { shared, record, at_workers: None };
        (!taken.shared.is_draining()).then_some(taken)
    }

    /// All of it has come, and it is for workers now.
    fn is_whole(&mut self, caller: &Caller) {
        self.at_workers = Some(caller.at_workers());
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.shared.note_end();
    }
}

/// The heads of its messages are shorter than what may stand beside the payload.
fn longest_request(limits: &Limits) -> usize {
    limits.max_message.saturating_add(limits.max_message / 8).saturating_add(2 * HEAD)
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
