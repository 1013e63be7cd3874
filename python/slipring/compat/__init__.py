"""A channel in the place of one over `multiprocessing` pipes.

A host that was written for such a channel changes its import:

    from slipring.compat import Spawner

    channel, handle = Spawner().spawn(worker_main, role_config)
    vectors = await channel.call("embed", texts, timeout=30.0)

`worker_main(data_conn, health_conn, abort_flag, role_config)` is a function of a module. Payloads are
pickled. `slipring.Spawner`, which this is not, has channels that carry texts and arrays without that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipring.compat._errors import ErrorPayload, WorkerCrashError, WorkerError, error_payload
from slipring.compat._messages import MessageKind
from slipring.compat._worker import AbortFlag, DataConnection, HealthConnection, WorkerMain

if TYPE_CHECKING:
    from slipring.compat._host import LOG_DIR, Channel, Handle, Spawner, Stream

__all__ = [
    "LOG_DIR",
    "AbortFlag",
    "Channel",
    "DataConnection",
    "ErrorPayload",
    "Handle",
    "HealthConnection",
    "MessageKind",
    "Spawner",
    "Stream",
    "WorkerCrashError",
    "WorkerError",
    "WorkerMain",
    "error_payload",
]


if not TYPE_CHECKING:  # or a checker would take every name for one of the package's

    def __getattr__(name):
        # A worker does without it, and without asyncio.
        if name in ("LOG_DIR", "Channel", "Handle", "Spawner", "Stream"):
            from slipring.compat import _host

            return getattr(_host, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
