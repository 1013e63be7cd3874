"""What the tasks of an event loop wait for."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from slipring import _slipring

_READY_IN_A_ROW = 32
"""How many operations that are done at once a task gets before other tasks have their turn."""


class Waits:
    """What the tasks of one event loop wait for.

    A thread of the library's notes the token of each operation that can go on, and makes a descriptor
    readable, which the loop polls. So a loop that has nothing to do sleeps, and no thread of the
    library's waits for the interpreter lock.
    """

    __slots__ = ("__weakref__", "_ready", "callbacks", "completions")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.completions = _slipring.Completions(has_descriptor=True)
        self.callbacks: dict[int, Callable[[], object]] = {}
        self._ready = 0
        loop.add_reader(self.completions.fileno(), self._run)

    def _run(self) -> None:
        self.completions.run(self.callbacks)

    async def result(self, operation: _slipring.Operation) -> Any:
        """Wait for an operation. If the task is cancelled, the operation is given up."""
        try:
            await self.done(operation)
        except BaseException:
            operation.drop()
            raise
        return operation.result()

    async def done(self, operation: _slipring.Operation | None) -> None:
        """Wait until an operation is done: `None` is one that was so from the start.

        Such ones let other tasks run now and then: one whose calls are answered fast would never wait.
        """
        if operation is None or operation.is_done:
            self._ready += 1
            if self._ready % _READY_IN_A_ROW == 0:
                await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.callbacks[operation.token] = partial(_settle, future, operation)
        try:
            await future
        finally:
            del self.callbacks[operation.token]

    def future(self, operation: _slipring.Operation) -> asyncio.Future[Any]:
        """Return a future for an operation. If it is cancelled, the operation is given up."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def look() -> None:
            if operation.poll() and not future.done():
                try:
                    future.set_result(operation.result())
                except Exception as error:
                    future.set_exception(error)

        def end(_: asyncio.Future[Any]) -> None:
            del self.callbacks[operation.token]
            operation.drop()

        if operation.is_done:
            look()
        else:
            self.callbacks[operation.token] = look
            future.add_done_callback(end)
        return future


def _settle(future: asyncio.Future[None], operation: _slipring.Operation) -> None:
    if operation.poll() and not future.done():
        future.set_result(None)


_waits: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[Waits]]
# The loop itself keeps its `Waits`, by the reader, until it is closed. This table must not: what waits
# has the loop.
_waits = weakref.WeakKeyDictionary()


def waits() -> Waits:
    """Return what the tasks of the running event loop wait for."""
    loop = asyncio.get_running_loop()
    known = _waits.get(loop)
    found = None if known is None else known()
    if found is None:
        found = Waits(loop)
        _waits[loop] = weakref.ref(found)
    return found
