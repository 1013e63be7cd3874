//! The chunks of a stream that other workers have, and what ends a request there.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::Overflow;
use crate::backend::{BoxChunks, BoxFuture};
use crate::channel::Reply;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::plain::Mutex;

/// The chunks of a request that other workers have. Dropping it cancels the request.
pub(crate) struct ChunksElsewhere {
    state: State,
    others: Overflow,
    cancel: Arc<CancelElsewhere>,
    role: String,
    must_not_wait: bool,
}

enum State {
    Opening(BoxFuture<'static, Result<BoxChunks>>),
    Open(BoxChunks),
    Over,
}

impl ChunksElsewhere {
    pub(crate) fn new(
        opening: BoxFuture<'static, Result<BoxChunks>>,
        others: Overflow,
        cancel: Arc<CancelElsewhere>,
        role: &str,
    ) -> Self {
        let (state, role) = (State::Opening(opening), role.to_owned());
        Self { state, others, cancel, role, must_not_wait: false }
    }

    /// Waits for the next chunk, `None` at the end.
    pub(crate) fn next_chunk(&mut self) -> Result<Option<Reply>> {
        let others = self.others.clone();
        let waited = others.block_on(poll_fn(|context| self.poll_chunk(context)));
        self.must_not_wait = waited.is_err();
        waited?
    }

    /// Whether the last wait has failed only since its thread must not wait for this: nothing is lost.
    pub(crate) fn must_not_wait(&self) -> bool {
        self.must_not_wait
    }

    pub(crate) fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.check(context.waker())?;
        let State::Opening(opening) = &mut self.state else { return Poll::Ready(Ok(())) };
        opening.as_mut().poll(context).map_ok(|chunks| self.state = State::Open(chunks))
    }

    /// The next chunk, `None` at the end.
    pub(crate) fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Reply>>> {
        self.check(context.waker())?;
        match &mut self.state {
            State::Open(chunks) => chunks.as_mut().poll_next(context).map(Option::transpose),
            State::Opening(_) | State::Over => Poll::Ready(Ok(None)),
        }
    }

    /// Ends the request if it was cancelled. If not, the task is woken when it is.
    fn check(&mut self, waker: &Waker) -> Result<()> {
        match self.cancel.ended_or_wakes(waker, &self.role) {
            None => Ok(()),
            Some(error) => {
                self.state = State::Over;
                Err(error)
            }
        }
    }
}

impl fmt::Debug for ChunksElsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunksElsewhere").finish_non_exhaustive()
    }
}

/// Ends a request that other workers have, from any thread.
#[derive(Debug, Default)]
pub(crate) struct CancelElsewhere(Mutex<Cancel>);

#[derive(Debug, Default)]
struct Cancel {
    why: Option<Why>,
    /// Of the task that waits for it.
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy)]
enum Why {
    Cancelled,
    Closed,
}

impl CancelElsewhere {
    pub(crate) fn cancel(&self) {
        self.end(Why::Cancelled);
    }

    /// The role is closed.
    pub(crate) fn close(&self) {
        self.end(Why::Closed);
    }

    fn end(&self, why: Why) {
        let mut cancel = self.0.lock();
        cancel.why.get_or_insert(why);
        let waker = cancel.waker.take();
        drop(cancel);
        // Code of an executor's.
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The error of a request of this role that was ended. If it was not, `waker` is woken when it is.
    pub(crate) fn ended_or_wakes(&self, waker: &Waker, role: &str) -> Option<Error> {
        let mine = waker.clone();
        let mut cancel = self.0.lock();
        let before = cancel.waker.replace(mine);
        let why = cancel.why;
        drop(cancel);
        drop(before);
        Some(match why? {
            Why::Cancelled => Error::new(ErrorKind::Cancelled, "the stream was cancelled"),
            Why::Closed => {
                let message =
                    format!("role {role}: the pool was closed, and others had the request");
                Error::new(ErrorKind::Closed, message)
            }
        })
    }
}
