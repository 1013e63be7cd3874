"""Pipes between processes, in the way of `multiprocessing`."""

from __future__ import annotations

import copyreg
import importlib
import io
import pickle
import pickletools
from collections import ChainMap
from collections.abc import Callable, Sequence
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from slipring._slipring import BytesConnection, make_pipe

if TYPE_CHECKING:
    from slipring._slipring import Buffer

_RING = 256 * 1024
_PROTOCOL = 5

# Buffers below this are as cheap inside the pickle.
_SMALL_BUFFER = 1024

# What no reducer is asked about: the pickler knows these itself.
_PLAIN = frozenset((bytes, str, int, float, bool, type(None)))


class Pickler(Protocol):
    """What `Connection.pickler` can be: the modules `pickle` and `cloudpickle` are such objects."""

    def dumps(
        self, obj: Any, protocol: int, *, buffer_callback: Callable[[Any], Any] | None = None
    ) -> bytes:
        """Return the pickle of an object."""


class Connection(BytesConnection):
    """One end of a pipe, in the way of `multiprocessing.connection.Connection`."""

    pickler: Pickler | ModuleType | None = None
    """What pickles objects in the place of `multiprocessing.reduction.ForkingPickler`."""

    def send(self, obj: Any) -> None:
        """Send an object to the other end, which returns it from `recv`.

        Large buffers of the object, such as those of numpy's arrays, are not copied into the pickle.
        """
        parts, buffers = dump_parts(obj, self.pickler)
        self._send_pickle(parts, buffers)

    def recv(self) -> Any:
        """Return an object that the other end has sent, or raise `EOFError` if it is closed."""
        data, buffers = self._recv_pickle()
        return pickle.loads(data) if buffers is None else pickle.loads(data, buffers=buffers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        from multiprocessing import reduction

        descriptors, is_first, readable, writable = self._parts()
        handles = tuple(reduction.DupFd(descriptor) for descriptor in descriptors)
        pickler: Any = self.pickler
        if isinstance(pickler, ModuleType):
            pickler = _Module(pickler.__name__)
        return _rebuild, (type(self), handles, is_first, readable, writable, pickler)


class _Module:
    """A module on its way to another process."""

    def __init__(self, name: str) -> None:
        self.name = name


def _rebuild(
    kind: type[Connection],
    handles: Sequence[Any],
    is_first: bool,
    readable: bool,
    writable: bool,
    pickler: Any,
) -> Connection:
    memory, data, room = (handle.detach() for handle in handles)
    connection = kind((memory, data, room), is_first, readable, writable)
    if isinstance(pickler, _Module):
        pickler = importlib.import_module(pickler.name)
    if pickler is not None:
        connection.pickler = pickler
    return connection


def Pipe(
    duplex: bool = True, *, ring: int = _RING, pickler: Pickler | ModuleType | None = None
) -> tuple[Connection, Connection]:
    """Return two connections, each of which receives what is sent through the other one.

    If `duplex` is false, the first can only receive and the second only send. `ring` is how many
    bytes lie in the pipe before a sender waits, a power of two; messages can be longer. `pickler`
    becomes both ends' `Connection.pickler`.
    """
    first, second = make_pipe(bool(duplex), ring)
    ends = (
        Connection(first, True, True, bool(duplex)),
        Connection(second, False, bool(duplex), True),
    )
    if pickler is not None:
        for end in ends:
            end.pickler = pickler
    return ends


class _Sink:
    """A file that keeps what is written to it, without a copy."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[Any], Any]) -> None:
        self.write = write


def dump_parts(obj: Any, pickler: Any) -> tuple[list[Buffer], list[Buffer]]:
    """Return the parts of an object's pickle, and its buffers."""
    if type(obj) in _PLAIN and pickler is None:
        return [pickle.dumps(obj, _PROTOCOL)], []
    buffers: list[Buffer] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        memory = buffer.raw()
        if memory.nbytes < _SMALL_BUFFER:
            return True
        buffers.append(memory)
        return False

    if pickler is not None:
        return [pickler.dumps(obj, _PROTOCOL, buffer_callback=keep)], buffers
    parts: list[Buffer] = []
    dumper = _pickler_class()(_Sink(parts.append), _PROTOCOL, True, keep)
    dumper.dump(obj)
    return parts, buffers


_classes: dict[Any, Any] = {}


def _pickler_class() -> Any:
    """Return `ForkingPickler`, but one that makes its table of reducers once."""
    from multiprocessing import reduction

    forking: Any = reduction.ForkingPickler
    found = _classes.get(forking)
    if found is None:
        found = forking
        if forking.__module__ == "multiprocessing.reduction":
            # Both registries may grow.
            table = ChainMap(forking._extra_reducers, copyreg.dispatch_table)
            found = type("_Pickler", (pickle.Pickler,), {"dispatch_table": table})
        _classes[forking] = found
    return found


def in_band(data: bytes, buffers: Sequence[bytes | bytearray]) -> bytes:
    """Return a pickle that has its buffers inside, for a receiver that wants bytes."""
    out = io.BytesIO()
    rest = iter(buffers)
    operations = list(pickletools.genops(data))
    ends = [position for _, _, position in operations[1:]] + [len(data)]
    names = [operation.name for operation, _, _ in operations] + [""]
    for index, (operation, _, start) in enumerate(operations):
        if operation.name == "NEXT_BUFFER":
            # READONLY_BUFFER makes a read-only view of what lies before it.
            code = b"\x8e" if names[index + 1] == "READONLY_BUFFER" else b"\x96"
            buffer = next(rest)
            out.write(code + len(buffer).to_bytes(8, "little"))
            out.write(buffer)
        elif operation.name not in ("READONLY_BUFFER", "FRAME"):
            out.write(data[start : ends[index]])
    return out.getvalue()
