"""Connections of `slipring.Pipe` within one process."""

from __future__ import annotations

import array
import ctypes
import gc
import io
import multiprocessing
import multiprocessing.connection
import os
import pickle
import threading
import time
from collections import deque
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slipring
from conftest import descriptors
from hypothesis import given, settings
from hypothesis import strategies as st

Conn = slipring.Connection


def test_a_pipe_has_what_multiprocessings_connections_have() -> None:
    for name in dir(multiprocessing.connection.Connection):
        assert name.startswith("_") or hasattr(slipring.Connection, name), name
    first, second = slipring.Pipe(False)
    assert (first.readable, first.writable) == (True, False)
    assert (second.readable, second.writable) == (False, True)
    with pytest.raises(OSError, match="read-only"):
        first.send(1)
    for look in (second.recv, second.recv_bytes, second.poll):
        with pytest.raises(OSError, match="write-only"):
            look()
    both = slipring.Pipe()
    assert all(end.readable and end.writable and not end.closed for end in both)


def test_bytes_and_their_parts_arrive() -> None:
    a, b = slipring.Pipe()
    for data, arguments, expected in (
        (b"hello", (), b"hello"),
        (b"hello", (1,), b"ello"),
        (b"hello", (1, 3), b"ell"),
        (b"hello", (5,), b""),
        (b"", (), b""),
        (bytearray(b"mutable"), (), b"mutable"),
        (memoryview(b"viewed"), (2, 2), b"ew"),
        (array.array("i", [1, 2]), (), array.array("i", [1, 2]).tobytes()),
        ((ctypes.c_int * 2)(1, 2), (1, 6), array.array("i", [1, 2]).tobytes()[1:7]),
        (np.arange(3.0), (8, 8), np.array([1.0]).tobytes()),
    ):
        a.send_bytes(data, *arguments)
        assert b.recv_bytes() == expected


def test_what_cannot_be_sent_is_refused_as_by_multiprocessing() -> None:
    for pipe in (multiprocessing.Pipe, slipring.Pipe):
        a: Any = pipe()[0]
        for arguments in ((b"abc", -1), (b"abc", 4), (b"abc", 1, -1), (b"abc", 1, 3)):
            with pytest.raises(ValueError):
                a.send_bytes(*arguments)
        for wrong in ("text", 5, None):
            with pytest.raises(TypeError):
                a.send_bytes(wrong)
        with pytest.raises(ValueError):
            a.recv_bytes(-1)


def test_bytes_are_received_into_a_buffer() -> None:
    a, b = slipring.Pipe()
    target = bytearray(10)
    a.send_bytes(b"hello")
    assert b.recv_bytes_into(target, 3) == 5
    assert target == b"\0\0\0hello\0\0"
    numbers = array.array("i", [0] * 4)
    a.send_bytes(array.array("i", [7, 8]))
    assert b.recv_bytes_into(numbers, 4) == 8
    assert list(numbers) == [0, 7, 8, 0]
    raw = (ctypes.c_ubyte * 4)()
    a.send_bytes(b"abc")
    assert b.recv_bytes_into(raw, 1) == 3 and bytes(raw) == b"\0abc"
    a.send_bytes(b"longer than ten")
    with pytest.raises(multiprocessing.BufferTooShort) as short:
        b.recv_bytes_into(target)
    assert short.value.args == (b"longer than ten",)
    for wrong in (-1, 11):
        with pytest.raises(ValueError):
            b.recv_bytes_into(target, wrong)
    with pytest.raises((TypeError, BufferError)):
        b.recv_bytes_into(b"read-only")


def test_a_message_that_is_too_long_ends_the_reading() -> None:
    a, b = slipring.Pipe()
    a.send_bytes(b"12345")
    assert b.recv_bytes(5) == b"12345"
    a.send_bytes(b"123456")
    with pytest.raises(OSError, match="bad message length"):
        b.recv_bytes(5)
    assert not b.readable and b.writable
    reader, writer = slipring.Pipe(False)
    writer.send_bytes(b"12")
    with pytest.raises(OSError):
        reader.recv_bytes(1)
    assert reader.closed


def test_closed_connections_say_so() -> None:
    with slipring.Pipe()[0] as a:
        assert not a.closed
    assert a.closed
    a.close()
    for use in (a.recv, a.recv_bytes, a.poll, a.fileno, lambda: a.send(1), lambda: a.send_bytes(b"")):
        with pytest.raises(OSError, match="handle is closed"):
            use()


