"""Compares `slipring.Pipe` with `multiprocessing.Pipe`.

    python python/benches/pipe.py [--rounds N] [--pin]

A child process answers each short request with a payload, over both pipes in turn: blocks of calls
of one and the other alternate, so that both meet the same machine. Of each answer some places are
compared with what they must be, and all of the last one of a block: a long look in between would let
the child fall asleep. That is outside of the time that is measured. Rows are medians of all calls; the second table has a
thread of Python beside that computes all the time. With `--pin` the parent has processor 0 and the
child processor 1: on a machine that is busy otherwise, the kernel may put both on one.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import platform
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import slipring

MIB = 1 << 20

# The name of a row, and how many calls a block has without and with a busy thread.
ROWS = {
    "64 B": (300, 20),
    "64 B, sent": (300, 20),
    "64 x 384 f32, array": (100, 20),
    "64 x 384 f32, lists": (10, 5),
    "1 MiB": (30, 10),
    "64 MiB": (2, 1),
}


def payload(row: str) -> Any:
    """Return what a row carries."""
    vectors = np.random.default_rng(1).random((64, 384), np.float32)
    match row:
        case "64 x 384 f32, array":
            return vectors
        case "64 x 384 f32, lists":
            return vectors.tolist()
        case "1 MiB":
            return bytes(range(256)) * (MIB // 256)
        case "64 MiB":
            return bytes(range(256)) * (64 * MIB // 256)
    return bytes(range(64))


def is_sent(row: str) -> bool:
    """Return whether the row's payload is an object, and not bytes."""
    return "f32" in row or "sent" in row


def answer(connection: Any, pin: bool) -> None:
    """Answer requests with payloads, in the child."""
    if pin:
        os.sched_setaffinity(0, {1})
    payloads = {row: payload(row) for row in ROWS}
    while (row := connection.recv()) is not None:
        data = payloads[row]
        for _ in range(connection.recv()):
            if is_sent(row):
                connection.recv()
                connection.send(data)
            else:
                connection.recv_bytes()
                connection.send_bytes(data)


def block(connection: Any, row: str, count: int, data: Any) -> list[float]:
    """Return the times of calls in microseconds."""
    places = (0, len(data) // 3, len(data) - 1)
    expected = [data[place][5] if "f32" in row else data[place] for place in places]
    times = []
    connection.send(row)
    connection.send(count)
    for _ in range(count):
        start = time.perf_counter_ns()
        if is_sent(row):
            connection.send(b"request")
            got = connection.recv()
        else:
            connection.send_bytes(b"request")
            got = connection.recv_bytes()
        times.append((time.perf_counter_ns() - start) / 1000)
        found = [got[place][5] if "f32" in row else got[place] for place in places]
        if found != expected or len(got) != len(data):
            raise SystemExit(f"{row}: the answer is not what was sent")
    if not np.array_equal(got, data) if "f32" in row else got != data:
        raise SystemExit(f"{row}: the last answer is not what was sent")
    return times


def processor() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--pin", action="store_true")
    options = parser.parse_args()
    rounds = options.rounds
    if options.pin:
        os.sched_setaffinity(0, {0})
    print(f"{processor()}, {os.cpu_count()} processors, {platform.system()} {platform.release()}")
    print(f"CPython {platform.python_version()}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC")
    print("command: python", " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]))
    print(f"load before: {os.getloadavg()[0]:.1f}")
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Any] = {}
    children = []
    for name, make in (("multiprocessing", multiprocessing.Pipe), ("slipring", slipring.Pipe)):
        ends[name], there = make()
        child = context.Process(target=answer, args=(there, options.pin))
        child.start()
        there.close()
        children.append(child)
    expected = {row: payload(row) for row in ROWS}
    for busy in (False, True):
        over = False

        def burn() -> None:
            number = 0
            while not over:
                number += 1

        burner = threading.Thread(target=burn)
        if busy:
            burner.start()
        print(f"\n{'with a busy thread' if busy else 'alone'}, median of a call in us")
        print(f"{'':22}{'multiprocessing':>16}{'slipring':>12}{'ratio':>8}")
        for row, counts in ROWS.items():
            data = expected[row]
            times: dict[str, list[float]] = {name: [] for name in ends}
            for name, end in ends.items():
                block(end, row, 2, data)
            for _ in range(rounds):
                for name, end in ends.items():
                    times[name] += block(end, row, counts[busy], data)
            one, other = (statistics.median(times[name]) for name in ends)
            print(f"{row:22}{one:16.1f}{other:12.1f}{one / other:8.1f}", flush=True)
        over = True
        if busy:
            burner.join()
    for end in ends.values():
        end.send(None)
    for child in children:
        child.join()


if __name__ == "__main__":
    main()
