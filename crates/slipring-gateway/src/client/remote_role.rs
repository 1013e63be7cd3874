//! A role whose workers are on other machines.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use slipring::backend::{Backend, BackendLoad, BackendRequest, BoxChunks, BoxFuture, TraceContext};
use slipring::{Error, Health, Kind, Reply, Result, StreamTimeouts};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{Instrument as _, Span};

use super::attempts::{Attempts, StreamLimits};
use super::chunks::Chunks;
use super::connector::Connector;
use super::discovery::Discovery;
use super::entered::{entered, entered_chunks};
use super::errors;
use super::fleet::{FleetLimits, GatewayState};
use super::retry::RetryLimits;
use super::role::Role;
use super::shared::Shared;
use super::wire::{Connect, Wire as _};
use crate::metrics::RemoteRoleMetrics;
use crate::tls::{ClientTls, ExpectedName};
use crate::trace::Joined;
use crate::wire::Limits;

/// A role whose workers are on other machines, behind gateways. Cheap to clone; all clones are the
/// same role.
///
/// It keeps a connection to each gateway, and sends each request to the one with the fewest requests
/// for each of its places. A request that no worker has begun, since its gateway was full, about to
/// end or cut off, is sent to another one. One that was begun, or may have been, is sent again only if
/// it may be served twice: [`BackendRequest::idempotent`], [`RemoteRoleBuilder::idempotent`]. Until a
/// gateway takes requests they wait, for as long as their timeout.
///
/// The connections end with the last clone, and the last request.
///
/// ```no_run
/// use std::time::Duration;
///
/// use slipring::Kind;
/// use slipring::backend::{Backend, BackendRequest};
/// use slipring_gateway::{Discovery, RemoteRole};
///
/// # async fn embed() -> slipring::Result<()> {
/// let gateways = Discovery::list(["gpu-1:7000", "gpu-2:7000"]);
/// let embed = RemoteRole::builder("embed", gateways).idempotent([Kind::EMBED]).build()?;
/// let request = BackendRequest::new(Kind::EMBED, "some text");
/// let reply = embed.call(request, Duration::from_secs(10)).await?;
/// # let _ = reply; Ok(()) }
/// ```
#[derive(Clone)]
pub struct RemoteRole(Arc<Role<Connector>>);

/// How a remote role is to be: from [`RemoteRole::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct RemoteRoleBuilder {
    role: String,
    discovery: Discovery,
    limits: Limits,
    tls: Option<ClientTls>,
    server_name: Option<ExpectedName>,
    connect_timeout: Duration,
    idempotent: Vec<Kind>,
    fleet: FleetLimits,
    retry: RetryLimits,
    joined: Joined,
    runtime: Option<Handle>,
}

/// A gateway, as a client sees it: from [`RemoteRole::gateways`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayInfo {
    /// Its address, and the name that its certificate must have if that is another one.
    pub address: String,
    /// What it is used for.
    pub state: GatewayState,
    /// How many requests it has of this client.
    pub in_flight: usize,
    /// How many requests its workers serve at the same time.
    pub places: usize,
}

impl RemoteRole {
    /// Begins to describe a role of this name behind the gateways that are found so.
    pub fn builder(role: impl Into<String>, gateways: Discovery) -> RemoteRoleBuilder {
        RemoteRoleBuilder {
            role: role.into(),
            discovery: gateways,
            limits: Limits::default(),
            tls: None,
            server_name: None,
            connect_timeout: Duration::from_secs(3),
            idempotent: Vec::new(),
            fleet: FleetLimits::default(),
            retry: RetryLimits::default(),
            joined: Joined::default(),
            runtime: None,
        }
    }

    /// Returns what each gateway is used for, in no order.
    #[must_use]
    pub fn gateways(&self) -> Vec<GatewayInfo> {
        let gateways = self.0.shared.gateways().into_iter();
        let info = |(address, state, in_flight, places): (super::address::Address, _, _, _)| {
            GatewayInfo { address: address.to_string(), state, in_flight, places }
        };
        gateways.map(info).collect()
    }

    /// Returns what the role has counted. Does not block.
    #[must_use]
    pub fn metrics(&self) -> RemoteRoleMetrics {
        self.0.shared.metrics()
    }
}

