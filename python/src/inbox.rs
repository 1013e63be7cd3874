//! Requests that are taken and answered later: for loops that batch, and for tasks of asyncio.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::Wake;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use slipring::worker::{CancelToken, HandlerError, OwnedResponder, TrySend, Worker};
use slipring::{ErrorKind, Kind, Payload as _};

use crate::buffer::FrozenBuffer;
use crate::completions::{Completions, Token};
use crate::convert::{self, Timeout};
use crate::error::{exception, misuse};
use crate::lock::lock;
use crate::operation::{Operation, nothing};
use crate::outgoing::{Lent, Outgoing};
use crate::request::Request;
use crate::wait::{LOOK, is_main_thread, run_signal_handlers};
use crate::worker::{Raised, described, ended_with, is_cancelled, keep, run_setup};

/// How long the main thread of a worker sleeps before it looks for signals. One that comes while it
/// sleeps wakes it.
const SLICE: Duration = Duration::from_millis(100);

/// What the kinds of a worker are called; `None` if it takes all and calls them by their codes.
type Names = Option<Arc<HashMap<Kind, Py<PyAny>>>>;

/// Serves requests until the host says to end. `setup` is called with the role once the worker has
/// attached, and then `body` with the inbox.
#[pyfunction]
pub(crate) fn serve_inbox(
    py: Python<'_>,
    setup: Option<Py<PyAny>>,
    body: Py<PyAny>,
    kinds: Option<Vec<Bound<'_, PyAny>>>,
    max_taken: Option<usize>,
    abort_flag: &AbortFlag,
) -> PyResult<()> {
    let names = kinds.map(names).transpose()?;
    let raised = Raised::default();
    let (in_setup, in_body) = (Arc::clone(&raised), Arc::clone(&raised));
    let abort_flag = abort_flag.0.clone();
    let served = py.detach(move || {
        let mut worker = Worker::new(move |role| run_setup(setup.as_ref(), role, &in_setup))
            .abort_flag(&abort_flag)
            .on_interrupt(run_signal_handlers);
        if let Some(most) = max_taken {
            worker = worker.max_taken(most);
        }
        let run = move |inbox: &Arc<slipring::worker::Inbox>| {
            Python::attach(|py| run_body(py, &body, inbox, names, &in_body))
        };
        worker.inbox(move |(), inbox| run(inbox)).serve()
    });
    ended_with(py, &raised, served)
}

/// Runs the program's own loop. To raise `Closed` is to return, at the end of the worker.
fn run_body(
    py: Python<'_>,
    body: &Py<PyAny>,
    inbox: &Arc<slipring::worker::Inbox>,
    names: Names,
    raised: &Raised,
) -> Result<(), HandlerError> {
    let inbox = Inbox { inbox: Arc::clone(inbox), names };
    match body.call1(py, (inbox,)) {
        Ok(_) => Ok(()),
        Err(failure) if is_closed(py, &failure) => Ok(()),
        Err(failure) => {
            let error = described(py, &failure);
            keep(raised, failure);
            Err(error)
        }
    }
}

fn is_closed(py: Python<'_>, failure: &PyErr) -> bool {
    let class = py.import("slipring._errors").and_then(|errors| errors.getattr("Closed"));
    class.and_then(|class| failure.value(py).is_instance(&class)).unwrap_or(false)
}

fn names(kinds: Vec<Bound<'_, PyAny>>) -> PyResult<Arc<HashMap<Kind, Py<PyAny>>>> {
    let mut names = HashMap::new();
    for name in kinds {
        if let Some(other) = names.insert(name.extract::<convert::Kind>()?.0, name.clone().unbind())
        {
            let message = format!("the kinds {other} and {name} have the same code");
            return Err(pyo3::exceptions::PyValueError::new_err(message));
        }
    }
    Ok(Arc::new(names))
}

/// Tells whether the host has set the abort flag, without a request at hand.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct AbortFlag(slipring::worker::AbortFlag);

#[pymethods]
impl AbortFlag {
    #[new]
    fn new() -> Self {
        Self(slipring::worker::AbortFlag::new())
    }

    fn is_set(&self) -> bool {
        self.0.is_set()
    }
}

/// The requests of a worker's host. Threads share it.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Inbox {
    inbox: Arc<slipring::worker::Inbox>,
    names: Names,
}

