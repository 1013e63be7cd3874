"""Values as bytes: a pickle of protocol 5, and the large buffers beside it.

Large buffers, such as those of arrays, lie behind the pickle as they are:

    number of buffers, length of the pickle     two u32
    length of each buffer                       u64
    the pickle
    each buffer, at a multiple of 64 bytes
"""

from __future__ import annotations

import io
import pickle
import struct
from multiprocessing.reduction import ForkingPickler
from typing import Any

_HEAD = struct.Struct("=II")
_LENGTH = struct.Struct("=Q")
_ALIGN = 64
_SMALL = 1024
"""A buffer that is shorter lies in the pickle."""


def dump(value: object) -> bytes:
    """Return the bytes of a value, which is pickled as `multiprocessing` does it."""
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _SMALL:
            return True
        buffers.append(raw)
        return False

    file = io.BytesIO()
    # By position: `ForkingPickler` takes nothing by name.
    ForkingPickler(file, 5, True, keep).dump(value)
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
    """Return the value. The buffers in it are parts of `data`."""
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
