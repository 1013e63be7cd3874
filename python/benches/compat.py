"""Compares the channel of `slipring.compat` with what it takes the place of, in a host of asyncio.

    pip install './python[numpy]'
    python python/benches/compat.py [--rounds N] [--pin]

A task calls a worker that answers with a payload, over each way in turn: blocks of 100 calls alternate,
and the last answer of a block is compared with what it must be. "Executor" is a pipe of `multiprocessing`
whose exchange runs in a thread of `run_in_executor`, as a host of asyncio has to use it. "Blocking" is the
same pipe used by the event loop's own thread, which does nothing else meanwhile. With `--pin` the host has
processor 0 and the workers have processor 1.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from answers import ARRAY, PIN_VARIABLE, payload, pin
from compare import heading
from slipring.compat import Spawner

ROWS = ("64 B", ARRAY)
CALLS = 100
Call = Callable[[str], Awaitable[Any]]


@dataclass
class Bench:
    """The configuration of the worker."""

    role: str = "bench"


def answer_compat(data: Any, health: Any, abort: Any, config: Bench) -> None:
    """Answer requests until the host ends this worker."""
    pin(1)
    while (message := data.recv())[0] != "shutdown":
        data.send(("result", payload(message[1])))


def answer_pipe(connection: Any) -> None:
    """Answer requests until there are no more."""
    pin(1)
    while row := connection.recv():
        connection.send(("result", payload(row)))


async def block(call: Call, row: str) -> list[float]:
    """Return the times of calls in microseconds."""
    times = []
    for _ in range(CALLS):
        start = time.perf_counter_ns()
        got = await call(row)
        times.append((time.perf_counter_ns() - start) / 1000)
    if not np.array_equal(got, payload(row)) if row == ARRAY else got != payload(row):
        raise SystemExit(f"{row}: the answer is not what was sent")
    return times


async def compare(rounds: int) -> None:
    """Measure all ways, and print a table."""
    channel, _ = Spawner().spawn(answer_compat, Bench())
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=answer_pipe, args=(there,))
    process.start()
    pin(0)
    loop = asyncio.get_running_loop()

    def exchange(row: str) -> Any:
        here.send(row)
        return here.recv()[1]

    async def blocking(row: str) -> Any:
        return exchange(row)

    async def executor(row: str) -> Any:
        return await loop.run_in_executor(None, exchange, row)

    async def compat(row: str) -> Any:
        return await channel.call("row", row, timeout=60)

    ways: dict[str, Call] = {"executor": executor, "blocking": blocking, "compat": compat}
    print(f"{'median in us (10 %, 90 %)':25}" + "".join(f"{name:>24}" for name in ways))
    for row in ROWS:
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, call in ways.items():
                times[name] += await block(call, row)
        cells = []
        for found in times.values():
            tenths = statistics.quantiles(found, n=10)
            cells.append(f"{statistics.median(found):.1f} ({tenths[0]:.1f}, {tenths[8]:.1f})")
        print(f"{row:25}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
    here.send("")
    process.join()
    await channel.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--pin", action="store_true")
    options = parser.parse_args()
    if options.pin:
        os.environ[PIN_VARIABLE] = "1"
    heading()
    asyncio.run(compare(options.rounds))


if __name__ == "__main__":
    main()
