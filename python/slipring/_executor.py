"""The executor of `concurrent.futures`, over a pool."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import context, process, resource_sharer, resource_tracker, spawn, util
from multiprocessing.context import BaseContext
from os import PathLike
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from slipring import _slipring
from slipring._errors import Closed, Degraded, Error, Forked, PeerDied, SpawnFailed
from slipring._tasks import How, dumps, outcome, run_chunk

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")

# What a worker runs. It finds the package if the host does, wherever that has it from.
_PROGRAM = (
    "import sys; sys.path.append(sys.argv.pop()); "
    "from slipring._executor_worker import main; main()"
)
_PACKAGE_ROOT = str(Path(__file__).parents[1])

# What the library says of a worker whose log is not its own.
_NO_LOG = "; it has no log: `Spawner::log_dir` keeps one of a spawned worker"

# As much of a log as an error shows.
_LOG_TAIL = 4096

# Limits that a task never meets.
_LONG = 1e9
_LARGE = (1 << 32) - 1

# A token that no task has: the manager looks at what else has changed.
_LOOK = 0


class TaskCrashed(PeerDied, BrokenProcessPool):
    """The process that was at the task has ended. Other tasks and the executor go on."""


class InitializerFailed(BrokenProcessPool):
    """The initializer has raised an exception before the task, or the process could not prepare.

    That exception is the cause. The task was not begun. The initializer is called again for the next
    task.
    """


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
        self._tasks = _Tasks(
            _Start(initializer, initargs, self._mp_context, log_dir, config or {}),
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
        self._tasks.add(_Task(future, fn, args, kwargs))
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
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def is_alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

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


class _Task:
    """A task that has not ended."""

    __slots__ = ("future", "call", "pending")

    def __init__(self, future: Future[Any], function: Any, args: Any, kwargs: Any) -> None:
        self.future = future
        self.call: Any = (function, args, kwargs)
        self.pending: _slipring.PoolPending | None = None


class _Start:
    """What a process is started with."""

    def __init__(
        self,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        mp_context: BaseContext,
        log_dir: str | PathLike[str] | None,
        config: Mapping[str, int],
    ) -> None:
        self._initializer = None if initializer is None else (initializer, initargs)
        self._start_method = mp_context.get_start_method(allow_none=True) or "spawn"
        self._config = {"max_message": _LARGE, **config}
        self._is_log_kept = log_dir is not None
        self._log_dir = None if log_dir is None else os.path.abspath(log_dir)

    def begin(self) -> None:
        """Make what all processes need."""
        if self._log_dir is None:
            self._log_dir = tempfile.mkdtemp(prefix="slipring-executor-")
        else:
            os.makedirs(self._log_dir, exist_ok=True)

    def end(self) -> None:
        if self._log_dir is not None and not self._is_log_kept:
            shutil.rmtree(self._log_dir, ignore_errors=True)

    def spawner(self, slot: _slipring.WorkerSlot) -> _slipring.Spawner:
        """Return what starts the next process. Called on a thread of the pool."""
        assert self._log_dir is not None
        extra = {"log_dir": self._log_dir}
        if self._is_log_kept:
            extra["log_is_kept"] = "1"
        flags = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
        return _slipring.Spawner(
            os.fsdecode(spawn.get_executable()),
            [*flags, "-c", _PROGRAM, _PACKAGE_ROOT],
            extra=extra,
            blob=self._prepared(slot.index),
            inherit_stdio=True,
            handshake_timeout=120.0,
            config=self._config,  # type: ignore[arg-type]
        )

    def _prepared(self, index: int) -> bytes:
        """Return what the worker program gets: how to prepare, and the initializer."""
        # Locks, queues and connections can be pickled only while a process is started.
        context.set_spawning_popen(_Spawning)  # type: ignore[arg-type]
        try:
            preparation = spawn.get_preparation_data(f"SlipringProcess-{index + 1}")
            preparation["start_method"] = self._start_method
            try:
                initializer = bytes(dumps(self._initializer))
            except BaseException as error:
                initializer = bytes(dumps(_without_traceback(error)))
            return bytes(
                dumps(
                    {
                        "preparation": preparation,
                        "initializer": initializer,
                        "parent": process.current_process().name,
                        "tracker": resource_tracker.getfd(),
                    }
                )
            )
        finally:
            context.set_spawning_popen(None)

    def log_of(self, pid: int | None) -> tuple[str | None, str | None]:
        """Return the path of a process's log, if that is kept, and its end."""
        if pid is None or self._log_dir is None:
            return None, None
        path = os.path.join(self._log_dir, f"{pid}.log")
        try:
            with open(path, "rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL))
                tail = log.read().decode(errors="replace")
        except OSError:
            return None, None
        if self._is_log_kept:
            return path, tail
        try:
            os.unlink(path)
        except OSError:
            pass
        return None, tail


class _Spawning:
    """What `multiprocessing` pickles descriptors with, in place of one of its own processes."""

    DupFd = resource_sharer.DupFd

    @staticmethod
    def duplicate_for_child(descriptor: int) -> int:
        return descriptor


def _without_traceback(error: BaseException) -> BaseException:
    try:
        pickle.loads(dumps(error))
        return error
    except BaseException:
        return pickle.PicklingError(f"the initializer cannot be pickled: {error!r}")


class _Tasks:
    """The tasks of one executor, which it does not refer to.

    A thread, the manager, takes outcomes and sends tasks that wait. No code of the host's runs while
    the lock is held: no pickler, no callback of a future.
    """

    def __init__(self, start: _Start, max_workers: int, max_tasks: int | None) -> None:
        self._start = start
        self._max_workers = max_workers
        self._max_tasks = max_tasks
        self._lock = threading.Lock()
        self._waiting: deque[_Task] = deque()
        self._sent: dict[int, _Task] = {}
        # How many tasks are being sent, and tokens that came before their tasks were.
        self._sending = 0
        self._early: set[int] = set()
        self._tokens = itertools.count(_LOOK + 1)
        self._completions = _slipring.Completions()
        self._pool: _slipring.Pool | None = None
        self._role: _slipring.RoleHandle | None = None
        self._pid = os.getpid()
        self._is_shut_down = False
        self._is_abandoned = False
        self.manager: threading.Thread | None = None

    def add(self, task: _Task) -> None:
        if os.getpid() != self._pid:
            # Its lock may be held by a thread that is not in this process.
            raise Forked("an executor cannot be used in a forked child")
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if _is_exiting:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            if self.manager is None:
                self._begin()
            self._waiting.append(task)
        self._send_more()

    def _begin(self) -> None:
        """Make the pool, and start the manager."""
        # A main module without its guard would start processes without end.
        spawn._check_not_importing_main()  # type: ignore[attr-defined]
        self._start.begin()
        role = _slipring.PoolRole(
            self._start.spawner,
            lazy=True,
            min_idle=0,
            max_size=self._max_workers,
            max_starts=self._max_workers,
            grow_after=0.0,
            idle_timeout=None,
            prefetch=0,
            max_waiting=self._max_workers + 2,
            max_requests=self._max_tasks,
            # It would serve more until its replacement is ready.
            stop_first=self._max_tasks is not None,
            backoff=(0.05, 1.0, 60.0),
            max_failures=(3, 60.0),
            start_timeout=None,
        )
        self._pool = _slipring.Pool({"executor": role})
        self._role = self._pool.role("executor")
        manager = threading.Thread(target=self._manage, name="slipring-executor")
        manager.start()
        self.manager = manager
        _managed[manager] = self

    def _send_more(self) -> None:
        """Send tasks that wait, as long as there are processes for them, and one more."""
        while (task := self._next()) is not None:
            try:
                self._send(task)
            finally:
                with self._lock:
                    self._sending -= 1
            del task

    def _next(self) -> _Task | None:
        with self._lock:
            if len(self._sent) + self._sending > self._max_workers or not self._waiting:
                return None
            self._sending += 1
            return self._waiting.popleft()

    def _send(self, task: _Task) -> None:
        if not task.future.set_running_or_notify_cancel():
            return
        role = self._role
        assert role is not None
        try:
            pickled = dumps(task.call)
            task.call = None
            token = next(self._tokens)
            task.pending = role.submit("task", pickled)
            # The manager alone takes the outcome.
            self._completions.add(token)
        except BaseException as error:
            task.call = None
            task.future.set_exception(_broken(error) if isinstance(error, Error) else error)
            if isinstance(error, KeyboardInterrupt):
                raise
            return
        with self._lock:
            self._sent[token] = task
            if token in self._early:
                self._early.discard(token)
                self._completions.add(token)

    def _manage(self) -> None:
        while not self._is_over():
            for token in self._completions.wait():
                self._look(token)
            self._send_more()
        if self._pool is not None:
            try:
                self._pool.close(timeout=None)
            except Error:
                # A process that cannot be ended is the kernel's.
                pass
        self._start.end()
        _managed.pop(threading.current_thread(), None)

    def _is_over(self) -> bool:
        with self._lock:
            is_to_end = self._is_shut_down or self._is_abandoned or _is_exiting
            return is_to_end and not (self._waiting or self._sent or self._sending)

    def _look(self, token: int) -> None:
        with self._lock:
            task = self._sent.get(token)
            if task is None:
                if token != _LOOK:
                    self._early.add(token)
                return
        assert task.pending is not None
        try:
            reply = task.pending.poll_with(self._completions, token)
        except BaseException as error:
            self._forget(token)
            task.future.set_exception(self._told(error))
            return
        if reply is None:
            return
        self._forget(token)
        try:
            how, value = outcome(bytes(reply))
        except BaseException as error:
            task.future.set_exception(error)
            return
        if how == "result":
            task.future.set_result(value)
        elif how == "raised":
            task.future.set_exception(value)
        else:
            task.future.set_exception(_not_begun(how, value))

    def _forget(self, token: int) -> None:
        with self._lock:
            del self._sent[token]

    def _told(self, error: BaseException) -> BaseException:
        """Return what the future of a task raises that the pool could not have served."""
        if not isinstance(error, PeerDied):
            return _broken(error)
        path, tail = self._start.log_of(error.pid)
        details = {**vars(error), "log_path": path, "log_tail": tail}
        message = str(error).replace(_NO_LOG, "")
        if tail is not None and tail.strip():
            message = f"{message}\nThe log of the process ends:\n{tail.rstrip()}"
        return TaskCrashed(message, kind=error.kind, details=details)

    def shut_down(self, *, wait: bool, cancel_futures: bool) -> None:
        with self._lock:
            self._is_shut_down = True
            cancelled = list(self._waiting) if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
        for task in cancelled:
            if task.future.cancel():
                task.future.set_running_or_notify_cancel()
        self.wake()
        manager = self.manager
        if wait and manager is not None and manager is not threading.current_thread():
            manager.join()

    def abandon(self) -> None:
        """Have the manager end after the tasks that there are. Takes no lock: the garbage collector
        calls it, also in a thread that has the lock."""
        self._is_abandoned = True
        self.wake()

    def pids(self) -> list[int]:
        if self._role is None:
            return []
        workers = self._role.health().workers
        return [one.pid for one in workers if one.pid is not None and one.is_alive]

    def wake(self) -> None:
        """Have the manager look whether it is to end. Does nothing in a forked child."""
        if os.getpid() == self._pid:
            self._completions.add(_LOOK)


def _not_begun(how: How, why: BaseException) -> InitializerFailed:
    what = "the initializer has failed" if how == "initializer" else "the process could not prepare"
    failed = InitializerFailed(f"{what} before the task: {why!r}")
    failed.__cause__ = why
    return failed


def _broken(error: BaseException) -> BaseException:
    """Return the exception of a task that no process could take."""
    if not isinstance(error, (Closed, Degraded, SpawnFailed)):
        return error
    broken = BrokenProcessPool(str(error))
    broken.__cause__ = error
    return broken


_is_exiting = False
# The managers that run.
_managed: dict[threading.Thread, _Tasks] = {}


def _at_exit() -> None:
    """Wait until all tasks have ended, before the interpreter ends."""
    global _is_exiting
    _is_exiting = True
    for manager, tasks in list(_managed.items()):
        tasks.wake()
        manager.join()


# Before the interpreter joins its threads, of which the managers are some.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
