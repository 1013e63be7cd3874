"""The drop-in channel's worker: what a spawned process runs."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from multiprocessing import process, resource_tracker, spawn
from typing import Any, TypeAlias

from slipring import _slipring
from slipring._errors import Cancelled, Closed
from slipring._worker import make_log_useful
from slipring.compat._errors import WorkerError, as_error_payload
from slipring.compat._messages import MessageKind, dump, load, name_of

Message: TypeAlias = tuple[Any, Any]
"""A kind and a payload."""

_LOOK = 0.02
"""How often a thread looks whether the request before is answered."""


class AbortFlag:
    """Reads 1 if the host has set its flag, or wants nothing of the request that is served."""

    def __init__(self, flag: _slipring.AbortFlag, data: DataConnection) -> None:
        self._flag = flag
        self._data = data

    @property
    def value(self) -> int:
        """0 or 1."""
        return int(self._flag.is_set() or self._data.is_cancelled)


class _Connection:
    def __init__(self) -> None:
        self.closed = False

    def _check(self) -> None:
        if self.closed:
            raise OSError("handle is closed")

    def close(self) -> None:
        """Close this end. The channel ends when the worker returns."""
        self.closed = True

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DataConnection(_Connection):
    """Requests of the host, which are answered one after the other.

    `recv` returns the next request as `(kind, payload)`, and at the end of the worker once
    `("shutdown", None)`; then it raises `EOFError`. It waits until the request before is answered, or
    the host has given that up.
    """

    def __init__(self, inbox: _slipring.Inbox, flag: _slipring.AbortFlag) -> None:
        super().__init__()
        self._inbox = inbox
        self._flag = flag
        # What is served, until the next request is taken.
        self._request: _slipring.Incoming | None = None
        # A chunk was left out, so that no later one must be sent.
        self._is_cut = False
        # A message that `poll` has found.
        self._next: Message | None = None
        self._is_over = False
        self.told_to_end = threading.Event()

    @property
    def is_cancelled(self) -> bool:
        """Whether the host has given up the request that is served."""
        request = self._request
        return request is not None and request.is_open and request.request.cancelled

    def recv(self) -> Message:
        """Wait for the next message."""
        self._check()
        if self._next is None:
            self._find(None)
        message, self._next = self._next, None
        if message is None:
            raise EOFError
        return message

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Wait for so many seconds, `None` without end, for a message or the end."""
        self._check()
        return self._next is not None or self._is_over or self._find(timeout)

    def _find(self, timeout: float | None) -> bool:
        """Wait for the next message. Returns whether there is one, or the end."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self._is_over:
            left = None if end is None else max(0.0, end - time.monotonic())
            before = self._request
            if before is not None and before.is_open and not before.request.cancelled:
                if left == 0.0:
                    return False
                time.sleep(_LOOK if left is None else min(left, _LOOK))
                continue
            try:
                self._leave()
                incoming = self._inbox.take(timeout=left)
                if incoming is None:
                    return False
                self._next = self._accept(incoming)
            except Closed:
                self._is_over = True
                self.told_to_end.set()
                self._next = (MessageKind.SHUTDOWN.value, None)
            if self._next is not None:
                return True
        return True

    def _leave(self) -> None:
        """End the request before, which the host has given up, if the worker has not."""
        before, self._request = self._request, None
        self._is_cut = False
        if before is not None and before.is_open:
            before.fail(Cancelled("the request was cancelled", kind="cancelled"))

    def _accept(self, incoming: _slipring.Incoming) -> Message | None:
        incoming.begin()
        try:
            kind, payload = load(incoming.request)
        except WorkerError as error:
            incoming.fail_with(error.original_type, error.message, error.traceback_str)
            return None
        self._request = incoming
        return kind, payload

    def send(self, message: Message) -> None:
        """Answer the request that is served. An answer that the host does not wait for is dropped."""
        self._check()
        kind, payload = message
        request, name = self._request, name_of(kind)
        if name in (MessageKind.ACK, MessageKind.PONG):
            return
        if request is None or not request.is_open:
            return
        try:
            self._answer(request, name, kind, payload)
        except Cancelled:
            # The worker sees that in the flag, and ends the stream in its own way.
            self._is_cut = True
        except WorkerError as error:
            request.fail_with(error.original_type, error.message, error.traceback_str)

    def _answer(
        self, request: _slipring.Incoming, name: str | None, kind: object, payload: object
    ) -> None:
        is_stream = request.request.is_stream
        if name == MessageKind.ERROR:
            error = as_error_payload(payload)
            request.fail_with(error.type_name, error.message, error.traceback_str)
        elif name == MessageKind.RESULT and not is_stream:
            request.send(_checked(request, dump(payload)))
        elif name == MessageKind.STREAM_CHUNK and is_stream:
            if not self._is_cut:
                request.send_chunk(_checked(request, dump(payload)))
        elif name == MessageKind.STREAM_END and is_stream:
            request.end()
        else:
            what = "a stream" if is_stream else "a call"
            told = kind if name is None else name
            raise WorkerError("ProtocolError", f"the worker answered {what} with {told!r}")


def _checked(request: _slipring.Incoming, payload: bytes) -> bytes:
    if len(payload) > request.max_message:
        message = f"a payload of {len(payload)} bytes, at most {request.max_message} are allowed"
        raise WorkerError("PayloadTooLarge", f"{message}: raise max_message")
    return payload


class HealthConnection(_Connection):
    """Where a worker waits for pings, which the library answers itself.

    So `recv` returns `("shutdown", None)` at the end of the worker, and nothing before. What is sent
    here is dropped.
    """

    def __init__(self, told_to_end: threading.Event) -> None:
        super().__init__()
        self._told_to_end = told_to_end
        self._is_over = False

    def recv(self) -> Message:
        """Wait until the worker is to end."""
        self._check()
        if self._is_over:
            raise EOFError
        self._told_to_end.wait()
        self._is_over = True
        return MessageKind.SHUTDOWN.value, None

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Wait for so many seconds, `None` without end, until the worker is to end."""
        self._check()
        return self._told_to_end.wait(timeout)

    def send(self, message: Message) -> None:
        """Do nothing."""
        self._check()


