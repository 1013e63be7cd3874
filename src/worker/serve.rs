//! The serve loop: requests in the order in which they were sent, one at a time.

use std::sync::Arc;

use crate::error::{Error, Result, WorkerFailure};
use crate::link::{WorkerLink, WorkerWords};
use crate::protocol::RoleConfig;
use crate::protocol::buffer_pool::BufferPool;
use crate::protocol::health::{Status, WorkerState};
use crate::protocol::kind::{Kind, flags};
use crate::ring::Consumer;
use crate::ring::Header;
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::{as_u64, as_usize};
use crate::shm::region::OwnU32;
use crate::sync::{Ordering, fence};
use crate::sys::clock::{COARSE_NS, Deadline, coarse_now_ns, now_ns};
use crate::sys::fork;
use crate::worker::failure::{HandlerError, catch};
use crate::worker::health::{HealthThread, Report, Shared};
use crate::worker::reply::Outlet;
use crate::worker::request::{Request, cancelled, is_cancelled};
use crate::worker::stop::Stop;
use crate::worker::{Handler, Worker};

/// Serves an attached channel to its end. `confirm` tells the parent that the worker is
/// attached, once its health thread owns the owner word.
pub(crate) fn run<S>(
    link: WorkerLink,
    role: &RoleConfig,
    stop: &Arc<Stop>,
    owner: Option<OwnU32>,
    worker: Worker<S>,
    confirm: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let WorkerLink { data, health, words, header, .. } = link;
    let words = Arc::new(words);
    let shared = Arc::new(Shared::default());
    let status = StatusOf(Arc::clone(&words));
    let health = HealthThread::start(health, owner, status, Arc::clone(&shared), Arc::clone(stop))?;
    confirm()?;

    let outlet =
        Outlet::new(data.producer, data.sleeper, Arc::clone(&words), Arc::clone(stop), &header);
    let mut server = Server {
        consumer: data.consumer,
        outlet,
        words: &words,
        stop,
        shared: &shared,
        max_message: as_usize(header.max_message),
        pieces: None,
        given_up: None,
        spare: BufferPool::new(),
        is_warm: false,
    };
    let built = catch(|| (worker.build)(role));
    role.close_fds();
    let result = match built {
        Ok(session) => serve_session(&mut server, session, worker.handlers, worker.on_close),
        Err(error) => Err(server.session_failed(error)),
    };
    server.set_state(WorkerState::Stopping);
    server.outlet.flush();
    health.finish();
    result
}

fn serve_session<S>(
    server: &mut Server<'_>,
    mut session: S,
    mut handlers: Vec<(Kind, Handler<S>)>,
    on_close: Option<Box<dyn FnOnce(S)>>,
) -> Result<()> {
    server.set_state(WorkerState::Idle);
    let result = server.serve(&mut session, &mut handlers);
    if let Some(close) = on_close {
        // A panic while closing is written to the log by the hook; the worker ends anyway.
        let _ = catch(|| {
            close(session);
            Ok(())
        });
    }
    result
}

/// The numbers that the health thread reports are those of the status line.
pub(super) struct StatusOf(pub(super) Arc<WorkerWords>);

impl Report for StatusOf {
    fn status(&self) -> Status {
        let words = &self.0;
        Status {
            state: words.state.load(Ordering::Relaxed),
            current: words.current.load(Ordering::Relaxed),
            busy_since: words.busy_since.load(Ordering::Relaxed),
            progress: words.progress.load(Ordering::Relaxed),
            served: words.served.load(Ordering::Relaxed),
            bytes_in: words.bytes_in.load(Ordering::Relaxed),
            bytes_out: words.bytes_out.load(Ordering::Relaxed),
        }
    }
}

/// A request that comes in pieces.
#[derive(Debug)]
struct Pieces {
    header: Header,
    bytes: Vec<u8>,
}

struct Server<'a> {
    consumer: Consumer,
    outlet: Outlet,
    words: &'a WorkerWords,
    stop: &'a Stop,
    shared: &'a Shared,
    max_message: usize,
    pieces: Option<Pieces>,
    /// The request in pieces that was given up last; what still comes of it is dropped.
    given_up: Option<u64>,
    spare: Arc<BufferPool>,
    /// The rings' pages are in the page table.
    is_warm: bool,
}

