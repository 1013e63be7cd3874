"""Compares ways from one process of Python to another.

    pip install './python[numpy]' loky pyzmq
    python python/benches/compare.py [--rounds N] [--pin]

A host asks and a process answers with a payload, over each way in turn: blocks of calls alternate,
so that all of them meet the same machine. Each answer is compared with what it must be at some
places, and the last one of a block whole, outside of the time that is measured. The first table has
medians of all calls; in the second one a thread beside that computes all the time. Ways that are not
installed are left out, with a line that says so. With `--pin` the host has processor 0 and the
processes that answer have processor 1.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import datetime
import importlib.util
import multiprocessing
import os
import pickle
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np

import slipring
from answers import (
    ARRAY,
    LISTS,
    MIB,
    PIN_VARIABLE,
    answer,
    answer_memory,
    answer_pipe,
    answer_zmq,
    payload,
    pin,
)

# The name of a row, and how many calls a block has without and with a busy thread.
ROWS = {
    "64 B": (200, 10),
    "64 x 384 f32, array": (200, 10),
    "64 x 384 f32, lists": (200, 10),
    "1 MiB": (30, 5),
    "64 MiB": (2, 1),
}
# Asks for the answer of a row.
Call = Callable[[str], Any]


@contextlib.contextmanager
def over_pipe(make: Callable[[], tuple[Any, Any]]) -> Iterator[Call]:
    here, there = make()
    process = multiprocessing.get_context("spawn").Process(target=answer_pipe, args=(there,))
    process.start()
    there.close()

    def call(row: str) -> Any:
        here.send(row)
        return here.recv() if "f32" in row else here.recv_bytes()

    yield call
    here.send("")
    process.join()


@contextlib.contextmanager
def over_channel(read: Callable[[slipring.Reply], Any]) -> Iterator[Call]:
    spawner = slipring.Spawner(sys.executable, [str(Path(__file__).with_name("answers.py"))], role="bench")
    with spawner.spawn() as channel:
        channel.wait_ready(timeout=60)

        def call(row: str) -> Any:
            reply = channel.call("row", row, timeout=60)
            return read(reply) if "f32" in row else bytes(reply)

        yield call


@contextlib.contextmanager
def over_executor(executor: concurrent.futures.Executor) -> Iterator[Call]:
    with executor:
        yield lambda row: executor.submit(answer, row).result()


@contextlib.contextmanager
def over_memory() -> Iterator[Call]:
    context = multiprocessing.get_context("spawn")
    memory = shared_memory.SharedMemory(create=True, size=65 * MIB)
    asked, answered = context.Semaphore(0), context.Semaphore(0)
    process = context.Process(target=answer_memory, args=(memory.name, asked, answered))
    process.start()
    view = memory.buf

    def ask(row: str) -> None:
        view[0] = len(row)
        view[1 : 1 + len(row)] = row.encode()
        asked.release()

    def call(row: str) -> Any:
        ask(row)
        answered.acquire()
        data = view[8 : 8 + int.from_bytes(view[:8], "little")]
        if row == LISTS:
            return pickle.loads(data)
        return np.frombuffer(data, np.float32).reshape(64, 384).copy() if row == ARRAY else bytes(data)

    yield call
    ask("")
    process.join()
    del view
    memory.close()
    memory.unlink()


@contextlib.contextmanager
def over_zmq() -> Iterator[Call]:
    import zmq

    directory = tempfile.TemporaryDirectory()
    address = f"ipc://{directory.name}/socket"
    process = multiprocessing.get_context("spawn").Process(target=answer_zmq, args=(address,))
    process.start()
    socket = zmq.Context().socket(zmq.REQ)
    socket.connect(address)

    def call(row: str) -> Any:
        socket.send_string(row)
        if row == LISTS:
            return pickle.loads(socket.recv())
        data = socket.recv()
        return np.frombuffer(data, np.float32).reshape(64, 384).copy() if row == ARRAY else data

    yield call
    socket.send_string("")
    socket.recv()
    process.join()
    directory.cleanup()


def standard_executor() -> concurrent.futures.Executor:
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(1, context, initializer=pin, initargs=(1,))


def own_executor() -> concurrent.futures.Executor:
    return slipring.ProcessPoolExecutor(1, initializer=pin, initargs=(1,))


def loky_executor() -> concurrent.futures.Executor:
    loky = importlib.import_module("loky")
    executor: concurrent.futures.Executor = loky.ProcessPoolExecutor(1, initializer=pin, initargs=(1,))
    return executor


FIRST = "multiprocessing.Pipe"
WAYS: dict[str, Callable[[], contextlib.AbstractContextManager[Call]]] = {
    FIRST: lambda: over_pipe(multiprocessing.Pipe),
    "slipring.Pipe": lambda: over_pipe(slipring.Pipe),
    "Channel": lambda: over_channel(lambda reply: reply.array()),
    "Channel, view": lambda: over_channel(lambda reply: reply.view()),
    "Executor": lambda: over_executor(own_executor()),
    "futures": lambda: over_executor(standard_executor()),
    "loky": lambda: over_executor(loky_executor()),
    "shared memory": over_memory,
    "pyzmq": over_zmq,
}
NEEDS = {"loky": "loky", "pyzmq": "zmq"}


def same(row: str, got: Any, expected: Any) -> bool:
    """Return whether an answer is what it must be."""
    return np.array_equal(got, expected) if "f32" in row else bool(got == expected)


def block(call: Call, row: str, count: int) -> list[float]:
    """Return the times of calls in microseconds."""
    expected = payload(row)
    places = (0, len(expected) // 3, len(expected) - 1)
    wanted = [expected[place][5] if "f32" in row else expected[place] for place in places]
    times = []
    got = None
    for _ in range(count):
        # What was got before is freed outside of the time that is measured, as are its copies.
        got = None
        start = time.perf_counter_ns()
        got = call(row)
        times.append((time.perf_counter_ns() - start) / 1000)
        if [got[place][5] if "f32" in row else got[place] for place in places] != wanted:
            raise SystemExit(f"{row}: the answer is not what was sent")
    if not same(row, got, expected):
        raise SystemExit(f"{row}: the last answer is not what was sent")
    return times


def processor() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def heading() -> None:
    """Print where, when and how this was measured."""
    print(f"{processor()}, {os.cpu_count()} processors, {platform.system()} {platform.release()}")
    print(f"CPython {platform.python_version()}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC")
    print("command: python", " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]))
    print(f"load before: {os.getloadavg()[0]:.1f}")


def table(calls: dict[str, Call], rounds: int, busy: bool) -> None:
    """Measure, and print the medians and how many times as long the first way takes."""
    print(f"\n{'with a busy thread' if busy else 'alone'}: median of a call in us (and how many times as")
    print(f"fast as {FIRST})")
    print(f"{'':20}" + "".join(f"{name.removeprefix('multiprocessing.')[:15]:>17}" for name in calls))
    for row, counts in ROWS.items():
        times: dict[str, list[float]] = {name: [] for name in calls}
        for call in calls.values():
            block(call, row, 2)
        for _ in range(rounds):
            for name, call in calls.items():
                times[name] += block(call, row, counts[busy])
        medians = {name: statistics.median(found) for name, found in times.items()}
        cells = (f"{median:9.1f} ({medians[FIRST] / median:5.1f})" for median in medians.values())
        print(f"{row:20}" + "".join(f"{cell:>17}" for cell in cells), flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--pin", action="store_true")
    options = parser.parse_args()
    if options.pin:
        os.environ[PIN_VARIABLE] = "1"
    heading()
    with contextlib.ExitStack() as stack:
        calls = {}
        for name, way in WAYS.items():
            if (needed := NEEDS.get(name)) and not importlib.util.find_spec(needed):
                print(f"left out, as {needed} is not installed: {name}")
                continue
            calls[name] = stack.enter_context(way())
        pin(0)
        table(calls, options.rounds, busy=False)
        over = threading.Event()
        # It looks rarely, so that it does not wait itself.
        burner = threading.Thread(target=lambda: any(over.is_set() for _ in iter(lambda: sum(range(1000)), -1)))
        burner.start()
        try:
            table(calls, options.rounds, busy=True)
        finally:
            over.set()
            burner.join()


if __name__ == "__main__":
    main()
