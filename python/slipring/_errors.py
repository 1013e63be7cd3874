"""The exceptions of the package, and how the extension module makes them."""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slipring._slipring import CrashReport, ExitCause, Unsettled


class Error(RuntimeError):
    """What every exception of the library derives from."""

    kind: str
    """What happened, in one word with underscores."""
    was_begun: bool | None
    """Whether the worker had begun the request; `None` if that is not known.

    `False` is certain: the request can be sent again without being served twice.
    """
    earlier_attempts: int
    """How often a pool had sent the request before the attempt that this error tells of."""
    earlier_ends: list[str]
    """How those attempts ended: all of them, or the last eight."""

    def __init__(
        self, message: str, *, kind: str = "error", details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        found = details or {}
        self.was_begun = found.get("was_begun")
        self.earlier_attempts = found.get("earlier_attempts", 0)
        self.earlier_ends = found.get("earlier_ends", [])
        self._report: CrashReport | str | None = found.get("_report")

    @property
    def crash_report(self) -> str | None:
        """The path of the crash report of the worker that died, failed or was not started.

        It is written a moment after the exception is made: `None` until then, and if there is none.
        """
        if self._report is None or isinstance(self._report, str):
            return self._report
        path = self._report.path()
        return None if path is None else str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, {**vars(self), "_report": self.crash_report}


class TimeoutError(Error, builtins.TimeoutError):
    """The timeout has passed. The request is cancelled, and the channel is usable."""


class QueueTimeout(TimeoutError):
    """The timeout has passed while the request waited for a worker of a pool: none has begun it."""


class Stalled(TimeoutError):
    """A stream delivered nothing within its chunk timeout. The channel is usable."""


class Cancelled(Error):
    """The request was cancelled. The channel is usable."""


class HandlerFailed(Error):
    """A handler of the worker has raised an exception. The channel is usable."""

    type_name: str
    """The name of the exception's class."""
    message: str
    """The exception's own text."""
    traceback: str
    """The traceback in the worker, as text; empty if there is none."""
    sources: list[str]
    """The texts of the exceptions that caused it, the nearest first."""

    def __init__(
        self, message: str, *, kind: str = "handler_failed", details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message, kind=kind, details=details)
        found = details or {}
        self.type_name = found.get("type_name", "")
        self.message = found.get("message", "")
        self.traceback = found.get("traceback", "")
        self.sources = found.get("sources", [])


class SessionFailed(HandlerFailed):
    """The worker could not set itself up. The channel is over."""


class PeerDied(Error):
    """The worker's process has ended. The channel is over.

    What is `None` because the last thread of the process has not stopped yet is known a moment later,
    by the same attribute.
    """

    role: str | None
    pid: int | None
    cause: ExitCause | None
    """How the process ended; `None` if the kernel has not said so yet."""
    signal: int | None
    """The signal that ended the process."""
    log_path: str | None
    log_tail: str | None
    """The end of what the worker has written to its log."""
    begun_alone: bool | None
    """Whether the request was the only one that the worker had begun; `None` if that is unknown."""
    begun_beside: int | None
    """How many other requests the worker had begun; `None` if that is unknown."""
    is_oom_suspected: bool
    """Whether the kernel has probably ended the worker for want of memory."""

    def __init__(
        self, message: str, *, kind: str = "peer_died", details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message, kind=kind, details=details)
        found = details or {}
        self.role = found.get("role")
        self.pid = found.get("pid")
        self.cause = found.get("cause")
        self.signal = None if self.cause is None else self.cause.signal
        path = found.get("log_path")
        self.log_path = None if path is None else str(path)
        self.log_tail = found.get("log_tail")
        self.begun_alone = found.get("begun_alone")
        self.begun_beside = found.get("begun_beside")
        self.is_oom_suspected = found.get("is_oom_suspected", False)
        unsettled = found.get("_unsettled")
        if unsettled is not None:
            self._unsettled = unsettled
            for name in _LATE:
                del self.__dict__[name]

    if not TYPE_CHECKING:  # or a checker would take every name for an attribute

        def __getattr__(self, name):
            """Look up what was not known yet."""
            unsettled = self.__dict__.get("_unsettled")
            if unsettled is None or name not in _LATE:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            found = _end(unsettled)
            if found["was_begun"] is not None:
                self.__dict__.update(found)
                self.__dict__.pop("_unsettled", None)
            return found[name]

    def __reduce__(self) -> tuple[Any, ...]:
        made, args, state = super().__reduce__()
        unsettled = state.pop("_unsettled", None)
        if unsettled is not None:
            state.update(_end(unsettled))
        return made, args, state


_LATE = ("was_begun", "cause", "signal", "begun_alone", "begun_beside", "is_oom_suspected")
"""What is known when the last thread of a worker has stopped."""


def _end(unsettled: Unsettled) -> dict[str, Any]:
    """Return what is known by now."""
    found = unsettled.look()
    return {**found, "signal": None if found["cause"] is None else found["cause"].signal}


class Poison(PeerDied):
    """A request to a pool has ended one worker after another, the last of them alone.

    What is told of a death is that of the last worker.
    """


class SpawnFailed(Error):
    """The worker could not be started, or has not attached."""

    log_tail: str | None
    """The end of what the worker has written to its log."""

    def __init__(
        self, message: str, *, kind: str = "spawn", details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message, kind=kind, details=details)
        self.log_tail = (details or {}).get("log_tail")


class TooLarge(Error):
    """The payload is longer than the longest message. Nothing was sent."""

    length: int | None
    limit: int | None

    def __init__(
        self, message: str, *, kind: str = "too_large", details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message, kind=kind, details=details)
        self.length = (details or {}).get("length")
        self.limit = (details or {}).get("limit")


class Closed(Error):
    """The channel was closed."""


class Protocol(Error):
    """The worker's answer has the wrong form, or is garbage."""


class InvalidPayload(Error):
    """The payload does not decode to what was asked for."""


class InvalidInput(Error):
    """What was asked for cannot be done, such as waiting again for a reply that was returned."""


class TooManyInFlight(Error):
    """The channel has as many requests in flight as it may have. Nothing was sent."""


class Overloaded(Error):
    """A pool has no place for the request, which was not sent."""

    queued: int | None
    """How many requests waited."""
    limit: int | None
    """How many may wait."""
    in_flight: int | None
    """How many the workers had."""
    oldest_wait: float | None
    """For how many seconds the oldest of those that waited had waited."""
    retry_after: float | None
    """In how many seconds those that waited will have been served, at the rate of late."""

    def __init__(
        self, message: str, *, kind: str = "overloaded", details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message, kind=kind, details=details)
        found = details or {}
        self.queued = found.get("queued")
        self.limit = found.get("limit")
        self.in_flight = found.get("in_flight")
        self.oldest_wait = found.get("oldest_wait")
        self.retry_after = found.get("retry_after")


class Degraded(Overloaded):
    """The workers of a pool's role fail too often, and none is there. It has no numbers."""

    pid: int | None
    """The process of the worker that has failed last, if that had begun to run."""
    log_tail: str | None
    """The end of what that worker has written to its log."""

    def __init__(
        self, message: str, *, kind: str = "degraded", details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message, kind=kind, details=details)
        self.pid = (details or {}).get("pid")
        self.log_tail = (details or {}).get("log_tail")


class Disconnected(Error):
    """The connection to another host was lost, or could not be made."""


class Forked(Error):
    """The channel belongs to the process that this one was forked from."""

    def __init__(
        self, message: str, *, kind: str = "forked", details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message, kind=kind, details=details)


_CLASSES: dict[str, type[Error]] = {
    "timeout": TimeoutError,
    "queue_timeout": QueueTimeout,
    "stalled": Stalled,
    "cancelled": Cancelled,
    "handler_failed": HandlerFailed,
    "session": SessionFailed,
    "peer_died": PeerDied,
    "spawn": SpawnFailed,
    "handshake": SpawnFailed,
    "mismatch": SpawnFailed,
    "too_large": TooLarge,
    "closed": Closed,
    "protocol": Protocol,
    "peer_corrupt": Protocol,
    "invalid_payload": InvalidPayload,
    "invalid_input": InvalidInput,
    "invalid_config": InvalidInput,
    "too_many_in_flight": TooManyInFlight,
    "overloaded": Overloaded,
    "poison": Poison,
    "degraded": Degraded,
    "disconnected": Disconnected,
    "forked": Forked,
}


def make(kind: str, message: str, details: Mapping[str, Any]) -> Error:
    """Return the exception for an error of the library of this kind."""
    if kind == "forked":
        # Not in the class, which also makes the copies of its exceptions that are unpickled.
        message += "; a child of os.fork() starts workers of its own, in a program that it executes"
    return _CLASSES.get(kind, Error)(message, kind=kind, details=details)


def describe(exception: BaseException) -> tuple[str, str, str, list[str]]:
    """Return an exception's class, text, traceback and the texts of its causes."""
    sources: list[str] = []
    seen = {id(exception)}
    cause = _cause(exception)
    while cause is not None and id(cause) not in seen and len(sources) < 32:
        seen.add(id(cause))
        sources.append(f"{_name(type(cause))}: {_text(cause)}")
        cause = _cause(cause)
    trace = "".join(traceback.format_exception(exception))
    return _name(type(exception)), _text(exception), trace, sources


def _cause(exception: BaseException) -> BaseException | None:
    if exception.__cause__ is not None or exception.__suppress_context__:
        return exception.__cause__
    return exception.__context__


def _name(kind: type) -> str:
    module = kind.__module__
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"


def _text(exception: BaseException) -> str:
    try:
        return str(exception)
    except Exception:
        return "(its text cannot be made)"
