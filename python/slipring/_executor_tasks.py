"""The tasks of an executor, from the call to the outcome."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import spawn
from typing import Any

from slipring import _slipring
from slipring._errors import Closed, Degraded, Error, PeerDied, SpawnFailed, make
from slipring._executor_start import Start
from slipring._pickled import dump
from slipring._tasks import How, outcome

# What the library says of a worker whose log is not its own.
_NO_LOG = "; it has no log: `Spawner::log_dir` keeps one of a spawned worker"

# A token that no task has: the manager looks at what else has changed.
_LOOK = 0


class TaskCrashed(PeerDied, BrokenProcessPool):
    """The process that was at the task has ended. Other tasks and the executor go on."""


class InitializerFailed(BrokenProcessPool):
    """The initializer has raised an exception before the task, or the process could not prepare.

    That exception is the cause. The task was not begun. The initializer is called again for the next
    task.
    """


class Task:
    """A task that has not ended."""

    __slots__ = ("future", "call", "operation")

    def __init__(self, future: Future[Any], function: Any, args: Any, kwargs: Any) -> None:
        self.future = future
        self.call: Any = (function, args, kwargs)
        self.operation: _slipring.Operation | None = None


def send_signal(pid: int, number: signal.Signals) -> bool:
    """Send a signal, and return whether there is such a process."""
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False


class Tasks:
    """The tasks of one executor, which it does not refer to.

    A thread, the manager, sends them and takes their outcomes. There is no lock: the garbage collector
    and signal handlers can run code of the host's, which may submit a task, at any point of this. What
    threads share is a queue and flags, whose single operations are atomic.
    """

    def __init__(self, start: Start, max_workers: int, max_tasks: int | None) -> None:
        self._start = start
        self._max_workers = max_workers
        self._max_tasks = max_tasks
        self._pid = os.getpid()
        self._waiting: deque[Task] = deque()
        # By the tokens that say that there is something new of a task. The manager's own.
        self._sent: dict[int, Task] = {}
        self._completions = _slipring.Completions()
        # Taken by the thread that makes the pool. It is not waited for.
        self._begun = threading.Lock()
        self._pool: _slipring.Pool | None = None
        self._role: _slipring.RoleHandle | None = None
        self._is_shut_down = False
        self._cancels_waiting = False
        self._is_abandoned = False
        self.manager: threading.Thread | None = None

    def add(self, task: Task) -> None:
        if os.getpid() != self._pid:
            raise make("forked", "an executor cannot be used in a forked child", {})
        self._check_open()
        # Before the look at who makes the pool: if that fails, the thread that does fails what waits.
        self._waiting.append(task)
        if self._role is None and self._begun.acquire(blocking=False):
            try:
                self._begin()
            except BaseException as error:
                pool, self._pool, self._role = self._pool, None, None
                if pool is not None:
                    # Lazy: it has no process.
                    pool.close(timeout=0.0)
                self._begun.release()
                self._fail_waiting(error)
                raise
        try:
            # A manager that has ended before that does not see the task.
            self._check_open()
        except RuntimeError:
            if self._take_back(task):
                raise
        self.wake()

    def _check_open(self) -> None:
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if _is_exiting:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def _take_back(self, task: Task) -> bool:
        """Remove a task that waits. Returns whether it did: the manager may have taken it."""
        try:
            self._waiting.remove(task)
            return True
        except ValueError:
            return False

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
        """Send tasks that wait: as many as there are processes, and one more, which lies ready."""
        while self._waiting and len(self._sent) <= self._max_workers:
            try:
                task = self._waiting.popleft()
            except IndexError:
                # A shutdown has cancelled it.
                return
            self._send(task)
            del task

    def _send(self, task: Task) -> None:
        if not task.future.set_running_or_notify_cancel():
            return
        role = self._role
        assert role is not None
        try:
            pickled = dump(task.call)
            task.call = None
            task.operation = role.submit("task", pickled).start(self._completions)
        except BaseException as error:
            task.call = None
            task.future.set_exception(self._told(error))
            return
        token = task.operation.token
        self._sent[token] = task
        self._look(token)

    def _manage(self) -> None:
        while True:
            self._guarded(self._send_more)
            # After the tasks for which there are processes: those are not cancelled.
            if self._cancels_waiting:
                self._cancel_waiting()
            if self._is_over():
                break
            for token in self._completions.wait():
                self._guarded(self._look, token)
        if self._pool is not None:
            try:
                self._pool.close(timeout=None)
            except Error:
                # A process that cannot be ended is the kernel's.
                pass
        self._start.end()
        _managed.pop(threading.current_thread(), None)

    def _guarded(self, step: Callable[..., None], *args: int) -> None:
        try:
            step(*args)
        except InvalidStateError:
            # The host itself has ended the future.
            self.wake()
        except BaseException:
            # The same, or a callback of the host's. Other tasks must not wait for ever for it.
            sys.excepthook(*sys.exc_info())
            self.wake()

    def _is_over(self) -> bool:
        # In this order: a task is added before its thread looks whether it may be.
        is_to_end = self._is_shut_down or self._is_abandoned or _is_exiting
        return is_to_end and not self._waiting and not self._sent

    def _look(self, token: int) -> None:
        """Take the outcome of a task, if there is one."""
        task = self._sent.get(token)
        if task is None:
            return
        assert task.operation is not None
        if not task.operation.poll():
            return
        del self._sent[token]
        try:
            reply = task.operation.result()
        except BaseException as error:
            task.future.set_exception(self._told(error))
            return
        try:
            how, value = outcome(reply)
        except BaseException as error:
            task.future.set_exception(error)
            return
        if how == "result":
            task.future.set_result(value)
        elif how == "raised":
            task.future.set_exception(value)
        else:
            task.future.set_exception(_not_begun(how, value))

    def _fail_waiting(self, error: BaseException) -> None:
        for task in self._take_waiting():
            if task.future.set_running_or_notify_cancel():
                task.future.set_exception(error)

    def _take_waiting(self) -> list[Task]:
        taken: list[Task] = []
        while True:
            try:
                taken.append(self._waiting.popleft())
            except IndexError:
                return taken

    def _told(self, error: BaseException) -> BaseException:
        """Return what the future of a task raises whose request has failed with this."""
        if not isinstance(error, (Closed, Degraded, PeerDied, SpawnFailed)):
            return error
        path, tail = self._start.log_of(getattr(error, "pid", None))
        message = str(error).replace(_NO_LOG, "")
        if tail is not None and tail.strip():
            message = f"{message}\nThe log of the process ends:\n{tail.rstrip()}"
        if isinstance(error, PeerDied):
            details = {**vars(error), "log_path": path, "log_tail": tail}
            return TaskCrashed(message, kind=error.kind, details=details)
        broken = BrokenProcessPool(message)
        broken.__cause__ = error
        return broken

    def shut_down(self, *, wait: bool, cancel_futures: bool) -> None:
        # Before the other flag, with which the manager may end.
        self._cancels_waiting = self._cancels_waiting or cancel_futures
        self._is_shut_down = True
        self.wake()
        manager = self.manager
        if wait and manager is not None and manager is not threading.current_thread():
            manager.join()

    def _cancel_waiting(self) -> None:
        for task in self._take_waiting():
            if task.future.cancel():
                task.future.set_running_or_notify_cancel()

    def end_now(self, number: signal.Signals) -> None:
        """Take no more tasks, and end the processes with a signal, whatever they are at."""
        self.shut_down(wait=False, cancel_futures=True)
        self._cancel_waiting()
        for pid in self.pids():
            send_signal(pid, number)
        if self._pool is not None:
            # What was sent and not begun is not sent again.
            self._pool.close(timeout=0.0)

    def abandon(self) -> None:
        """Have the manager end after the tasks that there are. The garbage collector calls it."""
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


_is_exiting = False
# The managers that run.
_managed: dict[threading.Thread, Tasks] = {}


def _at_exit() -> None:
    """Wait until all tasks have ended, before the interpreter ends."""
    global _is_exiting
    _is_exiting = True
    for manager, tasks in list(_managed.items()):
        tasks.wake()
        manager.join()


# Before the interpreter joins its threads, of which the managers are some.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