impl Server<'_> {
    fn serve<S>(&mut self, session: &mut S, handlers: &mut [(Kind, Handler<S>)]) -> Result<()> {
        let stop = self.stop;
        loop {
            let has_rung = self.outlet.has_rung();
            if !self.consumer.has_next() {
                // While there is nothing better to do, and not when the next request has come.
                self.consumer.publish();
            }
            if self.pieces.is_some() {
                self.forget_cancelled()?;
            }
            // Only now: a handler may go on after its answer.
            self.set_state(WorkerState::Idle);
            let (words, pieces) = (self.words, &self.pieces);
            let check = || {
                stop.check()?;
                check_collecting(words, pieces)
            };
            let consumer = &mut self.consumer;
            let mut frame = match consumer.poll_until(&stop.alarm, Deadline::IDLE, has_rung, check)
            {
                Ok(Some(frame)) => frame,
                Ok(None) => continue,
                Err(_) if stop.is_set() => return Ok(()),
                Err(error) if error.is_cancelled() => continue,
                Err(error) => return Err(error),
            };
            if stop.is_set() {
                return Ok(());
            }
            let header = frame.header();
            if header.flags & !flags::REQUEST != 0 {
                let flags = header.flags;
                return Err(Error::corrupt(format!("a request with flags {flags:#x}")));
            }
            if header.kind == Kind::READY.code() && !std::mem::replace(&mut self.is_warm, true) {
                // The parent waits for this alone, and does the same on its side.
                frame.prefault();
                self.outlet.prefault();
            }
            let mut serving =
                Serving { outlet: &mut self.outlet, words: self.words, stop, shared: self.shared };
            let served = if header.flags & (flags::MORE | flags::CONTINUED) == 0 {
                self.spare.age();
                // Slots that are long free must not stay hidden while a handler runs.
                frame.publish_earlier();
                serving.request(header, frame.payload(), session, handlers)
            } else if header.flags & flags::CONTINUED != 0 && Some(header.request) == self.given_up
            {
                continue;
            } else {
                if header.flags & flags::CONTINUED == 0
                    && let Some(forgotten) = self.pieces.take()
                {
                    serving.outlet.begin(forgotten.header.request);
                    serving.outlet.cancel()?;
                }
                let (pieces, spare) = (&mut self.pieces, &self.spare);
                let whole = collect(pieces, spare, header, frame.payload(), self.max_message)?;
                drop(frame);
                let Some(Pieces { header, bytes }) = whole else { continue };
                self.consumer.publish();
                let served = serving.request(header, PeerBytes::of(&bytes), session, handlers);
                self.spare.give(bytes);
                served
            };
            match served {
                Err(_) if stop.is_set() => return Ok(()),
                other => other?,
            }
        }
    }

    /// Gives up the message that is being collected if its request is cancelled: its sender
    /// may have had no room for the frame that takes it back, and would wait for ever for the
    /// request's last frame.
    #[cold]
    fn forget_cancelled(&mut self) -> Result<()> {
        let is_cancelled = check_collecting(self.words, &self.pieces).is_err();
        let Some(forgotten) = self.pieces.take_if(|_| is_cancelled) else { return Ok(()) };
        let Pieces { header, bytes } = forgotten;
        self.given_up = Some(header.request);
        self.spare.give(bytes);
        self.outlet.begin(header.request);
        match self.outlet.cancel() {
            // The loop finds it set as well.
            Err(_) if self.stop.is_set() => Ok(()),
            result => result,
        }
    }

    fn set_state(&self, state: WorkerState) {
        self.words.state.store(state.code(), Ordering::Relaxed);
    }

    /// Tells the parent, as request 0, why there will never be a session.
    fn session_failed(&mut self, error: HandlerError) -> Error {
        let failure = error.into_failure();
        self.outlet.begin(0);
        // If it cannot be told the parent still sees this process end.
        let _ = self.outlet.fail(&failure);
        Error::session_failure(failure)
    }
}

/// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) if the request whose pieces are being
/// collected is cancelled. A cancel rings the worker's bell, so that a wait looks again.
fn check_collecting(words: &WorkerWords, pieces: &Option<Pieces>) -> Result<()> {
    match pieces {
        Some(Pieces { header, .. }) if words.requests.is_cancelled(header.request) => {
            Err(cancelled(header.request))
        }
        _ => Ok(()),
    }
}

/// Adds a piece to the request that is being collected; returns it when it is whole.
fn collect(
    pieces: &mut Option<Pieces>,
    spare: &BufferPool,
    header: Header,
    payload: PeerBytes<'_>,
    max_message: usize,
) -> Result<Option<Pieces>> {
    if header.flags & flags::CONTINUED == 0 {
        *pieces = Some(Pieces { header, bytes: spare.buffer(0) });
    }
    let Some(collecting) = pieces.as_mut().filter(|p| p.header.request == header.request) else {
        return Err(Error::corrupt(format!("a piece of request {} with no start", header.request)));
    };
    if header.flags & flags::ABANDONED != 0 {
        collecting.bytes.clear();
        collecting.header.flags |= flags::ABANDONED;
        return Ok(pieces.take());
    }
    if collecting.bytes.len() + payload.len() > max_message {
        return Err(Error::corrupt(format!("a request of over {max_message} bytes")));
    }
    payload.append_to(&mut collecting.bytes);
    Ok(if header.flags & flags::MORE == 0 { pieces.take() } else { None })
}

