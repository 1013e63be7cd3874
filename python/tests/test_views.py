"""Views of replies in the ring, and replies that are kept."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import slipring

TIMEOUT = 30.0

Spawn = Callable[..., slipring.Channel]


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_view_is_read_only_and_lies_in_the_ring(channel: slipring.Channel) -> None:
    reply = channel.call("embed", ["abc"] * 64, timeout=TIMEOUT)
    view = reply.view()
    assert not view.flags.writeable and not view.flags.owndata
    with pytest.raises(ValueError):
        view[0, 0] = 1.0
    assert np.array_equal(view, reply.array())
    address = view.ctypes.data
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    ranges = {line[0]: line[-1] for line in maps}
    named = [
        name
        for span, name in ranges.items()
        if int(span.split("-")[0], 16) <= address < int(span.split("-")[1], 16)
    ]
    assert "memfd" in named[0] or "(deleted)" in named[0]


def test_a_reply_is_taken_by_dlpack_as_a_copy_or_as_a_view(channel: slipring.Channel) -> None:
    reply = channel.call("embed", ["abc"] * 64, timeout=TIMEOUT)
    expected, address = reply.array(), reply.view().ctypes.data
    copied = np.from_dlpack(reply)
    assert np.array_equal(copied, expected) and copied.ctypes.data != address
    viewed = np.from_dlpack(reply, copy=False)
    assert viewed.ctypes.data == address and not viewed.flags.writeable
    del reply
    gc.collect()
    assert np.array_equal(viewed, expected)


def test_a_view_by_dlpack_needs_a_consumer_that_knows_it(channel: slipring.Channel) -> None:
    reply = channel.call("embed", ["abc"], timeout=TIMEOUT)
    for version in (None, (0, 8)):
        with pytest.raises(BufferError, match="read-only"):
            reply.__dlpack__(copy=False, max_version=version)
    with pytest.raises(BufferError, match="the processor"):
        reply.__dlpack__(dl_device=(2, 0))


def test_a_slice_of_a_view_outlives_all_else(spawn: Spawn) -> None:
    channel = spawn()
    row = channel.call("embed", ["abc"] * 64, timeout=TIMEOUT).view()[63]
    for _ in range(20):
        channel.call("embed", ["xyz"] * 64, timeout=TIMEOUT)
    channel.close()
    del channel
    gc.collect()
    assert row[:4].tolist() == [97.0, 98.0, 99.0, 0.0]


def test_replies_that_are_kept_do_not_stop_a_channel(channel: slipring.Channel) -> None:
    first = channel.call("embed", ["first"] * 64, timeout=TIMEOUT)
    kept = [channel.call("embed", ["abc"] * 64, timeout=TIMEOUT) for _ in range(200)]
    # Short replies take slots, too.
    for _ in range(40_000):
        channel.call("echo", b"", timeout=TIMEOUT)
    assert first.array()[0, 0] == ord("f")
    assert all(reply.view()[63, 2] == ord("c") for reply in kept)


def test_views_beyond_a_share_of_the_ring_leave_it(channel: slipring.Channel) -> None:
    # 4 MiB of ring, half of it for views.
    pending = [channel.submit("embed", ["abc"] * 64, timeout=TIMEOUT) for _ in range(60)]
    views = [request.wait().view() for request in pending]
    assert all(view[63, 0] == 97.0 for view in views)
    del views
    assert channel.call("embed", ["abc"], timeout=TIMEOUT).view()[0, 0] == 97.0


def test_leases_end_without_a_garbage_collection(channel: slipring.Channel) -> None:
    gc.disable()
    try:
        for _ in range(500):
            assert channel.call("embed", ["abc"] * 64, timeout=TIMEOUT).view()[0, 0] == 97.0
    finally:
        gc.enable()


def test_a_request_that_a_handler_keeps_leaves_the_ring(channel: slipring.Channel) -> None:
    for number in range(1, 21):
        total = channel.call("keep", bytes(500_000), timeout=TIMEOUT).text()
        assert total == str(500_000 * number)


def test_ten_thousand_calls_with_arrays_use_no_more_memory(channel: slipring.Channel) -> None:
    # The pages of the rings are there from now on.
    channel.wait_ready(timeout=TIMEOUT)
    texts = [f"text {number}" for number in range(64)]
    expected = channel.call("embed", texts, timeout=TIMEOUT).array()

    def calls(count: int) -> None:
        for number in range(count):
            reply = channel.call("embed", texts, timeout=TIMEOUT)
            got = reply.view() if number % 2 else reply.array()
            assert got[5, 5] == expected[5, 5]

    calls(1000)
    host, worker = resident(), resident_of(channel.pid)
    objects = sys.getallocatedblocks()
    calls(9000)
    assert resident() - host < 3 << 20
    assert resident_of(channel.pid) - worker < 3 << 20
    assert sys.getallocatedblocks() - objects < 500
    assert channel.in_flight == 0


def resident_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_short_reply_that_is_kept_does_not_stop_one_that_is_longer_than_the_ring(
    channel: slipring.Channel,
) -> None:
    view = channel.call("embed", ["abc"], timeout=TIMEOUT).view()
    kept = [channel.call("echo", b"k" * 200, timeout=TIMEOUT)]
    for _ in range(2):
        long = channel.call("echo", bytes(9_000_000), timeout=TIMEOUT)
        kept.append(channel.call("echo", b"k" * 300_000, timeout=TIMEOUT))
        assert len(long) == 9_000_000
    assert all(set(bytes(reply)) == {ord("k")} for reply in kept)
    assert view[0, 0] == ord("a")
