//! A request to a role whose reply is waited for later.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::cancels::Cancel;
use super::executor::Submitted;
use super::role::RoleShared;
use crate::channel::Reply;
use crate::error::{Error, ErrorKind, Result};
use crate::id::RequestId;
use crate::sys::clock::Deadline;
use crate::sys::fork;

/// A request to a role whose reply is waited for later: by a thread, or by a task, as it is a
/// future. It goes on although no caller waits for it. Dropping it cancels the request.
///
/// ```
/// # use std::time::Duration;
/// # use slipring::pool::{Pool, Role};
/// # use slipring::{Config, Kind, RoleConfig, testing, worker::Worker};
/// # const ECHO: Kind = Kind::named("echo");
/// # fn main() -> slipring::Result<()> {
/// # let make = || Worker::new(|_| Ok(()))
/// #     .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?));
/// # let role = Role::with_channels(move |_| {
/// #     testing::spawn_thread(&Config::small(), RoleConfig::default(), make)
/// # });
/// # let pool = Pool::builder().role("echo", role.max_size(2).idempotent(ECHO)).build()?;
/// let (echo, timeout) = (pool.role("echo")?, Duration::from_secs(10));
/// // All of them are in flight, or wait for a worker.
/// let pending: Vec<_> = (0..100_u8)
///     .map(|number| echo.submit(ECHO, &[number][..], timeout))
///     .collect::<Result<_, _>>()?;
/// for (number, pending) in (0..100_u8).zip(pending) {
///     assert_eq!(pending.wait()?.to_vec(), [number]);
/// }
/// # pool.close(timeout) }
/// ```
#[derive(Debug)]
#[must_use = "a pending reply that is dropped cancels its request"]
pub struct PoolPending {
    role: Arc<RoleShared>,
    number: u64,
    submitted: Arc<Submitted>,
    /// The reply or an error was returned.
    has_ended: bool,
}

impl PoolPending {
    pub(super) fn new(role: Arc<RoleShared>, number: u64, submitted: Arc<Submitted>) -> Self {
        let weak = Arc::downgrade(&submitted);
        role.cancels.insert(number, weak);
        Self { role, number, submitted, has_ended: false }
    }

    /// Returns the request's id, the same over all its attempts, and unlike that of any other
    /// request to the role. Workers and their errors have numbers of their own.
    #[must_use]
    pub fn id(&self) -> RequestId {
        RequestId::new(self.number)
    }

    /// Waits for the reply. Blocks until it comes, or until the timeout that the request was given
    /// has passed, over all attempts.
    ///
    /// # Errors
    ///
    /// As [`RoleHandle::call`](super::RoleHandle::call);
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) after a cancel; [`ErrorKind::InvalidInput`] if
    /// the request has [overflowed](super::Role::overflow) to a backend for which this thread must not
    /// wait: it is cancelled then.
    pub fn wait(mut self) -> Result<Reply> {
        self.check()?;
        let outcome = self.outcome()?;
        self.has_ended = true;
        outcome.unwrap_or_else(|| Err(has_ended()))
    }

    /// Waits until it has ended. Its own deadline ends it.
    fn outcome(&self) -> Result<Option<Result<Reply>>> {
        let wait = |deadline| self.submitted.answer.wait(deadline);
        #[cfg(feature = "async")]
        if let Some(others) = &self.role.overflow {
            return others.wait_for(self.number, wait);
        }
        Ok(wait(Deadline::NEVER))
    }

    /// Waits for the reply for at most `timeout`. Returns `None` if it is not there then; the
    /// request goes on. Blocks.
    ///
    /// # Errors
    ///
    /// As [`PoolPending::wait`]; [`ErrorKind::InvalidInput`] if the reply or an error was returned
    /// before.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Reply>> {
        self.check()?;
        let outcome = self.submitted.answer.wait(Deadline::after(timeout));
        self.has_ended = outcome.is_some();
        outcome.transpose()
    }

    /// Returns the reply if it is there, without waiting; `None` if it is not there yet.
    ///
    /// # Errors
    ///
    /// As [`PoolPending::wait_timeout`].
    pub fn try_wait(&mut self) -> Result<Option<Reply>> {
        self.wait_timeout(Duration::ZERO)
    }

    /// Cancels the request, without waiting: [`PoolPending::wait`] then ends with
    /// [`ErrorKind::Cancelled`], or with the reply if that came first. The place of a request that
    /// a worker has begun is free again when its handler has returned.
    pub fn cancel(&self) {
        if !fork::is_forked_child() {
            Arc::clone(&self.submitted).cancel();
        }
    }

    fn check(&self) -> Result<()> {
        fork::check()?;
        if self.has_ended { Err(has_ended()) } else { Ok(()) }
    }
}

/// Awaits the reply, as [`PoolPending::wait`] waits for it. The request is not the task's: it goes
/// on while the task does not poll.
impl Future for PoolPending {
    type Output = Result<Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.check()?;
        match self.submitted.answer.poll(context.waker()) {
            Some(outcome) => {
                self.has_ended = true;
                Poll::Ready(outcome)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for PoolPending {
    fn drop(&mut self) {
        if fork::is_forked_child() {
            return;
        }
        self.role.cancels.remove(self.number);
        if !self.has_ended {
            Arc::clone(&self.submitted).cancel();
        }
    }
}

#[cold]
fn has_ended() -> Error {
    Error::new(ErrorKind::InvalidInput, "the request has ended: its reply or error was returned")
}
