"""Values as bytes: a pickle of protocol 5, and the large buffers beside it, as they are."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from slipring._connection import dump_parts
from slipring._slipring import pack, unpack

if TYPE_CHECKING:
    from slipring._slipring import Buffer, Reply, Request


def dump(value: object) -> bytes:
    """Return the bytes of a value, which is pickled as `multiprocessing` does it."""
    return pack(*dump_parts(value, None))


def load(payload: Reply | Request | Buffer) -> Any:
    """Return the value. Its buffers are `bytes` if they were read-only, and else a `bytearray`."""
    pickled, buffers = unpack(payload)
    return pickle.loads(pickled, buffers=buffers)
