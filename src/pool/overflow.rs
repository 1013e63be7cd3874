//! Workers that are not the role's own: a request goes to them for which the role has no place.

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use super::scheduler::Elsewhere;
use crate::backend::{Backend, BackendRequest, BoxChunks, BoxFuture};
use crate::channel::{Reply, StreamDeadlines};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::plain::Mutex;

/// The workers to which requests go for which a role has no place.
// A pool stays safe to use after a panic that a host has caught: it looks at nothing inside of them.
#[derive(Debug, Clone)]
pub(super) struct Overflow(Arc<AssertUnwindSafe<Arc<dyn Backend>>>);

impl Overflow {
    pub(super) fn new(backend: Arc<dyn Backend>) -> Self {
        Self(Arc::new(AssertUnwindSafe(backend)))
    }

    /// Whether they would take a request.
    pub(super) fn takes_requests(&self) -> Elsewhere {
        let load = self.0.load();
        if !load.is_ready || load.is_draining {
            return Elsewhere::Never;
        }
        match load.in_flight.saturating_add(load.queued) < load.places {
            true => Elsewhere::IfFull,
            false => Elsewhere::IfRefused,
        }
    }

    /// Sends a request there, and awaits its reply. Dropped before its end, the request is cancelled.
    pub(super) async fn call(&self, request: BackendRequest, timeout: Duration) -> Result<Reply> {
        self.0.call(request, timeout).await
    }

    /// Sends a request there for the stream of its chunks. `cancel` can end it at any time.
    pub(super) async fn stream(
        &self,
        request: BackendRequest,
        deadlines: &StreamDeadlines,
        cancel: Arc<CancelElsewhere>,
    ) -> Result<ChunksElsewhere> {
        let opening = self.0.stream(request, deadlines.left());
        let mut chunks = ChunksElsewhere { state: State::Opening(opening), cancel };
        poll_fn(|context| chunks.poll_open(context)).await?;
        Ok(chunks)
    }

    pub(super) fn abort(&self) {
        self.0.abort();
    }

    pub(super) fn clear_abort(&self) {
        self.0.clear_abort();
    }
}

/// The chunks of a request that other workers have. Dropping it cancels the request.
pub(super) struct ChunksElsewhere {
    state: State,
    cancel: Arc<CancelElsewhere>,
}

enum State {
    Opening(BoxFuture<'static, Result<BoxChunks>>),
    Open(BoxChunks),
    Over,
}

impl ChunksElsewhere {
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.check(context.waker())?;
        let State::Opening(opening) = &mut self.state else { return Poll::Ready(Ok(())) };
        opening.as_mut().poll(context).map_ok(|chunks| self.state = State::Open(chunks))
    }

    /// The next chunk, `None` at the end.
    pub(super) fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Reply>>> {
        self.check(context.waker())?;
        match &mut self.state {
            State::Open(chunks) => chunks.as_mut().poll_next(context).map(Option::transpose),
            State::Opening(_) | State::Over => Poll::Ready(Ok(None)),
        }
    }

    /// Ends the request if it was cancelled. If not, the task is woken when it is.
    fn check(&mut self, waker: &Waker) -> Result<()> {
        if self.cancel.is_cancelled_or_wakes(waker) {
            self.state = State::Over;
            return Err(Error::new(ErrorKind::Cancelled, "the stream was cancelled"));
        }
        Ok(())
    }
}

impl fmt::Debug for ChunksElsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunksElsewhere").finish_non_exhaustive()
    }
}

/// Ends a stream that other workers have, from any thread.
#[derive(Debug, Default)]
pub(super) struct CancelElsewhere(Mutex<Cancel>);

#[derive(Debug, Default)]
struct Cancel {
    is_cancelled: bool,
    /// Of the task that reads it.
    waker: Option<Waker>,
}

impl CancelElsewhere {
    pub(super) fn cancel(&self) {
        let mut cancel = self.0.lock();
        cancel.is_cancelled = true;
        let waker = cancel.waker.take();
        drop(cancel);
        // Code of an executor's.
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn is_cancelled_or_wakes(&self, waker: &Waker) -> bool {
        let mine = waker.clone();
        let mut cancel = self.0.lock();
        let before = cancel.waker.replace(mine);
        let is_cancelled = cancel.is_cancelled;
        drop(cancel);
        drop(before);
        is_cancelled
    }
}

/// Runs a future on this thread, which sleeps meanwhile.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(found) => return found,
            Poll::Pending => thread::park(),
        }
    }
}
