//! The body of a request, which is read to its end also if nobody wants the rest.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// The body of a request.
///
/// HTTP/2 forgets a request that is answered and whose rest is not read: of a few it knows that more may
/// come, and a frame for any other breaks the rules, which ends the connection in the end. So a gateway
/// that refuses many long requests would lose all others of their caller. What comes after this was dropped
/// is read and thrown away.
pub(super) struct Upload {
    /// `None` once it is dropped.
    body: Option<Incoming>,
    /// How long the rest may take.
    longest: Duration,
}

impl Upload {
    pub(super) fn new(body: Incoming, longest: Duration) -> Self {
        Self { body: Some(body), longest }
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
            runtime.spawn(timeout(self.longest, skip(body)));
        }
    }
}

/// Reads until the caller stops.
async fn skip(mut body: Incoming) {
    while let Some(Ok(_)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {}
}