impl RemoteRoleBuilder {
    /// Sets what a gateway may send, and how soon one that does not answer is given up.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Has all connections be by mutual TLS. The certificate of each gateway must have the host name,
    /// or the IP address, of the gateway's address; see [`Discovery`]. The files are looked at each
    /// second, and new connections use what they say.
    ///
    /// Without this, connections are in plain text: for the loopback interface, and networks that are
    /// trusted.
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets the name that the certificate of each gateway must have, in place of that of its address.
    pub fn server_name(mut self, name: ExpectedName) -> Self {
        self.server_name = Some(name);
        self
    }

    /// Sets how long an attempt to connect may take: 3 s by default.
    pub fn connect_timeout(mut self, longest: Duration) -> Self {
        self.connect_timeout = longest;
        self
    }

    /// Sets the kinds of requests that may be served twice, unless the request itself says otherwise.
    pub fn idempotent(mut self, kinds: impl IntoIterator<Item = Kind>) -> Self {
        self.idempotent = kinds.into_iter().collect();
        self
    }

    /// Sets how many requests that may have been begun are sent again at most: in percent of all
    /// requests, and `least` in each ten seconds in any case; 20 and 10 by default.
    pub fn retries(mut self, percent: u32, least: u32) -> Self {
        (self.retry.percent, self.retry.least) = (percent.into(), least.into());
        self
    }

    /// Sets how often one request may be begun at most; 3 times by default.
    pub fn max_attempts(mut self, most: u32) -> Self {
        self.retry.max_attempts = most.max(1);
        self
    }

    /// Sets how long it takes until a gateway that is new, or back again, gets its full share of
    /// requests: 3 s by default.
    pub fn slow_start(mut self, grows_for: Duration) -> Self {
        self.fleet.slow_start = nanoseconds(grows_for);
        self
    }

    /// Sets after how many errors in a row a gateway gets no requests for a while, and how long that
    /// is the first time; it doubles each time, up to 30 s. By default 5 errors and 1 s. Errors of
    /// handlers, and workers that die, do not count. At least half of the gateways stay in use.
    pub fn ejection(mut self, errors: u32, first_pause: Duration) -> Self {
        self.fleet.errors = errors.max(1);
        self.fleet.first_pause = nanoseconds(first_pause);
        self.fleet.longest_pause = self.fleet.longest_pause.max(self.fleet.first_pause);
        self
    }

    /// Sets what joins the span of each attempt, `attempt` of target `slipring`, to a trace of the host's:
    /// it gets the span and what [`BackendRequest::trace`] says, and returns what the gateway is told,
    /// such as the ids that the host's exporter has given the span. `None`, as without this, is what
    /// the request says. It runs for each attempt, and should not block.
    ///
    /// `docs/NETWORK.md` of the repository has one for OpenTelemetry.
    pub fn join_traces(
        mut self,
        join: impl Fn(&Span, Option<&TraceContext>) -> Option<TraceContext> + Send + Sync + 'static,
    ) -> Self {
        self.joined = Joined::by(join);
        self
    }

    /// Sets the runtime that the role's tasks run on; by default that of the caller of
    /// [`build`](Self::build).
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Begins to look for gateways and to connect to them. Does not wait for any.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](slipring::ErrorKind::InvalidConfig) if an address cannot be one,
    /// if there is a [server name](Self::server_name) and no TLS, or if there is no runtime of tokio.
    pub fn build(self) -> Result<RemoteRole> {
        let runtime = self.runtime.or_else(|| Handle::try_current().ok()).ok_or_else(|| {
            errors::invalid_config("a remote role needs a runtime of tokio; see `runtime`")
        })?;
        let discovery = self.discovery.check().map_err(errors::invalid_config)?;
        if self.tls.is_none() && self.server_name.is_some() {
            return Err(errors::invalid_config("a server name is of use only with TLS; see `tls`"));
        }
        let entered = runtime.enter();
        let watched = self.tls.as_ref().map(ClientTls::watched);
        drop(entered);
        let (limits, tls, server_name) = (self.limits, self.tls, self.server_name);
        let connector = Connector { limits, tls, server_name, _watched: watched };
        let (role, limits) = (self.role.into(), (self.fleet, self.retry));
        let seed = super::seed();
        let shared = Shared::new(role, connector, self.connect_timeout, runtime, limits, seed);
        Ok(RemoteRole(Role::start(shared, self.idempotent, self.joined, discovery)))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Backend for RemoteRole {
    fn role(&self) -> &str {
        &self.0.shared.role
    }

    fn load(&self) -> BackendLoad {
        self.0.shared.load(false)
    }

    fn load_for_hosts(&self) -> BackendLoad {
        self.0.shared.load(true)
    }

    fn load_changed(&self) -> BoxFuture<'static, ()> {
        Box::pin(Arc::clone(&self.0.shared).load_changed())
    }

    fn call(
        &self,
        request: BackendRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Reply>> {
        self.0.call(request, timeout)
    }

    fn submit(
        &self,
        request: BackendRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Reply>> {
        self.0.submit(request, timeout)
    }

    fn stream(
        &self,
        request: BackendRequest,
        timeouts: StreamTimeouts,
    ) -> BoxFuture<'static, Result<BoxChunks>> {
        self.0.stream(request, timeouts)
    }

    fn block(&self, wait: &mut dyn FnMut()) -> Result<()> {
        self.0.shared.block(wait)
    }

    fn ping(&self, timeout: Duration) -> BoxFuture<'static, Vec<Result<Health>>> {
        self.0.ping(timeout)
    }

    fn abort(&self) {
        self.0.set_abort(true);
    }

    fn clear_abort(&self) {
        self.0.set_abort(false);
    }

    fn close(&self, timeout: Duration) -> BoxFuture<'static, Result<()>> {
        self.0.close(timeout)
    }
}

