"""The drop-in channel's host."""

from __future__ import annotations

import asyncio
import atexit
import os
import pickle
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import context, resource_tracker, spawn, util
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import slipring
from slipring import _errors, _slipring
from slipring.compat._errors import WorkerCrashError, WorkerError, translated
from slipring.compat._messages import REQUEST, dump_request, load
from slipring.compat._worker import TRACKER, PassedFd

if TYPE_CHECKING:
    from slipring._slipring import _Config
    from slipring.compat._worker import WorkerMain

LOG_DIR = "SLIPRING_LOG_DIR"
"""The environment variable that names the directory of the logs."""

_GRACE = 2.5
"""How much sooner than its timeout a close sends SIGTERM, which the library follows by SIGKILL two
seconds later. Of a short timeout it is a fifth."""

_REAP = 0.4
"""How much sooner than its timeout a close sends SIGKILL in any case; of a short one it is a tenth."""


_MOST_FDS = 15
"""One less than the library passes: the tracker of shared memory has one, too."""


@dataclass(frozen=True)
class Handle:
    """A worker's process."""

    pid: int
    role: str


class _Popen:
    """Stands for a process that is being spawned, for objects that are pickled for one alone."""

    def __init__(self) -> None:
        self.fds: dict[str, int] = {}

    def duplicate_for_child(self, fd: int) -> PassedFd:
        if len(self.fds) == _MOST_FDS:
            raise ValueError(f"the configuration has more than {_MOST_FDS} descriptors")
        name = str(len(self.fds))
        self.fds[name] = fd
        return PassedFd(name)

    def DupFd(self, fd: PassedFd) -> PassedFd:  # noqa: N802 - the name of multiprocessing
        return fd