WorkerMain: TypeAlias = Callable[[DataConnection, HealthConnection, AbortFlag, Any], object]
"""What a worker runs: it gets its connections, the flag and the configuration of its role."""


TRACKER = "tracker"
"""The name of the descriptor that leads to the host's tracker of shared memory and semaphores."""

_take_fd: Callable[[str], int] | None = None


class PassedFd:
    """A descriptor in a configuration, on its way to the worker."""

    def __init__(self, name: str) -> None:
        self._name = name

    def detach(self) -> int:
        """Return the descriptor, in the worker."""
        if _take_fd is None:
            raise RuntimeError("a descriptor of a configuration is taken while that is unpickled")
        return _take_fd(self._name)


def main() -> None:
    """Attach to the host, and run the function that it names."""
    make_log_useful()
    flag = _slipring.AbortFlag()
    found: list[Any] = []

    def setup(role: _slipring.Role) -> None:
        global _take_fd
        start = pickle.loads(role.blob)
        # As in `multiprocessing`: one of its own would unlink what it has seen when the worker ends.
        tracker: Any = resource_tracker._resource_tracker
        tracker._fd = role.take_fd(TRACKER)
        own = process.current_process()
        own._config["daemon"] = start["daemon"]  # type: ignore[attr-defined]
        # As in `multiprocessing.spawn`: the main module must not start workers while it is imported.
        own._inheriting = True  # type: ignore[attr-defined]
        try:
            spawn.prepare(start["preparation"])
            _take_fd = role.take_fd
            found.extend(pickle.loads(start["function"]))
        finally:
            _take_fd = None
            del own._inheriting  # type: ignore[attr-defined]

    def body(inbox: _slipring.Inbox) -> None:
        function, config = found
        data = DataConnection(inbox, flag)
        try:
            function(data, HealthConnection(data.told_to_end), AbortFlag(flag, data), config)
        finally:
            data.told_to_end.set()

    _slipring.serve_inbox(setup, body, None, None, flag)