/// What a backend does, whatever its connections are.
impl<C: Connect> Role<C> {
    pub(super) fn call(
        self: &Arc<Self>,
        request: BackendRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Reply>> {
        let role = Arc::clone(self);
        entered(
            &self.shared.runtime,
            async move { Attempts::begin(role, request)?.call(timeout).await },
        )
    }

    pub(super) fn submit(
        self: &Arc<Self>,
        request: BackendRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Reply>> {
        let begun =
            request.in_memory().and_then(|request| Attempts::begin(Arc::clone(self), request));
        match begun {
            Ok(attempts) => {
                let task = self.shared.runtime.spawn(attempts.call(timeout).in_current_span());
                Box::pin(Submitted(task))
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    pub(super) fn stream(
        self: &Arc<Self>,
        request: BackendRequest,
        timeouts: StreamTimeouts,
    ) -> BoxFuture<'static, Result<BoxChunks>> {
        let role = Arc::clone(self);
        let runtime = self.shared.runtime.clone();
        entered(&self.shared.runtime, async move {
            let limits = StreamLimits::begin(timeouts);
            let request = request.in_memory()?;
            let opened = Attempts::begin(role, request)?.open(limits).await?;
            Ok(entered_chunks(&runtime, Chunks::new(opened)))
        })
    }

    pub(super) fn ping(
        self: &Arc<Self>,
        timeout: Duration,
    ) -> BoxFuture<'static, Vec<Result<Health>>> {
        let role = Arc::clone(self);
        entered(&self.shared.runtime, async move {
            let mut asked = JoinSet::new();
            for wire in role.shared.wires() {
                asked.spawn(wire.ping(&role.shared.role, timeout));
            }
            if asked.is_empty() {
                let (_, problem) = role.shared.reachability();
                return vec![Err(errors::not_connected(&role.shared.role, problem))];
            }
            let mut all = Vec::new();
            while let Some(answer) = asked.join_next().await {
                match answer {
                    Ok(Ok(workers)) => all.extend(workers),
                    Ok(Err(error)) => all.push(Err(error)),
                    Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
                }
            }
            all
        })
    }

    pub(super) fn set_abort(&self, is_set: bool) {
        for wire in self.shared.wires() {
            // A gateway that is cut off now has lost its requests of this client, too.
            self.shared.runtime.spawn(wire.set_abort(&self.shared.role, is_set));
        }
    }

    pub(super) fn close(self: &Arc<Self>, timeout: Duration) -> BoxFuture<'static, Result<()>> {
        let role = Arc::clone(self);
        entered(&self.shared.runtime, async move {
            match role.shared.close(timeout).await {
                0 => Ok(()),
                left => Err(errors::close_timed_out(&role.shared.role, left)),
            }
        })
    }
}

/// A request that goes on by itself. Dropping it cancels the request.
struct Submitted(JoinHandle<Result<Reply>>);

impl Future for Submitted {
    type Output = Result<Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Reply>> {
        Pin::new(&mut self.0).poll(context).map(|ended| match ended {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::disconnected("the runtime of the role was shut down", None)),
        })
    }
}

impl Drop for Submitted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for RemoteRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteRole")
            .field("role", &self.0.shared.role)
            .field("gateways", &self.gateways())
            .finish()
    }
}