impl Inbox {
    /// Takes the next request; `None` if the deadline has passed, or at once if that is over.
    fn take_by(&self, py: Python<'_>, deadline: Option<Instant>) -> PyResult<Option<Incoming>> {
        let slice = if is_main_thread(py)? { SLICE } else { Duration::MAX };
        let left = || deadline.map(|end| end.saturating_duration_since(Instant::now()));
        let within = |longest: Duration| left().map_or(longest, |left| left.min(longest));
        let mut longest = within(LOOK);
        let mut found = self.inbox.recv_timeout(longest);
        loop {
            match found {
                Ok(Some(taken)) => match Incoming::of(py, taken, &self.names)? {
                    Some(incoming) => return Ok(Some(incoming)),
                    None => longest = within(LOOK),
                },
                Ok(None) if left().is_some_and(|left| left.is_zero()) => return Ok(None),
                Ok(None) => longest = within(slice),
                Err(error) => return Err(exception(py, &error)),
            }
            py.check_signals()?;
            found = py.detach(|| self.inbox.recv_timeout(longest));
        }
    }
}

#[pymethods]
impl Inbox {
    #[pyo3(signature = (*, timeout = Timeout::NONE))]
    fn take(&self, py: Python<'_>, timeout: Timeout) -> PyResult<Option<Incoming>> {
        self.take_by(py, timeout.deadline())
    }

