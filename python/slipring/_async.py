"""The channel for tasks of asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, final

from slipring import _slipring
from slipring._waits import waits

if TYPE_CHECKING:
    from typing import Self, Unpack

    from slipring._slipring import _Payload, _StreamOptions


async def spawn(spawner: _slipring.Spawner) -> AsyncChannel:
    """Start a worker and wait until it has attached."""
    here = waits()
    return AsyncChannel(await here.result(_slipring.spawn_for_tasks(here.completions, spawner)))


@final
class AsyncChannel:
    """The host's handle on one worker, for tasks of asyncio: `await spawner.spawn_async()`.

    Tasks of several event loops share it, and threads share `blocking`, which is the same channel.
    Timeouts are in seconds; `None` waits until the worker answers or is gone. A task that is
    cancelled while it waits cancels its request.
    """

    __slots__ = ("__weakref__", "_blocking", "_channel")

    def __init__(self, channel: _slipring.TaskChannel) -> None:
        self._channel = channel
        self._blocking = channel.blocking()

    async def call(
        self,
        kind: str | int,
        payload: _Payload = None,
        *,
        timeout: float | None = None,
        traceparent: str | None = None,
    ) -> _slipring.Reply:
        """Send a request and wait for its reply."""
        here = waits()
        operation = self._channel.call(here.completions, kind, payload, timeout, traceparent)
        reply: _slipring.Reply = await here.result(operation)
        return reply

    def submit(
        self,
        kind: str | int,
        payload: _Payload = None,
        *,
        timeout: float | None = None,
        traceparent: str | None = None,
    ) -> asyncio.Future[_slipring.Reply]:
        """Send a request, and return a future of its reply. To cancel it cancels the request."""
        here = waits()
        operation = self._channel.call(here.completions, kind, payload, timeout, traceparent)
        return here.future(operation)

    def stream(
        self, kind: str | int, payload: _Payload = None, **options: Unpack[_StreamOptions]
    ) -> AsyncStream:
        """Send a request, and return the chunks of its answer as they come.

        The options are those of `Channel.stream`.
        """
        waits()
        return AsyncStream(self._channel.stream(kind, payload, **options))

    async def wait_ready(self, *, timeout: float | None = None) -> None:
        """Wait until the worker has set itself up."""
        here = waits()
        await here.result(self._channel.wait_ready(here.completions, timeout))

    async def ping(self, *, timeout: float | None = 5.0) -> _slipring.Health:
        """Ask the worker for its report. It answers also while a handler runs."""
        here = waits()
        health: _slipring.Health = await here.result(self._channel.ping(here.completions, timeout))
        return health

    async def close(self, *, timeout: float | None = 5.0) -> _slipring.ExitCause:
        """End the worker, which has so many seconds before it is killed. Can be called again.

        If the task is cancelled meanwhile, the worker is ended all the same.
        """
        here = waits()
        cause: _slipring.ExitCause = await here.result(self._channel.close(here.completions, timeout))
        return cause

    async def wait_exit(self) -> _slipring.ExitCause:
        """Wait until the worker has ended by itself."""
        here = waits()
        cause: _slipring.ExitCause = await here.result(self._channel.wait_exit(here.completions))
        return cause

    def health(self) -> _slipring.Health:
        """Return the worker's report as it stands in shared memory, without a wait."""
        return self._blocking.health()

    def cancel(self, request: int) -> None:
        """Cancel a request by its number. Does nothing if it has ended."""
        self._blocking.cancel(request)

    def abort(self) -> None:
        """Ask all handlers to stop, until `clear_abort`."""
        self._blocking.abort()

    def clear_abort(self) -> None:
        """Let handlers run again."""
        self._blocking.clear_abort()

    @property
    def blocking(self) -> _slipring.Channel:
        """The same channel, for threads."""
        return self._blocking

    @property
    def role(self) -> str:
        """The role that the spawner was given."""
        return self._blocking.role

    @property
    def pid(self) -> int:
        """The process id of the worker."""
        return self._blocking.pid

    @property
    def is_alive(self) -> bool:
        """Whether requests can be sent."""
        return self._blocking.is_alive

    @property
    def in_flight(self) -> int:
        """How many requests were sent and have not ended."""
        return self._blocking.in_flight

    @property
    def exit_cause(self) -> _slipring.ExitCause | None:
        """How the worker ended; `None` while it runs."""
        return self._blocking.exit_cause

    @property
    def log_path(self) -> str | None:
        """Where the worker's output is written, if it has a log."""
        return self._blocking.log_path

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "open" if self.is_alive else "over"
        return f"<AsyncChannel to {self.role} (pid {self.pid}): {state}>"


@final
class AsyncStream:
    """The chunks of a stream, in order, for `async for`. If it is forgotten, it is cancelled.

    A task that is cancelled while it waits for a chunk loses none: another one can go on.
    """

    __slots__ = ("_next", "_stream")

    def __init__(self, stream: _slipring.TaskStream) -> None:
        self._stream = stream
        # A chunk that has come for a task that was cancelled before it ran.
        self._next: _slipring.Operation | None = None

    @property
    def request(self) -> int | None:
        """The number of the request; `None` until it is sent."""
        return self._stream.request

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _slipring.Reply:
        here = waits()
        operation, self._next = self._next, None
        if operation is None:
            operation = self._stream.next(here.completions)
        try:
            await here.done(operation)
        except BaseException:
            if operation.is_done:
                self._next = operation
            else:
                operation.drop()
            raise
        chunk: _slipring.Reply | None = operation.result()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    def cancel(self) -> None:
        """Ask the worker to end the stream. Chunks that are on their way still come."""
        self._stream.cancel()

    async def aclose(self) -> None:
        """Cancel the stream, of which no more chunks are wanted."""
        self._next = None
        self._stream.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<AsyncStream of request {self.request}>"
