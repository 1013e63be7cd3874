from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, TypedDict, final

import numpy as np
import numpy.typing as npt

from slipring._async import AsyncChannel

_Path: TypeAlias = str | PathLike[str]
_Array: TypeAlias = npt.NDArray[Any]

class _HasBuffer(Protocol):
    def __buffer__(self, flags: int, /) -> memoryview: ...

Buffer: TypeAlias = bytes | bytearray | memoryview | _Array | _HasBuffer
_Payload: TypeAlias = Buffer | str | Sequence[str] | None

class _Config(TypedDict, total=False):
    request_ring: int
    reply_ring: int
    health_ring: int
    max_request_frame: int
    max_reply_frame: int
    max_message: int
    max_in_flight: int
    stream_window: int

@final
class ExitCause:
    """How a worker ended."""

    @property
    def code(self) -> int | None: ...
    @property
    def signal(self) -> int | None: ...
    @property
    def signal_name(self) -> str | None: ...
    @property
    def text(self) -> str: ...

@final
class Health:
    """A worker's report."""

    @property
    def state(self) -> str: ...
    @property
    def current_request(self) -> int | None: ...
    @property
    def busy_for(self) -> float | None: ...
    @property
    def progress(self) -> int: ...
    @property
    def taken(self) -> int: ...
    @property
    def begun(self) -> int: ...
    @property
    def requests_served(self) -> int: ...
    @property
    def bytes_received(self) -> int: ...
    @property
    def bytes_sent(self) -> int: ...
    @property
    def last_error(self) -> str | None: ...

@final
class Lease:
    """Read-only bytes of a reply, where they lie; the base of a view."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Reply:
    """A reply, or one chunk of a stream."""

    @property
    def request(self) -> int:
        """The number of the request that it answers."""

    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    def bytearray(self) -> bytearray:
        """Return a copy of the bytes that can be changed."""

    def text(self) -> str:
        """Return the bytes as text."""

    def texts(self) -> list[str]:
        """Return the batch of texts that the bytes are."""

    def array(self) -> _Array:
        """Return the matrix that the bytes are, as an array of its own."""

    def view(self) -> _Array:
        """Return the matrix that the bytes are, as a read-only array that lies in the ring."""

@final
class Pending:
    """A request whose reply is awaited later. If it is forgotten, the request is cancelled."""

    @property
    def request(self) -> int:
        """The number of the request."""

    def wait(self) -> Reply:
        """Wait for the reply, for as long as the timeout of the request says."""

    def poll(self, *, timeout: float = 0.0) -> Reply | None:
        """Wait for the reply for so many seconds at most; `None` if it is not there then."""

    def cancel(self) -> None:
        """Cancel the request, also while another thread waits for it."""

@final
class Stream:
    """The chunks of a stream, in order. If it is forgotten, the stream is cancelled."""

    @property
    def request(self) -> int:
        """The number of the request."""

    def __iter__(self) -> Self: ...
    def __next__(self) -> Reply: ...
    def cancel(self) -> None:
        """Ask the worker to end the stream. Chunks that are on their way still come."""

    def close(self) -> None:
        """Cancel the stream, of which no more chunks are wanted."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        type: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class Channel:
    """The host's handle on one worker. Threads share it.

    Timeouts are in seconds; `None` waits until the worker answers or is gone.
    """

    def call(
        self, kind: str | int, payload: _Payload = None, *, timeout: float | None = None
    ) -> Reply:
        """Send a request and wait for its reply."""

    def submit(
        self, kind: str | int, payload: _Payload = None, *, timeout: float | None = None
    ) -> Pending:
        """Send a request whose reply is awaited later."""

    def stream(
        self,
        kind: str | int,
        payload: _Payload = None,
        *,
        chunk_timeout: float | None = 300.0,
        first_chunk_timeout: float | None = None,
        queue_timeout: float | None = None,
        timeout: float | None = None,
    ) -> Stream:
        """Send a request and return the chunks of its answer as they come."""

    def wait_ready(self, *, timeout: float | None = None) -> None:
        """Wait until the worker has set itself up."""

    def ping(self, *, timeout: float | None = 5.0) -> Health:
        """Ask the worker for its report. It answers also while a handler runs."""

    def health(self) -> Health:
        """Return the worker's report as it stands in shared memory, without a wait."""

    def cancel(self, request: int) -> None:
        """Cancel a request by its number, also while another thread waits for it.

        Does nothing if the request has ended.
        """

    def abort(self) -> None:
        """Ask all handlers to stop, until `clear_abort`."""

    def clear_abort(self) -> None:
        """Let handlers run again."""

    def close(self, *, timeout: float | None = 5.0) -> ExitCause:
        """End the worker, which has so many seconds before it is killed. Can be called again."""

    def wait_exit(self, *, timeout: float | None = None) -> ExitCause:
        """Wait until the worker has ended by itself."""

    @property
    def role(self) -> str: ...
    @property
    def pid(self) -> int: ...
    @property
    def is_alive(self) -> bool: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def exit_cause(self) -> ExitCause | None: ...
    @property
    def log_path(self) -> str | None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        type: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class Spawner:
    """What starts workers of one kind."""

    def __new__(
        cls,
        program: _Path,
        args: Sequence[_Path] = ...,
        *,
        role: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: _Path | None = None,
        model: _Path | None = None,
        mode: str | None = None,
        extra: Mapping[str, str] | None = None,
        blob: bytes | None = None,
        log_dir: _Path | None = None,
        inherit_stdio: bool = False,
        config: _Config | None = None,
        handshake_timeout: float = 10.0,
        memory_limit: int | None = None,
        nice: int | None = None,
        cpus: Sequence[int] | None = None,
    ) -> Self: ...
    def spawn(self) -> Channel:
        """Start a worker and wait until it has attached."""

    def spawn_async(self) -> Coroutine[Any, Any, AsyncChannel]:
        """Start a worker, for tasks of asyncio, and wait until it has attached."""

