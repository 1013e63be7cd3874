//! Dynamic batching: requests that wait at the same time are served by one call of a handler.

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::payload::Payload;
use crate::protocol::Kind;
use crate::sys::clock::now_ns;
use crate::worker::batch_queues::{BatchQueues, Limits};
use crate::worker::handler_error::HandlerError;
use crate::worker::handlers::{check_kinds, unknown_kind};
use crate::worker::inbox::Inbox;
use crate::worker::owned::Incoming;
use crate::worker::panics::catch;
use crate::worker::request::Request;
use crate::worker::unanswered::answered_by;

type BatchHandler<S> =
    Box<dyn FnMut(&mut S, &mut RequestBatch) -> std::result::Result<(), HandlerError>>;
type LengthOf = Box<dyn FnMut(&Request<'_>) -> usize>;

/// How requests are put together for *dynamic batching*, and the handlers of the batches.
/// [`Worker::batches`](super::Worker::batches) serves it.
///
/// A batch holds requests of one kind, in the order in which they came: as many as there are, up
/// to the limits. Of several kinds, the one is served next whose oldest request came first.
/// Requests that are cancelled, or whose deadline has passed, are answered before the batch is
/// formed. All requests of a batch count as begun before its handler is called.
///
/// ```
/// # fn main() -> slipring::Result<()> {
/// use std::time::Duration;
/// use slipring::worker::{RequestBatch, Batches, Worker};
/// use slipring::{Config, Kind, RoleConfig, testing};
///
/// let make = || {
///     let batches = Batches::new()
///         .max_batch_size(32)
///         // No more than 10,000 bytes, counted as if all texts were as long as the longest.
///         .max_batch_cost(10_000, |request| request.len())
///         .max_wait(Duration::from_millis(1))
///         .on(Kind::EMBED, |passes: &mut u32, batch: &mut RequestBatch| {
///             *passes += 1;
///             let lengths: Vec<_> = batch.iter().map(|text| text.len()).collect();
///             // An answer for each, in the same order. An error ends one request alone.
///             batch.reply_each(lengths.into_iter().map(|len| match len {
///                 0 => Err("an empty text".into()),
///                 len => Ok(len.to_string()),
///             }));
///             Ok(())
///         });
///     Worker::new(|_role| Ok(0)).batches(batches)
/// };
/// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
/// let timeout = Duration::from_secs(10);
/// let text = channel.submit(Kind::EMBED, "a text", timeout)?;
/// let empty = channel.submit(Kind::EMBED, "", timeout)?;
/// assert_eq!(text.wait()?.to_vec(), b"6");
/// assert!(empty.wait().unwrap_err().is_handler_error());
/// # Ok(())
/// # }
/// ```
pub struct Batches<S> {
    limits: Limits,
    length: Option<LengthOf>,
    max_wait: Duration,
    handlers: Vec<(Kind, BatchHandler<S>)>,
}

impl<S> Batches<S> {
    /// Makes batches of at most 32 requests, for which nothing is waited, with no handler yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            limits: Limits { max_size: 32, max_cost: usize::MAX },
            length: None,
            max_wait: Duration::ZERO,
            handlers: Vec::new(),
        }
    }

    /// Sets how many requests a batch has at most; 32 by default.
    #[must_use]
    pub fn max_batch_size(mut self, requests: usize) -> Self {
        self.limits.max_size = requests;
        self
    }

    /// Sets what a batch costs at most; there is no such limit by default. The cost of a batch is
    /// its longest `length` times the number of its requests: that of a pass whose rows are
    /// padded. A request that is over the budget by itself is served alone.
    ///
    /// `length` is called once for each request, when it is taken. A panic in it ends that request
    /// alone.
    #[must_use]
    pub fn max_batch_cost(
        mut self,
        budget: usize,
        length: impl FnMut(&Request<'_>) -> usize + 'static,
    ) -> Self {
        self.limits.max_cost = budget;
        self.length = Some(Box::new(length));
        self
    }

    /// Sets how long a batch that is not full is waited for; zero by default. The time counts from
    /// the arrival of its oldest request. A busy worker does not know when that request came, and
    /// counts from the earliest possible time, so that no request waits longer than `timeout`.
    ///
    /// A request that comes while the worker is idle is served immediately.
    #[must_use]
    pub fn max_wait(mut self, timeout: Duration) -> Self {
        self.max_wait = timeout;
        self
    }

    /// Serves batches of this kind with `handler`. The handler answers by
    /// [`RequestBatch::reply_each`], or returns an error. An error or a panic ends those requests
    /// of the batch that have no answer, and the worker goes on with the next batch.
    #[must_use]
    pub fn on(
        mut self,
        kind: Kind,
        handler: impl FnMut(&mut S, &mut RequestBatch) -> std::result::Result<(), HandlerError>
        + 'static,
    ) -> Self {
        self.handlers.push((kind, Box::new(handler)));
        self
    }

    /// Checks what a worker refuses before it attaches.
    pub(super) fn check(&self) -> Result<()> {
        if self.limits.max_size == 0 {
            return Err(Error::new(ErrorKind::InvalidConfig, "batches of no requests"));
        }
        check_kinds(self.handlers.iter().map(|(kind, _)| *kind))
    }

    /// Serves requests until the worker is to end.
    pub(super) fn run(
        self,
        session: &mut S,
        inbox: &Arc<Inbox>,
    ) -> std::result::Result<(), HandlerError> {
        let queues = BatchQueues::new(self.handlers.len(), self.limits);
        // What came while the session was built has waited long enough: it counts as idle.
        let (is_idle, seen_empty) = (true, 0);
        let mut server = BatchServer { batches: self, queues, inbox, is_idle, seen_empty };
        loop {
            server.advance(session)?;
        }
    }
}

