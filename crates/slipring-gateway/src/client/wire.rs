//! What a role needs of a connection to a gateway, and of what makes connections.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use slipring::backend::BackendRequest;
use slipring::{Health, Reply, Result, StreamTimeouts};

use super::address::Address;
use crate::proto::GatewayStatus;

/// Chunks that arrive.
pub(super) trait Arriving: Stream<Item = Result<Reply>> + Send {
    /// Returns the next chunk, which is not the first, if it has come whole. `None` says nothing of what
    /// comes next.
    fn take_arrived(self: Pin<&mut Self>) -> Option<Reply> {
        None
    }
}

pub(super) type BoxArriving = Pin<Box<dyn Arriving>>;

/// One connection to a gateway.
///
/// Its futures do not borrow it, and nothing is sent before they are polled. Dropping a future, or a
/// stream, cancels the request. Once the last `Arc` is dropped and the last request is over the
/// connection ends.
///
/// [`Error::was_begun`](slipring::Error::was_begun) of each error is exact: `Some(false)` only if no
/// worker has begun the request, and none will. A request that is seen begun is told to its
/// [`Progress`](slipring::backend::Progress) at once.
pub(super) trait Wire: Send + Sync + 'static {
    /// Sends a request, and returns its reply, within the time.
    fn call(
        &self,
        role: &Arc<str>,
        request: BackendRequest,
        timeout: Duration,
    ) -> impl Future<Output = Result<Reply>> + Send + 'static;

    /// Sends a request, and returns its chunks. An error before the first chunk may come either way.
    fn stream(
        &self,
        role: &Arc<str>,
        request: BackendRequest,
        timeouts: StreamTimeouts,
    ) -> impl Future<Output = Result<BoxArriving>> + Send + 'static;

    /// Asks for reports of the gateway: each call of the returned value waits for the next one.
    fn watch(&self) -> impl Future<Output = Result<impl Statuses>> + Send + 'static;

    /// Asks each worker of the role for a report.
    fn ping(
        &self,
        role: &Arc<str>,
        timeout: Duration,
    ) -> impl Future<Output = Result<Vec<Result<Health>>>> + Send + 'static;

    /// Sets the abort flag of the role's workers, or resets it.
    fn set_abort(
        &self,
        role: &Arc<str>,
        is_set: bool,
    ) -> impl Future<Output = Result<()>> + Send + 'static;

    /// The name of the gateway.
    fn peer(&self) -> &str;

    /// Whether requests can be sent, as far as is known.
    fn is_open(&self) -> bool;

    /// Ends the connection at once, and with it all its requests.
    fn cut(&self);
}

/// The reports of a gateway, one after another.
pub(super) trait Statuses: Send + 'static {
    /// Waits for the next report; `None` if no more come.
    fn next(&mut self) -> impl Future<Output = Option<Result<GatewayStatus>>> + Send;
}

/// Makes connections.
pub(super) trait Connect: Send + Sync + 'static {
    type Wire: Wire;

    /// Connects to a gateway, or fails in bounded time.
    fn connect(&self, address: &Address) -> impl Future<Output = Result<Self::Wire>> + Send;
}