    #[pyo3(signature = (limit, *, within = Timeout::seconds(0)))]
    fn take_many(&self, py: Python<'_>, limit: usize, within: Timeout) -> PyResult<Vec<Incoming>> {
        let mut taken = Vec::new();
        taken.extend(self.take_by(py, None)?);
        let end = within.deadline();
        while taken.len() < limit {
            match self.take_by(py, end) {
                Ok(Some(incoming)) => taken.push(incoming),
                Ok(None) => break,
                // Of the end of the worker the next call tells. What was taken is answered first.
                Err(error) if is_closed(py, &error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Incoming>> {
        match self.take_by(py, None) {
            Err(error) if is_closed(py, &error) => Ok(None),
            found => found,
        }
    }

    /// Starts a thread that takes the requests for an event loop.
    fn feed(&self, completions: &Completions) -> PyResult<Feed> {
        let shared = Arc::new(Fed {
            taken: Mutex::default(),
            end: Mutex::new(None),
            token: Token::new(completions),
        });
        let (inbox, fed) = (Arc::clone(&self.inbox), Arc::clone(&shared));
        let run = move || {
            loop {
                match inbox.recv() {
                    Ok(incoming) => lock(&fed.taken).push_back(incoming),
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => {
                        *lock(&fed.end) = Some(error);
                        fed.token.wake_by_ref();
                        return;
                    }
                }
                fed.token.wake_by_ref();
            }
        };
        std::thread::Builder::new().name("slipring-inbox".to_owned()).spawn(run)?;
        Ok(Feed { shared, names: self.names.clone() })
    }
}

/// Requests that a thread has taken for an event loop.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Feed {
    shared: Arc<Fed>,
    names: Names,
}

struct Fed {
    taken: Mutex<VecDeque<slipring::worker::Incoming>>,
    /// Why no more are taken.
    end: Mutex<Option<slipring::Error>>,
    token: Arc<Token>,
}

#[pymethods]
impl Feed {
    #[getter]
    fn token(&self) -> u64 {
        self.shared.token.number()
    }

    /// Returns the requests that have come. Raises `Closed` once no more can come.
    fn take(&self, py: Python<'_>) -> PyResult<Vec<Incoming>> {
        self.shared.token.begin_look();
        let end = lock(&self.shared.end).take();
        let taken = std::mem::take(&mut *lock(&self.shared.taken));
        if let Some(error) = end {
            return Err(exception(py, &error));
        }
        let mut incoming = Vec::new();
        for taken in taken {
            incoming.extend(Incoming::of(py, taken, &self.names)?);
        }
        Ok(incoming)
    }
}

/// A request that was taken, and the means to answer it. If it is forgotten, the request ends with
/// an error.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Incoming {
    #[pyo3(get)]
    request: Py<Request>,
    is_stream: bool,
    token: CancelToken,
    #[pyo3(get)]
    max_message: usize,
    answer: Arc<Mutex<Answer>>,
}

enum Answer {
    Open(Box<OwnedResponder>),
    /// A thread or a task sends, and has it meanwhile.
    InUse,
    Ended,
}

/// What a payload has become in an attempt to send it without a wait.
enum Tried {
    Sent,
    Full(Box<OwnedResponder>, Outgoing<FrozenBuffer>),
}

impl Incoming {
    /// Returns `None` for a request of a kind that the worker does not serve, which is told so.
    fn of(
        py: Python<'_>,
        taken: slipring::worker::Incoming,
        names: &Names,
    ) -> PyResult<Option<Self>> {
        let slipring::worker::Incoming { request, responder } = taken;
        let name = match names {
            None => request.kind().code().into_pyobject(py)?.into_any().unbind(),
            Some(names) => match names.get(&request.kind()) {
                Some(name) => name.clone_ref(py),
                None => {
                    let message = format!("no handler for {}", request.kind());
                    responder.fail(HandlerError::new("slipring.UnknownKind", message));
                    return Ok(None);
                }
            },
        };
        let (is_stream, max_message) = (responder.is_stream(), responder.max_message());
        let token = responder.cancel_token();
        let request = Py::new(py, Request::new(request, name))?;
        let answer = Arc::new(Mutex::new(Answer::Open(Box::new(responder))));
        Ok(Some(Self { request, is_stream, token, max_message, answer }))
    }

    fn responder(&self, py: Python<'_>) -> PyResult<Box<OwnedResponder>> {
        let mut answer = lock(&self.answer);
        let (after, message) = match std::mem::replace(&mut *answer, Answer::InUse) {
            Answer::Open(responder) => return Ok(responder),
            Answer::InUse => (Answer::InUse, "another thread or task answers the request"),
            Answer::Ended => (Answer::Ended, "the request was answered"),
        };
        *answer = after;
        drop(answer);
        Err(misuse(py, message))
    }

    fn set(&self, after: Answer) {
        *lock(&self.answer) = after;
    }

    /// Sends the one reply, if that needs no wait.
    fn try_send(&self, py: Python<'_>, payload: Lent<'_>) -> PyResult<Tried> {
        let responder = self.responder(py)?;
        if payload.encoded_len() > responder.max_frame() {
            return Ok(Tried::Full(responder, payload.detached()));
        }
        match responder.try_send(&payload) {
            Ok(TrySend::Sent) => {
                self.set(Answer::Ended);
                Ok(Tried::Sent)
            }
            Ok(TrySend::Full(responder)) => {
                Ok(Tried::Full(Box::new(responder), payload.detached()))
            }
            Err(error) => {
                self.set(Answer::Ended);
                Err(exception(py, &error))
            }
        }
    }

    /// Sends one chunk, if that needs no wait.
    fn try_send_chunk(&self, py: Python<'_>, payload: Lent<'_>) -> PyResult<Tried> {
        let mut responder = self.responder(py)?;
        if payload.encoded_len() > responder.max_frame() {
            return Ok(Tried::Full(responder, payload.detached()));
        }
        match responder.try_send_chunk(&payload) {
            Ok(true) => {
                self.set(Answer::Open(responder));
                Ok(Tried::Sent)
            }
            Ok(false) => Ok(Tried::Full(responder, payload.detached())),
            Err(error) => {
                self.set(Answer::Open(responder));
                Err(exception(py, &error))
            }
        }
    }
}

#[pymethods]
impl Incoming {
    fn begin(&self, py: Python<'_>) -> PyResult<()> {
        let mut responder = self.responder(py)?;
        responder.begin();
        self.set(Answer::Open(responder));
        Ok(())
    }

    #[pyo3(signature = (payload = Outgoing::Empty))]
    fn send(&self, py: Python<'_>, payload: Lent<'_>) -> PyResult<()> {
        if self.is_stream {
            self.send_chunk(py, payload)?;
            return self.end(py);
        }
        let Tried::Full(responder, payload) = self.try_send(py, payload)? else {
            return Ok(());
        };
        let sent = py.detach(move || responder.send(&payload));
        self.set(Answer::Ended);
        sent.map_err(|error| exception(py, &error))
    }

    #[pyo3(signature = (payload = Outgoing::Empty))]
    fn send_chunk(&self, py: Python<'_>, payload: Lent<'_>) -> PyResult<()> {
        self.check_stream(py)?;
        let tried = self.try_send_chunk(py, payload)?;
        let Tried::Full(mut responder, payload) = tried else { return Ok(()) };
        let (sent, responder) = py.detach(move || (responder.send_chunk(&payload), responder));
        self.set(Answer::Open(responder));
        sent.map_err(|error| exception(py, &error))
    }

    fn end(&self, py: Python<'_>) -> PyResult<()> {
        self.check_stream(py)?;
        let responder = self.responder(py)?;
        self.set(Answer::Ended);
        responder.end().map_err(|error| exception(py, &error))
    }

    fn fail(&self, py: Python<'_>, error: Bound<'_, PyAny>) -> PyResult<()> {
        let failure = PyErr::from_value(error);
        let told = match self.token.check() {
            Err(cancelled) if is_cancelled(py, &failure) => cancelled.into(),
            _ => described(py, &failure),
        };
        let responder = self.responder(py)?;
        self.set(Answer::Ended);
        responder.fail(told);
        Ok(())
    }

    /// Ends the request with an error that is told in words.
    fn fail_with(
        &self,
        py: Python<'_>,
        type_name: String,
        message: String,
        traceback: String,
    ) -> PyResult<()> {
        let responder = self.responder(py)?;
        self.set(Answer::Ended);
        responder.fail(HandlerError::new(type_name, message).with_backtrace(traceback));
        Ok(())
    }

    #[getter]
    fn is_open(&self) -> bool {
        !matches!(*lock(&self.answer), Answer::Ended)
    }

    /// Does what `send` does. Returns what is to be waited for, if there is something. If that is
    /// given up, the request ends with an error.
    fn start_send(
        &self,
        py: Python<'_>,
        completions: &Completions,
        payload: Lent<'_>,
    ) -> PyResult<Option<Operation>> {
        let tried = self.try_send(py, payload)?;
        let Tried::Full(responder, payload) = tried else { return Ok(None) };
        self.set(Answer::Ended);
        let work = async move { responder.send_async(&payload).await };
        Ok(Some(Operation::start(completions, work, nothing)))
    }

    /// Does what `send_chunk` does. Returns what is to be waited for, if there is something. If that
    /// is given up, the stream can go on, unless the chunk is longer than a frame.
    fn start_send_chunk(
        &self,
        py: Python<'_>,
        completions: &Completions,
        payload: Lent<'_>,
    ) -> PyResult<Option<Operation>> {
        self.check_stream(py)?;
        let tried = self.try_send_chunk(py, payload)?;
        let Tried::Full(responder, payload) = tried else { return Ok(None) };
        let answer = Arc::clone(&self.answer);
        let mut turn = AnswerTurn { answer, responder: Some(responder) };
        let work = async move {
            match &mut turn.responder {
                Some(responder) => responder.send_chunk_async(&payload).await,
                None => Ok(()),
            }
        };
        Ok(Some(Operation::start(completions, work, nothing)))
    }

    /// Returns an operation that ends when the request is cancelled.
    fn start_watch(&self, py: Python<'_>, completions: &Completions) -> PyResult<Operation> {
        let responder = self.responder(py)?;
        let cancelled = responder.cancelled();
        self.set(Answer::Open(responder));
        let work = async move {
            cancelled.await;
            Ok(())
        };
        Ok(Operation::start(completions, work, nothing))
    }

    fn __repr__(&self) -> String {
        let state = if self.is_open() { "open" } else { "answered" };
        format!("<Incoming request {}: {state}>", self.token.request())
    }
}

impl Incoming {
    fn check_stream(&self, py: Python<'_>) -> PyResult<()> {
        match self.is_stream {
            true => Ok(()),
            false => Err(misuse(
                py,
                "the caller wants one reply: to get chunks, it has to call `stream`",
            )),
        }
    }
}

/// A task's turn to send a chunk. The responder is given back when this is dropped.
struct AnswerTurn {
    answer: Arc<Mutex<Answer>>,
    responder: Option<Box<OwnedResponder>>,
}

impl Drop for AnswerTurn {
    fn drop(&mut self) {
        *lock(&self.answer) = self.responder.take().map_or(Answer::Ended, Answer::Open);
    }
}