def test_the_end_of_a_pipe_is_told() -> None:
    a, b = slipring.Pipe()
    a.send("last words")
    a.close()
    assert b.poll() and b.recv() == "last words"
    assert b.poll() and b.poll(None)
    for receive in (b.recv, b.recv_bytes, lambda: b.recv_bytes_into(bytearray(9))):
        with pytest.raises(EOFError):
            receive()
    for message in (b"x", b"x" * 1_000_000):
        with pytest.raises(BrokenPipeError) as broken:
            b.send_bytes(message)
    assert broken.value.errno == 32
    a, b = slipring.Pipe()
    a.send(1)
    del b
    with pytest.raises(BrokenPipeError):
        a.send(2)


def test_two_long_messages_cross_while_threads_read() -> None:
    a, b = slipring.Pipe()
    data = os.urandom(5_000_000)
    got: dict[str, bytes] = {}

    def run(name: str, end: Conn) -> None:
        sender = threading.Thread(target=end.send_bytes, args=(data,))
        sender.start()
        got[name] = end.recv_bytes()
        sender.join()

    threads = [threading.Thread(target=run, args=pair) for pair in (("a", a), ("b", b))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {"a": data, "b": data}


def test_threads_that_share_an_end_mix_nothing_up() -> None:
    a, b = slipring.Pipe()

    def run(n: int) -> None:
        for i in range(300):
            a.send((n, i, "x" * (i * 91 % 5000)))

    senders = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for sender in senders:
        sender.start()
    seen: dict[int, list[int]] = {n: [] for n in range(4)}
    for _ in range(1200):
        n, i, text = b.recv()
        assert text == "x" * (i * 91 % 5000)
        seen[n].append(i)
    assert all(numbers == list(range(300)) for numbers in seen.values())
    for sender in senders:
        sender.join()


def test_wait_returns_exactly_what_has_something() -> None:
    pipes = [slipring.Pipe() for _ in range(3)]
    readers = [reader for reader, _ in pipes]
    wait: Any = multiprocessing.connection.wait
    assert wait(readers, 0) == []
    pipes[1][1].send("one")
    pipes[1][1].send("two")
    assert wait(readers, 5) == [readers[1]]
    assert readers[1].recv() == "one"
    assert wait(readers, 0) == [readers[1]]
    assert readers[1].recv() == "two"
    assert wait(readers, 0) == []
    assert wait(readers, 0.01) == []
    pipes[2][1].close()
    assert wait(readers) == [readers[2]]


def test_poll_waits_for_as_long_as_it_is_told() -> None:
    a, b = slipring.Pipe()
    start = time.monotonic()
    assert not b.poll()
    assert not b.poll(-1)
    assert not b.poll(0.05)
    assert time.monotonic() - start >= 0.05
    threading.Timer(0.05, a.send, ("late",)).start()
    assert b.poll(None)
    assert b.poll(10) and b.recv() == "late"


def test_arrays_are_not_copied_into_the_pickle() -> None:
    a, b = slipring.Pipe()
    vectors = np.arange(64 * 384, dtype=np.float32).reshape(64, 384)
    frozen = vectors.copy()
    frozen.flags.writeable = False
    small = np.arange(4)
    swapped = vectors.T[::2]
    a.send({"v": vectors, "f": frozen, "s": small, "t": swapped, "same": vectors})
    got = b.recv()
    for name, array_ in (("v", vectors), ("f", frozen), ("s", small), ("t", swapped)):
        assert np.array_equal(got[name], array_) and got[name].dtype == array_.dtype
    assert got["same"] is got["v"]
    assert got["v"].flags.writeable and not got["f"].flags.writeable
    got["v"][0, 0] = 5
    a.send(vectors)
    data = b.recv_bytes()
    assert len(data) > vectors.nbytes and np.array_equal(pickle.loads(data), vectors)
    a.send((vectors, frozen))
    mutable, read_only = pickle.loads(b.recv_bytes())
    assert mutable.flags.writeable and not read_only.flags.writeable
    a.send([vectors] * 2 + [frozen])
    # Unlike the other one, the unpickler that is written in Python checks the frames.
    again = pickle._Unpickler(io.BytesIO(b.recv_bytes())).load()
    assert all(np.array_equal(array_, vectors) for array_ in again)
    b.send_bytes(pickle.dumps("by hand"))
    assert a.recv() == "by hand"


class Blob:
    """Has a buffer that may go beside its pickle."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, _: Any) -> Any:
        return Blob, (pickle.PickleBuffer(self.data),)


@pytest.mark.parametrize("size", (0, 10, 1024, 100_000, 1_000_000))
def test_the_buffers_of_an_object_come_as_a_pickle_brings_them(size: int) -> None:
    a, b = slipring.Pipe()
    data = os.urandom(size)
    for buffer in (data, bytearray(data), memoryview(data), memoryview(bytearray(data)).toreadonly()):
        thing = Blob(buffer)
        expected = pickle.loads(pickle.dumps(thing, 5)).data
        # A long one waits for room.
        sender = threading.Thread(target=lambda: deque(map(a.send, (thing, thing))))
        sender.start()
        for got in (b.recv(), pickle.loads(b.recv_bytes())):
            assert (type(got.data), got.data) == (type(expected), expected)
        sender.join()


class Registered:
    """Has a reducer of its own."""

    def __reduce__(self) -> Any:
        raise TypeError("only the registry knows how")


def make_registered() -> Registered:
    """Return what the reducer says."""
    return Registered()


def test_the_registry_of_the_forking_pickler_is_honoured() -> None:
    a, b = slipring.Pipe()
    with pytest.raises(TypeError):
        a.send([Registered()])
    ForkingPickler.register(Registered, lambda _: (make_registered, ()))
    try:
        a.send([Registered()])
    finally:
        ForkingPickler._extra_reducers.pop(Registered)  # type: ignore[attr-defined]
    assert isinstance(b.recv()[0], Registered)
    assert not b.poll()


def test_nothing_is_left_of_closed_pipes() -> None:
    gc.collect()
    before = descriptors()
    for use in range(200):
        a, b = slipring.Pipe(use % 2 == 0)
        b.send(use)
        assert a.recv() == use
        if use % 3 == 0:
            a.close()
            b.close()
    del a, b
    assert descriptors() == before


def resident() -> int:
    """Return the bytes of memory that the process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_messages_leave_no_memory_behind() -> None:
    a, b = slipring.Pipe()
    vectors = np.zeros((64, 384), np.float32)

    def run(count: int) -> int:
        for number in range(count):
            a.send(("v", vectors, number))
            b.recv()
            a.send_bytes(b"x" * (number % 5000))
            b.recv_bytes()
        return resident()

    before = run(3000)
    assert run(10_000) - before < 4 << 20


def test_what_another_process_writes_into_the_memory_is_an_error_at_worst() -> None:
    for length in (4, 8, 40, 200_000):
        reader, writer = slipring.Pipe(False)
        writer.send_bytes(b"\xff" * length)
        # The message says now that it is a pickle with buffers.
        os.pwrite(reader._parts()[0][0], b"\x01", 4096 + 4)
        with pytest.raises(OSError, match="garbled"):
            reader.recv()
        writer.send("next")
        assert reader.recv() == "next"
    reader, writer = slipring.Pipe(False)
    writer.send("x")
    os.pwrite(reader._parts()[0][0], b"\xff" * 8, 512)
    for receive in (reader.recv, reader.recv_bytes):
        with pytest.raises(slipring.Protocol) as corrupt:
            receive()
        assert corrupt.value.kind == "peer_corrupt"
    with pytest.raises(slipring.Protocol):
        writer.send_bytes(b"x" * 300_000)


def test_wrong_sizes_of_rings_are_refused() -> None:
    for ring in (0, 1000, 5000):
        with pytest.raises(slipring.InvalidInput):
            slipring.Pipe(ring=ring)
    a, b = slipring.Pipe(ring=4096)
    sender = threading.Thread(target=a.send_bytes, args=(b"x" * 100_000,))
    sender.start()
    assert b.recv_bytes() == b"x" * 100_000
    sender.join()


_NUMBERS = st.booleans() | st.integers() | st.floats(allow_nan=False)
_LEAVES = st.none() | _NUMBERS | st.text() | st.binary()
_OBJECTS = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@settings(deadline=None, max_examples=200)
@given(st.lists(_OBJECTS, max_size=5))
def test_any_object_arrives_as_it_was(things: list[Any]) -> None:
    a, b = slipring.Pipe()
    for thing in things:
        a.send(thing)
    for thing in things:
        assert b.recv() == thing
    assert not b.poll()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 20_000), max_size=12), st.sampled_from((4096, 8192)))
def test_messages_of_any_lengths_arrive_in_order(lengths: list[int], ring: int) -> None:
    a, b = slipring.Pipe(ring=ring)
    messages = [bytes([n & 255]) * length for n, length in enumerate(lengths)]

    def run() -> None:
        for message in messages:
            a.send_bytes(message)

    sender = threading.Thread(target=run)
    sender.start()
    for message in messages:
        assert b.recv_bytes() == message
    sender.join()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 5000), st.booleans()), max_size=8))
def test_buffers_of_any_lengths_arrive(sizes: list[tuple[int, bool]]) -> None:
    a, b = slipring.Pipe()
    arrays = [np.arange(size, dtype=np.uint8) for size, _ in sizes]
    for array_, (_, writeable) in zip(arrays, sizes, strict=True):
        array_.flags.writeable = writeable
    for receive in (b.recv, lambda: pickle.loads(b.recv_bytes())):
        a.send(arrays)
        for got, array_ in zip(receive(), arrays, strict=True):
            assert np.array_equal(got, array_) and got.flags.writeable == array_.flags.writeable
