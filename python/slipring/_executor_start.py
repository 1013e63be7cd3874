"""How the processes of an executor are started."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing import context, process, resource_sharer, resource_tracker, spawn, util
from multiprocessing.context import BaseContext
from os import PathLike
from pathlib import Path
from typing import Any

from slipring import _slipring
from slipring._tasks import LOG_TAIL, dumps

# What a worker runs. It finds the package if the host does, wherever that has it from.
_PROGRAM = (
    "import sys; sys.path.append(sys.argv.pop()); "
    "from slipring._executor_worker import main; main()"
)
_PACKAGE_ROOT = str(Path(__file__).parents[1])

# The longest message that a channel can be configured for.
_LARGEST = (1 << 32) - 1


class Start:
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
        self._config = {"max_message": _LARGEST, **config}
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
                log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL))
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
