"""Pools of workers, and how tasks of asyncio use them."""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import AsyncIterator, Callable, Hashable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from slipring import _slipring
from slipring._errors import InvalidInput
from slipring._slipring import (
    Completions,
    Health,
    PoolEvent,
    PoolStream,
    Reply,
    RoleHandle,
)

if TYPE_CHECKING:
    from slipring._slipring import _Payload, _Priority

_Found = TypeVar("_Found")

# How often a thread that waits for events looks whether its task is gone, in seconds.
_EVENT_WAIT = 0.2


class Pool(_slipring.Pool):
    """Workers of one or more roles, which it keeps alive: restarts, retries, limits, one queue a role.

    It starts its first workers when it is made, and does not wait until they are ready. Requests
    wait for that. A configuration that cannot work raises `InvalidInput`.
    """

    def async_role(self, name: str) -> AsyncRole:
        """Return the handle on a role for tasks of asyncio."""
        return AsyncRole(self.role(name))

    async def async_events(self) -> AsyncIterator[PoolEvent]:
        """Return what happens from now on, until the pool is closed.

        A thread of the event loop's default executor waits for it.
        """
        events = self.events()
        while not events.is_over:
            event = await asyncio.to_thread(events.poll, timeout=_EVENT_WAIT)
            if event is not None:
                yield event

    async def aclose(self, *, timeout: float | None = 30.0) -> None:
        """End the pool: as `close`, on a thread of the event loop's default executor."""
        await asyncio.to_thread(self.close, timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        type: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class AsyncRole:
    """Sends requests to the workers of one role, from tasks of asyncio.

    A task that is cancelled cancels its request. `handle` has what needs no wait.
    """

    handle: RoleHandle
    """The handle on the same role for threads."""

    def __init__(self, handle: RoleHandle) -> None:
        self.handle = handle

    async def call(
        self,
        kind: str | int,
        payload: _Payload = None,
        *,
        timeout: float | None = None,
        priority: _Priority = "normal",
        key: Hashable = None,
        idempotent: bool | None = None,
    ) -> Reply:
        """Send a request and await its reply."""
        pending = self.handle.submit(
            kind, payload, timeout=timeout, priority=priority, key=key, idempotent=idempotent
        )
        try:
            return await _loop_waits().until(pending.poll_with)
        except asyncio.CancelledError:
            # The frame, which has it, may live for as long as the exception does.
            pending.cancel()
            raise

    def stream(
        self,
        kind: str | int,
        payload: _Payload = None,
        *,
        chunk_timeout: float | None = 300.0,
        first_chunk_timeout: float | None = None,
        queue_timeout: float | None = None,
        timeout: float | None = None,
        priority: _Priority = "normal",
        key: Hashable = None,
        idempotent: bool | None = None,
    ) -> AsyncPoolStream:
        """Return the chunks of an answer, to be iterated over. The first step sends the request."""
        stream = self.handle.begin_stream(
            kind,
            payload,
            chunk_timeout=chunk_timeout,
            first_chunk_timeout=first_chunk_timeout,
            queue_timeout=queue_timeout,
            timeout=timeout,
            priority=priority,
            key=key,
            idempotent=idempotent,
        )
        return AsyncPoolStream(stream)

    async def ping(self, *, timeout: float | None = 5.0) -> list[Health | BaseException]:
        """Ask each worker for its report, or tell why there is none."""
        return await asyncio.to_thread(self.handle.ping, timeout=timeout)

    def __repr__(self) -> str:
        return f"<AsyncRole of {self.handle.name}>"


class AsyncPoolStream:
    """The chunks of a request to a pool, in order: an asynchronous iterator.

    If it is forgotten or closed, the request is cancelled. A task that is cancelled while it awaits a
    chunk loses none: the next step goes on.
    """

    def __init__(self, stream: PoolStream) -> None:
        self._stream = stream
        self._is_awaited = False

    @property
    def request(self) -> int | None:
        """The number of the request, once it is sent."""
        return self._stream.request

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Reply:
        if self._is_awaited:
            raise InvalidInput("another task awaits the next chunk", kind="invalid_input")
        self._is_awaited = True
        try:
            is_over, chunk = await _loop_waits().until(self._poll)
        except asyncio.CancelledError:
            self._stream.end_wait()
            raise
        finally:
            self._is_awaited = False
        if is_over or chunk is None:
            raise StopAsyncIteration
        return chunk

    def _poll(self, completions: Completions, token: int) -> tuple[bool, Reply | None] | None:
        is_over, chunk = self._stream.poll_with(completions, token)
        return None if chunk is None and not is_over else (is_over, chunk)

    def cancel(self) -> None:
        """Ask the worker to end the stream. Chunks that are on their way still come."""
        self._stream.cancel()

    async def aclose(self) -> None:
        """Cancel the stream, of which no more chunks are wanted. Does not wait."""
        self._stream.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        type: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class _LoopWaits:
    """What wakes the tasks of one event loop.

    A thread of the library adds a token and rings a descriptor, without the interpreter lock. The
    event loop watches that and wakes the task that waits with the token.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._completions = Completions(has_descriptor=True)
        self._tokens = itertools.count()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        # The loop itself keeps this object, until it is closed.
        loop.add_reader(self._completions.fileno(), self._wake)

    def _wake(self) -> None:
        tokens = self._completions.take()
        try:
            while tokens:
                future = self._waiting.get(tokens[-1])
                if future is not None and not future.done():
                    future.set_result(None)
                tokens.pop()
        finally:
            # Ctrl-C can come at any point.
            for token in tokens:
                self._completions.add(token)

    async def until(self, poll: Callable[[Completions, int], _Found | None]) -> _Found:
        """Call `poll` each time that it may have something, until it has."""
        loop = asyncio.get_running_loop()
        while True:
            token = next(self._tokens)
            self._waiting[token] = woken = loop.create_future()
            try:
                found = poll(self._completions, token)
                if found is not None:
                    return found
                await woken
            finally:
                del self._waiting[token]


# This table does not keep them: what waits has the loop.
_loops: weakref.WeakKeyDictionary[Any, weakref.ref[_LoopWaits]] = weakref.WeakKeyDictionary()


def _loop_waits() -> _LoopWaits:
    """Return what wakes the tasks of the event loop that runs."""
    loop = asyncio.get_running_loop()
    known = _loops.get(loop)
    waits = None if known is None else known()
    if waits is None:
        waits = _LoopWaits(loop)
        _loops[loop] = weakref.ref(waits)
    return waits