impl<S> Default for Batches<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> fmt::Debug for Batches<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<_> = self.handlers.iter().map(|(kind, _)| kind).collect();
        f.debug_struct("Batches")
            .field("limits", &self.limits)
            .field("max_wait", &self.max_wait)
            .field("kinds", &kinds)
            .finish_non_exhaustive()
    }
}

/// Requests that are served by one call of a handler, in the order in which they came.
#[derive(Debug)]
pub struct RequestBatch {
    kind: Kind,
    /// Those that have no answer yet.
    requests: Vec<Incoming>,
    inbox: Arc<Inbox>,
    has_superfluous: bool,
    /// Nothing waited when the last answer went out. What comes after that finds an idle worker.
    was_last: bool,
}

impl RequestBatch {
    /// Returns what all requests of the batch ask for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns how many requests wait for an answer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Returns whether all requests were answered or taken out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Returns the requests that wait for an answer. If the caller of a request does not wait any
    /// longer, [`Request::is_cancelled`] says so, and the answer is dropped.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Request<'_>> {
        self.requests.iter().map(|incoming| incoming.request.get())
    }

    /// Answers all requests, each with a payload or an error. An answer is sent as soon as the
    /// iterator gives it. Blocks while the parent has not made room. What goes wrong with one
    /// answer, such as a payload that is too long, ends its request alone.
    ///
    /// If there are too few answers, the requests without one end with an error of the type
    /// `slipring::NoReply`. If there are too many, the first that is superfluous is dropped, and
    /// the log of the worker and its health report tell of it.
    pub fn reply_each<P: Payload>(
        &mut self,
        answers: impl IntoIterator<Item = std::result::Result<P, HandlerError>>,
    ) {
        let (mut answers, rows) = (answers.into_iter().fuse(), self.requests.len());
        let mut given = 0;
        for (row, incoming) in (1..).zip(std::mem::take(&mut self.requests)) {
            let Incoming { responder, .. } = incoming;
            // Before the answer: its caller may send the next request at once.
            self.was_last |= row == rows && matches!(self.inbox.peek(), Ok(None));
            match answers.next() {
                // If it fails, the request has been told of it.
                Some(Ok(payload)) => drop(responder.send(&payload)),
                Some(Err(error)) => responder.fail(error),
                None => {
                    let message = format!("{given} answers for a batch of {rows} requests");
                    responder.fail(HandlerError::no_reply(message));
                    continue;
                }
            }
            given += 1;
        }
        self.has_superfluous |= answers.next().is_some();
    }

    /// Takes the requests out that wait for an answer, each with its responder, to be answered in
    /// any other way: in chunks, in another order, by another thread, after the handler has
    /// returned.
    #[must_use = "a request whose responder is dropped ends with an error"]
    pub fn take_requests(&mut self) -> Vec<Incoming> {
        std::mem::take(&mut self.requests)
    }
}

