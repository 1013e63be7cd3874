"""The exceptions of the drop-in channel."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slipring import _errors

_TAIL = 4096
"""The most bytes of a log's end that an error shows."""


class WorkerError(RuntimeError):
    """A request has failed."""

    original_type: str
    """The name of the class of the worker's exception, or what the channel says of itself:
    `ProtocolError`, `PayloadTooLarge`, `PickleError`, or `PoolShutdownError` after a close."""
    message: str
    traceback_str: str
    """The traceback in the worker, as text; empty if there is none."""

    def __init__(self, original_type: str, message: str, traceback_str: str = "") -> None:
        super().__init__(original_type, message, traceback_str)
        self.original_type = original_type
        self.message = message
        self.traceback_str = traceback_str

    def __str__(self) -> str:
        text = f"{self.original_type}: {self.message}"
        return f"{text}\n\n{self.traceback_str}" if self.traceback_str else text


class WorkerCrashError(WorkerError):
    """The worker has ended, or delivers nothing any more."""

    role: str
    log_path: str | None
    log_tail: str | None
    """The end of what the worker has written to its log."""

    def __init__(
        self,
        role: str,
        log_path: str | os.PathLike[str] | None = None,
        *,
        message: str | None = None,
        log_tail: str | None = None,
        original_type: str = "WorkerCrashError",
        traceback_str: str = "",
    ) -> None:
        if message is None:
            message = f"the worker '{role}' has ended"
        super().__init__(original_type, message, traceback_str)
        self.role = role
        self.log_path = None if log_path is None else os.fspath(log_path)
        self.log_tail = _tail(self.log_path) if log_tail is None else log_tail

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerCrashError, (self.role, self.log_path), self.__dict__


def _tail(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        with open(path, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
            return log.read().decode(errors="replace")
    except OSError:
        return None


@dataclass(frozen=True)
class ErrorPayload:
    """What a worker sends with the kind `error`."""

    type_name: str
    message: str
    traceback_str: str = ""


def error_payload(error: BaseException) -> ErrorPayload:
    """Return what to send of an exception, which need not be one that can be pickled."""
    try:
        message = str(error)
    except Exception:
        message = "(its text cannot be made)"
    try:
        trace = "".join(traceback.format_exception(error))
    except Exception:
        trace = ""
    return ErrorPayload(type(error).__name__, message, trace)


def as_error_payload(payload: object) -> ErrorPayload:
    """Return the error that a worker has sent, whatever it is."""
    if isinstance(payload, BaseException):
        return error_payload(payload)

    def part(name: str, other: str) -> str:
        try:
            found = payload.get(name) if isinstance(payload, Mapping) else getattr(payload, name)
            return str(other if found is None else found)
        except Exception:
            return other

    try:
        text = str(payload)
    except Exception:
        text = "(its text cannot be made)"
    return ErrorPayload(part("type_name", "Error"), part("message", text), part("traceback_str", ""))


def translated(error: _errors.Error, role: str, log_path: str | None) -> Exception:
    """Return the drop-in channel's exception for one of the library's."""
    match error:
        case _errors.Stalled():
            return WorkerCrashError(role, log_path, message=str(error))
        case _errors.TimeoutError() | _errors.Forked():
            return error
        case _errors.PeerDied():
            tail = error.log_tail
            return WorkerCrashError(role, log_path, message=str(error), log_tail=tail)
        case _errors.SpawnFailed():
            tail = error.log_tail
            return WorkerCrashError(role, log_path, message=str(error), log_tail=tail)
        case _errors.SessionFailed():
            return WorkerCrashError(
                role,
                log_path,
                message=f"the worker failed with {error.type_name}: {error.message}",
                original_type=error.type_name.rpartition(".")[2],
                traceback_str=error.traceback,
            )
        case _errors.HandlerFailed():
            name = error.type_name
            if name == "slipring::NoReply":
                name = "ProtocolError"
            return WorkerError(name, error.message, error.traceback)
        case _:
            return WorkerError(_TYPES.get(type(error), type(error).__name__), str(error))


_TYPES: dict[type[_errors.Error], str] = {
    _errors.Closed: "PoolShutdownError",
    _errors.TooLarge: "PayloadTooLarge",
    _errors.Protocol: "ProtocolError",
    _errors.InvalidPayload: "ProtocolError",
}
