"""What the executor and its workers have in common: tasks and their outcomes as bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures.process import _ExceptionWithTraceback
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from slipring._errors import HandlerFailed, describe
from slipring._pickled import dump, load

if TYPE_CHECKING:
    from slipring._slipring import Reply, Request

How: TypeAlias = Literal["result", "raised", "initializer", "unprepared"]
"""How a task has ended: with a result, with an exception, or before it was begun."""

# The highest protocol that every Python has that the package runs on.
_PROTOCOL = 5

LOG_TAIL = 4096
"""As much of a log as an error shows, in bytes."""


def dumps(value: object) -> memoryview:
    """Pickle a value, as `multiprocessing` does it."""
    pickled: memoryview = ForkingPickler.dumps(value, _PROTOCOL)
    return pickled


def run_task(task: Request) -> bytes:
    """Run a task, and return its outcome: its result, or what it has raised."""
    try:
        function, args, kwargs = load(task)
        return dump(("result", function(*args, **kwargs)))
    except BaseException as error:
        return failure("raised", error)


def failure(how: How, error: BaseException) -> bytes:
    """Return the outcome of a task that has failed, with the traceback as text."""
    told = describe(error)
    try:
        traced: Any = _ExceptionWithTraceback
        pickled = dump((how, traced(error, error.__traceback__)))
        # An exception that needs other arguments than it keeps cannot be made again.
        load(pickled)
        return pickled
    except BaseException as why:
        type_name, message, traceback, sources = told
        details = {
            "was_begun": True,
            "type_name": type_name,
            "message": message,
            "traceback": traceback,
            "sources": sources,
        }
        text = f"the task failed: {type_name}: {message} (it cannot be pickled: {why})"
        return dump((how, HandlerFailed(text, details=details)))


def outcome(reply: Reply) -> tuple[How, Any]:
    """Return how a task has ended, and its result or the exception."""
    how, value = load(reply)
    return how, value


def run_chunk(function: Callable[..., Any], chunk: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Call a function with each of these arguments."""
    return [function(*args) for args in chunk]
