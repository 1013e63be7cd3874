//! The one trait of whatever can be called: workers of this machine, and those that a carrier of the
//! program's own reaches.
//!
//! A [`Backend`] takes requests for one role. [`AsyncRoleHandle`](crate::pool::AsyncRoleHandle), a
//! role of a pool, is one. Code that calls an `Arc<dyn Backend>` need not know where the workers are:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use slipring::backend::{Backend, BackendRequest};
//! use slipring::pool::{Pool, Role};
//! # use slipring::{Config, RoleConfig, testing, worker::Worker};
//! use slipring::Kind;
//!
//! const SHOUT: Kind = Kind::named("shout");
//!
//! async fn shout(backend: &dyn Backend, text: &str) -> slipring::Result<String> {
//!     let request = BackendRequest::new(SHOUT, text.to_owned());
//!     backend.call(request, Duration::from_secs(10)).await?.text()
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let make = || {
//! #     Worker::new(|_| Ok(())).on(SHOUT, |(), request, responder| {
//! #         Ok(responder.send(&request.text()?.to_uppercase())?)
//! #     })
//! # };
//! # let role = Role::with_channels(move |_| {
//! #     testing::spawn_thread(&Config::small(), RoleConfig::default(), make)
//! # });
//! let pool = Pool::builder().role("shout", role).build()?;
//! let backend: Arc<dyn Backend> = Arc::new(pool.role("shout")?.to_async());
//! # #[cfg(feature = "tokio")]
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! assert_eq!(shout(&*backend, "hello").await?, "HELLO");
//! assert_eq!((backend.role(), backend.load().places), ("shout", 1));
//! backend.close(Duration::from_secs(10)).await?;
//! # Ok::<(), slipring::Error>(())
//! # })?;
//! # Ok(()) }
//! ```

mod request;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;

pub use crate::channel::Progress;
use crate::channel::{Reply, StreamTimeouts};
use crate::error::Result;
#[cfg(doc)]
use crate::error::{Error, ErrorKind};
pub use crate::priority::Priority;
use crate::protocol::Health;
use crate::shm::bytes::PeerBytes;

pub use crate::trace_context::TraceContext;
pub use request::BackendRequest;

/// What a method of a [`Backend`] returns: a future of any task.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The chunks of a request, in order, each exactly once; the last item is an error, or the request
/// was answered whole. Dropping it cancels the request.
pub type BoxChunks = Pin<Box<dyn Stream<Item = Result<Reply>> + Send>>;

/// The same chunks, of which those that lie ready can be taken together.
pub type BoxBatchChunks = Pin<Box<dyn BatchChunks>>;

/// Chunks of which those that lie ready can be taken together: [`Backend::stream_in_batches`] returns
/// them. So a stream of many short chunks costs a fraction of what it costs to poll for each of them.
pub trait BatchChunks: Stream<Item = Result<Reply>> + Send {
    /// Gives chunks that lie ready to `take`, in order, as long as it takes them. One that it does not
    /// take stays, and is the next one. Each is given out once: here, or by the stream.
    ///
    /// Does not wait, and need not give out all that have come: poll the stream for the next chunk, then
    /// take by this what came with it. The default gives out none.
    fn take_ready(self: Pin<&mut Self>, take: &mut dyn FnMut(PeerBytes<'_>) -> bool) {
        let _ = take;
    }
}

/// Chunks that come one by one.
struct OneByOne(BoxChunks);

impl Stream for OneByOne {
    type Item = Result<Reply>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl BatchChunks for OneByOne {}

/// How much a backend has to do: from [`Backend::load`].
///
/// An implementation outside this crate begins with the default, of a backend that cannot be called,
/// and sets the fields.
///
/// ```
/// use slipring::backend::BackendLoad;
///
/// /// The share of its places that is taken, for a balancer: more than 1 if requests wait.
/// fn share(load: &BackendLoad) -> f64 {
///     (load.in_flight + load.queued) as f64 / load.places.max(1) as f64
/// }
///
/// let mut load = BackendLoad::default();
/// (load.places, load.in_flight, load.queued, load.is_ready) = (4, 3, 0, true);
/// assert_eq!(share(&load), 0.75);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct BackendLoad {
    /// How many requests its workers serve at the same time, once all are started that may be.
    /// Requests beyond these wait for their turn.
    pub places: usize,
    /// How many requests its workers have; more than `places` if some wait in the hands of a worker.
    pub in_flight: usize,
    /// How many requests wait for a worker.
    pub queued: usize,
    /// Whether it takes requests. True while the first workers load; requests wait then.
    pub is_ready: bool,
    /// Whether it was told to end: it takes no request any more, and serves those that it has.
    pub is_draining: bool,
    /// How often a request goes from one host to another until workers have it: 0 if they are on this
    /// host.
    pub hops: u32,
}

/// Something that can be called: the workers of one role, wherever they are.
///
/// All methods can be called from any thread, and none blocks; futures may be polled by tasks of any
/// executor, unless an implementation says otherwise. The [module](self) has an example.
///
/// # At most once
///
/// A backend sends a request again only if it was surely not begun before, or if it is idempotent:
/// [`BackendRequest::idempotent`]. [`Error::was_begun`] says of a request that failed whether a
/// worker had begun it. If that is `Some(false)`, it can be sent to another backend.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Returns the name of the role that its workers have.
    fn role(&self) -> &str;

    /// Returns how much it has to do. Cheap: for each request of a balancer.
    fn load(&self) -> BackendLoad;

    /// Returns how much it has to do as far as a request can get there that comes from another host: a
    /// gateway tells this. A backend that sends requests on to other hosts leaves out those workers to
    /// which it sends only its own host's. The default is [`load`](Self::load).
    fn load_for_hosts(&self) -> BackendLoad {
        self.load()
    }

    /// Waits until [`load`](Self::load) says that there is a place, or that requests are taken, which
    /// it has not said before: a change after the future was polled first. A place may be taken again
    /// by then.
    ///
    /// A role that [overflows](crate::pool::Role::overflow) polls this while requests wait, so that
    /// one of them can have the place. The default never completes: then such a role looks again when
    /// one of its own requests has ended here, and with each request that comes.
    ///
    /// The waker may be woken from any thread, but not while a lock is held that `load` needs.
    ///
    /// Cancel-safe.
    fn load_changed(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    /// Sends a request when the future is polled first, and awaits its reply. `timeout` counts from
    /// that poll, over all attempts.
    ///
    /// Cancel-safe: dropping the future cancels the request.
    ///
    /// # Errors
    ///
    /// For a role of a pool those of [`AsyncRoleHandle::call`](crate::pool::AsyncRoleHandle::call);
    /// for a backend on another host also [`ErrorKind::PeerDied`] with the other host's name, and
    /// errors of the connection.
    fn call(&self, request: BackendRequest, timeout: Duration)
    -> BoxFuture<'static, Result<Reply>>;

    /// Sends a request at once, and returns the future of its reply. The request goes on while the
    /// future is not polled. `timeout` counts from this call, over all attempts. The payload's encoder
    /// runs before this returns.
    ///
    /// Cancel-safe: dropping the future cancels the request.
    ///
    /// # Errors
    ///
    /// As [`Backend::call`]; those that are known at once, such as an overload, come with the first
    /// poll, too.
    fn submit(
        &self,
        request: BackendRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Reply>>;

    /// Sends a request when the future is polled first, and returns the stream of its chunks once it
    /// is sent. The timeouts count from that poll.
    ///
    /// Cancel-safe: dropping the future, or the stream, cancels the request. A stream that is not
    /// read holds up its worker once a window of chunks waits, and no other request.
    ///
    /// # Errors
    ///
    /// As [`Backend::call`], and those of a role's
    /// [`stream`](crate::pool::AsyncRoleHandle::stream). The stream ends after its first error.
    fn stream(
        &self,
        request: BackendRequest,
        timeouts: StreamTimeouts,
    ) -> BoxFuture<'static, Result<BoxChunks>>;

    /// The same, for code that sends many short chunks on, such as a gateway. The default takes the chunks
    /// of [`stream`](Self::stream) one by one.
    ///
    /// ```
    /// # use slipring::backend::{Backend, BackendRequest};
    /// # use slipring::StreamTimeouts;
    /// # use std::future::poll_fn;
    /// async fn all(backend: &dyn Backend, request: BackendRequest) -> slipring::Result<Vec<u8>> {
    ///     let mut chunks = backend.stream_in_batches(request, StreamTimeouts::new()).await?;
    ///     let mut bytes = Vec::new();
    ///     while let Some(chunk) = poll_fn(|context| chunks.as_mut().poll_next(context)).await {
    ///         bytes.extend(chunk?.to_vec());
    ///         chunks.as_mut().take_ready(&mut |chunk| {
    ///             chunk.append_to(&mut bytes);
    ///             true
    ///         });
    ///     }
    ///     Ok(bytes)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Backend::stream`].
    fn stream_in_batches(
        &self,
        request: BackendRequest,
        timeouts: StreamTimeouts,
    ) -> BoxFuture<'static, Result<BoxBatchChunks>> {
        let chunks = self.stream(request, timeouts);
        Box::pin(async {
            let batches: BoxBatchChunks = Box::pin(OneByOne(chunks.await?));
            Ok(batches)
        })
    }

    /// Has this thread wait for what the backend was asked: runs `wait` once, which sleeps until a future
    /// of this backend, or a stream, is ready.
    ///
    /// The blocking methods of a role that [overflows](crate::pool::Role::overflow) wait by this. A backend
    /// refuses if this very thread must run the tasks that `wait` waits for, such as those of a
    /// runtime of one thread. A backend that is made of others asks them. The default runs `wait`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`], and then `wait` was not run.
    fn block(&self, wait: &mut dyn FnMut()) -> Result<()> {
        wait();
        Ok(())
    }

    /// Asks each worker for a report. Waits for at most `timeout` for each.
    ///
    /// Cancel-safe: answers that come later are dropped.
    ///
    /// # Errors
    ///
    /// None of its own: each worker's report, or why there is none. One error alone if the workers
    /// cannot be asked at all.
    fn ping(&self, timeout: Duration) -> BoxFuture<'static, Vec<Result<Health>>>;

    /// Sets the abort flag of each worker that is there: as
    /// [`RoleHandle::abort`](crate::pool::RoleHandle::abort).
    fn abort(&self);

    /// Resets the abort flag of each worker.
    fn clear_abort(&self);

    /// Ends the backend, for all that use it: takes no more requests, serves those that it has, and
    /// gives back what it uses. When `timeout` has passed, requests that are left are cancelled.
    ///
    /// A role of a pool ends its workers: as [`Pool::close`](crate::pool::Pool::close), for the one
    /// role. Other roles of the pool go on. Workers on other hosts go on, too: a backend that reaches
    /// them closes its connections.
    ///
    /// Cancel-safe: once it has been polled the backend takes no more requests, also if the future is
    /// dropped then. It can be called any number of times.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] if it has not ended; [`ErrorKind::Forked`] in a forked child.
    fn close(&self, timeout: Duration) -> BoxFuture<'static, Result<()>>;
}
