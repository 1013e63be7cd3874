"""Calls leave nothing behind. `SLIPRING_TEST_LEAKS` is how many are made, 5,000 by default."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import slipring

TIMEOUT = 30.0
ROUNDS = int(os.environ.get("SLIPRING_TEST_LEAKS", "5000"))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def ask(channel: slipring.Channel, texts: list[str]) -> None:
    reply = channel.call("embed", texts, timeout=TIMEOUT)
    row = reply.view()[63]
    copied = reply.array()
    assert np.array_equal(row, copied[63])
    channel.call("echo", copied, timeout=TIMEOUT)


def test_arrays_and_views_go_without_a_garbage_collection(channel: slipring.Channel) -> None:
    texts = ["abc"] * 64
    for _ in range(500):
        ask(channel, texts)
    gc.collect()
    gc.disable()
    try:
        before, fds = resident(), len(os.listdir("/proc/self/fd"))
        for _ in range(ROUNDS):
            ask(channel, texts)
        # A view of 96 KiB that was left each time would be 480 MiB, and would stop the worker.
        assert resident() - before < 16 << 20
        assert len(os.listdir("/proc/self/fd")) == fds
    finally:
        gc.enable()
