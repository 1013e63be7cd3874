//! The body of a request, of which a part is read also after the request was answered.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::wire::Limits;

/// The body of a request.
///
/// `h2` takes late frames for 50 requests that are answered and whose rest is not read. Frames for any other
/// break the rules, and many of those end the connection. So a gateway that refuses many long requests
/// would lose all others of their caller. What is on its way when this is dropped is read and thrown away:
/// a window at most. A caller that goes on after that is told to stop.
pub(super) struct Upload {
    /// `None` once it is dropped.
    body: Option<Incoming>,
    /// How long the rest may take, and how many bytes it may have.
    longest: Duration,
    most: usize,
}

impl Upload {
    pub(super) fn new(body: Incoming, limits: &Limits) -> Self {
        let most = usize::try_from(limits.window).unwrap_or(usize::MAX);
        Self { body: Some(body), longest: limits.piece_timeout, most }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let unread = self.body.take().filter(|body| !body.is_end_stream());
        // Without a runtime the connection is over, too.
        if let (Some(body), Ok(runtime)) = (unread, Handle::try_current()) {
            runtime.spawn(timeout(self.longest, skip(body, self.most)));
        }
    }
}

/// Reads until the caller stops, or more than so many bytes have come.
async fn skip(mut body: Incoming, most: usize) {
    let mut left = most;
    while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let len = frame.data_ref().map_or(0, Bytes::len);
        let Some(less) = left.checked_sub(len) else { return };
        left = less;
    }
}
