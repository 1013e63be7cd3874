"""The executor of `concurrent.futures`, over a pool."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from functools import partial
from multiprocessing.context import BaseContext
from os import PathLike
from typing import Any, ParamSpec, TypeVar

from slipring._executor_start import Start
from slipring._executor_tasks import InitializerFailed, Task, TaskCrashed, Tasks, send_signal
from slipring._tasks import run_chunk

__all__ = ["InitializerFailed", "ProcessPoolExecutor", "TaskCrashed"]

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")

# A time that never passes, in seconds.
_LONG = 1e9


class ProcessPoolExecutor(Executor):
    """Runs functions in processes, as that of `concurrent.futures` does.

    A process that crashes fails the task that it was at, with `TaskCrashed`. All other tasks and the
    executor go on. Processes are always started afresh, as with the start method `spawn`, whatever
    the context says: they have nothing of what the host has in memory.

    `log_dir` keeps what the processes have printed. Without it there are logs only for as long as the
    executor is there, so that a crash can tell their end. `config` is that of a `Spawner`.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        log_dir: str | PathLike[str] | None = None,
        config: Mapping[str, int] | None = None,
    ) -> None:
        if max_workers is None:
            max_workers = os.cpu_count() or 1
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        self._max_workers = max_workers
        self._mp_context = mp_context or multiprocessing.get_context("spawn")
        self._broken = False
        self._tasks = Tasks(
            Start(initializer, initargs, self._mp_context, log_dir, config or {}),
            max_workers,
            max_tasks_per_child,
        )
        # Without a reference to the executor, whose end is to be noticed.
        weakref.finalize(self, self._tasks.abandon).atexit = False

    def submit(
        self, fn: Callable[_Params, _Result], /, *args: _Params.args, **kwargs: _Params.kwargs
    ) -> Future[_Result]:
        """Have `fn(*args, **kwargs)` called in a process, and return the future of it."""
        future: Future[_Result] = Future()
        self._tasks.add(Task(future, fn, args, kwargs))
        return future

    def map(
        self,
        fn: Callable[..., _Result],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **options: Any,
    ) -> Iterator[_Result]:
        """Return the results of calling `fn` with the items, in their order.

        `chunksize` is how many calls a task has. Other options are those of the `Executor.map` of the
        Python that runs.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        chunks = _chunks(zip(*iterables), chunksize)
        call: Callable[..., list[_Result]] = partial(run_chunk, fn)
        return _flat(super().map(call, chunks, timeout=timeout, **options))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and end the processes when those that there are have ended."""
        self._tasks.shut_down(wait=wait, cancel_futures=cancel_futures)

    def terminate_workers(self) -> None:
        """End the processes with SIGTERM, whatever they are at, and take no more tasks."""
        self._tasks.end_now(signal.SIGTERM)

    def kill_workers(self) -> None:
        """End the processes with SIGKILL, whatever they are at, and take no more tasks."""
        self._tasks.end_now(signal.SIGKILL)

    @property
    def _processes(self) -> dict[int, _Process]:
        """The processes that are there, for code that looks for them in the original."""
        return {pid: _Process(pid) for pid in self._tasks.pids()}

    @property
    def _executor_manager_thread(self) -> threading.Thread | None:
        return self._tasks.manager


class _Process:
    """What code wants of a process of an executor."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def terminate(self) -> None:
        send_signal(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        send_signal(self.pid, signal.SIGKILL)

    def is_alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
            return True
        except ProcessLookupError:
            return False

    def join(self, timeout: float | None = None) -> None:
        end = time.monotonic() + (_LONG if timeout is None else timeout)
        while self.is_alive() and time.monotonic() < end:
            time.sleep(0.01)


def _chunks(items: Iterator[_Result], size: int) -> Iterator[tuple[_Result, ...]]:
    while chunk := tuple(itertools.islice(items, size)):
        yield chunk


def _flat(lists: Iterator[list[_Result]]) -> Iterator[_Result]:
    for each in lists:
        # Without a reference to what was returned.
        each.reverse()
        while each:
            yield each.pop()
