//! The chunks of a stream.

use std::sync::Mutex;
use std::task::Poll;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::error::{exception, misuse};
use crate::lock::lock;
use crate::reply::Reply;
use crate::shared::SharedChannel;
use crate::wait::{Aside, SLICE, is_main_thread, look_time, released, resumable};

/// The chunks of a stream, in order: an iterator. If it is forgotten, the stream is cancelled.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Stream {
    channel: SharedChannel,
    id: slipring::RequestId,
    state: Mutex<State>,
}

enum State {
    Idle(Box<slipring::Stream>),
    /// A thread waits, and has it meanwhile.
    InUse,
    /// A signal handler has ended the wait of the main thread. The thread that waits aside has the
    /// stream.
    Aside(Aside<Found>),
    Over,
}

/// The stream after a wait, and what the wait has found: a chunk, the end or an error.
type Found = (Box<slipring::Stream>, slipring::Result<Option<slipring::Reply>>);

impl Stream {
    pub(crate) fn new(channel: &SharedChannel, stream: slipring::Stream) -> Self {
        let channel = channel.clone();
        Self { channel, id: stream.id(), state: Mutex::new(State::Idle(Box::new(stream))) }
    }

    fn replace(&self, state: State) -> State {
        std::mem::replace(&mut *lock(&self.state), state)
    }

    /// Waits for the next chunk with the stream. An exception of a signal handler leaves it usable.
    fn wait(
        &self,
        py: Python<'_>,
        mut stream: Box<slipring::Stream>,
        is_main: bool,
    ) -> PyResult<Found> {
        match resumable(|| stream.next_chunk_timeout(look_time())) {
            Ok(None | Some(Poll::Pending)) => {}
            Ok(Some(Poll::Ready(found))) => return Ok((stream, Ok(found))),
            Err(error) => return Ok((stream, Err(error))),
        }
        if !is_main {
            return Ok(released(py, move || next_chunk(stream)));
        }
        // Most chunks come within this time. After it a thread of its own waits, which lets the
        // library count the timeouts of the stream, and this one look for signals.
        let (stream, found) = released(py, move || {
            let found = resumable(|| stream.next_chunk_timeout(SLICE));
            (stream, found)
        });
        match found {
            Ok(Some(Poll::Ready(found))) => return Ok((stream, Ok(found))),
            Err(error) => return Ok((stream, Err(error))),
            Ok(None | Some(Poll::Pending)) => {}
        }
        if let Err(raised) = py.check_signals() {
            self.replace(State::Idle(stream));
            return Err(raised);
        }
        self.wait_aside(py, Aside::start(move || next_chunk(stream))?)
    }

    fn wait_aside(&self, py: Python<'_>, mut aside: Aside<Found>) -> PyResult<Found> {
        let found = aside.wait(py);
        if found.is_err() {
            self.replace(State::Aside(aside));
        }
        found
    }
}

fn next_chunk(mut stream: Box<slipring::Stream>) -> Found {
    // This may be a thread whose result is looked at much later.
    let found = (*stream).next_chunk().map(|chunk| chunk.map(slipring::Reply::keep));
    (stream, found)
}

#[pymethods]
impl Stream {
    #[getter]
    fn request(&self) -> u64 {
        self.id.get()
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Reply>> {
        let is_main = is_main_thread(py)?;
        let found = match self.replace(State::InUse) {
            State::Idle(stream) => self.wait(py, stream, is_main),
            State::Aside(aside) => self.wait_aside(py, aside),
            State::InUse => return Err(misuse(py, "another thread waits for this stream")),
            State::Over => {
                self.replace(State::Over);
                return Ok(None);
            }
        };
        let (stream, found) = found?;
        match found {
            Ok(Some(chunk)) => {
                self.replace(State::Idle(stream));
                Ok(Some(Reply::new(chunk)))
            }
            Ok(None) => {
                self.replace(State::Over);
                Ok(None)
            }
            Err(error) => {
                let is_over = error.kind() != slipring::ErrorKind::Interrupted;
                self.replace(if is_over { State::Over } else { State::Idle(stream) });
                Err(exception(py, &error))
            }
        }
    }

    fn cancel(&self) {
        self.channel.cancel(self.id);
    }

    fn close(&self) {
        let mut state = lock(&self.state);
        match *state {
            // The wait of another thread ends with this.
            State::InUse => self.channel.cancel(self.id),
            State::Aside(_) => {
                self.channel.cancel(self.id);
                *state = State::Over;
            }
            State::Idle(_) | State::Over => *state = State::Over,
        }
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) {
        self.close();
    }

    fn __repr__(&self) -> String {
        format!("<Stream of request {}>", self.id)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.close();
    }
}
