//! A role as a service of `tower`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tower_service::Service;

use super::async_handle::AsyncRoleHandle;
use crate::backend::{Backend, BackendRequest};
use crate::channel::Reply;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{Error, Result};
use crate::payload::Payload;
use crate::protocol::Kind;

/// A role as a [`Service`]: for the layers of `tower`, such as a limit of rates or a load balancer.
///
/// Cheap to clone; all clones are of one role.
///
/// # Readiness
///
/// `poll_ready` always returns `Ready(Ok(()))`, also while workers load, when the role is full,
/// degraded or closed. A service that is ready and not called would otherwise hold a place that
/// another caller could use. A role refuses a request in its call instead, at once, with
/// [`ErrorKind::Overloaded`], [`ErrorKind::Degraded`] or [`ErrorKind::Closed`]. So a layer that
/// sheds load when a service is not ready never does so for a role; to bound what waits use
/// [`Role::max_waiting`](super::Role::max_waiting).
///
/// # Retries
///
/// The pool itself sends a request again where that is safe: see the [module](super). A layer that
/// retries should do so only for [`ErrorKind::Overloaded`], after the time that
/// [`Overload::retry_after`](crate::Overload) says, for [`ErrorKind::Degraded`] and for
/// [`ErrorKind::QueueTimeout`], and of these only where [`Error::was_begun`] is `Some(false)`: no
/// worker has begun the request then, and none will. It must not retry [`ErrorKind::Poison`], which
/// would kill more workers, nor errors of handlers, which are answers. After
/// [`ErrorKind::PeerDied`] the request may have had effects; the error says why the pool did not
/// send it again. After [`ErrorKind::Closed`] the pool never serves again.
///
/// ```
/// # use slipring::pool::{Pool, Role};
/// # use slipring::{Config, Kind, RoleConfig, testing, worker::Worker};
/// # const ECHO: Kind = Kind::named("echo");
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let make = || Worker::new(|_| Ok(()))
/// #     .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?));
/// # let role = Role::with_channels(move |_| {
/// #     testing::spawn_thread(&Config::small(), RoleConfig::default(), make)
/// # });
/// # let pool = Pool::builder().role("echo", role).build()?;
/// use std::time::Duration;
///
/// use slipring::pool::{RoleService, ServiceRequest};
/// use slipring::{Error, ErrorKind};
/// use tower_service::Service;
///
/// /// What the policy of a layer that retries asks.
/// fn may_retry(error: &Error) -> bool {
///     let kinds = [ErrorKind::Overloaded, ErrorKind::Degraded, ErrorKind::QueueTimeout];
///     kinds.contains(&error.kind()) && error.was_begun() == Some(false)
/// }
///
/// let timeout = Duration::from_secs(10);
/// let mut echo = RoleService::new(pool.role("echo")?.to_async(), timeout);
/// # #[cfg(feature = "tokio")]
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let reply = echo.call(ServiceRequest::new(ECHO, "hello")).await?;
/// assert_eq!(reply.text()?, "hello");
/// let late = ServiceRequest::new(ECHO, "late").timeout(Duration::ZERO);
/// if let Err(error) = echo.call(late).await {
///     assert!(error.is_timeout());
/// }
/// # assert!(!may_retry(&Error::invalid_payload("no")));
/// # Ok::<(), slipring::Error>(())
/// # })?;
/// # Ok(pool.close(timeout)?) }
/// ```
#[derive(Debug, Clone)]
pub struct RoleService {
    role: AsyncRoleHandle,
    timeout: Duration,
}

impl RoleService {
    /// Makes a service of a role. `timeout` is that of requests that bring none.
    #[must_use]
    pub fn new(role: AsyncRoleHandle, timeout: Duration) -> Self {
        Self { role, timeout }
    }
}

/// A request to a [`RoleService`]: a [`BackendRequest`], and its timeout.
#[derive(Debug, Clone)]
#[must_use]
pub struct ServiceRequest {
    request: BackendRequest,
    timeout: Option<Duration>,
}

impl ServiceRequest {
    /// Makes a request of this kind: as [`BackendRequest::new`].
    pub fn new(kind: Kind, payload: impl Payload + Send + Sync + 'static) -> Self {
        BackendRequest::new(kind, payload).into()
    }

    /// How long the request may take, over all attempts, in place of the service's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// A request with the service's timeout.
impl From<BackendRequest> for ServiceRequest {
    fn from(request: BackendRequest) -> Self {
        Self { request, timeout: None }
    }
}

/// The reply of a [`RoleService`]. Dropping it cancels the request.
pub struct ServiceReply(Pin<Box<dyn Future<Output = Result<Reply>> + Send>>);

impl fmt::Debug for ServiceReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceReply").finish_non_exhaustive()
    }
}

impl Future for ServiceReply {
    type Output = Result<Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

impl Service<ServiceRequest> for RoleService {
    type Response = Reply;
    type Error = Error;
    type Future = ServiceReply;

    /// Always ready: see [Readiness](RoleService#readiness).
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Makes the request when the future is polled first. Its timeout counts from this call.
    fn call(&mut self, request: ServiceRequest) -> ServiceReply {
        let (role, begun) = (self.role.clone(), Instant::now());
        let timeout = request.timeout.unwrap_or(self.timeout);
        ServiceReply(Box::pin(async move {
            let left = match timeout {
                Duration::MAX => timeout,
                _ => timeout.saturating_sub(begun.elapsed()),
            };
            Backend::call(&role, request.request, left).await
        }))
    }
}
