"""What goes over the drop-in channel: kinds, and pickled payloads.

A payload is pickled with protocol 5. Large buffers, such as those of arrays, lie behind the pickle as
they are:

    number of buffers, length of the pickle     two u32
    length of each buffer                       u64
    the pickle
    each buffer, at a multiple of 64 bytes
"""

from __future__ import annotations

import io
import pickle
import struct
from enum import Enum
from multiprocessing.reduction import ForkingPickler
from typing import Any

from slipring.compat._errors import WorkerError, error_payload

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

_HEAD = struct.Struct("=II")
_LENGTH = struct.Struct("=Q")
_ALIGN = 64
_SMALL = 1024
"""A buffer that is shorter lies in the pickle."""


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
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _SMALL:
            return True
        buffers.append(raw)
        return False

    file = io.BytesIO()
    try:
        # By position: `ForkingPickler` takes nothing by name.
        ForkingPickler(file, 5, True, keep).dump(value)
    except Exception as error:
        raise _pickle_error("pickled", error) from error
    pickled = file.getbuffer()
    parts: list[bytes | memoryview] = [_HEAD.pack(len(buffers), len(pickled))]
    parts += [_LENGTH.pack(buffer.nbytes) for buffer in buffers]
    parts.append(pickled)
    end = _HEAD.size + _LENGTH.size * len(buffers) + len(pickled)
    for buffer in buffers:
        parts.append(bytes(-end % _ALIGN))
        parts.append(buffer)
        end += -end % _ALIGN + buffer.nbytes
    return b"".join(parts)


def load(data: bytearray) -> Any:
    """Return the value. The buffers in it are parts of `data`. An error is a `WorkerError`."""
    try:
        view = memoryview(data)
        count, length = _HEAD.unpack_from(view)
        end = _HEAD.size
        lengths = [_LENGTH.unpack_from(view, end + _LENGTH.size * index)[0] for index in range(count)]
        end += _LENGTH.size * count
        pickled = view[end : end + length]
        end += length
        buffers = []
        for length in lengths:
            end += -end % _ALIGN
            buffers.append(view[end : end + length])
            end += length
        return pickle.loads(pickled, buffers=buffers)
    except Exception as error:
        raise _pickle_error("unpickled", error) from error


def _pickle_error(what: str, error: Exception) -> WorkerError:
    told = error_payload(error)
    message = f"the payload cannot be {what}: {told.type_name}: {told.message}"
    return WorkerError("PickleError", message, told.traceback_str)
