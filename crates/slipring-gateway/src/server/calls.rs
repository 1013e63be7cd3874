//! Requests to workers: the four methods for them, over one piece of code.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use http::Request;
use slipring::backend::{Backend, Progress};
use slipring::{ErrorKind, RequestStage, Result};

use super::answer::Answer;
use super::body::Body;
use super::caller::Caller;
use super::record::Record;
use super::request::{self, Deadline};
use super::upload::Upload;
use super::{InFlight, Shared};
use crate::wire::error::{draining, refused};
use crate::wire::message::{request_of, timeouts_of};

/// When it is looked first whether a worker has begun a request: most are answered by then.
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// The longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The methods for requests to workers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Method {
    Call,
    CallParts,
    Stream,
    StreamParts,
}

/// Answers a request to a worker.
pub(super) async fn answer(
    caller: &Arc<Caller>,
    record: &Arc<Record>,
    method: Method,
    request: Request<Upload>,
) -> Result<Body> {
    match method {
        Method::Call => call(caller, record, request, false).await,
        Method::CallParts => call(caller, record, request, true).await,
        Method::Stream => stream(caller, record, request, false).await,
        Method::StreamParts => stream(caller, record, request, true).await,
    }
}

async fn call(
    caller: &Arc<Caller>,
    record: &Arc<Record>,
    request: Request<Upload>,
    in_pieces: bool,
) -> Result<Body> {
    let shared = &caller.shared;
    let mut in_flight = InFlight::begin(shared, record).ok_or_else(|| draining(&shared.host))?;
    let deadline = Deadline::of(request.headers(), shared.limits.call_timeout)?;
    let (head, payload) = request::whole(request, caller, deadline).await?;
    in_flight.is_whole(caller);
    let backend = shared.role(&head.role)?;
    let len = payload.len();
    let asked = record.asked(&head.role, request_of(&head, payload)?, len);
    let progress = asked.progress();
    let mut reply = backend.call(asked, deadline.left());
    let answer = match unless_begun(caller, &mut reply, &progress).await {
        Some(Ok(reply)) => Answer::replied(reply, in_pieces, caller, in_flight),
        Some(Err(error)) => return Err(error),
        None => Answer::called(reply, in_pieces, caller, in_flight),
    };
    Ok(Body::answer(answer, deadline, &caller.answers))
}

async fn stream(
    caller: &Arc<Caller>,
    record: &Arc<Record>,
    request: Request<Upload>,
    in_pieces: bool,
) -> Result<Body> {
    let shared = &caller.shared;
    let mut in_flight = InFlight::begin(shared, record).ok_or_else(|| draining(&shared.host))?;
    let deadline = Deadline::of(request.headers(), Duration::MAX)?;
    let (head, payload) = request::whole(request, caller, deadline).await?;
    in_flight.is_whole(caller);
    let backend = shared.role(&head.role)?;
    let len = payload.len();
    let asked = record.asked(&head.role, request_of(&head, payload)?, len);
    let progress = asked.progress();
    let timeouts = timeouts_of(&head, deadline.left());
    let mut chunks = backend.stream_in_batches(asked, timeouts).await?;
    let mut first = poll_fn(|context| chunks.as_mut().poll_next(context));
    let first = unless_begun(caller, &mut first, &progress).await;
    let answer = match first {
        Some(Some(Ok(chunk))) => {
            Answer::streamed(Some(chunk), chunks, in_pieces, caller, in_flight)
        }
        Some(Some(Err(error))) => return Err(error),
        Some(None) => Answer::ended(caller, in_flight),
        None => Answer::streamed(None, chunks, in_pieces, caller, in_flight),
    };
    Ok(Body::answer(answer, deadline, &caller.answers))
}

/// Waits for the first of an answer; `None` if a worker has begun the request and there is nothing
/// yet. The caller is to know that then, and otherwise gets all at once.
async fn unless_begun<T>(
    caller: &Caller,
    first: &mut (impl Future<Output = T> + Unpin),
    progress: &Progress,
) -> Option<T> {
    let (mut timer, mut pause) = (None, FIRST_LOOK);
    poll_fn(|context| {
        loop {
            if let Poll::Ready(first) = Pin::new(&mut *first).poll(context) {
                return Poll::Ready(Some(first));
            }
            let timer = timer.get_or_insert_with(|| caller.timers.timer_after(pause));
            ready!(timer.poll(context));
            if progress.stage() == Some(RequestStage::Begun) {
                return Poll::Ready(None);
            }
            pause = LONGEST_PAUSE.min(pause * 2);
            timer.set(pause);
        }
    })
    .await
}

impl Shared {
    pub(super) fn role(&self, name: &str) -> Result<&Arc<dyn Backend>> {
        self.roles.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.roles.keys().map(String::as_str).collect();
            let known = known.join(", ");
            let message = format!("{} has no role {name:?}; it has: {known}", self.host);
            refused(ErrorKind::InvalidInput, message)
        })
    }
}
