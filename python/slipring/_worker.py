"""A worker whose handlers are functions."""

from __future__ import annotations

import faulthandler
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

from slipring import _slipring

Payload: TypeAlias = "_slipring.Buffer | str | Sequence[str] | None"
"""What a handler can return, and a host can send."""

Handler: TypeAlias = Callable[["_slipring.Request"], "Payload | Iterator[Payload]"]
"""Gets a request, and returns the reply, or an iterator of the chunks of a stream."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def is_worker() -> bool:
    """Return whether a spawner has started this process, which has not attached yet."""
    return _slipring.is_worker()


class Worker:
    """A worker: a handler for each kind of request.

    It serves one request at a time, on the thread that calls `run`. A thread of the library's own
    answers pings meanwhile, also while a handler holds the interpreter lock.
    """

    def __init__(self) -> None:
        self._handlers: dict[str | int, Handler] = {}
        self._setup: Callable[[_slipring.Role], object] | None = None

    def handler(self, kind: str | int) -> Callable[[_Function], _Function]:
        """Make a function the handler of a kind of requests. For use as a decorator."""

        def add(function: _Function) -> _Function:
            if kind in self._handlers:
                raise ValueError(f"there is a handler for {kind!r} already")
            self._handlers[kind] = function
            return function

        return add

    def setup(self, function: _Function) -> _Function:
        """Have a function called once with the `Role`, after the worker has attached.

        What takes long belongs there, such as loading a model: a spawner waits ten seconds for the
        worker to attach, and for as long as is needed after that.
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
        if not faulthandler.is_enabled():
            faulthandler.enable()
        for output in (sys.stdout, sys.stderr):
            if isinstance(output, io.TextIOWrapper):
                output.reconfigure(line_buffering=True)
        _slipring.serve(self._setup, self._handlers)
