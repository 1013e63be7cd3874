"""A channel in the place of one over `multiprocessing` pipes.

A host that was written for such a channel changes its import:

    from slipring.compat import Spawner

    channel, handle = Spawner().spawn(worker_main, role_config)
    vectors = await channel.call("embed", texts, timeout=30.0)

`worker_main(data_conn, health_conn, abort_flag, role_config)` is a function of a module. Payloads are
pickled. `slipring.Spawner`, which this is not, has channels that carry texts and arrays without that.
"""

from slipring.compat._errors import ErrorPayload, WorkerCrashError, WorkerError, error_payload
from slipring.compat._host import LOG_DIR, Channel, Handle, Spawner, Stream
from slipring.compat._messages import MessageKind
from slipring.compat._worker import AbortFlag, DataConnection, HealthConnection, WorkerMain

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
