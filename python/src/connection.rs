//! One end of a pipe as a Python object. `slipring/_connection.py` has the part that pickles.
#![allow(unsafe_code, reason = "takes descriptors over from Python")]

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;
use slipring::pipe::{self, PipeEnd, PipeWatch, Wake};

use crate::buffer;
use crate::error::exception;
use crate::receiving::{BYTES, OBJECT, Received, Receiving, Refused, further};
use crate::sending::{Lent, Sending};
use crate::turn::Turns;
use crate::wait::{Slices, look_time, released};

/// The descriptors of one end, as Python passes them on.
type Descriptors = (RawFd, RawFd, RawFd);

/// Makes a pipe and returns the descriptors of both ends, which belong to the caller.
#[pyfunction]
pub(crate) fn make_pipe(
    py: Python<'_>,
    duplex: bool,
    ring: usize,
) -> PyResult<(Descriptors, Descriptors)> {
    let (first, second) = pipe::pair(ring, duplex).map_err(|error| exception(py, &error))?;
    let descriptors = |end: PipeEnd| -> PyResult<Descriptors> {
        let [memory, bytes, room] = end.descriptors().map(|fd| fd.try_clone_to_owned());
        Ok((memory?.into_raw_fd(), bytes?.into_raw_fd(), room?.into_raw_fd()))
    };
    Ok((descriptors(first)?, descriptors(second)?))
}

/// One end of a pipe: messages of bytes.
#[pyclass(module = "slipring._slipring", subclass, frozen, weakref)]
pub(crate) struct BytesConnection {
    /// `None` once it is closed. The lock is held for a look, by threads that are attached, so that no
    /// child is forked meanwhile.
    end: Mutex<Option<Arc<End>>>,
    is_readable: AtomicBool,
    is_writable: bool,
}

struct End {
    end: PipeEnd,
    /// Made at the first use.
    link: OnceLock<Link>,
}

struct Link {
    reader: Option<(Turns<Receiving>, Arc<PipeWatch>)>,
    writer: Option<Turns<Sending>>,
}

#[pymethods]
impl BytesConnection {
    /// Takes the descriptors over.
    #[new]
    fn new(
        descriptors: Descriptors,
        is_first: bool,
        readable: bool,
        writable: bool,
    ) -> PyResult<Self> {
        let (memory, bytes, room) = descriptors;
        if [memory, bytes, room].iter().any(|fd| *fd < 0) {
            return Err(PyValueError::new_err("invalid handle"));
        }
        // SAFETY: the caller has them from `make_pipe` or from another process, and hands them over.
        let descriptors = [memory, bytes, room].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        let end = PipeEnd::from_descriptors(descriptors, is_first);
        let end = Arc::new(End { end, link: OnceLock::new() });
        let is_readable = AtomicBool::new(readable);
        Ok(Self { end: Mutex::new(Some(end)), is_readable, is_writable: writable })
    }

    /// Returns what the constructor takes. The descriptors still belong to this object.
    fn _parts(&self) -> PyResult<(Descriptors, bool, bool, bool)> {
        let end = self.open()?;
        let [memory, bytes, room] = end.end.descriptors().map(|fd| fd.as_raw_fd());
        let is_readable = self.is_readable.load(Ordering::Relaxed);
        Ok(((memory, bytes, room), end.end.is_first(), is_readable, self.is_writable))
    }

    #[pyo3(signature = (buf, offset=0, size=None))]
    fn send_bytes(
        &self,
        py: Python<'_>,
        buf: &Bound<'_, PyAny>,
        offset: isize,
        size: Option<isize>,
    ) -> PyResult<()> {
        let end = self.for_writing()?;
        let part = Lent::of(buf)?.part(offset, size)?;
        end.writer(py)?.take(py)?.send_bytes(py, BYTES, &[part])
    }