/// Forms batches, and has them served.
struct BatchServer<'a, S> {
    batches: Batches<S>,
    queues: BatchQueues<Incoming>,
    inbox: &'a Arc<Inbox>,
    /// No batch was served since nothing was waiting.
    is_idle: bool,
    /// When the last look at the ring began that found it empty, in nanoseconds of the monotonic
    /// clock. What is found later came later.
    seen_empty: u64,
}

impl<S> BatchServer<'_, S> {
    /// Serves one batch, or waits for requests.
    fn advance(&mut self, session: &mut S) -> std::result::Result<(), HandlerError> {
        self.inbox.keep_up()?;
        self.take_all()?;
        if self.queues.len() == 0 {
            self.is_idle = true;
            let first = self.inbox.recv()?;
            self.accept(first);
            self.take_all()?;
        }
        let now = now_ns();
        self.queues.retain(|incoming| incoming.is_wanted(now));
        // Once no more may be taken there is nothing to wait for.
        let is_full = self.queues.len() >= self.inbox.limit();
        if let Some((kind, requests)) = self.queues.next_batch(if is_full { u64::MAX } else { now })
        {
            self.serve(kind, requests, session);
        } else if let Some(due) = self.queues.next_due() {
            let wait = Duration::from_nanos(due.saturating_sub(now));
            if let Some(next) = self.inbox.recv_timeout(wait)? {
                self.accept(next);
            }
        }
        Ok(())
    }

    /// When a batch must run that begins with the request that is found now: at once if the worker
    /// was idle when it came.
    fn due(&self) -> u64 {
        if self.is_idle {
            return 0;
        }
        let wait = u64::try_from(self.batches.max_wait.as_nanos()).unwrap_or(u64::MAX);
        self.seen_empty.saturating_add(wait)
    }

    /// Takes all requests that are there.
    fn take_all(&mut self) -> Result<()> {
        loop {
            let before = now_ns();
            let Some(next) = self.inbox.try_recv()? else {
                // If there is one, it is over the limit.
                if self.inbox.peek()?.is_none() {
                    self.seen_empty = before;
                }
                return Ok(());
            };
            self.accept(next);
        }
    }

    /// Puts a request into the queue of its kind.
    fn accept(&mut self, incoming: Incoming) {
        let due = self.due();
        let Batches { handlers, length, .. } = &mut self.batches;
        let kind = incoming.request.kind();
        let Some(index) = handlers.iter().position(|(other, _)| *other == kind) else {
            return incoming.responder.refuse(unknown_kind(kind));
        };
        let length = match length {
            None => Ok(0),
            Some(length) => catch(|| Ok(length(&incoming.request.get()))),
        };
        match length {
            Ok(length) => self.queues.push(index, incoming, length, due),
            Err(error) => incoming.responder.fail(error),
        }
    }

    /// Calls the handler of a batch.
    fn serve(&mut self, kind: usize, mut requests: Vec<Incoming>, session: &mut S) {
        let Some((kind, handler)) = self.batches.handlers.get_mut(kind) else { return };
        requests.iter_mut().for_each(|incoming| incoming.responder.begin());
        let mut batch = RequestBatch {
            kind: *kind,
            requests,
            inbox: Arc::clone(self.inbox),
            has_superfluous: false,
            was_last: false,
        };
        let (inbox, none_waits) = (self.inbox, self.queues.len() == 0);
        let is_idle = &mut self.is_idle;
        *is_idle = false;
        let run = move || {
            let served = handler(session, &mut batch);
            *is_idle = batch.was_last && none_waits;
            if batch.has_superfluous {
                let message = format!("more answers than requests in a batch of {}", batch.kind);
                let error = HandlerError::new("slipring::TooManyAnswers", message);
                // The worker's log is no reason to end.
                let _ = writeln!(std::io::stderr(), "slipring worker: {}", error.summary());
                inbox.note(&error);
            }
            served
        };
        // Its requests are told of an error, and health shows it.
        let _ = answered_by(run, |error| inbox.note(error));
    }
}
