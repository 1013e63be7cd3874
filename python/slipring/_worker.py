"""A worker whose handlers are functions."""

from __future__ import annotations

import faulthandler
import io
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

from slipring import _slipring

Payload: TypeAlias = "_slipring.Buffer | str | Sequence[str] | None"
"""What a handler can return, and a host can send."""

Answer: TypeAlias = "Payload | Iterator[Payload] | Awaitable[Payload] | AsyncIterator[Payload]"
"""The reply, or an iterator of the chunks of a stream; also awaited."""

Handler: TypeAlias = Callable[["_slipring.Request"], Answer]
"""Gets a request, and returns the reply, or an iterator of the chunks of a stream."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def is_worker() -> bool:
    """Return whether a spawner has started this process, which has not attached yet."""
    return _slipring.is_worker()


_ASYNC = 0x80 | 0x200
"""The flags of a coroutine's code and of an async generator's, which `inspect` names."""


def is_async(function: Callable[..., object]) -> bool:
    """Return whether a handler is made with `async def`, also as a method or in a `partial`."""
    while hasattr(function, "func") and hasattr(function, "keywords"):
        function = function.func
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return bool(getattr(code, "co_flags", 0) & _ASYNC)


class Worker:
    """A worker: a handler for each kind of request, or a loop that takes requests out of an inbox.

    * If no handler is made with `async def`, it serves one request at a time, on the thread that
      calls `run`.
    * If one is, that thread runs an event loop, and each request is a task. Handlers that are not
      async run on one other thread, one at a time.
    * With a loop (`inbox`), the loop decides.

    `max_taken` is how many requests tasks or a loop have at a time, 1024 unless told otherwise.
    Further ones wait in shared memory. A thread of the library's own answers pings meanwhile, also
    while a handler holds the interpreter lock.
    """

    def __init__(self, *, max_taken: int | None = None) -> None:
        if max_taken is not None and max_taken < 1:
            raise ValueError(f"max_taken is {max_taken}: it must be 1 or more")
        self._handlers: dict[str | int, Handler] = {}
        self._setup: Callable[[_slipring.Role], object] | None = None
        self._inbox: Callable[[_slipring.Inbox], object] | None = None
        self._kinds: list[str | int] = []
        self._max_taken = max_taken

    def handler(self, kind: str | int) -> Callable[[_Function], _Function]:
        """Make a function the handler of a kind of requests. For use as a decorator."""

        def add(function: _Function) -> _Function:
            if kind in self._handlers:
                raise ValueError(f"there is a handler for {kind!r} already")
            self._handlers[kind] = function
            return function

        return add

    def inbox(self, *kinds: str | int) -> Callable[[_Function], _Function]:
        """Make a function the loop that serves all requests of these kinds. For use as a decorator.

        The function gets the `Inbox` and runs on the thread that calls `run`, until the inbox raises
        `Closed`. It takes the place of handlers.
        """
        if not kinds:
            raise ValueError("an inbox without a kind of requests")

        def add(function: _Function) -> _Function:
            if self._inbox is not None:
                raise ValueError("there is a loop already")
            if is_async(function):
                raise TypeError("the loop is a plain function: use async handlers instead")
            self._inbox = function
            self._kinds = list(kinds)
            return function

        return add

    def setup(self, function: _Function) -> _Function:
        """Have a function called once with the `Role`, after the worker has attached.

        What takes long belongs there, such as loading a model: a spawner waits ten seconds for the
        worker to attach, and for as long as is needed after that. If handlers are async, it may be,
        too.
        """
        if self._setup is not None:
            raise ValueError("there is a setup function already")
        self._setup = function
        return function

    def run(self) -> None:
        """Attach to the host that has started this process, and serve until the host ends it.

        Turns `faulthandler` on and has the output written line by line, so that the log of a worker
        that crashes says something.
        """
        make_log_useful()
        if self._inbox is not None:
            if self._handlers:
                raise ValueError("a worker with handlers and a loop: choose one")
            flag = _slipring.AbortFlag()
            _slipring.serve_inbox(self._setup, self._inbox, self._kinds, self._max_taken, flag)
        elif any(is_async(handler) for handler in self._handlers.values()):
            # To import asyncio takes longer than the rest of a worker's start.
            from slipring import _serving

            _serving.serve(self._setup, self._handlers, self._max_taken)
        else:
            _slipring.serve(self._setup, self._handlers)


def make_log_useful() -> None:
    """Have the output written line by line, and a crash say where it was."""
    if not faulthandler.is_enabled():
        faulthandler.enable()
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(line_buffering=True)