class Spawner:
    """Starts workers that run a function.

    Logs are written to `log_dir`, or to the directory that the environment variable
    `SLIPRING_LOG_DIR` names. Without either, workers write to the output of the host.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        *,
        config: _Config | None = None,
        env: Mapping[str, str] | None = None,
        handshake_timeout: float = 30.0,
    ) -> None:
        self._log_dir = log_dir
        self._config = config
        self._env = env
        self._handshake_timeout = handshake_timeout

    def spawn(
        self, worker_main: WorkerMain, role_config: Any, *, daemon: bool = True
    ) -> tuple[Channel, Handle]:
        """Start a worker that calls
        `worker_main(data_conn, health_conn, abort_flag, role_config)`, in a process of its own.

        The function must be one of a module, which the process imports. `role_config.role` names the
        role. A daemon is ended with the host. Another worker is told to end when the interpreter
        exits, which then waits for it.
        """
        role = role_config.role
        role = str(getattr(role, "value", role))
        log_dir = self._log_dir or os.environ.get(LOG_DIR) or None
        code = f"import sys; sys.path.append({_package_path()!r}); "
        code += "from slipring.compat._worker import main; main()"
        blob, fds = _start(worker_main, role_config, daemon, role)
        spawner = _slipring.Spawner(
            os.fsdecode(spawn.get_executable()),
            [*util._args_from_interpreter_flags(), "-c", code],  # type: ignore[attr-defined]
            # The library's names have fewer letters.
            role=re.sub(r"[^A-Za-z0-9_-]", "-", role)[:32] or "worker",
            env=self._env,
            blob=blob,
            fds=fds,
            log_dir=log_dir,
            inherit_stdio=log_dir is None,
            config=self._config,
            handshake_timeout=self._handshake_timeout,
        )
        try:
            spawned = _slipring.spawn_for_tasks_blocking(spawner)
        except slipring.Error as error:
            raise translated(error, role, None) from error
        channel = Channel(slipring.AsyncChannel(spawned), role)
        if not daemon:
            _to_join.difference_update([other for other in _to_join if not other.is_alive])
            _to_join.add(channel)
        return channel, Handle(channel.pid, role)


def _package_path() -> str:
    return str(Path(slipring.__file__).resolve().parent.parent)


def _start(
    worker_main: WorkerMain, role_config: Any, daemon: bool, role: str
) -> tuple[bytes, dict[str, int]]:
    """Return what the process gets: how to prepare itself and what to run, and descriptors."""
    before, popen = context.get_spawning_popen(), _Popen()
    context.set_spawning_popen(popen)  # type: ignore[arg-type]
    try:
        preparation = spawn.get_preparation_data(f"slipring-{role}")
        preparation["start_method"] = "spawn"
        function = _pickled((worker_main, role_config))
        start = {"preparation": preparation, "function": function, "daemon": daemon}
        tracker: Any = resource_tracker.getfd()
        return _pickled(start), {**popen.fds, TRACKER: tracker}
    finally:
        context.set_spawning_popen(before)


def _pickled(value: object) -> bytes:
    try:
        return bytes(ForkingPickler.dumps(value, pickle.HIGHEST_PROTOCOL))
    except Exception as error:
        message = f"the worker's function or configuration cannot be pickled: {error}"
        raise WorkerError("PickleError", message) from error


_to_join: set[Channel] = set()
"""Workers that are no daemons, which nothing else may hold."""


@atexit.register
def _join() -> None:
    for channel in list(_to_join):
        try:
            channel._channel.blocking.close(timeout=None)
        except slipring.Error:
            pass


class Channel:
    """The host's handle on one worker, for tasks of asyncio."""

    def __init__(self, channel: slipring.AsyncChannel, role: str) -> None:
        self._channel = channel
        self._role = role

    async def call(self, kind: str, payload: Any = None, timeout: float | None = None) -> Any:
        """Send a request and return the payload of its result.

        Raises the worker's error as `WorkerError`, `WorkerCrashError` if the worker ends, and
        `TimeoutError` after so many seconds.
        """
        request = dump_request(kind, payload)
        try:
            reply = await self._channel.call(REQUEST, request, timeout=timeout)
        except _errors.Error as error:
            raise self._translated(error) from error
        return load(reply)

    def stream(
        self, kind: str, payload: Any = None, stream_chunk_timeout: float | None = 300.0
    ) -> Stream:
        """Send a request and return the payloads of its chunks as they come: for `async for`.

        A worker that delivers nothing for so many seconds is a `WorkerCrashError`. After `cancel`
        the stream ends early.
        """
        request = dump_request(kind, payload)
        try:
            stream = self._channel.stream(REQUEST, request, chunk_timeout=stream_chunk_timeout)
        except _errors.Error as error:
            raise self._translated(error) from error
        return Stream(self, stream)

    async def ping(self, timeout: float | None = 5.0) -> slipring.Health:
        """Ask the worker for its report. It answers also while it computes."""
        try:
            return await self._channel.ping(timeout=timeout)
        except _errors.Error as error:
            raise self._translated(error) from error

    def cancel(self) -> None:
        """Set the abort flag: what the worker serves now should end early."""
        self._channel.abort()

    def clear_abort(self) -> None:
        """Reset the abort flag."""
        self._channel.clear_abort()

    async def close(self, timeout: float | None = 5.0) -> None:
        """End the worker. One that hangs is killed before so many seconds are over.

        Can be called again, and does nothing if the worker has ended.
        """
        if timeout is None:
            await self._close(None)
            return
        loop = asyncio.get_running_loop()
        killer = loop.call_later(max(timeout - _REAP, timeout * 0.9), self._kill)
        try:
            await self._close(max(timeout - _GRACE, timeout * 0.8))
        finally:
            killer.cancel()

    async def _close(self, timeout: float | None) -> None:
        _to_join.discard(self)
        try:
            await self._channel.close(timeout=timeout)
        except _errors.Forked:
            raise
        except _errors.Error:
            # The worker cannot be waited for. It is reaped when it ends.
            pass

    def _kill(self) -> None:
        try:
            process = os.pidfd_open(self.pid)
        except OSError:
            return
        try:
            # It was not reaped when the descriptor was made, so that this is its own.
            if self._channel.exit_cause is None:
                signal.pidfd_send_signal(process, signal.SIGKILL)
        except OSError:
            pass
        finally:
            os.close(process)

    def _translated(self, error: _errors.Error) -> Exception:
        return translated(error, self._role, self._channel.log_path)

    @property
    def role(self) -> str:
        """The role, as its configuration names it."""
        return self._role

    @property
    def pid(self) -> int:
        """The process id of the worker."""
        return self._channel.pid

    @property
    def is_alive(self) -> bool:
        """Whether requests can be sent."""
        return self._channel.is_alive

    @property
    def in_flight(self) -> int:
        """How many requests were sent and have not ended."""
        return self._channel.in_flight

    @property
    def log_path(self) -> str | None:
        """Where the worker's output is written, if it has a log."""
        return self._channel.log_path

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "open" if self.is_alive else "over"
        return f"<Channel to {self.role} (pid {self.pid}): {state}>"


class Stream:
    """The payloads of a stream's chunks. If it is forgotten, the stream is cancelled."""

    def __init__(self, channel: Channel, stream: slipring.AsyncStream) -> None:
        self._channel = channel
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            chunk = await anext(self._stream)
        except _errors.Cancelled:
            raise StopAsyncIteration from None
        except _errors.Error as error:
            raise self._channel._translated(error) from error
        return load(chunk)

    async def aclose(self) -> None:
        """Cancel the stream, of which no more chunks are wanted."""
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


__all__ = ["LOG_DIR", "Channel", "Handle", "Spawner", "Stream", "WorkerCrashError"]
