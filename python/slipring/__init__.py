"""Worker processes that a host calls through shared memory.

A host starts workers with a `Spawner` and calls them through a `Channel`. A worker is a program
that makes a `Worker`, gives it handlers and calls `Worker.run`.
"""

from slipring._async import AsyncChannel, AsyncStream
from slipring._errors import (
    Cancelled,
    Closed,
    Error,
    Forked,
    HandlerFailed,
    InvalidInput,
    InvalidPayload,
    Overloaded,
    PeerDied,
    Protocol,
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
    Inbox,
    Incoming,
    Lease,
    Pending,
    Reply,
    Request,
    Role,
    Spawner,
    Stream,
)
from slipring._worker import Worker, is_worker

__all__ = [
    "AsyncChannel",
    "AsyncStream",
    "Cancelled",
    "Channel",
    "Closed",
    "Error",
    "ExitCause",
    "Forked",
    "HandlerFailed",
    "Health",
    "Inbox",
    "Incoming",
    "InvalidInput",
    "InvalidPayload",
    "Lease",
    "Overloaded",
    "PeerDied",
    "Pending",
    "Protocol",
    "Reply",
    "Request",
    "Role",
    "SessionFailed",
    "SpawnFailed",
    "Spawner",
    "Stalled",
    "Stream",
    "TimeoutError",
    "TooLarge",
    "TooManyInFlight",
    "Worker",
    "is_worker",
]
