//! Futures that any executor may poll, although their timers are those of one runtime.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use slipring::backend::{BoxChunks, BoxFuture};
use slipring::{Reply, Result};
use tokio::runtime::Handle;

use super::wire::Arriving;

/// Polls a future as if the task that polls it ran on this runtime.
pub(super) fn entered<T>(
    runtime: &Handle,
    future: impl Future<Output = T> + Send + 'static,
) -> BoxFuture<'static, T> {
    Box::pin(Entered { runtime: runtime.clone(), inner: Box::pin(future) })
}

/// The same for the chunks of a stream.
pub(super) fn entered_chunks(runtime: &Handle, chunks: impl Arriving + 'static) -> BoxChunks {
    Box::pin(Entered { runtime: runtime.clone(), inner: Box::pin(chunks) })
}

struct Entered<T: ?Sized> {
    runtime: Handle,
    inner: Pin<Box<T>>,
}

impl<T: Future> Future for Entered<T> {
    type Output = T::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T::Output> {
        let this = &mut *self;
        let _entered = this.runtime.enter();
        this.inner.as_mut().poll(context)
    }
}

impl<T: Arriving> Stream for Entered<T> {
    type Item = Result<Reply>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T::Item>> {
        let this = &mut *self;
        if let Some(chunk) = this.inner.as_mut().take_arrived() {
            return Poll::Ready(Some(Ok(chunk)));
        }
        let _entered = this.runtime.enter();
        this.inner.as_mut().poll_next(context)
    }
}
