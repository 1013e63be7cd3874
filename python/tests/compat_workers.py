"""Workers of the drop-in channel."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from enum import Enum
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import slipring
from slipring.compat import AbortFlag, DataConnection, HealthConnection, error_payload


class Role(str, Enum):
    EMBED = "embed"


class Kind(str, Enum):
    """A host's own kinds."""

    EMBED = "embed"
    RESULT = "result"
    STREAM_CHUNK = "stream_chunk"
    STREAM_END = "stream_end"
    ERROR = "error"
    SHUTDOWN = "shutdown"
    ACK = "ack"


@dataclass
class RoleConfig:
    role: Role | str = Role.EMBED
    factor: int = 2
    mode: str = ""


@dataclass
class Shared:
    """A configuration with objects that have descriptors, or are shared in another way."""

    role: str
    theirs: Any
    ours: slipring.Connection
    queue: Any
    lock: Any
    event: Any
    number: Any
    memory: SharedMemory


def share(data: DataConnection, health: HealthConnection, abort: AbortFlag, config: Shared) -> None:
    """Use everything in the configuration, once for each request."""
    while True:
        kind, _ = data.recv()
        if kind == "shutdown":
            return
        config.theirs.send(f"theirs got {config.theirs.recv()}")
        config.ours.send(f"ours got {config.ours.recv()}")
        with config.lock:
            config.number.value += 1
        buffer = config.memory.buf
        assert buffer is not None
        buffer[0] += 1
        config.queue.put("queued")
        config.event.set()
        # One that this process has started would unlink the memory at the end.
        has_own_tracker = resource_tracker._resource_tracker._pid is not None  # type: ignore[attr-defined]
        data.send(("result", has_own_tracker))


class NotToUnpickle(Exception):
    """An exception whose arguments are not those of its class."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def watch_health(conn: HealthConnection) -> None:
    """Answer pings, as a worker did that had to."""
    while True:
        try:
            kind, payload = conn.recv()
        except EOFError:
            print("health: end\n", end="")
            return
        if kind == "ping":
            conn.send(("pong", payload))
        else:
            print(f"health: {kind}\n", end="")


def worker_main(
    data: DataConnection, health: HealthConnection, abort: AbortFlag, config: RoleConfig
) -> None:
    """Serve requests as a worker over a pipe does."""
    thread = threading.Thread(target=watch_health, args=(health,))
    thread.start()
    if config.mode == "raises":
        raise LookupError("no such model")
    if config.mode == "exits":
        sys.exit(3)
    while True:
        if config.mode == "polls" and not data.poll(0.05):
            continue
        kind, payload = data.recv()
        if kind == Kind.SHUTDOWN:
            data.send((Kind.ACK, None))
            break
        try:
            serve(data, abort, config, kind, payload)
        except Exception as error:
            data.send((Kind.ERROR, error_payload(error)))
    data.close()
    print("worker_main returns\n", end="")


def serve(data: DataConnection, abort: AbortFlag, config: RoleConfig, kind: str, payload: Any) -> None:
    match kind:
        case Kind.EMBED:
            data.send((Kind.RESULT, [number * config.factor for number in payload]))
        case "echo":
            data.send(("result", payload))
        case "writable":
            payload += 1
            data.send(("result", payload))
        case "kind":
            data.send(("result", type(kind).__name__))
        case "kind of":
            data.send(("result", (payload[0], type(payload[0]).__name__)))
        case "process":
            own = multiprocessing.current_process()
            start = multiprocessing.get_start_method()
            data.send(("result", (own.name, own.daemon, start, sys.argv, os.getpid())))
        case "fail":
            raise LookupError("no such number") from ValueError("seven")
        case "odd error":
            raise Odd
        case "send":
            for message in payload:
                data.send(message)
        case "send unpicklable":
            data.send((payload, threading.Lock()))
            data.send((payload, "not heard"))
        case "send exception":
            data.send(("result", NotToUnpickle("a", "b")))
        case "send error":
            data.send(("error", NotToUnpickle("a", "b")))
        case "large":
            data.send(("result", bytes(payload)))
        case "large chunk":
            data.send(("stream_chunk", bytes(payload)))
            data.send(("stream_end", None))
        case "count":
            for number in range(payload):
                data.send((Kind.STREAM_CHUNK, number))
            data.send((Kind.STREAM_END, None))
        case "until aborted":
            number = 0
            while not abort.value:
                data.send((Kind.STREAM_CHUNK, number))
                number += 1
                time.sleep(0.001)
            print("aborted", flush=True)
            data.send((Kind.STREAM_CHUNK, "late"))
            data.send((Kind.STREAM_END, None))
        case "until aborted, late":
            while not abort.value:
                data.send((Kind.STREAM_CHUNK, 0))
                time.sleep(0.001)
            data.send((Kind.STREAM_CHUNK, "dropped"))
            print("aborted")
            while abort.value:
                time.sleep(0.001)
            data.send((Kind.STREAM_CHUNK, "late"))
            data.send((Kind.STREAM_END, None))
        case "until aborted, no end":
            while not abort.value:
                data.send((Kind.STREAM_CHUNK, 0))
                time.sleep(0.001)
        case "one chunk":
            data.send((Kind.STREAM_CHUNK, 1))
            while not abort.value:
                time.sleep(0.001)
            data.send((Kind.STREAM_END, None))
        case "wait":
            while not abort.value:
                time.sleep(0.001)
            print("gives up", flush=True)
            if payload:
                data.send(("result", payload))
        case "abort value":
            data.send(("result", abort.value))
        case "compute":
            sys.setswitchinterval(1000)
            end = time.monotonic() + payload
            while time.monotonic() < end:
                pass
            sys.setswitchinterval(0.005)
            data.send(("result", "done"))
        case "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print("hangs", flush=True)
            while True:
                time.sleep(1)
        case "crash":
            print("about to crash", flush=True)
            os.kill(os.getpid(), payload)
        case _:
            data.send((Kind.ERROR, {"type_name": "UnknownKind", "message": kind}))
