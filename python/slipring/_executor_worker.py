"""The worker program of the executor."""

from __future__ import annotations

import atexit
import faulthandler
import io
import os
import pickle
import sys
import threading
from multiprocessing import process, resource_tracker, spawn
from typing import IO, Any

import slipring
from slipring._tasks import LOG_TAIL, failure, run_task

_unprepared: bytes | None = None
"""Why no task can be run: the main module or the arguments could not be loaded."""
_initializer: tuple[Any, tuple[Any, ...]] | None = None
"""What is still to be called before the first task."""
_initializer_failed: bytes | None = None
"""How the call failed that was made before there was a task."""


def main() -> None:
    """Serve tasks until the executor ends the process."""
    worker = slipring.Worker()
    worker.setup(_set_up)
    worker.handler("task")(_run)
    worker.run()


def _set_up(role: slipring.Role) -> None:
    """Prepare the process as `multiprocessing.spawn` does, and call the initializer."""
    global _unprepared, _initializer
    _write_log(role.extra["log_dir"], is_kept="log_is_kept" in role.extra)
    try:
        prepared: dict[str, Any] = pickle.loads(role.blob)
        _share_resource_tracker(prepared["tracker"])
        # Until it is removed, a process that is started by the main module is refused: the module
        # starts it without the guard against that.
        process.current_process()._inheriting = True  # type: ignore[attr-defined]
        try:
            spawn.prepare(prepared["preparation"])
            initializer = pickle.loads(prepared["initializer"])
        finally:
            del process.current_process()._inheriting  # type: ignore[attr-defined]
        _set_parent(prepared["parent"])
        if isinstance(initializer, BaseException):
            raise initializer
        _initializer = initializer
    except BaseException as error:
        _unprepared = failure("unprepared", error)
        return
    _initialize_early()


def _initialize_early() -> None:
    global _initializer_failed
    try:
        _initialize()
    except BaseException as error:
        _initializer_failed = failure("initializer", error)


def _initialize() -> None:
    """Call the initializer, unless a call has succeeded."""
    global _initializer
    if _initializer is not None:
        function, args = _initializer
        function(*args)
        _initializer = None


def _run(request: slipring.Request) -> bytes:
    global _initializer_failed
    if _unprepared is not None:
        return _unprepared
    failed, _initializer_failed = _initializer_failed, None
    if failed is None:
        try:
            _initialize()
        except BaseException as error:
            failed = failure("initializer", error)
    # After a failure the next task has the initializer called again.
    return run_task(request) if failed is None else failed


def _set_parent(name: str) -> None:
    parent = process._ParentProcess(name, os.getppid(), os.pidfd_open(os.getppid()))  # type: ignore[attr-defined]
    process._parent_process = parent  # type: ignore[attr-defined]


def _share_resource_tracker(descriptor: int) -> None:
    """Use the tracker of the host, so that the end of this process unlinks nothing of it."""
    try:
        # It is a pipe, which can be opened once more.
        own = os.open(f"/proc/{os.getppid()}/fd/{descriptor}", os.O_WRONLY)
    except OSError:
        return
    resource_tracker._resource_tracker._fd = own  # type: ignore[attr-defined]


def _write_log(directory: str, *, is_kept: bool) -> None:
    """Copy what is printed into a log, and have crashes write their traceback there."""
    path = os.path.join(directory, f"{os.getpid()}.log")
    try:
        # Programs that tidy up may have removed it.
        os.makedirs(directory, exist_ok=True)
        file = open(path, "a+b", buffering=0)
    except OSError:
        # Better without a log than not at all.
        return
    log = _Log(file, None if is_kept else _MOST)
    faulthandler.enable(file)
    sys.stdout = _tee(sys.stdout, log)
    sys.stderr = _tee(sys.stderr, log)
    if not is_kept:
        # A process that crashes leaves it to the executor.
        atexit.register(_remove, path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


# A log that is not kept is cut back to its end when it is longer.
_MOST = 16 * LOG_TAIL


class _Log:
    """A log, of at most so many bytes if it has a limit."""

    def __init__(self, file: IO[bytes], most: int | None) -> None:
        self._file = file
        self._most = most
        self._is_cut = threading.Lock()

    def write(self, data: memoryview) -> None:
        """Append what was printed. A full disk is no error of what prints."""
        log, most = self._file.fileno(), self._most
        try:
            if most is None:
                os.write(log, data)
                return
            length = os.write(log, data[-LOG_TAIL:]) and os.fstat(log).st_size
            # Never waited for: a signal handler prints, too.
            if length > most and self._is_cut.acquire(blocking=False):
                try:
                    end = os.pread(log, LOG_TAIL, length - LOG_TAIL)
                    os.ftruncate(log, 0)
                    os.write(log, end)
                finally:
                    self._is_cut.release()
        except OSError:
            pass


def _tee(output: Any, log: _Log) -> Any:
    if not isinstance(output, io.TextIOWrapper):
        return output
    output.flush()
    raw = io.BufferedWriter(_Tee(output.fileno(), log))
    return io.TextIOWrapper(
        raw, encoding=output.encoding, errors=output.errors, line_buffering=True
    )


class _Tee(io.RawIOBase):
    """Writes to a descriptor, and the same to a log."""

    def __init__(self, descriptor: int, log: _Log) -> None:
        self._descriptor = descriptor
        self._log = log

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any, /) -> int:
        written = os.write(self._descriptor, data)
        self._log.write(memoryview(data)[:written])
        return written