@final
class Role:
    """What the host has configured for a worker."""

    @property
    def role(self) -> str: ...
    @property
    def model(self) -> PathLike[str] | None: ...
    @property
    def mode(self) -> str | None: ...
    @property
    def extra(self) -> dict[str, str]: ...
    @property
    def blob(self) -> bytes: ...

@final
class Request:
    """One request, in the worker."""

    @property
    def id(self) -> int: ...
    @property
    def kind(self) -> str | int: ...
    @property
    def is_stream(self) -> bool: ...
    @property
    def cancelled(self) -> bool:
        """Whether the handler should return: nobody wants the answer any more."""

    @property
    def time_left(self) -> float:
        """For how many seconds the caller still waits."""

    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    def bytes(self) -> bytes:
        """Return a copy of the payload."""

    def bytearray(self) -> bytearray:
        """Return a copy of the payload that can be changed."""

    def text(self) -> str:
        """Return the payload as text."""

    def texts(self) -> list[str]:
        """Return the batch of texts that the payload is."""

    def array(self) -> npt.NDArray[Any]:
        """Return the matrix that the payload is."""

    def check_cancelled(self) -> None:
        """Raise `Cancelled` if the request is cancelled."""

    def set_progress(self, progress: int) -> None:
        """Publish a number that the host sees in `Health.progress`."""

def is_worker() -> bool: ...
def serve(
    setup: Callable[[Role], object] | None,
    handlers: Mapping[str | int, Callable[[Request], Any]],
) -> None: ...

# Requests that are taken and answered later.

@final
class Inbox:
    """The requests of a worker's host, in the order in which they were sent. Threads share it.

    Requests that are cancelled, or whose caller's time is up, are not handed out. All methods raise
    `Closed` when the host ends the worker, which the loop need not catch.
    """

    def take(self, *, timeout: float | None = None) -> Incoming | None:
        """Wait for the next request; `None` if it does not come within so many seconds."""

    def take_many(self, limit: int, *, within: float = 0.0) -> list[Incoming]:
        """Wait for the next request, and then so many seconds for others, up to `limit` of them."""

    def __iter__(self) -> Self: ...
    def __next__(self) -> Incoming:
        """Wait for the next request. The iterator ends when the host ends the worker."""

    def feed(self, wakeups: Wakeups, /) -> Feed: ...

