"""The workloads that Python's multiprocessing.Pipe can do, between two processes.

    python3 multiprocessing_bench.py [--quick] [--json] [--spawn]

Payloads are bytes, lists of floats (pickled, as most programs send vectors), and numpy
arrays if numpy is there. Every message is checked: bytes and arrays against what was
sent, lists by their length and the sum of their values. Medians of several rounds.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time

try:
    import numpy
except ImportError:
    numpy = None

EMBED_REQUEST = 12_800
ROWS, DIM = 64, 384


def make(kind, size):
    """A message of about `size` bytes (of float32 for lists and arrays)."""
    if kind == "bytes":
        return bytes(i * 31 % 251 for i in range(min(size, 4096))) * max(1, size // 4096)
    if kind == "numpy":
        return numpy.arange(size // 4, dtype=numpy.float32).reshape(-1, min(DIM, size // 4))
    return [[float(i % 97) for i in range(DIM)] for _ in range(max(1, size // 4 // DIM))]


def checker(kind, expected):
    """A function that says whether a message is the expected one."""
    if kind == "numpy":
        return lambda message: numpy.array_equal(message, expected)
    if kind == "lists":
        rows, total = len(expected), sum(map(sum, expected))
        return lambda message: len(message) == rows and sum(map(sum, message)) == total
    return lambda message: message == expected


def worker(pipe):
    """Does what it is told until it is told to end."""
    while True:
        command, kind, size, count = pipe.recv()
        if command == "end":
            return
        expected = make(kind, size)
        is_right = checker(kind, expected)
        pipe.send("ready")
        right = 0
        for _ in range(count):
            message = pipe.recv_bytes() if kind == "bytes" else pipe.recv()
            if command == "sink":
                right += is_right(message)
            elif command == "embed":
                if len(message) == EMBED_REQUEST:
                    pipe.send(expected)
            elif kind == "bytes":
                pipe.send_bytes(message)
            else:
                pipe.send(message)
        if command == "sink":
            pipe.send(right)


def begin(pipe, command, kind, size, count):
    pipe.send((command, kind, size, count))
    assert pipe.recv() == "ready"


def round_trips(pipe, kind, size, count, idle):
    begin(pipe, "echo", kind, size, count)
    message, samples = make(kind, size), []
    is_right = checker(kind, message)
    for _ in range(count):
        if idle:
            time.sleep(idle)
        start = time.perf_counter_ns()
        if kind == "bytes":
            pipe.send_bytes(message)
            answer = pipe.recv_bytes()
        else:
            pipe.send(message)
            answer = pipe.recv()
        samples.append(time.perf_counter_ns() - start)
        assert is_right(answer), "an answer is not what was sent"
    return samples


def stream(pipe, kind, size, count):
    begin(pipe, "sink", kind, size, count)
    message = make(kind, size)
    start = time.perf_counter_ns()
    for _ in range(count):
        pipe.send_bytes(message) if kind == "bytes" else pipe.send(message)
    assert pipe.recv() == count, "a message is not what was sent"
    return [(time.perf_counter_ns() - start) / count]


def embed(pipe, kind, count):
    size = ROWS * DIM * 4
    begin(pipe, "embed", kind, size, count)
    request, samples = b"x" * EMBED_REQUEST, []
    is_right = checker(kind, make(kind, size))
    for _ in range(count):
        start = time.perf_counter_ns()
        pipe.send(request) if kind != "bytes" else pipe.send_bytes(request)
        answer = pipe.recv()
        samples.append(time.perf_counter_ns() - start)
        assert is_right(answer), "a matrix is not what was sent"
    return samples


def spawn(context):
    start = time.perf_counter_ns()
    ours, theirs = context.Pipe()
    process = context.Process(target=worker, args=(theirs,), daemon=True)
    process.start()
    begin(ours, "sink", "bytes", 8, 0)
    took = time.perf_counter_ns() - start
    assert ours.recv() == 0
    ours.send(("end", "", 0, 0))
    process.join()
    return [took]


def row(workload, what, kind, size, samples, is_stream=False):
    samples = sorted(samples)
    p50 = statistics.median(samples)
    return {
        "workload": workload,
        "what": what,
        "transport": f"multiprocessing.Pipe, {kind}",
        "size": size,
        "p50_ns": round(p50, 1),
        "p99_ns": round(samples[min(len(samples) - 1, len(samples) * 99 // 100)], 1),
        "msgs_s": round(1e9 / p50),
        "gb_s": round(size / p50, 4) if is_stream else 0.0,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--spawn", action="store_true", help="start the worker by spawn, not fork")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn" if args.spawn else "fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=worker, args=(theirs,), daemon=True)
    process.start()
    rounds = 3 if args.quick else 20
    kinds = ["bytes", "lists"] + (["numpy"] if numpy else [])
    rows = [
        row("W1", "round trip, busy", "bytes", 64, round_trips(ours, "bytes", 64, 300 * rounds, 0)),
        row("W2", "after 1 ms idle, unpinned", "bytes", 64,
            round_trips(ours, "bytes", 64, 30 * rounds, 0.001)),
    ]
    for size in [64, 4096, 98_304, 262_144, 1 << 20, 4 << 20, 32 << 20]:
        for kind in kinds:
            if kind == "lists" and (size < 98_304 or args.quick and size > 1 << 20):
                continue
            if kind == "numpy" and size < 4096:
                continue
            count = max(2, min(5000, (4 << 20) // size))
            samples = [time_ for _ in range(rounds) for time_ in stream(ours, kind, size, count)]
            rows.append(row("W3", "stream", kind, size, samples, True))
    for kind in kinds[1:]:
        size = ROWS * DIM * 4
        rows.append(row("W4", "embedding call", kind, size, embed(ours, kind, 10 * rounds)))
    samples = [time_ for _ in range(rounds) for time_ in spawn(multiprocessing.get_context("spawn"))]
    rows.append(row("W6", "spawn to first answer", "spawn", 8, samples))
    ours.send(("end", "", 0, 0))
    process.join()
    machine = {
        "cpu": next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                     if line.startswith("model name")), platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": numpy.__version__ if numpy else None,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M"),
    }
    if args.json:
        json.dump({"machine": machine, "rows": rows}, sys.stdout, indent=2)
        print()
        return
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    for r in rows:
        print(f"{r['workload']} {r['what']:27} {r['transport']:29} {r['size']:>9} B "
              f"{r['p50_ns'] / 1e3:>11.1f} us {r['gb_s']:>8.3f} GB/s")


if __name__ == "__main__":
    main()
