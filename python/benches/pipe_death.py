"""Measures how long after a child's SIGKILL its parent gets `EOFError` from a pipe.

    python python/benches/pipe_death.py [--kills N] [--method fork|spawn] [--pin]

The parent waits in `recv` when another thread of it kills the child. The time is from just before
`os.kill` until `recv` has raised: the kernel ends the process, closes its descriptors, and wakes the
parent. Kills with `slipring.Pipe` and with `multiprocessing.Pipe` alternate,
so that both meet the same machine. With `--pin` the parent has processor 0 and the child processor 1.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import platform
import signal
import statistics
import sys
import threading
import time
from typing import Any

import slipring
from compare import processor


def hold(connection: Any, pin: bool) -> None:
    """Hold the other end until the end, in the child."""
    if pin:
        os.sched_setaffinity(0, {1})
    connection.send("ready")
    time.sleep(1000)


def kill_one(make: Any, method: str, pin: bool) -> float:
    """Start a child and kill it. Return the milliseconds until the end of its pipe is told."""
    here, there = make()
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=hold, args=(there, pin))
    child.start()
    there.close()
    if here.recv() != "ready":
        raise SystemExit("the child has sent something else")
    killed = 0

    def kill() -> None:
        nonlocal killed
        time.sleep(0.02)
        killed = time.perf_counter_ns()
        os.kill(child.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        here.recv()
    except EOFError:
        late = (time.perf_counter_ns() - killed) / 1e6
    else:
        raise SystemExit("a message has come of a child that sends none")
    killer.join()
    child.join()
    here.close()
    return late


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--method", choices=("fork", "spawn"), default="spawn")
    parser.add_argument("--pin", action="store_true")
    options = parser.parse_args()
    if options.pin:
        os.sched_setaffinity(0, {0})
    print(f"{processor()}, {os.cpu_count()} processors, {platform.system()} {platform.release()}")
    print(f"CPython {platform.python_version()}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC")
    print("command: python", " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]))
    print(f"load before: {os.getloadavg()[0]:.1f}")
    pipes: dict[str, Any] = {"multiprocessing": multiprocessing.Pipe, "slipring": slipring.Pipe}
    late: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(options.kills):
        for name, make in pipes.items():
            late[name].append(kill_one(make, options.method, options.pin))
    print(f"{options.kills} kills of each, milliseconds until EOFError")
    print(f"{'':16}{'median':>8}{'p90':>8}{'p99':>8}{'longest':>9}")
    for name, times in late.items():
        cuts = statistics.quantiles(times, n=100, method="inclusive")
        print(f"{name:16}{cuts[49]:8.2f}{cuts[89]:8.2f}{cuts[98]:8.2f}{max(times):9.2f}")
    print(f"load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