@final
class Incoming:
    """A request that was taken, and the means to answer it: now or later, from any thread.

    If it is forgotten, the request ends with an error. `Request.cancelled` tells when nobody wants
    the answer any more.
    """

    @property
    def request(self) -> Request: ...
    @property
    def is_open(self) -> bool:
        """Whether the request still has to be answered."""

    @property
    def max_message(self) -> int:
        """The most bytes of an answer or a chunk."""

    def begin(self) -> None:
        """Note that work on the request begins: if the worker dies, it may have had effects.

        Answers imply it.
        """

    def send(self, payload: _Payload = None) -> None:
        """Answer the request. Waits while the host makes no room. After an error it is answered."""

    def send_chunk(self, payload: _Payload = None) -> None:
        """Send one chunk of a stream. Waits while the reader is behind.

        Raises `Cancelled` if the stream is cancelled.
        """

    def end(self) -> None:
        """End a stream."""

    def fail(self, error: BaseException, /) -> None:
        """End the request with an exception."""

    def fail_with(self, type_name: str, message: str, traceback: str, /) -> None: ...
    def start_send(self, wakeups: Wakeups, payload: _Payload, /) -> Operation | None: ...
    def start_send_chunk(self, wakeups: Wakeups, payload: _Payload, /) -> Operation | None: ...
    def start_watch(self, wakeups: Wakeups, /) -> Operation: ...

@final
class Feed:
    """Requests that a thread takes for an event loop."""

    @property
    def key(self) -> int: ...
    def take(self) -> list[Incoming]: ...

@final
class AbortFlag:
    """Tells whether the host has set the abort flag, without a request at hand."""

    def is_set(self) -> bool: ...

def serve_inbox(
    setup: Callable[[Role], object] | None,
    body: Callable[[Inbox], object],
    kinds: Sequence[str | int] | None,
    max_taken: int | None,
    abort_flag: AbortFlag,
) -> None: ...

# What `_async.py` and `_serving.py` use.

@final
class Wakeups:
    """The operations of one event loop that can go on, and the descriptor that tells the loop."""

    def fileno(self) -> int: ...
    def first(self) -> int | None: ...
    def pop(self, seen: int | None, /) -> None: ...

@final
class Operation:
    """What a task waits for."""

    @property
    def key(self) -> int: ...
    @property
    def is_done(self) -> bool: ...
    def poll(self) -> bool: ...
    def result(self) -> Any: ...
    def drop(self) -> None: ...

@final
class TaskChannel:
    """A channel for tasks, each of whose methods starts an operation."""

    def call(
        self, wakeups: Wakeups, kind: str | int, payload: _Payload, timeout: float | None, /
    ) -> Operation: ...
    def stream(
        self,
        kind: str | int,
        payload: _Payload,
        chunk_timeout: float | None,
        first_chunk_timeout: float | None,
        queue_timeout: float | None,
        timeout: float | None,
        /,
    ) -> TaskStream: ...
    def wait_ready(self, wakeups: Wakeups, timeout: float | None, /) -> Operation: ...
    def ping(self, wakeups: Wakeups, timeout: float | None, /) -> Operation: ...
    def close(self, wakeups: Wakeups, timeout: float | None, /) -> Operation: ...
    def wait_exit(self, wakeups: Wakeups, /) -> Operation: ...
    def blocking(self) -> Channel: ...

@final
class TaskStream:
    """A stream for tasks."""

    @property
    def request(self) -> int | None: ...
    def next(self, wakeups: Wakeups, /) -> Operation: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...

def spawn_for_tasks(wakeups: Wakeups, spawner: Spawner, /) -> Operation: ...
def spawn_for_tasks_blocking(spawner: Spawner, /) -> TaskChannel: ...
