"""What pools of Python do with the workload of `cargo run --release --bin pool`.

    pip install loky
    python3 pool_bench.py

`concurrent.futures.ProcessPoolExecutor`, and loky's executor if it is installed. A worker takes
200 ms to load. Every answer is checked. A pool that is broken by a crash is made anew, as its
documentation says; the time for that is part of the recovery.
"""

import concurrent.futures
import multiprocessing
import os
import platform
import signal
import statistics
import sys
import threading
import time

try:
    import loky
except ImportError:
    loky = None

ROUNDS = 25
LOAD = 0.2


def load():
    """What a worker does first."""
    time.sleep(LOAD)


def echo(payload):
    return payload


def work(milliseconds):
    """Work of so many milliseconds."""
    time.sleep(milliseconds / 1000)
    return milliseconds


def worker_pid():
    return os.getpid()


def spread(values):
    quartiles = statistics.quantiles(values, n=4)
    return "%.3g [%.3g, %.3g]" % (statistics.median(values), quartiles[0], quartiles[2])


class Stdlib:
    name = "ProcessPoolExecutor"

    def __init__(self, workers, does_load):
        context = multiprocessing.get_context("spawn")
        self.executor = concurrent.futures.ProcessPoolExecutor(
            workers, mp_context=context, initializer=load if does_load else None
        )

    def pids(self):
        return list(self.executor._processes)

    def close(self):
        self.executor.shutdown(wait=True)


class Loky(Stdlib):
    name = "loky"

    def __init__(self, workers, does_load):
        self.executor = loky.ProcessPoolExecutor(
            workers, initializer=load if does_load else None
        )


def broken():
    kinds = [concurrent.futures.process.BrokenProcessPool]
    if loky is not None:
        kinds.append(loky.process_executor.TerminatedWorkerError)
    return tuple(kinds)


def calls_per_second(make):
    pool = make(2, False)
    payload = b"hello"
    assert pool.executor.submit(echo, payload).result() == payload
    for threads in (1, 2, 8):
        rates = []
        for _ in range(ROUNDS):
            is_over, counts = threading.Event(), []

            def call():
                count = 0
                while not is_over.is_set():
                    assert pool.executor.submit(echo, payload).result() == payload
                    count += 1
                counts.append(count)

            callers = [threading.Thread(target=call) for _ in range(threads)]
            start = time.perf_counter()
            for caller in callers:
                caller.start()
            time.sleep(0.1)
            is_over.set()
            for caller in callers:
                caller.join()
            rates.append(sum(counts) / (time.perf_counter() - start) / 1000)
        print(f"{make.name}: {threads} callers, 2 workers: {spread(rates)} thousand calls a second")
    pool.close()


def recovery(make):
    times = []
    for _ in range(ROUNDS):
        pool = make(1, True)
        victim = pool.executor.submit(worker_pid).result()
        call = pool.executor.submit(work, 20)
        time.sleep(0.005)
        killed = time.perf_counter()
        os.kill(victim, signal.SIGKILL)
        try:
            call.result()
        except broken():
            pass
        again = make(1, True)
        assert again.executor.submit(work, 20).result() == 20
        times.append((time.perf_counter() - killed) * 1000 - 20)
        pool.close()
        again.close()
    print(f"{make.name}: a kill to the answer: {spread(times)} ms")


def innocents(make):
    """How many requests that wait or run beside the one that is killed fail with it."""
    pool = make(2, False)
    pool.executor.submit(worker_pid).result()
    calls = [pool.executor.submit(work, 5) for _ in range(100)]
    calls[0].result()
    os.kill(pool.pids()[0], signal.SIGKILL)
    failed = 0
    for call in calls:
        try:
            assert call.result() == 5
        except broken():
            failed += 1
    print(f"{make.name}: 100 requests, 1 kill: {failed} failed")
    pool.close()


def main():
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} processors")
    for make in [Stdlib] + ([Loky] if loky is not None else []):
        calls_per_second(make)
        recovery(make)
        innocents(make)
    if loky is None:
        print("loky is not installed", file=sys.stderr)


if __name__ == "__main__":
    main()
