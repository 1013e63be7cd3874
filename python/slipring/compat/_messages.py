"""What goes over the drop-in channel: kinds, and pickled payloads."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from slipring import _pickled
from slipring.compat._errors import WorkerError, error_payload

if TYPE_CHECKING:
    from slipring._slipring import Reply, Request

REQUEST = 0
"""The library's kind of all requests. The kind that the host gives is a part of the payload."""


class MessageKind(str, Enum):
    """The kinds that have a meaning. Any other string is a request.

    A host or a worker can use strings, or a str enum of its own, in their place.
    """

    PING = "ping"
    PONG = "pong"
    SHUTDOWN = "shutdown"
    ACK = "ack"
    RESULT = "result"
    ERROR = "error"
    STREAM_CHUNK = "stream_chunk"
    STREAM_END = "stream_end"


_RESERVED = frozenset(kind.value for kind in MessageKind)


def name_of(kind: object) -> str | None:
    """Return the string that a kind is; `None` if it is none."""
    value = kind.value if isinstance(kind, Enum) else kind
    return value if isinstance(value, str) else None


def dump_request(kind: object, payload: object) -> bytes:
    """Return the bytes of a request."""
    name = name_of(kind)
    if name is None or name in _RESERVED:
        raise WorkerError("ProtocolError", f"{kind!r} is not the kind of a request")
    return dump((kind, payload))


def dump(value: object) -> bytes:
    """Pickle a value. What cannot be pickled is a `WorkerError`."""
    try:
        return _pickled.dump(value)
    except Exception as error:
        raise _pickle_error("pickled", error) from error


def load(payload: Reply | Request) -> Any:
    """Return the value. An error is a `WorkerError`."""
    try:
        return _pickled.load(payload)
    except Exception as error:
        raise _pickle_error("unpickled", error) from error


def _pickle_error(what: str, error: Exception) -> WorkerError:
    told = error_payload(error)
    message = f"the payload cannot be {what}: {told.type_name}: {told.message}"
    return WorkerError("PickleError", message, told.traceback_str)
