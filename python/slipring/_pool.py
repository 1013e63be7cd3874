"""Pools of workers, and how tasks of asyncio use them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Self

from slipring import _slipring
from slipring._async import AsyncStream
from slipring._slipring import Health, PoolEvent, Reply, RoleHandle
from slipring._waits import waits

if TYPE_CHECKING:
    from typing import Unpack

    from slipring._slipring import _Payload, _PoolCallOptions, _PoolStreamOptions

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

    async def __aexit__(self, *_: object) -> None:
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
        self, kind: str | int, payload: _Payload = None, **options: Unpack[_PoolCallOptions]
    ) -> Reply:
        """Send a request and await its reply. The options are those of `RoleHandle.call`."""
        here = waits()
        operation = self.handle.submit(kind, payload, **options).start(here.completions)
        reply: Reply = await here.result(operation)
        return reply

    def stream(
        self, kind: str | int, payload: _Payload = None, **options: Unpack[_PoolStreamOptions]
    ) -> AsyncStream:
        """Return the chunks of an answer, to be iterated over. The first step sends the request.

        The options are those of `RoleHandle.stream`.
        """
        return AsyncStream(self.handle.start_stream(kind, payload, **options))

    async def ping(self, *, timeout: float | None = 5.0) -> list[Health | BaseException]:
        """Ask each worker for its report, or tell why there is none."""
        return await asyncio.to_thread(self.handle.ping, timeout=timeout)

    def __repr__(self) -> str:
        return f"<AsyncRole of {self.handle.name}>"
