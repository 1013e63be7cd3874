"""Worker processes that a host calls through shared memory.

A host starts workers with a `Spawner` and calls them through a `Channel`. A worker is a program
that makes a `Worker`, gives it handlers and calls `Worker.run`. A `Pool` keeps workers alive, and a
`ProcessPoolExecutor` is that of `concurrent.futures` over one.
"""

from typing import TYPE_CHECKING

from slipring._errors import (
    Cancelled,
    Closed,
    Degraded,
    Disconnected,
    Error,
    Forked,
    HandlerFailed,
    InvalidInput,
    InvalidPayload,
    Overloaded,
    PeerDied,
    Poison,
    Protocol,
    QueueTimeout,
    SessionFailed,
    SpawnFailed,
    Stalled,
    TimeoutError,
    TooLarge,
    TooManyInFlight,
)
from slipring._slipring import (
    Channel,
    ExitCause,
    Health,
    Histogram,
    Inbox,
    Incoming,
    Lease,
    Load,
    Pending,
    PoolEvent,
    PoolEvents,
    PoolHealth,
    PoolPending,
    PoolRole,
    PoolStream,
    Reply,
    Request,
    Role,
    RoleHandle,
    RoleHealth,
    RoleMetrics,
    Spawner,
    Stream,
    WorkerHealth,
    WorkerSlot,
)
from slipring._worker import Worker, is_worker

if TYPE_CHECKING:
    from slipring._async import AsyncChannel, AsyncStream
    from slipring._connection import Connection, Pipe
    from slipring._executor import InitializerFailed, ProcessPoolExecutor, TaskCrashed
    from slipring._pool import AsyncRole, Pool

# What imports asyncio or multiprocessing is imported when it is asked for: that takes longer than all
# the rest, and workers start faster without it.
_LATER = {
    "AsyncChannel": "_async",
    "AsyncRole": "_pool",
    "AsyncStream": "_async",
    "Connection": "_connection",
    "InitializerFailed": "_executor",
    "Pipe": "_connection",
    "Pool": "_pool",
    "ProcessPoolExecutor": "_executor",
    "TaskCrashed": "_executor",
}

if not TYPE_CHECKING:  # or a checker would take every name for one of the package's

    def __getattr__(name):
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"slipring.{_LATER[name]}"), name)
        globals()[name] = value
        return value


__all__ = [
    "AsyncChannel",
    "AsyncRole",
    "AsyncStream",
    "Cancelled",
    "Channel",
    "Closed",
    "Connection",
    "Degraded",
    "Disconnected",
    "Error",
    "ExitCause",
    "Forked",
    "HandlerFailed",
    "Health",
    "Histogram",
    "Inbox",
    "Incoming",
    "InitializerFailed",
    "InvalidInput",
    "InvalidPayload",
    "Lease",
    "Load",
    "Overloaded",
    "PeerDied",
    "Pending",
    "Pipe",
    "Poison",
    "Pool",
    "PoolEvent",
    "PoolEvents",
    "PoolHealth",
    "PoolPending",
    "PoolRole",
    "PoolStream",
    "ProcessPoolExecutor",
    "Protocol",
    "QueueTimeout",
    "Reply",
    "Request",
    "Role",
    "RoleHandle",
    "RoleHealth",
    "RoleMetrics",
    "SessionFailed",
    "SpawnFailed",
    "Spawner",
    "Stalled",
    "Stream",
    "TaskCrashed",
    "TimeoutError",
    "TooLarge",
    "TooManyInFlight",
    "Worker",
    "WorkerHealth",
    "WorkerSlot",
    "is_worker",
]
