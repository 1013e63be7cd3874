"""Views and replies that are kept: they stop no worker, and their bytes stay."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import slipring
from conftest import WORKER

if TYPE_CHECKING:
    from slipring._slipring import _Config

TIMEOUT = 60.0

Spawn = Callable[..., slipring.Channel]
Bytes = npt.NDArray[np.uint8]

# Frames of up to a quarter of the ring.
SMALL: _Config = {"reply_ring": 256 << 10, "max_reply_frame": 64 << 10}


def matrix(seed: int, length: int) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (1, length), dtype=np.uint8)


def echo(channel: slipring.Channel, array: Bytes) -> slipring.Reply:
    return channel.call("echo", array, timeout=TIMEOUT)


def permissions(address: int) -> str:
    """Return what may be done with the memory at an address."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, allowed = line.split()[:2]
        start, end = (int(bound, 16) for bound in span.split("-"))
        if start <= address < end:
            return allowed
    return ""


def areas() -> int:
    """Return how many areas of memory this process has in rings."""
    maps = Path("/proc/self/maps").read_text()
    return maps.count("memfd:slipring") - maps.count("memfd:slipring-status")


def test_a_kept_view_never_stops_the_worker(spawn: Spawn) -> None:
    channel = spawn(config=SMALL)
    expected = matrix(1, 60_000)
    view = echo(channel, expected).view()
    address = view.ctypes.data
    assert permissions(address) == "r--p"
    for number in range(3000):
        assert bytes(channel.call("echo", bytes([number % 256]) * 5000, timeout=TIMEOUT))[0] == (
            number % 256
        )
    assert view.ctypes.data == address and np.array_equal(view, expected)
    assert permissions(address) == "r--p"


def test_several_views_and_slices_are_kept_while_others_pass(spawn: Spawn) -> None:
    channel = spawn(config=SMALL)
    arrays = [matrix(seed, 9000) for seed in range(40)]
    views = [echo(channel, array).view() for array in arrays]
    rows = [view[0, 17:8000:3] for view in views[::2]]
    del views[::2]
    for seed in range(1000):
        array = matrix(seed, 8000)
        assert np.array_equal(echo(channel, array).view(), array)
    for array, row in zip(arrays[::2], rows, strict=True):
        assert np.array_equal(array[0, 17:8000:3], row)
    for array, view in zip(arrays[1::2], views, strict=True):
        assert np.array_equal(array, view)


def test_a_kept_view_does_not_stop_a_wait_that_reads_for_others(spawn: Spawn) -> None:
    channel = spawn(config=SMALL)
    expected = matrix(2, 30_000)
    view, reply = echo(channel, expected).view(), echo(channel, expected)
    arrays = [matrix(seed, 30_000) for seed in range(60)]
    pending = [channel.submit("echo", array, timeout=TIMEOUT) for array in arrays]
    # This one reads the replies to all of the others, of which no object is made meanwhile.
    assert np.array_equal(pending[-1].wait().view(), arrays[-1])
    assert np.array_equal(view, expected) and np.array_equal(reply.array(), expected)
    for array, each in zip(arrays[:-1], pending[:-1], strict=True):
        assert np.array_equal(each.wait().view(), array)


def test_views_of_the_longest_frames_do_not_stop_the_worker(spawn: Spawn) -> None:
    # Half of the ring each: no two of them fit beside each other.
    channel = spawn(config={"reply_ring": 128 << 10, "max_reply_frame": (64 << 10) - 32})
    arrays = [matrix(seed, 60_000) for seed in range(50)]
    views = [echo(channel, array).view() for array in arrays]
    assert all(np.array_equal(*pair) for pair in zip(arrays, views, strict=True))


@pytest.mark.parametrize("end", ["close", "kill"])
def test_kept_views_outlive_their_channel(spawn: Spawn, end: str) -> None:
    channel = spawn(config=SMALL)
    arrays = [matrix(seed, 50_000) for seed in range(8)]
    # Some have left the ring by now, and some have not.
    views = [echo(channel, array).view() for array in arrays]
    if end == "kill":
        os.kill(channel.pid, signal.SIGKILL)
        with pytest.raises(slipring.PeerDied):
            channel.call("echo", b"", timeout=TIMEOUT)
    channel.close()
    del channel
    gc.collect()
    assert all(np.array_equal(*pair) for pair in zip(arrays, views, strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_bytes_are_right_for_many_laps_with_views_kept_at_random(spawn: Spawn, seed: int) -> None:
    channel = spawn(config=SMALL)
    chance = random.Random(seed)
    most = [2, 8, 30][seed % 3]
    kept: list[tuple[Bytes, Bytes]] = []
    has_stayed = 0
    for number in range(1500):
        longest = 60_000 if chance.random() < 0.2 else 3000
        array = matrix(number, chance.randrange(100, longest))
        view = echo(channel, array).view()
        assert np.array_equal(view, array)
        if chance.random() < 0.7:
            first = chance.randrange(array.shape[1])
            kept.append((array[:, first:], view[:, first:]))
        del view
        while len(kept) > most or (kept and chance.random() < 0.3):
            expected, got = kept.pop(chance.randrange(len(kept)))
            assert np.array_equal(expected, got)
            has_stayed += 1
    assert has_stayed > 500
    assert all(np.array_equal(*pair) for pair in kept)


def test_views_are_read_by_threads_while_they_leave_the_ring(spawn: Spawn) -> None:
    channel = spawn(config=SMALL)
    is_over = threading.Event()
    wrong: list[int] = []
    view = expected = matrix(0, 1)

    def read() -> None:
        while not is_over.is_set():
            # numpy compares without the interpreter lock only for long arrays: repeat it.
            own, right = view, expected
            if own.shape == right.shape and not np.array_equal(own, right):
                wrong.append(own.shape[1])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for seed in range(60):
            array = matrix(seed, 50_000 + seed)
            view, expected = echo(channel, array).view(), array
            for _ in range(40):
                echo(channel, matrix(seed, 20_000))
    finally:
        is_over.set()
        reader.join()
    assert wrong == []


def test_thousands_of_kept_views_leave_no_areas_of_memory() -> None:
    gc.collect()
    before = areas()
    channel = slipring.Spawner(sys.executable, [WORKER], role="test", config=SMALL).spawn()
    echo(channel, matrix(0, 9000)).view()
    open_channel = areas()
    kept: list[Bytes] = []
    for seed in range(4000):
        kept.append(echo(channel, matrix(seed, 9000)).view())
        if len(kept) > seed % 40:
            kept.clear()
    kept.clear()
    assert areas() == open_channel
    channel.close()
    del channel
    gc.collect()
    assert areas() == before
