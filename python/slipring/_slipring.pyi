from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeAlias, TypedDict, Unpack, final

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

class _CallOptions(TypedDict, total=False):
    """What each request can have.

    - `timeout`: for how long the reply is waited for.
    - `traceparent`: the trace that the request is part of, in the form of the W3C's *Trace Context*.
      The worker is told. A malformed one is ignored.
    """

    timeout: float | None
    traceparent: str | None

class _StreamOptions(_CallOptions, total=False):
    """Several timeouts, of which the first that passes counts.

    - `chunk_timeout`: of the wait for each chunk; 300 seconds unless told otherwise.
    - `first_chunk_timeout`: the same for the first one, if that is another.
    - `queue_timeout`: until the worker begins the request.
    - `timeout`: of all of the stream.
    """

    chunk_timeout: float | None
    first_chunk_timeout: float | None
    queue_timeout: float | None

@final
class ExitCause:
    """How a worker ended."""

    def __new__(cls, code: int | None, signal: int | None) -> Self: ...
    def __getnewargs__(self) -> tuple[int | None, int | None]: ...
    @property
    def code(self) -> int | None: ...
    @property
    def signal(self) -> int | None: ...
    @property
    def signal_name(self) -> str | None: ...
    @property
    def text(self) -> str: ...

@final
class Unsettled:
    """A death of which not everything is known yet."""

    def look(self) -> dict[str, Any]: ...

