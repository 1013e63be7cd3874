//! The body of an answer, of any service.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use http_body::Frame as HttpFrame;
use tonic::Status;

use super::answer::Answer;
use super::bounded::Bounded;
use super::connections::Used;
use super::request::Deadline;
use super::unread::Answers;
use super::watch::Watch;
use crate::wire::frame::Frame;

/// The body of an answer, and that its connection is in use.
#[derive(Default)]
pub(super) struct Body {
    inner: Inner,
    used: Option<Used>,
}

#[derive(Default)]
enum Inner {
    #[default]
    Empty,
    /// One message.
    Message(Frame),
    /// All messages are sent; the status follows.
    Trailers,
    Answer(Bounded),
    Watch(Box<Watch>),
    Other(tonic::body::Body),
}

impl Body {
    pub(super) fn empty() -> Self {
        Self::default()
    }

    pub(super) fn message(message: &impl prost::Message) -> Self {
        Self::of(Inner::Message(Frame::whole(message)))
    }

    /// An answer that ends at the deadline, and after a time in any case, if it is not read.
    pub(super) fn answer(answer: Answer, deadline: Deadline, answers: &Arc<Answers>) -> Self {
        Self::of(Inner::Answer(Bounded::new(answer, deadline, answers)))
    }

    pub(super) fn watch(watch: Watch) -> Self {
        Self::of(Inner::Watch(Box::new(watch)))
    }

    pub(super) fn other(body: tonic::body::Body) -> Self {
        Self::of(Inner::Other(body))
    }

    fn of(inner: Inner) -> Self {
        Self { inner, used: None }
    }

    pub(super) fn of_connection(mut self, used: Used) -> Self {
        self.used = Some(used);
        self
    }
}

/// The status at the end of an answer.
pub(super) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // Its message cannot be a header.
        let _ = Status::new(status.code(), "").add_header(&mut trailers);
    }
    trailers
}

impl http_body::Body for Body {
    type Data = Frame;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<HttpFrame<Frame>, Status>>> {
        let end = || HttpFrame::trailers(trailers(&Status::ok("")));
        let frame = match &mut self.inner {
            Inner::Empty => None,
            Inner::Message(frame) => {
                let frame = HttpFrame::data(std::mem::take(frame));
                self.inner = Inner::Trailers;
                Some(Ok(frame))
            }
            Inner::Trailers => {
                self.inner = Inner::Empty;
                Some(Ok(end()))
            }
            Inner::Answer(answer) => ready!(answer.poll_frame(context)).map(Ok),
            Inner::Watch(watch) => match ready!(watch.poll_message(context)) {
                Some(message) => Some(Ok(HttpFrame::data(Frame::whole(&message)))),
                None => {
                    self.inner = Inner::Empty;
                    Some(Ok(end()))
                }
            },
            Inner::Other(other) => {
                let frame = ready!(Pin::new(other).poll_frame(context));
                frame.map(|frame| frame.map(|frame| frame.map_data(Frame::from)))
            }
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Empty => true,
            Inner::Other(other) => other.is_end_stream(),
            _ => false,
        }
    }
}
