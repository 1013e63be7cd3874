"""A worker whose handlers are tasks."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator

import slipring

worker = slipring.Worker(max_taken=200)
seen: list[str] = []
state: dict[str, str] = {}
counts = {"running": 0, "most": 0}


@worker.setup
async def load(role: slipring.Role) -> None:
    await asyncio.sleep(0.001)
    state["role"] = role.role
    if role.mode == "broken":
        raise FileNotFoundError("no model")


@worker.handler("echo")
async def echo(request: slipring.Request) -> bytes:
    await asyncio.sleep(0)
    return request.bytes()


@worker.handler("sleep")
async def sleep(request: slipring.Request) -> str:
    """Return how many of these ran at the same time."""
    counts["running"] += 1
    counts["most"] = max(counts.values())
    try:
        await asyncio.sleep(float(request.text()))
    except asyncio.CancelledError:
        seen.append(f"cancelled {request.cancelled}")
        raise
    finally:
        counts["running"] -= 1
    return str(counts["most"])


@worker.handler("count")
async def count(request: slipring.Request) -> AsyncIterator[str]:
    try:
        for number in range(int(request.text())):
            await asyncio.sleep(0)
            yield str(number)
    finally:
        seen.append("ended")


@worker.handler("late")
async def late(request: slipring.Request) -> AsyncIterator[str]:
    await asyncio.sleep(float(request.text()))
    yield "late"


@worker.handler("large")
async def large(request: slipring.Request) -> AsyncIterator[bytes]:
    for number in range(int(request.text())):
        yield bytes([number]) * 500_000


@worker.handler("fail")
async def fail(request: slipring.Request) -> str:
    await asyncio.sleep(0)
    return str(int(request.text()))


@worker.handler("odd")
async def odd(request: slipring.Request) -> slipring.Request:
    return request


@worker.handler("cancel itself")
async def cancel_itself(request: slipring.Request) -> None:
    raise asyncio.CancelledError


@worker.handler("stubborn")
async def stubborn(request: slipring.Request) -> str:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "late"


@worker.handler("seen")
async def told(request: slipring.Request) -> list[str]:
    return seen


@worker.handler("sync")
def sync(request: slipring.Request) -> str:
    return f"{threading.current_thread() is threading.main_thread()} {state['role']}"


@worker.handler("sync stop")
def sync_stop(request: slipring.Request) -> str:
    return next(iter(()))


@worker.handler("sync count")
def sync_count(request: slipring.Request) -> Iterator[str]:
    for number in range(int(request.text())):
        yield str(number)


@worker.handler("exit")
async def leave(request: slipring.Request) -> None:
    sys.exit(int(request.text()))


@worker.handler("crash")
async def crash(request: slipring.Request) -> None:
    os.kill(os.getpid(), 9)


if __name__ == "__main__":
    worker.run()