@final
class CrashReport:
    """The crash report of a worker, which may not be written yet."""

    def path(self) -> Path | None: ...

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
        """Return the matrix that the bytes are, as an array of its own.

        It has two dimensions. One of bfloat16 needs the package `ml_dtypes`.
        """

    def view(self) -> _Array:
        """Return the matrix that the bytes are, as a read-only array over them, without a copy."""

    def __dlpack__(
        self,
        *,
        stream: None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Return the matrix for `from_dlpack`: a copy, unless `copy` is false."""

    def __dlpack_device__(self) -> tuple[int, int]: ...

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
    def __exit__(self, *_: object) -> None: ...

@final
class Channel:
    """The host's handle on one worker. Threads share it.

    Timeouts are in seconds; `None` waits until the worker answers or is gone.
    """

    def call(
        self,
        kind: str | int,
        payload: _Payload = None,
        *,
        timeout: float | None = None,
        traceparent: str | None = None,
    ) -> Reply:
        """Send a request and wait for its reply."""

    def submit(
        self,
        kind: str | int,
        payload: _Payload = None,
        *,
        timeout: float | None = None,
        traceparent: str | None = None,
    ) -> Pending:
        """Send a request whose reply is awaited later."""

    def stream(
        self, kind: str | int, payload: _Payload = None, **options: Unpack[_StreamOptions]
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
    def __exit__(self, *_: object) -> None: ...

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
        crash_reports: _Path | None = None,
        inherit_stdio: bool = False,
        config: _Config | None = None,
        handshake_timeout: float = 10.0,
        memory_limit: int | None = None,
        nice: int | None = None,
        cpus: Sequence[int] | None = None,
        fds: Mapping[str, int] | None = None,
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
    def take_fd(self, name: str) -> int:
        """Return the descriptor that the spawner has passed with this name, which the caller closes.

        It can be taken once, and only in the `setup` function: others are closed after it.
        """

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

    @property
    def traceparent(self) -> str | None:
        """The trace that the request is part of, and the caller's span in it, if the caller says so.

        It has the form of the W3C's *Trace Context*.
        """

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
        """Return the matrix that the payload is, as an array of two dimensions."""

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

    def feed(self, completions: Completions, /) -> Feed: ...

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
    def start_send(self, completions: Completions, payload: _Payload, /) -> Operation | None: ...
    def start_send_chunk(self, completions: Completions, payload: _Payload, /) -> Operation | None: ...
    def start_watch(self, completions: Completions, /) -> Operation: ...

@final
class Feed:
    """Requests that a thread takes for an event loop."""

    @property
    def token(self) -> int: ...
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

# What tasks of asyncio use: `_waits.py`, `_async.py`, `_serving.py`.

@final
class Completions:
    """The tokens of operations that can go on, for an event loop or for one thread.

    A loop watches the descriptor, and a thread waits.
    """

    def __new__(cls, *, has_descriptor: bool = False) -> Self: ...
    def fileno(self) -> int: ...
    def add(self, token: int, /) -> None: ...
    def run(self, callbacks: dict[int, Callable[[], object]], /) -> None: ...
    def wait(self, timeout: float | None = None) -> list[int]: ...

@final
class Operation:
    """What a task waits for."""

    @property
    def token(self) -> int: ...
    @property
    def is_done(self) -> bool: ...
    def poll(self) -> bool: ...
    def result(self) -> Any: ...
    def drop(self) -> None: ...

@final
class TaskChannel:
    """A channel for tasks, each of whose methods starts an operation."""

    def call(
        self,
        completions: Completions,
        kind: str | int,
        payload: _Payload,
        timeout: float | None,
        traceparent: str | None,
        /,
    ) -> Operation: ...
    def stream(
        self, kind: str | int, payload: _Payload = None, **options: Unpack[_StreamOptions]
    ) -> TaskStream: ...
    def wait_ready(self, completions: Completions, timeout: float | None, /) -> Operation: ...
    def ping(self, completions: Completions, timeout: float | None, /) -> Operation: ...
    def close(self, completions: Completions, timeout: float | None, /) -> Operation: ...
    def wait_exit(self, completions: Completions, /) -> Operation: ...
    def blocking(self) -> Channel: ...

@final
class TaskStream:
    """A stream of a channel or a pool, for tasks."""

    @property
    def request(self) -> int | None: ...
    def next(self, completions: Completions, /) -> Operation: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...

def spawn_for_tasks(completions: Completions, spawner: Spawner, /) -> Operation: ...
def spawn_for_tasks_blocking(spawner: Spawner, /) -> TaskChannel: ...

# Pools: `_pool.py` adds what is awaited.

class _RequestOptions(TypedDict, total=False):
    """What a request to a pool has besides its timeouts.

    - `priority`: which requests go first; `normal` unless told otherwise.
    - `key`: requests with the same one go to the same worker while that has a place.
    - `idempotent`: whether the request may be served twice. `None`: its kind decides.
    """

    priority: Literal["high", "normal", "low"]
    key: Hashable
    idempotent: bool | None

class _PoolCallOptions(_RequestOptions, _CallOptions, total=False): ...
class _PoolStreamOptions(_RequestOptions, _StreamOptions, total=False): ...

@final
class WorkerSlot:
    """The place of a worker that is about to be started."""

    @property
    def role(self) -> str: ...
    @property
    def index(self) -> int:
        """The number of the place, from 0 on: no two workers of a role have the same at a time."""

    @property
    def restarts(self) -> int:
        """How many workers this place had before."""

@final
class PoolRole:
    """A role of a pool: how its workers are started, how many there are, and what bounds them.

    The recipe is a spawner, or a callable that gets the place of a worker and returns one. It is
    called on a thread of the pool. A spawner without a role gets the pool's name for it. Times are
    in seconds.

    - `min_idle`, `max_size`, `spares`: how many workers are kept, may serve, and lie ready.
    - `lazy`: nothing is started before the first request.
    - `max_starts`: how many start at the same time.
    - `concurrency`, `prefetch`: how many requests a worker serves, and how many lie ready for it.
    - `max_waiting`: how many requests may wait; more are refused with `Overloaded`.
    - `grow_after`: how long requests wait before another worker is started.
    - `idle_timeout`, `max_lifetime`, `max_requests`, `max_rss`: when a worker is ended or replaced.
    - `stop_first`: a worker is ended before its replacement is started.
    - `backoff`: the first and the longest wait before a failed worker is started again, and after
      how long without a failure it is the first again.
    - `max_failures`: how many failures for each of `max_size` in how many seconds degrade the role.
    - `retry_budget`: how many per cent of the requests, or at least how many, in how many seconds,
      may be sent again that were begun.
    - `max_attempts`: how often an idempotent request may be begun.
    - `idempotent`: the kinds of requests that may be served twice.
    - `kinds`: further kinds that metrics show by their names.
    - `start_timeout`, `stop_timeout`, `hang_timeout`, `ping_interval`: the times of a worker.
    """

    def __new__(
        cls,
        recipe: Spawner | Callable[[WorkerSlot], Spawner],
        *,
        min_idle: int | None = None,
        max_size: int | None = None,
        spares: int | None = None,
        lazy: bool = False,
        max_starts: int | None = None,
        concurrency: int | None = None,
        prefetch: int | None = None,
        max_waiting: int | None = None,
        grow_after: float | None = None,
        idle_timeout: float | None = 600.0,
        max_lifetime: float | None = None,
        max_requests: int | None = None,
        max_rss: int | None = None,
        stop_first: bool = False,
        backoff: tuple[float, float, float] | None = None,
        max_failures: tuple[int, float] | None = None,
        retry_budget: tuple[int, int, float] | None = None,
        max_attempts: int | None = None,
        idempotent: Sequence[str | int] = ...,
        kinds: Sequence[str | int] = ...,
        start_timeout: float | None = 300.0,
        stop_timeout: float | None = None,
        hang_timeout: float | None = None,
        ping_interval: float | None = None,
    ) -> Self: ...

@final
class Load:
    """How full a role is. Times are in seconds."""

    @property
    def queued(self) -> int: ...
    @property
    def limit(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def oldest_wait(self) -> float: ...
    @property
    def retry_after(self) -> float: ...

@final
class WorkerHealth:
    """How a worker of a role is."""

    @property
    def index(self) -> int: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def is_alive(self) -> bool: ...
    @property
    def health(self) -> Health | None: ...

@final
class RoleHealth:
    """How a role is."""

    @property
    def role(self) -> str: ...
    @property
    def is_ready(self) -> bool: ...
    @property
    def is_degraded(self) -> bool: ...
    @property
    def load(self) -> Load: ...
    @property
    def workers(self) -> list[WorkerHealth]: ...

@final
class PoolHealth:
    """How a pool is."""

    @property
    def roles(self) -> dict[str, RoleHealth]: ...
    @property
    def events_dropped(self) -> int: ...
    @property
    def is_ready(self) -> bool: ...

@final
class Histogram:
    """How often something took how long, in seconds."""

    @property
    def count(self) -> int: ...
    @property
    def sum(self) -> float: ...
    def quantile(self, share: float) -> float | None:
        """Return the time that this share of all times did not exceed, at most 3.2 % too long."""

@final
class RoleMetrics:
    """What a role has counted since the pool was built."""

    @property
    def role(self) -> str: ...
    @property
    def requests(self) -> dict[tuple[str, str], int]:
        """How many requests of each kind have ended how: `ok`, or the `kind` of the error."""

    @property
    def queue_times(self) -> Histogram: ...
    @property
    def service_times(self) -> Histogram: ...
    @property
    def resent_unbegun(self) -> int: ...
    @property
    def resent_begun(self) -> int: ...
    @property
    def overflowed(self) -> int: ...
    @property
    def overflowed_back(self) -> int: ...
    @property
    def workers(self) -> dict[str, int]: ...
    @property
    def recycled(self) -> dict[str, int]: ...
    @property
    def load(self) -> Load: ...
    @property
    def channels(self) -> dict[str, int]: ...

@final
class PoolEvent:
    """Something that happened to a role or one of its workers."""

    @property
    def role(self) -> str: ...
    @property
    def worker(self) -> int | None: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def kind(
        self,
    ) -> Literal[
        "started",
        "ready",
        "died",
        "start_failed",
        "recycled",
        "stopped",
        "hung",
        "unresponsive",
        "degraded",
        "healed",
        "host_panicked",
        "unknown",
    ]: ...
    @property
    def started_for(self) -> float | None:
        """How many seconds the start of a worker took that is ready."""

    @property
    def error(self) -> BaseException | None:
        """Why a worker has died or could not be started."""

    @property
    def reason(self) -> str | None:
        """Why a worker is replaced."""

    @property
    def request(self) -> int | None:
        """The request of a worker that hangs."""

    @property
    def progress(self) -> int | None: ...

@final
class PoolEvents:
    """What happens to the workers of a pool from now on. It ends when the pool is closed."""

    def __iter__(self) -> Self: ...
    def __next__(self) -> PoolEvent: ...
    def poll(self, *, timeout: float = 0.0) -> PoolEvent | None:
        """Return the next event if it comes within so many seconds."""

    @property
    def is_over(self) -> bool:
        """Whether the end has been found."""

@final
class PoolPending:
    """A request to a pool whose reply is awaited later. If it is forgotten, it is cancelled."""

    @property
    def request(self) -> int:
        """The number of the request, the same over all its attempts."""

    def wait(self) -> Reply:
        """Wait for the reply, for as long as the timeout of the request says."""

    def poll(self, *, timeout: float = 0.0) -> Reply | None:
        """Wait for the reply for so many seconds at most; `None` if it is not there then."""

    def cancel(self) -> None:
        """Cancel the request, also while another thread waits for it."""

    def start(self, completions: Completions, /) -> Operation: ...

@final
class PoolStream:
    """The chunks of a request to a pool. If it is forgotten, the stream is cancelled."""

    @property
    def request(self) -> int | None:
        """The number of the request, once it is sent."""

    def __iter__(self) -> Self: ...
    def __next__(self) -> Reply: ...
    def cancel(self) -> None:
        """Ask the worker to end the stream. Chunks that are on their way still come."""

    def close(self) -> None:
        """Cancel the stream, of which no more chunks are wanted."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

@final
class RoleHandle:
    """Sends requests to whichever worker of a role has a place. Threads share it.

    A timeout counts over all attempts.
    """

    @property
    def name(self) -> str: ...
    def call(
        self, kind: str | int, payload: _Payload = None, **options: Unpack[_PoolCallOptions]
    ) -> Reply:
        """Send a request and wait for its reply."""

    def submit(
        self, kind: str | int, payload: _Payload = None, **options: Unpack[_PoolCallOptions]
    ) -> PoolPending:
        """Take a request whose reply is awaited later, without a wait."""

    def stream(
        self, kind: str | int, payload: _Payload = None, **options: Unpack[_PoolStreamOptions]
    ) -> PoolStream:
        """Send a request, and return the chunks of its answer as they come."""

    def start_stream(
        self, kind: str | int, payload: _Payload = None, **options: Unpack[_PoolStreamOptions]
    ) -> TaskStream: ...
    def ping(self, *, timeout: float | None = 5.0) -> list[Health | BaseException]:
        """Ask each worker for its report, or tell why there is none."""

    @staticmethod
    def cancel(request: PoolPending | PoolStream) -> None:
        """Cancel a request that was submitted, or a stream, from any thread."""

    def abort(self) -> None:
        """Ask the handlers of the workers that are there to stop, until `clear_abort`."""

    def clear_abort(self) -> None:
        """Let handlers run again."""

    def reload(self, role: PoolRole) -> None:
        """Replace all workers, one after another, by those that another role describes.

        The sizes, lifetimes, backoff and retries of the first one stay.
        """

    def reset(self) -> None:
        """Forget all failures of workers: what waits for its backoff is started at once."""

    def health(self) -> RoleHealth: ...
    def metrics(self) -> RoleMetrics: ...

class Pool:
    def __new__(cls, roles: Mapping[str, PoolRole], *, max_starts: int | None = None) -> Self: ...
    def role(self, name: str) -> RoleHandle:
        """Return the handle on a role. It does not keep the pool open."""

    def health(self) -> PoolHealth:
        """Return how the pool is."""

    def metrics(self) -> dict[str, RoleMetrics]:
        """Return what each role has counted."""

    def prometheus(self) -> str:
        """Return the metrics as text of Prometheus."""

    def events(self) -> PoolEvents:
        """Return what happens from now on. A reader that does not keep up misses events."""

    def close(self, *, timeout: float | None = 30.0) -> None:
        """End the pool: serve what it has for so many seconds, and end all workers."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

# Pipes: `_connection.py` adds the pickles.

class BytesConnection:
    """One end of a pipe: messages of bytes."""

    def __new__(
        cls, descriptors: tuple[int, int, int], is_first: bool, readable: bool, writable: bool
    ) -> Self: ...
    @property
    def closed(self) -> bool: ...
    @property
    def readable(self) -> bool: ...
    @property
    def writable(self) -> bool: ...
    def send_bytes(self, buf: Buffer, offset: int = 0, size: int | None = None) -> None: ...
    def recv_bytes(self, maxlength: int | None = None) -> bytes: ...
    def recv_bytes_into(self, buf: Buffer, offset: int = 0) -> int: ...
    def poll(self, timeout: float | None = 0.0) -> bool: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...
    def _parts(self) -> tuple[tuple[int, int, int], bool, bool, bool]: ...
    def _send_pickle(self, pickle: list[Buffer], buffers: list[Buffer]) -> None: ...
    def _recv_pickle(self) -> tuple[bytes, list[bytes | bytearray] | None]: ...

def make_pipe(
    duplex: bool, ring: int
) -> tuple[tuple[int, int, int], tuple[int, int, int]]: ...
def pack(pickle: list[Buffer], buffers: list[Buffer]) -> bytes: ...
def unpack(payload: Reply | Request | Buffer) -> tuple[Any, list[bytes | bytearray]]: ...
