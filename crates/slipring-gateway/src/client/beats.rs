//! What a connection says while nothing else is to be said, so that the other side hears something.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use h2::client::SendRequest;
use http::{HeaderValue, Method, Request, Uri, header};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::wire::frame::Frame;

/// Says something in each interval.
pub(super) struct Beats {
    pub(super) interval: Duration,
    /// What sends a request, and where to; `None` once the connection is kept by nothing else.
    pub(super) sender: Box<dyn Fn() -> Option<(SendRequest<Frame>, Uri)> + Send + Sync>,
}

/// The head of a request.
pub(super) fn head_of(uri: Uri) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request
}

impl Beats {
    /// Asks again and again whether the other side is there, so that something is heard of it.
    pub(super) async fn ask(
        &self,
        pings: Option<h2::PingPong>,
        greet: &watch::Sender<bool>,
    ) -> Infallible {
        let Some(mut pings) = pings else { return pending().await };
        loop {
            let answered = tokio::select! {
                answered = pings.ping(h2::Ping::opaque()) => answered,
                never = self.beat() => match never {},
            };
            match answered {
                Ok(_) => greet.send_replace(true),
                // The connection itself says why it has ended.
                Err(_) => return pending().await,
            };
            sleep(self.interval).await;
        }
    }

    /// An answer stands behind what else the other side has sent, for seconds on a slow line that is full.
    /// No other question can be asked meanwhile, and the other side would hear nothing of this one: says
    /// again and again that it is there, by a request that is cancelled before it is whole.
    async fn beat(&self) -> Infallible {
        let mut said = None;
        loop {
            sleep(self.interval).await;
            // The one before was said long ago, and must not keep the connection.
            drop(said.take());
            let Some((sender, uri)) = (self.sender)() else { return pending().await };
            let Ok(mut sender) = sender.ready().await else { return pending().await };
            said = sender.send_request(head_of(uri), false).ok();
        }
    }
}