    /// Sends a pickle in parts and its buffers.
    fn _send_pickle(
        &self,
        py: Python<'_>,
        pickle: Vec<Bound<'_, PyAny>>,
        buffers: Vec<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let end = self.for_writing()?;
        let lend = |objects: &[Bound<'_, PyAny>]| objects.iter().map(Lent::of).collect();
        let (pickle, buffers): (PyResult<Vec<_>>, PyResult<Vec<_>>) =
            (lend(&pickle), lend(&buffers));
        let (pickle, buffers) = (pickle?, buffers?);
        let mut turn = end.writer(py)?.take(py)?;
        match buffers.is_empty() {
            true => turn.send_bytes(py, BYTES, &pickle),
            false => turn.send_object(py, &pickle, &buffers),
        }
    }

    /// Returns a pickle and its buffers, or `None` if it has none.
    fn _recv_pickle(&self, py: Python<'_>) -> PyResult<(Py<PyAny>, Option<Py<PyList>>)> {
        self.receive(py, u64::MAX)?.into_parts(py)
    }

    #[pyo3(signature = (maxlength=None))]
    fn recv_bytes(&self, py: Python<'_>, maxlength: Option<isize>) -> PyResult<Py<PyAny>> {
        let most = match maxlength.map(u64::try_from) {
            None => u64::MAX,
            Some(Ok(most)) => most,
            Some(Err(_)) => {
                self.for_reading()?;
                return Err(PyValueError::new_err("negative maxlength"));
            }
        };
        self.receive(py, most)?.into_bytes(py)
    }

    #[pyo3(signature = (buf, offset=0))]
    fn recv_bytes_into(
        &self,
        py: Python<'_>,
        buf: &Bound<'_, PyAny>,
        offset: isize,
    ) -> PyResult<usize> {
        self.for_reading()?;
        let room = buffer::writable_len(buf)?;
        let Ok(offset) = usize::try_from(offset) else {
            return Err(PyValueError::new_err("negative offset"));
        };
        let Some(room) = room.checked_sub(offset) else {
            return Err(PyValueError::new_err("offset too large"));
        };
        let bytes = self.receive(py, u64::MAX)?.into_bytes(py)?;
        let bytes = bytes.bind(py);
        let bytes = bytes.extract::<&[u8]>().map_err(|_| PyTypeError::new_err("no bytes"))?;
        if bytes.len() > room {
            static TOO_SHORT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
            let class = TOO_SHORT.import(py, "multiprocessing.context", "BufferTooShort")?;
            return Err(PyErr::from_value(class.call1((bytes,))?));
        }
        buffer::copy_into(buf, offset, bytes)?;
        Ok(bytes.len())
    }

    #[pyo3(signature = (timeout=Some(0.0)))]
    fn poll(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let end = self.for_reading()?;
        let (_, watch) = end.reader(py)?;
        let now = watch.look();
        let seconds = timeout.unwrap_or(f64::INFINITY);
        if now != Wake::Look || seconds <= 0.0 {
            return Ok(now != Wake::Look);
        }
        if watch.spin(look_time()) {
            return Ok(true);
        }
        // A time that is too long to be represented never passes.
        let until = Duration::try_from_secs_f64(seconds)
            .ok()
            .and_then(|time| Instant::now().checked_add(time));
        let mut slices = Slices::new(py)?;
        loop {
            let left = until
                .map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(watch.look() != Wake::Look);
            }
            let longest = slices.next().min(left);
            if released(py, || further(watch, longest)) != Wake::Look {
                return Ok(true);
            }
            slices.lengthen();
            py.check_signals()?;
            self.open()?;
        }
    }

    fn fileno(&self, py: Python<'_>) -> PyResult<RawFd> {
        let end = self.open()?;
        let link = end.link(py)?;
        let [_, bytes, _] = end.end.descriptors();
        Ok(match &link.reader {
            Some((_, watch)) => watch.poll_fd().as_raw_fd(),
            None => bytes.as_raw_fd(),
        })
    }

    fn close(&self) {
        // The lock is released first: closing makes system calls.
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(end);
    }

    #[getter]
    fn closed(&self) -> bool {
        self.open().is_err()
    }

    #[getter]
    fn readable(&self) -> bool {
        self.is_readable.load(Ordering::Relaxed)
    }

    #[getter]
    fn writable(&self) -> bool {
        self.is_writable
    }
}

impl BytesConnection {
    fn open(&self) -> PyResult<Arc<End>> {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).clone();
        end.ok_or_else(|| PyOSError::new_err("handle is closed"))
    }

    fn for_reading(&self) -> PyResult<Arc<End>> {
        let end = self.open()?;
        match self.is_readable.load(Ordering::Relaxed) {
            true => Ok(end),
            false => Err(PyOSError::new_err("connection is write-only")),
        }
    }

    fn for_writing(&self) -> PyResult<Arc<End>> {
        let end = self.open()?;
        if self.is_writable { Ok(end) } else { Err(PyOSError::new_err("connection is read-only")) }
    }

    fn receive(&self, py: Python<'_>, most: u64) -> PyResult<Received> {
        let end = self.for_reading()?;
        let (turns, watch) = end.reader(py)?;
        let received = turns.take(py)?.receive(py, most);
        watch.settle();
        match received {
            Ok(received) => Ok(received),
            Err(Refused::Raised(error)) => Err(error),
            Err(Refused::TooLong) => {
                // As in `multiprocessing`: what comes next cannot be read any more.
                match self.is_writable {
                    true => self.is_readable.store(false, Ordering::Relaxed),
                    false => self.close(),
                }
                Err(PyOSError::new_err("bad message length"))
            }
        }
    }
}

impl End {
    /// Maps the memory, when it is used for the first time.
    fn link(&self, py: Python<'_>) -> PyResult<&Link> {
        if let Some(link) = self.link.get() {
            return Ok(link);
        }
        let attached = self.end.attach().map_err(|error| exception(py, &error))?;
        let reader = attached.reader.map(|reader| {
            let watch = Arc::clone(reader.watch());
            (Turns::new(Receiving::new(reader)), watch)
        });
        let writer = attached.writer.map(|writer| Turns::new(Sending(writer)));
        Ok(self.link.get_or_init(|| Link { reader, writer }))
    }

    fn reader(&self, py: Python<'_>) -> PyResult<(&Turns<Receiving>, &Arc<PipeWatch>)> {
        let reader = self.link(py)?.reader.as_ref();
        let reader = reader.map(|(turns, watch)| (turns, watch));
        reader.ok_or_else(|| PyOSError::new_err("connection is write-only"))
    }

    fn writer(&self, py: Python<'_>) -> PyResult<&Turns<Sending>> {
        let writer = self.link(py)?.writer.as_ref();
        writer.ok_or_else(|| PyOSError::new_err("connection is read-only"))
    }
}

impl Received {
    /// Returns the bytes; of a pickle with buffers, one that has them inside.
    fn into_bytes(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if self.kind != OBJECT {
            return Ok(self.bytes);
        }
        static IN_BAND: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let in_band = IN_BAND.import(py, "slipring._connection", "in_band")?;
        Ok(in_band.call1((self.bytes, self.buffers))?.unbind())
    }
}