/// What one request is served with.
struct Serving<'a> {
    outlet: &'a mut Outlet,
    words: &'a WorkerWords,
    stop: &'a Stop,
    shared: &'a Shared,
}

impl Serving<'_> {
    /// Serves one request to its last frame.
    fn request<S>(
        &mut self,
        header: Header,
        payload: PeerBytes<'_>,
        session: &mut S,
        handlers: &mut [(Kind, Handler<S>)],
    ) -> Result<()> {
        let Self { outlet, words, stop, .. } = self;
        let kind = Kind::from_code(header.kind);
        let deadline = Deadline::from_wire(header.aux);
        let bytes_in = words.bytes_in.load(Ordering::Relaxed).wrapping_add(as_u64(payload.len()));
        words.bytes_in.store(bytes_in, Ordering::Relaxed);
        outlet.begin(header.request);
        // A glance at a cheap clock is enough for nearly all deadlines.
        let now = coarse_now_ns();
        let now = if deadline.is_before(now + COARSE_NS) { now_ns() } else { now };
        let is_taken_back = header.flags & flags::ABANDONED != 0;
        if is_taken_back || words.requests.is_cancelled(header.request) {
            outlet.cancel()?;
        } else if deadline.is_before(now) {
            outlet.expire()?;
        } else if kind == Kind::READY {
            outlet.acknowledge()?;
        } else {
            let is_stream = header.flags & flags::STREAM != 0;
            let id = header.request;
            let request = Request { kind, id, is_stream, deadline, payload, words, stop };
            words.busy_since.store(now, Ordering::Relaxed);
            self.handle(&request, session, handlers)?;
        }
        Ok(())
    }

    fn handle<S>(
        &mut self,
        request: &Request<'_>,
        session: &mut S,
        handlers: &mut [(Kind, Handler<S>)],
    ) -> Result<()> {
        let Self { outlet, words, .. } = self;
        // Pairs with the Acquire load in `WorkerStatus::begun_at`, for `busy_since`.
        words.current.store(request.id, Ordering::Release);
        words.state.store(WorkerState::Busy.code(), Ordering::Relaxed);
        // Before anything that the handler does: if this process ends, the parent must find
        // that the request was begun. Otherwise it would send it to another worker.
        fence(Ordering::Release);
        crate::failpoint::failpoint!("before handler");
        let handler = handlers.iter_mut().find(|(kind, _)| *kind == request.kind);
        let result = match handler {
            Some((_, handler)) => catch(|| handler(session, request, outlet.reply())).map(drop),
            None => Err(unknown_kind(request.kind)),
        };
        crate::failpoint::failpoint!("after handler");
        let is_cancelled = || is_cancelled(words, self.stop, request.id);
        let is_cancel = result.as_ref().is_err_and(|e| e.is_cancel_of(request.id, is_cancelled));
        if let Err(error) = &result
            && !is_cancel
            && !fork::is_forked_child()
        {
            *self.shared.last_error.lock() = error.summary();
        }
        match result {
            _ if outlet.is_finished() => Ok(()),
            Err(_) if is_cancel => outlet.cancel(),
            Err(error) => outlet.fail(&error.into_failure()),
            // It returned what an earlier request's reply had given it.
            Ok(()) => outlet.fail(&no_reply()),
        }
    }
}

fn no_reply() -> WorkerFailure {
    HandlerError::new("slipring::NoReply", "the handler returned without a reply").into_failure()
}

fn unknown_kind(kind: Kind) -> HandlerError {
    HandlerError::new("slipring::UnknownKind", format!("this worker has no handler for {kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn pieces_of_a_message_add_up_and_a_piece_without_a_start_is_refused() {
        let (mut pieces, spare) = (None, BufferPool::new());
        let piece = |flags, request| Header { flags, request, ..Header::default() };
        let more = flags::MORE;
        let last = flags::CONTINUED;
        let mut add = |header, bytes| collect(&mut pieces, &spare, header, PeerBytes::of(bytes), 5);
        assert!(add(piece(more, 1), b"ab").unwrap().is_none());
        assert!(add(piece(more | last, 1), b"c").unwrap().is_none());
        let whole = add(piece(last, 1), b"d").unwrap().unwrap();
        assert_eq!((whole.bytes.as_slice(), whole.header.request), (&b"abcd"[..], 1));
        assert_eq!(add(piece(last, 1), b"x").unwrap_err().kind(), ErrorKind::PeerCorrupt);
        add(piece(more, 2), b"abc").unwrap();
        assert!(add(piece(last, 2), b"def").is_err(), "over the cap");
        add(piece(more, 3), b"abc").unwrap();
        let void = add(piece(last | flags::ABANDONED, 3), b"").unwrap().unwrap();
        assert!(void.bytes.is_empty() && void.header.flags & flags::ABANDONED != 0);
    }
}
